"""Repeated two-by-two games: all 144 strict ordinal games with their families, players, play, and text.

Axes of variation: the game family, the partner's strategy, and the nuisance factors of the text (cover story,
option names, payoff scale, order of the options, history as transcript or table).

Everything is held in CANONICAL coordinates: action 0 of each player is the one that is kinder to the other (the
larger mean payoff for the other; of equals the one that holds the other's best), so that action 0 is "cooperate"
in the prisoner's dilemma and "the other's favourite" in the battle of the sexes, and tit-for-tat has a meaning in
every game. A payoff array has the axes [row's action, column's action, (row, column)] and holds levels 1 (worst)
to 4 (best).

Source: Robinson and Goforth (2005), The Topology of the 2x2 Games, for the games; Bruns (2015), Names for Games, for
families by their equilibria; Akata et al. (2023, arXiv 2305.16867) for the repeated play by language models.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
import zlib
from collections.abc import Callable, Generator
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from unseen.lab import UserError
from unseen.worlds.minds.dialogue import Dialogue, Question, Reply

# Games ----------------------------------------------------------------------------------------------------

FAMILIES = ("win-win", "prisoner's dilemma", "unfair", "cyclic", "biased", "second best")

Payoff = Int[np.ndarray, "2 2 2"]

PRISONERS_DILEMMA = np.array([[[3, 3], [1, 4]], [[4, 1], [2, 2]]])
# Missing each other is equally bad for both, so the levels have a tie: not one of the 144 strict games.
BATTLE_OF_THE_SEXES = np.array([[[1, 1], [3, 4]], [[4, 3], [1, 1]]])


def canonical(payoff: Payoff) -> tuple[Payoff, tuple[int, int]]:
    """The game with each player's kinder action first, and whether (0 or 1) row's and column's actions changed
    places."""

    def kinder(for_other: np.ndarray) -> int:  # [own action, other's action]
        return int((for_other[1].sum(), for_other[1].max()) > (for_other[0].sum(), for_other[0].max()))

    row, column = kinder(payoff[..., 1]), kinder(payoff[..., 0].T)
    order = [0, 1]
    return payoff[order[:: -1 if row else 1]][:, order[:: -1 if column else 1]], (row, column)


@functools.cache
def ordinal_games() -> tuple[Payoff, ...]:
    """The 144 games in which each player ranks the four outcomes strictly, up to relabelling actions.

    Games that differ by an exchange of the players count twice (that is why there are 144 and not 78), so to play
    all of them as row player is to play every situation once.
    """
    found = {}
    for ranks in itertools.product(itertools.permutations((1, 2, 3, 4)), repeat=2):
        payoff, _ = canonical(np.array(ranks).T.reshape(2, 2, 2))
        found[payoff.tobytes()] = payoff
    return tuple(found[key] for key in sorted(found))


def equilibria(payoff: Payoff) -> list[tuple[int, int]]:
    """Pure Nash equilibria of a strict game, as pairs (row's action, column's action)."""
    return [
        (i, j)
        for i, j in itertools.product((0, 1), repeat=2)
        if payoff[i, j, 0] > payoff[1 - i, j, 0] and payoff[i, j, 1] > payoff[i, 1 - j, 1]
    ]


def family(payoff: Payoff) -> str:
    """The family of a strict ordinal game: what its best pure equilibrium pays (4 is best).

    None: cyclic (18 games). (4, 4): win-win (36). (4, 3): biased (44). (3, 3): second best (12). (4, 2): unfair (19).
    (3, 2) or (2, 2): prisoner's dilemma family (15): the 7 games whose equilibrium another outcome Pareto-dominates
    and the 8 "tragic" ones where none does, which the paper's six families do not name apart.
    """
    pays = [tuple(sorted(payoff[e].tolist(), reverse=True)) for e in equilibria(payoff)]
    if not pays:
        return "cyclic"
    best = max(pays, key=lambda pair: (sum(pair), min(pair)))
    names = {(4, 4): "win-win", (4, 3): "biased", (3, 3): "second best", (4, 2): "unfair"}
    return names.get(best, "prisoner's dilemma")


def dominant_action(payoff: Payoff) -> int | None:
    """Row's action that is better whatever column does, if there is one."""
    better = payoff[1, :, 0] > payoff[0, :, 0]
    return int(better[0]) if better[0] == better[1] else None


