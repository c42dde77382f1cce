import dataclasses

import numpy as np
import pytest
import xarray as xr

import unseen
from unseen.lab import UserError

pytest.importorskip("rejax")

from unseen.studies.control.anymorph import AnyMorph

STUDY = AnyMorph.at_scale("laptop")
JITTER = 0.01 * np.array([-1.0, 1.0, 2.0, -2.0])


def evidence(tokens=0.8, graph=0.6, mlp=0.5, trained=0.9, shuffled=0.1) -> xr.Dataset:
    """Scores on 16 training bodies and 8 unseen ones."""
    is_unseen = np.arange(24) >= 16
    rng = np.random.default_rng(0)
    own = rng.normal(size=24)
    own = 0.1 * np.where(is_unseen, own - own[16:].mean(), own - own[:16].mean())  # bodies differ, means do not
    means = np.where(is_unseen, np.array([tokens, graph, mlp])[:, None], trained) + own
    signs = np.array([1.0, -1.0, 0.5])[:, None]
    speed = means[:, None] + (signs * JITTER)[..., None]
    scrambled = np.full((3, 4, 24), np.nan)
    scrambled[0] = shuffled + JITTER[:, None]
    lengths = np.tile(np.linspace(0.5, 1.5, 7), (24, 1)) * (np.arange(7) < 4)
    ones = np.ones((3, 4))
    return xr.Dataset(
        {
            "speed": (("policy", "seed", "body"), speed),
            "shuffled_speed": (("policy", "seed", "body"), scrambled),
            "is_unseen": (("policy", "seed", "body"), ones[..., None] * is_unseen),
            "length": (("policy", "seed", "body", "link"), ones[..., None, None] * lengths),
        },
        coords={"policy": list(STUDY.policy), "seed": range(4)},
    )


CLAIMS = [("improves-on-graph", 0.2), ("vs-monolith", 0.3), ("tokens-carry-body", 0.8)]


@pytest.mark.parametrize(("claim", "estimate"), CLAIMS)
def test_what_supports_the_claims(claim, estimate):
    verdict = STUDY.judgement(claim, evidence())
    assert verdict.outcome == "supported" and verdict.effect.estimate == pytest.approx(estimate, abs=1e-6)


@pytest.mark.parametrize(
    ("claim", "how"),
    [
        ("improves-on-graph", dict(graph=0.9)),
        ("vs-monolith", dict(mlp=0.8)),
        ("tokens-carry-body", dict(shuffled=0.88)),
    ],
)
def test_what_refutes_them(claim, how):
    assert STUDY.judgement(claim, evidence(**how)).outcome == "refuted"


@pytest.mark.parametrize(
    ("claim", "how"),
    [
        ("improves-on-graph", dict(graph=0.8)),
        ("vs-monolith", dict(mlp=0.72)),
        ("tokens-carry-body", dict(shuffled=0.7)),
    ],
)
def test_what_leaves_them_open(claim, how):
    assert STUDY.judgement(claim, evidence(**how)).outcome == "inconclusive"


def test_training_bodies_do_not_count_for_transfer_nor_unseen_ones_for_the_probe():
    weak = evidence(trained=0.2)
    assert STUDY.judgement("improves-on-graph", weak).outcome == "supported"
    assert STUDY.judgement("tokens-carry-body", weak).effect.estimate == pytest.approx(0.1, abs=1e-6)
    assert "tokens 0.20 on training bodies, 0.80 on unseen ones" in STUDY.judgement("vs-monolith", weak).note


def test_missing_policies_are_named_and_the_figure_draws_what_is_there():
    few = dataclasses.replace(STUDY, policy=("graph", "mlp"))
    e = evidence().sel(policy=["graph", "mlp"], seed=[0])
    with pytest.raises(KeyError):  # of which the laboratory makes "inconclusive"
        few.vs_monolith(e)
    few.figure(e)
    left, right = STUDY.figure(evidence()).axes
    assert len(left.patches) == 8 * 4 and len(right.get_xticks()) == 4


@pytest.mark.parametrize(
    "setting", [dict(policy=("snake",)), dict(width=30), dict(held_out=24), dict(total_steps=100), dict(bodies=99)]
)
def test_bad_settings(setting):
    with pytest.raises(UserError, match=next(iter(setting))):
        dataclasses.replace(STUDY, **setting)


def test_smoke_through_the_engine(tmp_path):
    # One of three programs: compiling is nearly all of the time.
    run = unseen.run("anymorph", scale="smoke", first_seed=0, policy=("tokens",), out=str(tmp_path / "run"),
                     quiet=True)  # fmt: skip
    e = run.evidence
    assert len(run.verdicts) == 3
    assert e.is_unseen.sel(policy="tokens").isel(seed=0).values.tolist() == [0] * 8 + [1] * 4
    assert np.isfinite(e.speed).all()
    # The tokens' exchange moves the policy.
    tokens = e.sel(policy="tokens")
    assert np.isfinite(tokens.shuffled_speed).all() and not np.allclose(tokens.shuffled_speed, tokens.speed)
    assert (e.trained_speed.isel(step=0) != e.trained_speed.isel(step=-1)).all()
    # The last look at training bodies is the mean of the final scores.
    last = tokens.speed.isel(body=slice(0, 8)).mean("body")
    np.testing.assert_allclose(tokens.trained_speed.isel(step=-1), last, atol=1e-5)
