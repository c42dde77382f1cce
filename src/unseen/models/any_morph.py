"""Policies for bodies made of named parts: from learned tokens, from a description of the graph, and from padding."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from unseen.models.joint_attention import split_tokens
from unseen.models.transformer import _linear, _normalise

FREQUENCIES = 4  # of the sines that a sensor's value becomes
SHARED = 4  # sensors that all joints share


class MorphologyTokens(eqx.Module):
    """A learned vector for every sensor and every actuator that a body may have, by name (here: by its slot).

    Attributes:
        joint_sensors: one a joint's own sensor.
        shared_sensors: one a sensor of the whole body.
        actuators: one a joint's motor.

    Source: Trabucco et al. (2022), section 4.
    """

    joint_sensors: Float[Array, "joints width"]
    shared_sensors: Float[Array, "shared width"]
    actuators: Float[Array, "joints width"]

    def __init__(self, joints: int = 6, width: int = 32, *, key: PRNGKeyArray):
        a, b, c = jax.random.split(key, 3)
        self.joint_sensors = jax.random.normal(a, (joints, width))
        self.shared_sensors = jax.random.normal(b, (SHARED, width))
        self.actuators = jax.random.normal(c, (joints, width))

    def shuffled(self, order: Int[Array, " joints"]) -> MorphologyTokens:
        """Each joint with the tokens, of sensor and motor alike, of another."""
        return eqx.tree_at(
            lambda t: (t.joint_sensors, t.actuators), self, (self.joint_sensors[order], self.actuators[order])
        )


class LookBlock(eqx.Module):
    """Attention of one set of vectors to another (or to itself), then two layers with a GELU, each on the normalised
    stream."""

    norm: eqx.nn.LayerNorm
    query: eqx.nn.Linear
    key_value: eqx.nn.Linear
    out: eqx.nn.Linear
    norm2: eqx.nn.LayerNorm
    up: eqx.nn.Linear
    down: eqx.nn.Linear
    heads: int = eqx.field(static=True)

    def __init__(self, width: int, heads: int, *, key: PRNGKeyArray):
        query, key_value, out, up, down = jax.random.split(key, 5)
        self.norm, self.norm2 = eqx.nn.LayerNorm(width), eqx.nn.LayerNorm(width)
        self.query = eqx.nn.Linear(width, width, key=query)
        self.key_value = eqx.nn.Linear(width, 2 * width, key=key_value)
        self.out = eqx.nn.Linear(width, width, key=out)
        self.up = eqx.nn.Linear(width, 2 * width, key=up)
        self.down = eqx.nn.Linear(2 * width, width, key=down)
        self.heads = heads

    def __call__(
        self,
        x: Float[Array, "*batch queries width"],
        memory: Float[Array, "*batch sensors width"],
        allowed: Bool[Array, "*batch sensors"],
    ) -> Float[Array, "*batch queries width"]:
        """The stream after the block; sensors that are not allowed are not seen."""

        def split(y: Array) -> Array:
            return y.reshape(*y.shape[:-1], self.heads, -1)

        query = split(_linear(self.query, _normalise(self.norm, x)))
        keys, values = (split(part) for part in jnp.split(_linear(self.key_value, memory), 2, axis=-1))
        # Products and sums instead of many tiny matrix products, which are slow on a CPU.
        scores = (query[..., :, None, :, :] * keys[..., None, :, :, :]).sum(-1) / jnp.sqrt(query.shape[-1])
        allowed = allowed[..., None, :, None]
        weights = jax.nn.softmax(jnp.where(allowed, scores, jnp.finfo(scores.dtype).min), -2)
        mixed = (weights[..., None] * values[..., None, :, :, :]).sum(-3).reshape(x.shape)
        x = x + _linear(self.out, mixed)
        return x + _linear(self.down, jax.nn.gelu(_linear(self.up, _normalise(self.norm2, x))))


class SensorsToActuators(eqx.Module):
    """Transformer from any set of sensors to any set of actuators, each identified by a vector.

    A sensor enters as sines and cosines of its value together with its vector; the encoder lets sensors look at each
    other, the decoder lets actuators, which start as their vectors, look at the sensors and answer with an action.
    """

    value: eqx.nn.Linear
    sensor: eqx.nn.Linear
    start: eqx.nn.Linear
    encoder: tuple[LookBlock, ...]
    norm: eqx.nn.LayerNorm
    decoder: tuple[LookBlock, ...]
    last: eqx.nn.LayerNorm
    head: eqx.nn.Linear

    def __init__(
        self,
        identity: int,
        width: int = 32,
        *,
        blocks: int = 1,
        heads: int = 2,
        output_scale: float = 1.0,
        key: PRNGKeyArray,
    ):
        value, sensor, start, head, *keys = jax.random.split(key, 4 + 2 * blocks)
        self.value = eqx.nn.Linear(1 + 2 * FREQUENCIES, width, key=value)
        self.sensor = eqx.nn.Linear(identity, width, use_bias=False, key=sensor)
        self.start = eqx.nn.Linear(identity, width, key=start)
        self.encoder = tuple(LookBlock(width, heads, key=k) for k in keys[:blocks])
        self.decoder = tuple(LookBlock(width, heads, key=k) for k in keys[blocks:])
        self.norm, self.last = eqx.nn.LayerNorm(width), eqx.nn.LayerNorm(width)
        self.head = _scaled(eqx.nn.Linear(width, 1, key=head), output_scale)

    def __call__(
        self,
        values: Float[Array, "*batch sensors"],
        sensors: Float[Array, "*#batch sensors identity"],
        actuators: Float[Array, "*#batch actuators identity"],
        present: Bool[Array, "*batch sensors"],
    ) -> Float[Array, "*batch actuators"]:
        """Actions, not bounded: the environment clips. Identities that are the same for the whole batch may come
        without its axes."""
        angle = values[..., None] * (jnp.pi / 2 * 2.0 ** jnp.arange(FREQUENCIES))
        waves = jnp.concatenate([values[..., None], jnp.sin(angle), jnp.cos(angle)], -1)
        x = _linear(self.value, waves) + _linear(self.sensor, sensors)
        for block in self.encoder:
            x = block(x, x, present)
        memory, y = _normalise(self.norm, x), _linear(self.start, actuators)
        y = jnp.broadcast_to(y, (*values.shape[:-1], *y.shape[-2:]))
        for block in self.decoder:
            y = block(y, memory, present)
        return _linear(self.head, _normalise(self.last, y))[..., 0]


def _scaled(layer: eqx.nn.Linear, scale: float) -> eqx.nn.Linear:
    """Smaller first weights: an untrained policy that hardly acts."""
    return jax.tree.map(lambda x: scale * x, layer)


def _sensors(tokens: Array) -> tuple[Array, Array, Array, Array]:
    """Values and presence of all sensors, mask of joints, descriptions."""
    mask, own, shared, description = split_tokens(tokens)
    present = jnp.concatenate([mask > 0, jnp.ones(shared.shape, bool)], -1)
    return jnp.concatenate([own[..., 0], shared], -1), present, mask, description


class AnyMorphPolicy(eqx.Module):
    """Acts without being told how the body is built: every sensor and actuator has a learned token, and what the
    body is follows from which are there.

    Source: Trabucco et al. (2022), section 4: sensor encoder and actuator decoder, values as sines. The official code
        starts the output layer near zero (within 0.003): `output_scale` shrinks its first weights.

    Attributes:
        tokens: of all sensors and actuators.
        network: from sensors to actuators.
    """

    tokens: MorphologyTokens
    network: SensorsToActuators

    def __init__(
        self, joints: int = 6, width: int = 32, *, blocks: int = 1, output_scale: float = 1.0, key: PRNGKeyArray
    ):
        tokens, network = jax.random.split(key)
        self.tokens = MorphologyTokens(joints, width, key=tokens)
        self.network = SensorsToActuators(width, width, blocks=blocks, output_scale=output_scale, key=network)

    def __call__(self, tokens: Float[Array, "*batch joints numbers"]) -> Float[Array, "*batch joints"]:
        """Actions; 0 for joints that are not there. Of the observation only the senses are read, not the body plan."""
        values, present, mask, _ = _sensors(tokens)
        sensors = jnp.concatenate([self.tokens.joint_sensors, self.tokens.shared_sensors])
        return self.network(values, sensors, self.tokens.actuators, present) * mask


class GraphDescribedPolicy(eqx.Module):
    """The same transformer, but each joint is identified by a linear map of its description: the given graph.

    Source: the competitor of Trabucco et al. (2022), after Amorpheus (Kurin et al., 2021): one node a joint.

    Attributes:
        describe: description -> vector of the joint's sensor, and of its motor.
        shared_sensors: vectors of the sensors of the whole body.
        network: from sensors to actuators.
        columns: how many numbers of the description are read. The first five of `describe` (worlds.control.swimmer)
            are the graph: lengths before and after the joint, position, index and number of joints; the
            last three are physics (drag ratios, gear).
    """

    describe: eqx.nn.Linear
    shared_sensors: Float[Array, "shared width"]
    network: SensorsToActuators
    columns: int = eqx.field(static=True)

    def __init__(
        self, width: int = 32, *, columns: int = 5, blocks: int = 1, output_scale: float = 1.0, key: PRNGKeyArray
    ):
        describe, shared, network = jax.random.split(key, 3)
        self.describe = eqx.nn.Linear(columns, 2 * width, key=describe)
        self.shared_sensors = jax.random.normal(shared, (SHARED, width))
        self.network = SensorsToActuators(width, width, blocks=blocks, output_scale=output_scale, key=network)
        self.columns = columns

    def __call__(self, tokens: Float[Array, "*batch joints numbers"]) -> Float[Array, "*batch joints"]:
        """Actions; 0 for joints that are not there."""
        values, present, mask, description = _sensors(tokens)
        own, actuators = jnp.split(_linear(self.describe, description[..., : self.columns]), 2, axis=-1)
        shared = jnp.broadcast_to(self.shared_sensors, (*mask.shape[:-1], *self.shared_sensors.shape))
        return self.network(values, jnp.concatenate([own, shared], -2), actuators, present) * mask


class PaddedMLP(eqx.Module):
    """A plain network on the senses of all slots, zeros where a joint is missing, with the mask of joints.

    Attributes:
        layers: two hidden layers, tanh.
    """

    layers: tuple[eqx.nn.Linear, eqx.nn.Linear, eqx.nn.Linear]

    def __init__(self, joints: int = 6, width: int = 128, *, output_scale: float = 1.0, key: PRNGKeyArray):
        a, b, c = jax.random.split(key, 3)
        self.layers = (
            eqx.nn.Linear(2 * joints + SHARED, width, key=a),
            eqx.nn.Linear(width, width, key=b),
            _scaled(eqx.nn.Linear(width, joints, key=c), output_scale),
        )

    def __call__(self, tokens: Float[Array, "*batch joints numbers"]) -> Float[Array, "*batch joints"]:
        """Actions; 0 for joints that are not there."""
        values, _, mask, _ = _sensors(tokens)
        x = jnp.concatenate([values, mask], -1)
        for layer in self.layers[:-1]:
            x = jnp.tanh(_linear(layer, x))
        return _linear(self.layers[-1], x) * mask


def token_shuffle_probe(policy: AnyMorphPolicy, key: PRNGKeyArray) -> AnyMorphPolicy:
    """The policy with every joint's tokens exchanged for another's: a random cyclic permutation, so that none keeps
    its own, the same for sensors and motors. What is left of its performance does not need to know the body."""
    joints = policy.tokens.actuators.shape[0]
    cycle = jax.random.permutation(key, joints)
    order = jnp.zeros(joints, cycle.dtype).at[cycle].set(jnp.roll(cycle, 1))
    return eqx.tree_at(lambda p: p.tokens, policy, policy.tokens.shuffled(order))
