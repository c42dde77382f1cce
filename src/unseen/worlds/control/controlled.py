"""What good controllers of gymnax's classic tasks see and do: control as supervised learning."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from gymnax.environments.classic_control import cartpole, pendulum
from jaxtyping import Array, Float, Int, PRNGKeyArray


def controlled_pendulum(
    key: PRNGKeyArray, episodes: int = 100, steps: int = 200
) -> tuple[Float[Array, "samples 3"], Float[Array, "samples 1"]]:
    """States of gymnax's Pendulum under a controller that swings it up and holds it, and the controller's torque.

    Away from the top the controller feeds energy (torque along the velocity while energy is lacking), near it
    a linear law takes over; torque is clipped as the simulator does.

    Returns:
        cosine, sine and velocity / 8 of every state, and torque / 2: all in [-1, 1].
    """
    environment, parameters = pendulum.Pendulum(), pendulum.EnvParams()

    def torque(state: pendulum.EnvState) -> Array:
        lacking = 5.0 * (1 - jnp.cos(state.theta)) - state.theta_dot**2 / 6
        swing = 2.0 * jnp.sign(state.theta_dot) * jnp.clip(lacking, -1, 1)
        hold = -(10.0 * jnp.sin(state.theta) + 3.0 * state.theta_dot)
        return jnp.clip(jnp.where(jnp.cos(state.theta) > 0.9, hold, swing), -2.0, 2.0)

    def episode(key: PRNGKeyArray) -> tuple[Array, Array]:
        start, run = jax.random.split(key)
        _, state = environment.reset_env(start, parameters)
        state = jax.tree.map(jnp.asarray, state)

        def step(state: pendulum.EnvState, key: PRNGKeyArray) -> tuple[pendulum.EnvState, tuple[Array, Array]]:
            u = torque(state)
            seen = jnp.array([jnp.cos(state.theta), jnp.sin(state.theta), state.theta_dot / 8])
            _, after, *_ = environment.step_env(key, state, u, parameters)
            after = jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype).reshape(old.shape), after, state)
            return after, (seen, u[None] / 2)

        return jax.lax.scan(step, state, jax.random.split(run, steps))[1]

    seen, done = jax.vmap(episode)(jax.random.split(key, episodes))
    return seen.reshape(-1, 3), done.reshape(-1, 1)


def controlled_cartpole(
    key: PRNGKeyArray, episodes: int = 50, steps: int = 100, *, slips: float = 0.2
) -> tuple[Float[Array, "episodes steps 4"], Int[Array, "episodes steps"]]:
    """States of gymnax's CartPole near balance, and what a linear controller does in each (0 left, 1 right).

    Episodes start from random states and are not cut at the simulator's bounds; with probability `slips` another
    action than the controller's is carried out, so that states differ.

    Returns:
        Position, velocity, angle and angular velocity in the simulator's units; the controller's action.
    """
    environment, parameters = cartpole.CartPole(), cartpole.EnvParams()
    law = jnp.array([0.1, 0.3, 3.0, 0.8])

    def episode(key: PRNGKeyArray) -> tuple[Array, Array]:
        start, run = jax.random.split(key)
        _, state = environment.reset_env(start, parameters)
        spread = jnp.array([1.0, 0.5, 0.1, 0.5]) * jax.random.uniform(start, (4,), minval=-1.0)
        state = state.replace(x=spread[0], x_dot=spread[1], theta=spread[2], theta_dot=spread[3], time=jnp.array(0))

        def step(state: cartpole.EnvState, key: PRNGKeyArray) -> tuple[cartpole.EnvState, tuple[Array, Array]]:
            slip, env_key = jax.random.split(key)
            seen = jnp.stack([state.x, state.x_dot, state.theta, state.theta_dot])
            action = (law @ seen > 0).astype(jnp.int32)
            done = jnp.where(jax.random.bernoulli(slip, slips), 1 - action, action)
            _, after, *_ = environment.step_env(env_key, state, done, parameters)
            return after, (seen, action)

        return jax.lax.scan(step, state, jax.random.split(run, steps))[1]

    return jax.vmap(episode)(jax.random.split(key, episodes))


def frames(
    observations: Float[Array, "episodes steps numbers"], count: int
) -> Float[Array, "episodes windows all_numbers"]:
    """The last `count` observations side by side, at every step that has as many."""
    steps = observations.shape[1] - count + 1
    return jnp.concatenate([observations[:, i : i + steps] for i in range(count)], axis=-1)
