import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from unseen.lab import UserError
from unseen.lab.statistics import first_step
from unseen.measures.pathways import (
    edit_distance,
    local_grokking_onset,
    mean_edit_distance,
    pathway_consistency,
    pathway_distance,
    router_pathways,
)

PATHS = np.random.default_rng(0).integers(4, size=(20, 3))


def test_edit_distance_of_known_words():
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance("", "abc") == 3 and edit_distance("abc", "abc") == 0
    assert edit_distance([1, 2, 3], [2, 3, 1]) == 2


def test_counting_agrees_with_the_mean_edit_distance_of_all_pairs():
    letters = [list(enumerate(path)) for path in PATHS.tolist()]
    expected = np.mean([edit_distance(a, b) for a, b in itertools.combinations(letters, 2)]) / 3
    assert float(pathway_distance(jnp.asarray(PATHS))) == pytest.approx(expected, rel=1e-5)
    sampled = mean_edit_distance(PATHS[:, :, None], pairs=4_000)
    assert sampled == pytest.approx(expected, abs=0.02)


def test_extreme_paths_and_weights():
    assert float(pathway_distance(jnp.zeros((5, 2), int))) == pytest.approx(0, abs=1e-6)
    assert float(pathway_distance(jnp.arange(6)[:, None] * jnp.ones(2, int))) == pytest.approx(1)
    weights = jnp.array([1.0] * 8 + [0.0] * 12)
    alone = pathway_distance(jnp.asarray(PATHS[:8]))
    assert float(pathway_distance(jnp.asarray(PATHS), weights)) == pytest.approx(float(alone), rel=1e-5)


def test_consistency_by_hand():
    experts = jnp.array([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]])
    one, two = jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])
    half = jnp.array([0.5, 0.5])
    weights = jnp.stack([jnp.stack([one, one, one]), jnp.stack([one, two, half])])
    np.testing.assert_allclose(pathway_consistency(weights, experts), [1, 0, np.sqrt(0.5)], atol=1e-6)
    with pytest.raises(UserError, match="two layers or more"):
        pathway_consistency(weights[:1], experts[:1])


def test_onset_is_half_of_the_way_from_where_the_loss_settled():
    step = np.arange(0, 1001, 50)
    coords = {"seed": [0, 1, 2], "step": step}
    fall = 0.8 - 0.4 * np.clip((step - 200) / 620, 0, 1)  # half way at 510, seen at 550
    score = xr.DataArray([fall, 1 - fall, fall], coords, ("seed", "step"))
    train = xr.DataArray([step >= 100, step >= 100, step > 2000], coords, ("seed", "step"))
    onset = local_grokking_onset(score, first_step(train))
    assert onset.time.values.tolist() == [550, 550, 1000]
    assert onset.reached.values.tolist() == [True, True, False]


def test_router_logits_by_hand():
    layers = [np.array([[2.0, 1.0, 0.0], [0.0, 0.0, 5.0]]), np.array([[0.0, 3.0, 1.0], [1.0, 0.0, 0.0]])]
    paths, weights = router_pathways(layers, 2)
    assert paths.tolist() == [[[0, 1], [1, 2]], [[2, 0], [0, 1]]]
    np.testing.assert_allclose(weights[0, 0], [np.e / (1 + np.e), 1 / (1 + np.e), 0])
    np.testing.assert_allclose(weights.sum(-1), 1)
    with pytest.raises(UserError, match="router_logits takes"):
        router_pathways([layers[0], layers[1][:1]])
    with pytest.raises(UserError, match="experts_a_token takes"):
        router_pathways(layers, 4)


def test_router_logits_of_a_hugging_face_mixture():
    """A randomly initialised OLMoE of a few thousand parameters, no download."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.OlmoeConfig(
        vocab_size=32, hidden_size=16, intermediate_size=8, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=2, num_experts=4, num_experts_per_tok=2, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.OlmoeForCausalLM(config).eval()
    tokens = torch.tensor([[3, 5, 7, 9, 5]])
    with torch.no_grad():
        out = model(input_ids=tokens, output_router_logits=True)
    paths, weights = router_pathways([x.float().reshape(-1, 4).numpy() for x in out.router_logits], 2)
    assert paths.shape == (5, 3, 2) and weights.shape == (3, 5, 4)
    assert (np.sort(weights, -1)[..., :2] == 0).all()
    # The weights of the likeliest experts, as the block itself normalises them.
    share = torch.softmax(out.router_logits[0].float().reshape(-1, 4), -1).topk(2)
    assert (paths[:, 0] == share.indices.numpy()).all()
    np.testing.assert_allclose(
        np.take_along_axis(weights[0], paths[:, 0], -1), (share.values / share.values.sum(-1, keepdim=True)).numpy(),
        rtol=1e-5,
    )  # fmt: skip
    assert 0 <= mean_edit_distance(paths) <= 1
    routers = np.stack([layer.mlp.gate.weight.detach().numpy() for layer in model.model.layers])
    consistency = pathway_consistency(jnp.asarray(weights, jnp.float32), jnp.asarray(routers))
    assert consistency.shape == (5,) and (jnp.abs(consistency) <= 1 + 1e-6).all()
    assert isinstance(consistency, jax.Array)
