"""Planar chains of rigid links that swim in a fluid without inertia."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

LINKS = 7  # slots; a body may lack some
JOINTS = LINKS - 1
TIME_STEP = 0.1  # of the simulator
PERIOD = 20  # steps of one turn of the phase clock
CLOCK = 2 * jnp.pi / (PERIOD * TIME_STEP)  # its angular velocity
LARGEST_ANGLE = 1.2  # of a joint, in radians
LARGEST_RATE = 4.0  # of a joint, in radians a unit of time
SENSORS = 6  # numbers that a joint's token has from the state
DESCRIPTION = 8  # numbers that it has from the body plan


class Swimmer(eqx.Module):
    """A body plan: a chain of links, head first, with slots for links that are missing.

    Joint j sits between link j + 1 and the nearest link before it that is there, so taking a link out leaves a
    shorter chain of the same other links. All arrays may have leading axes: a stack of bodies.

    Axes: number of links, lengths, drag ratios, gear signs.

    Attributes:
        length: of the links; 0 where missing.
        ratio: drag coefficient normal to a link over the one along it (which is 1).
        gear: 1, or -1 where the joint turns against the command.
        present: which links are there; the head (link 0) always is.
    """

    length: Float[Array, "*bodies 7"]
    ratio: Float[Array, "*bodies 7"]
    gear: Float[Array, "*bodies 6"]
    present: Bool[Array, "*bodies 7"]

    @property
    def joints(self) -> Bool[Array, "*bodies 6"]:
        """Which joints are there."""
        return self.present[..., 1:]

    @property
    def links(self) -> Int[Array, "*bodies"]:
        """Number of links."""
        return self.present.sum(-1)

    @property
    def body_length(self) -> Float[Array, "*bodies"]:
        """Sum of the links."""
        return self.length.sum(-1)

    @property
    def rank(self) -> Int[Array, "*bodies 6"]:
        """How many joints lie between each joint and the head."""
        return jnp.cumsum(self.joints, -1) - self.joints

    def __getitem__(self, index: int | slice | Int[Array, "*some"]) -> Swimmer:
        return jax.tree.map(lambda x: x[index], self)


class SwimmerState(eqx.Module):
    """Where a body is.

    Attributes:
        position: of the centroid of its links, weighted by length.
        heading: direction of the head link, in radians from the x axis.
        angles: of the joints, 0 where there is none.
        time: steps since the start of the episode.
    """

    position: Float[Array, "*bodies 2"]
    heading: Float[Array, "*bodies"]
    angles: Float[Array, "*bodies 6"]
    time: Int[Array, "*bodies"]


def velocity(
    body: Swimmer, angles: Float[Array, " 6"], rates: Float[Array, " 6"]
) -> tuple[Float[Array, " 2"], Float[Array, ""]]:
    """How a body moves as a whole while its joints turn: drag forces and torques on all links sum to zero.

    Resistive force theory (Gray and Hancock, 1955): a link of length L resists velocity along it with 1, normal
    to it with `ratio`, and turning with ratio L^3 / 12. Three linear equations.

    Returns:
        Velocity of the centroid in the frame of the head link, and angular velocity.
    """
    zero = jnp.zeros(1)
    heading = jnp.concatenate([zero, jnp.cumsum(angles)])
    turning = jnp.concatenate([zero, jnp.cumsum(rates)])
    cos, sin, length, ratio = jnp.cos(heading), jnp.sin(heading), body.length, body.ratio

    def centred(forward: Array) -> Array:
        """Link centres from vectors that point forward along the links, relative to the centroid."""
        centre = forward / 2 - jnp.cumsum(forward)
        return centre - (length @ centre) / length.sum()

    x, y = centred(length * cos), centred(length * sin)
    u, v = centred(-length * turning * sin), centred(length * turning * cos)  # velocities with the head held fast

    def drag(vx: Array, vy: Array) -> tuple[Array, Array]:
        along, normal = length * (vx * cos + vy * sin), ratio * length * (vy * cos - vx * sin)
        return along * cos - normal * sin, along * sin + normal * cos

    (ax, ay), (ux, uy) = drag(-y, x), drag(u, v)  # drag of turning as a whole, and of the joints' motion
    spin = ratio * length**3 / 12
    xx, yy = (length * (cos**2 + ratio * sin**2)).sum(), (length * (sin**2 + ratio * cos**2)).sum()
    xy = (length * (1 - ratio) * cos * sin).sum()
    xt, yt, tt = ax.sum(), ay.sum(), (x * ay - y * ax + spin).sum()
    fx, fy, torque = ux.sum(), uy.sum(), (x * uy - y * ux + spin * turning).sum()
    # Eliminate the velocity, then the turning.
    determinant = xx * yy - xy * xy
    px, py = (yy * xt - xy * yt) / determinant, (xx * yt - xy * xt) / determinant
    qx, qy = (yy * fx - xy * fy) / determinant, (xx * fy - xy * fx) / determinant
    omega = -(torque - xt * qx - yt * qy) / (tt - xt * px - yt * py)
    return jnp.stack([-qx - px * omega, -qy - py * omega]), omega


def move(body: Swimmer, state: SwimmerState, rates: Float[Array, " 6"]) -> SwimmerState:
    """One step at given joint rates, by the midpoint rule.

    The balance of forces depends on the joint angles alone, so the implicit midpoint rule needs no iteration: it is
    of second order and exactly reversible, which explicit Euler is not.
    """
    angles = state.angles + TIME_STEP * rates
    forward, omega = velocity(body, (state.angles + angles) / 2, rates)
    middle = state.heading + TIME_STEP / 2 * omega
    cos, sin = jnp.cos(middle), jnp.sin(middle)
    moved = jnp.stack([cos * forward[0] - sin * forward[1], sin * forward[0] + cos * forward[1]])
    return SwimmerState(state.position + TIME_STEP * moved, state.heading + TIME_STEP * omega, angles, state.time + 1)


def step(body: Swimmer, state: SwimmerState, action: Float[Array, " 6"]) -> SwimmerState:
    """One step under an action in [-1, 1] a joint: its rate in units of the largest, through its gear. Joints stop
    at their largest angle."""
    rates = LARGEST_RATE * jnp.clip(action, -1, 1) * body.gear * body.joints
    wanted = jnp.clip(state.angles + TIME_STEP * rates, -LARGEST_ANGLE, LARGEST_ANGLE)
    return move(body, state, (wanted - state.angles) / TIME_STEP)


def start(body: Swimmer, angles: Float[Array, " 6"]) -> SwimmerState:
    """A body at the origin that faces along x: the line from its tail to its head has direction 0."""
    angles = jnp.where(body.joints, angles, 0.0)
    state = SwimmerState(jnp.zeros(2), jnp.zeros(()), angles, jnp.zeros((), jnp.int32))
    return eqx.tree_at(lambda s: s.heading, state, -axis(body, state))


def random_start(key: Key[Array, ""], body: Swimmer) -> SwimmerState:
    """The same with joint angles uniform in the middle half of their range."""
    return start(body, LARGEST_ANGLE / 2 * jax.random.uniform(key, (JOINTS,), minval=-1.0))


def axis(body: Swimmer, state: SwimmerState) -> Float[Array, ""]:
    """Direction from tail to head, in radians from the x axis."""
    heading = state.heading + jnp.concatenate([jnp.zeros(1), jnp.cumsum(state.angles)])
    return jnp.arctan2(body.length @ jnp.sin(heading), body.length @ jnp.cos(heading))


def sense(body: Swimmer, state: SwimmerState) -> Float[Array, "6 6"]:
    """What each joint senses: that it is there, its angle (1 at the largest), and sine and cosine of the phase clock
    and of the body's direction. Zeros where there is no joint."""
    clock, direction = CLOCK * TIME_STEP * state.time, axis(body, state)
    shared = jnp.stack([jnp.sin(clock), jnp.cos(clock), jnp.sin(direction), jnp.cos(direction)])
    own = jnp.stack([jnp.ones(JOINTS), state.angles / LARGEST_ANGLE], -1)
    tokens = jnp.concatenate([own, jnp.broadcast_to(shared, (JOINTS, 4))], -1)
    return tokens * body.joints[:, None]


