import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.lab import UserError
from unseen.measures.exact import value_iteration
from unseen.methods.proxy_problem import ProxyProblem, medoids, plan_bound, proxy_bound
from unseen.worlds.control.grid_levels import MOVES, Lava, distances

PLAN, WORTH = jax.jit(ProxyProblem.plan), jax.jit(ProxyProblem.worth)
EXACT = jax.jit(value_iteration, static_argnums=2)


def random_problem(seed, vertices: int = 7) -> ProxyProblem:
    reward, discount, edges = jax.random.split(jax.random.key(seed), 3)
    shape = (vertices, vertices)
    problem = ProxyProblem.complete(
        jax.random.normal(reward, shape), jax.random.uniform(discount, shape, maxval=0.9)
    )  # fmt: skip
    return ProxyProblem(problem.reward, problem.discount, problem.edges & jax.random.bernoulli(edges, 0.6, shape))


def test_pencil_and_paper():
    """0 -> 1 -> 2 pays 1 at the end of two halvings; 0 -> 2 directly pays 0.2; 2 is the end."""
    reward = jnp.zeros((3, 3)).at[1, 2].set(1.0).at[0, 2].set(0.2)
    problem = ProxyProblem.complete(reward, jnp.full((3, 3), 0.5)).ending(jnp.array([False, False, True]))
    plan = PLAN(problem)
    assert plan.values.tolist() == [0.5, 1.0, 0.0] and plan.following.tolist() == [1, 2, -1]
    without = PLAN(problem.only(jnp.array([True, False, True])))
    assert np.allclose(without.values, [0.2, 0, 0]) and without.following.tolist() == [2, -1, -1]
    assert PLAN(problem.pruned(0.6)).following.tolist() == [-1, -1, -1]
    assert np.allclose(WORTH(problem, jnp.array([2, 0, -1])), [0.2, 0.1, 0.0])
    assert np.allclose(WORTH(problem, jnp.array([1, 0, 0])), 0)  # for ever to and fro; no edge leads on from the end


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_plans_are_those_of_the_equivalent_mdp(seed):
    """An edge with discount d is a step at discount 0.95 that is the last one with chance 1 - d / 0.95."""
    problem, n = random_problem(seed), 7
    goes = jnp.where(problem.edges, problem.discount / 0.95, 0.0)
    transition = jnp.zeros((n + 1, n, n + 1)).at[jnp.arange(n)[:, None], jnp.arange(n), jnp.arange(n)].set(goes)
    transition = transition.at[..., n].set(1 - transition[..., :n].sum(-1))
    leads = problem.edges.any(1, keepdims=True)
    pay = jnp.where(problem.edges, problem.reward, jnp.where(leads, -1e3, 0.0))
    values, _ = EXACT(transition, jnp.concatenate([pay, jnp.zeros((1, n))]), 0.95)
    plan = PLAN(problem)
    assert np.allclose(plan.values, values[:n], atol=1e-4)
    assert np.allclose(WORTH(problem, plan.following), plan.values, atol=1e-4)


def test_cells_as_checkpoints_give_shortest_paths():
    """With all neighbouring cells of a lava level as edges, values are 0.9 ** (distance to the goal - 1)."""
    level = jax.jit(Lava(8, 0.4))(jax.random.key(0))
    blocked = np.asarray(level.walls | level.lava)
    cells = [tuple(c) for c in np.argwhere(~blocked)]
    goal, number = tuple(np.asarray(level.object_cell[0])), {cell: i for i, cell in enumerate(cells)}
    edges = np.zeros((len(cells), len(cells)), bool)
    for cell, move in itertools.product(cells, MOVES):
        if (after := (cell[0] + move[0], cell[1] + move[1])) in number:
            edges[number[cell], number[after]] = True
    edges[number[goal]] = False
    reward = jnp.zeros(edges.shape).at[:, number[goal]].set(1.0)
    values = PLAN(ProxyProblem(reward, jnp.full(edges.shape, 0.9), jnp.asarray(edges))).values
    far = np.asarray(distances(jnp.asarray(blocked), level.object_cell[0]))[tuple(np.array(cells).T)]
    exact = np.where(np.isfinite(far) & (far > 0), 0.9 ** (far - 1), 0.0)
    assert np.allclose(values, exact, atol=1e-5) and (values > 0.3).sum() > 10


def test_no_plan_loses_more_than_the_bound():
    def loss(seed, size):
        truth = random_problem(seed)
        reward, discount = jax.random.uniform(jax.random.key(seed + 100), (2, 7, 7), minval=-size, maxval=size)
        wrong = ProxyProblem(truth.reward + reward, jnp.clip(truth.discount + discount, 0, 0.95), truth.edges)
        error = [
            jnp.where(truth.edges, jnp.abs(getattr(wrong, f) - getattr(truth, f)), 0).max()
            for f in ("reward", "discount")
        ]
        best, made = truth.plan().values, truth.worth(wrong.plan().following)
        largest = jnp.abs(truth.reward).max() / (1 - jnp.where(truth.edges, truth.discount, 0).max())
        steepest = jnp.where(truth.edges, wrong.discount, 0).max()
        return (best - made).max(), proxy_bound(*error, largest=largest, discount=steepest)

    seeds, sizes = jnp.arange(20), jnp.tile(jnp.array([0.01, 0.3]), 10)
    lost, bound = jax.jit(jax.vmap(loss))(seeds, sizes)
    assert (lost <= bound).all() and (lost > -1e-4).all() and (lost[1::2] > 0.1).sum() > 2


