import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("rejax")
import gymnax
import rejax

from unseen.lab import UserError
from unseen.learners import ppo as ppo_module
from unseen.learners.equinox_ppo import GaussianActor, equinox_ppo
from unseen.learners.ppo import _FiveTuple

SETTINGS = dict(num_envs=8, num_steps=32, num_epochs=2, num_minibatches=4, normalize_rewards=True)
NUMBERS = dict(
    learning_rate=1e-2, gamma=0.97, gae_lambda=0.9, clip_eps=0.1, ent_coef=0.01, vf_coef=0.7, max_grad_norm=0.3
)


class Layers(eqx.Module):
    """rejax's two-layer actor, from its flax parameters."""

    kernels: list
    biases: list

    def __init__(self, flax):
        layers = [flax["features"]["Dense_0"], flax["features"]["Dense_1"], flax["action_mean"]]
        self.kernels, self.biases = ([layer[name] for layer in layers] for name in ("kernel", "bias"))

    def __call__(self, x):
        for kernel, bias in zip(self.kernels[:-1], self.biases[:-1], strict=True):
            x = jnp.tanh(x @ kernel + bias)
        return x @ self.kernels[-1] + self.biases[-1]


def test_is_rejax_update_for_update():
    environment, params = gymnax.make("Pendulum-v1")
    static = dict(SETTINGS, width=16, depth=2, activation="tanh")
    peer = ppo_module._algorithm(rejax.PPO, _FiveTuple(environment), params, static, NUMBERS)
    key = jax.random.key(3)
    theirs = ppo_module._state_of(peer, ppo_module._leaves_of(peer, key))
    first = Layers(theirs.actor_ts.params["params"])
    learner = equinox_ppo(
        lambda _: first, environment, params, total_steps=4 * 256, every=2, critic_width=16, anneal=False,
        measure=lambda net: {"bias": net.biases[-1][0]}, final=lambda net: {"kernel": net.kernels[0]},
        dims={"kernel": ("in", "out")}, **SETTINGS, **NUMBERS,
    )  # fmt: skip
    assert (learner.steps, learner.every, learner.dims) == (4, 2, {"kernel": ("in", "out")})
    state, advance = jax.jit(learner.init)(key), jax.jit(learner.advance)
    for _ in range(learner.rounds):
        state = advance(state)
    theirs = jax.jit(lambda ts: jax.lax.fori_loop(0, 4, lambda _, s: peer.train_iteration(s), ts))(theirs)
    expected = Layers(theirs.actor_ts.params["params"])
    np.testing.assert_allclose(jax.jit(learner.final)(state)["kernel"], expected.kernels[0], atol=2e-4)
    np.testing.assert_allclose(jax.jit(learner.measure)(state)["bias"], expected.biases[-1][0], atol=2e-4)
    assert not np.allclose(expected.kernels[0], first.kernels[0], atol=2e-2)  # and both have moved


def test_a_masked_component_is_as_good_as_absent():
    def actor(size, mask):
        return GaussianActor(lambda key: eqx.nn.Lambda(lambda x: x[..., :size]), lambda x: jnp.asarray(mask))

    seen, taken = jnp.array([[0.3, -0.2], [1.0, 0.5]]), jnp.array([[0.1, 5.0], [-0.4, -7.0]])
    whole, part = actor(2, [1.0, 0.0]), actor(1, [1.0])
    weights = whole.init(jax.random.key(0), seen)

    def both(parameters, which, actions):
        return which.apply(parameters, seen, actions, method="log_prob_entropy")

    expected = -0.5 * (taken[:, 0] - seen[:, 0]) ** 2 - 0.5 * np.log(2 * np.pi)  # the density of a standard normal
    for which, actions in ((whole, taken), (part, taken[:, :1])):
        found, entropy = both(weights, which, actions)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        np.testing.assert_allclose(entropy, 0.5 * np.log(2 * np.pi * np.e), rtol=1e-6)
    # Its noise moves neither the deviation nor anything else.
    slope = jax.grad(lambda p, actions: both(p, whole, actions)[0].sum())
    assert float(slope(weights, taken)["log_std"]) == float(slope(weights, 10 * taken * jnp.array([0.1, 1]))["log_std"])
    drawn, log_prob = whole.apply(weights, seen, jax.random.key(1), method="action_log_prob")
    np.testing.assert_allclose(both(weights, whole, drawn)[0], log_prob, atol=1e-6)


def test_uneven_minibatches_are_refused():
    environment, params = gymnax.make("Pendulum-v1")
    with pytest.raises(UserError, match="num_minibatches"):
        equinox_ppo(lambda key: eqx.nn.Linear(3, 1, key=key), environment, params, num_envs=3, num_minibatches=5)
