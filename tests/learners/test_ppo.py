import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("rejax")
import gymnax
import rejax

from unseen.lab import UserError
from unseen.learners.ppo import _FiveTuple, episode_return, ppo
from unseen.worlds.control.context import ContextCartPole

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
