import numpy as np
import pytest
import xarray as xr

import unseen
from unseen.lab import UserError
from unseen.studies.dynamics.grokking_effective_theory import GrokkingEffectiveTheory

STUDY = GrokkingEffectiveTheory.at_scale("laptop", seeds=6)
SEED = xr.DataArray(range(6), dims="seed", coords={"seed": range(6)})


def over(name, values):
    return xr.DataArray(list(values), dims=name, coords={name: list(values)})


def evidence(wrong=0.0, critical=0.45, theory=0.45, structured=(1.0, 0.2), frozen=0.1) -> xr.Dataset:
    """Test accuracy is the fraction, predicted with an error of `wrong`; quality is 1 above a critical fraction that
    differs a little between splits; phases go with the decay, quality with the phase."""
    fraction, rate, step = over("fraction", STUDY.fraction), over("embedding_rate", STUDY.embedding_rate), over(
        "step", range(0, 3001, 1000)
    )  # fmt: skip
    own = (SEED - 2.5) * 0.06
    ran = (rate > 0) | (fraction == 0.8)
    test = xr.where(rate > 0, fraction + 0 * SEED, frozen).where(ran) * xr.ones_like(step)
    every = xr.where((SEED + (fraction * 10).round()) % 2 == 0, 1, -1)
    decay, decoder = over("decoder_decay", STUDY.decoder_decay), over("decoder_rate", STUDY.decoder_rate)
    phases_step = over("phases_step", range(0, 3001, 500))
    inside = (decay <= 2) * xr.ones_like(decoder) * xr.ones_like(SEED)
    generalises = xr.where(decay == 0, 1_000, 2_500)
    return xr.Dataset(
        {
            "test_accuracy": test,
            "train_accuracy": xr.ones_like(test).where(ran),
            "predicted_accuracy": (fraction + wrong * every).where(ran),
            "quality": (fraction > critical + own).astype(float).where(ran) * xr.ones_like(step),
            "theory_quality": (fraction > theory + own).astype(float),
            "freedom": xr.where(fraction > theory + own, 0.0, 1.0),
            "implied_accuracy": fraction + 0 * SEED,
            "phase_train_accuracy": ((phases_step >= 500) & (decay < 10)) * xr.ones_like(inside),
            "phase_test_accuracy": (phases_step >= generalises) * inside,
            "phase_quality": xr.where(inside > 0, *structured) * xr.ones_like(phases_step),
        }
    )


def test_evidence_that_follows_the_theory_supports_every_claim():
    e = evidence()
    assert {claim: STUDY.judgement(claim, e).outcome for claim in STUDY.claims} == dict.fromkeys(
        STUDY.claims, "supported"
    )
    assert STUDY.judgement("geometry-predicts", e).effect.estimate == pytest.approx(1)
    assert STUDY.judgement("critical-fraction", e).effect.estimate == pytest.approx(0, abs=1e-9)
    assert STUDY.judgement("goldilocks", e).note == "24 comprehension, 24 grokking, 24 memorization, 24 confusion"
    assert STUDY.judgement("trainable-embeddings", e).effect.estimate == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("claim", "how"),
    [
        ("geometry-predicts", dict(wrong=0.5)),
        ("critical-fraction", dict(theory=0.75)),
        ("goldilocks", dict(structured=(0.5, 0.4))),
        ("trainable-embeddings", dict(frozen=0.79)),
    ],
)
def test_evidence_against_a_claim_refutes_it(claim, how):
    assert STUDY.judgement(claim, evidence(**how)).outcome == "refuted"


def test_a_control_that_does_not_fit_decides_nothing():
    e = evidence()
    e["train_accuracy"] = e.train_accuracy.where(e.embedding_rate > 0, 0.6)
    assert STUDY.judgement("trainable-embeddings", e).outcome == "inconclusive"


def test_bad_settings():
    with pytest.raises(UserError, match="fraction takes"):
        GrokkingEffectiveTheory.at_scale("smoke", fraction=1.0)


def test_smoke_through_the_engine(tmp_path):
    run = unseen.run(
        "grokking-effective-theory", scale="smoke", symbols=6, first_seed=0, out=str(tmp_path / "run"), quiet=True
    )
    e = run.evidence
    assert len(run.verdicts) == 4
    frozen = e.quality.sel(embedding_rate=0.0, fraction=0.8)
    assert (frozen == frozen.isel(step=0)).all()  # embeddings that stay where they began
    assert (
        e.train_loss.sel(embedding_rate=3e-3).isel(step=-1) < e.train_loss.sel(embedding_rate=3e-3).isel(step=0)
    ).all()
    assert ((e.implied_accuracy >= 0) & (e.implied_accuracy <= 1)).all()
    assert (e.phase_quality.sel(seed=2).isnull()).all() and np.isfinite(e.phase_quality.sel(seed=[0, 1])).all()
