import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

pytest.importorskip("gymnax", reason="needs the extra control")

from unseen.learners.edge_estimator import EdgeEstimator
from unseen.learners.replay import GoalObservation, Replay, Transition
from unseen.learners.skipper import (
    Edges,
    Sighted,
    SkipperAgent,
    View,
    arrived,
    edges_of,
    fit_generator,
    graph_of,
    walk,
)
from unseen.models.checkpoint_generator import CheckpointGenerator
from unseen.worlds.control.course import FREE, GOAL, LAVA, Course
from unseen.worlds.control.grid_levels import GridLevel, stack_levels

# The straight way is lava; a bay opens towards the goal, the way is around it.
LEVEL = GridLevel.from_text("""
#######
#.....#
#.LLL.#
#S.L.G#
#.LLL.#
#.....#
#######""")
COURSE = jax.jit(Course.of)(stack_levels([LEVEL]))
START, OVER, BAY = 10, 14, 11


def distances() -> np.ndarray:
    """Steps from every cell to every other one; over lava or by way of the goal there is no way."""
    following, status, n = np.asarray(COURSE.following[0]), np.asarray(COURSE.status[0]), COURSE.cells
    far = np.where(np.eye(n, dtype=bool) & (status != LAVA), 0, np.inf)
    for _ in range(n):
        onward = far[following].min(1) + 1
        far = np.where((status == FREE)[:, None], np.minimum(far, onward), far)
    return far


def exact() -> tuple[jnp.ndarray, Edges]:
    """Moves and distances of a policy that sees four steps far; farther goals it walks straight at."""
    far, cells = distances(), np.stack(np.divmod(np.arange(25), 5), 1)
    score = np.where(far <= 4, far, 50 + np.abs(cells[:, None] - cells).sum(-1))
    seen = np.where(far <= 4, far, np.inf)
    moves = score[np.asarray(COURSE.following[0])].argmin(1)
    return jnp.asarray(moves), Edges(jnp.asarray(0.9**seen), jnp.asarray(np.minimum(seen, 9.0)))


def test_checkpoints_lead_around_where_the_policy_alone_walks_into_a_bay():
    moves, edges = exact()
    proposals = jnp.array([0, 2, 4, 7, 22, BAY, 24])
    plan = jax.jit(
        lambda proposals: graph_of(
            edges, jnp.array(START), jnp.array(OVER), proposals, vertices=9, least=0.9**5
        )
    )  # fmt: skip
    graph = plan(proposals)
    assert graph.cell[:2].tolist() == [START, OVER] and graph.chosen.all()
    # 10 -> 0 -> 4 -> 14, or by way of 2; the value is that of the shortest way, eight steps.
    assert float(graph.plan.values[0]) == pytest.approx(0.9**8, abs=1e-4)
    go = jax.jit(lambda target: walk(COURSE, jnp.array(0), moves, target, horizon=20))
    skipper = go(graph.target)
    assert float(skipper.steps) == 8 and skipper.path[0] == START and (skipper.path[8:] == OVER).all()
    assert (COURSE.status[0][skipper.path] != LAVA).all()
    direct = go(jnp.full(25, OVER))
    assert np.isinf(float(direct.steps)) and BAY in direct.path.tolist()
    # No edge leads to lava, to itself, or farther than the cut.
    i, j = np.nonzero(np.asarray(graph.problem.edges))
    length = np.asarray(edges.length)[np.asarray(graph.cell)[i], np.asarray(graph.cell)[j]]
    assert length.max() == 4 and length.min() >= 1 and len(i) > 9 and (i != 1).all()
    # Without checkpoints on the way there is no plan: one aims at the goal itself.
    lost = plan(jnp.full(7, BAY))
    assert lost.target[START] == OVER and float(lost.plan.values[0]) == 0


def test_pruning_keeps_start_and_goal():
    _, edges = exact()
    graph = graph_of(edges, jnp.array(START), jnp.array(OVER), jnp.arange(5), vertices=4, least=0.9**5)
    assert graph.chosen.sum() == 4 and graph.chosen[:2].all()
    assert not graph.problem.edges[~np.asarray(graph.chosen)].any()


def test_a_new_target_is_taken_after_a_while():
    """From the start one aims at the lower corner, from elsewhere at the start."""
    moves, _ = exact()
    target = jnp.full(25, START).at[START].set(20)
    go = lambda patience: walk(COURSE, jnp.array(0), moves, target, horizon=3, patience=patience).path.tolist()  # noqa: E731
    assert go(8) == [START, 15, 20, 15] and go(1) == [START, 15, START, 15]


def seen(cell, goal) -> GoalObservation:
    return GoalObservation(jnp.array([0, cell, 0]), jnp.array([goal, 0]))


