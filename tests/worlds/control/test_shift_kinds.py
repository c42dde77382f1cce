import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.lab import UserError
from unseen.worlds.control.grid_levels import GridLevel, GridLevels, distances, levels_of
from unseen.worlds.control.shift_kinds import Elements, ShiftedLevels, ShiftKinds, TwoCoins, exact_return

WORLD, USUAL = ShiftedLevels(TwoCoins()), Elements.usual()
SHIFTS = ShiftKinds.of(USUAL)
CORRIDOR = """
#######
#10..S#
#.....#
#.....#
#.....#
#.....#
#######
"""


def corridor() -> GridLevel:
    """Colour 1 at the left end, colour 0 beside it, the player at the right end; both end the episode."""
    level = GridLevel.from_text(CORRIDOR)
    return eqx.tree_at(lambda level: level.ends, level, jnp.ones(2))


def test_each_shift_changes_its_own_element_and_nothing_else():
    changed = {
        "observation": {"intensity", "noise"}, "transition": {"sticky", "wind"}, "reward": {"values"}, "level": set(),
    }  # fmt: skip
    for name, shift in SHIFTS._asdict().items():
        fields = {f for f in vars(USUAL) if not np.array_equal(getattr(shift.elements, f), getattr(USUAL, f))}
        assert fields == changed[name] and shift.unseen == (name == "level")
    with pytest.raises(UserError, match="values takes 2 numbers, got 1"):
        ShiftKinds.of(USUAL, values=(1.0,))
    with pytest.raises(UserError, match="wind two of sizes that add to at most 1"):
        ShiftKinds.of(USUAL, wind=(0.6, -0.6))


def test_the_same_planes_as_the_plain_world_and_the_values():
    levels = levels_of(WORLD.kind, 8)
    plain = GridLevels(TwoCoins())
    look = jax.jit(WORLD.get_obs)
    seen, state = jax.jit(WORLD.reset_env)(jax.random.key(0), WORLD.shifted(levels, USUAL))
    usual = jax.jit(plain.get_obs)(state.grid, plain.params(levels))[1:-1, 1:-1]
    assert np.array_equal(seen[..., :4], usual[..., jnp.array([0, 2, 3, 4])])
    assert np.array_equal(seen[..., 4], usual[..., 3] - usual[..., 4])  # worth 1 and -1
    bright = eqx.tree_at(lambda e: e.intensity, USUAL, jnp.array([0.5, 2.0, 3.0, 4.0]))
    params = WORLD.shifted(levels, bright)
    assert np.allclose(look(state._replace(elements=bright), params)[..., :4], seen[..., :4] * bright.intensity)
    other = state._replace(elements=SHIFTS.reward.elements)
    assert np.array_equal(look(other, params)[..., 4], -seen[..., 4])
    noisy = state._replace(elements=eqx.tree_at(lambda e: e.noise, USUAL, 0.5))
    assert 0.4 < float((look(noisy, params) - seen).std()) < 0.6
    assert np.array_equal(ShiftedLevels(TwoCoins(), noisy=False).get_obs(noisy, params), seen)


def test_the_optimum_is_the_shortest_path_around_the_bad_coin():
    levels = levels_of(WORLD.kind, 64)

    def both(level):
        good, bad = level.object_cell
        far = distances(level.walls.at[bad[0], bad[1]].set(True), good)[level.start[0, 0], level.start[0, 1]]
        table = WORLD.cells(level, USUAL)
        return 0.9 ** (far - 1), exact_return(table, USUAL, None, discount=0.9, horizon=40)

    paths, ours = jax.jit(jax.vmap(both))(levels)
    assert np.allclose(ours, paths, atol=1e-5) and len(np.unique(paths)) > 5


def test_pencil_and_paper():
    """Three steps to the left reach colour 0. Wind to the left shortens that way, and stickiness against a policy that
    always goes left is nothing."""
    table, left = jax.jit(WORLD.cells)(corridor(), USUAL), jax.nn.one_hot(jnp.full(25, 3), 4)

    def worth(policy, horizon=30, **elements):
        e = eqx.tree_at(
            lambda e: [getattr(e, k) for k in elements], USUAL, [jnp.asarray(v) for v in elements.values()]
        )  # fmt: skip
        return float(exact_return(table, e, policy, discount=0.5, horizon=horizon))

    assert worth(left) == worth(None) == 0.5**2
    assert worth(left, horizon=2) == 0 and worth(left, horizon=3) == 0.25
    assert worth(left, sticky=0.7) == 0.25
    p = 0.25  # each step goes two cells with p, the last one stops at the coin
    two, three = 1 - (1 - p) ** 2, (1 - p) ** 2
    assert np.isclose(worth(left, wind=jnp.array([0.0, -p])), two * 0.5 + three * 0.25)
    # Down one, and up again by a move that sticks half of the time: the worth of moving is that of what is done.
    assert worth(left, sticky=0.5) == 0.25 and worth(jax.nn.one_hot(jnp.full(25, 1), 4)) == 0


@pytest.mark.parametrize("name", ["transition"])
def test_played_episodes_have_the_exact_mean(name):
    elements = USUAL if name == "usual" else getattr(SHIFTS, name).elements
    level = jax.tree.map(lambda leaf: leaf[1], levels_of(WORLD.kind, 2))
    table, params = jax.jit(WORLD.cells)(level, elements), WORLD.shifted(level, elements, max_steps=12)
    policy = jax.random.dirichlet(jax.random.key(1), jnp.ones(4), (25,))

    def episode(key):
        start, run = jax.random.split(key)
        _, state = WORLD.reset_env(start, params)

        def step(carry, key):
            state, alive, total = carry
            act, go = jax.random.split(key)
            row, column = state.grid.player[0] - 1
            action = jax.random.choice(act, 4, p=policy[5 * row + column])
            t = state.time
            _, state, reward, ended, _ = WORLD.step_env(go, state, action, params)
            return (state, alive & ~ended, total + alive * 0.9**t * reward), None

        return jax.lax.scan(step, (state, jnp.array(True), jnp.zeros(())), jax.random.split(run, 12))[0][2]

    played = np.asarray(jax.jit(jax.vmap(episode))(jax.random.split(jax.random.key(2), 5_000)))
    exact = float(exact_return(table, elements, policy, discount=0.9, horizon=12))
    assert abs(played.mean() - exact) < 4 * played.std() / np.sqrt(len(played)) and abs(exact) > 0.01


def test_episodes_draw_their_elements_and_use_their_levels():
    low, high = USUAL.between(sticky=0.3, wind=0.3)
    params = WORLD.shifted(levels_of(WORLD.kind, 8), low, high, count=jnp.array(3))
    _, states = jax.jit(jax.vmap(WORLD.reset_env, (0, None)))(jax.random.split(jax.random.key(0), 500), params)
    assert set(np.asarray(states.grid.which)) == {0, 1, 2}
    drawn = states.elements
    assert np.isclose(drawn.sticky.mean(), 0.15, atol=0.02) and np.allclose(drawn.wind.mean(0), 0, atol=0.03)
    assert drawn.wind.min() < -0.28 and (drawn.values == USUAL.values).all() and drawn.sticky.std() > 0.05
    assert abs(np.corrcoef(drawn.sticky, drawn.wind[:, 0])[0, 1]) < 0.15
    low, high = USUAL.between(values=2.0)
    assert np.allclose(low.values, -2) and np.allclose(high.values, 2) and np.array_equal(high.wind, low.wind)
    assert eqx.tree_equal(USUAL.between(), (USUAL, USUAL))
