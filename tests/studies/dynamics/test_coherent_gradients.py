import numpy as np
import pytest
import xarray as xr

from unseen.lab import UserError
from unseen.studies.dynamics.coherent_gradients import CoherentGradients

STUDY = CoherentGradients.at_scale("laptop", steps=100, compare_at=80)
STEP, PARTS = np.arange(0, 101, 10), np.arange(0, 81, 10)
JITTER = 0.01 * np.arange(4)


def evidence(*, coherent=4.0, spared=0.4, gain=0.1, order=-1.0) -> xr.Dataset:
    """Fit to clean labels rises by 0.15 an evaluation, that to wrong ones half as fast; the median spares some."""
    rng = np.random.default_rng(0)
    shape = (3, 4, len(STEP))
    rise = np.minimum(0.15 * np.arange(len(STEP)), 1) + np.zeros(shape)
    scale = np.array([coherent, 1.0, 0.2])[:, None, None] * (1 + JITTER[:, None])
    alignment = rng.uniform(size=(4, 40))
    learned = order * alignment + 0.02 * rng.uniform(size=alignment.shape)
    seeds = 4
    parts = {}
    for name in ("median", "winsorised"):
        parts |= {
            f"{name}_test_accuracy": 0.6 + gain + np.zeros((1, seeds, len(PARTS))) + JITTER[:, None],
            f"{name}_clean_fit": rise[:1, :, : len(PARTS)],
            f"{name}_wrong_fit": (rise / 2)[:1, :, : len(PARTS)] - spared * (PARTS > 0) + JITTER[:, None],
        }
    runs = {
        "train_accuracy": rise,
        "coherence": np.ones(shape) * scale,
        "test_accuracy": 0.6 + np.zeros(shape),
        "clean_fit": rise,
        "wrong_fit": rise / 2,
    }
    beginning = ("early_noise", "seed", "beginning_step", "example")
    return xr.Dataset(
        {name: (("noise", "seed", "step"), values) for name, values in runs.items()}
        | {name: (("robust_noise", "seed", f"{name.split('_')[0]}_step"), values) for name, values in parts.items()}
        | {
            "first_learned": (("noise", "seed", "example"), np.stack([learned] * 3)),
            "alignment": (beginning, alignment[None, :, None] + np.zeros((1, 4, 21, 40))),
            "example_loss": (beginning, rng.uniform(size=(1, 4, 21, 40))),
        },
        {
            "noise": [0.0, 0.4, 1.0], "robust_noise": [0.4], "early_noise": [0.0], "seed": range(4), "step": STEP,
            "median_step": PARTS, "winsorised_step": PARTS, "beginning_step": range(21),
        },
    )  # fmt: skip


def test_claims_on_made_up_runs():
    e = evidence()
    assert {c: STUDY.judgement(c, e).outcome for c in STUDY.claims} == dict.fromkeys(STUDY.claims, "supported")
    assert STUDY.judgement("real-over-random", e).effect.estimate == pytest.approx(np.log(20), abs=0.01)
    assert STUDY.judgement("not-just-slow", e).effect.estimate == pytest.approx(0.4 - 0.015, abs=1e-6)
    worse = evidence(coherent=0.3, spared=-0.1, gain=-0.05, order=1.0)
    assert {c: STUDY.judgement(c, worse).outcome for c in STUDY.claims} == dict.fromkeys(STUDY.claims, "refuted")


def test_runs_that_never_fit_leave_the_comparison_at_equal_fit_open():
    e = evidence()
    e["median_clean_fit"] = e.median_clean_fit.where(e.seed > 0, 0.5)
    found = STUDY.judgement("not-just-slow", e)
    assert found.outcome == "inconclusive" and found.effect.missing == 1


def test_figures_do_without_what_was_not_run():
    e = evidence()
    assert STUDY.figure(e.isel(seed=[0], noise=[0])) is not None
    assert STUDY.figure(e.where(e.seed < 2)) is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": 100}, "training takes a multiple of three"),
        ({"training": 1_800}, "training takes a number from 3"),
        ({"noise": 1.5}, "noise takes numbers from 0 to 1"),
        ({"winsorised_parts": 7}, "groups takes a divisor"),
        ({"compare_at": 6_000}, "steps and compare_at take multiples"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(UserError, match=message):
        CoherentGradients.at_scale("laptop", **changes)
