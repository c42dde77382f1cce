import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("rejax")
import gymnax
import rejax

from unseen.lab import UserError
from unseen.learners import ppo as ppo_module
from unseen.learners.ppo import _FiveTuple, episode_return, greedy, ppo
from unseen.worlds.control.context import ContextCartPole, ContextFeature
from unseen.worlds.control.own import HostContextMDP

pytestmark = pytest.mark.optimized

SETTINGS = dict(num_envs=8, num_steps=32, num_epochs=2, num_minibatches=4, learning_rate=1e-3, normalize_rewards=True)


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_is_rejax_update_for_update(name):
    # Equal settings and seed must give the same learning curve; stronger, they give the same numbers. The peer
    # is rejax's own loop on the same environment, with its own settings and its own state.
    environment, params = gymnax.make(name)
    learner = ppo(environment, params, total_steps=4 * 256, every=2, max_grad_norm=0.5, **SETTINGS)
    peer = rejax.PPO.create(
        env=_FiveTuple(environment), env_params=params, max_grad_norm=0.5, ent_coef=0.0,
        agent_kwargs={"hidden_layer_sizes": (64, 64), "activation": "tanh"}, **SETTINGS,
    )  # fmt: skip
    state = jax.jit(learner.init)(jax.random.key(3))
    advance = jax.jit(learner.advance)
    for _ in range(learner.rounds):
        state = advance(state)
    theirs = peer.init_state(jax.random.key(3))
    iterate = jax.jit(lambda ts: jax.lax.fori_loop(0, 4, lambda _, s: peer.train_iteration(s), ts))
    theirs = iterate(theirs.replace(rew_rms_state=jax.tree.map(lambda x: jnp.asarray(x, float), theirs.rew_rms_state)))
    assert learner.steps == 4
    mine = [x for x in state if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)]
    other = [x for x in jax.tree.leaves(theirs) if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)]
    assert max(float(jnp.abs(a.astype(float) - b.astype(float)).max()) for a, b in zip(mine, other, strict=True)) < 1e-4


def test_learns_cartpole_and_traces_hyperparameters():
    world = ContextCartPole()
    params = world.params(visible=0.0)
    keys = jax.random.split(jax.random.key(9), 20)

    def learner(rate):
        return ppo(
            world, params, total_steps=60_000, every=29, learning_rate=rate, gamma=0.97, num_envs=32, num_epochs=6,
            max_grad_norm=0.1, normalize_rewards=True,
            measure=lambda policy: {
                "return": jax.vmap(lambda k: episode_return(world, params, lambda _, o: policy(o), k))(keys).mean()
            },
        )  # fmt: skip

    rates, seeds = jnp.array([0.0, 1e-3, 1e-3]), jax.random.split(jax.random.key(0), 3)
    start = jax.jit(jax.vmap(lambda r, k: learner(r).init(k)))(rates, seeds)
    end = jax.jit(jax.vmap(lambda r, s: learner(r).advance(s)))(rates, start)
    measure = jax.jit(jax.vmap(lambda r, s: learner(r).measure(s)["return"]))
    before, after = measure(rates, start), measure(rates, end)
    assert after[0] == before[0]  # a rate of zero learns nothing, in the same compiled program
    assert after[1:].min() > 300 and np.all(after[1:] > before[1:])


def test_states_of_two_learners_have_one_structure():
    # rejax alone makes a new class at each call; checkpoints need one structure.
    world = ContextCartPole()
    first, second = (jax.eval_shape(ppo(world, **SETTINGS).init, jax.random.key(i)) for i in range(2))
    assert jax.tree.structure(first) == jax.tree.structure(second)
    after = jax.eval_shape(ppo(world, **SETTINGS).advance, first)
    assert [(x.shape, x.dtype) for x in jax.tree.leaves(first)] == [(x.shape, x.dtype) for x in jax.tree.leaves(after)]


