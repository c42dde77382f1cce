"""PPO on a universe of games whose tasks change with the policy, in generations that learn from the one before."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from unseen.lab import UserError
from unseen.learners.minibatches import learn_epochs
from unseen.methods.curriculum import DynamicFiltering, LevelPool
from unseen.methods.policy_gradient import advantages, clipped_loss
from unseen.methods.task_filter import DynamicTaskFilter
from unseen.worlds.control.goal_games import ACTIONS, GameState, GoalGame, TwoPlayerGoalGrid

Number = float | int | Float[Array, ""] | Int[Array, ""]


class Player(eqx.Module):
    """Policy and value of one observation, with a trunk in common.

    Attributes:
        net: observation -> logits of the actions, then the value.
    """

    net: eqx.nn.MLP

    def __init__(self, observations: int, width: int, *, key: Key[Array, ""]):
        self.net = eqx.nn.MLP(observations, ACTIONS + 1, width, 2, jnp.tanh, key=key)

    def __call__(self, observation: Float[Array, " numbers"]) -> tuple[Float[Array, " actions"], Float[Array, ""]]:
        """Log probabilities and value."""
        out = self.net(observation)
        return jax.nn.log_softmax(out[:ACTIONS]), out[ACTIONS]


class Rollout(NamedTuple):
    """Whole episodes, side by side.

    Attributes:
        observation, action, log_probs, value: the first player's, before each step.
        reward: its reward after each step.
    """

    observation: Float[Array, "time lanes numbers"]
    action: Int[Array, "time lanes"]
    log_probs: Float[Array, "time lanes actions"]
    value: Float[Array, "time lanes"]
    reward: Float[Array, "time lanes"]


class Lineage(NamedTuple):
    """State of open-ended learning.

    Attributes:
        player, optimizer: what learns now.
        previous: the last checkpoint: co-player, and the teacher of a new generation.
        pool: tasks that the filter has accepted.
        universe: key from which the tasks (by number) and new generations come.
        accepted: share of the last iteration's tasks that the filter accepts.
        scored: share of the last iteration's episodes with any reward.
        iteration: number of iterations so far.
    """

    player: Player
    optimizer: Any
    previous: Player
    pool: LevelPool
    universe: Key[Array, ""]
    accepted: Float[Array, ""]
    scored: Float[Array, ""]
    iteration: Int[Array, ""]
    key: Key[Array, ""]


# (key, games, states) -> the second player's actions
Partner = Callable[[Key[Array, ""], GoalGame, GameState], Int[Array, " lanes"]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generations:
    """PPO on the games of a `TwoPlayerGoalGrid`, several episodes of several games an iteration.

    At each of equally many iterations the policy is kept as the checkpoint; from then on half of the co-players are it,
    acting on their own goals (before, all act at random). With more than one generation the policy then starts anew,
    and for the first share of the generation it is also drawn to the checkpoint by the divergence
    KL(checkpoint || policy) on what it sees itself; without, it goes on from where it is.

    Attributes:
        world: the games.
        filter: which tasks are worth training on, from the policy's episodes of an iteration and as many `control`
            ones by players that act at random (they train nobody and are not counted as steps).
        games, episodes: tasks in an iteration, and episodes of each.
        slots, explore: tasks that are kept, and the share of fresh ones, where the filter is on.
        distil: weight of the divergence; distil_share: for which share of a generation.
        epochs, minibatches: of the learning.
        width: of the networks.

    Source: Open-Ended Learning Team (2021), open-ended learning, with PPO for their V-MPO, no recurrence, and a
    population of one.

    Raises:
        UserError: if the steps do not split into equal minibatches.
    """

    world: TwoPlayerGoalGrid
    filter: DynamicTaskFilter = dataclasses.field(default_factory=DynamicTaskFilter)
    games: int = 16
    episodes: int = 4
    control: int = 4
    slots: int = 128
    explore: float = 0.5
    distil: float = 1.0
    distil_share: float = 0.25
    epochs: int = 2
    minibatches: int = 8
    width: int = 64
    learning_rate: float = 1e-3
    gamma: float = 0.95
    trace: float = 0.9
    clip: float = 0.2
    entropy: float = 0.01
    value_weight: float = 0.5
    max_norm: float = 0.5

    def __post_init__(self) -> None:
        if self.steps % self.minibatches:
            raise UserError(
                f"minibatches takes a divisor of games * episodes * horizon = {self.steps}, got {self.minibatches}."
            )

    @property
    def steps(self) -> int:
        """Environment steps in an iteration."""
        return self.games * self.episodes * self.world.horizon

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """Adam with clipped gradients."""
        return optax.chain(optax.clip_by_global_norm(self.max_norm), optax.adam(self.learning_rate, eps=1e-5))

    def fresh(self, key: Key[Array, ""]) -> Player:
        """An untrained player."""
        return Player(self.world.observation_size, self.width, key=key)

    def teacher(self, games: Number, dynamic: Number) -> DynamicFiltering:
        """The task distribution: task numbers below `games`, all alike unless `dynamic` is 1."""

        def draw(key: Key[Array, ""]) -> Int[Array, ""]:
            return jax.random.randint(key, (), 0, jnp.asarray(games, int))

        explore = jnp.where(jnp.asarray(dynamic) > 0, self.explore, 1.0)
        return self.filter.teacher(draw, self.slots, explore)

    def init(self, key: Key[Array, ""]) -> Lineage:
        """An untrained player in a universe of its own."""
        key, universe, network = jax.random.split(key, 3)
        player = self.fresh(network)
        optimizer = self.optimizer.init(eqx.filter(player, eqx.is_inexact_array))
        pool = self.teacher(1, 0.0).init(key)
        zero = jnp.zeros(())
        return Lineage(player, optimizer, player, pool, universe, zero, zero, jnp.zeros((), int), key)

    # Playing ---------------------------------------------------------------------------------------------

    def play(self, player: Player, games: GoalGame, partner: Partner, key: Key[Array, ""]) -> Rollout:
        """An episode in each of the games, with the second player's actions from `partner`."""
        world = self.world

        def step(state: GameState, key: Key[Array, ""]) -> tuple[GameState, tuple[Array, ...]]:
            own, others = jax.random.split(key)
            seen = jax.vmap(lambda g, s: world.observe(g, s, 0))(games, state)
            log_probs, value = jax.vmap(player)(seen)
            action = jax.random.categorical(own, log_probs)
            actions = jnp.stack([action, partner(others, games, state)], -1)
            state = jax.vmap(world.step)(games, state, actions)
            reward = jax.vmap(world.paid)(games, state)[:, 0]
            return state, (seen, action, log_probs, value, reward)

        start = jax.vmap(world.start)(games)
        return Rollout(*jax.lax.scan(step, start, jax.random.split(key, world.horizon))[1])

    def at_random(self, games: GoalGame, key: Key[Array, ""]) -> Float[Array, " lanes"]:
        """Returns (share of steps paid) of episodes in which both players act at random."""
        world = self.world
        lanes = games.interest.shape[0]

        def step(state: GameState, key: Key[Array, ""]) -> tuple[GameState, Array]:
            actions = jax.random.randint(key, (lanes, 2), 0, ACTIONS)
            state = jax.vmap(world.step)(games, state, actions)
            return state, jax.vmap(world.paid)(games, state)[:, 0]

        start = jax.vmap(world.start)(games)
        return jax.lax.scan(step, start, jax.random.split(key, world.horizon))[1].mean(0)

    def scripted(self, key: Key[Array, ""], games: GoalGame, state: GameState) -> Int[Array, " lanes"]:
        """The co-players of the test, which no training has met."""
        return jax.vmap(self.world.scripted)(games, state)

    def returns(
        self, player: Player | None, games: GoalGame, key: Key[Array, ""], episodes: int
    ) -> Float[Array, "episodes games"]:
        """Share of steps paid in episodes of test games with their scripted co-players; None acts at random."""

        def one(key: Key[Array, ""]) -> Float[Array, " games"]:
            if player is not None:
                return self.play(player, games, self.scripted, key).reward.mean(0)
            return self._careless(games, key)

        return jax.lax.map(one, jax.random.split(key, episodes))

    def _careless(self, games: GoalGame, key: Key[Array, ""]) -> Float[Array, " games"]:
        world = self.world

        def step(state: GameState, key: Key[Array, ""]) -> tuple[GameState, Array]:
            other = self.scripted(key, games, state)
            actions = jnp.stack([jax.random.randint(key, other.shape, 0, ACTIONS), other], -1)
            state = jax.vmap(world.step)(games, state, actions)
            return state, jax.vmap(world.paid)(games, state)[:, 0]

        start = jax.vmap(world.start)(games)
        return jax.lax.scan(step, start, jax.random.split(key, world.horizon))[1].mean(0)

    # Learning --------------------------------------------------------------------------------------------

    def learn(
        self, player: Player, optimizer: Any, played: Rollout, key: Key[Array, ""], aim: Array | None = None,
        weight: Number = 0.0,
    ) -> tuple[Player, Any]:  # fmt: skip
        """PPO's epochs on a rollout, with `weight` times the divergence from the log probabilities `aim`. The end of
        the episode can be seen coming, so nothing follows it."""
        ends = jnp.zeros(played.reward.shape, bool).at[-1].set(True)
        advantage = advantages(
            played.reward, played.value, ends, jnp.zeros(played.reward.shape[1]), self.gamma, self.trace
        )
        aim = played.log_probs if aim is None else aim
        rows = (played.observation, played.action, played.log_probs, aim, advantage, advantage + played.value)
        rows = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), rows)

        def loss(player: Player, batch: tuple[Array, ...]) -> Float[Array, ""]:
            seen, action, before, aim, advantage, target = batch
            log_probs, value = jax.vmap(player)(seen)
            did = jax.nn.one_hot(action, ACTIONS)
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
            actor = clipped_loss((log_probs * did).sum(-1), (before * did).sum(-1), advantage, self.clip)
            spread = -(jnp.exp(log_probs) * log_probs).sum(-1)
            away = (jnp.exp(aim) * (aim - log_probs)).sum(-1)
            critic = 0.5 * (value - target) ** 2
            return (actor - self.entropy * spread + self.value_weight * critic + weight * away).mean()

        return learn_epochs(
            loss, player, self.optimizer, optimizer, rows, key, epochs=self.epochs, minibatches=self.minibatches
        )

    def iterate(
        self, state: Lineage, *, games: Number, dynamic: Number, generations: Number, iterations: int
    ) -> Lineage:
        """One iteration of a run of so many `iterations`.

        Args:
            games: size of the universe, 1 to 2**30 tasks.
            dynamic: 1 if the filter chooses among them.
            generations: 1 or more; with one, the checkpoint is taken halfway all the same.
        """
        state = self._turn(state, generations, iterations)
        key, choose, coin, play, control, order = jax.random.split(state.key, 6)
        teacher = self.teacher(games, dynamic)
        tasks = jax.vmap(lambda key: teacher.propose(state.pool, key))(jax.random.split(choose, self.games))
        made = jax.vmap(lambda task: self.world.game(jax.random.fold_in(state.universe, task)))(tasks)
        lanes = jax.tree.map(lambda leaf: jnp.repeat(leaf, self.episodes, axis=0), made)
        known = jax.random.bernoulli(coin, 0.5, (self.games * self.episodes,)) & self._older(
            state, generations, iterations
        )

        def partner(key: Key[Array, ""], games: GoalGame, now: GameState) -> Int[Array, " lanes"]:
            seen = jax.vmap(lambda g, s: self.world.observe(g, s, 1))(games, now)
            log_probs = jax.vmap(state.previous)(seen)[0]
            # Where nobody is known yet, all actions are alike.
            return jax.random.categorical(key, jnp.where(known[:, None], log_probs, 0.0))

        played = self.play(state.player, lanes, partner, play)
        aim = jax.vmap(jax.vmap(state.previous))(played.observation)[0]
        weight = self.distil * self._distilling(state, generations, iterations)
        player, optimizer = self.learn(state.player, state.optimizer, played, order, aim, weight)

        score = played.reward.mean(0).reshape(self.games, self.episodes)
        careless = self.at_random(jax.tree.map(lambda leaf: jnp.repeat(leaf, self.control, axis=0), made), control)
        fits = self.filter.accepts(score, careless.reshape(self.games, self.control))

        def tell(pool: LevelPool, seen: tuple[Array, Array]) -> tuple[LevelPool, None]:
            return teacher.update(pool, *seen), None

        pool, _ = jax.lax.scan(tell, state.pool, (tasks, fits.astype(jnp.float32)))
        return state._replace(
            player=player, optimizer=optimizer, pool=pool, accepted=fits.mean(), scored=(score > 0).mean(),
            iteration=state.iteration + 1, key=key,
        )  # fmt: skip

    def _period(self, generations: Number, iterations: int) -> Int[Array, ""]:
        return jnp.maximum(1, iterations // jnp.maximum(jnp.asarray(generations, int), 2))

    def _older(self, state: Lineage, generations: Number, iterations: int) -> Bool[Array, ""]:
        """Whether there is a checkpoint."""
        return state.iteration >= self._period(generations, iterations)

    def _distilling(self, state: Lineage, generations: Number, iterations: int) -> Bool[Array, ""]:
        period = self._period(generations, iterations)
        young = state.iteration % period < self.distil_share * period
        return young & (state.iteration >= period) & (jnp.asarray(generations) > 1)

    def _turn(self, state: Lineage, generations: Number, iterations: int) -> Lineage:
        """The checkpoint, and with several generations the new one, where it is due."""
        period = self._period(generations, iterations)
        due = (state.iteration > 0) & (state.iteration % period == 0)
        anew = due & (jnp.asarray(generations) > 1)
        young = self.fresh(jax.random.fold_in(state.universe, state.iteration + 2**30))
        begun = self.optimizer.init(eqx.filter(young, eqx.is_inexact_array))

        def choose(switch: Bool[Array, ""], new: Any, old: Any) -> Any:
            return jax.tree.map(lambda a, b: jnp.where(switch, a, b) if eqx.is_array(b) else b, new, old)

        return state._replace(
            previous=choose(due, state.player, state.previous),
            player=choose(anew, young, state.player),
            optimizer=choose(anew, begun, state.optimizer),
        )

    def run(self, state: Lineage, count: int, **schedule: Any) -> Lineage:
        """So many iterations; see `iterate` for the schedule."""
        arrays, static = eqx.partition(state, eqx.is_array)

        def body(arrays: Any, _: None) -> tuple[Any, None]:
            return eqx.filter(self.iterate(eqx.combine(arrays, static), **schedule), eqx.is_array), None

        arrays, _ = jax.lax.scan(body, arrays, None, count)
        return eqx.combine(arrays, static)

    def fine_tune(self, player: Player, game: GoalGame, key: Key[Array, ""], iterations: int) -> Player:
        """A player after PPO on one game, with its scripted co-player and a new optimizer."""
        lanes = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (self.games * self.episodes, *leaf.shape)), game
        )  # fmt: skip
        arrays, static = eqx.partition(player, eqx.is_inexact_array)

        def body(carry: tuple[Any, Any], key: Key[Array, ""]) -> tuple[tuple[Any, Any], None]:
            play, order = jax.random.split(key)
            player = eqx.combine(carry[0], static)
            played = self.play(player, lanes, self.scripted, play)
            player, optimizer = self.learn(player, carry[1], played, order)
            return (eqx.filter(player, eqx.is_inexact_array), optimizer), None

        start = arrays, self.optimizer.init(arrays)
        (arrays, _), _ = jax.lax.scan(body, start, jax.random.split(key, iterations))
        return eqx.combine(arrays, static)
