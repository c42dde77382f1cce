"""Trabucco et al. (2022): one policy for bodies that nobody describes to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float

from unseen.lab import Judgement, Learner, Study, UserError, above, claim, figures
from unseen.lab.statistics import mean_interval, paired_difference
from unseen.learners.distil import distances
from unseen.learners.equinox_ppo import equinox_ppo
from unseen.models.any_morph import AnyMorphPolicy, GraphDescribedPolicy, PaddedMLP, token_shuffle_probe
from unseen.worlds.control.embodiments import Embodiments
from unseen.worlds.control.gaits import Bodies
from unseen.worlds.control.limb_removal import limb_sets
from unseen.worlds.control.swimmer import DESCRIPTION

POLICIES = ("tokens", "graph", "mlp")
SHUFFLES = 4  # permutations of the tokens that the probe is averaged over


class AnyMorph(Study):
    """AnyMorph: Learning Transferable Policies By Inferring Agent Morphology (Trabucco et al., 2022).

    Swimmers are subsets of seven named links, each with a length, a drag ratio and a gear of its own. One policy is
    trained by PPO on forward speed of 16 such bodies and then let loose on 8 other combinations of the same links.
    It has learned tokens for each sensor and motor; or the same transformer is told the body instead (`graph`: order,
    number and lengths of the links, and what tells one kind of link from another: drag ratios and gear); or it is a
    plain network over padded senses with a mask of joints. The control exchanges the trained tokens among the joints.

    A score is the distance swum in an episode relative to the body's own reference gait from the same starts; it can
    exceed 1, for the gait is a plain wave. Bodies, split and test starts are the same for all seeds: intervals are
    over training runs, not over other sets of links.

    210,000 of the specification's 350,000 steps of the environment, which fit into five minutes; no fallback to
    distillation was needed. What training needed in pilots (seed 0): means without bounds, a learning rate that falls,
    and an output layer that starts near zero, as in the official code: with the usual first weights the tokens reached
    0.7 of the reference on training bodies and then collapsed; now they exceed it.

    What came out: shuffling the tokens stops every body (1.18 of the reference, then -0.06), so they do carry the body
    plan. Tokens beat the description by 0.19 [-0.02, 0.40] on unseen bodies, inconclusive: six bodies are nearly a tie
    and two small ones, which the described policy does not move at all, make most of the difference; four seeds
    cannot tell. The claim against the plain network is refuted: it swims at 1.12 on unseen bodies, tokens at 1.03.
    A slot of the padded senses is as good a name of a link as a token, seven links and one sensor a joint leave little
    for attention to sort out, and 16 of 57 combinations cover pairs of links well. On the paper's bodies, with tens
    of sensors a limb, padding has more to lose.
    """

    bodies: int = 24  # subsets of the links
    held_out: int = 8  # of them, for the test
    steps: int = 100  # of an episode
    total_steps: int = 210_000  # of the environment
    width: int = 32  # of the transformer
    blocks: int = 1  # of its encoder, and of its decoder
    mlp_width: int = 128  # of the plain network
    learning_rate: float = 1e-3  # of the transformers; falls linearly to 0
    mlp_learning_rate: float = 1e-3  # of the plain network
    output_scale: float = 0.01  # of the first weights of every policy's output layer
    epochs: int = 2  # passes over each rollout
    every: int = 17  # iterations of 4,096 steps between two looks
    test_episodes: int = 4  # starts of each body
    body_seed: int = 0  # of the links and the split
    seeds: int = 4

    varies = dict(policy=POLICIES)
    smoke = dict(bodies=12, held_out=4, steps=40, total_steps=8_192, width=8, mlp_width=8, every=1, test_episodes=1,
                 epochs=1, seeds=2)  # fmt: skip
    paper = dict(total_steps=10_000_000, width=128, blocks=3, mlp_width=256, every=200, seeds=5)
    watch = ("trained_speed", "unseen_speed")

    def check(self) -> None:
        if bad := [name for name in self.policy if name not in POLICIES]:
            raise UserError(f"policy takes {', '.join(POLICIES)}, got {bad[0]!r}.")
        if self.width < 4 or self.width % 4:
            raise UserError(f"width takes a multiple of 4, got {self.width}.")
        if not 2 <= self.bodies <= 57:
            raise UserError(f"bodies takes a number from 2 to 57, got {self.bodies}.")
        if not 1 <= self.held_out < self.bodies:
            raise UserError(f"held_out takes a number from 1 to {self.bodies - 1}, got {self.held_out}.")
        if self.total_steps < 4096 * self.every:
            raise UserError(f"total_steps takes at least every * 4096 = {4096 * self.every}, got {self.total_steps}.")

    def learner(self, policy) -> Learner:
        least = 0.003 * self.steps  # body lengths: 0.3 in an episode of 100 steps
        trained, unseen = limb_sets(self.bodies, self.held_out, least=least, steps=self.steps, seed=self.body_seed)
        everyone: Bodies = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), trained, unseen)
        starts = jax.random.key(self.body_seed)  # one fixed set, the same for all policies
        reference = self.distances(everyone, starts)
        is_unseen = jnp.arange(len(everyone)) >= len(trained)
        world = Embodiments()
        # Only the graph policy, and its critic, is shown the body plan.
        params = world.params(trained.swimmers, described=float(policy == "graph"), max_steps=self.steps)

        def score(net: Any) -> Float[Array, " bodies"]:
            return self.distances(everyone, starts, net) / reference

        def measure(net: Any) -> dict[str, Array]:
            speed = score(net)
            return {
                "trained_speed": jnp.mean(speed, where=~is_unseen),
                "unseen_speed": jnp.mean(speed, where=is_unseen),
            }

        def final(net: Any) -> dict[str, Array]:
            shuffled = jnp.full(len(everyone), jnp.nan)
            if isinstance(net, AnyMorphPolicy):
                keys = jax.random.split(jax.random.key(self.body_seed), SHUFFLES)
                shuffled = jax.vmap(lambda key: score(token_shuffle_probe(net, key)))(keys).mean(0)
            return {
                "speed": score(net),
                "shuffled_speed": shuffled,
                "is_unseen": is_unseen.astype(jnp.float32),
                "length": everyone.swimmers.length,
            }

        return equinox_ppo(
            self.maker(policy), world, params, mask=lambda observation: observation[..., 0],
            total_steps=self.total_steps, every=self.every, num_epochs=self.epochs, measure=measure, final=final,
            learning_rate=self.mlp_learning_rate if policy == "mlp" else self.learning_rate,
            dims={"speed": ("body",), "shuffled_speed": ("body",), "is_unseen": ("body",), "length": ("body", "link")},
        )  # fmt: skip

    def maker(self, policy: str) -> Callable[[Any], Any]:
        """key -> untrained policy."""
        scale = self.output_scale
        return {
            "tokens": lambda key: AnyMorphPolicy(width=self.width, blocks=self.blocks, output_scale=scale, key=key),
            "graph": lambda key: GraphDescribedPolicy(
                self.width, columns=DESCRIPTION, blocks=self.blocks, output_scale=scale, key=key
            ),
            "mlp": lambda key: PaddedMLP(width=self.mlp_width, output_scale=scale, key=key),
        }[policy]

    def distances(self, bodies: Bodies, starts: Any, policy: Any = None) -> Float[Array, " bodies"]:
        """How far the bodies swim, under a policy or their reference gaits."""
        return distances(starts, bodies, policy, episodes=self.test_episodes, steps=self.steps)

    # Claims ----------------------------------------------------------------------------------------------

    def over(self, e: xr.Dataset, policy: str, unseen: bool, name: str = "speed") -> xr.DataArray:
        """Mean score of a policy over the unseen or the training bodies, per seed."""
        which = self.is_unseen(e) == unseen
        return e[name].sel(policy=policy).isel(body=np.flatnonzero(which)).mean("body", skipna=False)

    @staticmethod
    def is_unseen(e: xr.Dataset) -> Any:
        """Of each body, whether it was held out."""
        return np.nanmax(e.is_unseen.transpose("body", ...).values.reshape(e.sizes["body"], -1), axis=1) > 0

    def transfer(self, e: xr.Dataset, rival: str) -> tuple[Any, str]:
        """Tokens minus a rival on unseen bodies; and what either does where."""
        effect = paired_difference(self.over(e, "tokens", True), self.over(e, rival, True))
        note = "; ".join(
            f"{name} {float(self.over(e, name, False).mean()):.2f} on training bodies, "
            f"{float(self.over(e, name, True).mean()):.2f} on unseen ones"
            for name in ("tokens", rival)
        )
        return mean_interval(effect), note

    @claim("improves-on-graph")
    def improves_on_graph(self, e: xr.Dataset) -> Judgement:
        effect, note = self.transfer(e, "graph")
        return above(effect, 0.0, note=note)

    @claim("vs-monolith")
    def vs_monolith(self, e: xr.Dataset) -> Judgement:
        effect, note = self.transfer(e, "mlp")
        return above(effect, 0.10, refuted_below=0.05, note=note)

    @claim("tokens-carry-body")
    def tokens_carry_body(self, e: xr.Dataset) -> Judgement:
        intact, shuffled = (self.over(e, "tokens", False, name) for name in ("speed", "shuffled_speed"))
        note = f"intact {float(intact.mean()):.2f}, shuffled {float(shuffled.mean()):.2f}"
        return above(mean_interval(paired_difference(intact, shuffled)), 0.30, refuted_below=0.10, note=note)

    def figure(self, e: xr.Dataset) -> Any:
        """Scores on each unseen body, its links drawn beneath; what training bodies give beside them."""
        fig, axes = figures.panels(2, width=6.4, height=4.6, sharey=True, gridspec_kw={"width_ratios": [3, 1]})
        left, right = axes
        rows: list[tuple[str, str, str]] = [(name, "speed", name) for name in e.policy.values]
        if "tokens" in e.policy:
            rows.append(("tokens", "shuffled_speed", "tokens shuffled"))
        unseen = self.is_unseen(e)
        lengths = e.length.max([d for d in e.length.dims if d not in ("body", "link")]).values
        which = np.flatnonzero(unseen)
        for i, ((policy, name, label), color) in enumerate(zip(rows, figures.COLORS, strict=False)):
            at = (i - (len(rows) - 1) / 2) * 0.2
            speed = e[name].sel(policy=policy).transpose("seed", "body")
            left.bar(np.arange(len(which)) + at, speed.mean("seed").values[which], 0.19, color=color, label=label)
            for seed in speed.values[:, which]:
                left.plot(np.arange(len(which)) + at, seed, ".", color="black", ms=3, alpha=0.6)
            figures.dots(right, i, self.over(e, policy, False, name), color=color)
        floor, top = min(-0.3, float(e.speed.min())) - 0.15, max(1.2, float(e.speed.max())) + 0.2
        for i, body in enumerate(lengths[which]):
            _draw(left, i, floor, body)
        for ax in axes:
            ax.axhline(1.0, color="0.4", lw=1, ls="--")
            ax.axhline(0.0, color="0.4", lw=1)
        left.set(xticks=[], xlabel="unseen bodies: which of the seven links they have", ylim=(floor - 0.08, top))
        left.set_ylabel("distance / reference gait's")
        left.legend(loc="upper center", ncol=4, columnspacing=1.0, handlelength=1.2)
        right.set(title="training bodies", xticks=range(len(rows)))
        right.set_xticklabels([label.replace(" ", "\n") for *_, label in rows], fontsize=9)
        return fig


def _draw(ax: Any, x: int, y: float, lengths: Float[np.ndarray, " links"]) -> None:
    """The links from head to tail at their places in a row; those that are missing are dotted."""
    ends = np.linspace(-0.4, 0.4, len(lengths) + 1)
    for left, right, length in zip(ends[:-1], ends[1:], lengths, strict=True):
        shown = length > 0
        ax.plot(
            [x + left + 0.01, x + right - 0.01], [y, y], color="black" if shown else "0.6", lw=5 if shown else 1,
            ls="-" if shown else ":", solid_capstyle="butt",
        )  # fmt: skip
