"""Benjamins et al. (2022): what knowing the context is worth, and how far it carries."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from unseen.lab import Judgement, Learner, Study, UserError, above, claim, figures, judge, part
from unseen.lab.statistics import mean_interval, paired_difference
from unseen.learners.ppo import Policy, greedy, ppo
from unseen.measures.exact import (
    best_context_blind_value,
    best_stochastic_blind_value,
    context_aware_value,
    return_range,
)
from unseen.measures.generalization import best_observed, normalised_return
from unseen.worlds.control.context import ContextCartPole, ContextParams, ContextPendulum, ContextSpace, Region
from unseen.worlds.control.own import environment_named
from unseen.worlds.control.tabular import TabularMDPs

WORLDS: dict[str, ContextSpace] = {"pendulum": ContextPendulum(), "cartpole": ContextCartPole()}
WIDE = 0.75  # share of each feature's range that the wide training region covers; the rest is the shell


class Carl(Study):
    """Contextualize Me: the case for context in reinforcement learning (Benjamins et al., 2022).

    PPO policies are trained on Pendulum (length, gravity) and CartPole (force, length) with the context hidden or
    appended to the observation, under the default context, a narrow or a wide box around it, and the wide box
    without the combinations in which both features are extreme. Each is tested greedily on a 9 x 9 grid over the
    whole context space, whose outermost ring no one trains on. Returns are normalised per context: 0 is a
    uniformly random policy, 1 the best of 25 specialists, each trained under one context. All policies meet the
    same test episodes. The control part reverses CartPole's force in half of the episodes (no claim reads it:
    it shows that the measurement sees a context that must be known). The tabular part is exact: two-context
    MDPs, best policy that sees the context against the best one that does not.

    PPO's settings were chosen on the default contexts alone (seeds 0 to 2), one choice for all conditions.
    The paper's scale has the same two environments with its budget of steps and seeds; Brax, further gymnax
    environments, four features and SAC are not part of it yet.

    What came out: all three claims stay inconclusive. The spread between PPO runs is as large as the effects at
    five seeds: visible minus hidden is -0.03 [-0.19, 0.12] although the exact tabular gap is there (0.023 of the
    return range) and the control shows that a context that must be known is used (return 446 against 236). Over
    these ranges one cautious policy serves nearly all contexts, so there is little to gain from seeing them. The
    loss outside the training region (0.10) falls short of its bound by a hair; nearly all of it is the shell
    (0.18), hardly any the held-out combinations (0.03).
    """

    total_steps: int = 300_000  # environment steps of a policy
    specialist_steps: int = 100_000  # environment steps of a specialist, trained under one context
    learning_rate: float = 1e-3  # of Adam
    gamma: float = 0.97  # discount in training; returns are not discounted
    num_envs: int = 32  # environments side by side
    num_steps: int = 64  # steps in each between two updates
    num_epochs: int = 6  # passes over a rollout
    width_of_network: int = 64  # units of the two hidden layers
    grid: int = 9  # test values for each feature
    episodes: int = 10  # test episodes for each context
    context: tuple[str, ...] = ()  # two features, each name:low:high, of an environment that names none itself
    max_steps: int = 0  # time limit of your own environment; 0 leaves the one it has
    mdps: int = 200  # two-context MDPs of the tabular part
    seeds: int = 5
    reference_seeds: int = 1  # seeds of the specialists, the random policy and the tabular part

    varies = dict(
        env=("pendulum", "cartpole"),  # or your own, as package.module:Name
        visible=(0.0, 1.0),
        width=(0.0, 0.1, 1.0),  # of the training box: 0 default context only, 1 wide
        held_out=(0.0, 0.25),  # share at either end of a feature that is not trained on if both are there
    )
    traced = ("visible", "width", "held_out")
    smoke = dict(
        env=("pendulum",), total_steps=2_048, specialist_steps=2_048, num_envs=4, num_steps=32, num_epochs=1,
        episodes=1, mdps=4, seeds=2, specialist=(0, 24),
    )  # fmt: skip
    paper = dict(total_steps=1_000_000, specialist_steps=1_000_000, seeds=10)
    watch = ("training_return",)

    def check(self) -> None:
        """The grid must resolve the shell and the held-out corners."""
        if self.grid % 8 != 1:
            raise UserError(f"grid takes 9, 17, 25 ... values for each feature, got {self.grid}.")
        if bad := [v for v in self.held_out if not 0 <= v < 0.5]:
            raise UserError(f"held_out takes shares from 0 to below 0.5, got {bad[0]}.")
        if bad := [v for v in self.width if not 0 <= v <= 1]:
            raise UserError(f"width takes shares from 0 to 1, got {bad[0]}.")
        for name in self.env:
            features = self.world(name).features
            if len(features) != 2:
                raise UserError(f"carl tests on a grid over two features, but {name} has {len(features)}.")
        if bad := [v for v in self.specialist if not 0 <= v < 25]:
            raise UserError(f"specialist takes numbers from 0 to 24, got {bad[0]}.")

    def world(self, name: str) -> ContextSpace:
        """The environment of that name, one of the two or the user's."""
        if name in WORLDS:
            return WORLDS[name]
        if ":" not in name:
            raise UserError(f"env takes {', '.join(WORLDS)} or package.module:Name, got {name!r}.")
        return environment_named(name, self.context, self.max_steps)

    def includes(self, env, visible, width, held_out) -> bool:
        """Combinations are held out of the wide box only."""
        return held_out == 0 or width == 1

    def learner(self, env, visible, width, held_out) -> Learner:
        """A policy trained on a region, tested on all contexts."""
        world = self.world(env)
        params = world.params(training_region(world, width, held_out), visible)
        return self._ppo(
            world, params, self.total_steps,
            measure=lambda policy: {"training_return": _mean_return(world, params, policy, jax.random.key(1), 8)},
            final=lambda policy: self._tested(world, greedy(policy), visible),
        )  # fmt: skip

    @part(
        varies=dict(env=("pendulum", "cartpole"), specialist=tuple(range(25))),
        traced=("specialist",),
        seeds="reference_seeds",
    )
    def reference(self, env, specialist) -> Learner:
        """A specialist: trained under one context of a 5 x 5 grid, tested on all."""
        world = self.world(env)
        context = jnp.asarray(world.grid(5))[jnp.asarray(specialist, int)]
        return self._ppo(
            world, world.params(Region.points(context[None]), 0.0), self.specialist_steps,
            final=lambda policy: self._tested(world, greedy(policy), 0.0, "specialist_"),
        )  # fmt: skip

    @part(varies=dict(env=("pendulum", "cartpole")), seeds="reference_seeds")
    def baseline(self, env) -> Learner:
        """Uniformly random actions on the same test episodes."""
        world = self.world(env)
        return Learner.once(
            lambda _: self._tested(world, lambda key, _: world.action_space().sample(key), 0.0, "random_"),
            host=world.host, **self._layout("random_"),
        )  # fmt: skip

    @part(
        varies=dict(visible=(0.0, 1.0)),
        traced=("visible",),
        includes=lambda self, visible: "cartpole" in self.env,
    )
    def control(self, visible) -> Learner:
        """CartPole with its force reversed in half of the episodes."""
        world = WORLDS["cartpole"]
        params = world.params(Region.points(world.default * np.array([[1, 1], [-1, 1]], np.float32)), visible)

        def final(policy: Policy):
            return {"control_return": _mean_return(world, params, policy, jax.random.key(2), 2 * self.episodes)}

        return self._ppo(world, params, self.specialist_steps, final=final)

    @part(seeds="reference_seeds")
    def tabular(self) -> Learner:
        """Random two-context MDPs with 5 states and 3 actions: exact gaps, as shares of the range of returns."""

        def gaps(key):
            m = TabularMDPs.contexts(key, contexts=2, states=5, actions=3)
            problem = m.transition, m.reward, 0.9, m.start
            blind, actions = best_context_blind_value(*problem)
            stochastic = best_stochastic_blind_value(*problem, initial=actions)
            aware, scale = context_aware_value(*problem), return_range(*problem)
            return {"tabular_gap": (aware - blind) / scale, "tabular_stochastic_gap": (aware - stochastic) / scale}

        return Learner.once(
            lambda key: jax.lax.map(gaps, jax.random.split(key, self.mdps), batch_size=50),
            dims={"tabular_gap": ("mdp",), "tabular_stochastic_gap": ("mdp",)},
        )

    def _ppo(self, world: Any, params: ContextParams, steps: int, **what: Any) -> Learner:
        rounds = max(1, round(steps / (self.num_envs * self.num_steps)))
        return ppo(
            world, params, total_steps=steps, every=max(1, round(rounds / 7)), learning_rate=self.learning_rate,
            gamma=self.gamma, max_grad_norm=0.1, num_envs=self.num_envs, num_steps=self.num_steps,
            num_epochs=self.num_epochs, normalize_rewards=True, width=self.width_of_network, **what,
            **self._layout("" if "measure" in what else "specialist_"),
        )  # fmt: skip

    def _layout(self, prefix: str) -> dict[str, Any]:
        axis = np.linspace(-1, 1, self.grid).tolist()
        return {"dims": {f"{prefix}grid_return": ("a", "b")}, "coords": {"a": axis, "b": axis}}

    def _tested(self, world: ContextSpace, act: Any, visible: Any, prefix: str = "") -> dict[str, Any]:
        """Mean returns on the grid and (five times as many episodes) under the default context."""
        contexts = np.concatenate([world.grid(self.grid), np.tile(world.default, (5, 1))])
        # The test episodes are one fixed set, the same for all policies, as a test set is in supervised learning.
        keys = jax.random.split(jax.random.key(0), len(contexts) * self.episodes)
        returns = world.returns(act, np.repeat(contexts, self.episodes, axis=0), keys, visible)
        returns = returns.reshape(-1, self.episodes).mean(1)
        grid = returns[: self.grid**2].reshape(self.grid, self.grid)
        return {f"{prefix}grid_return": grid, f"{prefix}default_return": returns[self.grid**2 :].mean()}

    # Claims ----------------------------------------------------------------------------------------------

    def scores(self, e: xr.Dataset, name: str = "grid_return") -> xr.DataArray:
        """Normalised returns: 0 random, 1 the best specialist in each context."""
        random = e[f"random_{name}"].mean("seed")
        return normalised_return(e[name], random, best_observed(e[f"specialist_{name}"], ["specialist", "seed"]))

    @claim("context-needed")
    def context_needed(self, e: xr.Dataset) -> Judgement:
        """Visible minus hidden inside the wide box; and the exact gap of the tabular part."""
        inside = _mean(self.scores(e).sel(width=1.0, held_out=0.0), _inside(e)).mean("env", skipna=False)
        effect = mean_interval(paired_difference(inside.sel(visible=1.0), inside.sel(visible=0.0)))
        gap = mean_interval(e.tabular_gap.dropna("seed", how="all").isel(seed=0))
        stochastic = float(e.tabular_stochastic_gap.mean())
        return judge(
            effect,
            supported=effect.low > 0.03 and gap.estimate > 0.01,
            refuted=effect.high < 0.01,
            also={"exact tabular gap, share of the return range": gap},
            note=f"a stochastic blind policy leaves a gap of {stochastic:.3g}" + _control_note(e),
        )

    @claim("harder")
    def harder(self, e: xr.Dataset) -> Judgement:
        """Trained at the default context minus trained on the wide box, hidden, tested at the default context."""
        score = self.scores(e, "default_return").sel(visible=0.0, held_out=0.0).mean("env", skipna=False)
        return above(
            mean_interval(paired_difference(score.sel(width=0.0), score.sel(width=1.0))), 0.03, refuted_below=0.01
        )

    @claim("extrapolation")
    def extrapolation(self, e: xr.Dataset) -> Judgement:
        """Each visible wide policy inside its own training region minus outside: the shell for the one trained on
        the whole box, the held-out corners for the one trained without them; mean of both."""
        score = self.scores(e).sel(visible=1.0, width=1.0).mean("env", skipna=False)
        share = max(self.held_out)
        if share == 0:
            raise UserError("held_out takes a share above 0 for the extrapolation claim, got 0.")
        inside, corner = _inside(e), _corner(e, share)
        box, cross = score.sel(held_out=0.0), score.sel(held_out=share)
        shell_loss = paired_difference(_mean(box, inside), _mean(box, ~inside))
        corner_loss = paired_difference(_mean(cross, inside & ~corner), _mean(cross, inside & corner))
        note = (
            f"loss in the shell {float(shell_loss.mean()):.3g}, in the held-out corners {float(corner_loss.mean()):.3g}"
        )
        return above(mean_interval((shell_loss + corner_loss) / 2), 0.05, refuted_below=0.02, note=note)

    def figure(self, e: xr.Dataset) -> Any:
        """Heat maps of the wide policies, hidden and visible, and of those trained without the corners."""
        cells = [
            (0.0, 0.0, "hidden, wide"),
            (1.0, 0.0, "visible, wide"),
            (1.0, max(self.held_out), "visible, corners left out"),
        ]
        fig, axes = figures.panels(3, len(self.env), width=4.0, height=3.6, squeeze=False, sharex=False)
        scores = self.scores(e).sel(width=max(self.width)).mean("seed")
        for row, env in zip(axes, self.env, strict=True):
            world = self.world(env)
            first, second = world.features
            for ax, (visible, held_out, title) in zip(row, cells, strict=True):
                values = scores.sel(env=env, visible=visible, held_out=held_out).transpose("b", "a")
                extent = _extent(first, self.grid) + _extent(second, self.grid)
                picture = ax.imshow(
                    values, origin="lower", extent=extent, aspect="auto", vmin=0, vmax=1.1, cmap=figures.SEQUENTIAL
                )
                region = training_region(world, max(self.width), held_out)
                _outline(ax, region, world)
                ax.plot(*world.default, "+", color="white", ms=12, mew=2)
                ax.set(
                    title=f"{env.rpartition(':')[2]}: {title}",
                    xlabel=_axis(first),
                    ylabel=_axis(second),
                )
                ax.grid(False)
            fig.colorbar(picture, ax=row[-1], label="normalised return")
        legend = "1 = best specialist, 0 = random; dashed: training region, +: default context"
        fig.suptitle(legend + _control_note(e).replace("; ", "\n", 1), fontsize=13)
        return fig


