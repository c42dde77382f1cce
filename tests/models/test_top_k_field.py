import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.lab import UserError
from unseen.models.local_field import local_field
from unseen.models.top_k_field import TopKField

PLANES = jax.random.bernoulli(jax.random.key(0), 0.4, (4, 5, 2)).astype(jnp.float32)
CELL = jnp.array([1, 2])


def test_with_all_cells_it_is_softmax_attention():
    net = TopKField(2, features=6, heads=2, k=20, key=jax.random.key(1))
    places = [(r, c) for r in range(4) for c in range(5)]
    near = jax.jit(jax.vmap(lambda p: local_field(PLANES, p, 3).ravel()))(jnp.array(places))
    fields = np.concatenate([near, (np.array(places) - [1, 2]) / 5], 1)
    found = np.maximum(fields @ net.look.weight.T + net.look.bias, 0)
    query = (found[places.index((1, 2))] @ net.query.weight.T).reshape(2, 6)
    score = np.exp(query @ found.T / 6**0.5)
    value = (found @ net.value.weight.T).reshape(20, 2, 6)
    expected = np.einsum("hc,chf->hf", score / score.sum(1, keepdims=True), value)
    assert np.allclose(eqx.filter_jit(net)(PLANES, CELL), expected.ravel(), atol=1e-5)


def test_few_fields_are_seen_and_others_do_not_matter():
    net = TopKField(2, features=6, heads=2, k=3, key=jax.random.key(2))
    weights, _ = eqx.filter_jit(net.attend)(PLANES, CELL)
    assert ((weights > 0).sum(1) == 3).all() and np.allclose(weights.sum(1), 1)
    # What the output depends on: the cell's own field and the six chosen ones.
    slope = jax.jit(jax.jacobian(lambda p: net(p, CELL)))(PLANES)
    matters = np.abs(slope).max((0, 3)) > 0
    allowed = np.zeros((6, 7), bool)
    for r, c in [tuple(divmod(int(i), 5)) for i in np.nonzero(np.asarray(weights).any(0))[0]] + [(1, 2)]:
        allowed[r : r + 3, c : c + 3] = True
    assert matters.any() and not (matters & ~allowed[1:-1, 1:-1]).any() and not allowed[1:-1, 1:-1].all()


def test_bad_settings_are_named():
    with pytest.raises(UserError, match="k and heads"):
        TopKField(2, k=0, key=jax.random.key(0))
    with pytest.raises(UserError, match="k takes at most the number of cells, 20, got 21"):
        TopKField(2, k=21, key=jax.random.key(0))(PLANES, CELL)
