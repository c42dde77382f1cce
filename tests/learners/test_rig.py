import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unseen.lab import UserError
from unseen.learners import (
    RIG,
    GoalObservation,
    GoalPractice,
    Prior,
    QLearner,
    fit_prior,
    imagined_goals,
    latent_reward,
    pixel_reward,
)


class Lamp:
    """A lamp on a strip of 12 pixels goes left, stays or goes right; it is seen as a strip of bytes."""

    def __init__(self, limit=8):
        self.limit, self.default_params = limit, None

    def seen(self, place):
        glow = jnp.exp(-0.5 * ((jnp.arange(12) - place) / 1.5) ** 2)
        return jnp.round(255 * glow).astype(jnp.uint8)[:, None, None]

    def reset(self, key, params=None):
        place = jax.random.randint(key, (), 0, 12)
        return self.seen(place), (place, jnp.zeros((), int))

    def step(self, key, state, action, params=None):
        moved, time = jnp.clip(state[0] + action - 1, 0, 11), state[1] + 1
        late = time >= self.limit
        place = jnp.where(late, jax.random.randint(key, (), 0, 12), moved)
        last = {"final_observation": self.seen(moved)}
        return self.seen(place), (place, jnp.where(late, 0, time)), jnp.array(99.0), jnp.array(False), late, last


def test_imagined_goals_have_the_moments_of_what_was_seen():
    mean, deviation = jnp.array([1.0, -2.0, 0.5]), jnp.array([0.5, 2.0, 0.0])
    seen = mean + deviation * jax.random.normal(jax.random.key(0), (4_000, 3))
    prior = fit_prior(seen)
    np.testing.assert_allclose(prior.mean, seen.mean(0), atol=1e-6)
    goals = imagined_goals(prior, 20_000, key=jax.random.key(1))
    np.testing.assert_allclose(goals.mean(0), mean, atol=0.1)
    np.testing.assert_allclose(goals.std(0), deviation, atol=0.1)
    assert goals.shape == (20_000, 3) and np.allclose(goals[:, 2], 0.5)  # what does not vary is not imagined to


def test_rewards_are_distances():
    a, b = jnp.array([[3.0, 0.0], [1.0, 1.0]]), jnp.array([[0.0, 4.0], [1.0, 1.0]])
    np.testing.assert_allclose(latent_reward(a, b), [-5.0, 0.0], atol=1e-5)
    np.testing.assert_allclose(latent_reward(a, b, 2.0), [-2.5, 0.0], atol=1e-5)
    image = jnp.zeros((2, 2, 2, 3))
    np.testing.assert_allclose(pixel_reward(image, image.at[0].set(0.5)), [-(3.0**0.5), 0.0], atol=1e-5)


def test_a_goal_holds_for_its_episode_and_alone_pays():
    practice = GoalPractice(
        Lamp(3), see=lambda image: image.ravel().argmax()[None] / 1.0,
        goals=lambda key, n: jax.random.uniform(key, (n, 1)), reward=latent_reward,
    )  # fmt: skip
    seen, state = practice.reset(jax.random.key(0))
    goals = [float(seen.goal[0])]
    for number in range(1, 7):
        before = seen
        seen, state, reward, terminated, truncated, info = practice.step(
            jax.random.key(number), state, jnp.array(number % 3)
        )
        last = info["final_observation"]
        assert float(last.goal[0]) == float(before.goal[0])
        assert float(reward) == pytest.approx(-abs(float(last.observation[0] - before.goal[0])), abs=1e-4)
        assert bool(truncated) == (number % 3 == 0) and not terminated
        if not truncated:
            np.testing.assert_array_equal(last.observation, seen.observation)
        goals.append(float(seen.goal[0]))
    assert goals[0] == goals[1] == goals[2] != goals[3] == goals[5] != goals[6]


@pytest.fixture(scope="module")
def rig():
    learner = QLearner(
        actions=3, discount=0.8, width=32, depth=1, target_rate=0.05, optimizer=optax.adam(3e-3)
    )  # fmt: skip
    return RIG(
        learner=learner, environment=Lamp(), latent=2, width=32, beta=0.02, explored=600, lanes=10, updates=600,
        learning_rate=5e-3,
    )  # fmt: skip


@pytest.fixture(scope="module")
def perception(rig):
    see = eqx.filter_jit(lambda key: rig.perceive(rig.explore(key), key))
    return see(jax.random.key(0))


STRIPS = jax.vmap(Lamp().seen)(jnp.arange(12))


def test_exploring_collects_what_random_actions_show(rig):
    images = rig.explore(jax.random.key(1))
    assert images.shape == (600, 12, 1, 1) and images.dtype == jnp.uint8
    assert set(images.reshape(600, 12).argmax(1).tolist()) == set(range(12))


def test_perception_keeps_images_and_measures_in_units_of_what_it_saw(rig, perception):
    pictures = STRIPS / 255
    again = jax.vmap(lambda x: perception.vae.decode(perception.see(x)))(pictures)
    flat = pictures.reshape(12, 12)
    assert float(((again - flat) ** 2).sum() / ((flat - flat.mean(0)) ** 2).sum()) < 0.1
    latents = perception.latents
    np.testing.assert_allclose(perception.prior.mean, latents.mean(0), atol=1e-5)
    apart = -perception.reward(latents, jnp.roll(latents, 171, 0))
    assert float(apart.mean()) == pytest.approx(1.0, abs=0.15)


def test_practice_on_imagined_goals_reaches_shown_ones(rig, perception):
    """Without any reward of the environment (it pays 99 for whatever) the lamp goes where a picture shows it."""
    run = rig.practice(perception, total_steps=6_000, every=1_500, lanes=4, epsilon=0.5)
    advance = eqx.filter_jit(run.advance)

    @eqx.filter_jit
    def distance(network):
        def episode(start, goal):
            def step(place, _):
                shown = Lamp().seen(goal)
                moved = place + rig.act(network, perception, Lamp().seen(place), shown) - 1
                return jnp.clip(moved, 0, 11), None

            return jnp.abs(jax.lax.scan(step, start, None, 12)[0] - goal)

        cells = jnp.arange(12)
        return jax.vmap(lambda a: jax.vmap(lambda b: episode(a, b))(cells))(cells).mean()

    state = run.init(jax.random.key(1))
    before, first = float(distance(state.learning.network)), state.replay
    state = advance(state)
    after = float(distance(state.learning.network))
    assert before > 3 and after < before / 2
    assert float(jnp.abs(state.replay.data.reward).max()) < 20 and int(first.count) == 0
    assert isinstance(state.replay.data.observation, GoalObservation)


def test_bad_settings_are_named():
    learner = QLearner(actions=3)
    for name, value in dict(latent=0, explored=0, lanes=0, updates=0, batch_size=0).items():
        with pytest.raises(UserError, match=name):
            RIG(learner=learner, environment=Lamp(), **{name: value})
    with pytest.raises(UserError, match="explored"):
        RIG(learner=learner, environment=Lamp(), explored=30)
    assert Prior(jnp.zeros(2), jnp.ones(2)).mean.shape == (2,)
