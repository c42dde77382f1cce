import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.lab import UserError
from unseen.measures.exact import finite_horizon_evaluation, finite_horizon_optimum
from unseen.worlds.control import GridLevel, GridLevels, RewardObjects, TwoPlayerGoals
from unseen.worlds.control.compiled_levels import CompiledLevel

KIND = RewardObjects(5, 2)
LEVEL = KIND(jax.random.key(3))
COMPILED = CompiledLevel.of(LEVEL)


def states_of_the_grid():
    """For each compiled state, its number among those of `GridLevels` (border included)."""
    cells = [row * 5 + column for row, column in itertools.product(range(1, 4), repeat=2)]
    return np.array([cell * 4 + pattern for cell, pattern in itertools.product(cells, range(4))])


def test_values_are_those_of_the_exact_tabular_export():
    world = GridLevels(KIND, "index")
    mdp = world.tabular(world.params(LEVEL))
    transition, reward, horizon = mdp.transition[0], mdp.reward[0], 12
    best, _ = finite_horizon_optimum(transition, reward, horizon)
    logits = jax.random.normal(jax.random.key(0), (COMPILED.states, 4))
    policy = jax.nn.softmax(logits)
    where = states_of_the_grid()
    wide = jnp.full((transition.shape[0], 4), 0.25).at[where].set(policy).at[-1].set(policy[COMPILED.start])
    values = finite_horizon_evaluation(transition, reward, jnp.broadcast_to(wide, (horizon, *wide.shape)))
    assert where[COMPILED.start] == int(world.index(world.first(world.params(LEVEL), 0, jax.random.key(0))))
    np.testing.assert_allclose(COMPILED.evaluate(policy, horizon), values[0, -1], rtol=1e-5)
    np.testing.assert_allclose(COMPILED.optimum(horizon), best[0, -1], rtol=1e-5)
    assert float(best[0, -1]) > float(values[0, -1])


def test_steps_have_the_frequencies_of_the_exact_tabular_export():
    world = GridLevels(KIND, "index")
    mdp = world.tabular(world.params(LEVEL))
    where, draws = states_of_the_grid(), 4000
    objects = np.asarray(COMPILED.cell)
    # From every cell next to an object, into it.
    hits = [(c, m) for c in range(9) for m in range(4) if int(COMPILED.arrive[c, m]) in objects and c not in objects]
    for cell, move in hits[:3]:
        state = cell * 4 + 3
        uniform = jax.random.uniform(jax.random.key(1), (draws, 3))
        after, reward, ended = jax.vmap(COMPILED.step, (None, None, 0))(jnp.array(state), jnp.array(move), uniform)
        row = np.asarray(mdp.transition[0, where[state], move])
        np.testing.assert_allclose(reward, mdp.reward[0, where[state], move], rtol=1e-6)
        assert abs(float(ended.mean()) - row[-2]) < 0.04
        counts = np.bincount(where[np.asarray(after)[~np.asarray(ended)]], minlength=len(row)) / draws
        np.testing.assert_allclose(counts[:-2], row[:-2], atol=0.04)


def test_what_it_cannot_hold_is_refused():
    with pytest.raises(UserError, match="one player"):
        CompiledLevel.of(TwoPlayerGoals()(jax.random.key(0)))
    with pytest.raises(UserError, match="lava"):
        CompiledLevel.of(GridLevel.from_text("#####\n#SLG#\n#####"))
