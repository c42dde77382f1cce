import numpy as np
import pytest
import xarray as xr

import unseen
from unseen.lab import UserError
from unseen.studies.dynamics.grokfast import Grokfast

STUDY = Grokfast.at_scale("laptop")
JITTER = np.array([-1, 0, 1, 1, 0, -1]) * 50.0


def accuracy(time, dim, horizon):
    """0 before the time, 1 from it on; NaN where there is no time."""
    step = xr.DataArray(np.arange(0, horizon + 1, 50), dims=dim, coords={dim: np.arange(0, horizon + 1, 50)})
    return (step >= time).astype(float).where(time.notnull())


def evidence(filtered=0.5, fast=2.0, low=20_000.0, addition=0.5, rates=1.0) -> xr.Dataset:
    """AdamW takes 1,000/decay updates, at other rates `rates` times as long; the filters `filtered` times as long,
    the fast one `fast` times; on addition the filters take `addition` times as long as AdamW's 1,000."""
    axes = {name: list(getattr(STUDY, name)) for name in ("filter", "weight_decay", "learning_rate")}
    ones = xr.DataArray(np.ones((5, 3, 3, 6)), {**axes, "seed": range(6)}, [*axes, "seed"])
    jitter = xr.DataArray(JITTER, dims="seed")
    slow, quick = ones["filter"].str.contains("ma-"), ones["filter"] == "fast-0.98-2"
    factor = xr.where(slow, filtered, xr.where(quick, fast, 1.0))
    time = ones * 1_000 / ones.weight_decay * factor * xr.where(ones.learning_rate == 1e-3, 1, rates) + jitter
    ran = [[[STUDY.includes(f, d, r) for r in STUDY.learning_rate] for d in STUDY.weight_decay] for f in STUDY.filter]
    time = time.where(xr.DataArray(ran, dims=list(axes)))
    on_b = (1_000 * xr.where(slow, addition, 1.0) + jitter).where(~quick)
    return xr.Dataset(
        {
            "test_accuracy": accuracy(time, "step", STUDY.steps),
            "addition_test_accuracy": accuracy(on_b, "addition_step", STUDY.addition_steps),
            "low_test_accuracy": accuracy(low + jitter, "low_step", STUDY.low_decay_steps),
        }
    )


def test_evidence_that_follows_the_paper_supports_every_claim():
    e = evidence()
    assert {claim: STUDY.judgement(claim, e).outcome for claim in STUDY.claims} == dict.fromkeys(
        STUDY.claims, "supported"
    )
    assert STUDY.judgement("faster-than-reported-baseline", e).effect.estimate == pytest.approx(np.log(80), abs=0.1)
    assert STUDY.judgement("faster-at-equal-decay", e).effect.estimate == pytest.approx(np.log(2), abs=0.05)
    assert STUDY.judgement("slow-part", e).effect.estimate == pytest.approx(np.log(4), abs=0.05)
    assert STUDY.judgement("faster-at-equal-decay", e).effect.n == 3  # judged on the half that did not choose


@pytest.mark.parametrize(
    ("claim", "how"),
    [
        ("faster-than-reported-baseline", dict(low=1_000.0)),
        ("faster-at-equal-decay", dict(filtered=1.0)),
        ("faster-at-equal-decay", dict(addition=1.5)),
        ("faster-when-tuned", dict(rates=0.5)),
        ("slow-part", dict(fast=0.3)),
    ],
)
def test_evidence_against_a_claim_refutes_it(claim, how):
    assert STUDY.judgement(claim, evidence(**how)).outcome == "refuted"


def test_a_baseline_that_never_gets_there_is_a_lower_bound():
    verdict = STUDY.judgement("faster-than-reported-baseline", evidence(low=90_000.0))
    assert verdict.outcome == "supported" and verdict.effect.high == np.inf
    assert "6 of 6 baseline runs censored" in verdict.note


def test_the_best_setting_is_chosen_on_the_other_half():
    """A filter that is fast on the first half alone is chosen, and judged by the second."""
    e = evidence(filtered=1.0)
    e["test_accuracy"].loc[dict(filter="ma-100-5", weight_decay=0.5, learning_rate=1e-3, seed=[0, 1, 2])] = 1.0
    verdict = STUDY.judgement("faster-at-equal-decay", e)
    assert "digits: none 0.5 against ma-100-5 0.5" in verdict.note
    assert verdict.effect.estimate == pytest.approx(0, abs=0.05)


def test_both_sides_have_nine_settings():
    cells = list(STUDY.cells(STUDY.parts["learner"]))
    plain = [cell for cell in cells if cell["filter"] == "none"]
    slow = [cell for cell in cells if cell["filter"].startswith(("ema", "ma"))]
    assert len(plain) == len(slow) == 9 and len(cells) == 19


@pytest.mark.parametrize("name", ["sgd", "ema-0.98", "ema-a-b", "ema-1.5-2", "ma-0-5"])
def test_bad_filters(name):
    with pytest.raises(UserError, match="takes"):
        Grokfast.at_scale("smoke", filter=name)


def test_smoke_through_the_engine(tmp_path):
    run = unseen.run(
        "grokfast", scale="smoke", filter=("none", "ma-3-5"), weight_decay=0.5, first_seed=0, seeds=3,
        out=str(tmp_path / "run"), quiet=True,
    )  # fmt: skip
    assert len(run.verdicts) == 4
    e = run.evidence
    trained = e.test_loss.isel(step=-1).squeeze()
    assert np.isfinite(trained).all() and (trained.sel(filter="none") != trained.sel(filter="ma-3-5")).all()
    # The same network and digits under both filters.
    first = e.test_accuracy.isel(step=0).squeeze()
    assert (first.sel(filter="none") == first.sel(filter="ma-3-5")).all()
