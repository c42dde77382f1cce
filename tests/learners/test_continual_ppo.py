import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.lab import UserError
from unseen.learners import ContinualPPO
from unseen.worlds.control import TaskSuite

SUITE = TaskSuite(("reach", "drawer-close", "door-open"), shows_task=True, max_steps=8)
WORDS = jax.random.normal(jax.random.key(1), (3, 24))
WORDS = WORDS / jnp.linalg.norm(WORDS, axis=-1, keepdims=True)
SMALL = dict(
    suite=SUITE, embeddings=WORDS, sequence=2, penalty=0.05, width=16, critic_width=8, episodes=8, epochs=2,
    minibatches=2, code_rate=0.02,
)  # fmt: skip
# prompted, updated, shuffled, joint, fresh: one program for all.
ARMS = {
    "tuned": (0.0, 0.0, 0.0, 0.0, 0.0),
    "sparse": (1.0, 1.0, 0.0, 0.0, 0.0),
    "frozen": (1.0, 0.0, 0.0, 0.0, 0.0),
    "random": (1.0, 0.0, 1.0, 0.0, 0.0),
    "joint": (0.0, 0.0, 0.0, 1.0, 0.0),
    "scratch": (0.0, 0.0, 0.0, 0.0, 1.0),
}
SEEN = jnp.concatenate([jax.random.normal(jax.random.key(2), (6, 12)), jnp.tile(jnp.eye(3)[0], (6, 1))], -1)


def trainer(flags, **more):
    names = ("prompted", "updated", "shuffled", "joint", "fresh")
    return ContinualPPO(**SMALL, **dict(zip(names, flags, strict=True)), **more)


def told(ppo, state):
    """What can be compared of a state: its arrays, and what the policy does in the first task."""
    one, two = state.policy.hidden
    return {
        "acts": state.policy(SEEN, ppo.masks(state.codes[0])), "codes": state.codes, "used": state.used,
        "dictionaries": state.dictionaries, "policy": one.weight, "second": two.weight,
        "count": state.optimizer[1][0].count, "masks": ppo.masks(state.codes),
    }  # fmt: skip


@pytest.fixture(scope="module")
def lives():
    """Each arm at the start, after the first task, and after the second one."""

    def start(flags):
        state = trainer(flags).init(jax.random.key(0))
        return state, told(trainer(flags), state)

    def go_on(flags, state, task):
        after = trainer(flags).phase(state, task, 3)
        return after, told(trainer(flags), after)

    flags = jnp.array(list(ARMS.values()))
    state, told_first = eqx.filter_jit(eqx.filter_vmap(start))(flags)
    phase = eqx.filter_jit(eqx.filter_vmap(go_on, in_axes=(0, eqx.if_array(0), None)))
    found = [told_first]
    for task in (0, 1):
        state, now = phase(flags, state, jnp.array(task))
        found.append(now)
    take = lambda i: [jax.tree.map(lambda x: np.asarray(x[i]), part) for part in found]  # noqa: E731
    return {name: take(i) for i, name in enumerate(ARMS)}


def test_sub_networks_of_earlier_tasks_do_not_move_bit_for_bit(lives):
    for name in ("sparse", "frozen", "random"):
        start, first, second = lives[name]
        assert np.array_equal(first["acts"], second["acts"]) and not np.allclose(start["acts"], first["acts"])
        one, two = first["used"]
        assert np.array_equal(first["policy"][one], second["policy"][one])
        kept = two[:, None] & one
        assert np.array_equal(first["second"][kept], second["second"][kept])
        assert not np.array_equal(first["second"][~kept], second["second"][~kept])  # while others learn
        assert np.array_equal(first["codes"][0], second["codes"][0])
    for name in ("tuned", "joint", "scratch"):
        assert not np.allclose(lives[name][1]["acts"], lives[name][2]["acts"])


def test_used_neurons_are_those_of_trained_masks(lives):
    for name in ("sparse", "frozen", "random"):
        start, first, second = lives[name]
        assert not start["used"].any() and np.array_equal(first["used"], first["masks"][0] > 0)
        assert np.array_equal(second["used"], (second["masks"][:2] > 0).any(0))
    assert (lives["tuned"][2]["masks"] == 1).all()


def test_training_changes_the_code_only_where_it_is_positive(lives):
    for name, moves in (("sparse", True), ("tuned", False)):
        before, after = lives[name][0]["codes"][0], lives[name][1]["codes"][0]
        assert np.array_equal(before[before <= 0], after[before <= 0])
        assert bool((before != after)[before > 0].any()) == moves
        # The running task's code alone, and the others' follow the dictionary.
        assert np.array_equal(lives["frozen"][0]["codes"][1:], lives["frozen"][1]["codes"][1:])


def test_only_the_learned_dictionary_moves_and_the_next_prompts_with_it(lives):
    for name, moves in (("sparse", True), ("frozen", False), ("random", False), ("tuned", False)):
        start, first, _ = lives[name]
        assert np.array_equal(start["dictionaries"], first["dictionaries"]) != moves
        assert np.array_equal(start["codes"][2], first["codes"][2]) != moves
    assert np.array_equal(lives["sparse"][0]["codes"], lives["frozen"][0]["codes"])  # the same before


def test_random_masks_are_as_large_and_elsewhere(lives):
    frozen, mixed = (lives[name][0]["codes"] for name in ("frozen", "random"))
    assert np.array_equal(np.sort(frozen, -1), np.sort(mixed, -1)) and not np.array_equal(frozen, mixed)


def test_who_begins_anew(lives):
    """Joint training goes on through its phases; all others have new optimizers, scratch an untrained policy."""
    updates = 3 * SMALL["epochs"] * SMALL["minibatches"]
    for name in ARMS:
        assert [part["count"] for part in lives[name][1:]] == [updates, updates * (2 if name == "joint" else 1)]
    tuned, scratch = lives["tuned"], lives["scratch"]
    assert np.array_equal(tuned[1]["policy"], scratch[1]["policy"])  # the first task is learned alike
    # One task moves the first layer less than two tasks do.
    moved, twice = (np.abs(arm[2]["policy"] - arm[0]["policy"]).mean() for arm in (scratch, tuned))
    assert 0 < moved < 0.9 * twice
    # The one-hot of a task that a new policy has not seen has no weights.
    assert (scratch[2]["policy"][:, -3] == 0).all() and (tuned[2]["policy"][:, -3] != 0).any()


def test_joint_training_plays_the_sequence_and_the_others_their_task():

    @jax.jit
    def seen(flags, task):
        ppo = trainer(flags)
        return ppo.play(ppo.init(jax.random.key(0)), task, jax.random.key(3))[0][..., -3:].argmax(-1)

    # A task after the sequence is learned alone.
    for name, task, tasks in (("joint", 1, {0, 1}), ("tuned", 1, {1}), ("joint", 2, {2})):
        assert set(np.asarray(seen(jnp.array(ARMS[name]), task)).ravel().tolist()) == tasks


def test_settings_that_do_not_fit():
    with pytest.raises(UserError, match="multiple of minibatches, 2, got 7"):
        ContinualPPO(**SMALL | dict(episodes=7))
    with pytest.raises(UserError, match="embeddings takes 3 rows, got 2"):
        ContinualPPO(**SMALL | dict(embeddings=WORDS[:2]))
