import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from unseen.measures.randomised_auc import binary_auc, randomised_auc
from unseen.worlds.clusters.graded_features import SlabBlock, SlabData

KEY = jax.random.key(1)


def test_auc_against_scikit_learn_with_ties():
    scores = jnp.round(jax.random.normal(KEY, (200,)) * 2)
    labels = (scores + jax.random.normal(jax.random.key(2), (200,)) > 0).astype(jnp.int32)
    assert binary_auc(scores, labels) == pytest.approx(roc_auc_score(np.asarray(labels), np.asarray(scores)), abs=1e-5)
    assert jnp.isnan(binary_auc(scores, jnp.zeros(200, jnp.int32)))


def test_a_score_loses_the_block_that_it_reads_and_no_other():
    sample = SlabData(5).sample(KEY, 4_000)
    rule = SlabBlock(slabs=5).label

    def linear(x):
        return (x @ sample.rotation.T)[:, 0]

    def slabs(x):
        return rule((x @ sample.rotation.T)[:, 1:]).mean(1)

    for score, used, unused in ((linear, "linear", "slabs"), (slabs, "slabs", "linear")):
        assert randomised_auc(score, sample, used, KEY) == pytest.approx(0.5, abs=0.03)
        assert randomised_auc(score, sample, unused, KEY) == pytest.approx(1, abs=0.005)
