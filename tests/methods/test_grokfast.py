from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unseen.lab import UserError
from unseen.learners.classifier import cross_entropy
from unseen.methods import GrokfastEMA, GrokfastMA, amplify_fast
from unseen.models import QuadraticMLP
from unseen.worlds.algorithms import ModularArithmetic


@pytest.fixture(scope="module")
def recorded():
    """Gradients of 300 real updates, one array a step for each parameter."""
    split = ModularArithmetic(7).split(jax.random.key(0), 0.5)
    model = QuadraticMLP(7, 8, key=jax.random.key(1))
    optimizer = optax.adamw(1e-2)

    @jax.jit
    def step(model, state):
        def loss(model):
            return jnp.mean(cross_entropy(model(*split.inputs), split.targets) * split.train)

        gradient = jax.grad(loss)(model)
        updates, state = optimizer.update(gradient, state, model)
        return optax.apply_updates(model, updates), state, gradient

    state, gradients = optimizer.init(model), []
    for _ in range(300):
        model, state, gradient = step(model, state)
        gradients.append([np.asarray(x) for x in jax.tree.leaves(gradient)])
    return gradients


def filtered(transformation, gradients):
    """What the transformation makes of a sequence of gradients."""
    state, update, out = transformation.init(gradients[0]), jax.jit(transformation.update), []
    for gradient in gradients:
        new, state = update(gradient, state)
        out.append(new)
    return out


def agree(ours, theirs):
    """To 1e-6 of the largest entry that a parameter's gradient ever has."""
    for a, b in zip(zip(*ours, strict=True), zip(*theirs, strict=True), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b)
        assert np.abs(a - b).max() <= 1e-6 * np.abs(b).max()


@pytest.mark.parametrize("alpha, amplification", [(0.98, 2.0), (0.8, 0.1), (0.0, 1.0)])
def test_exponential_filter_is_the_published_one(recorded, alpha, amplification):
    """The official filter begins its average at the first gradient and adds it from the first step on."""
    slow, expected = [x.astype(np.float64) for x in recorded[0]], []
    for gradient in recorded:
        slow = [alpha * mu + (1 - alpha) * g.astype(np.float64) for mu, g in zip(slow, gradient, strict=True)]
        expected.append([g + amplification * mu for g, mu in zip(gradient, slow, strict=True)])
    agree(filtered(GrokfastEMA(alpha, amplification), recorded), expected)


@pytest.mark.parametrize("window, amplification", [(100, 5.0), (7, 2.0), (1, 1.0)])
def test_window_filter_is_the_published_one(recorded, window, amplification):
    """The official filter keeps a queue and adds its mean once it is full."""
    queue, expected = deque(maxlen=window), []
    for gradient in recorded:
        queue.append([g.astype(np.float64) for g in gradient])
        mean = [sum(column) / len(queue) for column in zip(*queue, strict=True)]
        weight = amplification if len(queue) == window else 0.0
        expected.append([g + weight * mu for g, mu in zip(gradient, mean, strict=True)])
    agree(filtered(GrokfastMA(window, amplification), recorded), expected)


def test_slow_and_fast_amplified_add_up(recorded):
    """(g + l mu) + (g + l (g - mu)) = (2 + l) g."""
    slow, fast = (filtered(link, recorded) for link in (GrokfastEMA(0.9, 2.0), amplify_fast(0.9, 2.0)))
    both = [[a + b for a, b in zip(s, f, strict=True)] for s, f in zip(slow, fast, strict=True)]
    agree(both, [[4.0 * g for g in gradient] for gradient in recorded])


def test_constant_gradients_have_no_fast_part():
    gradient = {"w": jnp.array([1.0, -2.0])}
    for link, factor in ((GrokfastEMA(0.9, 2.0), 3.0), (amplify_fast(0.9, 2.0), 1.0), (GrokfastMA(2, 5.0), 6.0)):
        state = link.init(gradient)
        for _ in range(3):
            out, state = link.update(gradient, state)
        np.testing.assert_allclose(out["w"], factor * gradient["w"], rtol=1e-6)


def test_they_are_links_of_a_chain_and_take_traced_numbers():
    def trained(amplification):
        optimizer = optax.chain(GrokfastEMA(0.9, amplification), optax.sgd(0.1))
        x = jnp.array(1.0)
        state = optimizer.init(x)
        for _ in range(3):
            updates, state = optimizer.update(2 * x, state)
            x = optax.apply_updates(x, updates)
        return x

    assert isinstance(GrokfastMA(3), optax.GradientTransformation)
    plain = trained(0.0)
    assert float(plain) == pytest.approx(0.8**3)
    both = jax.jit(jax.vmap(trained))(jnp.array([0.0, 2.0]))
    np.testing.assert_allclose(both, [plain, trained(2.0)], rtol=1e-6)


def test_a_population_is_filtered_member_by_member(recorded):
    """Under vmap all members share one place in the ring; one that is stopped does not disturb the others."""
    link, gradients = GrokfastMA(5, 2.0), [gradient[2] for gradient in recorded[:12]]
    scales = jnp.array([1.0, -3.0, 0.5])
    state, update = jax.vmap(lambda s: link.init(s * gradients[0]))(scales), jax.jit(jax.vmap(link.update))
    for step, gradient in enumerate(gradients):
        out, new = update(scales[:, None, None] * gradient, state)
        stopped = jnp.array([False, False, step >= 7])  # its counter stands still from here on
        state = jax.tree.map(lambda a, b, s=stopped: jnp.where(s.reshape(3, *[1] * (a.ndim - 1)), a, b), state, new)
    alone = filtered(link, [[gradient] for gradient in gradients])[-1][0]
    np.testing.assert_allclose(out[:2], scales[:2, None, None] * alone, rtol=1e-5, atol=1e-9)


def test_bad_settings():
    with pytest.raises(UserError, match="alpha takes"):
        GrokfastEMA(1.0)
    with pytest.raises(UserError, match="window takes"):
        GrokfastMA(0)
