"""The engine: one seed's functions, run for a population.

Seeds and traced conditions of one group (one static condition) are stacked into *blocks* of one fixed shape.
A block's program is `vmap`ped over its members and compiled once a group; blocks run abreast, one a device.
The shape of a block follows from the settings alone, never from the machine, because the shape may change the
last bits of floating-point results: so the same settings give the same evidence whatever the number of
devices, workers or interruptions. Only a machine without the memory for one block gets smaller ones, and then
the run's record says so.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from unseen.lab.errors import UserError
from unseen.lab.learner import Learner
from unseen.lab.study import Part, Study

MEMBERS_A_BLOCK = 16  # enough to fill the vector units with small models, few enough to use two cores
_STATE, _SERIES, _FINAL = "state/", "series/", "final/"


@dataclasses.dataclass(frozen=True)
class Block:
    """Members of one group that run as one program of a fixed shape.

    Attributes:
        part: name of the study's part.
        static: the conditions that are Python values in the program.
        members: (seed, traced conditions) of each; `size - len(members)` copies of the last one pad the shape.
        size: the program's number of members.
        host: run member by member in Python.
    """

    part: str
    static: Mapping[str, Any]
    members: tuple[tuple[int, Mapping[str, Any]], ...]
    size: int
    host: bool = False

    @property
    def name(self) -> str:
        """A file name that says what is in the block."""
        import hashlib
        import json

        text = json.dumps([self.part, dict(self.static), [[s, dict(t)] for s, t in self.members], self.size])
        return f"{self.part}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def halves(self) -> list[Block]:
        """The block as two of half its shape."""
        size = math.ceil(self.size / 2)
        pieces = [self.members[i : i + size] for i in range(0, len(self.members), size)]
        return [dataclasses.replace(self, members=piece, size=size) for piece in pieces]


@dataclasses.dataclass(frozen=True)
class Shape:
    """What the engine must know of a group's learner before it runs."""

    rounds: int
    every: int
    dims: Mapping[str, tuple[str, ...]]
    coords: Mapping[str, tuple[Any, ...]]
    host: bool

    @classmethod
    def of(cls, learner: Learner) -> Shape:
        """The shape of a learner."""
        return cls(
            learner.rounds,
            learner.every,
            {name: tuple(dims) for name, dims in learner.dims.items()},
            {name: tuple(np.asarray(values).tolist()) for name, values in learner.coords.items()},
            learner.host,
        )

    @property
    def steps(self) -> list[int]:
        """Updates done at each measurement."""
        return [i * self.every for i in range(self.rounds + 1)]


@dataclasses.dataclass(frozen=True)
class Progress:
    """Something happened in a block: `rounds` more rounds of `members` members, with the newest measures."""

    block: str
    label: str
    rounds: int
    members: int
    metrics: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    phase: str = "running"


class Stopped(Exception):
    """The run was asked to stop; its checkpoints are written."""


class OutOfMemory(Exception):
    """A program does not fit into memory."""


@dataclasses.dataclass
class Control:
    """What the outer loop of a block asks and tells the run that drives it.

    Attributes:
        load: block name -> checkpoint arrays or None.
        save: (block name, arrays) -> None; replaces the checkpoint.
        report: takes a `Progress`.
        stop: whether to stop now (after writing a checkpoint).
        every: seconds between two checkpoints of a block.
        memory: bytes that programs may use; None asks the machine.
    """

    load: Callable[[str], dict[str, np.ndarray] | None] = lambda name: None
    save: Callable[[str, dict[str, np.ndarray]], None] = lambda name, arrays: None
    report: Callable[[Progress], None] = lambda progress: None
    stop: Callable[[], bool] = lambda: False
    every: float = 20.0
    memory: int | None = None


Shapes = dict[tuple[str, str], Shape]


