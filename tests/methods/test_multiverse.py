import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor

from unseen.lab import UserError
from unseen.methods.multiverse import Axis, ExplorationDesign, GPSurrogate, Multiverse, claim_over_multiverse

SPACE = Multiverse(
    (Axis("optimizer", ("sgd", "adam")), Axis("rate", (1e-4, 1.0), "log"), Axis("share", (0.0, 4.0), "linear"))
)
RNG = np.random.default_rng(0)


def surface(points):
    return np.sin(5 * points[:, 1]) + points[:, 0] * points[:, 2]


def fitted(n=40, noise=0.05):
    points = SPACE.points(SPACE.sample(n))
    return points, GPSurrogate().fit(points, surface(points) + noise * RNG.normal(size=n))


def test_settings_fill_the_space():
    settings = SPACE.sample(64, seed=1)
    assert np.bincount(settings["optimizer"] == "adam").tolist() == [32, 32]
    log = np.log10(settings["rate"])
    assert np.histogram(log, np.linspace(-4, 0, 9))[0].tolist() == [8] * 8
    assert settings["share"].min() >= 0 and settings["share"].max() <= 4


def test_points_and_settings_are_inverse():
    settings = SPACE.sample(16)
    points = SPACE.points(settings)
    assert set(points[:, 0]) == {0.0, 1.0} and (points >= 0).all() and (points <= 1).all()
    for i, axis in enumerate(SPACE.axes[1:], start=1):
        np.testing.assert_allclose(axis.at(points[:, i]), settings[axis.name])
    one = SPACE.points({"optimizer": "adam", "rate": [1e-4, 0.01], "share": 1.0})
    np.testing.assert_allclose(one, [[1, 0, 0.25], [1, 0.5, 0.25]])


def test_the_surrogate_is_scikit_learns_process_without_its_noise():
    points, surrogate = fitted()
    peer = GaussianProcessRegressor(surrogate.regressor.kernel_, normalize_y=True, optimizer=None)
    peer.fit(
        points, surrogate.regressor.y_train_ * surrogate.regressor._y_train_std + surrogate.regressor._y_train_mean
    )
    others = SPACE.points(SPACE.sample(20, seed=3))
    mean, deviation = surrogate.predict(others)
    wanted, with_noise = peer.predict(others, return_std=True)
    np.testing.assert_allclose(mean, wanted, rtol=1e-6)
    np.testing.assert_allclose(deviation**2 + surrogate.noise, with_noise**2, rtol=1e-6)
    assert np.sqrt(np.mean((mean - surface(others)) ** 2)) < 0.15
    assert np.sqrt(surrogate.noise) == pytest.approx(0.05, rel=0.6)


def test_integrated_variance_is_what_refitting_leaves():
    points, surrogate = fitted(20)
    pool = SPACE.points(SPACE.sample(30, seed=5))
    none = np.array([], int)
    chosen = ExplorationDesign("integrated").next(surrogate, pool, none, 2)

    def left(new):  # the variance over the pool with these runs, by a new process of the same kernel
        regressor = surrogate.regressor
        peer = GaussianProcessRegressor(regressor.kernel_, optimizer=None)
        peer.fit(np.concatenate([points, pool[list(new)]]), np.zeros(len(points) + len(new)))
        return np.sum(peer.predict(pool, return_std=True)[1] ** 2)

    first = min(range(30), key=lambda j: left([j]))
    second = min((j for j in range(30) if j != first), key=lambda j: left([first, j]))
    assert chosen.tolist() == [first, second]
    assert ExplorationDesign("variance").next(surrogate, pool, none, 1)[0] == np.argmax(surrogate.predict(pool)[1])
    mean, deviation = surrogate.predict(pool)
    assert ExplorationDesign("optimise").next(surrogate, pool, none, 1)[0] == np.argmax(mean + deviation)


@pytest.mark.parametrize("criterion", ["integrated", "variance", "optimise", "random"])
def test_designs_choose_each_run_once_from_one_first_round(criterion):
    pool = SPACE.points(SPACE.sample(32))
    values = surface(pool)
    chosen, surrogate = ExplorationDesign(criterion, runs=20, a_round=8).choose(pool, values, seed=2)
    assert len(set(chosen.tolist())) == len(chosen) == 20
    assert chosen[:8].tolist() == np.random.default_rng(2).permutation(32)[:8].tolist()
    assert len(surrogate.regressor.X_train_) == 20


def test_optimization_looks_at_the_top():
    pool = SPACE.points(SPACE.sample(64))
    values = surface(pool)
    best, even = (
        np.mean([values[ExplorationDesign(c, 24, 8).choose(pool, values, seed=s)[0]].mean() for s in range(3)])
        for c in ("optimise", "integrated")
    )
    assert best > even + 0.2


def test_claims_hold_where_the_truth_is_clear():
    _, surrogate = fitted(64, noise=0.01)
    share = np.linspace(0, 1, 21)
    common = {"rate": np.full(21, 0.01), "share": 4 * share}
    first, second = (SPACE.points({"optimizer": name, **common}) for name in ("adam", "sgd"))
    found = claim_over_multiverse(surrogate, first, second, margin=0.5)
    np.testing.assert_allclose(found.difference, share, atol=0.15)
    assert found.holds[share > 0.75].all() and found.fails[share < 0.25].all()
    assert not (found.holds & found.fails).any()
    # Sampled from the joint posterior, the difference has the stated deviation.
    both = np.concatenate([first[:1], second[:1]])
    mean, covariance = surrogate.covariance(both)
    drawn = RNG.multivariate_normal(mean, covariance, 50_000)
    assert np.std(drawn[:, 0] - drawn[:, 1]) == pytest.approx(found.deviation[0], rel=0.05)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Axis("rate", (1.0, 0.1), "log"), "rate takes two ends"),
        (lambda: Axis("rate", (0.0, 0.1), "log"), "rate takes a range above 0"),
        (lambda: SPACE.points({"optimizer": "lion", "rate": 0.1, "share": 1.0}), "optimizer takes one of"),
        (lambda: SPACE.sample(0), "count takes"),
        (lambda: ExplorationDesign(runs=4, a_round=8), "a_round takes"),
        (
            lambda: ExplorationDesign(runs=9).choose(np.zeros((5, 2)), np.zeros(5)),
            "runs takes a number up to the pool's 5",
        ),
        (lambda: GPSurrogate().fit(np.zeros((2, 1)), np.array([0.0, np.nan])), "values takes finite numbers"),
        (lambda: claim_over_multiverse(GPSurrogate(), np.zeros((2, 1)), np.zeros((3, 1))), "first and second take"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(UserError, match=message):
        make()
