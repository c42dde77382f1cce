import collections
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.lab import UserError
from unseen.worlds.control import GoalFormula, TwoPlayerGoalGrid
from unseen.worlds.control.goal_games import ACTIONS, EMPTY, HOLD, NEAR, ON, SEE, GameState

pytestmark = pytest.mark.optimized

WORLD = TwoPlayerGoalGrid(side=6, shapes=2, colours=2, horizon=8)
LENGTHS = jax.jit(jax.vmap(WORLD.solution_length))
KEYS = jax.random.split(jax.random.key(0), 200)


GAME, PAID = jax.jit(WORLD.game)(KEYS[0]), jax.jit(WORLD.paid)


def formula(*options, negated=False):
    """A goal from (relation, subject, target) predicates."""
    slots = np.zeros((2, 2, 3), int)
    used = np.zeros((2, 2), bool)
    for i, option in enumerate(options):
        for j, predicate in enumerate(option):
            slots[i, j], used[i, j] = predicate, True
    parts = [jnp.asarray(slots[..., i]) for i in range(3)]
    return GoalFormula(*parts, jnp.full((2, 2), negated), jnp.asarray(used))


def game_of(goal, *, walls=(), start=((1, 1), (4, 4)), objects=((1, 4), (4, 1), (3, 3), (2, 2))):
    game = GAME
    room = np.ones((6, 6), bool)
    room[1:-1, 1:-1] = False
    for cell in walls:
        room[cell] = True
    goals = jax.tree.map(lambda a, b: jnp.stack([a, b]), goal, goal.opposed())
    return eqx.tree_at(
        lambda g: (g.level.walls, g.level.start, g.level.object_cell, g.goals),
        game,
        (jnp.asarray(room), jnp.asarray(start), jnp.asarray(objects), goals),
    )


def at(first, second=(4, 4), hand=(EMPTY, EMPTY)):
    return GameState(jnp.array([first, second]), jnp.array(hand), jnp.zeros((), int))


def test_a_formula_is_a_disjunction_of_conjunctions():
    relation, target = [NEAR, HOLD, ON, SEE], [0, 1, 2, 3]
    slots = [(r, 0, t) for r, t in zip(relation, target, strict=True)]
    both, either = formula(slots[:2]), formula(slots[:1], slots[1:2])
    four = formula(slots[:2], slots[2:])
    for truth in itertools.product((False, True), repeat=4):
        facts = np.zeros((4, 2, 5), bool)
        for (r, _, t), value in zip(slots, truth, strict=True):
            facts[r, 0, t] = value
        a, b, c, d = truth
        for goal, expected in ((both, a and b), (either, a or b), (four, (a and b) or (c and d))):
            assert bool(goal.satisfied(jnp.asarray(facts))) == expected
        for goal, expected in ((both, a and b), (either, a or b)):
            # In the other player's eyes the subjects are exchanged.
            assert bool(goal.opposed().satisfied(jnp.asarray(facts[:, ::-1]))) != expected
            assert bool(goal.shared().satisfied(jnp.asarray(facts[:, ::-1]))) == expected


@pytest.mark.parametrize(
    ("relation", "target", "cell", "hand", "expected"),
    [
        (NEAR, 0, (1, 3), EMPTY, True),
        (NEAR, 0, (2, 3), EMPTY, False),  # a diagonal is two moves
        (ON, 0, (1, 4), EMPTY, True),
        (ON, 0, (1, 3), EMPTY, False),
        (HOLD, 0, (2, 1), 0, True),
        (HOLD, 0, (1, 4), 1, False),
        (SEE, 0, (1, 3), EMPTY, True),
        (SEE, 0, (1, 1), EMPTY, False),  # the wall at (1, 2) is between
        (SEE, 0, (3, 4), EMPTY, True),
        (SEE, 0, (2, 3), EMPTY, False),
        (NEAR, 4, (4, 3), EMPTY, True),  # the other player, at (4, 4)
        (SEE, 4, (4, 1), EMPTY, True),
        (ON, 4, (4, 3), EMPTY, False),
    ],
)
def test_relations(relation, target, cell, hand, expected):
    game = game_of(formula([(relation, 0, target)]), walls=[(1, 2)])
    first, second = PAID(game, at(cell, hand=(hand, EMPTY)))
    assert bool(first) == expected and float(second) == 1 - float(first)


def test_players_block_each_other_and_take_what_the_other_holds():
    game = game_of(formula([(HOLD, 0, 0)]), start=((1, 3), (2, 4)))
    up, right, down, left, stay = range(ACTIONS)
    state = WORLD.step(game, WORLD.start(game), jnp.array([right, up]))
    # The first is on object 0 now, so the second could not go there.
    assert state.player.tolist() == [[1, 4], [2, 4]] and state.hand.tolist() == [0, EMPTY]
    state = WORLD.step(game, state, jnp.array([left, up]))
    assert state.player.tolist() == [[1, 3], [1, 4]] and state.hand.tolist() == [EMPTY, 0]
    state = WORLD.step(game, state, jnp.array([up, stay]))
    assert state.player.tolist() == [[1, 3], [1, 4]] and int(state.time) == 3
    state = WORLD.step(game, state, jnp.array([stay, down]))
    assert state.hand.tolist() == [EMPTY, 0] and WORLD.paid(game, state).tolist() == [0.0, 1.0]


