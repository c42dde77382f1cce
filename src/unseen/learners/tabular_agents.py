"""Three tabular learners between value and model, and the protocol that tells them apart: learn, change, relearn at
the changed site, probe."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from unseen.measures.exact import action_values, policy_evaluation, value_iteration
from unseen.worlds.control.revaluation import Change, Task

Scalar = float | Float[Array, ""]


@runtime_checkable
class TabularAgent(Protocol):
    """What learns from single transitions; `state` is a pytree of arrays."""

    def begin(self, states: int, actions: int) -> Any:
        """The state before any experience."""
        ...

    def values(self, state: Any) -> Float[Array, "states actions"]:
        """All action values, for planning."""
        ...

    def preferences(self, state: Any, here: Int[Array, ""]) -> Float[Array, " actions"]:
        """Those of one state, for acting while learning."""
        ...

    def update(
        self,
        state: Any,
        here: Int[Array, ""],
        action: Int[Array, ""],
        reward: Float[Array, ""],
        there: Int[Array, ""],
    ) -> Any:
        """The state after one more transition."""
        ...


class TabularQ(eqx.Module):
    """Q-learning (Watkins, 1989): model-free, one number for each state and action.

    Attributes:
        discount: of future rewards.
        rate: learning rate.
    """

    discount: Scalar = 0.95
    rate: Scalar = 0.3

    def begin(self, states: int, actions: int) -> Float[Array, "states actions"]:
        """Zeros."""
        return jnp.zeros((states, actions))

    def values(self, state: Float[Array, "states actions"]) -> Float[Array, "states actions"]:
        """The table itself."""
        return state

    def preferences(self, state: Float[Array, "states actions"], here: Int[Array, ""]) -> Float[Array, " actions"]:
        """The table's row."""
        return state[here]

    def update(
        self,
        state: Float[Array, "states actions"],
        here: Int[Array, ""],
        action: Int[Array, ""],
        reward: Float[Array, ""],
        there: Int[Array, ""],
    ) -> Float[Array, "states actions"]:
        """One step towards `r + discount max Q(next)`."""
        error = reward + self.discount * state[there].max() - state[here, action]
        return state.at[here, action].add(self.rate * error)


class SuccessorState(NamedTuple):
    """Expected discounted visits to each state after a state and action, visits so far, and the reward of states."""

    visits: Float[Array, "states actions states"]
    tries: Float[Array, "states actions"]
    reward: Float[Array, " states"]


class SuccessorRepresentation(eqx.Module):
    """Predicts discounted visits to states by temporal differences, and rewards of states apart (Dayan, 1993).

    Values are `H R`, H the visits from each state and action under the policy that is followed after, so that a new
    reward changes all values at once, and a new transition only those that are experienced again.

    Attributes:
        discount: of future visits.
        rate: smallest learning rate; early visits are averaged, `1 / (1 + tries)`.
        greedy: 1 predicts visits under the greedy policy of the present values, 0 under a random walk.
        reward_rate: learning rate of rewards.
    """

    discount: Scalar = 0.95
    rate: Scalar = 0.05
    greedy: Scalar = 0.0
    reward_rate: Scalar = 0.5

    def begin(self, states: int, actions: int) -> SuccessorState:
        """Each state predicts itself."""
        visits = jnp.broadcast_to(jnp.eye(states)[:, None], (states, actions, states))
        return SuccessorState(visits, jnp.zeros((states, actions)), jnp.zeros(states))

    def values(self, state: SuccessorState) -> Float[Array, "states actions"]:
        """Visits times rewards."""
        return state.visits @ state.reward

    def preferences(self, state: SuccessorState, here: Int[Array, ""]) -> Float[Array, " actions"]:
        """Values of one state."""
        return state.visits[here] @ state.reward

    def update(
        self,
        state: SuccessorState,
        here: Int[Array, ""],
        action: Int[Array, ""],
        reward: Float[Array, ""],
        there: Int[Array, ""],
    ) -> SuccessorState:
        """One step towards "here, and then what follows from there"."""
        after = state.visits[there]
        follows = jnp.where(self.greedy > 0.5, after[jnp.argmax(after @ state.reward)], after.mean(0))
        target = jax.nn.one_hot(here, len(state.reward)) + self.discount * follows
        rate = jnp.maximum(self.rate, 1 / (1 + state.tries[here, action]))
        return SuccessorState(
            state.visits.at[here, action].add(rate * (target - state.visits[here, action])),
            state.tries.at[here, action].add(1.0),
            state.reward.at[here].add(self.reward_rate * (reward - state.reward[here])),
        )

    def exact(self, transition: Float[Array, "states actions states"]) -> Float[Array, "states actions states"]:
        """What the random walk's visits converge to: `1 + discount P (I - discount P_walk)^-1`."""
        identity = jnp.eye(transition.shape[0])
        walk = jnp.linalg.inv(identity - self.discount * transition.mean(1))
        return identity[:, None] + self.discount * transition @ walk


class ModelState(NamedTuple):
    """Counted transitions, and the reward of states."""

    counts: Float[Array, "states actions states"]
    reward: Float[Array, " states"]


