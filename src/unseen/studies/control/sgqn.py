"""Bertoin et al. (2022): a Q-network that is made to rely on the pixels it finds important."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import xarray as xr
from jaxtyping import Array, Float

from unseen.lab import Judgement, Learner, Study, UserError, above, claim, figures
from unseen.lab.statistics import mean_interval, paired_difference
from unseen.learners.q_learning import Interaction, q_learning
from unseen.learners.sgqn import SGQN
from unseen.measures.generalization import normalised_return
from unseen.measures.saliency import attribution, saliency_mass
from unseen.methods.overlay import RandomOverlay
from unseen.models.saliency_encoder import SaliencyEncoder
from unseen.worlds.clusters.photographs import photographs
from unseen.worlds.control.context import episode_return
from unseen.worlds.control.discrete_pixels import DiscretePixels
from unseen.worlds.control.pixels import PixelControl, PixelParams, PixelState, Visuals, visuals

METHODS: dict[str, dict[str, Any]] = {
    "dqn": dict(consistency=0.0, prediction=0.0),
    "overlay": dict(consistency=0.0, prediction=0.0, overlaid_values=True),
    "sgqn": {},
    "no prediction": dict(prediction=0.0),
    "random masks": dict(masks="random"),
    "both": dict(overlaid_values=True),
}
# Each look stands for the episodes of a test; there is one distractor in all but the last.
HUES, STYLES = (0.2, 0.4, 0.6, 0.8), (11, 12, 13, 14)
USUAL = visuals(distractors=1, style=2)
LOOKS = {
    "training": [USUAL] * 4,
    "recoloured": [visuals(hue=hue, distractors=1, style=2) for hue in HUES],
    "texture": [visuals(background="texture", distractors=1, style=style) for style in STYLES],
    "moving texture": [visuals(background="texture", drift=1.0, distractors=1, style=style) for style in STYLES],
    "distractors": [visuals(distractors=3, style=style) for style in STYLES],
}
SHOWN = ("training", "texture", "moving texture")  # in the figure


class Sgqn(Study):
    """Look where you look! Saliency-guided Q-networks (Bertoin et al., 2022).

    Double DQN steers a disc to another one, seen as small images with one moving distractor that means nothing, and
    is tested under colours, backgrounds and distractors never seen in training. Returns are normalised: 0 is random
    actions, 1 a controller that knows the positions and takes the best step. The saliency losses are compared with
    the plain learner, with one that also learns from images under an overlay of photographs (SVEA), with themselves
    without the prediction loss, and with random masks of equal size. `--algorithm` also takes `both`, which adds the
    overlay to SGQN's value loss, where the paper's code has it in the prediction loss only: the note of
    `beyond-augmentation` then reports it. The attribution of the greedy action is scored against the renderer's own
    mask.

    Weights were chosen by the return under the training look on pilots. The two losses' with seeds 0 and 1 and half the
    updates, where DQN reached 0.66: with the paper's weight of consistency (0.5 beside the whole squared error, so 0.25
    beside the half of it that is used here) SGQN reached 0.21, 0.35 and 0.41 at prediction 1, 0.1 and 0, with a fifth
    of it 0.30 and 0.53 at prediction 1 and 0.1. The last pair is used: both losses slow the learning down. The share of
    the photograph in an overlay with all updates: at the usual 0.5 the learner with overlay reached 0.53 and SGQN 0.71
    (seeds 0 to 2), at 0.3 they reached 0.68 and 0.66 (seeds 0 and 1), where DQN reached 0.82; 0.3 is used for both.

    What came out: nothing is decided. Under unseen looks SGQN earns 0.18, DQN 0.16, the overlay 0.19, random masks
    0.19; no difference is larger than its interval, and the gap of 0.10 that the paper's claim asks for lies outside of
    it. The likely reason is in the attributions: 0.08 of them falls on what matters, where chance is 0.06, for every
    learner alike. A network that reads positions from all patches at once has no compact saliency that its own loss
    could sharpen, so own masks are no better than random ones; and all auxiliary losses cost a tenth of the training
    return in 4,000 updates. Whether longer training or a deeper convolutional encoder changes this is for `paper`.
    """

    steps: int = 16_000  # environment steps
    lanes: int = 4  # environments side by side; one update for a step of each
    horizon: int = 20  # steps of an episode
    size: int = 20  # pixels a side
    features: int = 24  # of a patch
    outputs: int = 64  # features of an image
    width: int = 64  # of the one hidden layer after them
    batch: int = 64
    learning_rate: float = 1e-3  # of Adam
    discount: float = 0.9
    quantile: float = 0.9  # share of pixels that are not salient
    consistency: float = 0.05  # weight of the loss
    prediction: float = 0.1  # weight of the loss
    pictures: int = 256  # pieces of photographs to overlay
    share: float = 0.3  # of the photograph in an overlay
    episodes: int = 64  # under each look, in a test
    every: int = 500  # updates between two tests
    seeds: int = 5

    varies = dict(algorithm=("dqn", "overlay", "sgqn", "no prediction", "random masks"))
    smoke = dict(
        algorithm=("overlay", "sgqn"), steps=160, every=20, horizon=5, episodes=4, batch=8, features=4, outputs=8,
        width=8, pictures=8, seeds=2,
    )  # fmt: skip
    paper = dict(
        steps=500_000, lanes=1, size=84, features=32, outputs=100, width=1024, batch=128, pictures=10_000,
        every=10_000, consistency=0.25, prediction=1.0, share=0.5, horizon=250, discount=0.99, seeds=10,
    )  # fmt: skip
    watch = ("training_return", "shifted_return")

    def check(self) -> None:
        """Known algorithms; sizes that fit."""
        if bad := [name for name in self.algorithm if name not in METHODS]:
            raise UserError(f"algorithm takes {', '.join(METHODS)}, got {bad[0]!r}.")
        if self.steps < 1 or self.steps % (self.lanes * self.every):
            raise UserError(f"steps takes a multiple of lanes * every, {self.lanes * self.every}, got {self.steps}.")
        if self.size % 4:
            raise UserError(f"size takes a multiple of 4, the side of a patch, got {self.size}.")
        if not 0 < self.share < 1:
            raise UserError(f"share takes a number between 0 and 1, got {self.share}.")
        if not 0 <= self.quantile < 1:
            raise UserError(f"quantile takes a share from 0 to less than 1, got {self.quantile}.")

    def learner(self, algorithm) -> Learner:
        """One agent in training."""
        world = DiscretePixels("reach", self.size)
        agent = SGQN(
            **dict(consistency=self.consistency, prediction=self.prediction) | METHODS[algorithm],
            actions=world.num_actions, discount=self.discount, width=self.width, depth=1, quantile=self.quantile,
            encoder=lambda key: SaliencyEncoder(
                self.size, actions=world.num_actions, features=self.features, outputs=self.outputs, key=key
            ),
            overlay=RandomOverlay(jnp.asarray(photographs(self.size, self.pictures)), self.share),
            optimizer=optax.adam(self.learning_rate), target_rate=0.01,
        )  # fmt: skip
        looks = jax.tree.map(lambda *x: jnp.stack(x), *(_stack(group) for group in LOOKS.values()))
        score, updates = self.scorer(world), self.steps // self.lanes

        def measure(state: Interaction) -> dict[str, Array]:
            def act(_: Any, image: Array) -> Array:
                return agent.values(state.learning.network, image).mean(0).argmax()

            scores = score(act, looks, state.key)
            return {"score": scores, "training_return": scores[0], "shifted_return": scores[1:].mean()}

        def final(state: Interaction) -> dict[str, Array]:
            def explain(look: Visuals, key: Array) -> tuple[Array, Array, Array]:
                image, truth = world.plain.render(random_state(world.plain, look, self.horizon, key))
                greedy = agent.values(state.learning.network, image).mean(0).argmax()
                found = attribution(lambda x: agent.values(state.learning.network, x).mean(0)[greedy], image)
                return image, truth, found

            keys = jax.random.split(jax.random.fold_in(state.key, 2), (4, self.episodes // 4))
            image, truth, found = jax.vmap(jax.vmap(jax.vmap(explain, (None, 0))), (0, None))(looks, keys)
            shown = jnp.array([list(LOOKS).index(name) for name in SHOWN])
            return {
                "mass": saliency_mass(found, truth).mean((1, 2)),
                "chance": truth.mean((1, 2, 3, 4)),
                "picture": image[shown, 0, 0], "saliency": found[shown, 0, 0],
            }  # fmt: skip

        return q_learning(
            agent, world, world.params(USUAL, max_steps=self.horizon), total_steps=self.steps, every=self.every,
            capacity=updates, batch_size=self.batch, lanes=self.lanes, warmup=self.batch,
            epsilon=lambda step: jnp.clip(1 - step / (0.3 * self.steps), 0.1, 1.0), measure=measure, final=final,
            dims={"score": ("look",), "mass": ("look",), "chance": ("look",),
                  "picture": ("view", "row", "column", "colour"), "saliency": ("view", "row", "column")},
            coords={"look": list(LOOKS), "view": list(SHOWN)},
        )  # fmt: skip

    def scorer(self, world: DiscretePixels) -> Callable[[Any, Visuals, Array], Float[Array, " groups"]]:
        """A function of (key, image) -> number of an action, groups of looks and a key, to normalised mean returns."""
        bare, numbers = _Bare("reach", self.size), jnp.arange(world.num_actions)

        def at_random(key: Array, _: Any) -> Array:
            return world.move(jax.random.choice(key, numbers))

        def best(_: Any, physical: Array) -> Array:
            ahead = jax.vmap(lambda number: world.plain.advance(None, physical, world.move(number))[1])(numbers)
            return world.move(ahead.argmax())

        def score(act: Any, looks: Visuals, key: Array) -> Float[Array, " groups"]:
            def one(group: Visuals) -> Array:
                params, keys = PixelParams(group, self.horizon), jax.random.split(key, self.episodes)

                def returns(played: PixelControl, act: Any) -> Array:
                    return jax.vmap(lambda k: episode_return(played, params, act, k))(keys).mean()

                policy = returns(world.plain, lambda key, image: world.move(act(key, image)))
                return normalised_return(policy, returns(bare, at_random), returns(bare, best))

            return jax.vmap(one)(looks)

        return score

    # Claims ----------------------------------------------------------------------------------------------

    def shifted(self, e: xr.Dataset, algorithm: str) -> xr.DataArray:
        """Last normalised return, mean over the looks that were not trained on."""
        return e.score.isel(step=-1).sel(algorithm=algorithm).drop_sel(look="training").mean("look", skipna=False)

    def note(self, e: xr.Dataset) -> str:
        """Means under the training look and the others, of all algorithms."""
        last = e.score.isel(step=-1).mean("seed", skipna=False)
        return "training and shifted returns: " + ", ".join(
            f"{name} {float(last.sel(algorithm=name, look='training')):.2f} {float(self.shifted(e, name).mean()):.2f}"
            for name in e.algorithm.values
        )

    @claim("gap")
    def gap(self, e: xr.Dataset) -> Judgement:
        """Shifted return, SGQN minus DQN."""
        effect = mean_interval(paired_difference(self.shifted(e, "sgqn"), self.shifted(e, "dqn")))
        return above(effect, 0.10, refuted_below=0.05, note=self.note(e))

    @claim("beyond-augmentation")
    def beyond_augmentation(self, e: xr.Dataset) -> Judgement:
        """Shifted return, SGQN minus DQN with overlay."""
        overlay = self.shifted(e, "overlay")
        also = {}
        if "both" in e.algorithm.values:
            also["with the overlay in its value loss too"] = mean_interval(
                paired_difference(self.shifted(e, "both"), overlay)
            )
        effect = mean_interval(paired_difference(self.shifted(e, "sgqn"), overlay))
        return above(effect, 0.0, also=also)

    @claim("looks-right")
    def looks_right(self, e: xr.Dataset) -> Judgement:
        """Share of the attribution on what matters in shifted images, SGQN minus DQN with overlay."""
        mass = e.mass.drop_sel(look="training").mean("look", skipna=False)
        effect = mean_interval(paired_difference(mass.sel(algorithm="sgqn"), mass.sel(algorithm="overlay")))
        note = ", ".join(f"{name} {float(mass.sel(algorithm=name).mean()):.2f}" for name in e.algorithm.values)
        return above(effect, 0.05, refuted_below=0.0, note=f"{note}; chance {float(e.chance.mean()):.2f}")

    @claim("mask-control")
    def mask_control(self, e: xr.Dataset) -> Judgement:
        """Shifted return, own masks minus random masks."""
        effect = mean_interval(paired_difference(self.shifted(e, "sgqn"), self.shifted(e, "random masks")))
        return above(effect, 0.03, refuted_below=0.0)

    def figure(self, e: xr.Dataset) -> Any:
        """One state under three looks with what two networks look at, and returns under all looks."""
        names = list(e.algorithm.values)
        pair = [name for name in ("dqn", "sgqn") if name in names] or names[:2]
        fig, axes = figures.panels(3, len(pair) + 2, width=3.6, height=2.6)
        grid = axes[0, 0].get_gridspec()
        one = e.isel(seed=0)
        for column, view in enumerate(e.view.values):
            picture = one.picture.sel(view=view)
            axes[0, column].imshow(picture.sel(algorithm=pair[0]))
            axes[0, column].set_title(view)
            for row, name in enumerate(pair, 1):
                axes[row, column].imshow(one.saliency.sel(view=view, algorithm=name), cmap=figures.SEQUENTIAL)
                axes[row, 0].set_ylabel(f"{name}\nlooks at")
        for ax in axes[:-1].ravel():
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
        for ax in axes[-1]:
            ax.remove()
        returns = fig.add_subplot(grid[-1, :])
        returns.spines[["top", "right"]].set_visible(False)
        looks = list(e.look.values)
        for i, (name, color) in enumerate(zip(names, figures.COLORS, strict=False)):
            for j, look in enumerate(looks):
                at = j + (i - (len(names) - 1) / 2) * 0.8 / len(names)
                values = e.score.isel(step=-1).sel(algorithm=name, look=look)
                figures.dots(returns, at, values, color=color, label=name if j == 0 else "", width=0.04)
        returns.set(xticks=range(len(looks)), xticklabels=looks, ylabel="normalised return")
        returns.legend(ncols=3, fontsize=10)
        return fig


class _Bare(PixelControl):
    """The same task seen as its physical state: episodes have the same beginnings as under any look."""

    def __init__(self, task: str, size: int):
        super().__init__(task, size)
        self.plain = PixelControl(task, size)

    def reset_env(self, key: Any, params: PixelParams) -> tuple[Float[Array, " 6"], PixelState]:  # type: ignore[override]
        _, state = self.plain.reset_env(key, params)
        return state.physical, state

    def get_obs(self, state: PixelState, params: Any = None, key: Any = None) -> Float[Array, " 6"]:  # type: ignore[override]
        return state.physical


def random_state(world: PixelControl, look: Visuals, horizon: int, key: Array) -> PixelState:
    """Agent and goal anywhere, at any time of an episode."""
    place, when = jax.random.split(key)
    return PixelState(world.begin(place), look, jax.random.randint(when, (), 0, horizon + 1))


def _stack(group: list[Visuals]) -> Visuals:
    return jax.tree.map(lambda *x: jnp.stack(x), *group)
