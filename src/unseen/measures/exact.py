"""Exact answers for finite Markov decision processes: values, occupancies, regret, and the price of not knowing
which of several MDPs one is in."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from unseen.lab import UserError

_DETERMINISTIC = 1_000_000  # policies that best_context_blind_value is willing to enumerate


def policy_matrix(
    transition: Float[Array, "states actions states"], policy: Float[Array, "states actions"]
) -> Float[Array, "states states"]:
    """`P_pi[s, t]`: probability of going from s to t under a policy (rows of `policy` sum to 1)."""
    return jnp.einsum("sa,sat->st", policy, transition)


def successor_matrix(
    transition: Float[Array, "states actions states"],
    policy: Float[Array, "states actions"],
    discount: float | Float[Array, ""],
) -> Float[Array, "states states"]:
    """`(I - discount P_pi)^-1`: expected discounted number of visits to each state from each state (Dayan, 1993)."""
    identity = jnp.eye(transition.shape[0])
    return jnp.linalg.inv(identity - discount * policy_matrix(transition, policy))


def policy_evaluation(
    transition: Float[Array, "states actions states"],
    reward: Float[Array, "states actions"],
    policy: Float[Array, "states actions"],
    discount: float | Float[Array, ""],
) -> Float[Array, " states"]:
    """Discounted value of every state under a policy, by a linear solve; `discount` below 1."""
    identity = jnp.eye(transition.shape[0])
    earned = jnp.sum(policy * reward, axis=1)
    return jnp.linalg.solve(identity - discount * policy_matrix(transition, policy), earned)


def action_values(
    transition: Float[Array, "states actions states"],
    reward: Float[Array, "states actions"],
    values: Float[Array, " states"],
    discount: float | Float[Array, ""],
) -> Float[Array, "states actions"]:
    """One Bellman backup: `r + discount E V(next state)`."""
    return reward + discount * transition @ values


def value_iteration(
    transition: Float[Array, "states actions states"],
    reward: Float[Array, "states actions"],
    discount: float | Float[Array, ""],
    *,
    max_iterations: int = 1_000,
) -> tuple[Float[Array, " states"], Int[Array, " states"]]:
    """Optimal values and a greedy optimal action for every state (ties: the first).

    Policy iteration: evaluation by a linear solve and greedy improvement, until the policy stays the same, so
    the values are exact up to rounding (value iteration in the wide sense of Puterman 1994, section 6.4; it
    ends after a handful of solves where successive approximation would need 1/(1 - discount) sweeps).

    Args:
        max_iterations: a bound on improvements, never reached in practice.
    """

    def evaluate(actions):
        return policy_evaluation(
            transition, reward, jax.nn.one_hot(actions, reward.shape[1], dtype=reward.dtype), discount
        )

    def unfinished(carry):
        _, _, changed, count = carry
        return changed & (count < max_iterations)

    def improve(carry):
        actions, values, _, count = carry
        q = action_values(transition, reward, values, discount)
        # A new action must win by more than rounding, or ties could alternate for ever.
        slack = 8 * jnp.finfo(q.dtype).eps * (1 + jnp.abs(q).max())
        current = jnp.take_along_axis(q, actions[:, None], 1)[:, 0]
        better = jnp.where(q.max(1) > current + slack, q.argmax(1), actions)
        return better, evaluate(better), jnp.any(better != actions), count + 1

    actions = reward.argmax(1)
    actions, values, _, _ = jax.lax.while_loop(unfinished, improve, (actions, evaluate(actions), jnp.array(True), 0))
    return values, actions


def regret(
    transition: Float[Array, "states actions states"],
    reward: Float[Array, "states actions"],
    policy: Float[Array, "states actions"],
    discount: float | Float[Array, ""],
    start: Float[Array, " states"],
) -> Float[Array, ""]:
    """Optimal minus achieved value, averaged over the start distribution; zero for an optimal policy."""
    best, _ = value_iteration(transition, reward, discount)
    return start @ (best - policy_evaluation(transition, reward, policy, discount))


def bandit_regret(
    means: Float[Array, "*tasks arms"], pulled: Int[Array, "rounds *tasks"]
) -> Float[Array, "rounds *tasks"]:
    """Cumulative (pseudo-)regret of the arms pulled in each round: sum of the best mean minus the pulled one's."""
    gaps = means.max(-1, keepdims=True) - means
    paid = jnp.take_along_axis(jnp.broadcast_to(gaps, (*pulled.shape, gaps.shape[-1])), pulled[..., None], -1)
    return jnp.cumsum(paid[..., 0], axis=0)


def finite_horizon_evaluation(
    transition: Float[Array, "states actions states"],
    reward: Float[Array, "states actions"],
    policy: Float[Array, "horizon states actions"],
) -> Float[Array, "horizon+1 states"]:
    """Undiscounted value of every state with h steps gone, `h = 0 ... horizon`, under a policy that may change
    from step to step; the last row is zero."""

    def back(after, chances):
        now = jnp.sum(chances * action_values(transition, reward, after, 1.0), axis=1)
        return now, now

    end = jnp.zeros(transition.shape[0], reward.dtype)
    _, values = jax.lax.scan(back, end, policy, reverse=True)
    return jnp.concatenate([values, end[None]])


