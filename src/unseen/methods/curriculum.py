"""Which level to train on next: domain randomisation, prioritised replay, dynamic filtering and ALP-GMM."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from unseen.lab import UserError


class LevelCurriculum(eqx.Module):
    """A teacher: which level its learner trains on next.

    Pure functions on a state of arrays, so a teacher is vmapped and scanned together with its learner. A level is
    any pytree of arrays (a context vector, a maze); what counts as evidence is the teacher's: see each one.

    Example:
        >>> state = teacher.init(key)
        >>> level = teacher.propose(state, key)
        >>> state = teacher.update(state, level, evidence)
    """

    @abc.abstractmethod
    def init(self, key: Key[Array, ""]) -> Any:
        """The state before the first level."""

    @abc.abstractmethod
    def propose(self, state: Any, key: Key[Array, ""]) -> PyTree:
        """A level to train on."""

    @abc.abstractmethod
    def update(self, state: Any, level: PyTree, evidence: Float[Array, ""]) -> Any:
        """The state after the learner was seen on a level."""


class DomainRandomisation(LevelCurriculum):
    """Levels from a fixed distribution, whatever the learner does (Tobin et al., 2017).

    Attributes:
        draw: key -> level.
    """

    draw: Callable[[Key[Array, ""]], PyTree] = eqx.field(static=True)

    def init(self, key: Key[Array, ""]) -> tuple[()]:
        """Nothing to remember."""
        return ()

    def propose(self, state: tuple[()], key: Key[Array, ""]) -> PyTree:
        """A fresh level."""
        return self.draw(key)

    def update(self, state: tuple[()], level: PyTree, evidence: Float[Array, ""]) -> tuple[()]:
        """Evidence is ignored."""
        return ()


# Teachers that keep levels --------------------------------------------------------------------------------------


class LevelPool(NamedTuple):
    """Levels kept for later.

    Attributes:
        levels: the level's pytree with a leading axis of slots.
        score: of each slot.
        filled: whether a slot holds a level.
        last: the update at which a slot's level was last seen.
        time: number of updates so far.
    """

    levels: PyTree
    score: Float[Array, " slots"]
    filled: Bool[Array, " slots"]
    last: Int[Array, " slots"]
    time: Int[Array, ""]

    @classmethod
    def empty(cls, draw: Callable[[Key[Array, ""]], PyTree], slots: int, key: Key[Array, ""]) -> LevelPool:
        """A pool for the levels that `draw` makes."""
        one = draw(key)
        levels = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (slots, *jnp.shape(leaf))), one)
        return cls(levels, jnp.zeros(slots), jnp.zeros(slots, bool), jnp.zeros(slots, int), jnp.zeros((), int))

    def take(self, slot: Int[Array, ""]) -> PyTree:
        """The level of a slot."""
        return jax.tree.map(lambda leaf: leaf[slot], self.levels)

    def holds(self, level: PyTree) -> Bool[Array, " slots"]:
        """In which slots a level is."""

        def same(kept, leaf):
            if jnp.issubdtype(kept.dtype, jax.dtypes.prng_key):
                kept, leaf = jax.random.key_data(kept), jax.random.key_data(leaf)
            return (kept == leaf).reshape(kept.shape[0], -1).all(1)

        equal = jax.tree.leaves(jax.tree.map(same, self.levels, level))
        return self.filled & jnp.stack(equal).all(0)

    def put(self, slot: Int[Array, ""], level: PyTree, score: Float[Array, ""], keep: Bool[Array, ""]) -> LevelPool:
        """The pool one update later, with the level in the slot if it is to be kept."""
        here = keep & (jnp.arange(self.score.size) == slot)

        def write(kept, leaf):
            return jnp.where(here.reshape(-1, *[1] * (kept.ndim - 1)), leaf, kept)

        return LevelPool(
            jax.tree.map(write, self.levels, level),
            jnp.where(here, score, self.score),
            self.filled | here,
            jnp.where(here, self.time + 1, self.last),
            self.time + 1,
        )


class PrioritisedReplay(LevelCurriculum):
    """Prioritised level replay: fresh levels, or with some probability kept ones, those of high score more often.

    Evidence is the level's score, from which more may be learned where it is higher: `positive_value_loss`,
    `l1_value_loss`, `algorithmic_regret`, `true_regret`, or any other number. A kept level is replayed with probability
    (1 - staleness) (1 / rank)^(1 / temperature) / Z + staleness (age) / Z', rank 1 being the highest score and age
    the number of updates since it was last seen. A full pool gives the slot of its lowest score to a level of a
    higher one.

    Attributes:
        draw: key -> level.
        slots: number of levels kept.
        replay: probability to replay; before `least` levels are kept it is 0.
        temperature: of the ranks; towards 0 only the best level is replayed.
        staleness: weight of a level's age against its score.
        least: number of kept levels from which on they are replayed.

    Source: Jiang et al., "Prioritized Level Replay" (2021), section 3; the defaults are those of Jiang et al.,
    "Replay-Guided Adversarial Environment Design" (2021), for mazes.
    """

    draw: Callable[[Key[Array, ""]], PyTree] = eqx.field(static=True)
    slots: int = eqx.field(static=True, default=4000)
    replay: float | Float[Array, ""] = 0.5
    temperature: float | Float[Array, ""] = 0.3
    staleness: float | Float[Array, ""] = 0.3
    least: int = eqx.field(static=True, default=1)

    def __check_init__(self) -> None:
        if not 1 <= self.least <= self.slots:
            raise UserError(f"least takes a number from 1 to the {self.slots} slots, got {self.least}.")

    def init(self, key: Key[Array, ""]) -> LevelPool:
        """An empty pool."""
        return LevelPool.empty(self.draw, self.slots, key)

    def probabilities(self, state: LevelPool) -> Float[Array, " slots"]:
        """With which each slot is replayed (if one is)."""
        worth = jnp.where(state.filled, state.score, -jnp.inf)
        rank = jnp.argsort(jnp.argsort(-worth)) + 1
        by_score = jnp.where(state.filled, (1.0 / rank) ** (1 / jnp.asarray(self.temperature)), 0.0)
        age = jnp.where(state.filled, state.time - state.last, 0).astype(float)
        by_score = by_score / jnp.maximum(by_score.sum(), 1e-30)
        by_age = jnp.where(age.sum() > 0, age / jnp.maximum(age.sum(), 1), by_score)
        return (1 - self.staleness) * by_score + self.staleness * by_age

    def propose(self, state: LevelPool, key: Key[Array, ""]) -> PyTree:
        """A kept level or a fresh one."""
        coin, pick, fresh = jax.random.split(key, 3)
        again = (jax.random.uniform(coin) < self.replay) & (state.filled.sum() >= self.least)
        slot = jax.random.categorical(pick, jnp.log(self.probabilities(state)))
        return jax.tree.map(lambda kept, new: jnp.where(again, kept, new), state.take(slot), self.draw(fresh))

    def update(self, state: LevelPool, level: PyTree, evidence: Float[Array, ""]) -> LevelPool:
        """Score a kept level anew, or keep a new one if it deserves a slot."""
        held = state.holds(level)
        worst = jnp.argmin(jnp.where(state.filled, state.score, -jnp.inf))  # an empty slot if there is one
        deserves = ~state.filled[worst] | (evidence > state.score[worst])
        slot = jnp.where(held.any(), jnp.argmax(held), worst)
        return state.put(slot, level, evidence, held.any() | deserves)


class DynamicFiltering(LevelCurriculum):
    """Levels that are neither too easy nor too hard for the learner as it is now.

    Evidence is a success rate (or any score on one scale). Kept levels are those whose last score lies strictly
    between `low` and `high`; the others are forgotten at once. Levels come from the kept ones, or with probability
    `explore` (and while none is kept) fresh from the distribution, as candidates.

    Attributes:
        draw: key -> level.
        low, high: the band of scores worth training on.
        slots: number of levels kept; a new one replaces the one not seen for longest.
        explore: probability of a fresh candidate.

    Source: Open Ended Learning Team, "Open-Ended Learning Leads to Generally Capable Agents" (2021), section 4.2 (there
    a control policy's score enters too; pass the difference as evidence).
    """

    draw: Callable[[Key[Array, ""]], PyTree] = eqx.field(static=True)
    low: float | Float[Array, ""] = 0.1
    high: float | Float[Array, ""] = 0.9
    slots: int = eqx.field(static=True, default=256)
    explore: float | Float[Array, ""] = 0.5

    def init(self, key: Key[Array, ""]) -> LevelPool:
        """No level kept."""
        return LevelPool.empty(self.draw, self.slots, key)

    def propose(self, state: LevelPool, key: Key[Array, ""]) -> PyTree:
        """A kept level or a candidate."""
        coin, pick, fresh = jax.random.split(key, 3)
        again = (jax.random.uniform(coin) >= self.explore) & state.filled.any()
        slot = jax.random.categorical(pick, jnp.where(state.filled, 0.0, -jnp.inf))
        return jax.tree.map(lambda kept, new: jnp.where(again, kept, new), state.take(slot), self.draw(fresh))

    def update(self, state: LevelPool, level: PyTree, evidence: Float[Array, ""]) -> LevelPool:
        """Keep the level or forget it."""
        held = state.holds(level)
        fits = (evidence > self.low) & (evidence < self.high)
        oldest = jnp.argmin(jnp.where(state.filled, state.last, -1))
        slot = jnp.where(held.any(), jnp.argmax(held), oldest)
        state = state.put(slot, level, evidence, fits)
        return state._replace(filled=state.filled & (fits | ~held))


def positive_value_loss(
    advantages: Float[Array, " steps"], valid: Bool[Array, " steps"] | None = None
) -> Float[Array, ""]:
    """Mean of the positive parts of the generalised advantages: how much better than expected the learner did
    (Jiang et al., "Replay-Guided Adversarial Environment Design", 2021, section 4). `valid`: the level's steps."""
    return jnp.mean(jnp.maximum(advantages, 0), where=valid)


def l1_value_loss(advantages: Float[Array, " steps"], valid: Bool[Array, " steps"] | None = None) -> Float[Array, ""]:
    """Mean size of the generalised advantages (Jiang et al., "Prioritized Level Replay", 2021, section 3)."""
    return jnp.mean(jnp.abs(advantages), where=valid)


def algorithmic_regret(antagonist: Float[Array, ""], learner: Float[Array, ""]) -> Float[Array, ""]:
    """Return of another learning algorithm on the level minus the learner's (Dennis et al., 2020; Jackson et al.,
    "Discovering General Reinforcement Learning Algorithms with Adversarial Environment Design", 2023)."""
    return antagonist - learner


def true_regret(optimal: Float[Array, ""], learner: Float[Array, ""]) -> Float[Array, ""]:
    """Best possible return of a level minus the learner's, never below 0 (rounding apart it cannot be). For levels
    whose optimum is computable: `unseen.measures.exact` on what `GridLevels` exports."""
    return jnp.maximum(optimal - learner, 0)


# Gaussian mixtures ----------------------------------------------------------------------------------------------


class GaussianMixture(eqx.Module):
    """A mixture of Gaussians with full covariances (or, with leading axes, many); components of weight 0 are not there.

    Attributes:
        weight: of each component, sums to 1.
        mean: of each component.
        covariance: of each component.
    """

    weight: Float[Array, "*batch components"]
    mean: Float[Array, "*batch components size"]
    covariance: Float[Array, "*batch components size size"]

    def log_density(self, points: Float[Array, "n size"]) -> Float[Array, " n"]:
        """log p(x) of each point, of one mixture."""
        return jax.nn.logsumexp(log_densities(points, self.weight, self.mean, self.covariance), axis=-1)


def fit_mixture(
    points: Float[Array, "n size"],
    key: Key[Array, ""],
    components: tuple[int, ...] = tuple(range(2, 11)),
    *,
    iterations: int = 30,
    regularisation: float = 1e-6,
    mean: Float[Array, "most size"] | None = None,
) -> GaussianMixture:
    """Gaussian mixture by expectation-maximisation, with the number of components that Akaike's criterion likes best.

    All candidates are fitted side by side. An iteration is two matrix products: log densities are linear in the
    monomials of a point up to degree 2, and so are the sums that the next parameters need.

    Args:
        points: the data.
        key: for the seeding, k-means++ followed by a hard assignment (candidates share it: the first k seeds of a
            seeding are a seeding with k).
        components: candidate numbers of components.
        iterations: of EM, always so many.
        regularisation: added to every variance, in the units of the points.
        mean: initial means instead of the seeding.

    Returns a mixture with as many components as the largest candidate; those beyond the chosen number have weight 0.

    Source: Dempster, Laird and Rubin (1977); criterion and candidates as in Portelas et al., "Teacher algorithms for
    curriculum learning" (2019), algorithm 2.

    Raises:
        UserError: if a candidate is below 1 or above the number of points.
    """
    n, size = points.shape
    if not components or min(components) < 1 or max(components) > n:
        raise UserError(f"components takes numbers from 1 to the {n} points, got {components}.")
    most = max(components)
    # Standardised, so that squares lose no digits in single precision.
    shift, scale = points.mean(0), jnp.maximum(points.std(0), 1e-3)
    x = (points - shift) / scale
    monomials = _quadratic(x)
    ridge = jnp.diag(regularisation / scale**2)
    seeds = _seeds(x, most, key) if mean is None else (mean - shift) / scale
    live = jnp.arange(most) < jnp.array(components)[:, None]  # (candidates, most)

    def maximise(share: Float[Array, "n candidates most"]) -> tuple[Array, Array, Array]:
        moments = jnp.einsum("ncm,nf->cmf", share, monomials)
        count = moments[..., :1] + 1e-10
        centre = moments[..., 1 : 1 + size] / count
        second = _symmetric(moments[..., 1 + size :] / count, size)
        return moments[..., 0] / n, centre, second - centre[..., :, None] * centre[..., None, :] + ridge

    def log_joint(parameters: tuple[Array, Array, Array]) -> Float[Array, "n candidates most"]:
        return jnp.einsum("nf,cmf->ncm", monomials, _log_joint(*parameters))

    def step(parameters: tuple[Array, Array, Array], _: None) -> tuple[tuple[Array, Array, Array], None]:
        return maximise(jax.nn.softmax(log_joint(parameters), axis=-1)), None

    distance = jnp.square(x[:, None] - seeds).sum(-1)
    nearest = jnp.argmin(jnp.where(live, distance[:, None], jnp.inf), axis=-1)
    parameters, _ = jax.lax.scan(step, maximise(jax.nn.one_hot(nearest, most)), None, iterations)
    likelihood = jax.nn.logsumexp(log_joint(parameters), axis=-1).sum(0)
    free = np.array(components) * (1 + size + size * (size + 1) / 2) - 1
    best = jnp.argmin(free - likelihood)
    weight, centre, covariance = (value[best] for value in parameters)
    return GaussianMixture(weight, centre * scale + shift, covariance * scale[:, None] * scale)


def log_densities(
    points: Float[Array, "n size"],
    weight: Float[Array, " components"],
    mean: Float[Array, "components size"],
    covariance: Float[Array, "components size size"],
) -> Float[Array, "n components"]:
    """log(weight N(point; mean, covariance)) of every point under every component, -1e30 where the weight is 0."""
    return _quadratic(points) @ _log_joint(weight, mean, covariance).T


def _quadratic(points: Float[Array, "n size"]) -> Float[Array, "n monomials"]:
    i, j = np.triu_indices(points.shape[1])
    return jnp.concatenate([jnp.ones((len(points), 1)), points, points[:, i] * points[:, j]], axis=1)


def _symmetric(upper: Float[Array, "*batch entries"], size: int) -> Float[Array, "*batch size size"]:
    where = np.zeros((size, size), int)
    where[np.triu_indices(size)] = np.arange(size * (size + 1) // 2)
    return upper[..., np.maximum(where, where.T)]


def _log_joint(
    weight: Float[Array, "*batch"], mean: Float[Array, "*batch size"], covariance: Float[Array, "*batch size size"]
) -> Float[Array, "*batch monomials"]:
    """Coefficients of log(weight N(x; mean, covariance)) over the monomials of x."""
    size = mean.shape[-1]
    factor = _cholesky(covariance)
    inverse = _inverse_of_triangular(factor)
    precision = jnp.einsum("...ki,...kj->...ij", inverse, inverse)
    linear = jnp.einsum("...ij,...j->...i", precision, mean)
    log_determinant = 2 * sum(jnp.log(factor[..., i, i]) for i in range(size))
    constant = -0.5 * (jnp.sum(linear * mean, -1) + log_determinant + size * jnp.log(2 * jnp.pi))
    constant = jnp.where(weight > 1e-8, constant + jnp.log(jnp.maximum(weight, 1e-8)), -1e30)
    i, j = np.triu_indices(size)
    square = jnp.where(i == j, -0.5, -1.0) * precision[..., i, j]
    return jnp.concatenate([constant[..., None], linear, square], axis=-1)


# Factors of many tiny matrices, written out: a batched LAPACK call a matrix costs more than the rest of EM.


def _cholesky(matrix: Float[Array, "*batch size size"]) -> Float[Array, "*batch size size"]:
    size = matrix.shape[-1]
    rows: list[list[Array]] = []
    zero = jnp.zeros(matrix.shape[:-2])
    for i in range(size):
        row: list[Array] = []
        for j in range(i + 1):
            rest = matrix[..., i, j] - sum((row[k] * (rows[j] if j < i else row)[k] for k in range(j)), zero)
            row.append(jnp.sqrt(jnp.maximum(rest, 1e-12)) if i == j else rest / rows[j][j])
        rows.append(row)
    return jnp.stack([jnp.stack(row + [zero] * (size - len(row)), -1) for row in rows], -2)


def _inverse_of_triangular(lower: Float[Array, "*batch size size"]) -> Float[Array, "*batch size size"]:
    size = lower.shape[-1]
    zero = jnp.zeros(lower.shape[:-2])
    inverse = [[zero] * size for _ in range(size)]
    for i in range(size):
        inverse[i][i] = 1 / lower[..., i, i]
        for j in range(i):
            inverse[i][j] = -sum((lower[..., i, k] * inverse[k][j] for k in range(j, i)), zero) * inverse[i][i]
    return jnp.stack([jnp.stack(row, -1) for row in inverse], -2)


def _seeds(points: Float[Array, "n size"], most: int, key: Key[Array, ""]) -> Float[Array, "most size"]:
    """k-means++ (Arthur and Vassilvitskii, 2007): each next seed with probability proportional to its squared distance
    to the nearest one so far."""

    def draw(near: Float[Array, " n"], key: Key[Array, ""]) -> tuple[Float[Array, " n"], Float[Array, " size"]]:
        cumulative = jnp.cumsum(near)
        chosen = points[jnp.sum(jax.random.uniform(key) * cumulative[-1] > cumulative)]
        return jnp.minimum(near, jnp.square(points - chosen).sum(-1)), chosen

    first, *others = jax.random.split(key, most)
    start = points[jax.random.randint(first, (), 0, len(points))]
    near = jnp.square(points - start).sum(-1)
    if not others:
        return start[None]
    _, rest = jax.lax.scan(draw, near, jnp.stack(others))
    return jnp.concatenate([start[None], rest])


# ALP-GMM --------------------------------------------------------------------------------------------------------


class ALPGMMState(NamedTuple):
    """What an `ALPGMM` remembers. Tasks are in units of the box (0 to 1 each).

    Attributes:
        tasks, rewards: of the episodes in memory, a ring.
        recent: task and absolute learning progress of the episodes since the last fit.
        mixture: of task and progress, as last fitted.
        episode: number of updates so far.
        key: for the next fit.
    """

    tasks: Float[Array, "size memory"]
    rewards: Float[Array, " memory"]
    recent: Float[Array, "every size_and_progress"]
    mixture: GaussianMixture
    episode: Int[Array, ""]
    key: Key[Array, ""]


class ALPGMM(LevelCurriculum):
    """Tasks where the learner's competence changes most: a Gaussian mixture over (task, absolute learning progress).

    Evidence is the episode's reward on the task. Its absolute learning progress is the distance to the reward of the
    nearest task in memory. Every `fit_every` episodes a mixture is fitted to the episodes since the last fit; a task
    comes from a component chosen in proportion to its mean progress, or with probability `explore` (and before the
    first fit) uniformly from the box.

    In a population use `observe` at every episode and `refit` once every `fit_every` episodes, outside of the scan:
    `update` does both, but under vmap its condition becomes a fit at every episode.

    Attributes:
        low, high: corners of the task space.
        explore: probability of a uniform task.
        fit_every: episodes between two fits, and in each.
        memory: episodes whose rewards are compared with, the last so many (the source keeps all).
        components, iterations: see `fit_mixture`.

    Source: Portelas et al., "Teacher algorithms for curriculum learning of Deep RL in continuously parameterized
    environments" (2019), section 3 and algorithm 2.
    """

    low: Float[Array, " size"]
    high: Float[Array, " size"]
    explore: float | Float[Array, ""] = 0.2
    fit_every: int = eqx.field(static=True, default=250)
    memory: int = eqx.field(static=True, default=2000)
    components: tuple[int, ...] = eqx.field(static=True, default=tuple(range(2, 11)))
    iterations: int = eqx.field(static=True, default=30)

    def __check_init__(self) -> None:
        if max(self.components) > self.fit_every:
            raise UserError(f"components takes at most the {self.fit_every} episodes of a fit, got {self.components}.")

    def init(self, key: Key[Array, ""]) -> ALPGMMState:
        """No episode seen; the mixture is empty."""
        size, most = self.low.size, max(self.components)
        empty = GaussianMixture(
            jnp.zeros(most),
            jnp.zeros((most, size + 1)),
            jnp.broadcast_to(jnp.eye(size + 1), (most, size + 1, size + 1)),
        )
        far = jnp.full((size, self.memory), jnp.inf)
        recent = jnp.zeros((self.fit_every, size + 1))
        return ALPGMMState(far, jnp.zeros(self.memory), recent, empty, jnp.zeros((), int), key)

    def propose(self, state: ALPGMMState, key: Key[Array, ""]) -> Float[Array, " size"]:
        """A task."""
        coin, draw, uniform = jax.random.split(key, 3)
        unit = jax.random.uniform(uniform, self.low.shape)
        seek = (jax.random.uniform(coin) >= self.explore) & (state.episode >= self.fit_every)
        unit = jnp.where(seek, sample_by_progress(state.mixture, draw), unit)
        return self.low + unit * (self.high - self.low)

    def observe(self, state: ALPGMMState, level: Float[Array, " size"], evidence: Float[Array, ""]) -> ALPGMMState:
        """Remember an episode and its progress, without fitting."""
        task = (level - self.low) / (self.high - self.low)
        distance = jnp.square(state.tasks - task[:, None]).sum(0)
        # The newest of the nearest: tasks clipped to the box are often equal. (Two plain reductions, because an argmin
        # on a CPU takes ten times as long.)
        age = (state.episode - 1 - jnp.arange(self.memory)) % self.memory
        nearest = (state.episode - 1 - jnp.min(jnp.where(distance == distance.min(), age, self.memory))) % self.memory
        progress = jnp.where(state.episode > 5, jnp.abs(evidence - state.rewards[nearest]), 0.0)
        slot = state.episode % self.memory
        return state._replace(
            tasks=state.tasks.at[:, slot].set(task),
            rewards=state.rewards.at[slot].set(evidence),
            recent=state.recent.at[state.episode % self.fit_every].set(jnp.append(task, progress)),
            episode=state.episode + 1,
        )

    def refit(self, state: ALPGMMState) -> ALPGMMState:
        """Fit the mixture to the last `fit_every` episodes."""
        key, use = jax.random.split(state.key)
        return state._replace(
            mixture=fit_mixture(state.recent, use, self.components, iterations=self.iterations), key=key
        )

    def update(self, state: ALPGMMState, level: Float[Array, " size"], evidence: Float[Array, ""]) -> ALPGMMState:
        """Remember an episode, and fit if it is time."""
        state = self.observe(state, level, evidence)
        return jax.lax.cond(state.episode % self.fit_every == 0, lambda s: self.refit(s), lambda s: s, state)


def progress_weights(mixture: GaussianMixture) -> Float[Array, " components"]:
    """Mean progress of each component (its last coordinate), 0 for those of weight 0; all live ones alike if none
    makes progress. Not normalised."""
    live = mixture.weight > 1e-8
    progress = jnp.where(live, jnp.maximum(mixture.mean[:, -1], 0), 0.0)
    return jnp.where(progress.sum() > 0, progress, live.astype(float))


def sample_by_progress(mixture: GaussianMixture, key: Key[Array, ""]) -> Float[Array, " size"]:
    """A task in the unit box: a component in proportion to its mean progress, then its Gaussian, clipped to the box."""
    pick, spread = jax.random.split(key)
    # Inverse of the cumulative weights: one random number, where a categorical draws one a component.
    cumulative = jnp.cumsum(progress_weights(mixture))
    chosen = jnp.sum(jax.random.uniform(pick) * cumulative[-1] >= cumulative)
    chosen = jnp.minimum(chosen, cumulative.size - 1)
    size = mixture.mean.shape[1] - 1
    factor = _cholesky(mixture.covariance[chosen, :size, :size])
    return jnp.clip(mixture.mean[chosen, :size] + factor @ jax.random.normal(spread, (size,)), 0, 1)