# Players --------------------------------------------------------------------------------------------------


class View(NamedTuple):
    """What a player sees before a round, from its own side: `payoff` has the axes [own action, other's action,
    (own, other)].

    `own` and `other` are the actions so far, -1 for rounds not yet played; `round` counts from 0; `label` is the rank
    in the alphabet of action 0's name (0 or 1) and `first` the action that the text lists first.
    """

    payoff: Float[Array | np.ndarray, "2 2 2"]
    own: Int[Array | np.ndarray, " rounds"]
    other: Int[Array | np.ndarray, " rounds"]
    round: Int[Array | np.ndarray, ""]
    label: Int[Array | np.ndarray, ""]
    first: Int[Array | np.ndarray, ""]


class Draws(NamedTuple):
    """A player's luck, uniform on [0, 1): `game` stays the same in all rounds, the others are fresh each round."""

    game: Float[Array, ""]
    coin: Float[Array, ""]
    lapse: Float[Array, ""]
    habit: Float[Array, ""]


Action = Int[Array, ""]
Player = Callable[[View, Draws], Action]


def draw(key: PRNGKeyArray, session: Int[Array, ""] | int, round: Int[Array, ""] | int) -> Draws:
    """The luck of one player in one round: a function of its key, the game's session number and the round alone, so
    that a subject who reads both in a prompt has the same luck as one that is simulated."""
    key = jax.random.fold_in(key, session)
    fresh = jax.random.uniform(jax.random.fold_in(key, round), (3,))
    return Draws(jax.random.uniform(key), *fresh)


def _last(actions: Int[Array, " rounds"], round: Int[Array, ""]) -> Int[Array, ""]:
    return actions[jnp.maximum(round - 1, 0)]


def _counts(actions: Int[Array, " rounds"]) -> Float[Array, " 2"]:
    return jnp.stack([(actions == 0).sum(), (actions == 1).sum()]).astype(float)


def _best(view: View, belief: Float[Array, " 2"]) -> Action:
    value = view.payoff[..., 0] @ belief
    return (value[1] > value[0]).astype(int)


def cooperator(view: View, draws: Draws) -> Action:
    """Action 0, always."""
    return jnp.zeros_like(view.round)


def defector(view: View, draws: Draws) -> Action:
    """Action 1, always."""
    return jnp.ones_like(view.round)


def tit_for_tat(view: View, draws: Draws) -> Action:
    """Action 0 first, then what the other did last: in canonical coordinates, kindness for kindness."""
    return jnp.where(view.round == 0, 0, _last(view.other, view.round))


def grim(view: View, draws: Draws) -> Action:
    """Action 0 until the other has played 1 once, then 1 for ever."""
    return (view.other == 1).any().astype(int)


def win_stay_lose_shift(view: View, draws: Draws) -> Action:
    """Action 0 first; repeats itself after the other's 0, changes after the other's 1."""
    own, other = _last(view.own, view.round), _last(view.other, view.round)
    return jnp.where(view.round == 0, 0, jnp.where(other == 0, own, 1 - own))


def alternator(view: View, draws: Draws) -> Action:
    """0, 1, 0, 1, ..."""
    return view.round % 2


def defect_once(view: View, draws: Draws) -> Action:
    """Action 1 in the first round, 0 ever after, whatever happens."""
    return (view.round == 0).astype(int)


def coin(view: View, draws: Draws) -> Action:
    """Either action with probability one half."""
    return (draws.coin < 0.5).astype(int)


def best_responder(view: View, draws: Draws) -> Action:
    """Best reply to the other's last action; first to an even coin."""
    last = jax.nn.one_hot(_last(view.other, view.round), 2)
    return _best(view, jnp.where(view.round == 0, 0.5, last))


def myopic(view: View, draws: Draws) -> Action:
    """Best reply to the frequencies of the other's past actions; first to an even coin."""
    counts = _counts(view.other)
    return _best(view, jnp.where(view.round == 0, 0.5, counts))


