"""A learner and its teacher: rounds of episodes on the tasks that a curriculum proposes, and classrooms of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from unseen.methods.again import AGAIN, Classroom, Expert
from unseen.methods.curriculum import ALPGMM

Play = Callable[[PyTree, PyTree], tuple[PyTree, Float[Array, ""]]]


class Pupil(NamedTuple):
    """A learner with its teacher.

    Attributes:
        teaching: the teacher's state.
        learner: the learner's state.
        key: for what comes.
    """

    teaching: Any
    learner: Any
    key: Key[Array, ""]


# pupil -> (pupil, (tasks, rewards)): `fit_every` episodes, the teacher fitted after them where it has anything to fit.
Round = Callable[[Pupil], tuple[Pupil, tuple[Float[Array, "every size"], Float[Array, " every"]]]]


def episodes(teacher: Any, play: Play, every: int = 250) -> Round:
    """Rounds of a learner that plays one episode after the other.

    Args:
        teacher: a `LevelCurriculum`. Where it has `observe` and `refit` beside `update` (ALP-GMM, AGAIN), those are
            used: a fit after the round, instead of one that vmap would make at every episode.
        play: (learner's state, task) -> (learner's state, reward).
        every: episodes in a round.
    """
    tell, fit = getattr(teacher, "observe", teacher.update), getattr(teacher, "refit", lambda state: state)

    def go(pupil: Pupil) -> tuple[Pupil, tuple[Array, Array]]:
        key, use = jax.random.split(pupil.key)

        def episode(carry: tuple[Any, Any], key: Key[Array, ""]) -> tuple[tuple[Any, Any], tuple[Array, Array]]:
            teaching, learner = carry
            task = teacher.propose(teaching, key)
            learner, reward = play(learner, task)
            return (tell(teaching, task, reward), learner), (task, reward)

        (teaching, learner), seen = jax.lax.scan(episode, pupil[:2], jax.random.split(use, every))
        return Pupil(fit(teaching), learner, key), seen

    return go


def enrol(
    teacher: ALPGMM,
    go: Round,
    tested: Callable[[Any], Float[Array, " tests"]],
    pupil: Pupil,
    rounds: int,
    pretest: int,
) -> tuple[Pupil, Classroom]:
    """Teach a learner by ALP-GMM and remember how: vmapped over learners this is a `Classroom`.

    Args:
        tested: learner's state -> its competence on the test tasks.
        rounds: in all; at least one more than the pre-test's.
        pretest: rounds until the competences by which others will be compared with this learner.
    """

    def step(pupil: Pupil, _: None) -> tuple[Pupil, tuple[Any, Array, Array]]:
        before = pupil.teaching.mixture
        pupil, (tasks, rewards) = go(pupil)
        unit = (tasks - teacher.low) / (teacher.high - teacher.low)
        return pupil, (before, unit, rewards)

    pupil, early = jax.lax.scan(step, pupil, None, pretest)
    early_test = tested(pupil.learner)
    pupil, late = jax.lax.scan(step, pupil, None, rounds - pretest)
    # What was taught from a fit is in the round after it: the first round had none, the last fit taught nothing.
    mixture, tasks, rewards = jax.tree.map(lambda a, b: jnp.concatenate([a, b])[1:], early, late)
    return pupil, Classroom(early_test, tested(pupil.learner).sum(), mixture, tasks, rewards)


def pretested(
    teacher: AGAIN,
    go: Round,
    tested: Callable[[Any], Float[Array, " tests"]],
    expert: Callable[[Float[Array, " tests"]], Expert],
    pupil: Pupil,
    pretest: int,
) -> Pupil:
    """A new learner after its pre-test, with the expert chosen by its competences."""
    pupil, _ = jax.lax.scan(lambda p, _: (go(p)[0], None), pupil, None, pretest)
    return pupil._replace(teaching=teacher.meet(pupil.teaching, expert(tested(pupil.learner))))