def test_what_is_seen():
    features = np.asarray(jax.jit(lambda: View.local(COURSE, 3)(seen(0, 24)))())
    assert features.shape == (2 * 27 + 18,)
    here, there, between = features[:27].reshape(3, 3, 3), features[27:54].reshape(3, 3, 3), features[54:]
    assert here[0].sum() == here[:, 0].sum() == 0 and here[1, 1].tolist() == [1, 0, 0]
    assert here[2, 2].tolist() == [0, 1, 0] and there[0, 1].tolist() == [1, 0, 0]
    assert between.nonzero()[0].tolist() == [8, 17]  # four down, four to the right
    # What is far does not change what is seen locally, and does what the others see.
    other = jax.jit(Course.of)(stack_levels([eqx.tree_at(lambda x: x.lava, LEVEL, LEVEL.lava.at[2, 4].set(False))]))
    for view, differs in ((View.local, False), (View.whole, True), (View.map, True)):
        a, b = jax.jit(lambda view=view: (view(COURSE)(seen(5, 15)), view(other)(seen(5, 15))))()
        assert np.array_equal(a, b) != differs
    whole = np.asarray(jax.jit(lambda: View.whole(COURSE)(seen(0, 24)))())[: 9 * 9 * 3].reshape(9, 9, 3)
    assert np.array_equal(whole[4:, 4:], np.asarray(COURSE.planes()[0]))


def test_arriving():
    reached = jnp.array([[3, FREE], [3, LAVA], [4, GOAL], [4, LAVA], [4, FREE]])
    there, over = arrived(reached, jnp.array([[3, 0]] * 5))
    assert there.tolist() == [True] + [False] * 4 and over.tolist() == [False, True, True, True, False]


def everything() -> Transition:
    """Every move from every free cell towards every cell, at once."""
    cells = np.flatnonzero(np.asarray(COURSE.status[0] == FREE))
    cell, goal, action = (x.ravel() for x in np.meshgrid(cells, cells, range(4), indexing="ij"))
    after, status = np.asarray(COURSE.following[0])[cell, action], np.asarray(COURSE.status[0])
    look = lambda c: GoalObservation(  # noqa: E731
        jnp.stack([jnp.zeros_like(c), c, jnp.asarray(status)[c]], -1), jnp.stack([goal, status[goal]], -1)
    )
    reward, terminal = ESTIMATOR.pay(*arrived(jnp.stack([after, status[after]], -1), jnp.stack([goal, goal * 0], -1)))
    return Transition(look(jnp.asarray(cell)), jnp.asarray(action), reward, terminal, look(jnp.asarray(after)))


ESTIMATOR = EdgeEstimator(actions=4, longest=8, width=32, target_rate=0.1, optimizer=optax.adam(1e-2))


def test_both_estimators_learn_the_policys_edges():
    """From all transitions of a level both views' edges come near the times that the learned policy really takes."""
    agent = SkipperAgent(Sighted(ESTIMATOR, View.local(COURSE)), Sighted(ESTIMATOR, View.map(COURSE)))
    batch = everything()

    @jax.jit
    def train(key):
        fresh = agent.init(key, jax.tree.map(lambda x: x[0], batch.observation))
        state, rest = eqx.partition(fresh, eqx.is_array)

        def update(state, key):
            rows = jax.random.randint(key, (128,), 0, len(batch.action))
            some = jax.tree.map(lambda x: x[rows], batch)
            state, loss = agent.update(eqx.combine(state, rest), some, key)
            return eqx.filter(state, eqx.is_array), loss

        state, _ = jax.lax.scan(update, state, jax.random.split(key, 500))
        return [edges_of(agent, it, jnp.array(0), 25, 0.9) for it in (eqx.combine(state, rest), fresh)]

    (moves, *learned), (_, *before) = train(jax.random.key(0))
    cells = jnp.flatnonzero(COURSE.status[0] == FREE)
    true = 0.9 ** COURSE.arrivals(jnp.array(0), moves[:, cells], cells, 8)[cells]
    apart = ~np.eye(len(cells), dtype=bool)
    error = lambda edges: np.abs(np.asarray(edges.arrival[cells][:, cells] - true))[apart].mean()  # noqa: E731
    assert max(map(error, learned)) < 0.15 and min(map(error, before)) > 0.25
    reachable = (distances() <= 8)[np.ix_(cells, cells)]
    assert ((true > 0) == reachable)[apart].mean() > 0.9 and 0.3 < reachable.mean() < 0.9


def test_the_generator_is_fitted_to_where_one_was():
    """A replay of three cells; drawn cells are mostly these."""
    been = jnp.array([0, 4, 24])
    empty = Transition(
        GoalObservation(jnp.zeros(3, int), jnp.zeros(2, int)), jnp.array(0), jnp.array(0.0), jnp.array(False),
        GoalObservation(jnp.zeros(3, int), jnp.zeros(2, int)),
    )  # fmt: skip
    replay = Replay.empty(empty, 1, 3)
    for cell in been:
        step = empty._replace(observation=GoalObservation(jnp.array([0, cell, 0]), jnp.zeros(2, int)))
        replay = replay.add(jax.tree.map(lambda x: x[None], step), jnp.array([False]))
    fresh = CheckpointGenerator((5, 5), 3, key=jax.random.key(0))
    planes = COURSE.planes()[0]

    @eqx.filter_jit
    def draw(net, key):
        fitted = fit_generator(net, COURSE, replay, key, updates=150, learning_rate=2e-2)
        return fitted.sample(planes, 60, key=jax.random.key(2))

    drawn = np.asarray(draw(fresh, jax.random.key(1)))
    assert np.isin(drawn, been).mean() > 0.85 and len(set(drawn)) >= 3