def fictitious_play(view: View, draws: Draws) -> Action:
    """Best reply to past frequencies plus a prior belief of weight 2, drawn anew for each game (Fudenberg and Levine,
    1998, section 2.2)."""
    prior = 2 * jnp.stack([draws.game, 1 - draws.game])
    return _best(view, _counts(view.other) + prior)


def turn_taker(view: View, draws: Draws) -> Action:
    """Expects the other to change its action in each round and gives the best reply; first a coin."""
    expected = jax.nn.one_hot(1 - _last(view.other, view.round), 2)
    return jnp.where(view.round == 0, coin(view, draws), _best(view, expected))


def switcher(view: View, draws: Draws, rate: float = 0.7) -> Action:
    """Changes its own action with probability `rate`, blind to the other."""
    own = _last(view.own, view.round)
    return jnp.where(view.round == 0, coin(view, draws), jnp.where(draws.coin < rate, 1 - own, own))


def favourite(view: View, draws: Draws) -> Action:
    """The action with its own best outcome, always."""
    best = view.payoff[..., 0].max(axis=1)
    return (best[1] > best[0]).astype(int)


def lapsing(player: Player, rate: float) -> Player:
    """`player`, but with probability `rate` a coin decides."""

    def act(view: View, draws: Draws) -> Action:
        random = (draws.lapse < rate / 2).astype(int)
        return jnp.where(draws.lapse < rate, random, player(view, draws))

    return act


def sometimes(player: Player, rate: float | Float[Array, ""], otherwise: Player) -> Player:
    """In a share `rate` of the games `player`, in the others `otherwise`."""

    def act(view: View, draws: Draws) -> Action:
        return jnp.where(draws.game < rate, player(view, draws), otherwise(view, draws))

    return act


def label_habit(player: Player, rate: float) -> Player:
    """`player`, but with probability `rate` the option whose name comes first in the alphabet."""

    def act(view: View, draws: Draws) -> Action:
        return jnp.where(draws.habit < rate, view.label, player(view, draws))

    return act


def position_habit(player: Player, rate: float) -> Player:
    """`player`, but with probability `rate` the option that the text lists first."""

    def act(view: View, draws: Draws) -> Action:
        return jnp.where(draws.habit < rate, view.first, player(view, draws))

    return act


def end_game(player: Player, after: int) -> Player:
    """`player`, but action 1 in every round after the first `after`, whatever happened."""

    def act(view: View, draws: Draws) -> Action:
        return jnp.where(view.round >= after, 1, player(view, draws))

    return act


def scripted_players(effect: float = 0.2, lapse: float = 0.05, habit: float = 0.5) -> dict[str, Player]:
    """The scripted subjects by name: planted, null and decoy players of both probes, and plain strategies.

    Args:
        effect: size of the planted behaviour, the share of games in which it shows.
        lapse: share of answers that a coin decides.
        habit: share of answers that a label or position habit decides.
    """
    players = {
        # one early defection: planted, null, decoys
        "unforgiving": sometimes(grim, effect, otherwise=tit_for_tat),
        "tit-for-tat": tit_for_tat,
        "label-habit": label_habit(tit_for_tat, habit),
        "end-game": end_game(tit_for_tat, 5),
        # turn-taking: planted, null, decoys
        "alternating": sometimes(turn_taker, effect, otherwise=coin),
        "coin": coin,
        "own-favourite": favourite,
        "switching": switcher,
        # plain
        "cooperator": cooperator,
        "defector": defector,
        "grim": grim,
        "win-stay-lose-shift": win_stay_lose_shift,
        "alternator": alternator,
        "best-responder": best_responder,
        "myopic": myopic,
        "fictitious-play": fictitious_play,
        "turn-taker": turn_taker,
        "position-habit": position_habit(tit_for_tat, habit),
    }
    return {name: lapsing(player, lapse) for name, player in players.items()}


# Play -----------------------------------------------------------------------------------------------------


def other_side(payoff: Float[Array, "2 2 2"]) -> Float[Array, "2 2 2"]:
    """The payoffs as the column player sees them."""
    return jnp.swapaxes(payoff, 0, 1)[..., ::-1]


