import dataclasses

import numpy as np
import pytest
import xarray as xr

import unseen
from unseen.lab import UserError
from unseen.studies.dynamics.generalization_dynamics import GeneralizationDynamics

STUDY = GeneralizationDynamics.at_scale("laptop", seeds=8, relu_seeds=8)
JITTER = 1 + xr.DataArray(np.linspace(-0.004, 0.004, 8), dims="seed", coords={"seed": range(8)})


def over(values: dict, dim: str) -> xr.DataArray:
    return xr.DataArray(list(values.values()), {dim: list(values)}, [dim])


def evidence(theory=1.0, peak=3.0, rise=0.5, many=0.0, largest=1.0, mid=1.5) -> xr.Dataset:
    """Errors 2 -> 1 -> `final`; ReLU students: best at 100 units, final error `mid` times it at 10."""
    final = over(dict.fromkeys(STUDY.density, 1.1) | {1.0: peak}, "density")
    initial = over({0.0: 0.0, 0.5: 0.25, 1.0: 1.0}, "initial")
    extra = initial * over({0.25: rise, 0.5: rise, 0.75: rise, 1.0: 0, 1.5: many, 2.0: many, 4.0: many}, "density")
    times = over({0.0: 2.0, 1.0: 1.0}, "time")
    error = xr.concat([times + 0 * final + 0 * extra, (final + extra).expand_dims(time=[9.0])], "time") * JITTER
    width = over(dict.fromkeys(STUDY.width, 1.2) | {10: mid, 100: 1.0, 1000: largest}, "width")
    relu = xr.concat(
        [0.9 * xr.ones_like(width).expand_dims(relu_step=[0]), width.expand_dims(relu_step=[100])], "relu_step"
    )
    return xr.Dataset(
        {
            "error": error,
            "predicted_error": theory * error / JITTER * xr.ones_like(JITTER),
            "frozen": 0.5 * xr.ones_like(extra) * JITTER,
            "loop_deviation": 1e-4 * JITTER,
            "test_loss": relu * JITTER - STUDY.noise**2,
            "train_loss": relu * JITTER,
        }
    )


@pytest.mark.parametrize(
    ("claim", "effect"),
    [
        ("theory-curves", 0),
        ("worst-at-equality", np.log(3 / 1.1)),
        ("small-init", 1),
        ("bigger-is-fine", 0),
    ],
)
def test_evidence_that_follows_the_paper_supports_every_claim(claim, effect):
    verdict = STUDY.judgement(claim, evidence())
    assert verdict.outcome == "supported"
    assert verdict.effect.estimate == pytest.approx(effect, abs=0.01)


@pytest.mark.parametrize(
    ("claim", "how"),
    [
        ("theory-curves", dict(theory=1.2)),
        ("worst-at-equality", dict(peak=1.0)),
        ("small-init", dict(rise=0.7)),
        ("small-init", dict(many=0.5)),
        ("bigger-is-fine", dict(largest=1.3)),
        ("bigger-is-fine", dict(mid=1.0, largest=5.0)),
    ],
)
def test_evidence_against_a_claim_refutes_it(claim, how):
    assert STUDY.judgement(claim, evidence(**how)).outcome == "refuted"


def test_widths_are_chosen_on_the_seeds_that_do_not_judge():
    e = evidence()
    lucky = xr.where((e.width == 5) & (e.seed % 2 == 1), 0.2, 1.0)
    e["test_loss"] = (e.test_loss + STUDY.noise**2) * lucky - STUDY.noise**2
    assert "best width up to 100: 100" in STUDY.judgement("bigger-is-fine", e).note


@pytest.mark.parametrize("setting", [dict(snr=0.0), dict(density=(0.001,)), dict(initial=(-1.0,)), dict(moments=1)])
def test_bad_settings(setting):
    with pytest.raises(UserError, match=next(iter(setting))):
        dataclasses.replace(STUDY, **setting)


def test_smoke_through_the_engine(tmp_path):
    run = unseen.run("generalization-dynamics", scale="smoke", first_seed=0, quiet=True, out=str(tmp_path / "run"))
    e = run.evidence
    assert (e.loop_deviation < 2e-3).all()
    # Where there are as many examples as inputs nothing is frozen.
    assert (e.frozen.sel(density=1.0) < 1e-6).all() and (e.frozen.sel(density=0.5, initial=1.0) > 0.01).all()
    np.testing.assert_allclose(e.predicted_error.isel(time=0).sel(initial=1.0), 2.2, rtol=1e-3)
    assert (e.train_loss.isel(relu_step=-1) < e.train_loss.isel(relu_step=0)).all()
