from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.lab import UserError
from unseen.learners.ppo import ppo
from unseen.measures.exact import policy_evaluation, value_iteration
from unseen.worlds.control.grid_levels import (
    MOVES,
    GridLevel,
    GridLevels,
    Lava,
    Maze,
    Playroom,
    RewardObjects,
    Rooms,
    TwoPlayerGoals,
    distances,
    level_keys,
    levels_of,
    shortest_path,
    solvable,
    stack_levels,
)

UP, RIGHT, DOWN, LEFT = range(4)
KINDS = [Lava(8, 1.0), Playroom(4), TwoPlayerGoals(9)]


def searched(blocked, source):
    """Breadth-first search in plain Python."""
    far = np.full(blocked.shape, np.inf)
    far[tuple(source)] = 0
    queue = deque([tuple(source)])
    while queue:
        here = queue.popleft()
        for move in MOVES:
            there = tuple(np.add(here, move))
            if not blocked[there] and far[there] == np.inf:
                far[there] = far[here] + 1
                queue.append(there)
    return far


def test_distances_are_those_of_a_plain_search():
    levels = levels_of(Rooms(9), 6)
    found = jax.jit(jax.vmap(lambda level: distances(level.walls, level.object_cell[0])))(levels)
    for far, walls, goal in zip(found, np.asarray(levels.walls), levels.object_cell[:, 0], strict=True):
        np.testing.assert_array_equal(far, searched(walls, np.asarray(goal)))


def test_mazes_are_spanning_trees():
    levels = levels_of(Maze(11), 50)
    free = ~np.asarray(levels.walls)
    assert (free.sum((1, 2)) == 25 + 24).all()  # the cells and one passage less: with all reached, a tree
    far = jax.jit(jax.vmap(lambda level: distances(level.walls, level.start[0])))(levels)
    assert (np.isfinite(far) == free).all()
    assert len({level.tobytes() for level in free}) == 50
    more = levels_of(Maze(11, 0.5), 50)
    assert (~np.asarray(more.walls) >= free).all()  # loops only open walls


@pytest.mark.parametrize("kind", [Maze(7), Rooms(9), Lava(8, 1.0), Playroom(4)], ids=str)
def test_levels_can_be_solved(kind):
    levels = levels_of(kind, 100)
    assert jax.jit(jax.vmap(solvable))(levels).all()
    rim = np.asarray(levels.walls)
    assert rim[:, 0].all() and rim[:, -1].all() and rim[:, :, 0].all() and rim[:, :, -1].all()


def test_lava_grows_with_difficulty_and_leaves_its_path():
    kind, key = Lava(10), jax.random.key(3)
    make = jax.jit(lambda difficulty: kind.at(key, difficulty).lava)
    easy, hard = (np.asarray(make(d)) for d in (0.2, 0.7))
    assert (hard >= easy).all() and hard.sum() > easy.sum()
    levels = levels_of(Lava(10, 0.4), 300)
    straight = np.abs(np.asarray(levels.start[:, 0] - levels.object_cell[:, 0])).sum(-1)
    inner = 64 - (straight + 1)  # all but the path
    assert np.asarray(levels.lava).sum((1, 2)).sum() / inner.sum() == pytest.approx(0.4, abs=0.02)
    full = levels_of(Lava(10, 1.0), 300)  # of the same keys: nothing but the path is left
    np.testing.assert_array_equal(jax.jit(jax.vmap(shortest_path))(full), straight)


def test_a_closed_off_goal_is_not_solvable():
    maps = ["######\n#S.#G#\n######", "######\n#S.LG#\n######", "######\n#SDKG#\n######", "######\n#KSDG#\n######"]
    moves = jax.jit(jax.vmap(shortest_path))(stack_levels([GridLevel.from_text(text) for text in maps]))
    assert moves.tolist() == [np.inf, np.inf, np.inf, 1 + 3]  # the last: to the key, then to the goal


