import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.lab import UserError
from unseen.learners.generations import Generations
from unseen.worlds.control import TwoPlayerGoalGrid

pytestmark = pytest.mark.optimized

WORLD = TwoPlayerGoalGrid(side=6, shapes=2, colours=2, horizon=8)
SCHOOL = Generations(world=WORLD, games=8, episodes=2, minibatches=4, slots=8, width=16, learning_rate=3e-3)
LONG = 8


def same(a, b):
    return bool(eqx.tree_equal(a, b))


@eqx.filter_jit
def iterate(state, games, dynamic, generations):
    return SCHOOL.iterate(state, games=games, dynamic=dynamic, generations=generations, iterations=LONG)


@pytest.fixture(scope="module")
def histories():
    """States after every iteration of a run of one generation and of one of two."""

    def history(generations):
        states = [eqx.filter_jit(SCHOOL.init)(jax.random.key(0))]
        for _ in range(LONG):
            states.append(iterate(states[-1], jnp.array(64), jnp.array(1.0), jnp.array(generations)))
        return states

    return history(1), history(2)


def test_checkpoints_and_generations_come_when_they_are_due(histories):
    one, two = histories
    for states in histories:
        assert all(same(states[i].previous, states[0].player) for i in range(5))
        assert all(same(states[i].previous, states[4].player) for i in range(5, 9))
    assert same(one[4].player, two[4].player)  # the first generation is the same

    # The second one starts far from where the first ended, and its optimizer from nothing.
    def move(a, b):
        change = jax.tree.map(lambda x, y: jnp.abs(x - y).max(), *(eqx.filter(s.player, eqx.is_array) for s in (a, b)))
        return max(map(float, jax.tree.leaves(change)))

    assert move(one[4], one[5]) < 0.05 < 0.2 < move(two[4], two[5])
    updates = SCHOOL.epochs * SCHOOL.minibatches
    counts = [int(jax.tree.leaves(s.optimizer)[0]) for s in (one[5], two[5])]
    assert counts == [5 * updates, updates]


def test_distillation_draws_to_the_checkpoint():
    games = jax.vmap(WORLD.game)(jax.random.split(jax.random.key(1), 16))
    master, pupil = (SCHOOL.fresh(jax.random.key(i)) for i in (2, 3))
    master = eqx.tree_at(lambda p: p.net.layers[-1].bias, master, jnp.arange(6.0))
    flat = dataclasses.replace(SCHOOL, epochs=8, entropy=0.0)

    @eqx.filter_jit
    def gap(weight):
        played = flat.play(pupil, games, flat.scripted, jax.random.key(4))
        aim = jax.vmap(jax.vmap(master))(played.observation)[0]
        begun = flat.optimizer.init(eqx.filter(pupil, eqx.is_inexact_array))
        after, _ = flat.learn(pupil, begun, played, jax.random.key(5), aim, weight)
        new = jax.vmap(jax.vmap(after))(played.observation)[0]
        return (jnp.exp(aim) * (aim - played.log_probs)).sum(-1).mean(), (jnp.exp(aim) * (aim - new)).sum(-1).mean()

    before, without = map(float, gap(jnp.array(0.0)))
    _, drawn = map(float, gap(jnp.array(10.0)))
    assert drawn < 0.3 * before and drawn < 0.5 * without


def test_the_filter_chooses_only_where_it_is_on():
    state = eqx.filter_jit(SCHOOL.init)(jax.random.key(6))
    # The only task that the pool holds lies outside of the universe of 5 tasks: it is met through the pool alone.
    pool = state.pool._replace(
        levels=jnp.full(8, 999), filled=jnp.ones(8, bool), score=jnp.ones(8), last=jnp.zeros(8, int)
    )
    for dynamic in (0.0, 1.0):
        teacher = SCHOOL.teacher(jnp.array(5), jnp.array(dynamic))
        tasks = jax.vmap(lambda k: teacher.propose(pool, k))(jax.random.split(jax.random.key(7), 200))  # noqa: B023
        share = float((tasks == 999).mean())
        assert (0.35 < share < 0.65) if dynamic else share == 0
        assert set(np.asarray(tasks).tolist()) - {999} == set(range(5))


def test_what_is_kept_passed_the_filter():
    state = eqx.filter_jit(SCHOOL.init)(jax.random.key(8))

    @eqx.filter_jit
    def after(sometimes, rarely, solved):
        passes = dataclasses.replace(SCHOOL.filter, sometimes=sometimes, rarely=rarely, solved=solved)
        school = dataclasses.replace(SCHOOL, filter=passes)
        state_after = school.iterate(state, games=2**20, dynamic=1.0, generations=1, iterations=LONG)
        return state_after.accepted, state_after.pool.filled.sum()

    never, always = after(*map(jnp.array, (1.1, 1.0, 1.1))), after(*map(jnp.array, (0.0, 1.0, 1.1)))
    assert [float(x) for x in never] == [0.0, 0.0] and [float(x) for x in always] == [1.0, 8.0]


def test_fine_tuning_learns_a_game():
    game = jax.tree.map(lambda leaf: leaf[0], WORLD.held_out_games(8, hardest=2))
    lanes = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (64, *leaf.shape)), game)
    fresh = SCHOOL.fresh(jax.random.key(9))

    @eqx.filter_jit
    def played(count):
        player = SCHOOL.fine_tune(fresh, game, jax.random.key(10), count)
        return SCHOOL.returns(player, lanes, jax.random.key(11), 2).mean()

    careless = float(SCHOOL.returns(None, lanes, jax.random.key(12), 2).mean())
    before, after = float(played(0)), float(played(60))
    assert abs(before - careless) < 0.1 and after > before + 0.2
    assert after <= 1 - (float(WORLD.solution_length(game)) - 1) / WORLD.horizon + 1e-6 or int(game.script) != 0


def test_bad_settings_are_named():
    with pytest.raises(UserError, match="minibatches"):
        Generations(world=WORLD, games=3, episodes=1, minibatches=7)
