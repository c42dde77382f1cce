"""Korkmaz (2024): which remedy against overfitting in reinforcement learning helps against which kind of change."""

from __future__ import annotations

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float
from matplotlib.patches import Rectangle

from unseen.lab import Judgement, Learner, Study, UserError, above, claim, figures, judge
from unseen.lab.statistics import bootstrap_interval, mean_interval, paired_difference, slope
from unseen.learners.q_learning import Interaction, q_learning
from unseen.learners.remedied_q import RemediedQLearner, RemedySet
from unseen.measures.generalization import normalised_return
from unseen.measures.value_overfitting import matched_gain, remedy_by_shift_matrix, td_errors, td_gap
from unseen.worlds.control.grid_levels import GridLevel, levels_of
from unseen.worlds.control.shift_kinds import (
    CellTable,
    Elements,
    Shift,
    ShiftedLevels,
    ShiftKinds,
    TwoCoins,
    exact_return,
)

# Randomised ranges end where the tested shifts lie.
REMEDIES = {
    "none": RemedySet(),
    "augmentation": RemedySet(intensity=0.5, noise=0.3),
    "adversarial": RemedySet(radius=0.25),
    "dynamics": RemedySet(sticky=0.3, wind=0.3),
    "reward": RemedySet(values=1.0),
    "regularisation": RemedySet(dropout=0.1, weight_decay=1e-2),
}
MORE = "more levels"  # no remedy, on more levels
MATCHES = {
    "augmentation": "observation", "adversarial": "observation", "dynamics": "transition", "reward": "reward",
    MORE: "level",
}  # fmt: skip
SHIFTS = ("usual", *ShiftKinds._fields)


class ShiftTest(eqx.Module):
    """Levels under shifts, with what random moves and the optimum are worth in each; axes (shifts, levels)."""

    table: CellTable
    elements: Elements
    random: Float[Array, "shifts levels"]
    best: Float[Array, "shifts levels"]
    discount: float = eqx.field(static=True)
    horizon: int = eqx.field(static=True)

    @classmethod
    def of(
        cls, world: ShiftedLevels, levels: GridLevel, elements: Elements, discount: float, horizon: int
    ) -> ShiftTest:
        """The test of each shift's levels under its elements."""
        table, elements, random, best = _prepared(world, levels, elements, discount, horizon)
        return cls(table, elements, random, best, discount, horizon)

    def score(self, policy: Float[Array, "shifts levels cells 4"], weights: Float[Array, "shifts levels"]) -> Array:
        """Mean returns over levels, 0 for random moves and 1 for the optimum."""
        returns = _returns(self.table, self.elements, policy, self.discount, self.horizon)
        mean = ((values * weights).sum(1) for values in (returns, self.random, self.best))
        return normalised_return(*mean)


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def _prepared(world: ShiftedLevels, levels: GridLevel, elements: Elements, discount: float, horizon: int) -> tuple:
    table = jax.vmap(jax.vmap(world.cells, (0, None)))(levels, elements)
    random = _returns(table, elements, jnp.full(table.following.shape, 0.25), discount, horizon)
    return table, elements, random, _returns(table, elements, None, discount, horizon)


def _returns(table: CellTable, elements: Elements, policy: Array | None, discount: float, horizon: int) -> Array:
    worth = functools.partial(exact_return, discount=discount, horizon=horizon)
    return jax.vmap(jax.vmap(worth, (0, None, 0)))(table, elements, policy)