class Sides(NamedTuple):
    """What the two seats of a game differ in besides their payoffs: luck (a key and a session number) and wording."""

    key: PRNGKeyArray
    session: Int[Array, ""] | int = 0
    label: Int[Array, ""] | int = 0
    first: Int[Array, ""] | int = 0


def play(
    payoff: Float[Array, "2 2 2"], row: Player, column: Player, rounds: int, row_side: Sides, column_side: Sides
) -> Int[Array, "rounds 2"]:
    """Actions of both players in a game of `rounds` rounds; pure, to be vmapped over games.

    Args:
        payoff: in any units, from row's side.
        row, column: strategies.
        row_side, column_side: luck and wording for each.
    """

    def view(own: Array, other: Array, payoff: Array, side: Sides, round: Array) -> View:
        return View(payoff, own, other, round, jnp.asarray(side.label), jnp.asarray(side.first))

    def step(past: Int[Array, "rounds 2"], round: Int[Array, ""]) -> tuple[Int[Array, "rounds 2"], None]:
        a = row(view(past[:, 0], past[:, 1], payoff, row_side, round), draw(row_side.key, row_side.session, round))
        b = column(
            view(past[:, 1], past[:, 0], other_side(payoff), column_side, round),
            draw(column_side.key, column_side.session, round),
        )
        return past.at[round].set(jnp.stack([a, b])), None

    past, _ = jax.lax.scan(step, jnp.full((rounds, 2), -1), jnp.arange(rounds))
    return past


def payoffs(payoff: Float[Array, "2 2 2"], actions: Int[Array, "rounds 2"]) -> Float[Array, "rounds 2"]:
    """What both players got in each round."""
    return payoff[actions[:, 0], actions[:, 1]]


# Text -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Story:
    """A cover story: who the other is, what the options are called, what the payoffs are counted in."""

    setting: str
    other: str
    noun: str
    unit: str


STORIES = (
    Story("You take part in a game of choices with one other person.", "the other player", "Option", "points"),
    Story("You run one of two food stalls on a small market square.", "the rival stall", "Menu", "coins"),
    Story("You and a colleague each plan your half of a joint week.", "your colleague", "Plan", "credits"),
    Story("You are the captain of one of two ferries on the same lake.", "the second captain", "Route", "tokens"),
)
# Each pair in the order of the alphabet; the last two are for worked examples.
NAMES = (("F", "J"), ("B", "Y"), ("K", "Q"), ("H", "R"), ("D", "W"), ("M", "T"))
SCALES = ((0, 5, 8, 10), (1, 2, 3, 4), (0, 30, 50, 70), (2, 5, 9, 14), (10, 40, 80, 90))  # points of levels 1 to 4


@dataclasses.dataclass(frozen=True)
class Framing:
    """The nuisance factors of a game's text, each of which a design counterbalances.

    Attributes:
        story: index into STORIES. names: into NAMES. scale: into SCALES.
        swap: action 0 gets the name later in the alphabet.
        reverse: action 1 is listed before action 0, in the rules as in the question.
        crossed: column's action 0 bears the name of row's action 1. (So to meet in the battle of the sexes is to
            choose the same name; without it, in the prisoner's dilemma both cooperate by the same name.)
        history: past rounds as sentences or as a table.
        session: number of the game, shown in its first line.
    """

    story: int = 0
    names: int = 0
    scale: int = 0
    swap: bool = False
    reverse: bool = False
    crossed: bool = False
    history: Literal["transcript", "table"] = "transcript"
    session: int = 0

    @property
    def actions(self) -> tuple[str, str]:
        """Names of action 0 and action 1."""
        pair = NAMES[self.names]
        return (pair[1], pair[0]) if self.swap else pair

    @property
    def others(self) -> tuple[str, str]:
        """Names of the other's action 0 and action 1."""
        return self.actions[::-1] if self.crossed else self.actions

    @property
    def listed(self) -> tuple[int, int]:
        """Actions in the order in which the text lists them."""
        return (1, 0) if self.reverse else (0, 1)


def points(payoff: Payoff, scale: int) -> Int[np.ndarray, "2 2 2"]:
    """Payoff levels 1 to 4 as points of a scale."""
    return np.asarray(SCALES[scale])[payoff - 1]


