import numpy as np
import pytest
import xarray as xr

from unseen.lab import UserError
from unseen.studies.dynamics.ml_multiverse import MlMultiverse

STUDY = MlMultiverse.at_scale("laptop", repeats=3)
RNG = np.random.default_rng(0)


def evidence(best_adam=0.9, gap=0.3, noise=0.003) -> xr.Dataset:
    """Adam is best at low rates and SGD at high ones, each with its own best accuracy; the large-batch gap is `gap`
    at the lowest rate and falls to 0 at the highest."""
    adam, sgd = (
        STUDY.optimizer_space.points(STUDY.optimizer_space.sample(80, seed=i) | {"optimizer": [name]})
        for i, name in ((1, "adam"), (0, "sgd"))
    )
    outcomes = np.stack([0.9 - (sgd[:, 1] - 0.8) ** 2, best_adam - (adam[:, 1] - 0.2) ** 2])
    batches = []
    for size in STUDY.batch:
        points = STUDY.batch_space.points(STUDY.batch_settings(size))
        batches.append(0.9 - gap * points[:, 0] * (1 - points[:, 1]) + 0.02 * points[:, 2])
    runs = [np.stack(x)[..., None] + noise * RNG.normal(size=(*np.shape(x), 4)) for x in (outcomes, batches)]
    coords = {
        "optimizer": ["sgd", "adam"], "setting": range(80), "batch": list(STUDY.batch), "batch_setting": range(32),
        "seed": range(4),
    }  # fmt: skip
    return xr.Dataset(
        {
            "final_accuracy": (("optimizer", "setting", "seed"), runs[0]),
            "batch_final_accuracy": (("batch", "batch_setting", "seed"), runs[1]),
        },
        coords,
    ).map(lambda runs: runs.astype(np.float32))  # as JAX gives them


def outcome(claim, e):
    return getattr(STUDY, STUDY.claims[claim])(e)


def test_optimizers_that_tie_and_trade_rates():
    found = outcome("optimizers-tie", evidence())
    assert found.outcome == "supported" and found.effect.n == 4
    gaps = STUDY.gaps(evidence(), "optimizer").mean("seed")
    wanted = (gaps.rate.size and np.log(gaps.rate / 1e-4) / np.log(1e4)).values
    np.testing.assert_allclose(gaps, (wanted - 0.8) ** 2 - (wanted - 0.2) ** 2, atol=0.05)


def test_an_optimizer_that_wins_refutes():
    assert outcome("optimizers-tie", evidence(best_adam=0.95)).outcome == "refuted"


@pytest.mark.parametrize(("gap", "wanted"), [(0.3, "supported"), (0.0, "refuted")])
def test_the_gap_over_the_rates(gap, wanted):
    found = outcome("gap-depends-on-rate", evidence(gap=gap))
    assert found.outcome == wanted
    assert found.effect.estimate == pytest.approx(gap * 2 / 3, abs=0.03)


def test_errors_are_those_of_the_settings_left_out():
    errors = STUDY.errors(evidence(), "integrated")
    assert errors.dims == ("case", "seed") and errors.shape == (2, 3)
    assert (errors < 0.05).all() and (errors > 0).all()
    found = outcome("exploration-pays", evidence())
    assert np.isfinite([found.effect.low, found.effect.high]).all()


def test_figures_do_without_what_was_not_run():
    e = evidence()
    assert STUDY.figure(e) is not None
    alone = MlMultiverse.at_scale("laptop", optimizer="adam", repeats=2)
    assert alone.figure(e.sel(optimizer=["adam"]).isel(seed=[0])) is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "lion"}, "optimizer takes some of sgd, adam"),
        ({"batch": (16, 512)}, "batch takes numbers from 2 to training"),
        ({"setting": -1}, "setting takes numbers from 0"),
        ({"runs": 4}, "a_round takes a whole number"),
        ({"highest_rate": 1e-5}, "highest_rate takes"),
        ({"most_units": 2}, "most_units takes"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(UserError, match=message):
        MlMultiverse.at_scale("laptop", **changes)
