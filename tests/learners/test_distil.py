import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.learners.distil import demonstrate, distances, distil, imitation_error, relative_distance
from unseen.models import JointAttentionPolicy
from unseen.worlds.control.gaits import Bodies, GaitExpert
from unseen.worlds.control.swimmer import Swimmer


@pytest.fixture(scope="module")
def bodies():
    present = jnp.arange(7) < jnp.array([4, 5, 6])[:, None]
    gear = jnp.array([[1.0, -1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1], [-1, 1, 1, -1, 1, 1]])
    swimmers = Swimmer(present * 1.0, jnp.full((3, 7), 3.0), gear, present)
    return Bodies(swimmers, GaitExpert(jnp.full(3, 0.9), jnp.full(3, -1.0)), jnp.ones(3))


def test_demonstrations_are_the_expert_in_the_states_it_meets(bodies):
    tokens, actions = demonstrate(jax.random.key(0), bodies, jnp.array([2, 0, 1, 0]), steps=25)
    assert tokens.shape == (4, 25, 6, 14) and actions.shape == (4, 25, 6)
    assert tokens[:, 0, :, 0].sum(1).tolist() == [5, 3, 4, 3]
    assert not np.allclose(tokens[1], tokens[3])  # another start
    # The angle that a joint senses next is where the action took it (4 rad a unit of time, steps of 0.1).
    gears = bodies.swimmers.gear[jnp.array([2, 0, 1, 0])][:, None]
    moved = jnp.diff(tokens[..., 1], axis=1) * 1.2
    wanted = tokens[:, :-1, :, 1] * 1.2 + 0.4 * actions[:, :-1] * gears
    np.testing.assert_allclose(moved, jnp.clip(wanted, -1.2, 1.2) - tokens[:, :-1, :, 1] * 1.2, atol=1e-5)


def test_a_policy_that_imitates_perfectly_swims_like_the_expert(bodies):
    one = bodies[jnp.array([1])]
    body, expert = one.swimmers[0], one.experts

    def copy(tokens):  # the wave from clock and angle alone, all gears forward
        phase = jnp.arctan2(tokens[0, 2], tokens[0, 3]) + expert.lag[0] * jnp.arange(6)
        rate = 0.9 * jnp.pi * jnp.cos(phase) + 4 * (0.9 * jnp.sin(phase) - 1.2 * tokens[:, 1])
        return jnp.clip(rate / 4, -1, 1) * body.joints

    key = jax.random.key(3)
    expected, found = distances(key, one), distances(key, one, copy)
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    np.testing.assert_allclose(relative_distance(found, expected), 1, rtol=1e-3)
    assert relative_distance(jnp.array([-9.0, 9.0]), jnp.ones(2)).tolist() == pytest.approx([-1, 1.2])
    assert float(distances(key, one, lambda tokens: tokens[:, 1] * 0)[0]) == pytest.approx(0, abs=1e-6)


def test_distillation_learns_the_experts_and_leaves_out_what_has_no_weight(bodies):
    def episodes(key):
        return jnp.array([0, 1, 2]), jnp.array([1.0, 1.0, 0.0])

    learner = distil(
        lambda key: JointAttentionPolicy(16, 8, key=key), bodies, episodes, jnp.array([2]),
        updates=200, every=100, batch_size=64, steps=60, dims={"x": ("y",)},
    )  # fmt: skip
    assert learner.dims == {"x": ("y",)}
    state = jax.jit(learner.init)(jax.random.key(0))
    assert state.data.train.tolist() == [1.0] * 120 + [0.0] * 120
    assert state.data.test.tolist() == [0.0] * 180 + [1.0] * 60
    before, advance = learner.measure(state), jax.jit(learner.advance)
    after = learner.measure(advance(advance(state)))
    assert float(after["train_loss"]) < 0.7 * float(before["train_loss"])
    assert set(after) == {"train_loss", "test_loss"}
    np.testing.assert_allclose(imitation_error(jnp.ones((2, 6)), jnp.zeros((2, 6))), [6, 6])
