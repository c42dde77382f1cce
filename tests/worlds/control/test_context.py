import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("gymnax")
import gymnax

from unseen.lab import UserError
from unseen.worlds.control.context import ContextCartPole, ContextPendulum, Region, context_protocol

# Defaults and bounds of carl-bench 1.1.1 (automl/CARL at 14c8fee, carl/envs/gymnasium/classic_control), by
# our feature names. Its Pendulum lists gravity as both `g` (10, used by the simulator) and `gravity` (8, not used).
CARL_BENCH = {
    ContextPendulum: {"length": (1e-6, np.inf, 1.0), "gravity": (0.0, np.inf, 10.0), "mass": (1e-6, np.inf, 1.0)},
    ContextCartPole: {
        "force": (1.0, 100.0, 10.0),
        "length": (0.05, 5.0, 0.5),
        "gravity": (0.1, np.inf, 9.8),
        "cart_mass": (0.1, 10.0, 1.0),
    },
}


@pytest.mark.parametrize("world", CARL_BENCH)
def test_ranges_lie_within_those_of_carl_bench(world):
    for name, (low, high, default) in CARL_BENCH[world].items():
        feature = world.available[name]
        assert low <= feature.low < feature.default < feature.high <= high and feature.default == default


@pytest.mark.parametrize(("world", "name"), [(ContextPendulum, "Pendulum-v1"), (ContextCartPole, "CartPole-v1")])
@pytest.mark.parametrize("everything", [False, True])
def test_default_context_is_gymnax_step_by_step(world, name, everything):
    world = world(tuple(world.available)) if everything else world()
    peer, peer_params = gymnax.make(name)
    features = len(world.features)

    def follow(key):
        # The same start: context environments split the reset key into (context, start).
        observation, state = world.reset(key, world.params())
        theirs, peer_state = peer.reset(jax.random.split(key)[1], peer_params)

        def step(carry, key):
            state, peer_state = carry
            action = peer.action_space(peer_params).sample(key)
            observation, state, reward, terminated, _ = world.step_env(key, state, action, world.params())
            theirs, peer_state, peer_reward, peer_end, _ = peer.step_env(key, peer_state, action, peer_params)
            gap = jnp.abs(observation[:-features] - theirs).max() + jnp.abs(reward - peer_reward)
            return (state, peer_state), (gap, terminated == peer_end, observation[-features:])

        _, out = jax.lax.scan(step, (state, peer_state), jax.random.split(key, 200))
        return jnp.abs(observation[:-features] - theirs).max(), *out

    first, gaps, ends, seen = jax.jit(jax.vmap(follow))(jax.random.split(jax.random.key(0), 8))
    # CartPole's unbounded fall amplifies rounding; within the bounds of an episode it stays below 1e-5.
    steps = 200 if name.startswith("Pendulum") else 20
    assert first.max() == 0 and gaps[:, :steps].max() <= 1e-5 and np.all(ends[:, :steps])
    assert np.allclose(seen, world.scale(world.default), atol=1e-6)


def test_a_step_of_the_pendulum_by_hand():
    # One step from rest at the horizontal: acceleration 3g/(2l) + 3u/(m l^2), times dt = 0.05.
    world = ContextPendulum(("length", "gravity", "mass", "torque_sign"))
    context = jnp.array([0.5, 8.0, 1.2, -1.0])
    params = world.params(Region.points(context[None]))
    _, state = world.reset(jax.random.key(0), params)
    inner = state.simulator.replace(theta=jnp.pi / 2, theta_dot=jnp.zeros(()))
    state = jax.tree.map(jnp.asarray, type(state)(inner, state.context, state.time))
    observation, *_ = world.step_env(jax.random.key(1), state, jnp.array([1.5]), params)
    expected = 0.05 * (3 * 8.0 / (2 * 0.5) - 3 * 1.5 / (1.2 * 0.5**2))
    assert np.isclose(observation[2], expected, rtol=1e-5)


def test_cartpole_recomputes_what_depends_on_the_context():
    physics = ContextCartPole().physics({"force": 4.0, "length": 0.8, "gravity": 9.8, "cart_mass": 1.5})
    assert np.isclose(physics.polemass_length, 0.1 * 0.8) and np.isclose(physics.total_mass, 1.6)
    assert physics.force_mag == 4.0


