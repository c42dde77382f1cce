import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.lab import UserError
from unseen.worlds.control.grid_levels import GridLevel, GridLevels, levels_of
from unseen.worlds.control.hazards import Hazards, HazardTask

KIND = Hazards(7, walls=4, hazards=4, away=3)


def test_every_level_can_be_won_around_the_hazards():
    levels = levels_of(KIND, 40)
    walls, cells = np.asarray(levels.walls), np.asarray(levels.object_cell)
    assert (walls[:, 1:-1, 1:-1].sum((1, 2)) == 4).all() and cells.shape == (40, 5, 2)
    for i in range(40):
        everything = {tuple(c) for c in cells[i]} | {tuple(np.asarray(levels.start[i, 0]))}
        assert len(everything) == 6 and not any(walls[i][c] for c in everything)
    assert len({walls[i].tobytes() + cells[i].tobytes() for i in range(40)}) == 40
    task = HazardTask(KIND, horizon=40, careless=0.0)
    table, far = task.tables(levels)
    first = np.asarray(far)[np.arange(40), np.asarray(table.start)]
    assert (first >= 3).all() and (first <= 14).all()
    np.testing.assert_allclose(jax.jit(task.success)(table, task.behaviour(table, far)), 1.0, rtol=1e-5)


def test_tables_agree_with_the_environment():
    """Moves, rewards and ends from a cell of each kind of neighbour, in every direction."""
    levels = levels_of(KIND, 1)
    world, task = GridLevels(KIND), HazardTask(KIND)
    params = world.params(levels)
    table, _ = task.tables(levels)

    @jax.jit
    def step(cell, move):
        state = world.first(params, 0, jax.random.key(0))._replace(player=jnp.stack([cell // 5, cell % 5])[None] + 1)
        _, after, paid, ended, _ = world.step_env(jax.random.key(1), state, move, params)
        row, column = after.player[0] - 1
        return row * 5 + column, paid, ended

    cells, moves = np.repeat(np.flatnonzero(table.free[0]), 4), np.tile(np.arange(4), int(table.free.sum()))
    after, paid, ended = jax.vmap(step)(jnp.asarray(cells), jnp.asarray(moves))
    np.testing.assert_array_equal(after, table.following[0, cells, moves])
    np.testing.assert_array_equal(paid, table.reward[0, after])
    np.testing.assert_array_equal(ended, table.ends[0, after])
    assert paid.any() and (ended & (paid == 0)).any()


def test_an_observation_is_the_picture_of_what_is_near():
    level = GridLevel.from_text("""
#######
#S....#
#.#...#
#.#...#
#...0.#
#.....#
#######
""")
    objects = jnp.array([[4, 4], [1, 3]])  # the coin first
    level = eqx.tree_at(
        lambda x: (x.object_cell, x.colour, x.reward, x.ends, x.respawn), level,
        (objects, jnp.array([0, 1]), jnp.array([1.0, 0.0]), jnp.ones(2), jnp.zeros(2)),
    )  # fmt: skip
    task = HazardTask(Hazards(7, walls=2, hazards=1))
    table, far = task.tables(jax.tree.map(lambda leaf: leaf[None], level))
    seen = table.observation[0, 0]  # from the corner
    np.testing.assert_array_equal(task.coin(seen), [3, 3])
    walls, hazards, coin, player = np.moveaxis(np.asarray(task.planes(seen)), -1, 0)
    assert player.argmax() == 40 and player.sum() == 1 and coin[4 + 3, 4 + 3] == 1 and coin.sum() == 1
    assert hazards[4, 6] == 1 and hazards.sum() == 1 and walls[5, 5] == walls[6, 5] == 1
    np.testing.assert_array_equal(walls[3, 3:7], 1)  # the border, as far as the window goes
    assert walls[3, 2] == 0 and float(far[0, 0]) == 6.0


def test_experience_is_what_the_levels_and_the_behaviour_say():
    task = HazardTask(horizon=12)
    table, far = task.tables(levels_of(task.kind, 6))
    assert table.observation.shape == (6, 25, 68)
    live = jax.jit(lambda x: task.live(table, far, jax.random.key(1), 6_400, 32, x))
    dense, sparse = live(1.0), live(0.0)
    level, cell = sparse.state // 25, sparse.state % 25
    after = sparse.after % 25
    np.testing.assert_array_equal(after, table.following[level, cell, sparse.action])
    np.testing.assert_array_equal(sparse.reward, table.reward[level, after])
    np.testing.assert_array_equal(sparse.ends, table.ends[level, after])
    np.testing.assert_allclose(dense.reward - sparse.reward, 0.1 * (far[level, cell] - far[level, after]), atol=1e-6)
    over = (sparse.ends | sparse.late)[:, :-1]
    np.testing.assert_array_equal(sparse.first[:, 1:], over)
    np.testing.assert_array_equal(sparse.state[:, 1:][~over], sparse.after[:, :-1][~over])
    np.testing.assert_array_equal(cell[sparse.first], table.start[level[sparse.first]])
    # Success in the log is the exact success of the behaviour, and no part of an episode is longer than its limit.
    share = float(sparse.reward.sum() / (sparse.ends | sparse.late).sum())
    assert abs(share - float(task.success(table, task.behaviour(table, far)))) < 0.06
    careful = HazardTask(careless=0.0, horizon=25)
    np.testing.assert_allclose(careful.success(table, careful.behaviour(table, far)), 1.0, rtol=1e-5)


def test_bad_settings_are_named():
    with pytest.raises(UserError, match="at most half of the inner cells"):
        Hazards(5, walls=3, hazards=3)
    with pytest.raises(UserError, match="away takes 1 to 4 moves with side 7, got 9"):
        Hazards(7, away=9)
    with pytest.raises(UserError, match="careless from 0 to 1, got 20 and 2"):
        HazardTask(careless=2.0)
