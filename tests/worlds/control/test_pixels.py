import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("gymnax")
pytest.importorskip("sklearn")

from unseen.lab import UserError
from unseen.worlds.control.pixels import GREY, PixelControl, PixelState, visuals

TASKS = ("reach", "push", "catch", "pole")
LOOKS = {
    "hue": visuals(hue=0.4),
    "texture": visuals(background="texture", style=1),
    "moving texture": visuals(background="texture", drift=1.5, style=1),
    "digits": visuals(background="digits", style=2),
    "moving digits": visuals(background="digits", drift=1.0, style=2),
    "distractors": visuals(distractors=4, style=3),
    "shift": visuals(shift=(2.0, -1.0)),
    "brightness": visuals(brightness=0.5),
}


class Empty(PixelControl):
    """The same without the task's shapes."""

    def _shapes(self, s, x, y):
        return []


@pytest.fixture(scope="module")
def paths():
    """Physical states, rewards and images of an episode of each task under every look, the usual one first."""
    looks = jax.tree.map(lambda *x: jnp.stack(x), visuals(), *LOOKS.values())

    def of(task):
        environment = PixelControl(task)

        @jax.jit
        @jax.vmap
        def episode(look):
            params = environment.params(look, max_steps=60)
            _, first = environment.reset_env(jax.random.key(7), params)

            def step(state, key):
                action = jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)
                image, state, reward, _, _ = environment.step_env(key, state, action, params)
                return state, (state.physical, reward, image)

            return jax.lax.scan(step, first, jax.random.split(jax.random.key(8), 40))[1]

        return episode(looks)

    return {task: of(task) for task in TASKS}


@pytest.mark.parametrize("task", TASKS)
def test_the_state_path_is_identical_under_every_look(paths, task):
    physical, rewards, images = (np.asarray(x) for x in paths[task])
    assert np.ptp(physical, axis=1).max() > 0.1 and images.min() >= 0 and images.max() <= 1
    for i, name in enumerate(LOOKS, 1):
        assert np.array_equal(physical[i], physical[0]) and np.array_equal(rewards[i], rewards[0]), name
        assert np.abs(images[i] - images[0]).max() > 0.1, name  # and the pixels do change


def test_what_moves_moves_and_what_stands_stands():
    still = PixelState(jnp.zeros(6), visuals(), jnp.array(0))
    for name, moves in (("texture", False), ("moving texture", True), ("digits", False), ("moving digits", True),
                        ("distractors", True)):  # fmt: skip
        images = [PixelControl().render(PixelState(still.physical, LOOKS[name], jnp.array(t)))[0] for t in (0, 5)]
        assert (np.abs(images[0] - images[1]).max() > 0.05) == moves, name


@pytest.mark.parametrize("task", TASKS)
def test_the_mask_is_exact(task):
    world, empty = PixelControl(task), Empty(task)
    look = visuals(background="texture", strength=1.0, distractors=2, shift=(1.0, 0.0), style=5)
    for seed in range(4):
        state = PixelState(world.begin(jax.random.key(seed)), look, jnp.array(seed))
        (image, share), (behind, none) = world.render(state), empty.render(state)
        relevant = np.asarray(world.relevant(state))
        assert not none.any() and 4 <= relevant.sum() < 150 and share.max() <= 1
        changed = np.abs(np.asarray(image - behind)).max(-1) > 1e-6
        assert not (changed & ~relevant).any()  # nothing of the task outside the mask
        assert (changed & relevant).sum() > 0.9 * relevant.sum()  # a colour may coincide with what is behind
        whole = np.asarray(share) == 1
        other = world.render(PixelState(state.physical, visuals(shift=(1.0, 0.0)), state.time))[0]
        np.testing.assert_allclose(np.asarray(image)[whole], np.asarray(other)[whole], atol=1e-6)


