"""Off-policy value learning: Double DQN, distributional heads, ensembles with randomised priors, goals."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from unseen.lab import Learner, UserError
from unseen.learners.replay import Relabel, Replay, Transition
from unseen.methods.value_heads import Distribution, Head, ValueHead

Scalar = float | Float[Array, ""]


class Flatten(eqx.Module):
    """The default encoder: all numbers of an observation (a pytree: a `GoalObservation`, say) in one row."""

    def __call__(self, observation: PyTree) -> Float[Array, " features"]:
        """One observation, without a batch axis."""
        return jax.flatten_util.ravel_pytree(observation)[0].astype(jnp.float32)


class QNetwork(eqx.Module):
    """An encoder that all members share, and a trunk for each.

    Attributes:
        encoder: observation -> features.
        trunks: one MLP a member, stacked.
        prior: an untrained network of the same shape, or None (Osband et al. 2018, randomised prior functions).
        prior_scale: factor on the prior's outputs.
        actions, head: numbers of actions and of outputs for each.
    """

    encoder: Any
    trunks: eqx.nn.MLP
    prior: tuple[Any, eqx.nn.MLP] | None
    prior_scale: float = eqx.field(static=True)
    actions: int = eqx.field(static=True)
    outputs: int = eqx.field(static=True)

    def __call__(self, observation: PyTree) -> Float[Array, "members actions outputs"]:
        """Outputs for one observation."""
        found = _each(self.trunks, self.encoder(observation))
        if self.prior is not None:
            encoder, trunks = self.prior
            found = found + self.prior_scale * jax.lax.stop_gradient(_each(trunks, encoder(observation)))
        return found.reshape(-1, self.actions, self.outputs)


class QState(NamedTuple):
    """State of learning: the network, the slowly following target, the optimizer's state, the number of updates."""

    network: QNetwork
    target: QNetwork
    optimizer: Any
    updates: Int[Array, ""]


