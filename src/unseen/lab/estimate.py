"""What a run would take on this machine, from the first steps of every group.

Nobody wants to learn after a night that a run needs a week, or that its last part does not compile. An estimate
compiles each group's own programs, runs its first two rounds and its final measures, and multiplies.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

from unseen.lab.engine import Block, Programs, _groups, _memory, build, label_of, plan, set_up
from unseen.lab.study import Study


@dataclasses.dataclass(frozen=True)
class GroupEstimate:
    """The first steps of one group (the members that share a program) on one device.

    Attributes:
        part: the study's part.
        label: the group's condition in words.
        blocks: how often its program runs.
        members: members of one block.
        rounds: measurements of a run after the first one.
        compiling: seconds, once.
        starting: seconds of a block's first states and measures.
        round: seconds of one round of a block; NaN without rounds.
        finishing: seconds of a block's final measures.
        bytes: memory of its largest program; 0 for a learner in plain Python.
        host: whether it runs member by member in plain Python.
    """

    part: str
    label: str
    blocks: int
    members: int
    rounds: int
    compiling: float
    starting: float
    round: float
    finishing: float
    bytes: int
    host: bool

    @property
    def seconds(self) -> float:
        """Seconds of the whole group on one device."""
        rounds = self.rounds * self.round if self.rounds else 0.0
        return self.compiling + self.blocks * (self.starting + rounds + self.finishing)


def estimate(study: Study) -> Iterator[GroupEstimate]:
    """Run the first steps of every group of a study and yield what each costs; nothing is kept.

    Args:
        study: with its settings; see `Study.at_scale`.

    Yields:
        One `GroupEstimate` a group, as soon as its first steps are done.

    Raises:
        UserError: if a learner cannot be built with these settings.
        MemoryError: if one member of a group does not fit into memory.

    Example:
        >>> study = unseen.load("grokking").at_scale("paper")  # doctest: +SKIP
        >>> sum(group.seconds for group in estimate(study)) / 3600  # doctest: +SKIP
    """
    set_up()
    blocks, shapes = plan(study)
    for group in _groups(blocks):
        block = group[0]
        rounds = shapes[block.part, repr(dict(block.static))].rounds
        first = _first_of_host if block.host else _first_of_program
        yield first(study, block, len(group), rounds)


def _first_of_program(study: Study, block: Block, blocks: int, rounds: int) -> GroupEstimate:
    import jax

    programs = Programs(study, block, jax.devices()[:1])
    programs.compile()
    if programs.bytes > _memory():
        if block.size == 1:
            raise MemoryError(f"One member of {study.key} ({label_of(block)}) does not fit into memory.")
        return _first_of_program(study, block.halves()[0], 2 * blocks, rounds)
    seeds, traced = programs.inputs([block])
    (arrays, _), starting = _timed(lambda: programs.start(seeds, traced))
    a_round = float("nan")
    for _ in range(min(rounds, 2)):  # the second one counts: the first may still load what it needs
        (arrays, _), a_round = _timed(lambda: programs.step(traced, arrays))  # noqa: B023
    _, finishing = _timed(lambda: programs.finish(traced, arrays))
    return GroupEstimate(
        part=block.part,
        label=label_of(block),
        blocks=blocks,
        members=block.size,
        rounds=rounds,
        compiling=programs.seconds,
        starting=starting,
        round=a_round,
        finishing=finishing,
        bytes=programs.bytes,
        host=False,
    )


def _first_of_host(study: Study, block: Block, blocks: int, rounds: int) -> GroupEstimate:
    import jax

    seed, traced = block.members[0]
    learner = build(study, study.parts[block.part], block.static, traced)
    state, starting = _timed(lambda: learner.init(jax.random.key(seed)))
    _, measuring = _timed(lambda: learner.measure(state))
    a_round = float("nan")
    for _ in range(min(rounds, 2)):
        state, a_round = _timed(lambda: learner.advance(state))  # noqa: B023
    final = learner.final
    finishing = 0.0 if final is None else _timed(lambda: final(state))[1]
    return GroupEstimate(
        part=block.part,
        label=label_of(block),
        blocks=blocks,
        members=1,
        rounds=rounds,
        compiling=0.0,
        starting=starting + measuring,
        round=a_round + measuring,
        finishing=finishing,
        bytes=0,
        host=True,
    )


def _timed(compute: Any) -> tuple[Any, float]:
    import jax

    began = time.perf_counter()
    found = jax.block_until_ready(compute())
    return found, time.perf_counter() - began