def plan(study: Study) -> tuple[list[Block], Shapes]:
    """All blocks of a study and the shapes of its groups, keyed by (part, repr(static condition)): groups in
    the order of their conditions, members ordered by condition and seed."""
    found: list[tuple[Part, dict[str, Any], list[tuple[int, dict[str, Any]]]]] = []
    for p in study.parts.values():
        groups: dict[str, tuple[dict[str, Any], list[tuple[int, dict[str, Any]]]]] = {}
        for cell in study.cells(p):
            static = {name: value for name, value in cell.items() if name not in p.traced}
            traced = {name: cell[name] for name in p.traced}
            _, members = groups.setdefault(repr(static), (static, []))
            members += [(seed, traced) for seed in study.seeds_of(p)]
        found += [(p, static, members) for static, members in groups.values()]
    shapes: Shapes = {(p.name, repr(s)): shape_of(study, p, s, members[0][1]) for p, s, members in found}
    compiled = sum(not shape.host for shape in shapes.values())
    blocks: list[Block] = []
    for p, static, members in found:
        host = shapes[p.name, repr(static)].host
        count = len(members) if host else blocks_for(len(members), compiled)
        size = math.ceil(len(members) / count)
        blocks += [
            Block(p.name, static, tuple(members[i : i + size]), size, host) for i in range(0, len(members), size)
        ]
    if not blocks:
        raise UserError(f"{study.key} has no condition to run with these settings.")
    return blocks, shapes


def blocks_for(members: int, groups: int = 1) -> int:
    """How many blocks a group gets. A small group beside others is one block: groups run side by side then. Else
    there are at least two blocks and an even number of them, so that two cores share the work."""
    if members <= 1 or (groups > 1 and 2 * members <= MEMBERS_A_BLOCK):
        return 1
    count = max(2, math.ceil(members / MEMBERS_A_BLOCK))
    return min(members, count + count % 2)


def build(study: Study, p: Part, static: Mapping[str, Any], traced: Mapping[str, Any]) -> Learner:
    """The learner of one condition. What does not depend on traced values is computed here and now, also
    inside a traced function, so that a program does not compute a dataset again at every call."""
    import jax

    with jax.ensure_compile_time_eval():
        try:
            learner = p.build(study, **static, **traced)
        except UserError:
            raise
        except ValueError as error:
            condition = ", ".join(f"{k}={v}" for k, v in {**static, **traced}.items())
            raise UserError(f"{study.key} cannot be built with {condition or 'these settings'}: {error}") from error
    if not isinstance(learner, Learner):
        raise TypeError(f"{type(study).__name__}.{p.name} must return a Learner, got {type(learner).__name__}.")
    return learner


def shape_of(study: Study, p: Part, static: Mapping[str, Any], traced: Mapping[str, Any]) -> Shape:
    """The learner's shape under one condition (its step counts and dimensions must not depend on traced ones)."""
    return Shape.of(build(study, p, static, traced))


def label_of(block: Block) -> str:
    """The block's group in words."""
    words = [f"{name}={value}" for name, value in block.static.items()]
    return ", ".join(([] if block.part == "learner" else [block.part]) + words) or "all conditions"


def set_up() -> None:
    """One JAX device a core on a machine without accelerator, and compiled programs kept between runs.

    A device computes on one thread: blocks side by side use the cores better than threads within an operation,
    and how such threads share a sum depends on their number (as do last bits). Does nothing to a backend that is in
    use already.
    `UNSEEN_CACHE_PROGRAMS=0` turns the cache of compiled programs off.
    """
    import jax

    if not jax._src.xla_bridge.backends_are_initialized():  # type: ignore[attr-defined]
        devices = int(os.environ.get("UNSEEN_DEVICES", len(os.sched_getaffinity(0))))
        jax.config.update("jax_num_cpu_devices", devices)
        # Batched LAPACK calls wait for threads of XLA's one pool while they hold one: with as many calls under way
        # (several a device) as there are threads, they wait for each other for ever. XLA reads the pool's size from
        # this variable; threads that wait cost nothing.
        os.environ.setdefault("NPROC", str(32 * max(devices, len(os.sched_getaffinity(0)))))
        flags = os.environ.get("XLA_FLAGS", "")
        if "xla_cpu_multi_thread_eigen" not in flags:
            os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
    if os.environ.get("UNSEEN_CACHE_PROGRAMS", "1") != "0" and not jax.config.jax_compilation_cache_dir:  # pyright: ignore[reportAttributeAccessIssue]
        from unseen.lab.machine import cpu_name
        from unseen.lab.store import home

        # JAX's own key covers versions and flags; the processor is ours, since CPU code is made for one model.
        folder = home() / "programs" / cpu_name().replace(" ", "-").replace("/", "-")
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


# One group's programs ----------------------------------------------------------------------------------------


