import dataclasses

import numpy as np
import pytest
import xarray as xr
from scipy.special import erf

import unseen
from unseen.lab import UserError
from unseen.studies.dynamics.linear_grokking import LinearGrokking

STUDY = LinearGrokking.at_scale("laptop", outputs=1, per_decade=200, seeds=4)
RATES = {320: 2e-4, 375: 5e-4, 600: 3e-3, 1500: 0.02}  # at which a test loss falls, by samples
FIT_RATE = 0.04  # at which every train loss falls
JITTER = xr.DataArray([-0.02, -0.01, 0.01, 0.02], dims="seed", coords={"seed": range(4)})


def evidence(rates=RATES, theory=1.0, law=1.0, break_=1.0, relu_generalises=(300,)) -> xr.Dataset:
    """Losses 2 exp(-rate t).

    The theory's log losses are `theory` times the true ones, its delays the true ones to the power 1/`law`;
    the test loss falls `break_` times faster from the moment at which 5% are right at the strict tolerance.
    """
    axes = {name: list(getattr(STUDY, name)) for name in ("samples", "outputs", "weight_decay", "initial")}
    update = xr.DataArray(STUDY.times().astype(float), dims="update", name="update")
    limits = [STUDY.strict_tolerance, STUDY.tolerance, STUDY.loose_tolerance]
    limit = xr.DataArray(limits, dims="limit", coords={"limit": limits})
    cells = xr.DataArray(np.ones([len(v) for v in axes.values()]), axes, list(axes)) * (1 + JITTER)
    rate = cells * xr.DataArray([rates[n] for n in axes["samples"]], dims="samples")
    bend = np.log(2 / (STUDY.strict_tolerance / 0.0627**2)) / rate
    log_test = np.log(2) - rate * (update + (break_ - 1) * (update - bend).clip(min=0))
    log_train = np.log(2) - cells * FIT_RATE * update
    enough = np.log(2 * 1.96**2 / limit).clip(min=0)  # of the log loss must be lost for 95% to be right
    fit, generalise = enough / FIT_RATE, enough / (rate / (1 + JITTER))
    delay = (generalise - fit) ** (1 / law)

    def right(log_loss: xr.DataArray) -> xr.DataArray:
        return xr.apply_ufunc(erf, np.sqrt(limit / (2 * np.exp(log_loss))))

    step = xr.DataArray(np.arange(0, 5001, 20), dims="relu_step", name="relu_step")
    relu = xr.DataArray(
        np.ones((2, 2, 4)),
        {"relu_samples": [64, 300], "initial": axes["initial"], "seed": range(4)},
        ["relu_samples", "initial", "seed"],
    )
    return xr.Dataset(
        {
            "train_loss": np.exp(log_train),
            "test_loss": np.exp(log_test),
            "predicted_train_loss": np.exp(theory * log_train),
            "predicted_test_loss": np.exp(theory * log_test),
            "train_accuracy": right(log_train),
            "test_accuracy": right(log_test),
            "predicted_fit": fit * cells / cells,
            "predicted_generalise": fit + delay,
            "loop_deviation": ("seed", np.full(4, 3e-4)),
            "relu_train_accuracy": relu * (step >= 100),
            "relu_test_accuracy": relu * (step >= 300) * relu.relu_samples.isin(relu_generalises),
        }
    ).assign_coords(update=update, relu_step=step)


@pytest.mark.parametrize(
    ("claim", "estimate"),
    [("exact-curves", 0.0), ("delay-law", 1.0), ("artefact", 1.0), ("few-samples-late", 2.30)],
)
def test_evidence_that_follows_the_theory_supports_every_claim(claim, estimate):
    verdict = STUDY.judgement(claim, evidence())
    assert verdict.outcome == "supported"
    assert verdict.effect.estimate == pytest.approx(estimate, abs=0.04)


@pytest.mark.parametrize(
    ("claim", "how"),
    [
        ("exact-curves", dict(theory=1.1)),
        ("delay-law", dict(law=0.7)),
        ("delay-law", dict(law=1.4)),
        ("artefact", dict(break_=5.0)),
        ("few-samples-late", dict(rates={**RATES, 320: 0.015})),
    ],
)
def test_evidence_against_a_claim_refutes_it(claim, how):
    assert STUDY.judgement(claim, evidence(**how)).outcome == "refuted"


def test_a_jump_that_ignores_the_tolerance_is_no_artefact():
    e = evidence()
    e["test_accuracy"] = e.test_accuracy.sel(limit=STUDY.strict_tolerance, drop=True) * xr.ones_like(e.limit)
    assert STUDY.judgement("artefact", e).outcome == "refuted"


