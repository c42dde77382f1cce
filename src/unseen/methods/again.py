"""Teaching a new learner by what taught earlier ones: a classroom, and curricula that start from its experience."""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from unseen.lab import UserError
from unseen.methods.curriculum import (
    ALPGMM,
    ALPGMMState,
    GaussianMixture,
    LevelCurriculum,
    log_densities,
    sample_by_progress,
)


class Expert(NamedTuple):
    """A curriculum to follow: the high-progress regions of an earlier learner, stage by stage.

    Attributes:
        mixture: a mixture of task and progress for each stage; components of weight 0 are not there.
        goal: mean reward of each stage's tasks that lets a learner pass on to the next.
        stages: how many stages there are; what comes after them is padding.
    """

    mixture: GaussianMixture
    goal: Float[Array, " fits"]
    stages: Int[Array, ""]


class Classroom(eqx.Module):
    """What is remembered of earlier learners, all taught by ALP-GMM: arrays with a leading axis of learners.

    Attributes:
        tested: competence of each learner on a fixed set of tasks at the end of the pre-test.
        score: the sum of its competences when it had been taught.
        mixture: its teacher's fits, in order: arrays with leading axes (learners, fits).
        tasks, rewards: of the episodes taught from each fit, tasks in units of the box.
    """

    tested: Float[Array, "*learners tests"]
    score: Float[Array, "*learners"]
    mixture: GaussianMixture
    tasks: Float[Array, "*learners fits every size"]
    rewards: Float[Array, "*learners fits every"]

    def __len__(self) -> int:
        return len(self.score)

    def first(self, learners: int) -> Classroom:
        """The classroom with its first learners only."""
        if not 1 <= learners <= len(self):
            raise UserError(f"learners takes a number from 1 to the {len(self)} of the classroom, got {learners}.")
        return jax.tree.map(lambda leaf: leaf[:learners], self)

    def nearest(self, tested: Float[Array, " tests"], neighbours: int = 5) -> Int[Array, ""]:
        """The learner of the best final score among those whose pre-test competences are nearest (Euclidean)."""
        distance = jnp.square(self.tested - tested).sum(-1)
        _, near = jax.lax.top_k(-distance, min(neighbours, len(self)))
        return near[jnp.argmax(self.score[near])]

    def expert(self, learner: Int[Array, ""], threshold: float | Float[Array, ""] = 0.2, last: int = 50) -> Expert:
        """The curriculum of one learner: components whose mean progress is above `threshold`, fits without any left
        out. The goal of a stage is the mean reward of the last `last` tasks that came from its components."""
        mixture = jax.tree.map(lambda leaf: leaf[learner], self.mixture)
        high = (mixture.weight > 1e-8) & (mixture.mean[..., -1] > threshold)
        own = jax.vmap(_explained)(_masked(mixture, high), _masked(mixture, ~high), self.tasks[learner])
        newer = jnp.cumsum(own[:, ::-1], axis=1)[:, ::-1]
        counted = own & (newer <= last)
        mean = (self.rewards[learner] * counted).sum(1) / jnp.maximum(counted.sum(1), 1)
        goal = jnp.where(counted.any(1), mean, 0.0)
        some = high.any(1)
        order = jnp.argsort(~some)  # stable: empty fits to the end
        kept = jax.tree.map(lambda leaf: leaf[order], _masked(mixture, high))
        return Expert(kept, goal[order], some.sum())


class AGAINState(NamedTuple):
    """What an `AGAIN` remembers.

    Attributes:
        alp: of its ALP-GMM.
        expert: the curriculum that it follows; without stages before it has met a classroom.
        stage: where in the curriculum it is.
        rewards: of the last episodes of this stage, a ring.
        passed: how many episodes of this stage there were.
        progress: of the last tasks of each component of the last stage, a ring each.
        tries: how many such tasks each component had.
    """

    alp: ALPGMMState
    expert: Expert
    stage: Int[Array, ""]
    rewards: Float[Array, " window"]
    passed: Int[Array, ""]
    progress: Float[Array, "components horizon"]
    tries: Int[Array, " components"]


