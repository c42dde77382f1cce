import jax
import jax.numpy as jnp
import numpy as np

from unseen.worlds.control import CompiledLevel, distances, hand_made_mazes, shortest_path, stack_levels

# Counted on the drawings.
SHORTEST = {
    "corridor": 48, "spiral": 42, "four rooms": 16, "nine rooms": 16, "pillars": 16, "comb": 16, "trap": 16,
    "detour": 22, "open field": 8,
}  # fmt: skip


def test_nine_mazes_have_the_ways_that_were_drawn():
    mazes = hand_made_mazes()
    assert list(mazes) == list(SHORTEST)
    levels = stack_levels(list(mazes.values()))
    assert levels.walls.shape == (9, 11, 11)
    np.testing.assert_array_equal(jax.vmap(shortest_path)(levels), list(SHORTEST.values()))
    far = jax.vmap(lambda level: distances(level.walls, level.start[0]))(levels)
    assert bool((jnp.isfinite(far) == ~levels.walls).all())  # no cell is cut off
    assert len({bytes(np.asarray(walls)) for walls in levels.walls}) == 9


def test_the_goal_is_just_reached_in_the_least_number_of_moves():
    levels = jax.vmap(CompiledLevel.of)(stack_levels(list(hand_made_mazes().values())))
    for horizon in (15, 16, 48):
        best = jax.jit(jax.vmap(lambda level, horizon=horizon: level.optimum(horizon)))(levels)
        np.testing.assert_allclose(best, [float(way <= horizon) for way in SHORTEST.values()])