class RlOverfittingMap(Study):
    """A survey analyzing generalization in deep reinforcement learning (Korkmaz, 2024).

    The survey sorts remedies by the element of the decision problem that they transform: what is observed, the
    transitions, the rewards, or none of them but the training of the policy. Here one value learner (Double DQN) plays
    small levels of four rooms, in which each of two coins ends the episode: red is worth 1, blue -1, and the value is
    seen in the coin's cell. Trained agents are tested with one element changed: intensities of the planes and noise
    (observation); sticky moves and wind (transition); values exchanged (reward); levels never trained on (level). The
    first three keep the levels of training, so that nothing else changes. A change of observation leaves colours
    distinct: to exchange colours would be to exchange rewards, as functions of what is seen.

    Remedies are augmentation, adversarial observations, randomised dynamics, randomised rewards, and more levels, each
    with the shift that it matches, and dropout with weight decay, which matches none. Ranges of randomisation reach as
    far as the tested shifts. Returns are discounted, exact (backward induction over cells, no episodes sampled) and
    normalised: 0 for random moves, 1 for the optimum under the same shift. The TD error is the mean over all steps that
    exist in a level.

    Twice the environment steps of the specification, on narrower nets and smaller batches: with 60,000 steps the
    agents with 256 levels had learned these to 0.70 (pilots of two runs, outside the registered seeds), with
    120,000 to 0.94; with 4 to 64 levels to 0.97 and more. The radius of adversarial observations was halved once,
    from 0.5, as the training return with it lagged in a pilot (0.56); no other remedy was tuned. Levels are the
    same for all seeds, so intervals are over networks and exploration, not over levels.

    What came out: all three claims hold. Agents master 4 to 64 levels (0.98 to 1.00) and hardly anything carries
    over: 0.05 on unseen levels after 4, 0.04 after 16, 0.14 after 64, 0.31 after 256. Of the fall of the gap from
    0.95 to 0.56 a third is training itself, which reaches only 0.87 with 256 levels. The TD error on unseen levels
    is 1.82 times that in training with 4 levels and 1.19 times with 256. Remedies gain 0.30 (0.22 to 0.37) more
    where they match than elsewhere, where they gain nothing: the map is a diagonal. Much of that is the reward,
    where agents that knew one price for each colour go for the wrong coin (-0.22) and randomisation repairs it
    (0.66); without that remedy the margin is still 0.15 (0.08 to 0.21). The exception is dynamics randomisation:
    wind and sticky moves cost plain agents little (0.92), as exploration had taken them to every cell anyway, and
    randomising them costs 0.05. Dropout with weight decay hurts under noise (0.30 against 0.44) and gains 0.05 on
    unseen levels. Randomised ranges contain the tested shifts: that a remedy helps against what it practises is the
    easy half of the claim, that it helps against nothing else the other.
    """

    side: int = 7  # of a level, with its border
    base: int = 16  # training levels of the remedies
    more: int = 64  # training levels of the remedy "more levels"
    tested: int = 64  # levels in a test: the first ones trained on, or as many others
    horizon: int = 30  # steps of an episode
    discount: float = 0.9
    steps: int = 120_000  # environment steps
    lanes: int = 4  # environments side by side; one update for a step of each
    capacity: int = 5_000  # steps that the replay of each lane holds
    width: int = 64  # of the two hidden layers
    batch: int = 32
    learning_rate: float = 1e-3  # of Adam
    target_rate: float = 0.01  # at which the target network follows
    exploration: float = 0.2  # share of random actions at the end; from 1 down to it within the first third
    draws: int = 8  # of the noise of observation, to average a policy over
    every: int = 3_000  # updates between two tests
    seeds: int = 5

    varies = dict(remedy=tuple(REMEDIES), levels=(4, 16, 64, 256))
    traced = ("levels",)
    smoke = dict(
        remedy=("none",), steps=160, every=20, capacity=40, width=8, batch=8, tested=4,
        draws=2, seeds=2,
    )  # fmt: skip
    paper = dict(
        side=15, levels=(10, 50, 200, 1000), base=200, more=1000, horizon=200, discount=0.99, steps=25_000_000,
        lanes=64, capacity=4_000, width=512, batch=512, tested=200, every=3_125,
        learning_rate=2.5e-4, seeds=10,
    )  # fmt: skip
    watch = ("train_return", "unseen_return")

    def check(self) -> None:
        """Known remedies; sizes that fit."""
        if bad := [name for name in self.remedy if name not in REMEDIES]:
            raise UserError(f"remedy takes {', '.join(REMEDIES)}, got {bad[0]!r}.")
        if bad := [count for count in self.levels if count < 1 or count != int(count)]:
            raise UserError(f"levels takes whole numbers from 1 on, got {bad[0]}.")
        if set(self.remedy) != {"none"} and self.base not in self.levels:
            raise UserError(f"base takes one of levels, {self.levels}, got {self.base}.")
        if self.steps < 1 or self.steps % (self.lanes * self.every):
            raise UserError(f"steps takes a multiple of lanes * every, {self.lanes * self.every}, got {self.steps}.")

    def includes(self, remedy, levels) -> bool:
        """Remedies are tried at one number of levels."""
        return remedy == "none" or levels == self.base

    def learner(self, remedy, levels) -> Learner:
        """One agent in training."""
        world, remedies, usual = ShiftedLevels(TwoCoins(self.side), noisy=False), REMEDIES[remedy], Elements.usual()
        low, high = usual.between(sticky=remedies.sticky, wind=remedies.wind, values=remedies.values)
        count = jnp.asarray(levels, int)
        training = levels_of(world.kind, int(max(*self.levels, self.tested)))
        params = world.shifted(training, low, high, count=count, max_steps=self.horizon)
        agent = RemediedQLearner(
            actions=4, discount=self.discount, width=self.width, target_rate=self.target_rate, remedies=remedies,
            optimizer=remedies.optimizer(self.learning_rate),
        )  # fmt: skip
        shifts = (Shift(usual, False), *ShiftKinds.of(usual))
        elements = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(s.elements for s in shifts))
        shown = jax.tree.map(lambda leaf: leaf[: self.tested], training)
        fresh = levels_of(world.kind, self.tested, "test")
        tested = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(fresh if s.unseen else shown for s in shifts))
        everything = ShiftTest.of(world, tested, elements, self.discount, self.horizon)
        mine = jnp.where(jnp.arange(self.tested) < count, 1.0, 0.0)
        weights = jnp.stack([jnp.ones(self.tested) if s.unseen else mine for s in shifts])
        ends = jnp.array([SHIFTS.index("usual"), SHIFTS.index("level")])
        two = jax.tree.map(lambda leaf: leaf[ends], everything)

        def value(network: Any, seen: Array) -> Float[Array, " actions"]:
            return agent.values(network, seen).mean(0)

        def policy(network: Any, seen: Array) -> Float[Array, "*cells actions"]:
            flat = seen.reshape(-1, *seen.shape[-3:])
            return jax.nn.one_hot(jax.vmap(lambda o: value(network, o).argmax())(flat), 4).reshape(*seen.shape[:-3], 4)

        def error(network: Any, table: CellTable) -> tuple[Array, Array]:
            q = jax.vmap(lambda o: value(network, o))(table.observation)
            entered, last = table.reward[table.following], table.ends[table.following]
            errors = td_errors(q, table.following, entered, last, self.discount).mean(1)
            return (errors * table.free).sum(), table.free.sum()

        def measure(state: Interaction) -> dict[str, Array]:
            network = state.learning.network
            train, unseen = two.score(policy(network, two.table.observation), weights[ends])
            errors, cells = jax.vmap(jax.vmap(lambda table: error(network, table)))(two.table)
            train_error, unseen_error = (errors * weights[ends]).sum(1) / (cells * weights[ends]).sum(1)
            return {
                "train_return": train, "unseen_return": unseen,
                "train_td_error": train_error, "unseen_td_error": unseen_error,
            }  # fmt: skip

        def final(state: Interaction) -> dict[str, Array]:
            seen, noise = everything.table.observation, elements.noise[:, None, None, None, None, None]

            def look(key: Any) -> Array:
                return policy(state.learning.network, seen + noise * jax.random.normal(key, seen.shape))

            # Noise is fresh at every step, so that a greedy policy has chances of moves in each cell.
            chances = jax.lax.map(look, jax.random.split(state.key, self.draws)).mean(0)
            return {"score": everything.score(chances, weights)}

        updates = self.steps // self.lanes
        return q_learning(
            agent, world, params, total_steps=self.steps, every=self.every, capacity=min(self.capacity, updates),
            batch_size=self.batch, lanes=self.lanes, warmup=self.batch,
            epsilon=lambda step: jnp.clip(1 - step / (0.33 * self.steps), self.exploration, 1.0),
            measure=measure, final=final, dims={"score": ("shift",)}, coords={"shift": list(SHIFTS)},
        )  # fmt: skip

    # Claims ----------------------------------------------------------------------------------------------

    def plain(self, e: xr.Dataset, values: xr.DataArray, levels: int) -> xr.DataArray:
        """Values of the agents without a remedy that had so many levels."""
        if "none" not in e.remedy.values or levels not in e.levels.values:
            raise UserError(f"remedy and levels take none and {levels} for this claim, which are not both there.")
        return values.sel(remedy="none", levels=levels, drop=True)

    @claim("levels")
    def levels_help(self, e: xr.Dataset) -> Judgement:
        """Gap of the normalised return, train minus unseen levels, against the number of levels."""
        score = e.score.sel(remedy="none")
        gap = score.sel(shift="usual", drop=True) - score.sel(shift="level", drop=True)
        gap = gap.assign_coords(levels=np.log2(gap.levels))
        falls = bootstrap_interval(lambda g: slope(g.levels, g, "levels").mean(), gap)
        few = bootstrap_interval(
            lambda g: g.mean(), self.plain(e, e.score.sel(shift="usual") - e.score.sel(shift="level"), 4)
        )
        note = "train and unseen returns: " + ", ".join(
            f"{int(n)} levels {float(s.sel(shift='usual').mean()):.2f} {float(s.sel(shift='level').mean()):.2f}"
            for n, s in ((n, score.sel(levels=n)) for n in e.levels.values)
        )
        return judge(
            falls, supported=falls.high < -0.03 and few.low > 0.2, refuted=falls.low > 0 or few.high < 0.1,
            also={"gap at 4 levels": few}, note=note,
        )  # fmt: skip

    @claim("value-overfit")
    def value_overfit(self, e: xr.Dataset) -> Judgement:
        """Log TD error on unseen over that on training levels: with 4 levels, and with 4 minus with 256."""
        last = e.isel(step=-1)
        logs = np.log(td_gap(last.unseen_td_error, last.train_td_error))
        few, many = self.plain(e, logs, 4), self.plain(e, logs, 256)
        effect, less = mean_interval(few), mean_interval(paired_difference(few, many))
        return judge(
            effect, supported=effect.low > np.log(1.5) and less.low > 0,
            refuted=effect.high < np.log(1.2) or less.high < 0, also={"4 minus 256 levels": less},
            note=f"ratio {float(np.exp(few.mean())):.2f} with 4 levels, {float(np.exp(many.mean())):.2f} with 256",
        )  # fmt: skip

    def scores(self, e: xr.Dataset) -> xr.DataArray:
        """Normalised returns of all remedies that were run, with more levels among them."""
        at_base = e.score.sel(levels=self.base, drop=True)
        if self.more not in e.levels.values or "none" not in e.remedy.values:
            return at_base
        more = self.plain(e, e.score, self.more).expand_dims(remedy=[MORE])
        return xr.concat([at_base, more], "remedy")

    @claim("matched")
    def matched(self, e: xr.Dataset) -> Judgement:
        """Gain over no remedy where remedy and shift match, minus that of the same remedies where they do not."""
        gains = remedy_by_shift_matrix(self.scores(e).drop_sel(shift="usual"))
        inner, outer = matched_gain(gains, MATCHES)

        def margin(name: str, shift: str) -> str:
            own, others = matched_gain(gains, {name: shift})
            return f"{name} {float(own.mean()):+.2f} against {float(others.mean()):+.2f}"

        return above(
            mean_interval(paired_difference(inner, outer)), 0.05, refuted_below=0.0,
            note="matching against other gains: " + ", ".join(margin(*pair) for pair in MATCHES.items()),
        )  # fmt: skip

    def figure(self, e: xr.Dataset) -> Any:
        """Heat map of normalised returns, matching cells outlined; beside it returns against the number of levels."""
        fig, axes = figures.panels(1, 2, width=7.0, height=4.2, sharex=False)
        table, (heat, lines) = self.scores(e).mean("seed"), axes.ravel()
        values = table.transpose("remedy", "shift").values
        picture = heat.imshow(values, cmap=figures.SEQUENTIAL, vmin=-0.5, vmax=1.0, aspect="auto")
        remedies = table.remedy.values.tolist()
        for (i, j), value in np.ndenumerate(values):
            heat.text(j, i, f"{value:.2f}", ha="center", va="center", color="black" if value > 0.4 else "white")
            if MATCHES.get(remedies[i]) == SHIFTS[j]:
                heat.add_patch(Rectangle((j - 0.47, i - 0.46), 0.94, 0.92, fill=False, ec=figures.COLORS[1], lw=4))
        names = ["as in\ntraining", *(f"other\n{name}" for name in SHIFTS[1:])]
        heat.set(xticks=range(len(SHIFTS)), xticklabels=names, yticks=range(len(remedies)), yticklabels=remedies)
        heat.set_title("normalised return; outlined: remedy and shift match")
        heat.tick_params(axis="x", labelsize=11)
        heat.grid(False)
        fig.colorbar(picture, ax=heat)
        if "none" in e.remedy.values:
            none = e.score.sel(remedy="none")
            for color, shift, label in zip(figures.COLORS, ("usual", "level"), ("training", "unseen"), strict=False):
                for i, n in enumerate(e.levels.values):
                    figures.dots(
                        lines, i, none.sel(levels=n, shift=shift), color=color, label="" if i else f"{label} levels"
                    )
            lines.set(xticks=range(e.sizes["levels"]), xticklabels=[int(n) for n in e.levels.values])
            lines.set(xlabel="levels trained on, no remedy", ylabel="normalised return")
            lines.legend()
        return fig