def test_seeds_of_train_and_test_levels_never_overlap():
    # fold_in is a bijection of ids for one key; here it is seen on all ids that a study could ask for at once.
    train, test = (np.asarray(jax.random.key_data(level_keys(20_000, split))) for split in ("train", "test"))
    both = np.concatenate([train, test])
    assert len(np.unique(both, axis=0)) == 40_000
    for seed in (0, 1):
        other = np.asarray(jax.random.key_data(level_keys(20_000, "test", seed, first=500)))
        assert len(np.unique(np.concatenate([train, other]), axis=0)) == 40_000
    with pytest.raises(UserError, match="count takes 1 to"):
        levels_of(Maze(5), 2**30 + 1)


def test_a_mazes_value_is_its_shortest_path():
    world = GridLevels(Maze(7, 0.2))
    params = world.params(levels_of(world.kind, 5, "test"))
    mdps = world.tabular(params)
    np.testing.assert_allclose(mdps.transition.sum(-1), 1, rtol=1e-6)
    values = jax.jit(jax.vmap(lambda p, r: value_iteration(p, r, 0.9)[0] @ mdps.start))(mdps.transition, mdps.reward)
    moves = jax.jit(jax.vmap(shortest_path))(params.levels)
    np.testing.assert_allclose(values, 0.9 ** (moves - 1), rtol=1e-4)


def test_rollouts_have_the_exact_value():
    world = GridLevels(RewardObjects(5, 2, walls=0.1))
    params = world.params(levels_of(world.kind, 1), slip=0.3, step_reward=-0.05, max_steps=60)
    mdps = world.tabular(params)
    uniform = jnp.full((mdps.transition.shape[1], 4), 0.25).at[:, 2].set(0.1).at[:, 1].set(0.4)
    exact = policy_evaluation(mdps.transition[0], mdps.reward[0], uniform, 0.9) @ mdps.start

    def rollout(key):
        _, state = world.reset_env(key, params)

        def step(carry, key):
            state, alive, weight, total = carry
            act, go = jax.random.split(key)
            action = jax.random.categorical(act, jnp.log(uniform[0]))
            _, state, reward, done, _ = world.step_env(go, state, action, params)
            return (state, alive & ~done, weight * 0.9, total + alive * weight * reward), None

        start = state, jnp.array(True), jnp.ones(()), jnp.zeros(())
        return jax.lax.scan(step, start, jax.random.split(key, 60))[0][3]

    found = jax.jit(jax.vmap(rollout))(jax.random.split(jax.random.key(1), 4000))
    assert found.mean() == pytest.approx(float(exact), abs=4 * float(found.std()) / 4000**0.5)


def test_states_have_numbers_of_their_own():
    world = GridLevels(RewardObjects(5, 2), observation="index")
    params = world.params(levels_of(world.kind, 2))
    count = world.observation_space().n
    assert count == 25 * 4
    again = jax.jit(jax.vmap(lambda i: world.index(world._state(i, params, jnp.array(1)))))(jnp.arange(count))
    np.testing.assert_array_equal(again, np.arange(count))
    observation, state = world.reset(jax.random.key(0), params)
    assert observation == world.index(state)


def walk(text, moves, **settings):
    level = GridLevel.from_text(text)
    world = GridLevels(lambda key: level)
    params = world.params(level, **settings)
    state = world.first(params, 0, jax.random.key(0))
    step = jax.jit(lambda state, action: world.step_env(jax.random.key(1), state, action, params))
    seen = []
    for move in moves:
        _, state, reward, done, _ = step(state, move)
        seen.append((tuple(np.asarray(state.player[0]).tolist()), float(reward), bool(done)))
    return state, seen


def test_walls_coins_goal_and_lava():
    state, seen = walk("#####\n#S1G#\n#..L#\n#####", [UP, RIGHT, RIGHT], step_reward=-0.5)
    assert seen == [((1, 1), -0.5, False), ((1, 2), 0.5, False), ((1, 3), 0.5, True)]
    assert state.time == 3
    _, seen = walk("#####\n#S1G#\n#..L#\n#####", [DOWN, RIGHT, RIGHT], lava_reward=-2.0)
    assert seen[-1] == ((2, 3), -2.0, True)