def test_hidden_context_shows_zeros_and_still_acts():
    world = ContextPendulum()
    there = Region.points(np.array([[1.8, 5.0]], np.float32))
    key = jax.random.key(3)
    seen, state = world.reset(key, world.params(there, 1.0))
    hidden, _ = world.reset(key, world.params(there, 0.0))
    assert np.allclose(seen[3:], [1, -1]) and np.all(hidden[3:] == 0) and np.array_equal(seen[:3], hidden[:3])
    step = world.step_env(key, state, jnp.array([0.0]), world.params(there, 0.0))[0]
    elsewhere = type(state)(state.simulator, jnp.array([1.0, 10.0]), 0)
    usual = world.step_env(key, elsewhere, jnp.array([0.0]), world.params())[0]
    assert np.all(step[3:] == 0) and not np.isclose(step[2], usual[2])


def test_every_episode_has_a_new_context_and_keeps_it():
    world = ContextPendulum()
    params = world.params(world.box(0.75), max_steps=5)
    _, state = world.reset(jax.random.key(0), params)

    def step(state, key):
        _, state, _, _, truncated, _ = world.step(key, state, jnp.array([0.0]), params)
        return state, (state.context, truncated)

    _, (contexts, truncated) = jax.lax.scan(step, state, jax.random.split(jax.random.key(1), 40))
    episodes = np.asarray(contexts[4:39]).reshape(7, 5, 2)  # a reset shows in the step before
    assert np.array_equal(np.flatnonzero(truncated), np.arange(4, 40, 5))
    assert np.all(episodes == episodes[:, :1]) and len(np.unique(episodes[:, 0, 0])) == 7


@pytest.mark.parametrize(
    "region",
    [
        Region.box(np.array([0.0, 10.0]), np.array([1.0, 30.0])),
        Region.points(np.array([[0.1, 20.0], [0.9, 11.0], [0.5, 29.0]])),
        Region.cross(np.array([0.0, 10.0]), np.array([1.0, 30.0]), 0.4),
        Region.shell(np.array([0.0, 10.0]), np.array([1.0, 30.0]), 0.5),
        Region.cross(np.array([0.5, 20.0]), np.array([0.5, 20.0]), 0.4),
    ],
)
def test_samples_lie_in_their_region(region):
    samples = jax.vmap(region.sample)(jax.random.split(jax.random.key(0), 2_000))
    assert np.all(region.contains(samples)) and np.all(np.isfinite(samples))


def test_cross_is_sampled_uniformly():
    # Arm 0.4: the cross has area 1 - 0.6^2 = 0.64, its centre 0.16, so a quarter of the samples.
    region = Region.cross(np.zeros(2), np.ones(2), 0.4)
    samples = np.asarray(jax.vmap(region.sample)(jax.random.split(jax.random.key(1), 20_000)))
    centre = np.all(np.abs(samples - 0.5) < 0.2, axis=1).mean()
    assert abs(centre - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 20_000)
    assert np.allclose(samples.mean(0), 0.5, atol=0.02)


def test_classes_of_test_contexts_by_hand():
    line = np.linspace(0, 1, 5)
    grid = np.stack(np.meshgrid(line, line, indexing="ij"), -1)
    cross = Region.cross(np.full(2, 0.25), np.full(2, 0.75), 0.2)
    classes = {name: np.asarray(mask).astype(int).tolist() for name, mask in cross.masks(grid).items()}
    none = [0, 0, 0, 0, 0]
    assert classes["train"] == [none, [0, 0, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 0, 0], none]
    assert classes["combination"] == [none, [0, 1, 0, 1, 0], none, [0, 1, 0, 1, 0], none]
    assert np.sum(classes["extrapolation"]) == 16 and np.sum(classes["interpolation"]) == 0
    finite = Region.points(np.array([[0.0, 0.0], [1.0, 0.0]]))
    row = finite.masks(np.stack([line, np.zeros(5)], -1))
    assert row["train"].tolist() == [True, False, False, False, True]
    assert row["interpolation"].tolist() == [False, True, True, True, False]


@pytest.mark.parametrize("kind", ["A", "B", "C"])
def test_protocols_cover_the_grid_once(kind):
    world = ContextPendulum()
    masks = context_protocol(kind, world).masks(world.grid(9))
    assert np.all(np.stack(list(masks.values())).sum(0) == 1)
    train = np.asarray(masks["train"]).reshape(9, 9)
    assert train.sum() == {"A": 7, "B": 49, "C": 13}[kind] and not train[0].any()
    assert np.asarray(masks["combination"]).sum() == {"A": 0, "B": 0, "C": 36}[kind]


def test_bad_settings_are_named():
    with pytest.raises(UserError, match="length, gravity"):
        ContextPendulum(("lenght",))
    with pytest.raises(UserError, match="different names"):
        ContextPendulum(("length", "length"))
    with pytest.raises(UserError, match="A, B and C"):
        context_protocol("D", ContextPendulum())
    with pytest.raises(UserError, match="narrow <= wide"):
        context_protocol("B", ContextPendulum(), wide=0.1, narrow=0.5)