class Programs:
    """The compiled functions of one group for blocks of one size, one block a device at once."""

    def __init__(self, study: Study, block: Block, devices: Sequence[Any]):
        import equinox as eqx
        import jax
        import jax.numpy as jnp

        self.study, self.block, self.abreast = study, block, len(devices)
        p = study.parts[block.part]
        self.shape = shape_of(study, p, block.static, block.members[0][1])
        names = tuple(block.members[0][1])
        fixed = None if names else build(study, p, block.static, {})

        def learner(traced: Any) -> Learner:
            return fixed if fixed is not None else build(study, p, block.static, dict(zip(names, traced, strict=True)))

        def measured(me: Learner, state: Any) -> dict[str, Any]:
            series = {name: jnp.asarray(value) for name, value in me.measure(state).items()}
            leaves = [x for x in jax.tree.leaves(state) if _is_float(x)]
            nan = jnp.asarray([jnp.any(jnp.isnan(x)) for x in leaves]).any() if leaves else jnp.asarray(False)
            out = {"measures": series, "diverged": nan}
            if me.done is not None:
                out["done"] = jnp.asarray(me.done(state), bool)
            return out

        rest: dict[str, Any] = {}

        def split(state: Any) -> Any:
            state = jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, np.ndarray | np.generic) else x, state)
            arrays, static = eqx.partition(state, eqx.is_array)
            if rest and not eqx.tree_equal(rest["static"], static):
                raise TypeError(
                    f"{type(study).__name__}.{p.name}: `advance` changed a part of the state that is no JAX array "
                    "(a Python number, say); make it a jax.numpy array."
                )
            rest["static"] = static
            return arrays

        def start(seed: Any, traced: Any) -> Any:
            me = learner(traced)
            state = me.init(jax.random.wrap_key_data(seed))
            return split(state), measured(me, state)

        def step(traced: Any, arrays: Any) -> Any:
            me = learner(traced)
            state = eqx.combine(arrays, rest["static"])
            new = me.advance(state)
            if me.done is not None:
                halt = jnp.asarray(me.done(state), bool)
                olds, news = split(state), split(new)
                new = eqx.combine(jax.tree.map(lambda a, b: jnp.where(halt, a, b), olds, news), rest["static"])
            return split(new), measured(me, new)

        def finish(traced: Any, arrays: Any) -> Any:
            me = learner(traced)
            state = eqx.combine(arrays, rest["static"])
            final = {} if me.final is None else me.final(state)
            return {name: jnp.asarray(value) for name, value in final.items()}

        size = block.size
        keys = jax.ShapeDtypeStruct((size, *_key_data(0).shape), jnp.uint32)
        values = tuple(jax.ShapeDtypeStruct((size,), _dtype(block.members[0][1][n])) for n in names)
        self._start = _Compiled(jax.vmap(start), (keys, values), devices)
        self.state_shape, _ = self._start.shape
        self._step = _Compiled(jax.vmap(step), (values, self.state_shape), devices, donate=True)
        self._finish = _Compiled(jax.vmap(finish), (values, self.state_shape), devices)
        self.seconds = 0.0

    def compile(self) -> None:
        """Compile what the group needs; `seconds` says how long it took."""
        began = time.perf_counter()
        wanted = [self._start, *([self._step] if self.shape.rounds else []), self._finish]
        for program in wanted:
            program.compile()
        self.bytes = max(program.bytes for program in wanted)
        self.seconds = time.perf_counter() - began

    def inputs(self, blocks: Sequence[Block]) -> tuple[Any, Any]:
        """Seeds and traced conditions of `abreast` blocks, padded to their shape."""
        members = [
            m for block in blocks for m in [*block.members, *[block.members[-1]] * (block.size - len(block.members))]
        ]
        seeds = np.stack([_key_data(seed) for seed, _ in members])
        names = tuple(members[0][1])
        return seeds, tuple(np.asarray([t[n] for _, t in members], _dtype(members[0][1][n])) for n in names)

    def start(self, seeds: Any, traced: Any) -> Any:
        """States and first measures of new members."""
        return self._start(seeds, traced)

    def step(self, traced: Any, arrays: Any) -> Any:
        """States and measures one round further on; `arrays` is used up."""
        return self._step(traced, arrays)

    def finish(self, traced: Any, arrays: Any) -> Any:
        """The final measures."""
        return self._finish(traced, arrays)