def training_region(world: ContextSpace, width: Any, held_out: Any) -> Region:
    """A box around the default context, from that alone (width 0) to the whole wide box (1), without the
    combinations in which both features are within `held_out` of an end."""
    wide = world.box(WIDE)
    low = world.default + width * (wide.low[0] - world.default)
    high = world.default + width * (wide.high[0] - world.default)
    return Region.cross(low, high, 1 - 2 * held_out)


def _inside(e: xr.Dataset) -> xr.DataArray:
    return (abs(e.a) <= WIDE + 1e-6) & (abs(e.b) <= WIDE + 1e-6)


def _corner(e: xr.Dataset, share: float) -> xr.DataArray:
    edge = WIDE * (1 - 2 * share)
    return (abs(e.a) > edge + 1e-6) & (abs(e.b) > edge + 1e-6)


def _mean(values: xr.DataArray, region: xr.DataArray) -> xr.DataArray:
    # skipna=False: a diverged policy (NaN everywhere) stays NaN.
    return values.weighted(region.astype(float)).mean(["a", "b"], skipna=False)


def _control_note(e: xr.Dataset) -> str:
    if "control_return" not in e:
        return ""
    hidden, visible = (float(e.control_return.sel(visible=v).mean()) for v in (0.0, 1.0))
    return f"; control, force reversed in half of the episodes: return {visible:.0f} visible, {hidden:.0f} hidden"


def _mean_return(world: ContextSpace, params: ContextParams, policy: Policy, key: Any, episodes: int) -> Any:
    """Mean of fixed episodes under contexts of the training region."""
    draw, play = jax.random.split(key)
    contexts = jax.vmap(params.region.sample)(jax.random.split(draw, episodes))
    return world.returns(greedy(policy), contexts, jax.random.split(play, episodes), params.visible).mean()


def _axis(feature: Any) -> str:
    return f"{feature.name} ({feature.unit})" if feature.unit else feature.name


def _extent(feature: Any, size: int) -> tuple[float, float]:
    half = (feature.high - feature.low) / (size - 1) / 2
    return feature.low - half, feature.high + half


def _outline(ax: Any, region: Region, world: ContextSpace) -> None:
    fine = [np.linspace(f.low, f.high, 400) for f in world.features]
    a, b = np.meshgrid(*fine, indexing="ij")
    ax.contour(
        a,
        b,
        np.asarray(region.contains(np.stack([a, b], -1)), float),
        [0.5],
        colors="white",
        linestyles="--",
        linewidths=2,
    )
