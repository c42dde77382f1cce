import numpy as np
import pytest
import xarray as xr

from unseen.lab import UserError
from unseen.studies.dynamics.train_longer import REGIMES, TrainLonger

STUDY = TrainLonger.at_scale("laptop", walk_updates=500)
JITTER = np.array([-0.001, 0.0, 0.0, 0.001])


def evidence(law=np.log, regimes=tuple(REGIMES), **accuracy) -> xr.Dataset:
    """Accuracies by regime, those not named 0.9, and a distance that follows `law` exactly."""
    update = np.arange(1.0, 501)
    values = [accuracy.get(name, 0.9) + JITTER * (i + 1) for i, name in enumerate(regimes)]
    distance = np.ones((2, 4, 1)) * (1 + JITTER[:, None]) * law(update)
    return xr.Dataset(
        {"final_accuracy": (("regime", "seed"), values), "distance": (("walk_batch", "seed", "update"), distance)},
        {"regime": list(regimes), "seed": range(4), "walk_batch": [16, 800], "update": update.astype(int)},
    )


def test_claims_compare_the_regimes_that_the_rules_name():
    e = evidence(small=0.98, large=0.94, ghost=0.96, scaled=0.95, adapted_ghost=0.979)
    assert {c: STUDY.judgement(c, e).outcome for c in STUDY.claims} == dict.fromkeys(STUDY.claims, "supported")
    assert STUDY.judgement("gap", e).effect.estimate == pytest.approx(0.04)
    assert STUDY.judgement("ghost", e).effect.estimate == pytest.approx(0.01)
    assert STUDY.judgement("updates-not-batch", e).effect.estimate == pytest.approx(0.001)
    worse = evidence(small=0.98, large=0.94, ghost=0.93, scaled=0.95, adapted_ghost=0.96)
    assert STUDY.judgement("updates-not-batch", worse).outcome == "refuted"
    assert STUDY.judgement("ghost", worse).outcome == "refuted"
    assert STUDY.judgement("gap", evidence()).outcome == "refuted"


@pytest.mark.parametrize(("law", "outcome"), [(np.log, "supported"), (np.sqrt, "refuted")])
def test_the_law_of_distance(law, outcome):
    found = STUDY.judgement("log-diffusion", evidence(law))
    assert found.outcome == outcome
    assert abs(found.effect.estimate) > 0.05


def test_learners_have_the_updates_of_their_regime():
    steps = {regime: STUDY.learner(regime).steps for regime in REGIMES}
    assert steps == {"small": 1_000, "large": 40, "scaled": 40, "ghost": 40, "adapted": 1_000, "adapted_ghost": 1_000}
    assert STUDY.walk(50).steps == 512  # whole epochs of 16 updates


def test_figures_do_without_what_was_not_run():
    assert STUDY.figure(evidence(regimes=("small", "large"))) is not None
    assert STUDY.figure(evidence().isel(seed=[0]).where(False)) is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"regime": "tiny"}, "regime takes some of small, large"),
        ({"batch": 3}, "large_batch takes a multiple of batch"),
        ({"large_batch": 900}, "batch and large_batch take"),
        ({"training": 5_000}, "training takes a number of digits"),
        ({"walk_batch": 900}, "walk_batch takes numbers from 2"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(UserError, match=message):
        study = TrainLonger.at_scale("laptop", **changes)
        study.learner("small")