def test_key_door_box_and_switch():
    text = "#######\n#S.BK.#\n#.T.D.#\n#...G.#\n#######"
    state, seen = walk(text, [RIGHT, RIGHT, RIGHT])
    assert [s[0] for s in seen] == [(1, 2), (1, 3), (1, 4)] and tuple(state.box.tolist()) == (1, 5)
    assert state.has_key
    state, seen = walk(text, [RIGHT, RIGHT, RIGHT, RIGHT, DOWN, DOWN])
    assert seen[3][0] == (1, 4)  # the box is at the wall and stays
    assert seen[4][0] == (2, 4) and seen[5][1:] == (1.0, True)  # through the open door to the goal
    state, seen = walk(text, [DOWN, RIGHT, RIGHT, RIGHT, LEFT])
    assert seen[2][0] == seen[3][0] == (2, 3)  # the door is shut without the key
    assert not state.flipped and seen[4][0] == (2, 2)  # flipped on and, coming back, off


def test_two_players():
    level = GridLevel.from_text("######\n#SS.0#\n#....#\n######")

    def second_on_coin(level, before, after):
        on = (after.player == level.object_cell[0]).all(-1)
        return on.astype(float)[::-1]  # each is paid where the other stands on the coin

    world = GridLevels(lambda key: level, reward=second_on_coin)
    params = world.params(level)
    state = world.first(params, 0, jax.random.key(0))
    assert world.num_actions == 16
    step = jax.jit(lambda state, action: world.step_env(jax.random.key(0), state, action, params))
    for action, cells in ((4 * RIGHT + UP, [(1, 1), (1, 2)]), (4 * RIGHT + RIGHT, [(1, 1), (1, 3)])):
        _, state, _, _, _ = step(state, action)
        assert [tuple(cell) for cell in state.player.tolist()] == cells  # the first moves first, into the second
    _, state, reward, _, info = step(state, 4 * DOWN + RIGHT)
    assert reward == 1 and info["rewards"].tolist() == [1, 0]
    with pytest.raises(UserError, match="reward of its own"):
        world.tabular(params)


def test_planes_show_what_there_is():
    level = GridLevel.from_text("#####\n#S1G#\n#.KL#\n#D###\n#####")
    world = GridLevels(lambda key: level, distractors=1)
    params = world.params(level, recolour=jnp.array([1, 0]))
    observation, state = world.reset_env(jax.random.key(0), params)
    names = world.channels()
    assert observation.shape == (5, 5, len(names))
    # The coin has colour 1 and the goal 0; recoloured they change planes.
    marks = {"wall": "#", "lava": "L", "player 0": "S", "colour 0": "1", "colour 1": "G", "key": "K", "door": "D"}
    drawn = np.array([list(line) for line in "#####\n#S1G#\n#.KL#\n#D###\n#####".splitlines()])
    for name, mark in marks.items():
        np.testing.assert_array_equal(observation[..., names.index(name)], drawn == mark, err_msg=name)
    assert observation[..., names.index("box")].sum() == 0
    noise = names.index("distractor 0")
    after = world.step_env(jax.random.key(1), state, UP, params)[0]
    assert 2 < observation[..., noise].sum() < 23 and (observation[..., noise] != after[..., noise]).any()


def test_slip_moves_at_random():
    level = GridLevel.from_text("#####\n#..G#\n#.S.#\n#...#\n#####")
    world = GridLevels(lambda key: level)
    params = world.params(level, slip=0.4)
    state = world.first(params, 0, jax.random.key(0))
    step = jax.jit(jax.vmap(lambda key: world.step_env(key, state, UP, params)[1].player[0]))
    ups = (step(jax.random.split(jax.random.key(2), 4000)) == jnp.array([1, 2])).all(-1).mean()
    assert ups == pytest.approx(0.7, abs=0.03)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_thousands_of_episodes_in_one_program(kind):
    world = GridLevels(kind)
    params = world.params(levels_of(kind, 16), max_steps=7)

    @jax.jit
    def run(keys):
        _, state = jax.vmap(world.reset, (0, None))(keys, params)

        def step(state, key):
            actions = jax.random.randint(key, (len(keys),), 0, world.num_actions)
            observation, state, _, _, truncated, _ = jax.vmap(world.step, (0, 0, 0, None))(
                jax.random.split(key, len(keys)), state, actions, params
            )
            return state, (observation[..., 0].sum(), state.time, state.which, truncated.any())

        return jax.lax.scan(step, state, jax.random.split(keys[0], 20))[1]

    _, time, which, truncated = run(jax.random.split(jax.random.key(0), 64))
    assert time.max() < 7 and truncated.any()  # the time limit starts new episodes
    assert set(np.asarray(which).ravel().tolist()) == set(range(16))


