import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("gymnax")

from unseen.lab import UserError
from unseen.worlds.control.embodiments import Embodiments, find_gaits, generate_bodies, random_swimmers
from unseen.worlds.control.gaits import swim
from unseen.worlds.control.swimmer import start


@pytest.fixture(scope="module")
def bodies():
    return generate_bodies(20, seed=5)


def test_every_body_swims_as_far_as_its_gait_says(bodies):
    def distance(one):
        return swim(one.swimmers, start(one.swimmers, jnp.zeros(6)), lambda s: one.experts(one.swimmers, s))[1]

    np.testing.assert_allclose(jax.vmap(distance)(bodies), bodies.distance, rtol=1e-5)
    assert float(bodies.distance.min()) >= 0.3


def test_slow_bodies_are_rejected_at_generation(bodies):
    drawn = find_gaits(jax.random.key(0), random_swimmers(jax.random.key(1), 12, 3))
    assert (np.asarray(drawn.distance) < 0.3).any()  # what the rule keeps out
    with pytest.raises(UserError, match="least"):
        generate_bodies(12, links=(3,), least=50.0)


def test_classes_take_turns_and_axes_are_within_their_ranges(bodies):
    body = bodies.swimmers
    assert body.links.tolist() == [3, 4, 5, 6, 7] * 4 and len(bodies) == 20
    sizes = np.asarray(body.length)[np.asarray(body.present)]
    assert sizes.min() >= 0.5 and sizes.max() <= 1.5
    normal = np.maximum(body.ratio, 1 / body.ratio)
    assert normal.min() >= 1.5 and normal.max() <= 4.0
    assert (np.asarray(body.ratio) > 1).any() and (np.asarray(body.ratio) < 1).any()
    assert set(np.unique(body.gear)) == {-1.0, 1.0}


def test_no_body_is_there_twice(bodies):
    # Train and test bodies are disjoint parts of one list: it must not repeat itself.
    plans = np.concatenate([bodies.swimmers.length, bodies.swimmers.ratio], 1)
    assert len(np.unique(plans, axis=0)) == len(plans)


def test_gymnax_episode_is_the_same_swim(bodies):
    environment = Embodiments()
    params = environment.params(bodies.swimmers, max_steps=30)
    tokens, state = environment.reset(jax.random.key(0), params)
    assert environment.observation_space(params).contains(tokens)
    begin, total = state, 0.0
    for i in range(30):
        action = environment.action_space(params).sample(jax.random.key(i))
        tokens, state, reward, terminated, truncated, info = environment.step(jax.random.key(i), state, action, params)
        total += float(reward)
        assert bool(truncated) == (i == 29) and not bool(terminated)
    assert int(state.time) == 0  # a new episode
    last = info["final_observation"]
    assert last.shape == tokens.shape == (6, 14)
    keys = jnp.stack([environment.action_space(params).sample(jax.random.key(i)) for i in range(30)])
    _, distance = swim(begin.body, begin.swimmer, lambda s: keys[s.time], 30)
    assert total == pytest.approx(float(distance), abs=1e-5)


def test_a_hidden_plan_leaves_the_senses(bodies):
    environment = Embodiments()
    seen, _ = environment.reset(jax.random.key(3), environment.params(bodies.swimmers))
    blind, _ = environment.reset(jax.random.key(3), environment.params(bodies.swimmers, described=0.0))
    assert np.array_equal(seen[:, :6], blind[:, :6])
    assert np.any(seen[:, 6:]) and not np.any(blind[:, 6:])


def test_bad_settings_are_named(bodies):
    with pytest.raises(UserError, match="links"):
        generate_bodies(4, links=(2, 3))
    with pytest.raises(UserError, match="bodies"):
        Embodiments().params(bodies.swimmers[0])
