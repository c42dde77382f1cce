import numpy as np
import pytest
import xarray as xr

from unseen.lab import UserError
from unseen.learners.mixup_benchmark import GUIDED, POLICIES, STATIC
from unseen.studies.dynamics.openmixup import OpenMixup

STUDY = OpenMixup(seeds=4)
JITTER = np.array([-0.001, -0.0005, 0.0005, 0.001])


def evidence(mixing=0.02, soft=0.005, guided=0.01, dearer=3.0) -> xr.Dataset:
    """Accuracies over 0.9 by kind of policy, and times of an update."""
    gain = {"none": 0.0, "label_smoothing": soft} | dict.fromkeys(STATIC, mixing)
    gain |= dict.fromkeys(GUIDED, mixing + guided)
    last = np.array([gain[name] for name in POLICIES])[:, None] + 0.9 + JITTER
    times = np.array([dearer if name in GUIDED else 1.0 for name in POLICIES])[:, None] * 0.01
    step_time = np.full((4, len(POLICIES), 5), np.nan)
    step_time[0] = times * (1 + 0.02 * np.arange(5))
    return xr.Dataset(
        {
            "test_accuracy": (("policy", "seed", "step"), np.stack([last - 0.3, last], -1)),
            "occluded_accuracy": (("policy", "seed"), last - 0.2),
            "step_time": (("seed", "timed", "repeat"), step_time),
        },
        {"policy": list(POLICIES), "seed": range(4), "step": [0, 400], "timed": list(POLICIES)},
    )


JUDGES = (STUDY.mixing_helps, STUDY.not_only_soft_labels, STUDY.dynamic_better, STUDY.dynamic_dearer)


def test_claims_on_what_the_paper_predicts():
    e = evidence()
    assert [judge(e).outcome for judge in JUDGES] == ["supported"] * 4
    STUDY.figure(e)


def test_claims_on_the_opposite():
    e = evidence(mixing=-0.01, soft=0.02, guided=-0.01, dearer=1.1)
    assert [judge(e).outcome for judge in JUDGES] == ["refuted"] * 4


def test_a_missing_policy_leaves_its_claims_open():
    e = evidence().drop_sel(policy="automix").drop_sel(timed="automix")
    with pytest.raises(KeyError):
        STUDY.dynamic_better(e)
    assert STUDY.mixing_helps(e).outcome == "supported"
    few = e.sel(policy=["none", "cutmix"], timed=["none", "cutmix"], seed=[0])
    OpenMixup(policy=("none", "cutmix"), seeds=1).figure(few)


def test_bad_settings():
    with pytest.raises(UserError, match="policy"):
        OpenMixup(policy=("samix",))
    with pytest.raises(UserError, match="epochs"):
        OpenMixup(epochs=15)