def test_ppo_learns_a_level():
    world = GridLevels(Maze(5), "flat")
    params = world.params(levels_of(world.kind, 1), step_reward=-0.02, max_steps=20)
    steps = shortest_path(jax.tree.map(lambda leaf: leaf[0], params.levels))

    def mean_return(policy):
        _, state = world.reset_env(jax.random.key(0), params)

        def step(carry, key):
            state, alive, total = carry
            observation = world.get_obs(state, params)
            _, state, reward, done, _ = world.step_env(key, state, policy(observation), params)
            return (state, alive & ~done, total + alive * reward), None

        start = state, jnp.array(True), jnp.zeros(())
        return {"score": jax.lax.scan(step, start, jax.random.split(jax.random.key(1), 20))[0][2]}

    learner = ppo(
        world, params, total_steps=4096, every=8, final=mean_return, learning_rate=3e-3, num_envs=16, num_steps=32,
        num_minibatches=4, width=32,
    )  # fmt: skip
    state = jax.jit(learner.init)(jax.random.key(0))
    assert learner.final is not None
    state = jax.jit(learner.advance)(state)
    assert jax.jit(learner.final)(state)["score"] == pytest.approx(1 - 0.02 * float(steps), abs=1e-4)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty text"),
        ("####\n#S.#\n###", "3 characters in line 3 and 4 in line 1"),
        ("#####\n#S?G#\n#####", r"'\?' in line 2, column 3"),
        ("#####\n#S.G.\n#####", "closed border"),
        ("####\n#.G#\n####", "an S where the player starts"),
        ("####\n#S.#\n####", "something to collect"),
        ("######\n#SGKK#\n######", r"at most one K \(key\), got 2"),
    ],
)
def test_maps_that_do_not_parse(text, says, tmp_path):
    with pytest.raises(UserError, match=says):
        GridLevel.from_text(text)
    file = tmp_path / "level.txt"
    file.write_text(text)
    with pytest.raises(UserError, match=f"level.txt does not parse: .*{says}"):
        GridLevel.load(file)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.txt cannot be read"):
        GridLevel.load(tmp_path / "nowhere.txt")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"bytes\.txt cannot be read"):
        GridLevel.load(tmp_path / "bytes.txt")
    (tmp_path / "good.txt").write_text("#####\n#S.G#\n#####\n")
    assert shortest_path(GridLevel.load(tmp_path / "good.txt")) == 2


def test_levels_that_do_not_fit():
    small, large = (GridLevel.from_text(text) for text in ("####\n#SG#\n####", "#####\n#S.G#\n#####"))
    with pytest.raises(UserError, match="one size"):
        stack_levels([small, large])
    with pytest.raises(UserError, match="levels takes 7x7 levels with 1 players and 1 objects, got 3x4"):
        GridLevels(Maze(7)).params(small)
    with pytest.raises(UserError, match="at most 2048 states, got"):
        world = GridLevels(Playroom(4))
        world.tabular(world.default_params)
    for bad in (
        lambda: Maze(6),
        lambda: Rooms(5),
        lambda: Lava(8, 1.5),
        lambda: RewardObjects(4, 4),
        lambda: Playroom(3),
    ):
        with pytest.raises(UserError, match="takes"):
            bad()
    for bad in (dict(distractors=-1),):
        with pytest.raises(UserError, match="takes"):
            GridLevels(Maze(7), **bad)
