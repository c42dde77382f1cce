"""The engine keeps members apart, and gives the same bits however it is driven."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen import Learner, Study, UserError
from unseen.lab import engine
from unseen.lab.engine import Block, Control, blocks_for, plan, run_blocks


def collect(study, blocks, **control):
    """Evidence by (part, static, seed, traced, name)."""
    found = {}
    for block, arrays in run_blocks(study, blocks, Control(**control)):
        for row, (seed, traced) in enumerate(block.members):
            for name, values in arrays.items():
                if name != "seconds":
                    found[block.part, repr(block.static), seed, repr(traced), name] = values[row]
    return found


def assert_same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=str(key))


@pytest.fixture(scope="module")
def study(toy):
    return toy.at_scale(seeds=5, steps=40)


@pytest.fixture(scope="module")
def blocks(study):
    return plan(study)[0]


@pytest.fixture(scope="module")
def truth(study, blocks):
    return collect(study, blocks)


@pytest.mark.parametrize(("members", "count"), [(1, 1), (2, 2), (5, 2), (16, 2), (32, 2), (33, 4), (72, 6), (3, 2)])
def test_a_group_is_cut_into_an_even_number_of_blocks(members, count):
    assert blocks_for(members) == count


def test_the_plan_covers_every_member_once_in_blocks_of_one_shape(study, blocks):
    members = [(b.part, repr(b.static), seed, repr(t)) for b in blocks for seed, t in b.members]
    assert len(members) == len(set(members)) == 5 * (3 * 2 + 2 + 2)
    for group in engine._groups(blocks):
        assert len({b.size for b in group}) == 1 and all(len(b.members) <= b.size for b in group)


def test_the_plan_does_not_depend_on_the_machine(study, blocks, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda *a: [object()])
    assert plan(study)[0] == blocks


def test_one_block_at_a_time_or_many_abreast_give_the_same_bits(study, blocks, truth):
    alone = {}
    for block in reversed(blocks):
        alone |= collect(study, [block])
    assert_same(alone, truth)


def test_a_member_does_not_depend_on_its_block_mates(study, blocks, truth):
    block = next(b for b in blocks if len(b.members) > 2)
    turned = dataclasses.replace(block, members=block.members[::-1])
    padded = dataclasses.replace(block, members=block.members[:1])
    found = collect(study, [turned]) | {}
    assert_same(found, {k: truth[k] for k in found})
    found = collect(study, [padded])
    assert_same(found, {k: truth[k] for k in found})


@pytest.mark.parametrize("rounds", [0, 1, 3])
def test_a_stopped_block_goes_on_from_its_checkpoint_with_the_same_bits(study, blocks, truth, rounds):
    shelf = {}
    seen = []

    def stop():
        return len(seen) > rounds + 1

    with pytest.raises(engine.Stopped):
        collect(study, blocks, save=shelf.__setitem__, stop=stop, report=seen.append)
    assert shelf and all(a.dtype != object for arrays in shelf.values() for a in arrays.values())
    begun = []

    def load(name):
        begun.append(name in shelf)
        return shelf.get(name)

    assert_same(collect(study, blocks, load=load), truth)
    assert any(begun)


def test_checkpoints_of_different_rounds_are_not_mixed(study, blocks, truth):
    shelf = {}
    group = engine._groups(blocks)[0]
    for block in group[:1]:  # only one of two blocks that run abreast left a checkpoint
        with pytest.raises(engine.Stopped):
            seen = []
            collect(study, [block], save=shelf.__setitem__, stop=lambda: len(seen) > 1, report=seen.append)  # noqa: B023
    found = collect(study, group, load=shelf.get)
    assert_same(found, {k: truth[k] for k in found})


def test_early_stopping_freezes_a_member_and_says_when(study, truth):
    stopped = [k for k in truth if "stopped" in k[1] and k[-1] == "series/done"]
    losses = {k[:-1]: truth[(*k[:-1], "series/loss")] for k in stopped}
    ended = 0
    for key in stopped:
        done = truth[key]
        loss = losses[key[:-1]]
        np.testing.assert_array_equal(done, loss < 0.76)
        if done.any():
            ended += 1
            first = done.argmax()
            assert (loss[first:] == loss[first]).all() and done[first:].all()
    assert 0 < ended < len(stopped)


def test_a_diverged_member_is_kept_and_does_not_touch_the_others(toy, truth):
    study = toy.at_scale(seeds=5, steps=40, poison=102)
    found = collect(study, [b for b in plan(study)[0] if b.part == "learner"])
    for key, values in found.items():
        if key[2] == 102:
            if key[-1] == "series/diverged":
                assert not values[0] and values[1:].all()
            if key[-1] == "series/loss":
                assert np.isfinite(values[0]) and np.isnan(values[1:]).all()
        else:
            np.testing.assert_array_equal(values, truth[key])


def test_too_little_memory_for_two_abreast_keeps_the_bits(study, blocks, truth):
    group = engine._groups(blocks)[0]
    need = engine.Programs(study, group[0], jax.devices()[:1])
    need.compile()
    found = collect(study, group, memory=int(need.bytes * 1.5))
    assert_same(found, {k: truth[k] for k in found})
    assert {k[2] for k in found} == set(range(100, 105))


def test_too_little_memory_for_a_block_halves_it_and_loses_nobody(study, blocks, truth):
    group = engine._groups(blocks)[0]
    need = engine.Programs(study, group[0], jax.devices()[:1])
    need.compile()
    sizes = []
    control = Control(memory=int(need.bytes * 0.6))
    members = set()
    for block, arrays in run_blocks(study, group, control):
        sizes.append(block.size)
        members |= {(seed, repr(t)) for seed, t in block.members}
        for row, (seed, traced) in enumerate(block.members):
            key = ("learner", repr(block.static), seed, repr(traced), "final/end")
            np.testing.assert_allclose(arrays["final/end"][row], truth[key], rtol=1e-4)
    assert max(sizes) < group[0].size
    assert members == {(seed, repr(t)) for b in group for seed, t in b.members}


def test_out_of_memory_while_running_halves_the_block_and_goes_on(study, blocks, truth, monkeypatch):
    group = engine._groups(blocks)[0]
    step, failures = engine.Programs.step, []

    def failing(self, traced, arrays):
        if self.block.size == group[0].size:
            failures.append(self.abreast)
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes.")
        return step(self, traced, arrays)

    monkeypatch.setattr(engine.Programs, "step", failing)
    found = collect(study, group)
    assert failures[0] == min(2, len(jax.devices())) and 1 in failures
    assert {k[2:4] for k in found} == {k[2:4] for k in truth if k[:2] == ("learner", repr(group[0].static))}


class Closing(Study):
    """A learner that closes over a large array."""

    size: int = 1_000_000  # numbers

    def learner(self):
        table = jnp.arange(self.size, dtype=jnp.float32)
        return Learner(
            init=lambda key: jax.random.uniform(key),
            advance=lambda x: x + table[-1],
            measure=lambda x: {"x": x},
            steps=2,
        )


def test_arrays_that_a_learner_closes_over_are_shared_not_copied():
    study = Closing()
    block = plan(study)[0][0]
    programs = engine.Programs(study, block, jax.devices()[:1])
    text = programs._step._lower().as_text()
    assert len(text) < 100_000 < 4 * study.size


class Counting(Study):
    """A learner whose state holds a Python number."""

    def learner(self):
        return Learner(init=lambda key: (jax.random.uniform(key), 0), advance=lambda s: (s[0], s[1] + 1), steps=2)


def test_a_python_number_that_changes_in_the_state_is_refused_in_one_sentence():
    study = Counting()
    with pytest.raises(TypeError, match=r"make it a jax\.numpy array"):
        collect(study, plan(study)[0])


class Bounded(Study):
    """A learner that cannot be built everywhere."""

    varies = dict(fraction=(0.5, 1.5))

    def learner(self, fraction):
        if fraction > 1:
            raise ValueError(f"fraction takes a number up to 1, got {fraction}.")
        return Learner.once(lambda key: {"x": fraction})


def test_a_setting_that_a_learner_refuses_is_named():
    with pytest.raises(UserError, match=r"bounded|fraction=1\.5.*takes a number up to 1"):
        plan(Bounded())


def test_the_engine_equals_a_hand_written_loop_bit_for_bit(study, blocks, truth):
    block = next(b for b in blocks if b.part == "learner" and b.static == {"kind": "plain"})
    rate = jnp.asarray([t["rate"] for _, t in block.members], jnp.float32)
    keys = jax.vmap(jax.random.key)(jnp.asarray([s for s, _ in block.members]))
    states = jax.jit(jax.vmap(lambda r, k: study.learner(r, "plain").init(k)))(rate, keys)
    advance = jax.jit(jax.vmap(lambda r, s: study.learner(r, "plain").advance(s)))
    measure = jax.jit(jax.vmap(lambda r, s: study.learner(r, "plain").measure(s)))
    for i in range(5):
        losses = np.asarray(measure(rate, states)["loss"])
        for row, (seed, traced) in enumerate(block.members):
            kept = truth["learner", repr(block.static), seed, repr(traced), "series/loss"][i]
            np.testing.assert_allclose(kept, losses[row], rtol=1e-6)
        states = advance(rate, states)


def test_a_block_survives_json():
    import json

    from unseen.lab.executors import _block

    block = Block("learner", {"kind": "plain", "n": 3}, ((100, {"rate": 0.1}), (101, {"rate": 0.1})), 4)
    again = _block(json.loads(json.dumps(dataclasses.asdict(block))))
    assert again.name == block.name and again.members == block.members