@dataclasses.dataclass(frozen=True, kw_only=True)
class QLearner:
    """Q-learning from stored steps.

    One implementation with switches: Double DQN (van Hasselt et al. 2016) is the default; `head` makes it C51 or
    QR-DQN; `members` with `prior_scale` make it bootstrapped DQN with randomised priors (Osband et al. 2016,
    2018), each member learning from its own target; goals come with `GoalObservation`s and `Hindsight`.

    Example:
        >>> learner = QLearner(actions=2, head=QuantileHead(21), optimizer=optax.adam(1e-3))
        >>> state = learner.init(key, example_observation)
        >>> state, loss = learner.update(state, batch, key)
        >>> learner.values(state.network, observation)   # (members, actions)

    Attributes:
        actions: number of actions.
        head: what is learned about the return of each action.
        discount: of a step.
        width, depth: of the trunks' hidden layers; depth 0 is linear.
        members: size of the ensemble.
        prior_scale: of the fixed random networks that are added to the members; 0 for none.
        double: the network chooses the next action and the target values it; else the target does both.
        target_rate: share by which the target moves towards the network at an update.
        target_every: updates between two such moves (1 with a small rate, or many with rate 1).
        share: probability with which a step teaches a member (drawn anew at every update).
        encoder: key -> encoder; None flattens the observation.
        auxiliary: (encoder, batch, key) -> a further loss of the encoder, added to the value loss.
    """

    actions: int
    head: Head = dataclasses.field(default_factory=ValueHead)
    discount: Scalar = 0.99
    width: int = 64
    depth: int = 2
    members: int = 1
    prior_scale: float = 0.0
    double: bool = True
    target_rate: float = 0.005
    target_every: int = 1
    share: float = 1.0
    encoder: Callable[[Key[Array, ""]], Any] | None = None
    auxiliary: Callable[[Any, Transition, Key[Array, ""]], Float[Array, ""]] | None = None
    optimizer: optax.GradientTransformation = dataclasses.field(default_factory=lambda: optax.adam(1e-3))

    def __post_init__(self) -> None:
        for name in ("actions", "members", "target_every"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} takes a whole number from 1 on, got {getattr(self, name)}.")
        for name in ("target_rate", "share"):
            if not 0 < getattr(self, name) <= 1:
                raise UserError(f"{name} takes a share above 0 and at most 1, got {getattr(self, name)}.")

    # Networks -----------------------------------------------------------------------------------------------

    def network(self, key: Key[Array, ""], observation: PyTree) -> QNetwork:
        """A fresh network for observations like the one given."""
        encode, decide, before, prior = jax.random.split(key, 4)
        encoder = Flatten() if self.encoder is None else self.encoder(encode)
        features = jax.eval_shape(encoder, observation).shape[0]

        def trunks(key: Key[Array, ""]) -> eqx.nn.MLP:
            def one(key: Key[Array, ""]) -> eqx.nn.MLP:
                return eqx.nn.MLP(features, self.actions * self.head.size, self.width, self.depth, key=key)

            return eqx.filter_vmap(one)(jax.random.split(key, self.members))

        fixed = None
        if self.prior_scale:
            fixed = Flatten() if self.encoder is None else self.encoder(before), trunks(prior)
        return QNetwork(encoder, trunks(decide), fixed, self.prior_scale, self.actions, self.head.size)

    def init(self, key: Key[Array, ""], observation: PyTree) -> QState:
        """The untrained state; the target equals the network."""
        network = self.network(key, observation)
        return QState(network, network, self.optimizer.init(trained(network)), jnp.zeros((), int))

    def distribution(self, network: QNetwork, observation: PyTree) -> Distribution:
        """What is known of the returns after one observation, (members, actions, atoms)."""
        return self.head.distribution(network(observation))

    def values(self, network: QNetwork, observation: PyTree) -> Float[Array, "members actions"]:
        """Expected returns after one observation."""
        return self.distribution(network, observation).mean()

    def act(
        self, network: QNetwork, observation: PyTree, key: Key[Array, ""], epsilon: Scalar = 0.0,
        member: Int[Array, ""] | None = None,
    ) -> Int[Array, ""]:  # fmt: skip
        """The best action by the members' mean, or by one member; at random with probability `epsilon`."""
        values = self.values(network, observation)
        best = jnp.argmax(values.mean(0) if member is None else values[member])
        any_key, whether = jax.random.split(key)
        return jnp.where(jax.random.bernoulli(whether, epsilon), jax.random.randint(any_key, (), 0, self.actions), best)

    # Learning -----------------------------------------------------------------------------------------------

    def targets(self, state: QState, batch: Transition) -> Distribution:
        """Distributions of reward plus discounted next return, (batch, members, atoms): each member's own."""
        following = jax.vmap(lambda o: self.distribution(state.target, o))(batch.next_observation)
        chooser = following.mean()
        if self.double:
            chooser = jax.vmap(lambda o: self.values(state.network, o))(batch.next_observation)
        best = jax.nn.one_hot(jnp.argmax(chooser, -1), self.actions)[..., None]
        chosen = Distribution((following.locations * best).sum(-2), (following.probabilities * best).sum(-2))
        discount = self.discount * (1.0 - batch.terminal[:, None]) * jnp.ones((1, self.members))
        return chosen.backup(jnp.broadcast_to(batch.reward[:, None], discount.shape), discount)

    def loss(self, network: QNetwork, batch: Transition, target: Distribution, key: Key[Array, ""]) -> Float[Array, ""]:
        """Value loss against a target, and the auxiliary loss."""
        share_key, auxiliary_key = jax.random.split(key)
        taken = jax.nn.one_hot(batch.action, self.actions)[:, None, :, None]
        outputs = (jax.vmap(network)(batch.observation) * taken).sum(-2)
        losses = self.head.loss(outputs, target)
        if self.share < 1:
            losses = losses * jax.random.bernoulli(share_key, self.share, losses.shape) / self.share
        total = losses.mean(0).sum()
        if self.auxiliary is not None:
            total = total + self.auxiliary(network.encoder, batch, auxiliary_key)
        return total

    def update(self, state: QState, batch: Transition, key: Key[Array, ""]) -> tuple[QState, Float[Array, ""]]:
        """One update on a batch; its loss is that before it."""
        target = jax.tree.map(jax.lax.stop_gradient, self.targets(state, batch))
        learned, rest = eqx.partition(state.network, trained(state.network, mask=True))

        def objective(learned: QNetwork) -> Float[Array, ""]:
            return self.loss(eqx.combine(learned, rest), batch, target, key)

        loss, gradient = jax.value_and_grad(objective)(learned)
        change, optimizer = self.optimizer.update(gradient, state.optimizer, learned)
        network = eqx.combine(eqx.apply_updates(learned, change), rest)
        count = state.updates + 1
        rate = jnp.where(count % self.target_every == 0, self.target_rate, 0.0)
        return QState(network, follow(state.target, network, rate), optimizer, count), loss


