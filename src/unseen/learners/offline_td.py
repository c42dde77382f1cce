"""Temporal-difference learners on a log: one implementation with switches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped

from unseen.lab import Learner, UserError
from unseen.learners.outcome_bc import Inputs, advantage_weights
from unseen.models.policy import CategoricalPolicy, GaussianPolicy
from unseen.worlds.control.dataset import OfflineDataset

Count = int | Int[Array, ""]


class TDBatch(NamedTuple):
    """Steps to learn values from.

    Attributes:
        inputs, next_inputs: features of observation and goal, before and after.
        action: numbers in [-1, 1], or an index.
        reward: of the step.
        discount: what the next value is worth; 0 after a terminal step.
    """

    inputs: Float[Array, "batch features"]
    action: Shaped[Array, "batch ..."]
    reward: Float[Array, " batch"]
    next_inputs: Float[Array, "batch features"]
    discount: Float[Array, " batch"]


class Networks(NamedTuple):
    """What is learned: an ensemble of critics (stacked on a leading axis; state values where the bootstrap is
    "value"), a state value (with bootstrap "expectile", else None), a policy."""

    critics: Any
    value: Any
    policy: Any


class TDState(NamedTuple):
    """State of training; `target` is the slowly moving copy of the critics."""

    networks: Networks
    target: Any
    optimizer: Any
    key: PRNGKeyArray
    loss: Float[Array, ""]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfflineTD:
    """Temporal-difference learning on a log.

    Switches:
        bootstrap "expectile": the next value is a state value fitted to an expectile of the critics at the
            log's actions, the policy clones with weights exp(temperature * advantage) (IQL).
        bootstrap "value": there are state values alone, fitted to an expectile of reward plus next value; the
            advantage of a step is what it gained (right where the dynamics are deterministic), the policy
            clones as before (the action-free form of IQL, as in HIQL).
        bootstrap "maximum": the next value is the best action's; actions whose cloned probability is below
            `threshold` times the largest are left out (discrete BCQ; Q-learning at threshold 0).
        bootstrap "policy": the next value is that of the policy's action with clipped noise, the policy
            maximises the first critic's value, scaled by its mean size, minus `constraint` times the squared
            distance to the log's action (TD3+BC has constraint 1 / 2.5).
        conservative: weight of CQL's penalty, log-sum-exp of Q over actions minus Q of the log's action; over
            `proposals` uniform actions and the policy's one where actions are numbers.
        critics: size of the ensemble; targets take its minimum.

    Sources: IQL, Kostrikov et al. (2022, arXiv 2110.06169), equations 5-7; HIQL, Park et al. (2023, arXiv
    2307.11949), equation 4; CQL, Kumar et al. (2020, arXiv 2006.04779), equation 4; TD3+BC, Fujimoto and Gu
    (2021, arXiv 2106.06860), equation 5; discrete BCQ, Fujimoto et al. (2019, arXiv 1910.01708), equation 1.

    Attributes:
        sample: key -> TDBatch (see `goal_relabelled`, `steps_of`).
        features: size of the inputs.
        actions: number of action components, or of actions where `discrete`.
        target_rate: share by which the target critics move towards the critics in an update.
        width, depth: of every network; depth 0 is linear.
        clip: largest weight in the policy's cloning.
    """

    sample: Callable[[PRNGKeyArray], TDBatch]
    features: int
    actions: int
    discrete: bool = False
    critics: int = 2
    bootstrap: Literal["expectile", "value", "maximum", "policy"] = "expectile"
    expectile: float = 0.7
    temperature: float = 3.0
    clip: float = 100.0
    threshold: float = 0.0
    constraint: float = 0.4
    conservative: float = 0.0
    proposals: int = 10
    target_rate: float = 0.005
    width: int = 64
    depth: int = 2
    optimizer: optax.GradientTransformation = dataclasses.field(default_factory=lambda: optax.adam(3e-4))

    def __post_init__(self) -> None:
        if self.bootstrap == "maximum" and not self.discrete:
            raise UserError('bootstrap takes "expectile" or "policy" where actions are numbers, got "maximum".')
        if self.bootstrap == "value" and self.conservative:
            raise UserError(f'conservative takes 0 with bootstrap "value", got {self.conservative}.')
        if self.bootstrap == "policy" and self.discrete:
            raise UserError('bootstrap takes "expectile" or "maximum" where actions are discrete, got "policy".')

    # State --------------------------------------------------------------------------------------------------

    def init(self, key: PRNGKeyArray) -> TDState:
        """The untrained state; the target equals the critics."""
        of_critics, of_value, of_policy, stream = jax.random.split(key, 4)
        size, out = (self.features, self.actions) if self.discrete else (self.features + self.actions, 1)
        if self.bootstrap == "value":
            size, out = self.features, 1
        critics = eqx.filter_vmap(lambda k: eqx.nn.MLP(size, out, self.width, self.depth, key=k))(
            jax.random.split(of_critics, self.critics)
        )
        value = None
        if self.bootstrap == "expectile":
            value = eqx.nn.MLP(self.features, "scalar", self.width, self.depth, key=of_value)
        head = CategoricalPolicy if self.discrete else GaussianPolicy
        policy = head(self.features, self.actions, self.width, self.depth, key=of_policy)
        networks = Networks(critics, value, policy)
        return TDState(
            networks,
            critics,
            self.optimizer.init(eqx.filter(networks, eqx.is_inexact_array)),
            stream,
            jnp.zeros(()),
        )

    # Values -------------------------------------------------------------------------------------------------

    def values(
        self, critics: Any, inputs: Float[Array, "batch features"], action: Shaped[Array, "batch ..."]
    ) -> Float[Array, "critic batch"]:
        """Q of each critic at the given actions."""
        if self.discrete:
            return jnp.take_along_axis(self.all_values(critics, inputs), action[None, :, None], axis=-1)[..., 0]
        pairs = jnp.concatenate([inputs, action], axis=-1)
        return eqx.filter_vmap(lambda critic: jax.vmap(critic)(pairs)[:, 0])(critics)

    def all_values(self, critics: Any, inputs: Float[Array, "batch features"]) -> Float[Array, "critic batch action"]:
        """Q of each critic at every discrete action."""
        return eqx.filter_vmap(lambda critic: jax.vmap(critic)(inputs))(critics)

    def _allowed(self, policy: Any, inputs: Float[Array, "batch features"]) -> Array:
        log_probs = jax.vmap(policy.log_probs)(inputs)
        return jnp.exp(log_probs - log_probs.max(axis=-1, keepdims=True)) >= self.threshold

    def act(self, networks: Networks, inputs: Float[Array, " features"]) -> Array:
        """The learned policy's action: the mean, the mode, or the best allowed one."""
        if self.bootstrap != "maximum":
            return networks.policy(inputs)
        q = self.all_values(networks.critics, inputs[None]).min(axis=0)
        return jnp.argmax(jnp.where(self._allowed(networks.policy, inputs[None]), q, -jnp.inf)[0])

    # Learning -----------------------------------------------------------------------------------------------

    def loss(self, networks: Networks, target: Any, batch: TDBatch, key: PRNGKeyArray) -> Float[Array, ""]:
        """The sum of the critics', the value's and the policy's losses; no gradient flows between them."""
        fixed: Networks = jax.tree.map(lambda x: jax.lax.stop_gradient(x) if eqx.is_array(x) else x, networks)
        if self.bootstrap == "value":
            return self._value_loss(networks, fixed, target, batch)
        of_noise, of_proposals = jax.random.split(key)
        target_q = self.values(target, batch.inputs, batch.action).min(axis=0)

        if self.bootstrap == "expectile":
            after = jax.vmap(fixed.value)(batch.next_inputs)
        elif self.bootstrap == "maximum":
            q = self.all_values(target, batch.next_inputs).min(axis=0)
            after = jnp.where(self._allowed(fixed.policy, batch.next_inputs), q, -jnp.inf).max(axis=-1)
        else:
            noise = jnp.clip(0.2 * jax.random.normal(of_noise, batch.action.shape), -0.5, 0.5)
            action = jnp.clip(jax.vmap(fixed.policy)(batch.next_inputs) + noise, -1, 1)
            after = self.values(target, batch.next_inputs, action).min(axis=0)
        goal = jax.lax.stop_gradient(batch.reward + batch.discount * after)
        q = self.values(networks.critics, batch.inputs, batch.action)
        loss = jnp.sum(jnp.mean((q - goal) ** 2, axis=1))
        if self.conservative:
            penalty = self._soft_maximum(networks.critics, fixed.policy, batch, of_proposals) - q
            loss += self.conservative * jnp.sum(jnp.mean(penalty, axis=1))

        if self.bootstrap == "expectile":
            advantage = target_q - jax.vmap(networks.value)(batch.inputs)
            loss += jnp.mean(self._tilt(advantage) * advantage**2)
            loss += self._weighted_cloning(networks.policy, batch, jax.lax.stop_gradient(advantage))
        elif self.bootstrap == "maximum":  # the cloned behaviour that the threshold asks
            loss += -jnp.mean(jax.vmap(networks.policy.log_prob)(batch.inputs, batch.action))
        else:
            action = jax.vmap(networks.policy)(batch.inputs)
            q = self.values(fixed.critics, batch.inputs, action)[0]
            scale = jax.lax.stop_gradient(jnp.mean(jnp.abs(q)))
            loss += -jnp.mean(q) / scale + self.constraint * jnp.mean((action - batch.action) ** 2)
        return loss

    def _value_loss(self, networks: Networks, fixed: Networks, target: Any, batch: TDBatch) -> Float[Array, ""]:
        now, before = (self.all_values(v, batch.inputs)[..., 0] for v in (networks.critics, target))
        after, gained = (self.all_values(v, batch.next_inputs)[..., 0] for v in (target, fixed.critics))
        goal = batch.reward + batch.discount * after.min(axis=0)
        tilt = self._tilt(goal - before.mean(axis=0))
        gain = batch.reward + batch.discount * gained.mean(axis=0) - jax.lax.stop_gradient(now).mean(axis=0)
        fitted = jnp.sum(jnp.mean(tilt * (goal - now) ** 2, axis=1))
        return fitted + self._weighted_cloning(networks.policy, batch, gain)

    def _tilt(self, advantage: Float[Array, " batch"]) -> Float[Array, " batch"]:
        return jnp.where(advantage > 0, self.expectile, 1 - self.expectile)

    def _weighted_cloning(self, policy: Any, batch: TDBatch, advantage: Float[Array, " batch"]) -> Float[Array, ""]:
        weight = advantage_weights(advantage, self.temperature, self.clip)
        return -jnp.mean(weight * jax.vmap(policy.log_prob)(batch.inputs, batch.action))

    def _soft_maximum(
        self, critics: Any, policy: Any, batch: TDBatch, key: PRNGKeyArray
    ) -> Float[Array, "critic batch"]:
        if self.discrete:
            return jax.nn.logsumexp(self.all_values(critics, batch.inputs), axis=-1)
        shape = (self.proposals, *batch.action.shape)
        actions = jnp.concatenate(
            [jax.random.uniform(key, shape, minval=-1, maxval=1), jax.vmap(policy)(batch.inputs)[None]]
        )
        q = jax.vmap(lambda action: self.values(critics, batch.inputs, action))(actions)
        return jax.nn.logsumexp(q, axis=0) - jnp.log(len(actions))

    def train(self, state: TDState, steps: int) -> TDState:
        """`steps` updates."""
        key, stream = jax.random.split(state.key)
        learned, rest = eqx.partition(state.networks, eqx.is_inexact_array)
        target, target_rest = eqx.partition(state.target, eqx.is_inexact_array)

        def update(carry: Any, key: PRNGKeyArray) -> tuple[Any, Float[Array, ""]]:
            learned, target, optimizer = carry
            of_batch, of_loss = jax.random.split(key)
            batch = self.sample(of_batch)
            loss, gradient = jax.value_and_grad(
                lambda p: self.loss(eqx.combine(p, rest), eqx.combine(target, target_rest), batch, of_loss)
            )(learned)
            change, optimizer = self.optimizer.update(gradient, optimizer, learned)
            learned = optax.apply_updates(learned, change)
            target = optax.incremental_update(learned.critics, target, self.target_rate)
            return (learned, target, optimizer), loss

        (learned, target, optimizer), losses = jax.lax.scan(
            update, (learned, target, state.optimizer), jax.random.split(stream, steps)
        )
        return TDState(eqx.combine(learned, rest), eqx.combine(target, target_rest), optimizer, key, losses.mean())

    def learner(
        self,
        *,
        steps: int,
        every: int,
        final: Callable[[Networks, PRNGKeyArray], Any],
        loss: str = "loss",
        **more: Any,
    ) -> Learner:
        """The Learner: measures the training loss under the name `loss`, and `final(networks, key)` at the
        end."""
        return Learner(
            init=self.init,
            advance=lambda state: self.train(state, every),
            measure=lambda state: {loss: state.loss},
            final=lambda state: final(state.networks, state.key),
            steps=steps,
            every=every,
            **more,
        )


