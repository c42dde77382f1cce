import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("gymnax")
import gymnasium
import gymnax
from gymnax.environments.classic_control import acrobot

from unseen.lab import UserError
from unseen.worlds.control.context import ContextFeature, ContextPendulum, Region
from unseen.worlds.control.own import ContextGymnax, HostContextMDP, Lottery, environment_named

LINK = ContextFeature("link_length_1", 0.5, 2.0, 1.0, "m")
GRAVITY, LENGTH = ContextFeature("gravity", 5.0, 15.0, 9.8), ContextFeature("length", 0.25, 1.0, 0.5)


class Broken(gymnasium.Env):
    """Goes wrong in its third step, as told."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Discrete(2)
    how, mass, drag = "raise", 1.0, 0.5

    def __init__(self):
        self.mass, self.drag, self.time = 1.0, 0.5, 0

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.time += 1
        observation, reward = np.zeros(2, np.float32), 1.0
        if self.time == 3:
            if self.how == "raise":
                raise RuntimeError("the motor is on fire")
            if self.how == "observation":
                observation[0] = np.nan
            if self.how == "reward":
                reward = float("nan")
            if self.how == "shape":
                observation = np.zeros(3, np.float32)
        return observation, reward, False, False, {}


class Images(Broken):
    observation_space = gymnasium.spaces.Dict({"a": gymnasium.spaces.Discrete(3)})


class Unbounded(Broken):
    action_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,))


class Several(Broken):
    action_space = gymnasium.spaces.MultiDiscrete([2, 2])


def module_of_tests(monkeypatch):
    monkeypatch.setitem(sys.modules, "own_test_module", sys.modules[__name__])


def test_gymnax_at_the_default_context_is_itself():
    world = ContextGymnax(acrobot.Acrobot(), [LINK])
    peer, params = gymnax.make("Acrobot-v1")
    key = jax.random.key(0)
    seen, state = world.reset(key, world.params())
    theirs, other = peer.reset(jax.random.split(key)[1], params)
    assert np.array_equal(seen[:-1], theirs) and np.isclose(seen[-1], world.scale(world.default)[0])
    mine, other_step = jax.jit(world.step_env), jax.jit(peer.step_env)
    for i in range(30):
        action = jnp.asarray(i % 3)
        seen, state, reward, *_ = mine(key, state, action, world.params())
        theirs, other, peer_reward, *_ = other_step(key, other, action, params)
        assert np.allclose(seen[:-1], theirs, atol=1e-5) and reward == peer_reward


def test_gymnax_context_reaches_the_physics():
    world, key = ContextGymnax(acrobot.Acrobot(), [LINK]), jax.random.key(1)
    ends = []
    for length in (0.5, 2.0):
        params = world.params(Region.points(np.array([[length]], np.float32)))
        _, state = world.reset(key, params)
        for _ in range(20):
            seen, state, *_ = world.step_env(key, state, jnp.asarray(2), params)
        ends.append(np.asarray(seen))
    assert np.abs(ends[0][:-1] - ends[1][:-1]).max() > 0.05 and ends[0][-1] == -1 and ends[1][-1] == 1
    assert world == ContextGymnax(world.simulator, [LINK]) and world != ContextGymnax(acrobot.Acrobot(), [LINK])


def test_gymnasium_follows_the_environment_itself():
    """Lanes step what gymnasium alone steps, under the context and from the seed that they are given."""
    world = HostContextMDP("CartPole-v1", [GRAVITY, LENGTH])
    assert world.time_limit == 500 and world.observation_space().shape == (6,)
    lanes, alone = world.open(2), gymnasium.make("CartPole-v1")
    context = np.array([12.0, 0.4], np.float32)
    lanes.reset(0, world.default, 3)
    lanes.reset(1, context, 7)
    alone.unwrapped.gravity, alone.unwrapped.length = map(float, context)
    theirs, _ = alone.reset(seed=7)
    ended, steps = False, 0
    while not ended:
        assert np.array_equal(lanes.seen[1], np.float32([*theirs, 0.4, -0.6]).round(7)) or np.allclose(
            lanes.seen[1], [*theirs, 0.4, -0.6], atol=1e-6
        )
        reward, ended = lanes.step(1, steps % 2)
        theirs, peer_reward, terminated, truncated, _ = alone.step(steps % 2)
        steps += 1
        assert reward == peer_reward and ended == (terminated or truncated)
    assert steps > 10


def test_returns_are_of_whole_episodes_and_repeat():
    world = HostContextMDP("CartPole-v1", [GRAVITY, LENGTH])
    contexts = np.tile(world.default, (40, 1))  # more than there are lanes
    keys = jax.random.split(jax.random.key(0), 40)
    right = world.returns(lambda key, seen: jnp.ones((), int), contexts, keys)
    assert np.all(right >= 8) and np.all(right <= 11)  # pushed to one side, the pole falls at once
    random = [world.returns(lambda key, seen: world.action_space().sample(key), contexts, keys) for _ in range(2)]
    assert np.array_equal(*random) and random[0].mean() > 15 and len(world._spare) == 32
    short = HostContextMDP("CartPole-v1", [GRAVITY], max_steps=5)
    assert np.all(short.returns(lambda key, seen: jnp.ones((), int), contexts[:3, :1], keys[:3]) == 5)


def test_hidden_contexts_show_zeros():
    world = HostContextMDP("CartPole-v1", [GRAVITY, LENGTH])
    hidden, shown = world.open(1, visible=0.0), world.open(1)
    for lanes in (hidden, shown):
        lanes.reset(0, np.array([15.0, 0.25], np.float32), 0)
    assert np.all(hidden.seen[0, -2:] == 0) and np.allclose(shown.seen[0, -2:], [1, -1])
    assert np.array_equal(hidden.seen[0, :4], shown.seen[0, :4])


def test_the_lottery_draws_from_the_region():
    region = Region.cross(np.zeros(2), np.ones(2), 0.4)
    lottery = Lottery(region, jax.random.key(3))
    draws = [lottery.draw() for _ in range(3_000)]
    contexts = np.array([c for c, _ in draws])
    assert np.all(region.contains(contexts)) and len({seed for _, seed in draws}) > 2_990
    centre = np.all(np.abs(contexts - 0.5) < 0.2, axis=1).mean()
    assert abs(centre - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 3_000)
    again = Lottery(region, jax.random.key(3)).draw()
    assert np.array_equal(again[0], draws[0][0]) and again[1] == draws[0][1]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("raise", "raised RuntimeError: the motor is on fire at step 2 of an episode with mass 2, drag 0.5"),
        ("observation", "NaN or infinity in its observation at step 3"),
        ("reward", "returned the reward nan at step 3"),
        ("shape", "observed 3 numbers"),
    ],
)
def test_an_environment_that_goes_wrong_is_named(monkeypatch, how, said):
    monkeypatch.setattr(Broken, "how", how)
    world = HostContextMDP(
        Broken, [ContextFeature("mass", 0.0, 2.0, 1.0), ContextFeature("drag", 0.0, 1.0, 0.5)], max_steps=9
    )
    with pytest.raises(UserError, match=said):
        keys = jax.random.split(jax.random.key(0), 1)
        world.returns(lambda key, seen: jnp.zeros((), int), np.array([[2.0, 0.5]]), keys)


def test_names_become_worlds(monkeypatch):
    module_of_tests(monkeypatch)
    cart = environment_named("gymnasium:CartPole-v1", ("gravity:5:15", "length:0.25:1"))
    assert isinstance(cart, HostContextMDP) and np.allclose(cart.default, [9.8, 0.5]) and cart.host
    pole = environment_named("gymnasium.envs.classic_control.cartpole:CartPoleEnv", ("gravity:5:15:9",), 100)
    assert pole.time_limit == 100 and pole.default == 9
    mine = environment_named("gymnax.environments.classic_control.acrobot:Acrobot", ("link_length_1:0.5:2",))
    assert isinstance(mine, ContextGymnax) and mine.time_limit == 500 and not mine.host
    assert isinstance(environment_named("unseen.worlds.control.context:ContextPendulum"), ContextPendulum)


@pytest.mark.parametrize(
    ("name", "context", "said"),
    [
        ("nowhere_at_all:Env", (), "no module nowhere_at_all"),
        ("gymnasium:CartPoel-v1", (), "has no 'CartPoel-v1'"),
        ("gymnasium:CartPole-v1", (), "gravity"),
        ("gymnasium:CartPole-v1", ("gravty:5:15",), "did you mean gravity"),
        ("gymnasium:CartPole-v1", ("gravity:15:5",), "low below high"),
        ("gymnasium:CartPole-v1", ("gravity:low:5",), "name:low:high"),
        ("gymnax.environments.classic_control.acrobot:Acrobot", ("link:1:2",), "did you mean"),
        ("unseen.worlds.control.context:ContextPendulum", ("gravity:5:15",), "for environments that name none"),
        ("own_test_module:Broken", ("mass:0:2",), "max_steps takes the time limit"),
        ("own_test_module:Images", ("mass:0:2",), "must be a Box"),
        ("own_test_module:Unbounded", ("mass:0:2",), "unbounded"),
        ("own_test_module:Several", ("mass:0:2",), "MultiDiscrete"),
        ("own_test_module:module_of_tests", (), "cannot be made"),
        ("own_test_module:LINK", (), "env takes a gymnax-style environment"),
        ("no colon", (), "package.module:Name"),
    ],
)
def test_what_does_not_fit_is_said_in_one_sentence(monkeypatch, name, context, said):
    module_of_tests(monkeypatch)
    limit = 0 if "time limit" in said else 50
    with pytest.raises(UserError, match=said) as caught:
        environment_named(name, context, limit)
    assert "\n" not in str(caught.value)