def rules(payoff: Payoff, framing: Framing, rounds: int) -> str:
    """The first part of every prompt of a game: story and payoffs (given as levels), from row's side."""
    story, names, value = STORIES[framing.story], framing.actions, points(payoff, framing.scale)
    x, y = (names[i] for i in framing.listed)
    lasts = "This happens once" if rounds == 1 else f"This goes on for {rounds} rounds"
    lines = [
        f"Session {framing.session}.",
        f"{story.setting} {lasts}, with {story.other}. In each round both choose at the same time, without talking, "
        f"between {story.noun} {x} and {story.noun} {y}.",
    ]
    for mine_name, their_name in itertools.product((x, y), repeat=2):
        mine, theirs = value[names.index(mine_name), framing.others.index(their_name)]
        lines.append(
            f"You choose {mine_name}, {story.other} chooses {their_name}: "
            f"{mine} {story.unit} for you, {theirs} for {story.other}."
        )
    return "\n".join(lines) + "\n"


def history(payoff: Payoff, framing: Framing, actions: Int[np.ndarray, "played 2"]) -> str:
    """The rounds played so far, as sentences or as a table, from row's side. Longer histories only append."""
    story, value = STORIES[framing.story], points(payoff, framing.scale)
    text = "\nRound | You | Other | Your gain | Other's gain\n" if framing.history == "table" else "\n"
    for t, (i, j) in enumerate(np.asarray(actions).tolist(), start=1):
        (mine, theirs), name, other = value[i, j], framing.actions[i], framing.others[j]
        if framing.history == "table":
            text += f"{t} | {name} | {other} | {mine} | {theirs}\n"
        else:
            text += f"Round {t}: you chose {name} and got {mine}, {story.other} chose {other} and got {theirs}.\n"
    return text


def question(
    payoff: Payoff, framing: Framing, actions: Int[np.ndarray, "played 2"], rounds: int, ask: str = "", lead: str = ""
) -> Question:
    """The prompt of the next round; `ask` and `lead` replace its last two lines (a prediction, say)."""
    story = STORIES[framing.story]
    options = tuple(framing.actions[i] for i in framing.listed)
    ask = ask or f"Which {story.noun} do you choose, {options[0]} or {options[1]}?"
    lead = lead or f"You choose {story.noun}"
    text = rules(payoff, framing, rounds) + history(payoff, framing, actions)
    return Question(f"{text}Round {len(actions) + 1}. {ask}\n{lead}", options)


def worked_examples() -> str:
    """Two one-shot games with the better option taken, to put before the prompts of a base model: in one it is listed
    first, in the other second, and no name recurs in the games that follow."""
    text = ""
    for payoff, framing in (
        (PRISONERS_DILEMMA, Framing(story=0, names=4, scale=1, session=901, reverse=True)),
        (PRISONERS_DILEMMA[::-1], Framing(story=3, names=5, scale=2, session=902, reverse=True)),
    ):
        best = dominant_action(payoff)
        assert best is not None
        text += f"{question(payoff, framing, np.zeros((0, 2), int), 1).text} {framing.actions[best]}.\n\n"
    return text


class Reading(NamedTuple):
    """What a reader of a prompt knows: the view in canonical coordinates, the session, the actions' names."""

    view: View
    session: int
    names: tuple[str, str]


