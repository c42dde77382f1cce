import collections
import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.lab import UserError
from unseen.worlds.games import repeated
from unseen.worlds.games.repeated import BATTLE_OF_THE_SEXES, PRISONERS_DILEMMA, Framing


def random_framing(rng, **fixed):
    story, names, scale = rng.integers(4), rng.integers(4), rng.integers(5)
    swap, reverse, crossed, table = (bool(b) for b in rng.integers(2, size=4))
    style = "table" if table else "transcript"
    drawn = Framing(int(story), int(names), int(scale), swap, reverse, crossed, style, int(rng.integers(900)))
    return dataclasses.replace(drawn, **fixed)


def test_the_144_games_fall_into_six_families():
    games = repeated.ordinal_games()
    assert len({g.tobytes() for g in games}) == 144
    for game in games:
        assert sorted(game[..., 0].ravel()) == sorted(game[..., 1].ravel()) == [1, 2, 3, 4]
    counts = collections.Counter(map(repeated.family, games))
    # Robinson and Goforth's table; 15 = 7 dilemmas + 8 tragic games
    assert counts == {
        "win-win": 36,
        "prisoner's dilemma": 15,
        "unfair": 19,
        "cyclic": 18,
        "biased": 44,
        "second best": 12,
    }
    assert set(counts) == set(repeated.FAMILIES) and sum(counts.values()) == 144


def test_exactly_seven_games_have_only_equilibria_that_both_players_would_leave():
    def deficient(game):
        pays = [game[e] for e in repeated.equilibria(game)]
        return bool(pays) and all((game > pay).all(-1).any() for pay in pays)

    found = [g for g in repeated.ordinal_games() if deficient(g)]
    assert len(found) == 7 and all(repeated.family(g) == "prisoner's dilemma" for g in found)
    assert any((g == PRISONERS_DILEMMA).all() for g in found)


def test_exchanging_the_players_permutes_the_games_and_keeps_the_family():
    games = {g.tobytes(): repeated.family(g) for g in repeated.ordinal_games()}
    for game in repeated.ordinal_games():
        exchanged, _ = repeated.canonical(np.ascontiguousarray(game.transpose(1, 0, 2)[..., ::-1]))
        assert games[np.ascontiguousarray(exchanged).tobytes()] == repeated.family(game)


def test_dominant_action_is_better_in_both_columns():
    assert repeated.dominant_action(PRISONERS_DILEMMA) == 1
    assert repeated.dominant_action(BATTLE_OF_THE_SEXES) is None
    # of the 24 strict rankings of four outcomes 12 make one row better in both columns
    assert sum(repeated.dominant_action(g) is not None for g in repeated.ordinal_games()) == 72


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("Grudger", repeated.grim),
        ("TitForTat", repeated.tit_for_tat),
        ("WinStayLoseShift", repeated.win_stay_lose_shift),
        ("Alternator", repeated.alternator),
        ("Cooperator", repeated.cooperator),
        ("Defector", repeated.defector),
    ],
)
def test_strategies_act_as_in_axelrod_on_200_random_opponents(name, ours):
    axelrod = pytest.importorskip("axelrod")
    rng, rounds = np.random.default_rng(0), 30
    opponents = rng.random((200, rounds)) < rng.random((200, 1))  # True: defects

    def game(moves):
        side = repeated.Sides(jax.random.key(0))
        return repeated.play(
            jnp.asarray(PRISONERS_DILEMMA, float), ours, lambda view, draws: moves[view.round], rounds, side, side
        )

    actions = np.asarray(jax.jit(jax.vmap(game))(jnp.asarray(opponents, int)))
    for row, moves in zip(actions, opponents, strict=True):
        fixed = axelrod.MockPlayer([axelrod.Action.D if d else axelrod.Action.C for d in moves])
        match = axelrod.Match((getattr(axelrod, name)(), fixed), turns=rounds)
        assert [int(a == axelrod.Action.D) for a, _ in match.play()] == row[:, 0].tolist()