class ModelBased(eqx.Module):
    """Counts transitions, forgets old ones, and plans by value iteration; explores at random while it learns.

    Attributes:
        discount: of future rewards.
        memory: number of tries of a state and action that are remembered (counts decay by `1 - 1/memory` a try).
        reward_rate: learning rate of rewards.
    """

    discount: Scalar = 0.95
    memory: Scalar = 20.0
    reward_rate: Scalar = 0.5

    def begin(self, states: int, actions: int) -> ModelState:
        """A weak guess: nothing ever moves."""
        stay = jnp.broadcast_to(jnp.eye(states)[:, None], (states, actions, states))
        return ModelState(1e-3 * stay, jnp.zeros(states))

    def values(self, state: ModelState) -> Float[Array, "states actions"]:
        """Optimal values of the counted model."""
        model = state.counts / state.counts.sum(-1, keepdims=True)
        reward = jnp.broadcast_to(state.reward[:, None], model.shape[:2])
        best, _ = value_iteration(model, reward, self.discount)
        return action_values(model, reward, best, self.discount)

    def preferences(self, state: ModelState, here: Int[Array, ""]) -> Float[Array, " actions"]:
        """None: planning at every step is not needed in order to explore."""
        return jnp.zeros(state.counts.shape[1])

    def update(
        self,
        state: ModelState,
        here: Int[Array, ""],
        action: Int[Array, ""],
        reward: Float[Array, ""],
        there: Int[Array, ""],
    ) -> ModelState:
        """One more count."""
        row = (1 - 1 / self.memory) * state.counts[here, action] + jax.nn.one_hot(there, len(state.reward))
        return ModelState(
            state.counts.at[here, action].set(row),
            state.reward.at[here].add(self.reward_rate * (reward - state.reward[here])),
        )


class Revaluation(NamedTuple):
    """What a revaluation experiment found.

    Attributes:
        before: normalised return in the old task at the end of learning.
        probes: in the new task: after the relearning at the site (0), and after further blocks of experience.
    """

    before: Float[Array, ""]
    probes: Float[Array, " probes"]


def revaluation_protocol(
    agent: TabularAgent,
    key: Key[Array, ""],
    old: Task,
    change: Change,
    *,
    discount: Scalar,
    explore: Scalar,
    episodes: int,
    length: int,
    presentations: int,
    probes: int,
    probe_episodes: int,
) -> Revaluation:
    """Learn, change, relearn, probe (Momennejad et al., 2017; Russek et al., 2017).

    The agent learns the old task in `episodes` of `length` steps from uniformly random states. Then the task
    changes, and it is put at the changed states and actions (`sites`) only, `presentations` times, one step each.
    Then it is probed: the exact value of its greedy policy in the new task from the test states, 0 a random walk's,
    1 the optimum. Last, it learns on in whole episodes of the new task and is probed again.

    Args:
        change: the new task and its sites.
        explore: share of random actions while it learns; else the agent's preferences decide.
        probes: number of blocks of `probe_episodes` after the first probe.
    """

    new, sites = change

    def step(carry: tuple[Any, Array], draw: Array, task: Task) -> tuple[Any, Array]:
        state, here = carry
        stray, act, tie, move = jax.random.split(draw, 4)
        wanted = agent.preferences(state, here) + 1e-6 * jax.random.uniform(tie, (task.reward.shape[1],))
        random = jax.random.randint(act, (), 0, task.reward.shape[1])
        action = jnp.where(jax.random.uniform(stray) < explore, random, jnp.argmax(wanted))
        there = _draw(move, task.transition[here, action])
        return agent.update(state, here, action, task.reward[here, action], there), there

    def learn(state: Any, key: Key[Array, ""], task: Task, count: int) -> Any:
        def episode(state: Any, key: Key[Array, ""]) -> tuple[Any, None]:
            first, rest = jax.random.split(key)
            here = jax.random.randint(first, (), 0, task.reward.shape[0])
            draws = jax.random.split(rest, length)
            (state, _), _ = jax.lax.scan(lambda c, d: (step(c, d, task), None), (state, here), draws)
            return state, None

        return jax.lax.scan(episode, state, jax.random.split(key, count))[0]

    def show(state: Any, key: Key[Array, ""]) -> tuple[Any, None]:
        which, move = jax.random.split(key)
        here, action = sites[jax.random.randint(which, (), 0, len(sites))]
        there = _draw(move, new.transition[here, action])
        return agent.update(state, here, action, new.reward[here, action], there), None

    def probe(state: Any, task: Task) -> Array:
        return normalised_value(task, greedy(agent.values(state)), discount)

    first, shown, more = jax.random.split(key, 3)
    state = learn(agent.begin(*old.reward.shape), first, old, episodes)
    before = probe(state, old)
    state, _ = jax.lax.scan(show, state, jax.random.split(shown, presentations))

    def block(state: Any, key: Key[Array, ""]) -> tuple[Any, Array]:
        found = probe(state, new)
        return learn(state, key, new, probe_episodes), found

    state, found = jax.lax.scan(block, state, jax.random.split(more, probes))
    return Revaluation(before, jnp.append(found, probe(state, new)))


def greedy(values: Float[Array, "states actions"]) -> Float[Array, "states actions"]:
    """The greedy policy, ties (up to rounding) in equal shares."""
    best = values.max(1, keepdims=True)
    ties = (values >= best - 1e-5 * jnp.abs(best) - 1e-12).astype(values.dtype)
    return ties / ties.sum(1, keepdims=True)


def normalised_value(task: Task, policy: Float[Array, "states actions"], discount: Scalar) -> Float[Array, ""]:
    """Exact value of a policy from the test states: 0 is a uniformly random walk's, 1 the optimum."""
    best, _ = value_iteration(task.transition, task.reward, discount)
    chance = jnp.full_like(policy, 1 / policy.shape[1])
    achieved, random = (policy_evaluation(task.transition, task.reward, p, discount) for p in (policy, chance))
    return task.start @ (achieved - random) / (task.start @ (best - random))


def _draw(key: Key[Array, ""], row: Float[Array, " states"]) -> Int[Array, ""]:
    # Inverse of the cumulative sum; the minimum keeps a draw in range where rounding leaves the sum below 1.
    place = jnp.sum(jax.random.uniform(key) * row.sum() >= jnp.cumsum(row))
    return jnp.minimum(place, row.size - 1)