def test_the_bound_is_reached():
    """Two ways out, misjudged by 0.1 each so that the worse one looks as good: twice 0.1 is lost."""
    edges = jnp.zeros((3, 3), bool).at[0, 1:].set(True)
    truth = ProxyProblem(jnp.zeros((3, 3)).at[0].set(jnp.array([0.0, 0.4, 0.6])), jnp.zeros((3, 3)), edges)
    wrong = ProxyProblem(jnp.full((3, 3), 0.5), jnp.zeros((3, 3)), edges)
    lost = PLAN(truth).values[0] - WORTH(truth, PLAN(wrong).following)[0]
    assert np.isclose(lost, 0.2) and np.isclose(proxy_bound(0.1, 0.0, largest=1.0, discount=0.0), lost)
    assert np.isclose(proxy_bound(0.1, 0.2, largest=3.0, discount=0.5), 2 * 0.7 / 0.5)
    with pytest.raises(UserError, match=r"discount takes a number from 0 to below 1, got 1\.0"):
        proxy_bound(0.1, 0.1, largest=1.0, discount=1.0)


def test_medoids_are_one_of_each_cluster():
    places = jnp.array([0.0, 0.1, 0.2, 5.0, 5.1, 5.2, 9.0, 9.1, 9.2])
    distance = jnp.abs(places[:, None] - places)
    assert np.flatnonzero(medoids(distance, 3)).tolist() == [1, 4, 7]
    fixed = medoids(distance, 3, jnp.arange(9) == 0)
    assert np.flatnonzero(fixed).tolist() == [0, 5, 7]  # 5.2 is nearest to the last three too, while they have none
    both = jnp.arange(9) < 2
    assert np.array_equal(medoids(distance, 2, both), both)
    with pytest.raises(UserError, match="count takes a whole number from 1 to 9, got 10"):
        medoids(distance, 10)


BOUNDED = jax.jit(
    lambda estimated, reward, discount, made, best, largest: plan_bound(
        estimated, reward, discount, made=made, best=best, largest=largest
    )
)


@pytest.mark.parametrize("seed", range(6))
def test_the_bound_along_two_plans_holds_and_is_not_above_the_general_one(seed):
    truth = random_problem(seed)
    noise = jax.random.split(jax.random.key(100 + seed))
    size = 0.02 if seed % 2 else 0.3
    estimated = dataclasses.replace(
        truth,
        reward=truth.reward + size * jax.random.normal(noise[0], (7, 7)),
        discount=jnp.clip(truth.discount + size * jax.random.normal(noise[1], (7, 7)), 0, 0.9),
    )
    made, best = PLAN(estimated).following, PLAN(truth)
    worth = WORTH(truth, made)
    lost = best.values - worth
    # No plan is worth more in absolute value than the best or than the worst.
    worst = PLAN(dataclasses.replace(truth, reward=-truth.reward)).values
    largest = jnp.maximum(jnp.abs(best.values).max(), jnp.abs(worst).max())
    apart = [jnp.where(truth.edges, jnp.abs(a - b), 0) for a, b in
             ((truth.reward, estimated.reward), (truth.discount, estimated.discount))]  # fmt: skip
    bound = BOUNDED(estimated, *apart, made, best.following, largest)
    highest = jnp.where(truth.edges, estimated.discount, 0).max()
    general = proxy_bound(apart[0].max(), apart[1].max(), largest=largest, discount=highest)
    assert (lost <= bound + 1e-4).all() and (bound <= general + 1e-4).all()
    assert (lost > 1e-3).any() if size > 0.1 else True


def test_what_nobody_takes_does_not_count():
    """One way pays 0.5 and is taken to pay 0.6, the other is worth nothing and badly misjudged, yet never taken."""
    edges = jnp.zeros((3, 3), bool).at[0, 1].set(True).at[0, 2].set(True)
    estimated = ProxyProblem(jnp.zeros((3, 3)).at[0, 1].set(0.6).at[0, 2].set(0.4), jnp.full((3, 3), 0.5), edges)
    error = jnp.zeros((3, 3)).at[0, 1].set(0.1).at[0, 2].set(0.4)
    made = PLAN(estimated).following
    assert made.tolist() == [1, -1, -1]
    assert np.allclose(BOUNDED(estimated, error, jnp.zeros((3, 3)), made, made, jnp.array(1.0)), [0.2, 0, 0])
