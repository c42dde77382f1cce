import numpy as np
import pytest
import xarray as xr

import unseen
from unseen.lab import UserError
from unseen.studies.control.smerl import PLACES, SIZES, WINDS, Smerl, balanced_accuracy

STUDY = Smerl()
METHODS = {
    "ppo": (0.0, 1.0, 1.0),
    "smerl": (0.01, 1.0, 1.0),
    "unthresholded": (0.01, 0.0, 1.0),
    "diayn": (0.03, 0.0, 0.0),
}


def evidence(bars=None, within=None, foretold=0.9, spread=0.01) -> xr.Dataset:
    """Best tries of `bars` by method (the wind costs a fifth more), the other tries 0.2 less; a share `foretold` of
    the pairs is foretold rightly."""
    bars = dict(ppo=0.5, smerl=0.7, unthresholded=0.7, diayn=0.1) | (bars or {})
    within = dict(ppo=1.0, smerl=0.9, unthresholded=0.4, diayn=0.0) | (within or {})
    rng = np.random.default_rng(0)
    coords = dict(diversity=[0.0, 0.01, 0.03], thresholded=[1.0, 0.0], task=[1.0, 0.0], seed=range(6))
    lead, shape = tuple(coords), (3, 2, 2, 6)
    bar, wind = np.full((*shape, 4, 3, 6), np.nan), np.full((*shape, 6, 6), np.nan)
    inside = np.full(shape, np.nan)
    for name, cell in METHODS.items():
        at = tuple(coords[key].index(value) for key, value in zip(lead, cell, strict=False))
        noise = spread * rng.normal(size=6)
        bar[at] = bars[name] - 0.2 + noise[:, None, None, None]
        bar[at][..., 2] += 0.2
        wind[at] = bars[name] - 0.4 + noise[:, None, None]
        wind[at][..., 4] += 0.2
        inside[at] = within[name] + noise
    solved = np.broadcast_to(np.arange(12).reshape(4, 3) < 6, (*shape, 4, 3)).astype(float)
    right = np.broadcast_to(np.arange(72).reshape(6, 4, 3) * 7 % 10 < 10 * foretold, solved.shape)
    return xr.Dataset(
        {
            "bar": ((*lead, "size", "place", "latent"), bar),
            "bar_kept": ((*lead, "size", "place"), bar[..., 2]),
            "wind_return": ((*lead, "wind", "latent"), wind),
            "wind_kept": ((*lead, "wind"), wind[..., 4]),
            "within": (lead, inside),
            "solved": ((*lead, "size", "place"), solved),
            "foretold": ((*lead, "size", "place"), np.where(right, solved, 1 - solved)),
            "path": ((*lead, "arena", "latent", "time", "axis"), rng.uniform(3, 20, (*shape, 2, 6, 10, 2))),
        },
        coords
        | dict(
            size=list(SIZES),
            place=list(PLACES),
            wind=list(WINDS),
            arena=["training", "bar"],
            axis=["x", "y"],
        ),
    )


@pytest.mark.parametrize(
    ("claim", "effects", "estimate", "outcome"),
    [
        ("extrapolates", {}, 0.2, "supported"),
        ("extrapolates", dict(bars=dict(smerl=0.49)), -0.01, "refuted"),
        ("extrapolates", dict(bars=dict(smerl=0.54)), 0.04, "inconclusive"),
        ("threshold", {}, 0.5, "supported"),
        ("threshold", dict(within=dict(unthresholded=0.95)), -0.05, "refuted"),
        ("threshold", dict(within=dict(unthresholded=0.85)), 0.05, "inconclusive"),
        ("robustness-set", {}, 0.9, "supported"),
        ("robustness-set", dict(foretold=0.5), 0.5, "refuted"),
    ],
)
def test_claims_measure_what_was_put_in(claim, effects, estimate, outcome):
    judgement = STUDY.judgement(claim, evidence(**effects))
    assert np.isclose(judgement.effect.estimate, estimate, atol=0.02) and judgement.outcome == outcome


def test_survival_takes_the_best_try_and_counts_every_arena_once():
    e = evidence(spread=0.0)
    value = float(STUDY.cell(STUDY.survival(e), "smerl").mean())
    assert np.isclose(value, (12 * 0.7 + 6 * 0.5) / 18)


def test_balanced_accuracy_of_small_cases():
    def pairs(solved, told):
        return xr.Dataset({"solved": ("n", np.array(solved, float)), "foretold": ("n", np.array(told, float))})

    assert balanced_accuracy(pairs([1, 1, 0, 0], [1, 0, 0, 0])) == 0.75
    assert balanced_accuracy(pairs([1, 1, 1, 0], [1, 1, 1, 1])) == 0.5
    assert np.isnan(balanced_accuracy(pairs([1, 1], [1, 0])))


def test_what_is_missing_leaves_a_claim_open():
    e = evidence()
    for claim in ("extrapolates", "threshold", "robustness-set"):
        with pytest.raises(UserError, match="needs diversity"):
            STUDY.judgement(claim, e.sel(diversity=[0.0, 0.03]))
    e["within"][dict(diversity=1, thresholded=0, task=0, seed=1)] = np.nan
    e["solved"][dict(diversity=1, thresholded=0, task=0, seed=1)] = np.nan
    assert STUDY.judgement("threshold", e).outcome == "inconclusive"


def test_figure_draws_also_what_a_user_left():
    assert len(STUDY.figure(evidence()).axes) == 3
    assert len(STUDY.figure(evidence().sel(diversity=[0.0], thresholded=[1.0]).isel(seed=[0])).axes) == 3


def test_bad_settings_are_named():
    bad = dict(diversity=(-1.0,), thresholded=(0.5,), task=(2.0,), tolerance=1.5, iterations=33, episodes=7)
    for name, value in bad.items():
        with pytest.raises(UserError, match=name):
            Smerl(**{name: value})


def test_smoke_through_the_engine(tmp_path):
    run = unseen.run("smerl", scale="smoke", out=str(tmp_path / "run"), quiet=True, first_seed=0)
    assert {verdict.claim for verdict in run.verdicts} == {"extrapolates", "threshold", "robustness-set"}
    e = run.evidence
    # Plain PPO, both kinds of diversity, diversity alone: nothing else ran.
    ran = e.within.notnull().all("seed")
    assert int(ran.sum()) == 4 and bool(e.bar.where(ran, drop=True).notnull().any())
    # An unpaid task leaves other policies than a paid one.
    one = e.latent_return.isel(step=-1).sel(diversity=0.01, thresholded=0.0)
    assert bool((one.sel(task=1.0) != one.sel(task=0.0)).any())