def test_a_jump_beyond_the_horizon_has_no_window():
    assert STUDY.judgement("artefact", evidence(rates={**RATES, 375: 4e-5})).outcome == "inconclusive"


def test_runs_that_never_generalise_bound_the_delay_from_below():
    verdict = STUDY.judgement("few-samples-late", evidence(rates={**RATES, 320: 1e-6}))
    assert verdict.outcome == "supported"
    assert verdict.effect.high == np.inf and verdict.effect.missing == 0
    assert verdict.effect.low == pytest.approx(np.log10(3e5 / 223), abs=0.05)


def test_delays_too_short_to_be_seen_count_as_at_most_the_distance_of_two_looks():
    e = evidence(rates={**RATES, 1500: FIT_RATE})
    runs = e.sel(samples=1500, outputs=1, weight_decay=0.0, initial=1.0, limit=STUDY.tolerance)
    delay = STUDY.log_delay(runs.train_accuracy, runs.test_accuracy)
    assert delay.is_upper_bound.all() and not delay.is_lower_bound.any()
    looks = 8.9 / FIT_RATE * (1 - 10 ** (-1 / 200))
    np.testing.assert_allclose(10**delay.values, looks, rtol=0.1)
    verdict = STUDY.judgement("few-samples-late", e)
    assert verdict.effect.missing == 0 and verdict.effect.high == np.inf
    assert verdict.outcome == "supported"
    # Test accuracy from the first look on, before train accuracy: a bound too.
    early = STUDY.log_delay(runs.train_accuracy, xr.ones_like(runs.test_accuracy))
    assert early.is_upper_bound.all() and (early.values == 0).all()
    # At the last look neither bound holds.
    last = xr.ones_like(runs.train_accuracy) * (runs["update"] == runs["update"][-1])
    none = STUDY.log_delay(last, xr.zeros_like(last))
    assert none.values.isnull().all()


def test_the_relu_student_is_in_the_note_and_not_in_the_rule():
    e = evidence()
    note = STUDY.judgement("few-samples-late", e).note
    assert "1.39 [1.39, inf], n = 4, at initial scale 0.1" in note  # log10 of (5000 - 100)/200, a lower bound
    assert "0 runs with few and 4 with many samples" in note
    both = STUDY.judgement("few-samples-late", evidence(relu_generalises=(64, 300)))
    assert "4 runs with few and 4 with many samples" in both.note and "0 [0, 0], n = 4, at initial" in both.note
    assert both.outcome == "supported" and both.effect == STUDY.judgement("few-samples-late", e).effect
    assert "no delay to compare" in STUDY.judgement("few-samples-late", evidence(relu_generalises=())).note
    other = dataclasses.replace(STUDY, relu_samples=(60,))
    assert other.few_samples_late(e).note == ""


def test_claims_name_the_samples_that_they_miss():
    e = evidence().sel(samples=[600, 1500])
    with pytest.raises(UserError, match="near 375"):
        dataclasses.replace(STUDY, samples=(600, 1500)).exact_curves(e)


@pytest.mark.parametrize("setting", [dict(relu_updates=30), dict(updates=3), dict(per_decade=0)])
def test_bad_settings(setting):
    with pytest.raises(UserError, match=next(iter(setting))):
        LinearGrokking.at_scale("smoke", **setting)


def test_smoke_through_the_engine(tmp_path):
    settings = dict(samples=37, relu_samples=75, first_seed=0, out=str(tmp_path / "run"), quiet=True)
    run = unseen.run("linear-grokking", scale="smoke", **settings)
    e = run.evidence
    notes = {verdict.claim: verdict.note for verdict in run.verdicts}
    assert len(notes) == 4 and "samples takes a value near 32" in notes["few-samples-late"]
    assert "200 updates of plain gradient descent" in notes["exact-curves"]
    assert (e.loop_deviation < 1e-4).all()
    # Before any update both losses have expectation 1 + initial^2; theory at update 0 is that number.
    first = e.predicted_test_loss.isel(update=0, seed=0).sel(weight_decay=0.0)
    np.testing.assert_allclose(first.sel(initial=[1.0, 0.1]).isel(samples=0, outputs=0), [2, 1.01], rtol=1e-4)
    # Without decay all losses only fall; the ReLU student fits better than it began.
    losses = e[["train_loss", "test_loss"]].sel(weight_decay=0.0).to_array()
    assert (losses.diff("update") <= 1e-6).all()
    assert (e.relu_train_loss.isel(relu_step=-1) < e.relu_train_loss.isel(relu_step=0)).all()
