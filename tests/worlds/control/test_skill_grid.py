import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.worlds.control.skill_grid import SyntheticLearner, mastered_share


def plain_episode(competence, start, task, side):
    """The rule in plain Python."""
    row, column = (min(int(x * side), side - 1) for x in task)
    beside = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
    able = any(0 <= r < side and 0 <= c < side and competence[r, c] >= 75 for r, c in beside)
    if able or (row, column) == start:
        competence[row, column] = min(competence[row, column] + 1, 100)
    return competence[row, column] / 100


def test_episodes_follow_the_rule():
    side, start = 3, (1, 0)
    who = SyntheticLearner(jnp.array(start), side)
    tasks = np.random.default_rng(0).uniform(size=(4000, 2)).astype(np.float32)
    tasks[:2] = [[1, 1], [0, 0]]  # the box's corners
    after, rewards = jax.jit(lambda tasks: jax.lax.scan(lambda c, t: who.episode(c, t), who.init(), tasks))(tasks)
    plain = np.zeros((side, side))
    np.testing.assert_allclose(rewards, [plain_episode(plain, start, task, side) for task in tasks], rtol=1e-6)
    np.testing.assert_array_equal(after, plain)
    assert mastered_share(after) == pytest.approx((plain > 75).mean()) and plain.max() == 100


def test_nothing_is_learned_away_from_the_start():
    who = SyntheticLearner(jnp.array([2, 2]), 4)
    competence, reward = who.episode(who.init(), jnp.array([0.1, 0.1]))
    assert reward == 0 and competence.sum() == 0
    np.testing.assert_array_equal(jnp.argwhere(who.open(competence)), [[2, 2]])
    ready = who.init().at[2, 2].set(75)
    assert {tuple(cell) for cell in jnp.argwhere(who.open(ready)).tolist()} == {(2, 2), (1, 2), (3, 2), (2, 1), (2, 3)}
    assert mastered_share(ready) == 0  # above 75, not at 75


def test_the_frontier_masters_everything_in_the_least_time():
    who = SyntheticLearner.random(jax.random.key(0), 4)

    def visit(competence, key):
        return who.episode(competence, who.frontier(competence, key))[0], None

    competence, _ = jax.jit(lambda keys: jax.lax.scan(visit, who.init(), keys))(
        jax.random.split(jax.random.key(1), 76 * 16)
    )
    assert (competence == 76).all()
    assert mastered_share(competence) == pytest.approx(1)


def test_starts_are_anywhere():
    starts = jax.vmap(lambda key: SyntheticLearner.random(key, 4).start)(jax.random.split(jax.random.key(0), 400))
    assert len(np.unique(np.asarray(starts), axis=0)) == 16
