import numpy as np
import pytest
import xarray as xr

from unseen.lab import UserError
from unseen.studies.dynamics.exact_inductive_bias import ExactInductiveBias

STUDY = ExactInductiveBias.at_scale("laptop")


def evidence(levels=None, error=0.02, trend=1.0) -> xr.Dataset:
    """Gamma-distributed losses with the given means."""
    random = np.random.default_rng(0)
    levels = {"mlp1": 0.012, "conv": 0.009, "mlp1p": 0.012, "convp": 0.012, "rbf": 0.03} | (levels or {})

    def losses(mean, *shape):
        return mean * random.gamma(400.0, 1 / 400, size=shape)

    nets = np.full((4, 3, 6, 2, 64), np.nan)
    for i, name in ((0, "mlp1"), (3, "conv")):
        nets[i, 0, :, 1], nets[i, 1, :, 1] = losses(levels[name], 6, 64), losses(levels[name + "p"], 6, 64)
    nets[0, 2, :, 1] = losses(0.01, 6, 64)
    nets[1:3, 0, :, 1] = losses(0.012, 2, 6, 64)
    kernels = np.full((2, 3, 6, 2_000), np.nan)
    kernels[:, 0], kernels[:, 2] = losses(levels["rbf"], 2, 6, 2_000), losses(0.02, 2, 6, 2_000)
    means = 0.15 + 0.02 * trend * np.arange(8)[:, None, None]
    counted = np.tile(-np.log([0.1, 0.03, 0.01, 0.003, 0.001]), (6, 1))
    return xr.Dataset(
        {
            "test_loss": (("network", "task", "seed", "step", "member"), nets),
            "kernel_loss": (("kernel", "task", "seed", "draw"), kernels),
            "dimension_loss": (("dimension", "seed", "draw"), means * random.gamma(50.0, 1 / 50, size=(8, 6, 2_000))),
            "counted_nats": (("seed", "share"), counted),
            "tail_nats": (("seed", "share"), counted * (1 + error + 0.001 * np.arange(6)[:, None])),
        },
        {"network": list(STUDY.network), "task": list(STUDY.task), "kernel": list(STUDY.kernel), "seed": range(6),
         "dimension": range(1, 9), "step": [0, 210]},
    )  # fmt: skip


def test_evidence_that_follows_the_paper_supports_every_claim():
    e = evidence()
    assert {c: STUDY.judgement(c, e).outcome for c in STUDY.claims} == dict.fromkeys(STUDY.claims, "supported")


@pytest.mark.parametrize(
    ("claim", "how"),
    [
        ("estimator-valid", dict(error=0.3)),
        ("dimension-costs", dict(trend=-0.5)),
        ("nets-encode-more", dict(levels={"rbf": 0.012})),
        ("architectures-differ", dict(levels={"mlp1p": 0.02, "convp": 0.009})),
    ],
)
def test_evidence_against_a_claim_refutes_it(claim, how):
    assert STUDY.judgement(claim, evidence(**how)).outcome == "refuted"


def test_figure_does_without_what_was_not_run():
    e = evidence()
    assert STUDY.figure(e) is not None
    few = ExactInductiveBias.at_scale("laptop", network="mlp1", kernel="rbf")
    assert few.figure(e.sel(network=["mlp1"], kernel=["rbf"]).isel(seed=[0])) is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "vit"}, "network"),
        ({"examples": 5}, "examples|updates"),
        ({"updates": 211}, "updates"),
        ({"dimension": 40}, "dimension"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        ExactInductiveBias.at_scale("laptop", **changes)