# What is learned from ---------------------------------------------------------------------------------------


def steps_of(
    log: OfflineDataset,
    batch: int,
    inputs: Callable[[Any], Float[Array, " features"]],
    *,
    discount: float = 0.99,
    n: int = 1,
    limit: Count | None = None,
) -> Callable[[PRNGKeyArray], TDBatch]:
    """Sampler of the log's own steps and rewards."""

    def sample(key: PRNGKeyArray) -> TDBatch:
        steps = log.n_step(key, batch, n, discount=discount, limit=limit)
        features = jax.vmap(inputs)
        return TDBatch(
            features(steps.observation),
            steps.action,
            steps.reward,
            features(steps.next_observation),
            steps.discount,
        )

    return sample


def goal_relabelled(
    log: OfflineDataset,
    batch: int,
    inputs: Inputs,
    *,
    radius: float,
    discount: float = 0.99,
    mixture: tuple[float, float, float] = (0.2, 0.5, 0.3),
    n: int = 1,
    limit: Count | None = None,
) -> Callable[[PRNGKeyArray], TDBatch]:
    """Sampler of steps with hindsight goals: reward 1 and the end where the next state lies within `radius`
    of the goal, 0 before.

    Args:
        mixture: shares of goals that are the next state itself, a geometric future state of the trajectory,
            and a state uniform over the log. Only the last kind can join trajectories.

    Source: Andrychowicz et al. (2017, arXiv 1707.01495), section 3.2; mixture as in Park et al. (2023, arXiv
    2307.11949), appendix.
    """
    shares = jnp.cumsum(jnp.array(mixture)) / sum(mixture)

    def sample(key: PRNGKeyArray) -> TDBatch:
        of_step, of_kind, of_future, of_random = jax.random.split(key, 4)
        steps = log.n_step(of_step, batch, n, limit=limit)
        future = log.hindsight(of_future, steps.episode, steps.time, how="geometric", discount=discount)
        anywhere = log.hindsight(of_random, steps.episode, steps.time, how="random", limit=limit)
        u = jax.random.uniform(of_kind, (batch,))[:, None]
        goal = jnp.where(
            u < shares[0], steps.next_achieved, jnp.where(u < shares[1], log.at(*future), log.at(*anywhere))
        )
        # The states on the way, the episode's last one repeated where it ends before n steps.
        ahead = jnp.minimum(steps.time[:, None] + 1 + jnp.arange(n), log.length[steps.episode][:, None])
        way = log.achieved[steps.episode[:, None], ahead]
        reached = jnp.linalg.norm(way - goal[:, None], axis=-1) <= radius
        first = jnp.argmax(reached, axis=1)
        hit = reached.any(axis=1)
        taken = (ahead[:, -1] - steps.time).astype(float)
        features = jax.vmap(inputs)
        return TDBatch(
            features(steps.observation, goal),
            steps.action,
            jnp.where(hit, discount ** first.astype(float), 0.0),
            features(steps.next_observation, goal),
            jnp.where(hit, 0.0, discount**taken),
        )

    return sample
