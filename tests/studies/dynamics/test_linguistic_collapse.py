"""Claims on evidence whose answer is known, and what users may change."""

import dataclasses

import numpy as np
import pytest
import xarray as xr

from unseen.lab import UserError
from unseen.studies.dynamics.linguistic_collapse import LinguisticCollapse

STUDY = LinguisticCollapse()
SIZE = STUDY.parameters(xr.Dataset(coords={"width": [16, 32, 48], "depth": [1, 2]}))
NOISE = xr.DataArray(np.linspace(-0.01, 0.01, 6), coords={"seed": range(6)})
STEP = xr.DataArray([0, 1, 2, 3, 4], coords={"scaled_step": [0, 120, 240, 360, 480]})


def evidence(growth=0.1, by_size=1.0, by_step=1.0, link=1.0):
    """Agreement and tightness grow with the log of the size, in real text only; loss falls with size and step."""
    size = np.log(SIZE / SIZE.min())
    shuffled = xr.DataArray([0.0, 1.0], coords={"shuffled": [0.0, 1.0]})
    progress = by_size * size + by_step * np.log1p(STEP) + NOISE
    replicate = xr.DataArray(np.linspace(0.1, 0.4, 16), coords={"seed": range(16)})
    wave = xr.DataArray(np.cos(7 * np.arange(16)), coords={"seed": range(16)})
    loss = 2 + link * replicate + (1 - abs(link)) * wave
    return xr.Dataset(
        {
            "validation_loss": 5 - progress + shuffled,
            "variability": np.exp(-progress) * (1 + shuffled),
            "damped_variability": np.exp(-2 * progress) * (1 + shuffled),
            "agreement": 0.2 + growth * size * (1 - shuffled) + NOISE * (1 + size) + 0 * STEP,
            "kernel_variation": np.exp(-progress) * (1 + shuffled),
            "alignment_variation": np.exp(-progress) * (1 + shuffled),
            "replicate_validation_loss": loss.expand_dims(step=[0, 480]),
            "replicate_alignment_variation": replicate.expand_dims(step=[0, 480]),
        }
    )  # fmt: skip


@pytest.mark.parametrize("claim", ["scale", "tracks-loss", "beyond-scale", "needs-language"])
def test_evidence_that_follows_the_paper_supports(claim):
    assert STUDY.judgement(claim, evidence()).outcome == "supported"


@pytest.mark.parametrize(
    "claim, changed",
    [
        ("scale", dict(by_size=-1.0, growth=-0.1)),
        ("needs-language", dict(growth=0.0)),
    ],
)
def test_evidence_against_it_refutes(claim, changed):
    assert STUDY.judgement(claim, evidence(**changed)).outcome == "refuted"


def test_collapse_against_the_loss_refutes_the_link():
    e = evidence()
    e["variability"] = 1 / e.variability
    verdict = STUDY.judgement("tracks-loss", e)
    assert verdict.outcome == "refuted" and verdict.effect.estimate == pytest.approx(-1)


def test_a_link_by_the_step_alone_is_not_enough():
    rng = np.random.default_rng(0)
    e = evidence(by_size=0.0)
    for name, level in (("variability", 10), ("validation_loss", 5)):
        noise = xr.DataArray(0.1 * rng.normal(size=e[name].shape), e[name].coords, e[name].dims)
        e[name] = level - np.log1p(STEP) + noise
    assert STUDY.judgement("tracks-loss", e).outcome != "supported"


def test_weights_are_counted():
    assert list(SIZE.transpose("width", "depth").values.ravel()) == sorted(SIZE.values.ravel())
    assert SIZE.sel(width=48, depth=2) == 80_112


@pytest.mark.parametrize("kept", [dict(shuffled=[0.0]), dict(seed=[3]), dict(width=[16], depth=[1]), dict()])
def test_the_figure_copes_with_what_is_there(kept):
    fig = STUDY.figure(evidence().sel(**kept))
    assert len(fig.axes) == 4


def test_without_the_control_the_claim_that_needs_it_says_so():
    with pytest.raises((KeyError, UserError)):
        STUDY.judgement("needs-language", evidence().sel(shuffled=[0.0]))


@pytest.mark.parametrize(
    "bad, named",
    [
        (dict(width=(10,)), "width"),
        (dict(depth=(0,)), "layers"),
        (dict(shuffled=(2.0,)), "shuffled"),
        (dict(tokens=100), "tokens"),
        (dict(checkpoints=10_000), "checkpoints"),
        (dict(checkpoints=0), "checkpoints"),
        (dict(batch=0), "batch"),
        (dict(measured=10), "measured"),
    ],
)
def test_bad_settings_are_named(bad, named):
    with pytest.raises(UserError, match=named):
        dataclasses.replace(STUDY, **bad)
