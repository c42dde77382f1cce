import functools

import jax
import numpy as np
import pytest

from unseen.methods.probes import ALTERNATION, PROBES, UNFORGIVING, dominance_gate
from unseen.methods.protocol import (
    NOT_ASKED,
    ask_next,
    outcomes,
    predict_then_act,
    through_inspect,
    unrelated_then_act,
)
from unseen.models.subjects import ScriptedSubject
from unseen.worlds.games import repeated
from unseen.worlds.minds import Reply

CASES = [(p, name) for p in PROBES for name in (p.planted, p.null, *p.decoys)]


def simulated(probe, name, design, seed, rounds=10):
    act = repeated.scripted_players(0.5)[name]
    return np.asarray(probe.simulate(act, design, jax.random.key(seed), rounds))


@pytest.mark.parametrize(("probe", "name"), CASES)
def test_simulation_and_words_agree_answer_by_answer(probe, name):
    design = probe.design(jax.random.key(1), 6)
    starts = probe.starts(design, 10)
    choices, subject = np.full((12, 10), NOT_ASKED), ScriptedSubject(f"{name}?effect=0.5&seed=5")
    for _ in range(10):
        choices = ask_next(starts, choices, subject)
    said = np.stack(outcomes(starts, choices))
    assert (said[..., 2] == 1).all()
    assert (said[..., :2].reshape(2, 6, 10, 2) == simulated(probe, name, design, 5)).all()


def test_through_inspect_is_the_same_again():
    pytest.importorskip("inspect_ai")
    design = UNFORGIVING.design(jax.random.key(2), 4)
    said = through_inspect("probe", UNFORGIVING.starts(design, 10), "scripted/unforgiving?effect=0.5&seed=7")
    assert (np.stack(said)[..., :2].reshape(2, 4, 10, 2) == simulated(UNFORGIVING, "unforgiving", design, 7)).all()


def test_a_dialogue_resumes_from_its_choices_alone():
    design = ALTERNATION.design(jax.random.key(3), 4)
    starts = ALTERNATION.starts(design, 5, predict_then_act)
    whole = np.full((8, 10), NOT_ASKED)
    for _ in range(10):
        whole = ask_next(starts, whole, ScriptedSubject("coin?seed=1"))
    cut = whole.copy()
    cut[:, 4:] = NOT_ASKED
    assert outcomes(starts, cut) == [None] * 8
    for _ in range(6):  # a new subject, as after a restart
        cut = ask_next(starts, cut, ScriptedSubject("coin?seed=1"))
    assert (cut == whole).all()
    assert (ask_next(starts, cut, ScriptedSubject("coin")) == whole).all()  # all have ended


@pytest.mark.parametrize("ask", [predict_then_act, unrelated_then_act])
def test_the_first_answer_goes_into_the_second_prompt(ask):
    framing = repeated.Framing()
    dialogue = ask(repeated.PRISONERS_DILEMMA, framing, np.array([[0, 1]]), 10)
    first = next(dialogue)
    second = dialogue.send(Reply("J", 1))
    assert "choose Option J" in second.text or "say that J" in second.text
    assert first.options == second.options == ("F", "J")
    shared = repeated.rules(repeated.PRISONERS_DILEMMA, framing, 10)
    assert first.text.startswith(shared) and second.text.startswith(shared)
    with pytest.raises(StopIteration) as end:
        dialogue.send(Reply("F", 0))
    assert end.value.value.choice == 0


def test_designs_are_balanced():
    design = UNFORGIVING.design(jax.random.key(4), 80)
    cells = {(int(s), int(n), int(c)) for s, n, c in zip(design.story, design.names, design.scale, strict=True)}
    assert len(cells) == 80
    assert all(int(column.sum()) == 40 for column in (design.swap, design.reverse, design.table))


def test_effects_of_pure_players():
    design = UNFORGIVING.design(jax.random.key(5), 20)
    measure = functools.partial(simulated, UNFORGIVING, design=design, seed=0)
    players = repeated.scripted_players(1.0, 0.0)

    def effect(probe, name):
        actions = probe.simulate(players[name], design, jax.random.key(0), 10)
        return float(probe.effect(actions).mean())

    assert measure(name="tit-for-tat").shape == (2, 20, 10, 2)
    assert effect(UNFORGIVING, "unforgiving") == 1.0
    assert effect(UNFORGIVING, "tit-for-tat") == effect(UNFORGIVING, "end-game") == 0.0
    assert effect(ALTERNATION, "alternating") == 0.5
    assert effect(ALTERNATION, "own-favourite") == effect(ALTERNATION, "alternator") == 0.0


def test_the_gate_asks_for_dominant_options_in_both_orders():
    starts, right = dominance_gate(jax.random.key(6), 10)
    assert len(starts) == len(right) == 20
    passed = []
    for name in ("own-favourite", "fictitious-play"):
        choices = ask_next(starts, np.full((20, 1), NOT_ASKED), ScriptedSubject(f"{name}?lapse=0.0"))
        passed.append(np.mean(np.stack(outcomes(starts, choices))[:, 0, 0] == right))
    assert passed[1] == 1.0 >= passed[0]  # a best reply to any belief is the dominant action