class _Compiled:
    """A function of `size` stacked members, compiled for one stack a device.

    Arrays that the function closes over become arguments, shared by all members: XLA would otherwise copy
    them into the program's text.
    """

    def __init__(self, function: Any, example: tuple[Any, ...], devices: Sequence[Any], donate: bool = False):
        import jax
        from jax.sharding import Mesh, NamedSharding
        from jax.sharding import PartitionSpec as P

        closed, self.shape = jax.make_jaxpr(function, return_shape=True)(*example)
        tree = jax.tree.structure(self.shape)

        def call(constants: Any, *arguments: Any) -> Any:
            flat = jax.core.eval_jaxpr(closed.jaxpr, constants, *jax.tree.leaves(arguments))  # pyright: ignore
            return jax.tree.unflatten(tree, flat)

        mesh = Mesh(np.asarray(devices), ("block",))
        specs = (P(), *[P("block") for _ in example])
        mapped = jax.shard_map(call, mesh=mesh, in_specs=specs, out_specs=P("block"), check_vma=False)
        self._sharding = NamedSharding(mesh, P("block"))
        whole = [jax.tree.map(lambda s: _times(s, len(devices), self._sharding), part) for part in example]
        self._constants = jax.device_put(
            [np.asarray(c) if not _is_key(c) else c for c in closed.consts], NamedSharding(mesh, P())
        )
        # The state is handed over (its memory is used for the next one); traced conditions are used again.
        self._lower = lambda: jax.jit(mapped, donate_argnums=(len(example),) if donate else ()).lower(
            self._constants, *whole
        )
        self._program: Any = None
        self.bytes = 0

    def compile(self) -> None:
        if self._program is None:
            self._program = self._lower().compile()
            size = self._program.memory_analysis()
            if size is not None:
                # Sizes are a device's; outputs that alias inputs are counted once.
                self.bytes = int(
                    size.temp_size_in_bytes
                    + size.argument_size_in_bytes
                    + size.output_size_in_bytes
                    - size.alias_size_in_bytes
                )

    def __call__(self, *arguments: Any) -> Any:
        import jax

        placed = jax.tree.map(
            lambda x: x if getattr(x, "sharding", None) == self._sharding else jax.device_put(x, self._sharding),
            arguments,
        )
        return self._program(self._constants, *placed)


def _times(s: Any, abreast: int, sharding: Any) -> Any:
    import jax

    return jax.ShapeDtypeStruct((s.shape[0] * abreast, *s.shape[1:]), s.dtype, sharding=sharding)


def _is_float(x: Any) -> bool:
    import jax.numpy as jnp

    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.inexact)


def _is_key(x: Any) -> bool:
    import jax
    import jax.numpy as jnp

    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _key_data(seed: int) -> np.ndarray:
    import jax

    return np.asarray(jax.random.key_data(jax.random.key(seed)))


def _dtype(value: Any) -> Any:
    return (
        np.int32
        if isinstance(value, int) and not isinstance(value, bool)
        else (bool if isinstance(value, bool) else np.float32)
    )


# The outer loop ----------------------------------------------------------------------------------------------


def run_blocks(
    study: Study, blocks: Sequence[Block], control: Control
) -> Iterator[tuple[Block, dict[str, np.ndarray]]]:
    """Run blocks and yield each one's evidence when it is done.

    Blocks of one group run abreast, one a device. A group whose program needs more memory than there is runs
    fewer blocks abreast, then smaller ones: `blocks` that come back may then be halves of those that went in.

    Yields:
        (block, arrays): names "series/NAME" with dims (member, step, ...), "final/NAME" with dims
        (member, ...), "series/diverged", "series/done" where the learner stops early, and "seconds" of
        compiling and running.

    Raises:
        Stopped: after the checkpoints are written, when `control.stop()` turns true.
    """
    import jax

    set_up()
    groups, devices = _groups(blocks), jax.devices()
    narrow = [group for group in groups if not group[0].host and len(group) == 1]
    wide = [group for group in groups if not group[0].host and len(group) > 1]
    compiler = _Compiler(study)
    for group, later in itertools.zip_longest(wide, wide[1:]):
        if later is not None:
            compiler.begin(later, devices)
        yield from _run_fitting(study, group, devices, compiler, control)
    yield from _in_lanes(study, narrow, devices, control)
    for group in groups:
        if group[0].host:
            for block in group:
                yield block, _run_host(study, block, control)