def test_episode_return_counts_until_the_end():
    environment, params = gymnax.make("CartPole-v1")
    keys = jax.random.split(jax.random.key(0), 16)
    # Always pushed to the right, the pole falls within about ten steps.
    returns = jax.vmap(lambda k: episode_return(environment, params, lambda *_: jnp.ones((), int), k))(keys)
    assert np.all(returns >= 8) and np.all(returns <= 11)


def test_uneven_minibatches_are_refused():
    with pytest.raises(UserError, match="num_minibatches"):
        ppo(ContextCartPole(), num_envs=3, num_steps=5, num_minibatches=4)


def cart_pole_on_the_host():
    features = [ContextFeature("gravity", 5.0, 15.0, 9.8), ContextFeature("length", 0.25, 1.0, 0.5)]
    return HostContextMDP("CartPole-v1", features)


def test_an_update_on_the_host_is_rejaxs():
    """The rollout that rejax played, handed over as the host would, gives rejax's own parameters."""
    world = ContextCartPole()
    static = dict(num_envs=4, num_steps=16, num_epochs=2, num_minibatches=2, normalize_rewards=True, width=8, depth=1,
                  activation="tanh")  # fmt: skip
    numbers = dict(learning_rate=1e-2, gamma=0.9, gae_lambda=0.8, clip_eps=0.1, ent_coef=0.01, vf_coef=0.5,
                   max_grad_norm=0.5)  # fmt: skip
    theirs = ppo_module._algorithm(rejax.PPO, _FiveTuple(world), world.params(), static, numbers)
    start = ppo_module._state_of(theirs, ppo_module._leaves_of(theirs, jax.random.key(2)))
    after, played = theirs.collect_trajectories(start)
    plain = theirs.replace(normalize_rewards=False)  # the same keys, so the same steps; rewards as they are
    _, raw = plain.collect_trajectories(start)
    rollout = played.obs, played.action, raw.reward, played.done, after.last_obs
    outline = ppo_module._Outline(6, world.action_space())
    ours = ppo_module._algorithm(ppo_module._Given, outline, world.params(), static, numbers)
    mine = ours.replace(rollout=rollout).train_iteration(start.replace(rng=after.rng))
    expected = theirs.train_iteration(start)
    pairs = zip(jax.tree.leaves(mine.actor_ts.params), jax.tree.leaves(expected.actor_ts.params), strict=True)
    assert max(float(jnp.abs(a - b).max()) for a, b in pairs) < 1e-5
    assert np.isclose(mine.rew_rms_state.var, expected.rew_rms_state.var, rtol=1e-5)


def test_learns_an_environment_of_gymnasiums():
    world = cart_pole_on_the_host()
    keys, contexts = jax.random.split(jax.random.key(9), 8), np.tile(world.default, (8, 1))
    learner = ppo(
        world, world.params(visible=0.0), total_steps=24_000, every=4, learning_rate=2e-3, gamma=0.97, num_envs=16,
        num_steps=64, num_epochs=6, max_grad_norm=0.1, normalize_rewards=True,
        measure=lambda policy: {"return": world.returns(greedy(policy), contexts, keys).mean()},
    )  # fmt: skip
    assert learner.host
    state = learner.init(jax.random.key(0))
    before = learner.measure(state)["return"]
    for _ in range(learner.rounds):
        state = learner.advance(state)
    assert learner.measure(state)["return"] > max(120, 2 * before)
    learner.final(state)
    assert len(world._spare) == 16 + 8 and np.all(np.isin(state.lanes.seen[:, -2:], 0))


def test_members_on_the_host_repeat():
    world = cart_pole_on_the_host()
    learner = ppo(world, world.params(world.box(0.5)), total_steps=64, num_envs=4, num_steps=8, num_minibatches=2)
    ends = [learner.advance(learner.init(jax.random.key(seed))).leaves for seed in (1, 1, 2)]
    one, again, other = ([np.asarray(x) for x in leaves if x.dtype == jnp.float32] for leaves in ends)
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
