"""Small control tasks drawn as images, with visual axes that leave the task alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments import spaces
from gymnax.environments.environment import Environment
from jaxtyping import Array, Bool, Float, Int, Key

from unseen.lab import UserError

Task = Literal["reach", "push", "catch", "pole"]
Background = Literal["plain", "texture", "digits"]

SHAPES = 3  # things that a task draws, at most
KINDS = {"plain": 0.0, "texture": 1.0, "digits": 2.0}
COLOURS = ((0.9, 0.9, 0.9), (0.9, 0.25, 0.2), (0.2, 0.75, 0.3))  # of the shapes: agent, goal, object
GREY = 0.15  # of a plain background


class Visuals(eqx.Module):
    """How a task looks. Nothing here touches its state.

    Every field may be a traced value, so that visual conditions share one compiled program.

    Axes: all fields.

    Attributes:
        hue: turns all colours of the shapes around the colour circle, in turns; 0 is the usual look.
        background: 0 plain grey, 1 an oblique grating with colour, 2 a mosaic of real 8x8 digits.
        strength: contrast of the background, 0 to 1.
        drift: speed of the background, in pixels a step; 0 stands still.
        distractors: how many moving discs that mean nothing (0 to 4) are behind the task's shapes.
        shift: of the camera, in pixels (right, down).
        brightness: factor on all pixels, which are clipped to [0, 1].
        style: chooses the texture, the digits, and the distractors' colours and orbits.
    """

    hue: Float[Array, ""]
    background: Float[Array, ""]
    strength: Float[Array, ""]
    drift: Float[Array, ""]
    distractors: Float[Array, ""]
    shift: Float[Array, " 2"]
    brightness: Float[Array, ""]
    style: Float[Array, ""]


def visuals(
    *,
    hue: float | Array = 0.0,
    background: Background | str | float | Array = "plain",
    strength: float | Array = 0.8,
    drift: float | Array = 0.0,
    distractors: int | float | Array = 0,
    shift: tuple[float, float] | Array = (0.0, 0.0),
    brightness: float | Array = 1.0,
    style: int | float | Array = 0,
) -> Visuals:
    """The usual look, but for what is given; fields as in `Visuals`, the background also by name.

    Raises:
        UserError: on an unknown background.
    """
    if isinstance(background, str):
        if background not in KINDS:
            raise UserError(f"background takes {', '.join(KINDS)}, got {background!r}.")
        background = KINDS[background]
    values = (hue, background, strength, drift, distractors, shift, brightness, style)
    return Visuals(*(jnp.asarray(v, jnp.float32) for v in values))


class PixelParams(eqx.Module):
    """What of PixelControl may vary inside one compiled program.

    Attributes:
        looks: a stack of looks; each episode draws one of them.
        max_steps_in_episode: the episode's time limit.
    """

    looks: Visuals
    max_steps_in_episode: int = eqx.field(static=True)


class PixelState(eqx.Module):
    """The task's state and the look of the episode.

    Attributes:
        physical: what the task moves; lengths in image widths, the visible square is [-1, 1] x [-1, 1].
        look: the episode's visuals; the dynamics never read it.
        time: steps since the start of the episode.
    """

    physical: Float[Array, " 6"]
    look: Visuals
    time: Int[Array, ""]


class PixelControl(Environment):
    """A gymnax environment whose observations are small images, with exact knowledge of which pixels matter.

    Tasks (actions: two numbers in [-1, 1], of which catch and pole use the first):

    - `reach`: a disc moves with the action; reward 1 - distance to the goal, which is a disc of another colour.
    - `push`: the disc pushes a puck that it touches; reward 1 - distance of puck and goal.
    - `catch`: a ball falls, a paddle moves along the bottom; 1 when the ball is caught, then the next falls.
    - `pole`: a pole on a cart must stay up; reward 1 - |angle| / 0.6 rad; at 0.6 it has fallen and starts anew.

    Observations are (size, size, 3) in [0, 1]. Axes: the fields of `Visuals`, of which each episode draws one look
    from `params.looks` by a key of its own: the path of the state under the same keys and actions is the same, bit
    for bit, under every look.

    Args:
        task: one of the four.
        size: pixels a side; 28 is the larger option.

    Raises:
        UserError: on an unknown task or a size below 8.
    """

    def __init__(self, task: Task | str = "reach", size: int = 20):
        super().__init__()
        if task not in get_args(Task):
            raise UserError(f"task takes one of {', '.join(get_args(Task))}, got {task!r}.")
        if size < 8:
            raise UserError(f"size takes a number of pixels from 8 on, got {size}.")
        self.task, self.size = task, size
        self.digits = _digit_tiles()

    def params(self, *looks: Visuals, max_steps: int = 100) -> PixelParams:
        """Parameters of a run: episodes look like one of `looks`, by default the usual one."""
        stacked = jax.tree.map(lambda *x: jnp.stack(x), *(looks or (visuals(),)))
        return PixelParams(stacked, max_steps)

    @property
    def default_params(self) -> PixelParams:
        """The usual look."""
        return self.params()

    # gymnax's interface ----------------------------------------------------------------------------------

    def reset_env(self, key: Key[Array, ""], params: PixelParams) -> tuple[Float[Array, "size size 3"], PixelState]:
        """A new episode."""
        place, see = jax.random.split(key)
        which = jax.random.randint(see, (), 0, params.looks.hue.shape[0])
        look = jax.tree.map(lambda x: x[which], params.looks)
        state = PixelState(self.begin(place), look, jnp.zeros((), jnp.int32))
        return self.get_obs(state), state

    def step_env(self, key: Any, state: PixelState, action: Any, params: PixelParams) -> tuple:
        """One step of the task."""
        physical, reward = self.advance(key, state.physical, jnp.clip(action, -1, 1))
        state = PixelState(physical, state.look, state.time + 1)
        return self.get_obs(state), state, reward, jnp.array(False), {}

    def get_obs(self, state: PixelState, params: Any = None, key: Any = None) -> Float[Array, "size size 3"]:
        """The image."""
        return self.render(state)[0]

    def is_terminated(self, state: PixelState, params: PixelParams) -> Bool[Array, ""]:
        """Never: tasks go on until the time limit."""
        return jnp.array(False)

    def action_space(self, params: PixelParams | None = None) -> spaces.Box:
        """Two numbers."""
        return spaces.Box(-1.0, 1.0, (2,), jnp.float32)

    def observation_space(self, params: PixelParams | None = None) -> spaces.Box:
        """An image."""
        return spaces.Box(0.0, 1.0, (self.size, self.size, 3), jnp.float32)

    @property
    def name(self) -> str:
        """The task."""
        return f"PixelControl-{self.task}"

    @property
    def num_actions(self) -> int:
        """Components of an action."""
        return 2

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and (self.task, self.size) == (other.task, other.size)  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash((type(self), self.task, self.size))

    # Tasks -----------------------------------------------------------------------------------------------

    def begin(self, key: Key[Array, ""]) -> Float[Array, " 6"]:
        """A first physical state: (agent x, y, object x, y, goal x, y), for the pole (cart, speed, angle, turning, 0,
        0). y points down."""
        drawn = jax.random.uniform(key, (6,), minval=-1.0, maxval=1.0)
        if self.task == "reach":
            return (0.8 * drawn).at[2:4].set(0.0)
        if self.task == "push":
            return drawn * jnp.array([0.8, 0.8, 0.5, 0.5, 0.7, 0.7])
        if self.task == "catch":
            return jnp.stack([0.8 * drawn[0], jnp.array(0.85), 0.8 * drawn[2], jnp.array(-0.9), 0.04 * drawn[4],
                              jnp.array(0.0)])  # fmt: skip
        return jnp.zeros(6).at[:4].set(drawn[:4] * jnp.array([0.3, 0.1, 0.1, 0.1]))

    def advance(
        self, key: Any, physical: Float[Array, " 6"], action: Float[Array, " 2"]
    ) -> tuple[Float[Array, " 6"], Float[Array, ""]]:
        """The next physical state and the reward."""
        agent, thing, goal = physical[:2], physical[2:4], physical[4:]
        if self.task == "reach":
            agent = jnp.clip(agent + 0.12 * action, -0.9, 0.9)
            return jnp.concatenate([agent, thing, goal]), 1 - jnp.linalg.norm(agent - goal)
        if self.task == "push":
            agent = jnp.clip(agent + 0.12 * action, -0.9, 0.9)
            gap = thing - agent
            distance = jnp.sqrt(jnp.square(gap).sum() + 1e-8)
            thing = jnp.clip(thing + gap / distance * jnp.maximum(0.34 - distance, 0.0), -0.9, 0.9)
            return jnp.concatenate([agent, thing, goal]), 1 - jnp.linalg.norm(thing - goal)
        if self.task == "catch":
            paddle = jnp.clip(agent.at[0].add(0.15 * action[0]), -0.9, 0.9).at[1].set(0.85)
            x, y = thing[0] + goal[0], thing[1] + 0.12
            landed = y >= 0.85
            caught = landed & (jnp.abs(x - paddle[0]) < 0.3)
            fresh = jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)
            ball = jnp.where(landed, jnp.stack([0.8 * fresh[0], jnp.array(-0.9)]), jnp.stack([x, y]))
            drift = jnp.where(landed, 0.04 * fresh[1], jnp.where(jnp.abs(x) > 0.9, -goal[0], goal[0]))
            return jnp.concatenate([paddle, ball, jnp.stack([drift, goal[1]])]), caught.astype(jnp.float32)
        cart, speed, angle, turning = physical[0], physical[1], physical[2], physical[3]
        force = 0.25 * action[0]
        turning = turning + 0.25 * jnp.sin(angle) - force * jnp.cos(angle)
        speed = 0.9 * speed + 0.4 * force
        cart, angle = jnp.clip(cart + 0.4 * speed, -0.8, 0.8), angle + 0.25 * turning
        up = jnp.abs(angle) < 0.6
        anew = 0.1 * jax.random.uniform(key, (4,), minval=-1.0, maxval=1.0)
        moved = jnp.where(up, jnp.stack([cart, speed, angle, turning]), anew.at[0].set(cart))
        return jnp.concatenate([moved, physical[4:]]), jnp.maximum(1 - jnp.abs(angle) / 0.6, 0.0)

    # Pictures --------------------------------------------------------------------------------------------

    def render(self, state: PixelState) -> tuple[Float[Array, "size size 3"], Float[Array, "size size"]]:
        """The image, and the share of each pixel that shows the task (0: background or distractor)."""
        # Rows of the picture are flat, (red, green, blue) by pixel: one loop over contiguous numbers, faster
        # than three planes that are woven together in the end.
        look, size = state.look, self.size
        pixel = (jnp.arange(size) + 0.5) * (2 / size) - 1
        x, y = pixel - look.shift[0] * 2 / size, (pixel - look.shift[1] * 2 / size)[:, None]
        flat = jnp.repeat(x, 3)
        picture = self._background(look, x, y, state.time)
        for disc, colour in self._distractors(look, flat, y, state.time):
            picture = picture + disc * (self._across(colour) - picture)
        for cover, colour in zip(self._shapes(state.physical, flat, y), _turned(look.hue), strict=False):
            picture = picture + cover * (self._across(colour) - picture)
        task = jnp.zeros((size, size))
        for cover in self._shapes(state.physical, x, y):
            task = task + cover * (1 - task)
        return jnp.clip(picture * look.brightness, 0, 1).reshape(size, size, 3), task

    def _across(self, colour: Sequence[Any]) -> Float[Array, " flat"]:
        """A colour for every pixel of a row."""
        return jnp.tile(jnp.stack([jnp.asarray(c, jnp.float32) for c in colour]), self.size)

    def relevant(self, state: PixelState) -> Bool[Array, "size size"]:
        """Which pixels show anything of the task: the truth that attribution is scored against."""
        return self.render(state)[1] > 0

    def _shapes(self, s: Array, x: Array, y: Array) -> list[Array]:
        """Share of each pixel that the shapes cover, goal first, so that the agent is in front."""
        edge = self.size / 2  # one pixel of blur

        def disc(cx: Any, cy: Any, radius: float) -> Array:
            square = (x - cx) ** 2 + (y - cy) ** 2
            return jnp.clip((radius**2 - square) * (edge / (2 * radius)) + 0.5, 0, 1)

        def box(cx: Any, cy: Any, width: float, height: float) -> Array:
            across = jnp.clip((width - jnp.abs(x - cx)) * edge + 0.5, 0, 1)
            return across * jnp.clip((height - jnp.abs(y - cy)) * edge + 0.5, 0, 1)

        if self.task == "reach":
            return [disc(s[4], s[5], 0.22), disc(s[0], s[1], 0.16)]
        if self.task == "push":
            return [disc(s[4], s[5], 0.24), disc(s[0], s[1], 0.14), disc(s[2], s[3], 0.2)]
        if self.task == "catch":
            return [disc(s[2], s[3], 0.14), box(s[0], s[1], 0.28, 0.08)]
        # The pole is a segment of length 0.9 from the cart at (cart, 0.6).
        along_x, along_y = jnp.sin(s[2]), -jnp.cos(s[2])
        px, py = x - s[0], y - 0.6
        at = jnp.clip(px * along_x + py * along_y, 0, 0.9)
        square = (px - at * along_x) ** 2 + (py - at * along_y) ** 2
        pole = jnp.clip((0.07**2 - square) * (edge / 0.14) + 0.5, 0, 1)
        return [pole, box(s[0], 0.7, 0.2, 0.1)]

    def _background(self, look: Visuals, x: Array, y: Array, time: Array) -> Float[Array, "size flat"]:
        """What is behind everything, in flat rows."""
        moved = look.drift * time * 2 / self.size
        angle = look.style * 2.399963  # golden angle: neighbouring styles differ most
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        # What needs sines or divisions is done for rows and columns apart: sin(a + b) = sin a cos b + cos a sin b.
        pitch = 5 + 2 * jnp.sin(3 * angle)
        across, down = pitch * cos * (x + moved), pitch * sin * y
        sine, cosine = jnp.repeat(jnp.sin(across), 3), jnp.repeat(jnp.cos(across), 3)
        wave = 0.5 + 0.5 * (sine * jnp.cos(down) + cosine * jnp.sin(down))
        # A mosaic of digits: each 8x8 tile of the plane shows one real digit, chosen by style and place.
        column = jnp.floor((x + moved + 1) * self.size / 2).astype(jnp.int32)
        row = jnp.floor((y + 1) * self.size / 2).astype(jnp.int32)
        half = self.digits.shape[0] // 2
        by_column = (column // 8 * 31 + (97 * look.style).astype(jnp.int32)) % half * 64 + column % 8
        by_row = (row // 8 * 17) % half * 64 + row % 8 * 8
        digit = jnp.asarray(self.digits).reshape(-1)[by_column + by_row]
        pattern = jnp.where(look.background > 1.5, jnp.repeat(digit, 3, axis=1), wave)
        mixed = jnp.where(look.background > 0.5, look.strength, 0.0)
        tint = self._across([0.5 + 0.5 * jnp.cos(angle + phase) for phase in (0.0, 2.1, 4.2)])
        return GREY + mixed * (pattern * tint - GREY)

    def _distractors(self, look: Visuals, x: Array, y: Array, time: Array) -> Any:
        """Discs on orbits, and their colours."""
        for i in range(4):
            phase = look.style * 1.7 + i * 1.5708
            turn = phase + 0.15 * (1 + 0.3 * i) * time
            square = (x - 0.65 * jnp.cos(turn)) ** 2 + (y - 0.65 * jnp.sin(turn * 0.8)) ** 2
            radius = jnp.where(look.distractors > i + 0.5, 0.18**2, -9.0)  # of those that are not there: nothing
            disc = jnp.clip((radius - square) * (self.size / 2 / 0.36) + 0.5, 0, 1)
            yield disc, [0.5 + 0.5 * jnp.cos(2 * phase + shade) for shade in (0.0, 2.1, 4.2)]


def _turned(hue: Float[Array, ""]) -> list[list[Array]]:
    """The colours of goal, agent and object with their hue turned: a rotation about the grey axis."""
    angle = 2 * jnp.pi * hue
    cos, third, root = jnp.cos(angle), (1 - jnp.cos(angle)) / 3, jnp.sin(angle) / 3**0.5
    matrix = ((cos + third, third - root, third + root), (third + root, cos + third, third - root),
              (third - root, third + root, cos + third))  # fmt: skip
    order = (COLOURS[1], COLOURS[0], COLOURS[2])
    return [[sum(m * c for m, c in zip(row, colour, strict=True)) for row in matrix] for colour in order]  # type: ignore[misc]


def _digit_tiles() -> Float[np.ndarray, "digits 8 8"]:
    """The real 8x8 digits of scikit-learn, grey levels in [0, 1]."""
    from unseen.worlds.clusters.digits import DigitDomains

    return np.asarray(DigitDomains.digits().images, np.float32)
