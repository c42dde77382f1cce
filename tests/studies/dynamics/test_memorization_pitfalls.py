import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from unseen.lab import UserError
from unseen.studies.dynamics.memorization_pitfalls import Grouped, MemorizationPitfalls, worst_groups

STUDY = MemorizationPitfalls.at_scale("laptop")
JITTER = np.array([-0.001, 0.0, 0.0, 0.001])


def evidence(*, clean=1.0, erm=0.15, mat=0.9, cost=0.01, contrast=0.95, digits=(0.6, 0.75)) -> xr.Dataset:
    base = np.zeros((2, 3, 4, 2)) + JITTER[:, None]
    minority = np.array([[clean, 1.0, np.nan], [erm, mat, 0.6]])[:, :, None, None] + base
    majority = np.array([1.0, 1.0 - cost, 1.0])[None, :, None, None] + base * 0
    # The inner split prefers the second of three rates, at the second of three evaluations.
    inner = np.zeros((2, 3, 4, 3))
    inner[:, 1, :, 1] = 0.5
    test = np.full((2, 3, 4, 3), 0.9)
    test[:, 1, :, 1] = np.array(digits)[:, None] + JITTER
    runs, coloured = ("noise", "training", "seed", "step"), ("digit_training", "rate", "seed", "coloured_step")
    return xr.Dataset(
        {
            "minority_test": (runs, minority),
            "minority_train": (runs, np.where(np.isnan(minority), np.nan, 1.0)),
            "majority_test": (runs, majority),
            "contradicted_minority": (runs[:3], contrast + base[..., 0]),
            "contradicted_majority": (runs[:3], base[..., 0] * 0),
            "worst_validation": (coloured, inner),
            "worst_test": (coloured, test),
            "curve": (("spread", "seed", "x"), np.zeros((3, 4, 5))),
            "point": (("spread", "seed", "point_x"), np.zeros((3, 4, 2))),
        },
        {
            "noise": [0.0, 0.5], "training": ["erm", "mat", "weighted"], "seed": range(4), "step": [0, 1_000],
            "digit_training": ["erm", "mat"], "rate": [0.003, 0.01, 0.03], "coloured_step": [0, 50, 100],
            "spread": [0.0, 1e-4, 1e-3], "x": np.linspace(-1, 1, 5), "point_x": [-1.0, 1.0],
        },
    )  # fmt: skip


def test_claims_on_made_up_runs():
    e = evidence()
    assert {c: STUDY.judgement(c, e).outcome for c in STUDY.claims} == dict.fromkeys(STUDY.claims, "supported")
    assert STUDY.judgement("interplay", e).effect.estimate == pytest.approx(0.85)
    assert STUDY.judgement("images", e).effect.estimate == pytest.approx(0.15)
    worse = evidence(clean=0.3, mat=0.2, cost=0.2, contrast=0.3, digits=(0.7, 0.7))
    assert {c: STUDY.judgement(c, worse).outcome for c in STUDY.claims} == dict.fromkeys(STUDY.claims, "refuted")
    assert STUDY.judgement("mat-helps", evidence(cost=0.07)).outcome == "inconclusive"


def test_seeds_that_were_not_run_stay_missing():
    e = evidence()
    e["worst_validation"] = e.worst_validation.where(e.seed > 0)
    assert STUDY.judgement("images", e).effect.missing == 1


def test_groups():
    data = Grouped.of(jnp.arange(8.0)[:, None], jnp.array([0, 0, 1, 1] * 2), jnp.array([True, False] * 4), (4, 2))
    assert data.side(0).tolist() == [1] * 4 + [0] * 4 and data.side(2).tolist() == [0] * 6 + [1] * 2
    uneven = Grouped.of(data.x, data.labels, jnp.array([True, True, True, False] * 2), (4, 2)).balanced()
    np.testing.assert_allclose(uneven.train, [2 / 3, 2 / 3, 2 / 3, 2, 0, 0, 0, 0], rtol=1e-6)
    marked = data.shifted(jnp.ones((4, 2)), jnp.array([True, False, True, False]))
    assert marked.shift.sum() == 8 and marked.contradicted.sum() == 2

    def always_zero(x, shift):
        return jnp.tile(jnp.array([1.0, 0.0]), (len(x), 1))

    assert jnp.isnan(worst_groups(always_zero, data)["worst_test"])  # one of four groups is empty there
    full = Grouped.of(jnp.zeros((12, 1)), jnp.array([0, 0, 1, 1] * 3), jnp.array([True, False] * 6), (4, 4))
    assert worst_groups(always_zero, full) == {"worst_validation": 0, "worst_test": 0}


def test_figures_do_without_what_was_not_run():
    e = evidence()
    assert STUDY.figure(e.isel(seed=[0], training=[0], spread=[0], noise=[1])) is not None
    assert STUDY.figure(e.where(e.seed < 2)) is not None


def test_data_of_a_seed_with_held_out_predictions():
    study = MemorizationPitfalls.at_scale("smoke")
    state = jax.jit(study.learner(0.5, "mat").init)(jax.random.key(0))
    assert state.data.train.sum() == 60 and state.data.test.sum() == 40
    assert (jnp.abs(state.data.shift[:60]).sum(1) > 0).all() and (state.data.shift[60:] == 0).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": "dro"}, "training takes some of erm, mat, weighted"),
        ({"noise": -1.0}, "noise and spread take"),
        ({"agreement": 1.0}, "agreement takes"),
        ({"temperature": 0.0}, "temperature takes"),
        ({"rate": 0.0}, "rate and learning_rate take"),
        ({"digits": 1_700}, "digits and inner take"),
        ({"steps": 1_001}, "steps takes a multiple"),
        ({"tests": 1}, "examples and tests take"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(UserError, match=message):
        MemorizationPitfalls.at_scale("laptop", **changes)
