import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from unseen.lab import UserError
from unseen.studies.shift.regmean_plus_plus import METHODS, TASKS, UNSEEN, RegMeanPlusPlus


@pytest.fixture(scope="module")
def trained():
    study = RegMeanPlusPlus.at_scale("smoke", first_seed=0, counts=(2, 6))
    learner = study.learner()
    start = learner.init(jax.random.key(0))
    advance = jax.jit(learner.advance)
    middle = advance(start)
    return learner, start, middle, advance(middle)


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def test_base_first_then_candidates_with_the_classifier_frozen(trained):
    _, start, middle, end = trained
    assert any((a != b).any() for a, b in zip(leaves(start.base[0]), leaves(middle.base[0]), strict=True))
    for a, b in zip(leaves(middle.base), leaves(end.base), strict=True):
        np.testing.assert_array_equal(a, b)  # the base rests while candidates train
    for head, candidates in zip(leaves(end.base[0].heads), leaves(end.candidates[0].heads), strict=True):
        np.testing.assert_array_equal(candidates, np.broadcast_to(head, candidates.shape))
    first = np.asarray(end.candidates[0].trunk[0].linear.weight)
    assert all((first[i] != first[j]).any() for i in range(6) for j in range(i))


@pytest.mark.slow
def test_final_measures(trained):
    learner, _, _, end = trained
    final = jax.jit(learner.final)(end)
    for name, dims in learner.dims.items():
        shape = tuple(len(learner.coords[d]) for d in dims)
        assert final[name].shape == shape, name
        assert bool(jnp.isfinite(final[name]).all()) and float(final[name].max()) <= 1
    # All six at once, in any order, are the last count.
    np.testing.assert_allclose(final["count_accuracy"][:, -1], final["own_accuracy"].mean(1), atol=1e-6)


def evidence(gain):
    seeds = 8
    noise = np.random.default_rng(0).normal(0, 0.002, (seeds, 1, 1))
    level = np.array([0.3, 0.35, 0.6, 0.6 + gain])[None, :, None]
    values = lambda n: level + noise + np.zeros((1, 1, n))  # noqa: E731
    jitter = np.random.default_rng(1).normal(0, 0.001, (seeds, len(METHODS), 1))
    coords = {"seed": range(100, 108), "merge": list(METHODS)}
    make = lambda dim, names: xr.DataArray(  # noqa: E731
        values(len(names)) + jitter, dims=("seed", "merge", dim), coords={**coords, dim: names}
    )
    return xr.Dataset(
        {
            "own_accuracy": make("task", list(TASKS)),
            "unseen_accuracy": make("shift", list(UNSEEN)),
            "sequential_accuracy": make("merges", [1, 2, 3, 4, 5]),
            "candidate_own": (("seed", "task"), np.full((8, 6), 0.9)),
            "candidate_unseen": (("seed", "shift"), np.full((8, 4), 0.4)),
        }
    )


@pytest.mark.parametrize(
    ("gain", "own", "unseen"),
    [(0.03, "supported", "supported"), (0.005, "refuted", "supported"), (-0.02, "refuted", "refuted")],
)
def test_claims_follow_the_registered_rules(gain, own, unseen):
    study, e = RegMeanPlusPlus(), evidence(gain)
    assert study.own_tasks(e).outcome == own
    assert study.unseen_shifts(e).outcome == unseen
    assert study.sequential(e).outcome == unseen
    assert study.fit_beats_average(e).outcome == "supported"
    study.figure(e)


def test_settings_that_do_not_fit_are_named():
    with pytest.raises(UserError, match="base_steps takes a multiple of every"):
        RegMeanPlusPlus(base_steps=75)
    with pytest.raises(UserError, match="counts takes whole numbers from 2 to 6"):
        RegMeanPlusPlus(counts=(1, 7))