def parse(text: str, *, slots: int = 0) -> Reading:
    """Recover everything a player may use from the text of a prompt, and from nothing else.

    Args:
        text: a prompt of this module; a preamble before the last "Session" line is skipped.
        slots: length of the history arrays, by default the number of rounds that the text announces.

    Raises:
        UserError: if the text is not a prompt of this grammar.
    """
    start = text.rfind("Session ")
    text = text[max(start, 0) :]
    session = re.match(r"Session (\d+)\.\n", text)
    cells = re.findall(r"^You choose (\w), .+? chooses (\w): (\d+) \w+ for you, (\d+) for ", text, flags=re.M)
    if start < 0 or session is None or len(cells) != 4:
        raise UserError("The text is not a prompt of the repeated games: it has no session line or no four outcomes.")
    listed = [cells[0][0], cells[2][0]]
    table = np.zeros((2, 2, 2), int)
    for mine, theirs, a, b in cells:
        table[listed.index(mine), listed.index(theirs)] = int(a), int(b)
    # Kindness is a matter of ranks: the points of a scale must not turn the game round.
    _, (row_turned, column_turned) = canonical(np.unique(table, return_inverse=True)[1].reshape(2, 2, 2) + 1)
    payoff = table[[row_turned, 1 - row_turned]][:, [column_turned, 1 - column_turned]]
    names = (listed[row_turned], listed[1 - row_turned])
    others = (listed[column_turned], listed[1 - column_turned])
    past = re.findall(r"^Round \d+: you chose (\w) and got .+? chose (\w) and got", text, flags=re.M)
    past = past or re.findall(r"^\d+ \| (\w) \| (\w) \| \d+ \| \d+$", text, flags=re.M)
    announced = re.search(r"goes on for (\d+) rounds", text)
    length = slots or (int(announced[1]) if announced else 1)
    own, other = np.full(length, -1), np.full(length, -1)
    for t, (mine, theirs) in enumerate(past):
        own[t], other[t] = names.index(mine), others.index(theirs)
    view = View(
        payoff.astype(np.float32),
        own,
        other,
        np.asarray(len(past)),
        np.asarray(int(names[0] > names[1])),
        np.asarray(int(row_turned)),
    )
    return Reading(view, int(session[1]), names)


def read_and_play(player: Player, key: PRNGKeyArray) -> Callable[[str], str]:
    """A player as a reader of prompts: text -> name of the option that it chooses.

    It sees the text alone; its luck comes from `key`, the session and the round that the text states.
    """
    act = jax.jit(lambda view, key, session: player(view, draw(key, session, view.round)))

    def answer(text: str) -> str:
        reading = parse(text)
        return reading.names[int(act(reading.view, key, reading.session))]

    return answer


# How a subject is brought to a choice: sends questions, ends with a reply to the question whether to take which option.
Ask = Callable[[Payoff, Framing, Int[np.ndarray, "played 2"], int], Generator[Question, Reply, Reply]]


def ask_directly(
    payoff: Payoff, framing: Framing, actions: Int[np.ndarray, "played 2"], rounds: int
) -> Generator[Question, Reply, Reply]:
    """One question, one choice."""
    return (yield question(payoff, framing, actions, rounds))


def converse(
    payoff: Payoff, framing: Framing, partner: Player, rounds: int = 10, ask: Ask = ask_directly
) -> Dialogue[Int[np.ndarray, "rounds 3"]]:
    """A whole game by text against a simulated partner (a deterministic strategy), as a dialogue.

    An answer that names no option is played as a coin that the prompt's checksum throws, and told apart in the
    result.

    Returns:
        For each round the subject's action, the partner's action, and 1 if the subject's answer could be read.
    """
    mirrored = np.ascontiguousarray(points(payoff, framing.scale).swapaxes(0, 1)[..., ::-1], np.float32)
    record = np.zeros((0, 3), int)
    for round in range(rounds):
        dialogue = ask(payoff, framing, record[:, :2], rounds)
        past = np.full((rounds, 2), -1)
        past[:round] = record[:, :2]
        theirs = _answer_of(partner, mirrored.tobytes(), past.tobytes(), round)
        reply = yield from dialogue
        read = reply.choice >= 0
        listed = reply.choice if read else zlib.crc32(f"{rules(payoff, framing, rounds)}{round}".encode()) & 1
        record = np.concatenate([record, [[framing.listed[listed], theirs, read]]])
    return record


@functools.lru_cache(maxsize=100_000)  # a dialogue that is resumed replays its past
def _answer_of(partner: Player, payoff: bytes, past: bytes, round: int) -> int:
    actions = np.frombuffer(past, int).reshape(-1, 2)
    zero = np.asarray(0)
    view = View(
        np.frombuffer(payoff, np.float32).reshape(2, 2, 2), actions[:, 1], actions[:, 0], np.asarray(round), zero, zero
    )
    return int(_compiled(partner)(view))


@functools.lru_cache(maxsize=64)
def _compiled(partner: Player) -> Callable[[View], Array]:
    luck = Draws(*(jnp.zeros(()) for _ in range(4)))
    return jax.jit(lambda view: partner(view, luck))
