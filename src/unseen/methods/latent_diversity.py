"""Several ways to solve one task: what a policy with a latent is paid, and how to choose among its ways later."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from unseen.lab import UserError
from unseen.worlds.control.context import episode_return

Weight = float | Float[Array, ""]


def distinguishability(logits: Float[Array, "*batch latents"], latent: Int[Array, "*batch"]) -> Float[Array, "*batch"]:
    """DIAYN's reward: log q(z|s) - log p(z) for a uniform p; 0 for a state that tells nothing, at most log(latents).

    Args:
        logits: of the discriminator, q.
        latent: the number z that the policy had.

    Source: Eysenbach et al., "Diversity is All You Need" (2019), equation 3.
    """
    log_q = jnp.take_along_axis(jax.nn.log_softmax(logits), latent[..., None], -1)[..., 0]
    return log_q + jnp.log(logits.shape[-1])


def thresholded_diversity(
    reward: Float[Array, "time episodes"],
    diversity: Float[Array, "time episodes"],
    target: Weight,
    weight: Weight,
    thresholded: Weight = 1.0,
) -> Float[Array, "time episodes"]:
    """SMERL's reward: diversity is added to the steps of the episodes whose return is at least `target`.

    Args:
        reward: of the task, 0 after an episode's end.
        diversity: of the same steps.
        target: the best return minus what may be given up.
        weight: of diversity.
        thresholded: 0 adds it everywhere.

    Source: Kumar et al. (2020), equation 8 and algorithm 1; episodes are compared one by one, as in their code.
    """
    good = (reward.sum(0) >= target) | (jnp.asarray(thresholded) == 0)
    return reward + weight * good * diversity


class Adaptation(NamedTuple):
    """What a few tries in an environment gave: the latent to keep, and the return of every try."""

    best: Int[Array, ""]
    returns: Float[Array, " k"]


def best_of_k_adaptation(
    policy: Callable[[Any, Any, Any], Any], environment: Any, params: Any, k: int, key: Key[Array, ""]
) -> Adaptation:
    """Tries every one of k latents for one episode in an environment and keeps the best.

    Args:
        policy: (key, observation, number of the latent) -> action.
        environment, params: with gymnax's interface and a static `max_steps_in_episode`.
        k: tries; a policy that looks at no latent tries its luck k times.

    Raises:
        UserError: on k below 1.

    Source: Kumar et al. (2020), algorithm 2.
    """
    if k < 1:
        raise UserError(f"k takes a number of tries from 1 on, got {k}.")

    def attempt(latent: Array, key: Array) -> Array:
        return episode_return(environment, params, lambda key, seen: policy(key, seen, latent), key)

    returns = jax.vmap(attempt)(jnp.arange(k), jax.random.split(key, k))
    return Adaptation(returns.argmax(), returns)


def robustness_set(
    trajectories: Float[Array, "k *shape"],
    environments: PyTree,
    feasible: Callable[[Any, Array], Bool[Array, ""]],
) -> Bool[Array, " environments"]:
    """The environments in which at least one of the known trajectories can still be walked: those that a policy with
    these ways is foretold to survive.

    Args:
        trajectories: in the environment of the training, one a latent.
        environments: a stack of changed ones, whatever `feasible` reads.
        feasible: (environment, trajectory) -> whether it can be walked there.

    Source: Kumar et al. (2020), section 4.2: changes of the dynamics count only where a policy goes, so that the
    environments in which some latent's trajectories and returns stay as they were are solved.
    """
    one = jax.vmap(feasible, (None, 0))
    return jax.vmap(one, (0, None))(environments, trajectories).any(-1)
