"""How much of the machine's matrix-product speed the training step of a transformer study reaches.

    python -m benchmarks.matmul [--write]

Peak: the best single-precision product of two square matrices, over sizes, by NumPy's BLAS, JAX and PyTorch, on all
cores. Achieved: the floating-point operations of all matrix products in the engine's compiled step, counted in its
jaxpr (2 m n k each, times the batch and the length of the scans around it), over the time that the step takes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks.clock import said
from benchmarks.engine_side import own_home
from benchmarks.report import Result, command
from benchmarks.tasks import SmallTransformer
from unseen.lab.engine import Programs, plan
from unseen.lab.study import Study
from unseen.studies.dynamics.grokking import GrokkingStudy

SIZES = (256, 512, 1024, 2048, 4096)


# Counting --------------------------------------------------------------------------------------------------


def product_flops(jaxpr: Any) -> int:
    """Floating-point operations of all matrix products in a jaxpr, those in its scans as often as they run.

    Loops of unknown length count once; there are none in the training steps here.
    """
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), (batch, _) = equation.params["dimension_numbers"]
            left, right = (v.aval.shape for v in equation.invars)
            inner = math.prod(left[i] for i in contracted)
            shared = math.prod(left[i] for i in batch)
            total += 2 * math.prod(left) * math.prod(right) // (inner * shared)
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        total += times * sum(product_flops(inner) for inner in _within(equation))
    return total


def _within(equation: Any) -> list[Any]:
    """The jaxprs that an equation holds; of the branches of a condition, the dearest."""
    if equation.primitive.name == "cond":
        return [max((branch.jaxpr for branch in equation.params["branches"]), key=product_flops)]
    found = []
    for value in equation.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if hasattr(item, "eqns"):
                found.append(item)
            elif hasattr(item, "jaxpr") and hasattr(item.jaxpr, "eqns"):
                found.append(item.jaxpr)
    return found


def textbook_flops(study: SmallTransformer) -> int:
    """6 x parameters x tokens for the linear layers and 12 x layers x width x time x tokens for attention, one
    update and member; the embedding and the read-out, both products here, are among the parameters."""
    model = jax.eval_shape(study.network, jax.random.key(0))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(model))
    time_ = 2 * study.length
    tokens = study.batch * time_
    return 6 * parameters * tokens + 12 * study.layers * study.width * time_ * tokens


# Peak ------------------------------------------------------------------------------------------------------


def products(n: int) -> dict[str, Callable[[], object]]:
    """One product of two n x n matrices by each library; by JAX also one on every core at once, both counted."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((n, n), np.float32) for _ in range(2))
    out = np.empty_like(a)
    left, right = torch.from_numpy(a), torch.from_numpy(b)
    result = torch.from_numpy(out)
    placed = [(jax.device_put(a, device), jax.device_put(b, device)) for device in jax.devices()]
    times = jax.jit(jnp.matmul)
    return {
        "NumPy": lambda: np.matmul(a, b, out=out),
        "PyTorch": lambda: torch.mm(left, right, out=result),
        "JAX, one product": lambda: times(*placed[0]).block_until_ready(),
        "JAX, one a core": lambda: jax.block_until_ready([times(x, y) for x, y in placed]),
    }


def peaks(sizes: tuple[int, ...], seconds: float) -> dict[str, tuple[float, int]]:
    """Best speed of each library in FLOP/s, and the size at which it was reached; the libraries take turns."""
    best: dict[str, tuple[float, int]] = {}
    torch.set_num_threads(len(jax.devices()))
    for n in sizes:
        calls = products(n)
        spent = dict.fromkeys(calls, 0.0)
        while min(spent.values()) < seconds:
            for name, call in calls.items():
                if spent[name] >= seconds:
                    continue
                began = time.perf_counter()
                call()
                took = time.perf_counter() - began
                spent[name] += took
                count = len(jax.devices()) if name == "JAX, one a core" else 1
                best[name] = max(best.get(name, (0.0, 0)), (count * 2 * n**3 / took, n))
    return best


# Achieved --------------------------------------------------------------------------------------------------


