"""Texts with slots, compiled to integer arrays: written for a whole batch at once, and read back."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from unseen.worlds.language.lexicon import VOCABULARY_SIZE, encode, group

EMPTY = -1  # behind the end of a shorter text


def _slot(word: str) -> tuple[str, str] | None:
    """Name and group of a word of the form {name:group}."""
    if not (word.startswith("{") and word.endswith("}") and len(word) > 1):
        return None
    name, _, domain = word[1:-1].partition(":")
    return name, domain


@dataclasses.dataclass(frozen=True)
class Templates:
    """Texts in which `{name:group}` stands for one word of a group of the lexicon (or of several, `a|b`).

    Attributes:
        patterns: the texts; a slot that comes up twice takes the same word both times.
        slots: the names of all slots, in the order of the columns of `fill`.
    """

    patterns: tuple[str, ...]
    slots: tuple[str, ...]

    @functools.cached_property
    def bank(self) -> Int[np.ndarray, "templates time"]:
        """Tokens; slot i as -2 - i; `EMPTY` behind the end."""
        rows = []
        for pattern in self.patterns:
            row = []
            for word in pattern.split():
                slot = _slot(word)
                row += encode(word) if slot is None else [-2 - self.slots.index(slot[0])]
            rows.append(row)
        bank = np.full((len(rows), max(map(len, rows))), EMPTY, np.int32)
        for i, row in enumerate(rows):
            bank[i, : len(row)] = row
        return bank

    @functools.cached_property
    def lengths(self) -> Int[np.ndarray, " templates"]:
        """Words of each text."""
        return (self.bank != EMPTY).sum(1)

    @functools.cached_property
    def _takes(self) -> np.ndarray:
        """Which token may stand at a place of a template."""
        takes = np.zeros((*self.bank.shape, VOCABULARY_SIZE), bool)
        for i, pattern in enumerate(self.patterns):
            for j, word in enumerate(pattern.split()):
                slot = _slot(word)
                tokens = encode(word) if slot is None else np.concatenate([group(d) for d in slot[1].split("|")])
                takes[i, j, tokens] = True
        return takes

    def fill(
        self, template: Int[np.ndarray, " texts"], values: Int[np.ndarray, "texts slots"]
    ) -> Int[np.ndarray, "texts time"]:
        """Tokens of many texts at once, `EMPTY` behind their ends; slots that a template lacks are not read."""
        text = self.bank[template]
        rows, columns = np.nonzero(text < EMPTY)
        text[rows, columns] = values[rows, -2 - text[rows, columns]]
        return text

    def parse(self, tokens: Sequence[int] | Int[np.ndarray, " time"]) -> list[tuple[int, dict[str, int]]]:
        """Every reading of a text: the template and what stands in its slots."""
        seen = np.asarray(tokens, np.int32)
        fitting = np.nonzero(self.lengths == len(seen))[0]
        fitting = fitting[self._takes[fitting[:, None], np.arange(len(seen)), seen].all(1)]
        found = []
        for i in fitting:
            values: dict[str, int] = {}
            places = [
                (self.slots[-2 - code], int(token))
                for code, token in zip(self.bank[i], seen, strict=False)
                if code < EMPTY
            ]
            if all(values.setdefault(name, token) == token for name, token in places):
                found.append((int(i), values))
        return found
