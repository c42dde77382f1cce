import numpy as np
import pytest
import xarray as xr

from unseen.lab import UserError
from unseen.studies.dynamics.zero_shot_theory import ZeroShotTheory

STUDY = ZeroShotTheory.at_scale("laptop")
SEEDS = np.arange(60)
NOISE = np.random.default_rng(0).normal(size=60) * 1e-3


def evidence(pairs=-1.0, prompts=-1.0, floor=0.02, gaps=(0.4, 0.3, 0.2, 0.05), spread=1.0, zero=1e-14) -> xr.Dataset:
    """Errors that are powers of the sample sizes, and excess risk that follows the dependence."""
    n = np.array([300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000])
    m = np.array([1, 3, 10, 30, 100, 300, 1_000])
    wobble = np.where(SEEDS < 30, np.exp(NOISE), np.nan)
    error = 0.1 * m**prompts
    dependence = np.random.default_rng(1).uniform(0, 0.3, 60)
    shape = (2, 2, 60)
    excess = np.stack([error, error + floor])[None, :, None] * wobble[None, None, :, None]
    gap = np.array(gaps)[:, None, None] + 0.01 * np.arange(4)[:, None] * (np.arange(4)[:, None, None] == 1) + 0 * SEEDS

    def over(name: str, values: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
        return ("dependence", "distortion", "seed", name), np.broadcast_to(values, (*shape, 7))

    return xr.Dataset(
        {
            "independent_excess": ("seed", np.full(60, zero)),
            "residual_dependence": ("seed", dependence),
            "dependent_excess": ("seed", dependence + spread * NOISE),
            "pair_error": over("pairs", n**pairs * wobble[:, None]),
            "prompt_error": over("prompts", error * wobble[:, None]),
            "prompt_excess": over("prompts", excess),
            "supervised_excess": over("prompts", excess),
            "probe_accuracy": (("mention", "encoder", "seed"), np.full((4, 4, 60), 0.9)),
            "zero_shot_accuracy": (("mention", "encoder", "seed"), 0.9 - gap),
        },
        {
            "dependence": [0.0, 0.3],
            "distortion": [0.0, 0.5],
            "seed": SEEDS,
            "pairs": n,
            "prompts": m,
            "mention": [0.0, 0.25, 0.5, 1.0],
            "encoder": range(4),
        },
    )


def test_evidence_that_follows_the_theory_supports_every_claim():
    e = evidence()
    assert {c: STUDY.judgement(c, e).outcome for c in STUDY.claims} == dict.fromkeys(STUDY.claims, "supported")
    assert STUDY.judgement("sampling-rates", e).effect.estimate == pytest.approx(-1.0)
    assert STUDY.judgement("images", e).effect.estimate == pytest.approx(0.265, abs=1e-6)


@pytest.mark.parametrize(
    ("claim", "how"),
    [
        ("independence", dict(zero=1e-5)),
        ("independence", dict(spread=1e4)),
        ("sampling-rates", dict(pairs=-0.5)),
        ("sampling-rates", dict(prompts=-1.5)),
        ("prompt-floor", dict(floor=0.0)),
        ("images", dict(gaps=(0.4, 0.02, 0.2, 0.05))),
    ],
)
def test_evidence_against_a_claim_refutes_it(claim, how):
    assert STUDY.judgement(claim, evidence(**how)).outcome == "refuted"


def test_figure_does_without_what_was_not_run():
    assert STUDY.figure(evidence()) is not None
    few = ZeroShotTheory.at_scale("laptop", distortion=0.0, encoder=1)
    assert few.figure(evidence().sel(distortion=[0.0], encoder=[1]).isel(seed=[0])) is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mention": 1.5}, "mention"),
        ({"labels": 1}, "labels"),
        ({"clip_width": 30}, "clip_width"),
        ({"dependence": -1.0}, "dependence"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        ZeroShotTheory.at_scale("laptop", **changes)