def test_digit_tiles_are_real_digits():
    from sklearn.datasets import load_digits

    state = PixelState(jnp.zeros(6), visuals(background="digits", strength=1.0, style=0), jnp.array(0))
    image = np.asarray(Empty("reach", 24).render(state)[0])[..., 0]  # with style 0 red is tinted by 1
    tiles = image.reshape(3, 8, 3, 8).swapaxes(1, 2).reshape(9, 64)
    real = load_digits().data / 16
    assert all(np.abs(real - tile).max(1).min() < 1e-5 for tile in tiles)
    assert len(np.unique(tiles.round(4), axis=0)) == 9


def test_the_camera_moves_the_whole_picture():
    state = PixelState(jnp.array([0.1, 0.2, 0, 0, -0.4, -0.3]), visuals(), jnp.array(0))
    usual = np.asarray(PixelControl().render(state)[0])
    moved = PixelState(state.physical, visuals(shift=(2.0, 1.0)), state.time)
    np.testing.assert_allclose(np.asarray(PixelControl().render(moved)[0])[1:, 2:], usual[:-1, :-2], atol=1e-5)
    np.testing.assert_allclose(usual[0, 0], GREY)
    dark = PixelState(state.physical, visuals(brightness=0.5), state.time)
    np.testing.assert_allclose(PixelControl().render(dark)[0], usual / 2, atol=1e-6)


def act(task, s):
    if task == "reach":
        return (s[4:] - s[:2]) / 0.12
    if task == "catch":
        return jnp.array([(s[2] - s[0]) / 0.15, 0.0])
    return jnp.array([4 * s[2] + 6 * s[3] + 0.5 * s[0] + s[1], 0.0])


@pytest.mark.parametrize(("task", "good"), [("reach", 0.9), ("catch", 0.055), ("pole", 0.85)])
def test_tasks_can_be_done_and_are_not_done_by_themselves(task, good):
    world = PixelControl(task)

    @jax.jit
    @jax.vmap
    def scores(key):
        begin, run = jax.random.split(key)

        def mean(policy):
            def step(s, key):
                return world.advance(key, s, jnp.clip(policy(s), -1, 1))

            return jax.lax.scan(step, world.begin(begin), jax.random.split(run, 100))[1].mean()

        return mean(lambda s: act(task, s)), mean(lambda s: jnp.zeros(2))

    done, idle = (float(x.mean()) for x in scores(jax.random.split(jax.random.key(0), 32)))
    assert done > good and done > idle + (0.02 if task == "catch" else 0.1)


def test_a_puck_goes_where_it_is_pushed():
    world, s = PixelControl("push"), jnp.array([-0.6, 0.0, -0.2, 0.0, 0.5, 0.0])
    rewards = []
    for _ in range(6):
        s, reward = world.advance(jax.random.key(0), s, jnp.array([1.0, 0.0]))
        rewards.append(float(reward))
    np.testing.assert_allclose(s, [0.12, 0, 0.46, 0, 0.5, 0], atol=1e-5)  # agent, puck 0.34 ahead, goal
    assert rewards[0] == pytest.approx(0.36, abs=1e-5) and rewards[-1] == pytest.approx(0.96, abs=1e-5)


def test_a_gymnax_episode_draws_its_look():
    environment = PixelControl("push", 28)
    params = environment.params(visuals(), visuals(brightness=0.0), max_steps=3)
    seen = set()
    for seed in range(8):
        image, state = environment.reset(jax.random.key(seed), params)
        assert environment.observation_space(params).contains(image) and image.shape == (28, 28, 3)
        seen.add(bool(image.max() > 0))
    assert seen == {True, False}
    for i in range(3):
        _, state, _, _, truncated, _ = environment.step(jax.random.key(i), state, jnp.ones(2), params)
    assert bool(truncated) and int(state.time) == 0
    assert environment == PixelControl("push", 28) != PixelControl("push")


def test_bad_settings_are_named():
    for make in (lambda: PixelControl("fly"), lambda: PixelControl(size=3), lambda: visuals(background="video")):
        with pytest.raises(UserError, match=r"task|size|background"):
            make()
