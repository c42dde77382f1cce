import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from unseen.lab import UserError
from unseen.methods.full_batch import FullBatchRecipe, gradient_norm_penalty

KEY = jax.random.key(0)


def norm_squared(gradient):
    return sum(jnp.sum(g**2) for g in jax.tree.leaves(gradient))


def assert_close(a, b, rtol):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol * float(jnp.abs(y).max()))


def test_it_is_exact_for_a_quadratic():
    a = jax.random.normal(KEY, (4, 4))
    hessian, x = a @ a.T, jnp.arange(4.0)
    found = gradient_norm_penalty(0.3)(lambda x: x @ hessian @ x / 2, x)
    np.testing.assert_allclose(found, hessian @ x + 0.6 * hessian @ hessian @ x, rtol=1e-3)


@pytest.mark.parametrize("strength", [0.0, 0.05, 1.0])
def test_it_is_the_gradient_of_the_squared_norm(strength):
    net = eqx.nn.MLP(3, "scalar", 8, 2, activation=jax.nn.tanh, key=KEY)
    x = jax.random.normal(KEY, (20, 3))

    def loss(net):
        return jnp.mean((jax.vmap(net)(x) - x[:, 0]) ** 2)

    def penalised(net):
        return loss(net) + strength * norm_squared(eqx.filter_grad(loss)(net))

    exact = eqx.filter_jit(eqx.filter_grad(penalised))(net)
    found = eqx.filter_jit(lambda net: gradient_norm_penalty(strength, epsilon=1e-3)(loss, net))(net)
    assert_close(*(eqx.filter(g, eqx.is_inexact_array) for g in (found, exact)), rtol=0.01)


def test_blocks_are_penalised_one_by_one():
    x = jax.random.normal(KEY, (6, 3))

    def loss(w, rows=None):
        part = x if rows is None else x[rows]
        return jnp.mean(jnp.tanh(part @ w) ** 2)

    blocks = jnp.arange(6).reshape(3, 2)
    w = jnp.array([0.5, -1.0, 0.2])

    def penalised(w):
        each = [loss(w, rows) + 0.4 * jnp.sum(jax.grad(loss)(w, rows) ** 2) for rows in blocks]
        return sum(each) / 3

    found = gradient_norm_penalty(0.4, blocks=blocks, epsilon=1e-3)(loss, w)
    np.testing.assert_allclose(found, jax.grad(penalised)(w), rtol=0.01)
    whole = gradient_norm_penalty(0.4, epsilon=1e-3)(loss, w)
    assert not np.allclose(found, whole, rtol=0.05)


def test_a_flat_point_stays():
    assert float(gradient_norm_penalty(1.0)(lambda x: x**2, jnp.array(0.0))) == 0


def test_the_recipes_chain_is_torchs_nesterov_with_clipping():
    recipe = FullBatchRecipe(0.1, 10, clip=0.5, momentum=0.9, weight_decay=0.01)
    optimizer = recipe.optimizer()
    x, target = jnp.array([1.0, -2.0]), jnp.array([0.3, 0.4])
    state = optimizer.init(x)
    y = torch.tensor([1.0, -2.0], requires_grad=True)
    peer = torch.optim.SGD([y], 0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(peer, 10)
    for _ in range(10):
        gradient = jax.grad(lambda x: jnp.sum((x - target) ** 2))(x)
        updates, state = optimizer.update(gradient, state, x)
        x = optax.apply_updates(x, updates)
        peer.zero_grad()
        ((y - torch.tensor([0.3, 0.4])) ** 2).sum().backward()
        torch.nn.utils.clip_grad_norm_([y], 0.5)
        peer.step()
        rates.step()
    np.testing.assert_allclose(x, y.detach().numpy(), rtol=1e-4)


def test_the_schedule_rises_and_falls():
    rates = jax.vmap(FullBatchRecipe(0.4, 30, warmup=4, horizon=40).schedule)(jnp.arange(30))
    peer = optax.warmup_cosine_decay_schedule(0.0, 0.4, 4, 40)
    np.testing.assert_allclose(rates, [peer(t) for t in range(30)], rtol=1e-5, atol=1e-7)
    assert float(rates[0]) == 0 and float(rates[-1]) > 0.05


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gradient_norm_penalty(-1.0), "strength takes"),
        (lambda: gradient_norm_penalty(1.0, epsilon=0.0), "epsilon takes"),
        (lambda: FullBatchRecipe(0.1, 0), "updates takes"),
        (lambda: FullBatchRecipe(0.1, 5, warmup=5), "warmup takes a whole number from 0 to 4"),
        (lambda: FullBatchRecipe(0.1, 5, horizon=4), "horizon takes"),
        (lambda: FullBatchRecipe(0.1, 5, clip=0.0), "clip takes"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(UserError, match=message):
        make()
