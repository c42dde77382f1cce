"""Answers that are kept until the database changes."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Answer = TypeVar("Answer")


@dataclasses.dataclass
class _Entry(Generic[Answer]):
    answer: Answer
    state: Hashable
    size: int
    at: float


class Kept(Generic[Answer]):
    """The answers that were asked for last; safe to share between threads.

    Args:
        most: bytes that all of them may take.
        seconds: how long one is given at most; what depends on the time of day is that old.

    Example:
        >>> kept = Kept(most=10_000)
        >>> kept.put("/papers/grokking", state=1, answer=b"...", size=3)
        >>> kept.get("/papers/grokking", state=1)
        b'...'
        >>> kept.get("/papers/grokking", state=2) is None  # the database is another one now
        True
    """

    def __init__(self, most: int = 64 * 2**20, seconds: float = 60.0):
        self.most, self.seconds = most, seconds
        self._entries: OrderedDict[Hashable, _Entry[Answer]] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def __contains__(self, asked: Hashable) -> bool:
        """Whether something is kept, which may be outdated."""
        return asked in self._entries

    def get(self, asked: Hashable, state: Hashable) -> Answer | None:
        """What was answered when the database was in this state, None if nothing was or too long ago."""
        with self._lock:
            found = self._entries.get(asked)
            if found is None:
                return None
            if found.state != state or time.monotonic() - found.at > self.seconds:
                self._drop(asked)
                return None
            self._entries.move_to_end(asked)
            return found.answer

    def put(self, asked: Hashable, state: Hashable, answer: Answer, size: int) -> None:
        """Keep an answer of so many bytes; those that nobody asked for longest make room.

        `state` must have been read before the answer was made.
        """
        with self._lock:
            self._drop(asked)
            if size > self.most:
                return
            self._entries[asked] = _Entry(answer, state, size, time.monotonic())
            self._size += size
            while self._size > self.most:
                self._drop(next(iter(self._entries)))

    def _drop(self, asked: Hashable) -> None:
        entry = self._entries.pop(asked, None)
        self._size -= 0 if entry is None else entry.size
