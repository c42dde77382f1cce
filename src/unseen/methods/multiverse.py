"""Multiverse analysis: a space of defensible experiments, a surrogate of their outcome, and which to run next."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from unseen.lab import UserError

Points = Float[np.ndarray, "points axes"]


@dataclasses.dataclass(frozen=True)
class Axis:
    """One choice of an experimenter.

    Attributes:
        name: of the choice.
        values: what it may be: every value of a categorical choice, or the two ends of a range.
        kind: "choice", or a range that is even ("linear") or even in the logarithm ("log").
    """

    name: str
    values: tuple[Any, ...]
    kind: Literal["choice", "linear", "log"] = "choice"

    def __post_init__(self) -> None:
        if self.kind != "choice" and (len(self.values) != 2 or not self.values[0] < self.values[1]):
            raise UserError(f"{self.name} takes two ends of a range, the lower one first, got {self.values}.")
        if self.kind == "log" and self.values[0] <= 0:
            raise UserError(f"{self.name} takes a range above 0, got {self.values}.")
        if not self.values:
            raise UserError(f"{self.name} takes one value or more, got none.")

    def at(self, unit: Float[np.ndarray, " points"]) -> np.ndarray:
        """Values at places from 0 to 1 along the axis."""
        if self.kind == "choice":
            last = len(self.values) - 1
            return np.asarray(self.values)[np.minimum((np.asarray(unit) * (last + 1)).astype(int), last)]
        low, high = self.values
        if self.kind == "linear":
            return low + (high - low) * unit
        return low * (high / low) ** unit

    def place(self, values: Sequence[Any] | np.ndarray) -> Float[np.ndarray, " points"]:
        """Where values are along the axis, from 0 to 1; choices are evenly apart, first 0 and last 1.

        Raises:
            UserError: if a value is none of the choices.
        """
        if self.kind == "choice":
            known = {value: i / max(len(self.values) - 1, 1) for i, value in enumerate(self.values)}
            for value in values:
                if value not in known:
                    raise UserError(f"{self.name} takes one of {self.values}, got {value!r}.")
            return np.array([known[value] for value in values])
        low, high = self.values
        x = np.asarray(values, float)
        return (x - low) / (high - low) if self.kind == "linear" else np.log(x / low) / np.log(high / low)


@dataclasses.dataclass(frozen=True)
class Multiverse:
    """All settings of an experiment that someone could defend.

    Example:
        >>> space = Multiverse((Axis("optimizer", ("sgd", "adam")), Axis("rate", (1e-4, 1.0), "log")))
        >>> settings = space.sample(160, seed=0)  # {"optimizer": array of words, "rate": array of numbers}
        >>> points = space.points(settings)  # for a surrogate: rows in the unit cube

    Attributes:
        axes: the choices.

    Source: Bell et al. (2022, arXiv 2206.05985), section 2.
    """

    axes: tuple[Axis, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the axes."""
        return tuple(axis.name for axis in self.axes)

    def sample(self, count: int, seed: int = 0) -> dict[str, np.ndarray]:
        """Settings that fill the space evenly: a scrambled Sobol sequence, name -> `count` values.

        Raises:
            UserError: if `count` is below 1.
        """
        from scipy.stats import qmc

        if count < 1:
            raise UserError(f"count takes a whole number from 1 on, got {count}.")
        power = max(int(np.ceil(np.log2(count))), 0)  # what balances the sequence
        units = qmc.Sobol(len(self.axes), rng=np.random.default_rng(seed)).random_base2(power)[:count]
        return {axis.name: axis.at(units[:, i]) for i, axis in enumerate(self.axes)}

    def points(self, settings: dict[str, Any]) -> Points:
        """Settings as rows of the unit cube; single values go with every row."""
        columns = [axis.place(np.atleast_1d(settings[axis.name])) for axis in self.axes]
        return np.stack(np.broadcast_arrays(*columns), axis=1)


class GPSurrogate:
    """A Gaussian process over the unit cube: scikit-learn's, with a Matern kernel of smoothness 5/2, a length scale
    for every axis and noise, all fitted by marginal likelihood.

    Example:
        >>> surrogate = GPSurrogate().fit(points, accuracy)
        >>> mean, deviation = surrogate.predict(others)

    Attributes:
        restarts: further random starts of the fit.
        regressor: the fitted `GaussianProcessRegressor`.

    Source: Bell et al. (2022, arXiv 2206.05985), section 2.2.
    """

    def __init__(self, *, restarts: int = 0, seed: int = 0):
        self.restarts, self.seed = restarts, seed
        self.regressor: Any = None

    def fit(self, points: Points, values: Float[np.ndarray, " points"]) -> GPSurrogate:
        """The surrogate, fitted to outcomes at points.

        Raises:
            UserError: without scikit-learn, or if an outcome is not a finite number.
        """
        try:
            from sklearn.exceptions import ConvergenceWarning
            from sklearn.gaussian_process import GaussianProcessRegressor
            from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
        except ModuleNotFoundError as missing:
            raise UserError("GPSurrogate needs scikit-learn: pip install 'unseen[images]'.") from missing
        if not np.isfinite(values).all():
            raise UserError("values takes finite numbers, got some that are not; say what a failed run is worth.")
        scales: Any = np.full(points.shape[1], 0.5)
        kernel = ConstantKernel(1.0, (1e-2, 1e2)) * Matern(scales, (0.05, 20.0), nu=2.5)
        self.regressor = GaussianProcessRegressor(
            kernel + WhiteKernel(0.05, (1e-4, 1.0)),
            normalize_y=True,
            n_restarts_optimizer=self.restarts,
            random_state=self.seed,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a length scale at its bound: an axis without effect
            self.regressor.fit(points, values)
        return self

    @property
    def noise(self) -> float:
        """Fitted variance of one outcome around the surface."""
        return float(self.regressor.kernel_.k2.noise_level * self.regressor._y_train_std**2)

    def covariance(self, points: Points) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, "points points"]]:
        """Posterior mean and covariance of the surface (without the noise of a run) at points."""
        mean, covariance = self.regressor.predict(points, return_cov=True)
        return mean, covariance - self.noise * np.eye(len(points))

    def predict(self, points: Points) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
        """Posterior mean and standard deviation of the surface at points."""
        mean, covariance = self.covariance(points)
        return mean, np.sqrt(np.maximum(np.diag(covariance), 0))


