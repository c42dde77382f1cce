"""PPO whose training contexts are proposed by a curriculum."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import rejax
from jaxtyping import Array, Float, Key

from unseen.lab import UserError
from unseen.learners.ppo import Policy
from unseen.learners.taught import Pupil, Round
from unseen.worlds.control.context import ContextMDP, ContextParams, Region


class FollowedState(NamedTuple):
    """A running episode and the last one that ended.

    Attributes:
        inner: the environment's own state.
        total: reward so far.
        context: of the last episode that ended.
        score: its return.
    """

    inner: Any
    total: Float[Array, ""]
    context: Float[Array, " features"]
    score: Float[Array, ""]


class _Followed:
    """A ContextMDP as rejax expects it (five values a step), which remembers the last episode's context and return."""

    def __init__(self, environment: ContextMDP):
        self.environment = environment

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "environment":
            raise AttributeError(name)
        return getattr(self.environment, name)

    def reset(self, key: Any, params: ContextParams) -> tuple[Array, FollowedState]:
        observation, inner = self.environment.reset(key, params)
        return observation, FollowedState(inner, jnp.zeros(()), inner.context, jnp.zeros(()))

    def step(self, key: Any, state: FollowedState, action: Any, params: ContextParams) -> tuple:
        observation, inner, reward, terminated, truncated, info = self.environment.step(
            key, state.inner, action, params
        )
        done, total = terminated | truncated, state.total + jnp.reshape(reward, ())
        context = jnp.where(done, state.inner.context, state.context)
        after = FollowedState(inner, jnp.where(done, 0, total), context, jnp.where(done, total, state.score))
        return observation, after, reward, done, info


class TaughtPPO:
    """PPO (rejax's) on contexts that a teacher proposes; several environments side by side, an episode each between
    two updates, so every episode is evidence on one context.

    Args:
        environment: whose every episode lasts exactly `params().max_steps_in_episode` steps (no early ends).
        taught: the first so many features are the teacher's task; the others are the learner's body, fixed for life.
        num_envs: environments; a round is `fit_every` episodes, a multiple of it.
        settings: PPO's numbers, see `unseen.learners.ppo.ppo`.

    The learner's state is a tuple of arrays, the body last.

    Raises:
        UserError: if an iteration does not split into equal minibatches.
    """

    def __init__(
        self,
        environment: ContextMDP,
        taught: int,
        *,
        num_envs: int = 32,
        num_epochs: int = 4,
        num_minibatches: int = 16,
        width: int = 64,
        learning_rate: float = 1e-3,
        gamma: float = 0.97,
        max_grad_norm: float = 0.1,
    ):
        self.environment, self.taught, self.num_envs = environment, taught, num_envs
        self.steps = environment.params().max_steps_in_episode
        if num_envs * self.steps % num_minibatches:
            raise UserError(
                f"num_minibatches takes a divisor of num_envs * {self.steps} steps = {num_envs * self.steps}, "
                f"got {num_minibatches}."
            )
        self.algorithm = rejax.PPO.create(
            env=_Followed(environment),
            num_envs=num_envs,
            num_steps=self.steps,
            num_epochs=num_epochs,
            num_minibatches=num_minibatches,
            normalize_rewards=True,
            agent_kwargs={"hidden_layer_sizes": (width, width), "activation": "tanh"},
        ).replace(learning_rate=learning_rate, gamma=gamma, max_grad_norm=max_grad_norm, ent_coef=0.0)
        self.types = [leaf.dtype for leaf in jax.tree.leaves(self._shapes())]

    def _shapes(self) -> Any:
        algorithm = self.algorithm.replace(env_params=self.environment.params())
        start = jax.eval_shape(algorithm.init_state, jax.random.key(0))
        return jax.eval_shape(algorithm.train_iteration, start)

    def _restored(self, leaves: tuple[Any, ...]) -> Any:
        # See `ppo`: rejax's states have a new class each time, so the arrays alone are kept.
        algorithm = self.algorithm.replace(env_params=self.environment.params())
        return jax.tree.unflatten(jax.tree.structure(algorithm.init_state(jax.random.key(0))), leaves)

    def init(
        self, key: Key[Array, ""], body: Float[Array, " body"], tasks: Float[Array, "tasks size"]
    ) -> tuple[Any, ...]:
        """An untrained learner of a body, whose first episodes are on `tasks`."""
        algorithm = self.algorithm.replace(env_params=self.environment.params(self._region(tasks, body)))
        leaves = jax.tree.leaves(algorithm.init_state(key))
        typed = (
            leaf if jnp.issubdtype(kind, jax.dtypes.prng_key) else jnp.asarray(leaf, kind)
            for leaf, kind in zip(leaves, self.types, strict=True)
        )
        return (*typed, body)

    def policy(self, learner: tuple[Any, ...]) -> Policy:
        """The learner's actor."""
        return Policy(self._restored(learner[:-1]).actor_ts.params, self.algorithm.actor)

    def contexts(
        self, tasks: Float[Array, "tasks size"], body: Float[Array, " body"]
    ) -> Float[Array, "tasks features"]:
        """Tasks with the learner's body."""
        return jnp.concatenate([tasks, jnp.broadcast_to(body, (len(tasks), body.size))], axis=1)

    def _region(self, tasks: Float[Array, "tasks size"], body: Float[Array, " body"]) -> Region:
        return Region.points(self.contexts(tasks, body))

    def rounds(self, teacher: Any, competence: Any) -> Round:
        """Rounds of `teacher.fit_every` episodes (of `teacher.alp` for AGAIN) with PPO's updates, then a fit.

        Args:
            competence: return -> evidence.

        A context is drawn when an episode starts, from the proposals made before the episode before it ended: a
        proposal comes into effect one iteration later.
        """
        every = getattr(teacher, "alp", teacher).fit_every
        if every % self.num_envs:
            raise UserError(f"fit_every takes a multiple of the {self.num_envs} environments, got {every}.")

        def iteration(pupil: Pupil, _: None) -> tuple[Pupil, tuple[Array, Array]]:
            key, use = jax.random.split(pupil.key)
            body = pupil.learner[-1]
            tasks = jax.vmap(lambda k: teacher.propose(pupil.teaching, k))(jax.random.split(use, self.num_envs))
            algorithm = self.algorithm.replace(env_params=self.environment.params(self._region(tasks, body)))
            state = algorithm.train_iteration(self._restored(pupil.learner[:-1]))
            played, rewards = state.env_state.context[:, : self.taught], competence(state.env_state.score)

            def tell(teaching: Any, seen: tuple[Array, Array]) -> tuple[Any, None]:
                return teacher.observe(teaching, *seen), None

            teaching, _ = jax.lax.scan(tell, pupil.teaching, (played, rewards))
            return Pupil(teaching, (*jax.tree.leaves(state), body), key), (played, rewards)

        def go(pupil: Pupil) -> tuple[Pupil, tuple[Array, Array]]:
            pupil, (tasks, rewards) = jax.lax.scan(iteration, pupil, None, every // self.num_envs)
            seen = tasks.reshape(every, -1), rewards.reshape(every)
            return pupil._replace(teaching=teacher.refit(pupil.teaching)), seen

        return go
