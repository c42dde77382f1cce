import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.models.clip import TinyCLIP
from unseen.worlds.clusters.shapes import ShapeScenes

pytestmark = pytest.mark.optimized

EASY = {"style": ("flat",), "texture": ("plain",), "background": ("dark",), "size": ("large",)}


@pytest.fixture(scope="module")
def scenes():
    return ShapeScenes().sample(jax.random.key(0), 6)


def test_size_and_unit_vectors(scenes):
    images, words, _ = scenes
    model = TinyCLIP(key=jax.random.key(1))
    parameters = sum(x.size for x in jax.tree.leaves(eqx.filter(model, eqx.is_array)))
    assert 180_000 < parameters < 230_000
    for vectors in (model.encode_image(images), model.encode_text(words)):
        assert vectors.shape == (6, 64) and np.allclose(jnp.linalg.norm(vectors, axis=1), 1, atol=1e-4)


def test_loss_is_the_mean_of_both_cross_entropies(scenes):
    images, words, _ = scenes
    model = TinyCLIP(key=jax.random.key(1), width=16)
    logits = 10 * np.asarray(model.encode_image(images) @ model.encode_text(words).T, float)
    rows = [-(logits[i, i] - np.log(np.exp(logits[i]).sum())) for i in range(6)]
    columns = [-(logits[i, i] - np.log(np.exp(logits[:, i]).sum())) for i in range(6)]
    assert np.isclose(float(model.loss(images, words)), (np.mean(rows) + np.mean(columns)) / 2, atol=1e-4)


def test_padding_is_not_read_and_soft_prompts_contain_the_hard_ones(scenes):
    _, words, _ = scenes
    model = TinyCLIP(key=jax.random.key(2), width=16)
    length = int((words[0] != 0).sum())
    short = model.encode_text(words[:1, :length])
    assert np.allclose(model.encode_text(words[:1]), short, atol=1e-5)
    rows = jax.nn.one_hot(words[:1, :length], 60)
    assert np.allclose(model.encode_text(rows), short, atol=1e-5)
    slope = jax.grad(lambda r: model.encode_text(r)[0, 0])(rows)
    assert float(jnp.abs(slope).max()) > 0


def test_it_learns_colours_from_captions_and_nothing_from_shuffled_ones(tmp_path, monkeypatch):
    monkeypatch.setenv("UNSEEN_HOME", str(tmp_path))
    world = ShapeScenes()
    images, _, attributes = world.sample(jax.random.key(3), 200, EASY)
    prompts = world.prompts(jax.random.key(4), "colour", 4)
    settings = {"steps": 300, "batch": 64, "width": 32, "factors": EASY, "mention": {"colour": 1.0}}
    right = {}
    for shuffled in (False, True):
        model = TinyCLIP.pretrained(0, shuffled=shuffled, **settings)
        right[shuffled] = float((model.predict(images, prompts) == attributes["colour"]).mean())
    assert right[False] > 0.8
    assert abs(right[True] - 1 / 6) < 0.25
    # What is read back from the store is what was trained.
    again = TinyCLIP.pretrained(0, shuffled=False, **settings)
    assert float((again.predict(images, prompts) == attributes["colour"]).mean()) == right[False]
