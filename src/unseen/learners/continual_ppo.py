"""PPO on one task after the other, with a sub-network for each task or without."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from unseen.lab import UserError
from unseen.learners.minibatches import learn_epochs
from unseen.methods.policy_gradient import advantages, clipped_loss
from unseen.methods.sparse_prompt import DictionaryUpdate, SparsePrompt, step_mask
from unseen.models.meta_policy import MetaPolicyNetwork
from unseen.worlds.control.task_suite import TaskSuite

Scalar = float | Float[Array, ""]


class ContinualState(NamedTuple):
    """What is carried along the sequence.

    Attributes:
        policy, critic: the networks; only the policy has masks.
        untrained: both as they were at first, with which what begins anew begins.
        optimizer, coding: states of the optimizers of the networks and of the running task's code.
        codes: of every task, one row a layer: what training left of it, or the prompt of the present dictionaries.
        order: which entry of the Lasso code each neuron has; other than in order for random masks.
        trained: tasks whose phase is over.
        used: neurons that masks of such tasks switch on.
        dictionaries, gram, cross: see `SparsePrompt` and `DictionaryUpdate`.
        phases: how many have begun.
    """

    policy: MetaPolicyNetwork
    critic: eqx.nn.MLP
    untrained: tuple[MetaPolicyNetwork, eqx.nn.MLP]
    optimizer: Any
    coding: Any
    codes: Float[Array, "tasks layers width"]
    order: Int[Array, "tasks layers width"]
    trained: Bool[Array, " tasks"]
    used: Bool[Array, "layers width"]
    dictionaries: Float[Array, "layers width features"]
    gram: Float[Array, "layers width width"]
    cross: Float[Array, "layers width features"]
    phases: Int[Array, ""]
    key: Key[Array, ""]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContinualPPO:
    """Continual task allocation by sparse prompts, and what it is compared with, as one program.

    A task's phase begins with an untrained critic and new optimizers. With prompts, the sentence of the task says which
    neurons of the policy are its own; all weights that earlier tasks depend on stay what they are; and after each
    iteration's gradient steps on the weights follows one on the code. When the phase ends, the dictionaries learn the
    task's code, and the prompts of the tasks to come are made anew.

    All numbers below `suite` and `embeddings` up to `learning_rate` may be traced. Plain fine-tuning is `prompted=0`;
    a frozen dictionary `updated=0`; random masks of the same size `shuffled=1, updated=0`; joint training
    `prompted=0, joint=1`, in which the phases of a sequence are one training on all its tasks; and training from
    scratch `prompted=0, fresh=1`.

    Example:
        >>> suite = TaskSuite(("reach", "door-open"), shows_task=True, max_steps=4)
        >>> ppo = ContinualPPO(suite=suite, embeddings=jnp.eye(2), width=8, episodes=4, minibatches=2)
        >>> state = ppo.phase(ppo.init(jax.random.key(0)), 0, iterations=1)

    Attributes:
        suite: the tasks, which an observation names at its end. The first `sequence` of them are the sequence.
        embeddings: of the tasks' sentences, a row each.
        sequence: how many tasks joint training is on; by default all.
        prompted: 1 for masks and protection, 0 for the whole network.
        updated: 1 if dictionaries learn.
        shuffled: 1 if each task's code is spread over the neurons at random.
        joint: 1 if tasks of the sequence are trained on at once.
        fresh: 1 if a phase begins with an untrained policy.
        penalty: of the Lasso, so the sparsity.
        resample: 1 if atoms without use are drawn anew, see `DictionaryUpdate`.
        code_rate: learning rate of the code; 0 leaves it as prompted.
        learning_rate: of the networks, falling linearly to 0 in a phase (in joint training: over the sequence).
        episodes: in an iteration, a multiple of `minibatches`; each is of the suite's length.
        reward_scale: what rewards are multiplied by.

    Raises:
        UserError: if episodes cannot be shared out equally, or an embedding is missing.

    Source: Yang et al. (2023), which has soft actor-critic in PPO's place.
    """

    suite: TaskSuite
    embeddings: Float[Array, "tasks features"]
    prompted: Scalar = 1.0
    updated: Scalar = 1.0
    shuffled: Scalar = 0.0
    joint: Scalar = 0.0
    fresh: Scalar = 0.0
    penalty: Scalar = 1e-3
    resample: Scalar = 0.0
    code_rate: Scalar = 1e-3
    learning_rate: Scalar = 1e-3
    sequence: int | None = None
    width: int = 128
    depth: int = 2
    critic_width: int = 64
    episodes: int = 32
    epochs: int = 4
    minibatches: int = 8
    gamma: float = 0.95
    trace: float = 0.95
    clip: float = 0.2
    value_weight: float = 0.5
    max_norm: float = 0.5
    reward_scale: float = 0.1

    def __post_init__(self) -> None:
        if self.episodes < 1 or self.episodes % self.minibatches:
            raise UserError(f"episodes takes a multiple of minibatches, {self.minibatches}, got {self.episodes}.")
        if self.embeddings.shape[0] != len(self.suite.tasks):
            raise UserError(f"embeddings takes {len(self.suite.tasks)} rows, got {self.embeddings.shape[0]}.")

    @property
    def steps(self) -> int:
        """Environment steps in an iteration."""
        return self.suite.max_steps * self.episodes

    @property
    def _length(self) -> int:
        return len(self.suite.tasks) if self.sequence is None else self.sequence

    def _optimizer(self, updates: Any) -> optax.GradientTransformation:
        def rate(count: Any) -> Any:
            return self.learning_rate * jnp.maximum(0.0, 1 - count / updates)

        return optax.chain(optax.clip_by_global_norm(self.max_norm), optax.adam(rate, eps=1e-5))

    @property
    def _coder(self) -> optax.GradientTransformation:
        return optax.adam(self.code_rate, eps=1e-5)

    def _networks(self, key: Key[Array, ""]) -> tuple[MetaPolicyNetwork, eqx.nn.MLP]:
        tasks, seen = len(self.suite.tasks), self.suite.observation_space().shape[0]
        one, two = jax.random.split(key)
        return (
            MetaPolicyNetwork(
                seen, self.suite.num_actions, tasks=tasks, width=self.width, depth=self.depth, key=one
            ),
            eqx.nn.MLP(seen + 1, "scalar", self.critic_width, 2, activation=jnp.tanh, key=two),
        )  # fmt: skip

    def init(self, key: Key[Array, ""]) -> ContinualState:
        """Before the first task."""
        key, network, atoms, order = jax.random.split(key, 4)
        tasks, features = self.embeddings.shape
        shape = tasks, self.depth, self.width
        networks = self._networks(network)
        prompt = SparsePrompt.random(atoms, layers=self.depth, width=self.width, features=features)
        known = DictionaryUpdate.start(self.depth, self.width, features)
        mixed = jnp.argsort(jax.random.uniform(order, shape), -1)
        order = jnp.where(jnp.asarray(self.shuffled) > 0, mixed, jnp.arange(self.width))
        return ContinualState(
            *networks, networks, self._optimizer(1).init(eqx.filter(networks, eqx.is_inexact_array)),
            self._coder.init(jnp.zeros(shape[1:])), self._prompts(prompt.dictionaries, order), order,
            jnp.zeros(tasks, bool), jnp.zeros(shape[1:], bool), prompt.dictionaries, known.gram, known.cross,
            jnp.zeros((), int), key,
        )  # fmt: skip

    # Sub-networks ----------------------------------------------------------------------------------------

    def _prompts(self, dictionaries: Array, order: Array) -> Float[Array, "tasks layers width"]:
        codes = jax.vmap(SparsePrompt(dictionaries, self.penalty).code)(self.embeddings)
        return jnp.take_along_axis(codes, order, -1)

    def masks(self, code: Float[Array, "*tasks layers width"]) -> Float[Array, "*tasks layers width"]:
        """Which neurons are on; all of them without prompts."""
        return jnp.where(jnp.asarray(self.prompted) > 0, step_mask(code), 1.0)

    # A phase ---------------------------------------------------------------------------------------------

    def _at_once(self, task: Any) -> Bool[Array, ""]:
        return (jnp.asarray(self.joint) > 0) & (jnp.asarray(task) < self._length)

    def begin(self, state: ContinualState, task: int | Int[Array, ""]) -> ContinualState:
        """The start of a task's phase."""
        policy, critic = state.untrained
        goes_on = self._at_once(task) & (state.phases > 0)
        policy = _choose(jnp.asarray(self.fresh) > 0, policy, state.policy)
        critic = _choose(goes_on, state.critic, critic)
        started = self._optimizer(1).init(eqx.filter((policy, critic), eqx.is_inexact_array))
        return state._replace(
            policy=policy, critic=critic, optimizer=_choose(goes_on, state.optimizer, started),
            coding=self._coder.init(jnp.zeros_like(state.codes[0])), phases=state.phases + 1,
        )  # fmt: skip

    def play(self, state: ContinualState, task: int | Int[Array, ""], key: Key[Array, ""]) -> tuple[Any, ...]:
        """Episodes of the task: observations, shares of the time that is gone, actions, their log densities and
        rewards, `[time, episodes, ...]`."""
        masks, among = self.masks(state.codes[task]), jnp.arange(len(self.suite.tasks))
        one = jax.nn.one_hot(task, len(self.suite.tasks))
        params = self.suite.params()
        params = eqx.tree_at(
            lambda p: p.weight, params, jnp.where(self._at_once(task), (among < self._length) / self._length, one)
        )
        begin, go = jax.random.split(key)
        start = jax.vmap(self.suite.reset_env, (0, None))(jax.random.split(begin, self.episodes), params)

        def step(carry: tuple[Any, Any], key: Any) -> tuple[tuple[Any, Any], Any]:
            seen, simulator = carry
            mean, deviation = state.policy(seen, masks), state.policy.deviation(seen)
            noise = jax.random.normal(key, mean.shape)
            action = mean + deviation * noise
            log_prob = jnp.sum(-0.5 * noise**2 - jnp.log(deviation) - 0.5 * jnp.log(2 * jnp.pi), -1)
            after, simulator, reward, _, _ = jax.vmap(self.suite.step_env, (None, 0, 0, None))(
                key, simulator, action, params
            )
            return (after, simulator), (seen, action, log_prob, reward)

        length = self.suite.max_steps
        _, (seen, action, log_prob, reward) = jax.lax.scan(step, start, jax.random.split(go, length))
        gone = jnp.broadcast_to(jnp.arange(length)[:, None] / length, reward.shape)
        return seen, gone, action, log_prob, self.reward_scale * reward

    def iterate(self, state: ContinualState, task: int | Int[Array, ""], iterations: int = 1) -> ContinualState:
        """Play and learn once, in a phase of so many iterations."""
        key, playing, learning = jax.random.split(state.key, 3)
        seen, gone, action, log_prob, reward = self.play(state, task, playing)
        value = _values(state.critic, seen, gone)
        # The time limit is an end, which the critic can see coming.
        ends = jnp.zeros(reward.shape, bool).at[-1].set(True)
        advantage = advantages(reward, value, ends, jnp.zeros(self.episodes), self.gamma, self.trace)
        rows = jax.tree.map(
            lambda leaf: jnp.swapaxes(leaf, 0, 1), (seen, gone, action, log_prob, advantage, advantage + value)
        )
        code, used = state.codes[task], state.used & (jnp.asarray(self.prompted) > 0)
        updates = iterations * self.epochs * self.minibatches * jnp.where(self._at_once(task), self._length, 1)
        (policy, critic), optimizer = learn_epochs(
            lambda networks, rows: self._loss(networks, code, used, rows), (state.policy, state.critic),
            self._optimizer(updates), state.optimizer, rows, learning, epochs=self.epochs, minibatches=self.minibatches,
        )  # fmt: skip
        few = jax.tree.map(lambda leaf: leaf[: self.episodes // self.minibatches], rows)
        slope = jax.grad(lambda code: self._loss((policy, critic), code, used, few))(code)
        change, coding = self._coder.update(slope, state.coding)
        return state._replace(
            policy=policy, critic=critic, optimizer=optimizer, coding=coding,
            codes=state.codes.at[task].add(change), key=key,
        )  # fmt: skip

    def _loss(self, networks: Any, code: Array, used: Array, rows: Any) -> Float[Array, ""]:
        (policy, critic), (seen, gone, action, log_prob, advantage, target) = networks, rows
        scaled = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        now = policy.protected(used).log_prob(seen, self.masks(code), action)
        actor = clipped_loss(now, log_prob, scaled, self.clip).mean()
        return actor + self.value_weight * 0.5 * jnp.square(_values(critic, seen, gone) - target).mean()

    def end(self, state: ContinualState, task: int | Int[Array, ""]) -> ContinualState:
        """The end of a task's phase: its neurons are taken, the dictionaries learn, the other prompts follow."""
        key, noise = jax.random.split(state.key)
        code, trained = state.codes[task], state.trained.at[task].set(True)
        prompt, update = DictionaryUpdate(state.gram, state.cross, jnp.asarray(self.resample))(
            SparsePrompt(state.dictionaries, self.penalty), code, self.embeddings[task], noise
        )
        learned = prompt.dictionaries, update.gram, update.cross
        before = state.dictionaries, state.gram, state.cross
        dictionaries, gram, cross = _choose(jnp.asarray(self.updated) > 0, learned, before)
        codes = jnp.where(trained[:, None, None], state.codes, self._prompts(dictionaries, state.order))
        return state._replace(
            codes=codes, trained=trained, used=state.used | (code > 0), dictionaries=dictionaries, gram=gram,
            cross=cross, key=key,
        )  # fmt: skip

    def train(self, state: ContinualState, task: int | Int[Array, ""], iterations: int) -> ContinualState:
        """A phase without its end: afterwards the task is learned, but nothing is taken or remembered."""
        arrays, static = eqx.partition(self.begin(state, task), eqx.is_array)

        def body(arrays: Any, _: None) -> tuple[Any, None]:
            return eqx.filter(self.iterate(eqx.combine(arrays, static), task, iterations), eqx.is_array), None

        return eqx.combine(jax.lax.scan(body, arrays, None, iterations)[0], static)

    def phase(self, state: ContinualState, task: int | Int[Array, ""], iterations: int) -> ContinualState:
        """A task's whole phase."""
        return self.end(self.train(state, task, iterations), task)

    def success(
        self, state: ContinualState, task: int | Int[Array, ""], keys: Key[Array, " episodes"]
    ) -> Float[Array, ""]:
        """Share of episodes at new positions that the mean actions solve, with the task's own mask."""
        masks = self.masks(state.codes[task])
        return self.suite.solved(
            lambda _, seen: state.policy(seen, masks), self.suite.new_positions(task), keys
        ).mean()  # fmt: skip


def _values(critic: eqx.nn.MLP, seen: Float[Array, "*batch obs"], gone: Float[Array, "*batch"]) -> Array:
    x = jnp.concatenate([seen, gone[..., None]], -1)
    for layer in critic.layers[:-1]:
        x = jnp.tanh(x @ layer.weight.T + layer.bias)  # type: ignore[operator]
    last = critic.layers[-1]
    return (x @ last.weight.T + last.bias)[..., 0]  # type: ignore[operator]


def _choose(condition: Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b) if eqx.is_array(a) else a, yes, no)