def describe(body: Swimmer) -> Float[Array, "6 8"]:
    """The body plan, a row a joint, zeros where there is none: lengths of the links before and after it and its
    distance from the snout, in body lengths; its number and the number of all joints, in sixths; binary logarithms
    of both links' drag ratios, halved; its gear."""
    # The link before a joint is the last one before it that is there.
    order = jnp.arange(LINKS)
    before = jnp.max(jnp.where((order < order[1:, None]) & body.present, order, 0), -1)
    lengths, ratios = body.length / body.body_length, jnp.log2(body.ratio) / 2
    rows = [
        lengths[before],
        lengths[1:],
        jnp.cumsum(lengths)[:-1],
        body.rank / JOINTS,
        jnp.broadcast_to(body.joints.sum() / JOINTS, (JOINTS,)),
        ratios[before],
        ratios[1:],
        body.gear,
    ]
    return jnp.stack(rows, -1) * body.joints[:, None]


def outline(body: Swimmer, state: SwimmerState) -> Float[Array, "8 2"]:
    """Ends of the links from snout to tail, for drawing; a missing link's two ends are one point."""
    heading = state.heading + jnp.concatenate([jnp.zeros(1), jnp.cumsum(state.angles)])
    forward = body.length[:, None] * jnp.stack([jnp.cos(heading), jnp.sin(heading)], -1)
    ends = jnp.concatenate([jnp.zeros((1, 2)), -jnp.cumsum(forward, 0)])
    centres = (ends[1:] + ends[:-1]) / 2
    return ends - body.length @ centres / body.body_length + state.position
