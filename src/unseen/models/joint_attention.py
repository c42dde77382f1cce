"""One policy for bodies with any number of joints, told how each joint is built."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from unseen.models.transformer import _linear


def split_tokens(
    tokens: Float[Array, "*batch joints numbers"], sensors: int = 6
) -> tuple[
    Float[Array, "*batch joints"],
    Float[Array, "*batch joints own"],
    Float[Array, "*batch shared"],
    Float[Array, "*batch joints description"],
]:
    """What padded joint tokens consist of (`Embodiments`): whether the joint exists, its own reading, the readings
    that all joints share, and its description."""
    mask, own, description = tokens[..., 0], tokens[..., 1:2], tokens[..., sensors:]
    shared = tokens[..., 2:sensors].sum(-2) / jnp.maximum(mask.sum(-1), 1)[..., None]
    return mask, own, shared, description


class JointAttentionPolicy(eqx.Module):
    """Actions for all joints from their tokens: readings are gathered by attention over joint descriptions, and
    handed back to each joint by its description.

    Each of the `latent` channels has its own softmax over the joints, whose scores depend on descriptions alone, with
    a learned temperature; the sum goes with the shared readings through the core, and a decoder that all joints
    share maps the core's output, the joint's description and its reading to its action. The order of the joints in
    the array does not matter.

    Source: Bohlinger et al. (2024), "One policy to run them all" (URMA), as used by Ai et al. (2025).

    Attributes:
        describe, read: encoders of a joint's description and of its reading with the description.
        score: description code -> attention scores.
        log_temperature: of the softmax.
        core: on what was gathered and the shared readings.
        decode_core, decode_joint, decode: the decoder; its first layer in two parts, for the core's output is the
            same for all joints.
    """

    describe: tuple[eqx.nn.Linear, eqx.nn.Linear]
    read: eqx.nn.Linear
    score: eqx.nn.Linear
    log_temperature: Float[Array, ""]
    core: tuple[eqx.nn.Linear, eqx.nn.Linear]
    decode_core: eqx.nn.Linear
    decode_joint: eqx.nn.Linear
    decode: tuple[eqx.nn.Linear, eqx.nn.Linear]
    sensors: int = eqx.field(static=True)

    def __init__(self, width: int = 96, latent: int = 32, *, sensors: int = 6, description: int = 8, key: PRNGKeyArray):
        keys = iter(jax.random.split(key, 10))
        self.describe = (
            eqx.nn.Linear(description, width, key=next(keys)),
            eqx.nn.Linear(width, latent, key=next(keys)),
        )
        self.read = eqx.nn.Linear(1 + latent, latent, key=next(keys))
        self.score = eqx.nn.Linear(latent, latent, key=next(keys))
        self.log_temperature = jnp.zeros(())
        self.core = (
            eqx.nn.Linear(latent + sensors - 2, width, key=next(keys)),
            eqx.nn.Linear(width, width, key=next(keys)),
        )
        self.decode_core = eqx.nn.Linear(width, width, key=next(keys))
        self.decode_joint = eqx.nn.Linear(2 * latent, width, use_bias=False, key=next(keys))
        self.decode = (eqx.nn.Linear(width, latent, key=next(keys)), eqx.nn.Linear(latent, 1, key=next(keys)))
        self.sensors = sensors

    def __call__(self, tokens: Float[Array, "*batch joints numbers"]) -> Float[Array, "*batch joints"]:
        """Actions in [-1, 1]; 0 for joints that are not there."""
        mask, own, shared, description = split_tokens(tokens, self.sensors)
        code = _linear(self.describe[1], jax.nn.elu(_linear(self.describe[0], description)))
        reading = jax.nn.elu(_linear(self.read, jnp.concatenate([own, code], -1)))
        scores = jnp.tanh(_linear(self.score, code)) / jnp.exp(self.log_temperature)
        weights = jax.nn.softmax(jnp.where(mask[..., None] > 0, scores, -jnp.inf), axis=-2)
        gathered = (weights * reading).sum(-2)
        x = jax.nn.elu(_linear(self.core[0], jnp.concatenate([gathered, shared], -1)))
        x = jax.nn.elu(_linear(self.core[1], x))
        joint = _linear(self.decode_joint, jnp.concatenate([code, reading], -1))
        hidden = jax.nn.elu(_linear(self.decode_core, x)[..., None, :] + joint)
        hidden = jax.nn.elu(_linear(self.decode[0], hidden))
        return jnp.tanh(_linear(self.decode[1], hidden)[..., 0]) * mask