def _groups(blocks: Iterable[Block]) -> list[list[Block]]:
    groups: dict[tuple[str, str, int], list[Block]] = {}
    for block in blocks:
        groups.setdefault((block.part, repr(dict(block.static)), block.size), []).append(block)
    return list(groups.values())


class _Compiler:
    """Compiles the next group's programs while the present one's run: compiling takes one core, and seconds."""

    def __init__(self, study: Study):
        from concurrent.futures import ThreadPoolExecutor

        self.study = study
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="compile")
        self.begun: dict[tuple[str, int], Any] = {}

    def begin(self, group: Sequence[Block], devices: Sequence[Any]) -> None:
        """Start on a group that will be run next."""
        key = (group[0].name, min(len(devices), len(group)))
        self.begun[key] = self.pool.submit(self._compile, group[0], devices[: key[1]])

    def programs(self, block: Block, devices: Sequence[Any]) -> Programs:
        """The programs of a block's group, waiting for them if need be."""
        begun = self.begun.pop((block.name, len(devices)), None)
        return self._compile(block, devices) if begun is None else begun.result()

    def _compile(self, block: Block, devices: Sequence[Any]) -> Programs:
        programs = Programs(self.study, block, devices)
        programs.compile()
        return programs


def _in_lanes(
    study: Study, groups: Sequence[list[Block]], devices: Sequence[Any], control: Control
) -> Iterator[tuple[Block, dict[str, np.ndarray]]]:
    """Groups of one block, each compiled for and run on one device, as many at once as there are devices."""
    import queue
    from concurrent.futures import ThreadPoolExecutor, as_completed

    lanes = min(len(devices), len(groups))
    free: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for device in devices[:lanes]:
        free.put(device)
    failed = False
    room = _memory() if control.memory is None else control.memory
    mine = dataclasses.replace(control, stop=lambda: failed or control.stop(), memory=room // lanes if lanes else room)

    def lane(group: list[Block]) -> list[tuple[Block, dict[str, np.ndarray]]]:
        if mine.stop():
            raise Stopped
        device = free.get()
        try:
            return list(_run_fitting(study, group, [device], _Compiler(study), mine))
        finally:
            free.put(device)

    with ThreadPoolExecutor(max(1, lanes), thread_name_prefix="lane") as pool:
        futures = [pool.submit(lane, group) for group in groups]
        try:
            for future in as_completed(futures):
                yield from future.result()
        except BaseException:
            failed = True
            for future in futures:
                future.cancel()
            raise


def _run_fitting(
    study: Study, group: list[Block], devices: Sequence[Any], compiler: _Compiler, control: Control
) -> Iterator[tuple[Block, dict[str, np.ndarray]]]:
    """Run a group; where memory is short first fewer blocks abreast (the bits stay), then smaller ones."""
    waiting = [group]
    while waiting:
        group = waiting.pop(0)
        try:
            yield from _run_group(study, group, devices, compiler, control)
        except OutOfMemory as error:
            left = [block for block in group if block not in getattr(error, "done", ())]
            if left[0].size == 1 and len(left) == 1:
                raise MemoryError(
                    f"One member of {study.key} ({label_of(left[0])}) does not fit into memory."
                ) from error
            waiting = ([[b] for b in left] if len(left) > 1 else [[half] for half in left[0].halves()]) + waiting


def _run_group(
    study: Study, group: Sequence[Block], devices: Sequence[Any], compiler: _Compiler, control: Control
) -> Iterator[tuple[Block, dict[str, np.ndarray]]]:
    finished: list[Block] = []
    programs: dict[int, Programs] = {}
    abreast = min(len(devices), len(group))
    try:
        for first in range(0, len(group), abreast):
            together = group[first : first + abreast]
            if len(together) not in programs:
                control.report(Progress(together[0].name, label_of(together[0]), 0, 0, phase="compiling"))
                program = compiler.programs(together[0], devices[: len(together)])
                room = _memory() if control.memory is None else control.memory
                if program.bytes * len(together) > room and (len(together) > 1 or together[0].size > 1):
                    raise OutOfMemory
                programs[len(together)] = program
            results = _run_abreast(programs[len(together)], together, control)
            programs[len(together)].seconds = 0.0  # counted once
            for block, arrays in zip(together, results, strict=True):
                finished.append(block)
                yield block, arrays
    except Exception as error:
        if isinstance(error, OutOfMemory | MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            out = OutOfMemory()
            out.done = tuple(finished)  # type: ignore[attr-defined]
            raise out from error
        raise


def _memory() -> int:
    import jax

    device = jax.devices()[0]
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats:
        return int((stats["bytes_limit"] - stats["bytes_in_use"]) * 0.9)
    import psutil

    return int(psutil.virtual_memory().available * 0.8)


def _run_abreast(programs: Programs, blocks: Sequence[Block], control: Control) -> list[dict[str, np.ndarray]]:
    import jax

    began = time.perf_counter()
    size, rounds = blocks[0].size, programs.shape.rounds
    seeds, traced = programs.inputs(blocks)
    label = label_of(blocks[0])
    kept = [control.load(block.name) for block in blocks]
    history: list[dict[str, np.ndarray]] = []
    if all(k is not None for k in kept) and len({int(k["round"]) for k in kept}) == 1:  # type: ignore[index]
        done_rounds = int(kept[0]["round"])  # type: ignore[index]
        arrays = _stack_state(kept, programs.state_shape)  # type: ignore[arg-type]
        names = [n for n in kept[0] if n.startswith(_SERIES)]  # type: ignore[union-attr]
        history = [
            {n[len(_SERIES) :]: np.concatenate([k[n][:, r] for k in kept]) for n in names}  # type: ignore[index]
            for r in range(done_rounds + 1)
        ]
    else:
        done_rounds = 0
        arrays, first = programs.start(seeds, traced)
        history.append(_fetch(first))
    members = sum(len(b.members) for b in blocks)
    seconds_before = [float(k["seconds"][1]) if k is not None and done_rounds else 0.0 for k in kept]
    control.report(Progress(blocks[0].name, label, done_rounds, members, _metrics(history[-1])))

    def snapshot() -> None:
        state = jax.device_get([jax.random.key_data(x) if _is_key(x) else x for x in jax.tree.leaves(arrays)])
        spent = time.perf_counter() - began
        for i, block in enumerate(blocks):
            rows = slice(i * size, (i + 1) * size)
            control.save(
                block.name,
                {
                    "round": np.asarray(done_rounds),
                    "seconds": np.asarray([programs.seconds, seconds_before[i] + spent]),
                    **{f"{_STATE}{j}": np.asarray(x)[rows] for j, x in enumerate(state)},
                    **{_SERIES + n: np.stack([h[n][rows] for h in history], axis=1) for n in history[0]},
                },
            )

    saved, cost = time.monotonic(), 0.0
    pending: Any = None
    while done_rounds < rounds:
        if control.stop():
            snapshot()
            raise Stopped
        if control.every <= 0 or time.monotonic() - saved > max(control.every, 20 * cost):
            began_save = time.monotonic()
            snapshot()
            saved = time.monotonic()
            cost = saved - began_save
        arrays, pending = programs.step(traced, arrays)
        done_rounds += 1
        history.append(_fetch(pending))
        control.report(Progress(blocks[0].name, label, 1, members, _metrics(history[-1])))
        if "done" in history[-1] and history[-1]["done"].all():
            control.report(Progress(blocks[0].name, label, rounds - done_rounds, members))
            history += [history[-1]] * (rounds - done_rounds)  # nobody is advanced any more: nothing changes
            break
    final = jax.device_get(programs.finish(traced, arrays))
    spent = time.perf_counter() - began
    results = []
    for i, block in enumerate(blocks):
        rows = slice(i * size, i * size + len(block.members))
        result = {_SERIES + n: np.stack([h[n][rows] for h in history], axis=1) for n in history[0]}
        result |= {_FINAL + n: np.asarray(x)[rows] for n, x in final.items()}
        result["seconds"] = np.asarray([programs.seconds, seconds_before[i] + spent])
        results.append(result)
    return results


def _fetch(out: Mapping[str, Any]) -> dict[str, np.ndarray]:
    import jax

    got = jax.device_get(out)
    flat = {name: np.asarray(value) for name, value in got["measures"].items()}
    return flat | {name: np.asarray(got[name]) for name in ("diverged", "done") if name in got}


def _metrics(measures: Mapping[str, np.ndarray]) -> dict[str, float]:
    return {n: float(np.mean(x)) for n, x in measures.items() if x.ndim == 1 and n not in ("diverged", "done")}


def _stack_state(kept: Sequence[Mapping[str, np.ndarray]], shape: Any) -> Any:
    import jax

    leaves, tree = jax.tree.flatten(shape)
    stacked = [np.concatenate([k[f"{_STATE}{j}"] for k in kept]) for j in range(len(leaves))]
    return jax.tree.unflatten(
        tree,
        [
            jax.random.wrap_key_data(jax.numpy.asarray(x)) if _is_key(leaf) else x
            for x, leaf in zip(stacked, leaves, strict=True)
        ],
    )


def _run_host(study: Study, block: Block, control: Control) -> dict[str, np.ndarray]:
    """One member of a host learner, in plain Python. Its state is checkpointed where it is a pytree of arrays."""
    import jax

    began = time.perf_counter()
    p = study.parts[block.part]
    (seed, traced), label = block.members[0], label_of(block)
    learner = build(study, p, block.static, traced)
    state = learner.init(jax.random.key(seed))
    history: list[dict[str, np.ndarray]] = []

    def measured() -> dict[str, np.ndarray]:
        flat = {name: np.asarray(value) for name, value in learner.measure(state).items()}
        nan = any(np.isnan(x).any() for x in flat.values() if np.issubdtype(x.dtype, np.inexact))
        flat["diverged"] = np.asarray(nan)
        if learner.done is not None:
            flat["done"] = np.asarray(bool(learner.done(state)))
        return flat

    kept = control.load(block.name)
    done_rounds, before = 0, 0.0
    leaves, tree = jax.tree.flatten(state)
    if kept is not None and sum(n.startswith(_STATE) for n in kept) == len(leaves):
        done_rounds, before = int(kept["round"]), float(kept["seconds"][1])
        state = jax.tree.unflatten(tree, [_like(kept[f"{_STATE}{j}"], leaf) for j, leaf in enumerate(leaves)])
        names = [n for n in kept if n.startswith(_SERIES)]
        history = [{n[len(_SERIES) :]: kept[n][0, r] for n in names} for r in range(done_rounds + 1)]
    else:
        history.append(measured())

    def snapshot() -> None:
        now = jax.tree.leaves(state)
        if not all(isinstance(x, np.ndarray | np.generic | jax.Array | int | float | bool) for x in now):
            return  # such a member starts again after an interruption
        arrays = {f"{_STATE}{j}": np.asarray(jax.random.key_data(x) if _is_key(x) else x) for j, x in enumerate(now)}
        series = {_SERIES + n: np.stack([h[n] for h in history])[None] for n in history[0]}
        spent = np.asarray([0.0, before + time.perf_counter() - began])
        control.save(block.name, {"round": np.asarray(done_rounds), "seconds": spent, **arrays, **series})

    def watch() -> dict[str, float]:
        return {n: float(x) for n, x in history[-1].items() if x.ndim == 0 and n not in ("diverged", "done")}

    control.report(Progress(block.name, label, done_rounds, 1, watch()))
    saved = time.monotonic()
    while done_rounds < learner.rounds:
        if control.stop():
            snapshot()
            raise Stopped
        if control.every <= 0 or time.monotonic() - saved > control.every:
            snapshot()
            saved = time.monotonic()
        if not ("done" in history[-1] and history[-1]["done"]):
            state = learner.advance(state)
            done_rounds += 1
            history.append(measured())
        else:
            done_rounds += 1
            history.append(history[-1])
        control.report(Progress(block.name, label, 1, 1, watch()))
    if control.stop():
        snapshot()
        raise Stopped
    final = {} if learner.final is None else learner.final(state)
    result = {_SERIES + n: np.stack([h[n] for h in history])[None] for n in history[0]}
    result |= {_FINAL + n: np.asarray(x)[None] for n, x in final.items()}
    result["seconds"] = np.asarray([0.0, before + time.perf_counter() - began])
    return result


def _like(stored: np.ndarray, leaf: Any) -> Any:
    import jax
    import jax.numpy as jnp

    if _is_key(leaf):
        return jax.random.wrap_key_data(jnp.asarray(stored))
    if isinstance(leaf, jax.Array):
        return jnp.asarray(stored)
    return stored if isinstance(leaf, np.ndarray) else type(leaf)(stored)