class Interaction(NamedTuple):
    """State of learning by acting.

    Attributes:
        learning: networks and optimizer; its `network` is what acts.
        replay: what was seen.
        environment, observation: of each lane, now.
        member: which member each lane follows until its episode ends.
        total: reward of each lane's episode so far.
        finished: return of each lane's last finished episode (NaN before).
        episodes: finished so far, over all lanes.
        best: highest return of an episode so far (minus infinity before).
        best_at: number of episodes that had finished when it was reached first.
        loss: of the last update.
    """

    learning: Any
    replay: Replay
    environment: Any
    observation: Any
    member: Int[Array, " lanes"]
    total: Float[Array, " lanes"]
    finished: Float[Array, " lanes"]
    episodes: Int[Array, ""]
    best: Float[Array, ""]
    best_at: Int[Array, ""]
    loss: Float[Array, ""]
    key: Key[Array, ""]


def q_learning(
    learner: Any,
    environment: Any,
    params: Any = None,
    *,
    total_steps: int,
    every: int,
    capacity: int = 10_000,
    batch_size: int = 64,
    lanes: int = 1,
    warmup: int = 64,
    epsilon: Callable[[Int[Array, ""]], Scalar] | Scalar = 0.1,
    per_episode_member: bool = False,
    relabel: Relabel | None = None,
    measure: Callable[[Interaction], dict[str, Any]] | None = None,
    final: Callable[[Interaction], dict[str, Any]] | None = None,
    **settings: Any,
) -> Learner:
    """A `QLearner` that acts in a gymnax environment: one step in each lane, then one update.

    Args:
        learner: a `QLearner`, or what has its `members`, `init`, `act` and `update` (`ProjectionEnsemble`).
        environment: with gymnax 1.0's interface, discrete actions.
        params: its parameters; may hold traced arrays.
        total_steps: environment steps over all lanes.
        every: updates between two measurements.
        capacity: steps that each lane's replay holds.
        lanes: environments side by side.
        warmup: steps in store before the first update.
        epsilon: probability of a random action; a number or a function of the steps so far.
        per_episode_member: a lane follows one member for a whole episode (bootstrapped DQN's exploration), else
            the members' mean.
        relabel: see `Hindsight`.
        measure, final: state -> {name: array}.
        settings: further ones of the Learner (dims, coords).

    Raises:
        UserError: if `total_steps` is no multiple of `lanes * every`.
    """
    if total_steps % (lanes * every):
        raise UserError(f"total_steps takes a multiple of lanes * every = {lanes * every}, got {total_steps}.")
    params = environment.default_params if params is None else params

    def explore(steps: Int[Array, ""]) -> Scalar:
        return epsilon(steps) if callable(epsilon) else epsilon

    def init(key: Key[Array, ""]) -> Interaction:
        key, net_key, env_key, member_key = jax.random.split(key, 4)
        observation, inner = jax.vmap(environment.reset, (0, None))(jax.random.split(env_key, lanes), params)
        one = jax.tree.map(lambda x: x[0], observation)
        example = Transition(one, jnp.zeros((), int), jnp.zeros(()), jnp.zeros((), bool), one)
        return Interaction(
            learner.init(net_key, one), Replay.empty(example, lanes, capacity), inner, observation,
            jax.random.randint(member_key, (lanes,), 0, learner.members), jnp.zeros(lanes), jnp.full(lanes, jnp.nan),
            jnp.zeros((), int), jnp.array(-jnp.inf), jnp.zeros((), int), jnp.zeros(()), key,
        )  # fmt: skip

    def step(state: Interaction) -> Interaction:
        key, act_key, env_key, member_key, draw_key, label_key, update_key = jax.random.split(state.key, 7)
        chance = explore(state.replay.count * lanes)

        def act(observation: Any, key: Key[Array, ""], member: Int[Array, ""]) -> Int[Array, ""]:
            followed = member if per_episode_member else None
            return learner.act(state.learning.network, observation, key, chance, followed)

        actions = jax.vmap(act)(state.observation, jax.random.split(act_key, lanes), state.member)
        observation, inner, reward, terminated, truncated, info = jax.vmap(environment.step, (0, 0, 0, None))(
            jax.random.split(env_key, lanes), state.environment, actions, params
        )
        done = terminated | truncated
        reward = jnp.asarray(reward, jnp.float32)
        seen = Transition(state.observation, actions, reward, terminated, info["final_observation"])
        replay = state.replay.add(seen, done)
        rows = replay.draw(draw_key, batch_size)
        batch = replay[rows]
        if relabel is not None:
            batch = relabel(label_key, replay, rows, batch)
        learned, loss = learner.update(state.learning, batch, update_key)
        ready = replay.count * lanes >= warmup
        total = state.total + reward
        episodes, top = state.episodes + done.sum(), jnp.where(done, total, -jnp.inf).max()
        return Interaction(
            _choose(ready, learned, state.learning), replay, inner, observation,
            jnp.where(done, jax.random.randint(member_key, (lanes,), 0, learner.members), state.member),
            jnp.where(done, 0.0, total), jnp.where(done, total, state.finished), episodes,
            jnp.maximum(state.best, top), jnp.where(top > state.best, episodes, state.best_at),
            jnp.where(ready, loss, state.loss), key,
        )  # fmt: skip

    def advance(state: Interaction) -> Interaction:
        arrays, static = eqx.partition(state, eqx.is_array)

        def body(arrays: Any, _: None) -> tuple[Any, None]:
            return eqx.filter(step(eqx.combine(arrays, static)), eqx.is_array), None

        arrays, _ = jax.lax.scan(body, arrays, None, every)
        return eqx.combine(arrays, static)

    return Learner(
        init=init, advance=advance, measure=measure or (lambda state: {}), final=final, every=every,
        steps=total_steps // lanes, **settings,
    )  # fmt: skip


