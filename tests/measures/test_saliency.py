import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.lab import UserError
from unseen.measures.saliency import attribution, attribution_mask, guided, most_salient, saliency_mass
from unseen.models import PatchEncoder


def test_a_network_by_hand():
    first, second, last = (np.random.default_rng(i).normal(size=shape) for i, shape in enumerate([(6, 4), (5, 6), 5]))

    def network(x):
        return jax.nn.relu(second @ jnp.maximum(first @ x, 0.0)) @ last

    x = np.random.default_rng(9).normal(size=4)
    one = first @ x
    two = second @ np.maximum(one, 0)
    back = np.where((two > 0) & (last > 0), last, 0)
    back = second.T @ back
    back = np.where((one > 0) & (back > 0), back, 0)
    for function in (network, jax.jit(network)):
        np.testing.assert_allclose(jax.grad(guided(function))(jnp.asarray(x)), first.T @ back, rtol=2e-4, atol=1e-5)
    np.testing.assert_allclose(guided(network)(jnp.asarray(x)), network(x), rtol=1e-5)
    assert not np.allclose(jax.grad(network)(jnp.asarray(x)), first.T @ back, rtol=1e-2)


def test_equals_hooks_on_the_same_torch_network():
    torch = pytest.importorskip("torch")
    encoder = PatchEncoder(12, features=5, outputs=7, key=jax.random.key(0))
    trunk = eqx.nn.MLP(7, 3, 6, 1, key=jax.random.key(1))
    stacked = eqx.filter_vmap(lambda key: trunk)(jax.random.split(jax.random.key(2), 1))  # as in a QNetwork

    def to(array):
        return torch.nn.Parameter(torch.tensor(np.asarray(array)))

    peer = torch.nn.Sequential(
        torch.nn.Conv2d(3, 5, 4, 4), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(45, 7), torch.nn.ReLU(),
        torch.nn.Linear(7, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3),
    )  # fmt: skip
    peer[0].weight = to(encoder.kernel.reshape(4, 4, 3, 5).transpose(3, 2, 0, 1))
    peer[0].bias = to(encoder.bias)
    # PyTorch flattens channels first, the encoder patches first.
    peer[3].weight = to(encoder.dense.weight.reshape(7, 9, 5).transpose(0, 2, 1).reshape(7, 45))
    peer[3].bias = to(encoder.dense.bias)
    for i, layer in zip((5, 7), trunk.layers, strict=True):
        peer[i].weight, peer[i].bias = to(layer.weight), to(layer.bias)
    for module in peer:
        if isinstance(module, torch.nn.ReLU):
            module.register_full_backward_hook(lambda module, given, out: (given[0].clamp(min=0),))
    images = jax.random.uniform(jax.random.key(3), (4, 12, 12, 3))
    theirs = torch.tensor(np.asarray(images).transpose(0, 3, 1, 2), requires_grad=True)
    peer(theirs)[:, 1].sum().backward()

    def network(image):
        return eqx.filter_vmap(lambda trunk: trunk(encoder(image)))(stacked).mean(0)[1]

    ours = jax.jit(jax.vmap(lambda image: attribution(network, image)))(images)
    np.testing.assert_allclose(ours, np.abs(theirs.grad.numpy()).max(1), rtol=1e-4, atol=1e-6)
    plain = jnp.abs(jax.vmap(jax.grad(network))(images)).max(-1)
    assert not np.allclose(ours, plain, rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("quantile", [0.0, 0.3, 0.9, 0.95, 0.999])
def test_most_salient_are_those_from_the_quantile_on(quantile):
    for seed in range(3):
        scores = np.random.default_rng(seed).exponential(size=(7, 9)).astype(np.float32)
        scores[0] = scores[1]  # ties
        found = most_salient(jnp.asarray(scores), quantile)
        np.testing.assert_array_equal(found, scores >= np.quantile(scores, quantile, method="higher"))
        assert int(found.sum()) >= (1 - quantile) * 62


def test_what_is_not_looked_at_is_never_salient():
    scores = jnp.zeros((4, 5)).at[1, 2].set(3.0)
    np.testing.assert_array_equal(most_salient(scores, 0.5), scores > 0)
    assert not most_salient(jnp.zeros((3, 3)), 0.5).any()
    with pytest.raises(UserError, match="quantile"):
        most_salient(scores, 1.0)


def test_the_mask_finds_what_a_network_reads():
    """Two of sixteen pixels decide; a third, weaker one falls below the quantile."""
    weights = jnp.zeros((4, 4, 3)).at[0, 1, 2].set(2.0).at[3, 3, 0].set(-1.5).at[2, 2, 1].set(0.1)
    image = jax.random.uniform(jax.random.key(0), (4, 4, 3))

    def network(x):
        return (x * weights).sum()

    np.testing.assert_allclose(attribution(network, image), jnp.abs(weights).max(-1))
    mask = attribution_mask(network, image, 14 / 15)
    np.testing.assert_array_equal(mask, np.abs(weights).max(-1) > 1)
    truth = jnp.zeros((4, 4)).at[0, 1].set(1.0)
    assert float(saliency_mass(attribution(network, image), truth)) == pytest.approx(2 / 3.6)


def test_mass_on_the_truth():
    found = jnp.array([[[1.0, 3.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]], [[0.0, 2.0], [0.0, 2.0]]])
    truth = jnp.array([[False, True], [False, False]])
    np.testing.assert_allclose(saliency_mass(found, truth), [0.75, 0.0, 0.5])
    np.testing.assert_allclose(saliency_mass(found[0], jnp.array([[1.0, 0.5], [0.0, 0.0]])), 0.625)