def step_speed(study: Study, seconds: float) -> tuple[list[float], int]:
    """FLOP/s of the engine's step for all blocks that run at once.

    Returns:
        Speeds of single calls, and the number of members.
    """
    blocks, _ = plan(study)
    abreast = min(len(jax.devices()), len(blocks))
    programs = Programs(study, blocks[0], jax.devices()[:abreast])
    programs.compile()
    members = abreast * blocks[0].size
    seeds, traced = programs.inputs(blocks[:abreast])
    state, _ = programs.start(seeds, traced)
    part = study.parts["learner"]
    learner = part.build(study, **blocks[0].static, **blocks[0].members[0][1])
    one = jax.eval_shape(learner.init, jax.random.key(0))
    flops = members * product_flops(jax.make_jaxpr(lambda s: learner.measure(learner.advance(s)))(one).jaxpr)
    speeds, spent = [], 0.0
    state, _ = jax.block_until_ready(programs.step(traced, state))
    while spent < seconds or len(speeds) < 3:
        began = time.perf_counter()
        state, _ = jax.block_until_ready(programs.step(traced, state))
        took = time.perf_counter() - began
        spent += took
        speeds.append(flops / took)
    return speeds, members


def studies(tiny: bool) -> dict[str, Study]:
    """The transformers of two studies: strings of `chomsky-hierarchy`, pairs of `grokking` at paper scale."""
    if tiny:
        small = SmallTransformer(width=8, batch=4, length=3, pool=16, steps=1, every=1, seeds=2)
        return {"2 layers of 8": small}
    strings = SmallTransformer(steps=4, every=4, seeds=16, first_seed=0)
    one_cell = dict(operation=("add",), train_fraction=(0.45,), weight_decay=(1.0,), modulus=47, batch_size=512)
    pairs = GrokkingStudy.at_scale("paper", **one_cell, steps=4, every=4, seeds=2, first_seed=0)
    return {"`chomsky-hierarchy`, 2 layers of 64": strings, "`grokking`, 2 layers of 128": pairs}


def measure(tiny: bool = False) -> Result:
    """Peaks before and after the steps, the better of both; every speed as a share of the best peak."""
    seconds = 0.01 if tiny else 0.5
    with own_home():
        before = peaks(SIZES[:1] if tiny else SIZES, seconds)
        found = {name: step_speed(study, 0.1 if tiny else 8.0) for name, study in studies(tiny).items()}
        after = peaks(SIZES[:1] if tiny else SIZES, seconds)
    best = {name: max(before[name], after[name]) for name in before}
    peak = max(speed for speed, _ in best.values())
    rows = [
        [f"product, {name}", f"n = {n:,}", f"{speed / 1e9:.0f} GFLOP/s", f"{100 * speed / peak:.0f} %"]
        for name, (speed, n) in best.items()
    ]
    for name, (speeds, members) in found.items():
        shares = [100 * speed / peak for speed in speeds]
        speed = said([s / 1e9 for s in speeds], " GFLOP/s")
        rows.append([f"training step, {name}", f"{members} members", speed, said(shares, " %", 2)])
    strings = SmallTransformer()
    update = product_flops(_update(strings))
    notes = [
        "Single precision, all cores. The peak is the largest product speed; products show their best call, training "
        "steps the median (smallest to largest) of single calls of the engine's compiled step, each with its "
        "evaluation.",
        "FLOP are those of the matrix products in the step's jaxpr, nothing else counted. For an update of the "
        f"transformer on strings that is {update / 1e9:.2f} GFLOP; the textbook count, 6 x parameters x tokens plus "
        f"attention, says {textbook_flops(strings) / 1e9:.2f}.",
    ]
    return Result("matmul", "Share of the matrix-product peak", COLUMNS, rows, notes, ("torch", "scipy"))


COLUMNS = ("", "size", "speed", "of the peak")


def _update(study: SmallTransformer) -> Any:
    """The jaxpr of one update of one member."""
    learner = SmallTransformer(steps=1, every=1, width=study.width, pool=study.batch).learner()
    state = jax.eval_shape(learner.init, jax.random.key(0))
    return jax.make_jaxpr(learner.advance)(state).jaxpr


if __name__ == "__main__":
    command(__doc__, measure)