Criterion = Literal["integrated", "variance", "optimise", "random"]


@dataclasses.dataclass(frozen=True)
class ExplorationDesign:
    """Which runs of a pool to do next, a round at a time.

    Attributes:
        criterion: "integrated" takes the run that lowers the variance summed over the pool most; "variance" the one
            that is least known; "optimise" the one with the highest mean plus `optimism` standard deviations;
            "random" any.
        runs: to be chosen in all.
        a_round: runs in a round, chosen one after the other as if the outcomes of the others were as predicted.
        optimism: of "optimise".

    Source: Bell et al. (2022, arXiv 2206.05985), section 2.3: integrated variance reduction for exploration, an upper
    confidence bound for its rival, optimization.
    """

    criterion: Criterion = "integrated"
    runs: int = 48
    a_round: int = 8
    optimism: float = 1.0

    def __post_init__(self) -> None:
        if not 2 <= self.a_round <= self.runs:
            raise UserError(f"a_round takes a whole number from 2 to runs, {self.runs}, got {self.a_round}.")

    def choose(
        self, points: Points, values: Float[np.ndarray, " points"], *, seed: int = 0
    ) -> tuple[Int[np.ndarray, " runs"], GPSurrogate]:
        """Runs of the pool in the order in which they are done, and the surrogate of all of them.

        The first round is random and the same for all criteria.

        Args:
            points: of the whole pool.
            values: outcomes, read only where a run was chosen.
            seed: of the first round, and of random choices.

        Raises:
            UserError: if the pool has fewer points than there are runs.
        """
        if len(points) < self.runs:
            raise UserError(f"runs takes a number up to the pool's {len(points)} settings, got {self.runs}.")
        order = np.random.default_rng(seed).permutation(len(points))
        if self.criterion == "random":
            chosen = order[: self.runs]
        else:
            chosen = order[: self.a_round]
            while len(chosen) < self.runs:
                surrogate = GPSurrogate().fit(points[chosen], values[chosen])
                count = min(self.a_round, self.runs - len(chosen))
                chosen = np.append(chosen, self.next(surrogate, points, chosen, count))
        return chosen, GPSurrogate().fit(points[chosen], values[chosen])

    def next(
        self, surrogate: GPSurrogate, points: Points, done: Int[np.ndarray, " done"], count: int
    ) -> Int[np.ndarray, " count"]:
        """`count` more runs of the pool by the criterion, none of them done before.

        A run at j changes the covariance C of the pool to C - C_j C_j^T / (C_jj + noise), whatever comes out.
        """
        mean, covariance = surrogate.covariance(points)
        noise, free = surrogate.noise, np.ones(len(points), bool)
        free[done] = False
        new = []
        for _ in range(count):
            variance = np.maximum(np.diag(covariance), 0)
            if self.criterion == "integrated":
                score = np.square(covariance).sum(0) / (variance + noise)
            elif self.criterion == "variance":
                score = variance
            else:
                score = mean + self.optimism * np.sqrt(variance)
            j = int(np.argmax(np.where(free, score, -np.inf)))
            covariance = covariance - np.outer(covariance[j], covariance[j]) / (variance[j] + noise)
            free[j] = False
            new.append(j)
        return np.array(new)


@dataclasses.dataclass(frozen=True)
class ClaimMap:
    """Where in a multiverse one setting beats another by more than a margin.

    Attributes:
        difference, deviation: posterior mean and standard deviation of first minus second.
        holds: the difference is above the margin with the demanded probability.
        fails: it is below the margin with that probability.
    """

    difference: Float[np.ndarray, " points"]
    deviation: Float[np.ndarray, " points"]
    holds: np.ndarray
    fails: np.ndarray

    @property
    def share(self) -> float:
        """Share of the points where the claim holds; 1 minus this is not where it fails: some are undecided."""
        return float(np.mean(self.holds))


def claim_over_multiverse(
    surrogate: GPSurrogate,
    first: Points,
    second: Float[np.ndarray, "others axes"],
    *,
    margin: float = 0.0,
    level: float = 0.95,
) -> ClaimMap:
    """A comparison of pairs of settings, read from the surrogate over the whole space.

    Args:
        surrogate: fitted.
        first, second: pairs of points that differ in the choice that the claim is about.
        margin: by which the first must be above the second.
        level: posterior probability that decides.

    Raises:
        UserError: if the two sides have different shapes.
    """
    if first.shape != second.shape:
        raise UserError(f"first and second take as many points, got shapes {first.shape} and {second.shape}.")
    from scipy.special import ndtri

    n = len(first)
    mean, covariance = surrogate.covariance(np.concatenate([first, second]))
    difference = mean[:n] - mean[n:]
    variance = np.diag(covariance[:n, :n] + covariance[n:, n:] - covariance[:n, n:] - covariance[n:, :n])
    deviation = np.sqrt(np.maximum(variance, 0))
    reach = ndtri(level) * deviation
    return ClaimMap(difference, deviation, difference - reach > margin, difference + reach < margin)
