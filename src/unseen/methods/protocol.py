"""Protocols: many dialogues put to one subject, in lockstep or through Inspect AI; and ways to ask.

A protocol here is a list of functions that start a dialogue (see `unseen.worlds.minds.dialogue`). Dialogues must
be deterministic given the replies: then the replies so far are their whole state, an array that can be saved, and
a dialogue is resumed by replaying it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from jaxtyping import Int

from unseen.models.subjects import Subject, ask_inspect, inspect_model
from unseen.worlds.games.repeated import STORIES, Framing, Payoff, question
from unseen.worlds.minds import Dialogue, Question, Reply

if TYPE_CHECKING:
    from inspect_ai import Task

T = TypeVar("T")
Start = Callable[[], Dialogue[T]]
NOT_ASKED = -2  # beside -1, "not read as an option"


def ask_next(
    starts: Sequence[Start], choices: Int[np.ndarray, "dialogues questions"], subject: Subject, preamble: str = ""
) -> Int[np.ndarray, "dialogues questions"]:
    """Put the next question of every dialogue to the subject in one batch.

    Args:
        starts: functions that start the dialogues.
        choices: the choice given to each question so far, NOT_ASKED for those to come.
        subject: whom to ask.
        preamble: worked examples in front of every prompt (for base models).

    Returns:
        `choices` with the new answers; unchanged where a dialogue has ended.
    """
    choices = choices.copy()
    pending = {}
    for row, start in enumerate(starts):
        given = choices[row][choices[row] != NOT_ASKED]
        asked, _ = _replay(start, given)
        if asked is not None:
            pending[row, len(given)] = Question(preamble + asked.text, asked.options)
    if pending:
        for place, reply in zip(pending, subject.answer(list(pending.values())), strict=True):
            choices[place] = reply.choice
    return choices


def outcomes(starts: Sequence[Start[T]], choices: Int[np.ndarray, "dialogues questions"]) -> list[T | None]:
    """What the dialogues return after these choices; None for one that has not ended."""
    return [_replay(start, row[row != NOT_ASKED])[1] for start, row in zip(starts, choices, strict=True)]


def _replay(start: Start[T], given: Sequence[int] | np.ndarray) -> tuple[Question | None, T | None]:
    dialogue = start()
    try:
        asked = next(dialogue)
        for choice in given:
            asked = dialogue.send(Reply("", int(choice)))
    except StopIteration as end:
        return None, end.value
    return asked, None


def inspect_task(name: str, starts: Sequence[Start]) -> Task:
    """The dialogues as an Inspect AI task: one sample each, a solver that converses, a scorer that keeps the choices.

    A sample holds its first question and its number; the subject is sent texts and nothing else.
    """
    from inspect_ai import Task
    from inspect_ai.dataset import MemoryDataset, Sample
    from inspect_ai.model import get_model
    from inspect_ai.scorer import Score, scorer
    from inspect_ai.solver import solver

    @solver
    def converse() -> Any:
        async def solve(state: Any, generate: Any) -> Any:
            dialogue, choices = starts[int(state.sample_id)](), []
            asked = next(dialogue)
            try:
                while True:
                    reply = await ask_inspect(get_model(), asked)
                    choices.append(reply.choice)
                    asked = dialogue.send(reply)
            except StopIteration:
                state.metadata["choices"] = choices
            return state

        return solve

    @scorer(metrics=[], name="choices")
    def keep() -> Any:
        async def score(state: Any, target: Any) -> Any:
            choices = state.metadata["choices"]
            return Score(value=float(np.mean(np.asarray(choices) >= 0)), metadata={"choices": choices})

        return score

    samples = [Sample(input=next(start()).text, id=str(i)) for i, start in enumerate(starts)]
    return Task(dataset=MemoryDataset(samples), solver=converse(), scorer=keep(), name=name)


def through_inspect(name: str, starts: Sequence[Start[T]], model: str) -> list[T | None]:
    """Run the dialogues with an Inspect AI model, end to end, and return what they come to, read back from the log.

    The log lives in a temporary directory; nothing is shown.

    Raises:
        RuntimeError: if Inspect reports an error.
    """
    from inspect_ai import eval as evaluate

    with tempfile.TemporaryDirectory() as logs:
        (log,) = evaluate(
            inspect_task(name, starts),
            model=inspect_model(model),
            log_dir=logs,
            display="none",
            log_level="error",
            log_realtime=False,
            log_model_api=False,
            score_display=False,
            acp_server=False,
            ctl_server=False,
            max_samples=64,
        )
        if log.status != "success":
            raise RuntimeError(f"Inspect AI ended the task {name} with status {log.status}: {log.error}")
        samples = list(log.samples or [])  # read lazily from the log, so while it is there
    results: list[T | None] = [None] * len(starts)
    for sample in samples:
        choices = ((sample.scores or {})["choices"].metadata or {})["choices"]
        results[int(sample.id)] = _replay(starts[int(sample.id)], choices)[1]
    return results


# Ways to ask ----------------------------------------------------------------------------------------------

Asking = Generator[Question, Reply, Reply]


def predict_then_act(payoff: Payoff, framing: Framing, actions: Int[np.ndarray, "played 2"], rounds: int) -> Asking:
    """Ask what the other will do; then, with that prediction in the prompt, for the choice.

    The "social chain of thought" of Akata et al. (2023), section on prompting techniques, in words of our own.
    """
    story, options = STORIES[framing.story], _options(framing)
    ask = f"What do you expect {story.other} to choose in this round, {options[0]} or {options[1]}?"
    expected = yield question(payoff, framing, actions, rounds, ask, f"You expect {story.noun}")
    said = f"You expect {story.other} to choose {story.noun} {_said(expected, options)} in this round."
    return (yield _second(payoff, framing, actions, rounds, said))


def unrelated_then_act(payoff: Payoff, framing: Framing, actions: Int[np.ndarray, "played 2"], rounds: int) -> Asking:
    """The control for `predict_then_act`: an unrelated question of the same form first, its answer in the prompt."""
    story, options = STORIES[framing.story], _options(framing)
    ask = f"Which of these letters comes later in the alphabet, {options[0]} or {options[1]}?"
    answer = yield question(payoff, framing, actions, rounds, ask, f"You say {story.noun}")
    said = f"You say that {_said(answer, options)} is the letter later in the alphabet of the two."
    return (yield _second(payoff, framing, actions, rounds, said))


def _options(framing: Framing) -> tuple[str, str]:
    return framing.actions[framing.listed[0]], framing.actions[framing.listed[1]]


def _said(reply: Reply, options: tuple[str, str]) -> str:
    return options[reply.choice] if reply.choice >= 0 else "neither"


def _second(payoff: Payoff, framing: Framing, actions: np.ndarray, rounds: int, said: str) -> Question:
    story, options = STORIES[framing.story], _options(framing)
    ask = f"{said} Which {story.noun} do you choose, {options[0]} or {options[1]}?"
    return question(payoff, framing, actions, rounds, ask)
