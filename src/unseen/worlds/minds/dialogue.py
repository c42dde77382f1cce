"""Questions put to a subject, and dialogues that ask them: the common tongue of protocols and subjects.

A dialogue is a generator: it yields a `Question`, is sent the `Reply`, and returns its result. So a game, an
interview or a prompt strategy is written once, as one conversation, and whoever drives it decides how: all
dialogues in lockstep on a batched local model, or one by one through Inspect AI.

Example:
    >>> def twice(question: Question) -> Dialogue[list[int]]:
    ...     first = yield question
    ...     second = yield question
    ...     return [first.choice, second.choice]
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Question:
    """A prompt and the options that answer it.

    Attributes:
        text: the whole prompt, history included: all that a subject gets to see. It stops where the answer
            starts, so that a base model continues it with an option.
        options: the words that count as answers, in the order in which the prompt lists them.
    """

    text: str
    options: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Reply:
    """An answer.

    Attributes:
        text: what the subject said.
        choice: index of the option that it chose, -1 if the answer could not be read as one.
        logprobs: log-probability of each option as continuation of the prompt, where the subject has them.
    """

    text: str
    choice: int
    logprobs: tuple[float, ...] | None = None


Dialogue = Generator[Question, Reply, T]


def read_choice(text: str, options: tuple[str, ...]) -> int:
    """Index of the one option that a free answer names as a word, -1 if it names none or several.

    The first line counts: what a model goes on to say after its answer is not read.
    """
    line = text.strip().split("\n")[0]
    named = [i for i, option in enumerate(options) if re.search(rf"(?<!\w){re.escape(option)}(?!\w)", line)]
    return named[0] if len(named) == 1 else -1