def finite_horizon_optimum(
    transition: Float[Array, "states actions states"], reward: Float[Array, "states actions"], horizon: int
) -> tuple[Float[Array, "{horizon}+1 states"], Int[Array, "{horizon} states"]]:
    """Optimal undiscounted values and actions with h steps gone, by backward induction (ties: the first action)."""

    def back(after, _):
        q = action_values(transition, reward, after, 1.0)
        return q.max(1), (q.max(1), q.argmax(1))

    end = jnp.zeros(transition.shape[0], reward.dtype)
    _, (values, actions) = jax.lax.scan(back, end, length=horizon, reverse=True)
    return jnp.concatenate([values, end[None]]), actions


def average_return_gradient(
    transition: Float[Array, "mdps states actions states"],
    reward: Float[Array, "mdps states actions"],
    logits: Float[Array, "states actions"],
    discount: float | Float[Array, ""],
    start: Float[Array, " states"],
) -> tuple[Float[Array, ""], Float[Array, "states actions"]]:
    """Mean discounted return over MDPs of one softmax policy, and its exact gradient in the logits.

    The policy gradient theorem (Sutton et al., 2000) with nothing sampled: in each MDP the discounted visits
    d(s) times pi(a|s) times the advantage of a in s; then the mean over MDPs.
    """
    policy = jax.nn.softmax(logits)

    def one(p, r):
        values = policy_evaluation(p, r, policy, discount)
        visits = jnp.linalg.solve(jnp.eye(len(start)) - discount * policy_matrix(p, policy).T, start)
        advantage = action_values(p, r, values, discount) - values[:, None]
        return start @ values, visits[:, None] * policy * advantage

    value, gradient = jax.vmap(one)(transition, reward)
    return value.mean(), gradient.mean(0)


def context_aware_value(
    transition: Float[Array, "contexts states actions states"],
    reward: Float[Array, "contexts states actions"],
    discount: float | Float[Array, ""],
    start: Float[Array, " states"],
) -> Float[Array, ""]:
    """Value of an agent that sees the context and acts optimally in each, contexts being equally likely."""
    best, _ = jax.vmap(lambda p, r: value_iteration(p, r, discount))(transition, reward)
    return jnp.mean(best @ start)


def best_context_blind_value(
    transition: Float[Array, "contexts states actions states"],
    reward: Float[Array, "contexts states actions"],
    discount: float | Float[Array, ""],
    start: Float[Array, " states"],
) -> tuple[Float[Array, ""], Int[Array, " states"]]:
    """Largest mean value, over equally likely contexts, of one deterministic memoryless policy for all of them.

    Returns its value and its actions. The search is exhaustive, hence exact: all `actions ** states` policies
    are evaluated by a linear solve. The class matters: optimising over one policy for several MDPs is NP-hard
    and neither a greedy nor a gradient search is sure of it. A stochastic policy may do better, and one with a
    memory that infers the context better still; see `best_stochastic_blind_value` for the former.

    Raises:
        UserError: if there are more than a million policies.
    """
    _, states, actions = reward.shape
    if actions**states > _DETERMINISTIC:
        raise UserError(
            f"best_context_blind_value takes MDPs with at most {_DETERMINISTIC:,} policies, "
            f"got {actions} actions in {states} states."
        )
    policies = jnp.asarray(np.array(list(itertools.product(range(actions), repeat=states)), np.int32))
    evaluate = jax.vmap(policy_evaluation, in_axes=(0, 0, None, None))

    def value(chosen):
        policy = jax.nn.one_hot(chosen, actions, dtype=reward.dtype)
        return jnp.mean(evaluate(transition, reward, policy, discount) @ start)

    values = jax.lax.map(value, policies, batch_size=4_096)
    return values.max(), policies[values.argmax()]


def best_stochastic_blind_value(
    transition: Float[Array, "contexts states actions states"],
    reward: Float[Array, "contexts states actions"],
    discount: float | Float[Array, ""],
    start: Float[Array, " states"],
    *,
    initial: Int[Array, " states"],
    iterations: int = 300,
    step: float = 1.0,
) -> Float[Array, ""]:
    """Mean value of the best stochastic memoryless policy found by exact natural policy gradient ascent from near a
    deterministic one (`initial`); never less than that policy's value.

    A lower bound on the best stochastic value: the objective is not concave over several MDPs. It shows how much
    of the deterministic gap chance alone could close.
    """
    actions = reward.shape[2]
    evaluate = jax.vmap(policy_evaluation, in_axes=(0, 0, None, None))

    def value(logits):
        return jnp.mean(evaluate(transition, reward, jax.nn.softmax(logits), discount) @ start)

    def ascend(carry, i):
        logits, best = carry
        # The softmax gradient vanishes near the corners; dividing by the policy undoes that (mirror ascent). The
        # largest change is `step` at first and shrinks, so that interior optima are not jumped over for ever.
        change = jax.grad(value)(logits) / (jax.nn.softmax(logits) + 1e-3)
        change = change / jnp.maximum(jnp.abs(change).max(), 1e-12)
        logits = logits + step * (1 - i / iterations) * change
        return (logits, jnp.maximum(best, value(logits))), None

    certain = jax.nn.one_hot(initial, actions, dtype=reward.dtype)
    floor = jnp.mean(evaluate(transition, reward, certain, discount) @ start)
    (_, best), _ = jax.lax.scan(ascend, (3.0 * certain, floor), jnp.arange(iterations))
    return best


def return_range(
    transition: Float[Array, "contexts states actions states"],
    reward: Float[Array, "contexts states actions"],
    discount: float | Float[Array, ""],
    start: Float[Array, " states"],
) -> Float[Array, ""]:
    """Context-aware best minus context-aware worst value: the scale on which gaps of different MDPs compare."""
    worst = -context_aware_value(transition, -reward, discount, start)
    return context_aware_value(transition, reward, discount, start) - worst