class AGAIN(LevelCurriculum):
    """ALP-GMM Again: an earlier learner's curriculum beside one's own search for progress.

    Until `meet` it is ALP-GMM: the pre-test. From then on tasks come from the expert's present stage and from its own
    ALP-GMM, one component in proportion to its mean progress, or with probability `explore` uniformly. A stage is
    passed when the mean reward of its last `window` tasks has reached the expert's. In the last stage the
    progress of the expert's components is measured anew, over the last `horizon` tasks of each.

    Evidence is the episode's reward. A task counts as the expert's if its components explain it better than the own
    ones and the uniform together (the source keeps a note of which component was drawn; without it `propose` and
    `update` stay pure functions of state, task and evidence).

    Attributes:
        alp: the ALP-GMM of the pre-test and afterwards.
        fits: fits of the classroom's learners.
        explore: share of uniform tasks after the pre-test (before, `alp.explore`).
        window, horizon: episodes.

    Source: Portelas et al., "Meta Automatic Curriculum Learning" (2020), section 4, variant of reward-based stages
    joined with ALP-GMM; constants from its code, flowersteam/meta-acl.
    """

    alp: ALPGMM
    fits: int = eqx.field(static=True)
    explore: float | Float[Array, ""] = 0.02
    window: int = eqx.field(static=True, default=10)
    horizon: int = eqx.field(static=True, default=100)

    def init(self, key: Key[Array, ""]) -> AGAINState:
        """No episode seen, no expert."""
        alp = self.alp.init(key)
        most = alp.mixture.weight.size
        none = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (self.fits, *leaf.shape)), alp.mixture)
        expert = Expert(none, jnp.zeros(self.fits), jnp.zeros((), int))
        zero = jnp.zeros((), int)
        return AGAINState(
            alp, expert, zero, jnp.zeros(self.window), zero, jnp.zeros((most, self.horizon)), jnp.zeros(most, int)
        )

    def meet(self, state: AGAINState, expert: Expert) -> AGAINState:
        """The pre-test is over: follow an expert from its first stage."""
        return state._replace(expert=expert, stage=jnp.zeros((), int), passed=jnp.zeros((), int))

    def guide(self, state: AGAINState) -> GaussianMixture:
        """The expert's components of the present stage, in the last one with their progress measured anew."""
        mixture = jax.tree.map(lambda leaf: leaf[state.stage], state.expert.mixture)
        recent = jnp.arange(self.horizon) < state.tries[:, None]
        measured = (state.progress * recent).sum(1) / jnp.maximum(state.tries.clip(max=self.horizon), 1)
        anew = self._last(state) & (state.tries > 0)
        mean = mixture.mean.at[:, -1].set(jnp.where(anew, measured, mixture.mean[:, -1]))
        return GaussianMixture(jnp.where(state.expert.stages > 0, mixture.weight, 0.0), mean, mixture.covariance)

    def propose(self, state: AGAINState, key: Key[Array, ""]) -> Float[Array, " size"]:
        """A task."""
        coin, draw, uniform = jax.random.split(key, 3)
        met = state.expert.stages > 0
        explore = jnp.where(met, self.explore, self.alp.explore)
        unit = jax.random.uniform(uniform, self.alp.low.shape)
        seek = (jax.random.uniform(coin) >= explore) & (met | (state.alp.episode >= self.alp.fit_every))
        both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), self.guide(state), state.alp.mixture)
        unit = jnp.where(seek, sample_by_progress(both, draw), unit)
        return self.alp.low + unit * (self.alp.high - self.alp.low)

    def observe(self, state: AGAINState, level: Float[Array, " size"], evidence: Float[Array, ""]) -> AGAINState:
        """Remember an episode, pass on to the next stage if it is time; without fitting."""
        guide = self.guide(state)
        unit = (level - self.alp.low) / (self.alp.high - self.alp.low)
        own = (state.expert.stages > 0) & _explained(guide, state.alp.mixture, unit[None])[0]
        component = jnp.argmax(_progress_densities(guide, unit[None])[0])
        alp = self.alp.observe(state.alp, level, evidence)
        made = alp.recent[state.alp.episode % self.alp.fit_every, -1]

        rewards = state.rewards.at[state.passed % self.window].set(
            jnp.where(own, evidence, state.rewards[state.passed % self.window])
        )
        passed = state.passed + own
        done = (passed >= self.window) & (rewards.mean() >= state.expert.goal[state.stage])
        last = self._last(state)
        onward = done & ~last & (state.expert.stages > 0)
        again = own & last
        slot = state.tries[component] % self.horizon
        kept = state.progress[component, slot]
        return AGAINState(
            alp,
            state.expert,
            state.stage + onward,
            rewards,
            jnp.where(onward, 0, passed),
            state.progress.at[component, slot].set(jnp.where(again, made, kept)),
            state.tries.at[component].add(again.astype(int)),
        )

    def refit(self, state: AGAINState) -> AGAINState:
        """Fit the own mixture."""
        return state._replace(alp=self.alp.refit(state.alp))

    def update(self, state: AGAINState, level: Float[Array, " size"], evidence: Float[Array, ""]) -> AGAINState:
        """Remember an episode, and fit if it is time."""
        state = self.observe(state, level, evidence)
        due = state.alp.episode % self.alp.fit_every == 0
        return jax.lax.cond(due, lambda s: self.refit(s), lambda s: s, state)

    def _last(self, state: AGAINState) -> Bool[Array, ""]:
        return state.stage == state.expert.stages - 1


def _masked(mixture: GaussianMixture, keep: Bool[Array, "*batch components"]) -> GaussianMixture:
    return GaussianMixture(jnp.where(keep, mixture.weight, 0.0), mixture.mean, mixture.covariance)


def _progress_densities(mixture: GaussianMixture, tasks: Float[Array, "n size"]) -> Float[Array, "n components"]:
    """log(progress x density) of tasks under each component; tiny where there is no component."""
    size = tasks.shape[1]
    progress = jnp.where(mixture.weight > 1e-8, jnp.maximum(mixture.mean[:, -1], 1e-4), 0.0)
    return log_densities(tasks, progress, mixture.mean[:, :size], mixture.covariance[:, :size, :size])


def _explained(
    mixture: GaussianMixture, other: GaussianMixture, tasks: Float[Array, "n size"], background: float = 0.02
) -> Bool[Array, " n"]:
    """Which tasks a mixture explains better than another one and a share of uniform tasks together, components
    weighted by their progress."""
    own = jax.nn.logsumexp(_progress_densities(mixture, tasks), axis=1)
    rest = jax.nn.logsumexp(_progress_densities(other, tasks), axis=1)
    total = jnp.where(mixture.weight > 1e-8, mixture.mean[:, -1], 0.0).sum()
    return own > jnp.logaddexp(rest, jnp.log(background * jnp.maximum(total, 1e-4)))