def _each(trunks: eqx.nn.MLP, features: Float[Array, " features"]) -> Float[Array, "members numbers"]:
    return eqx.filter_vmap(lambda trunk: trunk(features))(trunks)


def trained(networks: PyTree, mask: bool = False) -> Any:
    """The arrays of any `QNetwork`s that are learned, all but the priors' (or, as a mask, where they are)."""

    def of(network: QNetwork) -> QNetwork:
        where = jax.tree.map(eqx.is_inexact_array, network)
        if network.prior is None:
            return where
        return eqx.tree_at(lambda n: n.prior, where, jax.tree.map(lambda _: False, network.prior))

    where = jax.tree.map(of, networks, is_leaf=lambda x: isinstance(x, QNetwork))
    return where if mask else eqx.filter(networks, where)


def follow(target: PyTree, network: PyTree, rate: Scalar) -> PyTree:
    """The target networks, a share `rate` of the way towards the networks."""
    slow, fixed = eqx.partition(target, eqx.is_inexact_array)
    moved = jax.tree.map(lambda old, new: old + rate * (new - old), slow, eqx.filter(network, eqx.is_inexact_array))
    return eqx.combine(moved, fixed)


def _choose(condition: Bool[Array, ""], new: Any, old: Any) -> Any:
    arrays, static = eqx.partition(new, eqx.is_array)
    return eqx.combine(
        jax.tree.map(lambda a, b: jnp.where(condition, a, b), arrays, eqx.filter(old, eqx.is_array)), static
    )
