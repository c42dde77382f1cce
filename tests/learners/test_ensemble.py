import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from unseen.learners.classifier import classifier
from unseen.learners.ensemble import ensemble


class Line(eqx.Module):
    w: Float[Array, " features"]

    def __call__(self, x):
        return x @ self.w


class Points(eqx.Module):
    inputs: tuple[Array]
    labels: Array
    targets: Array
    train: Array
    test: Array


def draw(key):
    x = jax.random.normal(key, (12, 3))
    y = x.sum(1)
    side = (jnp.arange(12) < 8).astype(jnp.float32)
    return Points((x,), y, y, side, 1 - side)


def test_members_share_their_data_and_equal_single_runs():
    single = classifier(
        lambda key: Line(jax.random.normal(key, (3,))),
        draw,
        optax.sgd(0.05),
        steps=20,
        every=10,
        loss=lambda a, b: (a - b) ** 2,
        score=None,
    )
    many = ensemble(single, 4, data=draw)
    key = jax.random.key(0)
    state = jax.jit(many.init)(key)
    assert state.data.labels.shape == (12,) and state.model.w.shape == (4, 3)
    for _ in range(2):
        state = jax.jit(many.advance)(state)
    losses = many.measure(state)["test_loss"]
    assert many.dims["test_loss"] == ("member",) and losses.shape == (4,) and len(np.unique(losses)) == 4
    for member, own in enumerate(jax.random.split(key, 4)):
        alone = eqx.tree_at(lambda s: s.data, single.init(own), draw(key))
        for _ in range(2):
            alone = single.advance(alone)
        assert np.allclose(single.measure(alone)["test_loss"], losses[member], rtol=1e-5)
