import numpy as np
import pytest

from unseen.lab import UserError
from unseen.models import subjects
from unseen.models.subjects import ScriptedSubject, subject
from unseen.worlds.games import repeated
from unseen.worlds.games.repeated import BATTLE_OF_THE_SEXES, PRISONERS_DILEMMA, Framing
from unseen.worlds.minds import Question, read_choice

AFTER_DEFECTION = np.array([[0, 1], [1, 0], [0, 0], [0, 0], [0, 0]])


def prompts(n, past=AFTER_DEFECTION, game=PRISONERS_DILEMMA):
    return [
        repeated.question(game, Framing(i % 4, i // 4 % 4, i % 5, i % 3 > 1, i % 7 > 3, session=i), past, 10)
        for i in range(n)
    ]


def defections(questions, replies):
    names = [repeated.parse(q.text).names for q in questions]
    return np.array([q.options[r.choice] == name[1] for q, r, name in zip(questions, replies, names, strict=True)])


@pytest.mark.parametrize(("effect", "lapse"), [(0.3, 0.05), (0.0, 0.2), (1.0, 0.0)])
def test_answer_frequencies_match_the_stated_table(effect, lapse):
    questions = prompts(2000)
    replies = ScriptedSubject(f"unforgiving?effect={effect}&lapse={lapse}&seed=3").answer(questions)
    rate = lapse / 2 + (1 - lapse) * effect  # grim defects, tit-for-tat has come back
    spread = 4 * np.sqrt(rate * (1 - rate) / 2000)
    assert abs(defections(questions, replies).mean() - rate) <= spread


def test_answers_do_not_change_when_everything_but_the_text_is_deleted():
    questions = prompts(50)
    scripted = ScriptedSubject("unforgiving?effect=0.5&seed=1")
    bare = [Question(q.text, tuple(sorted(q.options))) for q in questions]
    kept = [r.text for r in scripted.answer(questions)]
    assert [r.text for r in scripted.answer(bare)] == kept
    assert [r.text for r in ScriptedSubject("unforgiving?effect=0.5&seed=1").answer(bare[::-1])] == kept[::-1]


def test_the_same_prompt_in_another_session_meets_other_luck():
    questions = prompts(200, past=np.zeros((0, 2), int), game=BATTLE_OF_THE_SEXES)
    answers = [defections(questions, ScriptedSubject(f"coin?seed={s}").answer(questions)) for s in (1, 2)]
    assert 0.35 < answers[0].mean() < 0.65 and 0.35 < (answers[0] == answers[1]).mean() < 0.65


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("scripted/grimm", "scripted subjects are"),
        ("scripted/grim?efect=1", "has the knobs"),
        ("scripted/grim?effect=much", "takes a number"),
        ("local/llama", "local/gemma-3-270m"),
        ("gemma", "Inspect AI model name"),
        ("nosuchprovider/model", "cannot reach"),
    ],
)
def test_bad_names_get_one_sentence(name, sentence):
    if "nosuch" in name:
        pytest.importorskip("inspect_ai")
    with pytest.raises(UserError, match=sentence):
        subject(name)


@pytest.mark.parametrize(
    ("text", "choice"),
    [(" F", 0), ("J.", 1), ("I choose F", 0), ("F or J", -1), ("", -1), ("Jazz", -1), ("F\nRound 2: J", 0)],
)
def test_free_answers_are_read_strictly(text, choice):
    assert read_choice(text, ("F", "J")) == choice


def test_a_subject_asked_through_inspect_answers_as_when_asked_directly():
    pytest.importorskip("inspect_ai")
    questions = prompts(20)
    direct = subject("scripted/unforgiving?effect=0.5&seed=2").answer(questions)
    assert subjects.InspectSubject("scripted/unforgiving?effect=0.5&seed=2").answer(questions) == direct
