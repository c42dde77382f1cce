import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.lab import UserError
from unseen.learners.taught import Pupil, enrol, episodes, pretested
from unseen.methods.again import AGAIN, Classroom, Expert
from unseen.methods.curriculum import ALPGMM, DomainRandomisation, GaussianMixture

LEFT, RIGHT = jnp.array([0.2, 0.5]), jnp.array([0.8, 0.5])


def mixture(progress, centres=(LEFT, RIGHT)):
    """Two small components of given progress, weight 0 where it is None."""
    there = jnp.array([p is not None for p in progress], float)
    mean = jnp.stack([jnp.append(c, p or 0.0) for c, p in zip(centres, progress, strict=True)])
    return GaussianMixture(there / there.sum(), mean, jnp.stack([1e-3 * jnp.eye(3)] * 2))


def stacked(*trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def room():
    """Three learners of three fits: the first learns left, then nothing, then right; the second only right."""
    first = stacked(mixture((0.5, 0.1)), mixture((0.1, 0.1)), mixture((0.1, 0.6)))
    second = stacked(*[mixture((0.0, 0.4))] * 3)
    place = jnp.where(jnp.arange(6)[:, None] % 2 == 0, LEFT, RIGHT)
    tasks = jnp.broadcast_to(place, (3, 3, 6, 2))
    rewards = jnp.arange(54, dtype=float).reshape(3, 3, 6) / 54
    tested = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.1, 0.9]])
    return Classroom(tested, jnp.array([3.0, 1.0, 2.0]), stacked(first, second, second), tasks, rewards)


def test_the_nearest_of_the_best_score():
    here = room()
    assert here.nearest(jnp.array([0.0, 1.0]), 1) == 1
    assert here.nearest(jnp.array([0.0, 1.0]), 2) == 2  # of the two near ones the better taught
    assert here.nearest(jnp.array([0.0, 1.0]), 5) == 0  # all three are near then
    assert here.first(2).nearest(jnp.array([0.1, 0.9]), 1) == 1
    with pytest.raises(UserError, match="1 to the 3 of the classroom"):
        here.first(4)


def test_an_experts_stages_are_its_fits_with_progress():
    here = room()
    expert = here.expert(jnp.array(0), 0.2, last=2)
    assert expert.stages == 2  # the fit without progress is left out
    np.testing.assert_allclose(expert.mixture.weight > 0, [[True, False], [False, True], [False, False]])
    # The last two left tasks of the first fit are its episodes 2 and 4, the last two right ones of the third 3 and 5.
    rewards = np.asarray(here.rewards[0])
    np.testing.assert_allclose(expert.goal[:2], [rewards[0, [2, 4]].mean(), rewards[2, [3, 5]].mean()], rtol=1e-6)


def again(**settings):
    alp = ALPGMM(jnp.zeros(2), jnp.ones(2), fit_every=20, memory=50, components=(2,), iterations=5)
    return AGAIN(alp, 2, explore=0.0, window=3, horizon=4, **settings)


def expert(goals=(0.5, 0.8)):
    return Expert(stacked(mixture((0.5, None)), mixture((0.5, 0.3))), jnp.array(goals), jnp.array(2))


def test_a_stage_is_passed_when_its_goal_is_reached():
    teacher = again()
    state = teacher.meet(teacher.init(jax.random.key(0)), expert())
    tell, propose = jax.jit(lambda *a: teacher.observe(*a)), jax.jit(lambda *a: teacher.propose(*a))
    task = propose(state, jax.random.key(1))
    assert jnp.abs(task - LEFT).max() < 0.2  # the expert's only region, its own search has found none yet
    for reward, stage in ((0.9, 0), (0.1, 0), (0.2, 0), (0.6, 0), (0.8, 1)):  # mean of the last three: 0.3, 0.53
        state = tell(state, LEFT, jnp.float32(reward))
        assert state.stage == stage
    state = tell(state, jnp.array([0.5, 0.05]), jnp.float32(1.0))
    assert state.passed == 0  # that task was not the expert's


def test_the_last_stage_measures_progress_anew():
    teacher = again()
    state = teacher.meet(teacher.init(jax.random.key(0)), expert())._replace(stage=jnp.array(1))
    tell = jax.jit(lambda *a: teacher.observe(*a))
    np.testing.assert_allclose(teacher.guide(state).mean[:, -1], [0.5, 0.3])
    for i in range(10):
        state = tell(state, LEFT, jnp.float32(0.1 * (i % 2)))  # the reward moves by 0.1 between two visits
    np.testing.assert_allclose(teacher.guide(state).mean[:, -1], [0.1, 0.3], rtol=1e-4)
    assert state.stage == 1


def test_before_it_meets_a_classroom_it_is_alp_gmm():
    teacher = again()
    alone, own = teacher.init(jax.random.key(0)), teacher.alp.init(jax.random.key(0))
    step = jax.jit(lambda *a: teacher.update(*a))
    for i in range(20):
        key = jax.random.key(i)
        task = teacher.alp.propose(own, key)
        np.testing.assert_allclose(teacher.propose(alone, key), task) if i in (0, 19) else None
        alone, own = step(alone, task, task[0]), teacher.alp.observe(own, task, task[0])
    own = teacher.alp.refit(own)
    np.testing.assert_allclose(alone.alp.mixture.mean, own.mixture.mean, rtol=1e-4)


def test_lessons_enrolment_and_pretest():
    """A learner whose skill is the number of visits on the left."""
    teacher = again()

    def play(skill, task):
        skill = skill + 0.01 * (task[0] < 0.5)
        return skill, jnp.where(task[0] < 0.5, skill, 0.0)

    def tested(skill):
        return jnp.stack([skill, 1 - skill])

    def school(key):
        pupil = Pupil(teacher.alp.init(key), jnp.zeros(()), key)
        return enrol(teacher.alp, episodes(teacher.alp, play, 20), tested, pupil, 3, 1)

    pupil, here = jax.jit(jax.vmap(school))(jax.random.split(jax.random.key(0), 4))
    assert len(here) == 4 and here.tasks.shape == (4, 2, 20, 2) and here.mixture.mean.shape == (4, 2, 2, 3)
    np.testing.assert_allclose(here.score, 1, rtol=1e-5)
    # The skill after the rounds is what the pre-test saw and the visits on the left in the rounds that followed.
    left = (here.tasks[..., 0] < 0.5).sum((1, 2))
    np.testing.assert_allclose(pupil.learner, here.tested[:, 0] + 0.01 * left, rtol=1e-4)
    np.testing.assert_allclose(jnp.max(here.rewards, (1, 2)), pupil.learner, rtol=1e-4)

    def new(key):
        start = Pupil(teacher.init(key), jnp.zeros(()), key)
        return pretested(teacher, episodes(teacher, play, 20), tested, lambda t: here.expert(here.nearest(t)), start, 1)

    met = jax.jit(new)(jax.random.key(9))
    assert met.teaching.expert.stages >= 0 and met.teaching.alp.episode == 20

    uniform = DomainRandomisation(lambda key: jax.random.uniform(key, (2,)))
    after, (tasks, rewards) = jax.jit(episodes(uniform, play, 50))(Pupil((), jnp.zeros(()), jax.random.key(0)))
    assert after.learner == pytest.approx(0.01 * float((tasks[:, 0] < 0.5).sum())) and rewards.shape == (50,)
