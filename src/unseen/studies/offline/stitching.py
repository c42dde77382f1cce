"""Ghugare et al. (2024): whether supervised policies recombine pieces of trajectories."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float, Int, PRNGKeyArray
from matplotlib.patches import Rectangle

from unseen.lab import Judgement, Learner, Study, UserError, artifact, claim, figures, judge, part
from unseen.lab.statistics import Interval, gap_contrast, mean_interval, paired_difference
from unseen.learners import offline_td, outcome_bc
from unseen.learners.offline_td import OfflineTD
from unseen.learners.outcome_bc import OutcomeBC
from unseen.methods import TemporalAugmentation
from unseen.models import DecisionTransformer, GaussianPolicy
from unseen.worlds.control import (
    CrossedRegions,
    MazeOracle,
    OfflineDataset,
    PointMaze,
    StitchingSplit,
    TwoRewardCorridor,
    collect_corridor,
    collect_crossed,
)
from unseen.worlds.control.gym_maze import GymMaze, collect_gym_maze

Share = float | Float[Array, ""]
Count = int | Int[Array, ""]


class Stitching(Study):
    """Stitching as combinatorial generalization (Ghugare et al., 2024).

    Four rooms; the log holds trajectories between neighbouring rooms A-B, B-C and C-D only. Tested are those
    pairs and the others (A-C, A-D, B-D), both ways: every room occurs as start and as goal, the pair never. A
    supervised policy need not solve them, dynamic programming should. Measured are success rates by start and
    goal room of goal-conditioned cloning (RvS), of a goal-conditioned decision transformer, both with and
    without temporal augmentation, and of goal-conditioned IQL, on prefixes of one log; and the returns that a
    return-conditioned policy and IQL reach in a corridor whose larger reward no trajectory connects with the
    start.

    What came out: every effect has the paper's sign and none clears its bound. Supervised policies lose more on
    unseen pairs than IQL does (by 0.19, the interval reaches to 0.05); augmentation adds 0.15 on unseen pairs
    and costs 0.05 on seen ones; more data change little while the gap stays at 0.50. The likely reason is a weak
    TD learner: IQL reaches 0.90 on seen pairs but 0.49 on unseen ones, and in the corridor it takes the smaller
    reward as cloning does. On pilot seeds (0, 1) its values at 20 to 30 steps were 0.2 to 0.4 where 0.65 is true,
    and acting greedily on them with the true dynamics did no better, so 8,000 updates of a small network are too
    few to carry values that far. About 20 settings of IQL were tried (one-step to 20-step targets, expectiles,
    temperatures, learning rates), 5 of RvS and 2 of the transformer, chosen by success on seen pairs.
    """

    layout: str = "four-rooms"  # a preset of PointMaze with named regions
    pairs: str = "AB BC CD"  # region pairs that the log crosses, in both directions
    noise: float = 0.5  # standard deviation of the oracle's action noise in the log
    horizon: int = 150  # steps of a test episode
    episodes: int = 100  # test episodes for each pair of regions
    width: int = 64  # units of the two hidden layers
    batch_size: int = 128  # steps in an update
    learning_rate: float = 3e-3  # of Adam, for RvS
    clusters: int = 40  # of the augmentation
    steps: int = 8_000  # updates of RvS and IQL
    discount: float = 0.98  # of IQL
    expectile: float = 0.7  # of IQL's value
    n_step: int = 10  # steps before IQL's target bootstraps
    temperature: float = 10.0  # of IQL's policy, inverse; values lie in [0, 1]
    td_learning_rate: float = 3e-3  # of Adam, for IQL
    transformer_width: int = 32  # numbers in the decision transformer's residual stream, of four heads
    transformer_layers: int = 2  # its blocks
    transformer_seeds: int = 5  # its seeds
    transformer_steps: int = 1_500  # its updates
    transformer_batch: int = 32  # its segments in an update
    transformer_learning_rate: float = 1e-3  # of Adam
    transformer_episodes: int = 20  # its test episodes for each pair of regions
    context: int = 10  # steps it sees
    corridor_steps: int = 2_000  # updates in the two-reward corridor
    real_transitions: int = 0  # length of each MuJoCo log; 0 leaves out that part, which takes unseen[mujoco]
    real_seeds: int = 5  # seeds of that part
    real_episodes: int = 10  # its test episodes for each pair of cells
    real_horizon: int = 600  # steps of its test episodes

    varies = dict(
        policy=("rvs", "iql"),
        augmentation=(0.0, 0.5),  # probability that a goal is swapped
        size=(25_000, 100_000, 400_000),  # transitions of the log
    )
    traced = ("augmentation", "size")
    smoke = dict(
        width=8, batch_size=8, steps=8, horizon=40, episodes=2, seeds=2, size=(500, 1_000, 2_000),
        clusters=8, transformer_steps=4, transformer_width=4, transformer_layers=1, transformer_seeds=2,
        transformer_episodes=1, transformer_batch=4, context=3, corridor_steps=8,
    )  # fmt: skip
    paper = dict(
        width=1024, batch_size=256, steps=1_000_000, seeds=5, size=(100_000, 400_000, 1_000_000),
        transformer_steps=200_000, transformer_width=128, transformer_layers=3, transformer_batch=256,
        context=5, corridor_steps=100_000, real_transitions=1_000_000,
    )  # fmt: skip
    watch = ("loss", "transformer_loss")

    def check(self) -> None:
        if not PointMaze.preset(self.layout).names:
            raise UserError(f"layout takes a preset with named regions, got {self.layout!r}.")
        StitchingSplit.of(PointMaze.preset(self.layout).names, self.pairs.split())
        unknown = set(self.policy) - {"rvs", "iql"}
        if unknown:
            raise UserError(f"policy takes rvs and iql, got {unknown.pop()!r}.")

    # The world and the log ----------------------------------------------------------------------------------

    @property
    def regions(self) -> CrossedRegions:
        """The maze with its crossed pairs of regions."""
        return CrossedRegions(PointMaze.preset(self.layout), tuple(self.pairs.split()), self.noise)

    @property
    def base_size(self) -> int:
        """The size that policies and augmentation are compared at: the middle one."""
        return self.size[len(self.size) // 2]

    def log(self) -> tuple[OfflineDataset, TemporalAugmentation]:
        """The longest log, of which the others are prefixes, and its augmentation."""
        return _log(self.layout, self.pairs, max(self.size), self.noise, self.clusters)

    def scaled(self, position: Float[Array, "2"]) -> Float[Array, "2"]:
        """A position with about zero mean and unit variance over the maze."""
        rows, columns = PointMaze.preset(self.layout).walls.shape
        return (position - jnp.array([columns, rows]) / 2) / (0.25 * jnp.array([columns, rows]))

    def inputs(self, position: Float[Array, "2"], goal: Float[Array, "2"]) -> Float[Array, "4"]:
        """Features of a state and a goal."""
        return jnp.concatenate([self.scaled(position), self.scaled(goal)])

    def success(
        self, act: Callable[..., Any], key: PRNGKeyArray, episodes: int, memory: Any = None
    ) -> dict[str, Array]:
        """Success by start and goal room, and its means over seen and over unseen pairs."""
        matrix = self.regions.success(act, key, episodes=episodes, horizon=self.horizon, memory=memory)
        return {"success": matrix, **self.regions.split.rates(matrix)}

    @property
    def rooms(self) -> dict[str, Any]:
        """Names of the dimensions of a success matrix."""
        names = list(self.regions.maze.names)
        return {"dims": ("start", "goal"), "coords": {"start": names, "goal": names}}

    # Policies -----------------------------------------------------------------------------------------------

    def includes(self, policy: str, augmentation: float, size: int) -> bool:
        """Cloning without augmentation at every size; the others at the base size."""
        plain = augmentation == min(self.augmentation)
        return (size == self.base_size and (plain or policy == "rvs")) or (policy == "rvs" and plain)

    def learner(self, policy: str, augmentation: Share, size: Count) -> Learner:
        log, swap = self.log()
        common = {"steps": self.steps, "every": max(1, self.steps // 8)}
        common |= {"dims": {"success": self.rooms["dims"]}, "coords": self.rooms["coords"]}
        if policy == "iql":
            td = OfflineTD(
                sample=offline_td.goal_relabelled(
                    log, self.batch_size, self.inputs,
                    radius=self.regions.maze.goal_radius, discount=self.discount, n=self.n_step, limit=size,
                ),
                features=4, actions=2, width=self.width, expectile=self.expectile, temperature=self.temperature,
                optimizer=optax.adam(self.td_learning_rate),
            )  # fmt: skip
            return td.learner(
                final=lambda networks, key: self.success(
                    lambda memory, state, goal: (memory, td.act(networks, self.inputs(state, goal))),
                    key, self.episodes,
                ),
                **common,
            )  # fmt: skip
        bc = OutcomeBC(
            model=lambda key: GaussianPolicy(4, 2, self.width, key=key),
            sample=outcome_bc.goal_conditioned(
                log, self.batch_size, self.inputs, limit=size, augmentation=swap, probability=augmentation
            ),
            optimizer=optax.adam(self.learning_rate),
        )
        return bc.learner(
            final=lambda model, key: self.success(
                lambda memory, state, goal: (memory, model(self.inputs(state, goal))), key, self.episodes
            ),
            **common,
        )

    @part(varies=dict(augmentation=(0.0, 0.5)), traced=("augmentation",), seeds="transformer_seeds")
    def transformer(self, augmentation: Share) -> Learner:
        log, swap = self.log()
        bc = OutcomeBC(
            model=lambda key: DecisionTransformer(
                2, 2, 2, width=self.transformer_width, layers=self.transformer_layers,
                context=self.context, key=key,
            ),
            sample=outcome_bc.goal_segments(
                log, self.transformer_batch, self.context,
                observe=self.scaled, condition=self.scaled, limit=self.base_size,
                augmentation=swap, probability=augmentation,
            ),
            optimizer=optax.adam(self.transformer_learning_rate),
            loss=outcome_bc.squared_error,
        )  # fmt: skip

        def final(model: DecisionTransformer, key: PRNGKeyArray) -> dict[str, Array]:
            def act(memory: Any, state: Array, goal: Array) -> tuple[Any, Array]:
                return model.act(memory, self.scaled(state), self.scaled(goal))

            measured = self.success(act, key, self.transformer_episodes, model.remember())
            return {f"transformer_{name}": value for name, value in measured.items()}

        return bc.learner(
            steps=self.transformer_steps, every=max(1, self.transformer_steps // 4), final=final,
            loss="transformer_loss", dims={"transformer_success": self.rooms["dims"]}, coords=self.rooms["coords"],
        )  # fmt: skip

    @part()
    def controls(self) -> Learner:
        """Manipulation checks: the tasks can be solved, and not by chance."""
        oracle = MazeOracle.of(self.regions.maze)

        def act(key: PRNGKeyArray, state: Array, goal: Array) -> tuple[PRNGKeyArray, Array]:
            key, drawn = jax.random.split(key)
            return key, jax.random.uniform(drawn, (2,), minval=-1, maxval=1)

        def compute(key: PRNGKeyArray) -> dict[str, Array]:
            tasks, walk = jax.random.split(key)
            solved = self.success(lambda memory, state, goal: (memory, oracle(state, goal)), tasks, self.episodes)
            chance = self.success(act, tasks, self.episodes, walk)
            return {f"oracle_{k}": solved[k] for k in ("seen", "unseen")} | {
                f"random_{k}": chance[k] for k in ("seen", "unseen")
            }

        return Learner.once(compute)

    @part(varies=dict(policy=("rvs", "iql")))
    def corridor(self, policy: str) -> Learner:
        """The return-conditioned variant."""
        world = TwoRewardCorridor(self.noise)
        log = OfflineDataset.from_arrays(
            artifact(collect_corridor, {"transitions": self.size[0], "noise": self.noise, "seed": 0})
        )
        common = {"steps": self.corridor_steps, "every": self.corridor_steps, "loss": "corridor_loss"}

        def place(state: Array) -> Array:
            return (state - jnp.array([6.5, 1.5])) / jnp.array([3.0, 0.5])

        def measured(act: Callable[..., Array], key: PRNGKeyArray) -> dict[str, Array]:
            return {"corridor_return": world.returns(act, key, episodes=self.episodes).mean()}

        if policy == "iql":
            td = OfflineTD(
                sample=offline_td.steps_of(
                    log, self.batch_size, place, discount=self.discount, n=self.n_step
                ),
                features=2, actions=2, width=self.width, expectile=self.expectile,
                temperature=self.temperature, optimizer=optax.adam(self.td_learning_rate),
            )  # fmt: skip
            return td.learner(final=lambda n, key: measured(lambda s: td.act(n, place(s)), key), **common)

        def inputs(state: Array, to_go: Array) -> Array:
            return jnp.concatenate([place(state), to_go[None]])

        bc = OutcomeBC(
            model=lambda key: GaussianPolicy(3, 2, self.width, key=key),
            sample=outcome_bc.return_conditioned(log, self.batch_size, inputs),
            optimizer=optax.adam(self.learning_rate),
        )
        best = log.returns_to_go().max()
        return bc.learner(final=lambda model, key: measured(lambda s: model(inputs(s, best)), key), **common)

    @part(
        varies=dict(real_maze=("u-maze", "medium", "large"), policy=("rvs", "iql"), augmentation=(0.0, 0.5)),
        includes=lambda self, real_maze, policy, augmentation: (
            self.real_transitions > 0 and (policy == "rvs" or augmentation == min(self.augmentation))
        ),
        seeds="real_seeds",
    )
    def real(self, real_maze: str, policy: str, augmentation: float) -> Learner:
        """The paper's own logs: PointMaze in MuJoCo, tested on pairs of cells that no group of the log joins."""
        maze = GymMaze.preset(real_maze)
        settings = {"layout": real_maze, "transitions": self.real_transitions, "noise": self.noise, "seed": 0}
        log = OfflineDataset.from_arrays(artifact(collect_gym_maze, settings))
        mean, std = (f(log.observation, axis=(0, 1)) for f in (jnp.mean, jnp.std))

        def inputs(observation: Array, goal: Array) -> Array:
            return jnp.concatenate([(observation - mean) / std, (goal - mean[:2]) / std[:2]])

        def measured(act: Callable[[Array], Array], key: PRNGKeyArray) -> dict[str, Any]:
            fast = jax.jit(lambda observation, goal: act(inputs(observation, goal)))
            seed = int(jax.random.randint(key, (), 0, 2**31 - 1))
            return {
                f"real_{name}": maze.success(
                    fast, pairs, episodes=self.real_episodes, horizon=self.real_horizon, seed=seed
                ).mean()
                for name, pairs in (("seen", maze.seen), ("unseen", maze.tests))
            }

        common: dict[str, Any] = {"steps": self.steps, "every": max(1, self.steps // 8)}
        common |= {"loss": "real_loss", "host": True}
        if policy == "iql":
            td = OfflineTD(
                sample=offline_td.goal_relabelled(
                    log, self.batch_size, inputs, radius=0.45, discount=self.discount, n=self.n_step
                ),
                features=6, actions=2, width=self.width, expectile=self.expectile,
                temperature=self.temperature, optimizer=optax.adam(self.td_learning_rate),
            )  # fmt: skip
            learner = td.learner(final=lambda networks, key: measured(lambda x: td.act(networks, x), key), **common)
        else:
            swap = TemporalAugmentation.of(log.observation, log.length, clusters=self.clusters)
            bc = OutcomeBC(
                model=lambda key: GaussianPolicy(6, 2, self.width, key=key),
                sample=outcome_bc.goal_conditioned(
                    log, self.batch_size, inputs, augmentation=swap, probability=augmentation
                ),
                optimizer=optax.adam(self.learning_rate),
            )
            learner = bc.learner(final=measured, **common)
        return dataclasses.replace(learner, advance=eqx.filter_jit(learner.advance))

    # Claims -------------------------------------------------------------------------------------------------

    def judged(
        self, e: xr.Dataset, effect: Interval, *, supported: Any, refuted: Any, note: str = "", **more: Any
    ) -> Judgement:
        """The judgement, withheld where the oracle succeeds in under 95% of the episodes or the random policy
        in over 10%."""
        oracle = float(min(e.oracle_seen.mean(), e.oracle_unseen.mean()))
        chance = float(max(e.random_seen.mean(), e.random_unseen.mean()))
        sound = oracle >= 0.95 and chance <= 0.10
        checks = f"oracle success {oracle:.2f}, random {chance:.2f}"
        words = [note, checks if sound else f"{checks}: no judgement is valid"]
        return judge(
            effect,
            supported=supported and sound,
            refuted=refuted and sound,
            note="; ".join(filter(None, words)),
            **more,
        )

    def cell(self, e: xr.Dataset, policy: str = "rvs", *, swap: bool = False, size: int | None = None) -> xr.Dataset:
        """One condition of the evidence: with or without augmentation, at the base size unless another is
        given."""
        share = max(self.augmentation) if swap else 0.0
        return e.sel(policy=policy, augmentation=share, size=size or self.base_size)

    @claim("no-stitching")
    def no_stitching(self, e: xr.Dataset) -> Judgement:
        rvs, iql = self.cell(e), self.cell(e, "iql")
        sequence = e.sel(augmentation=0.0).isel(seed=slice(0, self.transformer_seeds))
        # gap_contrast: what its first pair loses more than its second one, from seen to unseen pairs.
        of_rvs = gap_contrast(iql.unseen, iql.seen, rvs.unseen, rvs.seen)
        of_transformer = gap_contrast(
            iql.unseen, iql.seen, sequence.transformer_unseen, sequence.transformer_seen
        ).isel(seed=slice(0, self.transformer_seeds))
        both = (of_rvs + of_transformer) / 2  # on the seeds that the transformer has
        ci = mean_interval(both)
        return self.judged(
            e,
            ci,
            supported=ci.high < -0.15,
            refuted=ci.low > -0.15,
            also={"RvS alone": mean_interval(of_rvs), "transformer alone": mean_interval(of_transformer)},
        )

    @claim("size-no-cure")
    def size_no_cure(self, e: xr.Dataset) -> Judgement:
        small, large = (self.cell(e, size=pick(self.size)) for pick in (min, max))
        gain = mean_interval(paired_difference(large.unseen, small.unseen))
        gap = mean_interval(paired_difference(large.seen, large.unseen))
        return self.judged(
            e,
            gain,
            supported=gain.high < 0.10 and gap.low > 0.15,
            refuted=gain.low > 0.10 or gap.high < 0.15,
            also={"gap on the largest log": gap},
        )

    @claim("augmentation")
    def augmentation_helps(self, e: xr.Dataset) -> Judgement:
        ci = mean_interval(paired_difference(self.cell(e, swap=True).unseen, self.cell(e).unseen))
        sequence = e.transformer_unseen.isel(seed=slice(0, self.transformer_seeds))
        gain = paired_difference(sequence.sel(augmentation=max(self.augmentation)), sequence.sel(augmentation=0.0))
        return self.judged(
            e,
            ci,
            supported=ci.low > 0.10,
            refuted=ci.high < 0.10,
            note=f"transformer: {mean_interval(gain)}",
        )

    @claim("no-cost")
    def no_cost(self, e: xr.Dataset) -> Judgement:
        ci = mean_interval(paired_difference(self.cell(e, swap=True).seen, self.cell(e).seen))
        return self.judged(e, ci, supported=ci.low > -0.05, refuted=ci.high < -0.05)

    # Figure -------------------------------------------------------------------------------------------------

    def figure(self, e: xr.Dataset) -> Any:
        cells = {
            "supervised (RvS)": self.cell(e),
            "RvS + augmentation": self.cell(e, swap=True),
            "TD (IQL)": self.cell(e, "iql"),
        }
        fig, axes = figures.panels(3, width=3.4, height=4.0, sharey=True)
        unseen, names = self.regions.split.unseen, list(self.regions.maze.names)
        for ax, (title, cell) in zip(axes, cells.items(), strict=True):
            matrix = cell.success.mean("seed")
            ax.imshow(matrix, vmin=0, vmax=1, cmap=figures.SEQUENTIAL)
            for i, j in np.ndindex(matrix.shape):
                value = float(matrix[i, j])
                color = "white" if value < 0.6 else "black"
                ax.text(j, i, f"{value:.2f}", ha="center", va="center", color=color)
                if unseen[i, j]:
                    frame = Rectangle((j - 0.45, i - 0.45), 0.9, 0.9, fill=False, ec=figures.COLORS[1], lw=3.5)
                    ax.add_patch(frame)
            ax.set(xticks=range(len(names)), xticklabels=names, yticks=range(len(names)), yticklabels=names)
            seen, other = float(cell.seen.mean()), float(cell.unseen.mean())
            ax.set(xlabel="goal room", title=f"{title}\nseen {seen:.2f}, unseen {other:.2f}")
            ax.grid(False)
        axes[0].set_ylabel("start room")
        fig.suptitle("Success by start and goal room; framed: pairs that the log never joins")
        return fig


@lru_cache(maxsize=2)
def _log(
    layout: str, pairs: str, transitions: int, noise: float, clusters: int
) -> tuple[OfflineDataset, TemporalAugmentation]:
    settings = {"layout": layout, "pairs": pairs.split(), "transitions": transitions, "noise": noise}
    log = OfflineDataset.from_arrays(artifact(collect_crossed, {**settings, "seed": 0}))
    return log, TemporalAugmentation.of(log.achieved, log.length, clusters=clusters)