def test_interests_and_held_out_goals():
    games = jax.jit(jax.vmap(WORLD.game))(KEYS)
    states = jax.vmap(WORLD.start)(games)
    step = jax.jit(jax.vmap(WORLD.step))
    for key in jax.random.split(jax.random.key(1), 6):
        states = step(games, states, jax.random.randint(key, (200, 2), 0, ACTIONS))
        first, second = np.asarray(jax.vmap(WORLD.paid)(games, states)).T
        interest = np.asarray(games.interest)
        assert (first == second)[interest == 0].all() and (first != second)[interest == 1].all()
        assert ((first == second)[interest == 2]).any() and (first != second)[interest == 2].any()
    train = jax.vmap(WORLD.goal)(KEYS)
    test = jax.vmap(lambda key: WORLD.goal(key, True))(KEYS)
    assert not bool(WORLD.is_held_out(train).any()) and bool(WORLD.is_held_out(test).all())
    forms = collections.Counter(np.asarray(train.used.sum((-1, -2))).tolist())
    assert set(forms) == {1, 2} and set(np.unique(train.target)) == set(range(5))


def test_solutions_against_a_search_over_the_world_itself():
    games = jax.jit(jax.vmap(WORLD.game))(KEYS[:12])
    found = np.asarray(LENGTHS(games))
    moves = jnp.stack([jnp.arange(ACTIONS), jnp.full(ACTIONS, ACTIONS - 1)], -1)
    step = jax.jit(lambda game, states: jax.vmap(
        lambda s: jax.vmap(lambda a: WORLD.step(game, s, a))(moves)
    )(states))  # fmt: skip
    paid = jax.jit(lambda game, states: jax.vmap(lambda s: WORLD.paid(game, s)[0])(states))
    many = 16 * 5
    for i in range(12):
        game = jax.tree.map(lambda leaf: leaf[i], games)  # noqa: B023
        start = WORLD.start(game)
        seen = {(*map(int, start.player[0]), int(start.hand[0]))}
        front, length = sorted(seen), np.inf
        for time in range(WORLD.horizon + 1):
            padded = front + [front[0]] * (many - len(front))
            cells = jnp.array([[row, column] for row, column, _ in padded])
            other = jnp.broadcast_to(start.player[1], cells.shape)
            hand = jnp.array([[h, EMPTY] for *_, h in padded])
            states = GameState(jnp.stack([cells, other], 1), hand, jnp.zeros(many, int))
            if bool((paid(game, states) > 0).any()):
                length = time
                break
            after = step(game, states)
            rows = np.concatenate([after.player[..., 0, :], after.hand[..., :1]], -1).reshape(-1, 3).tolist()
            front = sorted({tuple(row) for row in rows} - seen)
            seen |= set(front)
            if not front:
                break
        assert found[i] == length
    assert np.isinf(found).any() and (found > 4).any()


def test_held_out_games_are_solvable_and_the_hard_ones_others():
    easy, hard = WORLD.held_out_games(8), WORLD.held_out_games(8, hardest=3)
    length = {name: np.asarray(LENGTHS(g)) for name, g in (("easy", easy), ("hard", hard))}
    assert (length["easy"] > 0).all() and (length["easy"] <= 8).all() and (length["hard"] <= 8).all()
    assert length["hard"].shape == (3,) and length["hard"].mean() > length["easy"].mean()
    assert (np.diff(length["hard"]) <= 0).all()
    goal = jax.tree.map(lambda leaf: leaf[:, 0], easy.goals)
    assert bool(WORLD.is_held_out(goal).all())


def test_an_observation_says_where_the_targets_are_and_what_the_goal_is():
    goal = formula([(ON, 0, 0), (NEAR, 0, 4)])
    game = game_of(goal)
    seen = np.asarray(WORLD.observe(game, at((2, 3), (4, 4), (0, 1)), 0))
    assert seen.shape == (WORLD.observation_size,)
    span, middle = 7, 3
    you, slots = seen[: 2 * span].reshape(2, span), seen[2 * span : 10 * span].reshape(4, 2, span)
    assert you.argmax(-1).tolist() == [2 + middle, 1 + middle]
    assert slots[0].argmax(-1).tolist() == [-1 + middle, 1 + middle] and (slots[1] == you).all()
    assert (slots[2:] == 0).all()
    around = seen[10 * span : 10 * span + 50].reshape(5, 5, 2)
    assert around[0, :, 0].all() and around[:, 4, 0].all() and around[2, 2].tolist() == [0, 0]
    assert around[1, 3, 1] == 1 and around[2, 1, 1] == 1 and around[3, 2, 1] == 1  # objects 0, 3 and 2
    held = seen[10 * span + 50 : 10 * span + 58]
    assert held.tolist() == [1, 0, 0, 0, 0, 0, 0, 0]
    code = seen[10 * span + 58 : -1].reshape(4, -1)
    assert code[0].tolist() == [0, 0, 1, 0, 1, 0, 1, 0, 0, 0, 1] and (code[2:] == 0).all()
    assert code[1].tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    # The second player's targets are in its own eyes: the goal's "near me" is about the first player's cell.
    theirs = np.asarray(WORLD.observe(game, at((2, 3), (4, 4)), 1))
    assert theirs[: 2 * span].reshape(2, span).argmax(-1).tolist() == [-2 + middle, -1 + middle]


def test_scripts_stand_walk_and_chase():
    game = game_of(formula([(ON, 0, 0)]))
    state = at((2, 2), (4, 3))

    def act(script, time=0):
        chosen = eqx.tree_at(lambda g: (g.script, g.turn), game, (jnp.array(script), jnp.array(1)))
        return int(WORLD.scripted(chosen, state.__class__(state.player, state.hand, jnp.array(time))))

    assert act(0) == ACTIONS - 1 and [act(1, t) for t in (0, 2, 3, 9)] == [1, 1, 2, 0] and act(2) == 0


def test_bad_settings_are_named():
    for name, settings in dict(side=dict(side=4), horizon=dict(horizon=0), alone=dict(alone=0.9)).items():
        with pytest.raises(UserError, match=name):
            TwoPlayerGoalGrid(**settings)