def test_fictitious_and_myopic_play_are_best_replies_to_counts():
    rng = np.random.default_rng(1)
    draws = repeated.Draws(*map(jnp.asarray, (0.25, 0.5, 0.5, 0.5)))
    for game in repeated.ordinal_games()[::9]:
        played = rng.integers(2, size=7)
        other = jnp.asarray([*played, -1, -1, -1])
        view = repeated.View(jnp.asarray(game, float), other, other, jnp.asarray(7), jnp.asarray(0), jnp.asarray(0))
        counts = np.bincount(played, minlength=2)
        assert int(repeated.myopic(view, draws)) == int(np.argmax(game[..., 0] @ counts))
        prior = np.array([0.5, 1.5])
        assert int(repeated.fictitious_play(view, draws)) == int(np.argmax(game[..., 0] @ (counts + prior)))
        assert int(repeated.best_responder(view, draws)) == int(np.argmax(game[:, played[-1], 0]))


def test_a_prompt_parses_back_to_its_latent_whatever_the_wording():
    rng = np.random.default_rng(2)
    for game in (*repeated.ordinal_games()[::4], PRISONERS_DILEMMA, BATTLE_OF_THE_SEXES):
        framing = random_framing(rng)
        past = rng.integers(0, 2, (int(rng.integers(0, 10)), 2))
        asked = repeated.question(game, framing, past, 10)
        view, session, names = repeated.parse(repeated.worked_examples() + asked.text)
        assert (view.payoff == repeated.points(game, framing.scale)).all()
        assert view.own[: len(past)].tolist() == past[:, 0].tolist() and int(view.round) == len(past)
        assert view.other[: len(past)].tolist() == past[:, 1].tolist()
        assert (names, session) == (framing.actions, framing.session)
        assert (int(view.first), int(view.label)) == (framing.reverse, framing.swap)


def test_longer_histories_only_append():
    rng = np.random.default_rng(3)
    for style in ("transcript", "table"):
        framing, past = random_framing(rng, history=style), rng.integers(0, 2, (9, 2))
        texts = [repeated.history(PRISONERS_DILEMMA, framing, past[:n]) for n in range(10)]
        assert all(b.startswith(a) for a, b in itertools.pairwise(texts))


def test_text_of_another_kind_is_refused():
    with pytest.raises(UserError, match="not a prompt of the repeated games"):
        repeated.parse("What is the capital of France?")


def test_habits_and_lapses_act_at_their_rates():
    players = {
        "lapse": (repeated.lapsing(repeated.defector, 0.3), 0.85),
        "habit": (repeated.label_habit(repeated.cooperator, 0.4), 0.4),
        "sometimes": (repeated.sometimes(repeated.defector, 0.2, repeated.cooperator), 0.2),
    }
    for player, rate in players.values():
        sessions = jnp.arange(4000)

        def game(session, player=player):
            # the second action's name comes first in the alphabet, so a label habit chooses it
            subject = repeated.Sides(jax.random.key(1), session, label=1)
            return repeated.play(
                jnp.asarray(PRISONERS_DILEMMA, float), player, repeated.cooperator, 2, subject, subject
            )

        share = float(jax.vmap(game)(sessions)[..., 0].mean())
        assert abs(share - rate) < 4 * np.sqrt(rate * (1 - rate) / 4000)


def test_an_answer_that_cannot_be_read_is_played_but_told_apart():
    from unseen.worlds.minds import Reply

    dialogue = repeated.converse(PRISONERS_DILEMMA, Framing(), repeated.alternator, 4)
    next(dialogue)
    dialogue.send(Reply("F", 0))
    dialogue.send(Reply("I would rather not say.", -1))
    dialogue.send(Reply("J", 1))
    with pytest.raises(StopIteration) as end:
        dialogue.send(Reply("J", 1))
    record = end.value.value
    assert record[:, 1].tolist() == [0, 1, 0, 1] and record[:, 2].tolist() == [1, 0, 1, 1]
    assert record[[0, 2, 3], 0].tolist() == [0, 1, 1]
