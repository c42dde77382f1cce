"""Jackson et al. (2023): update rules meta-learned on levels where they still lose against a hand-designed one."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float, Key
from scipy.stats import rankdata

from unseen.lab import Judgement, Learner, Study, UserError, above, claim, figures, part
from unseen.lab.statistics import mean_interval, paired_difference, spearman
from unseen.learners.groove import Groove, Meta
from unseen.learners.level_scores import a2c, returns_after, score_vs_true_regret
from unseen.learners.lifetimes import Lives, UpdateRule
from unseen.methods.curriculum import PrioritisedReplay
from unseen.worlds.control.compiled_levels import CompiledLevel
from unseen.worlds.control.first_pays import FirstPays
from unseen.worlds.control.grid_levels import (
    TEST_LEVELS,
    GridLevel,
    LevelKind,
    Maze,
    RewardObjects,
    levels_of,
    stack_levels,
)
from unseen.worlds.control.hand_made import hand_made_mazes

SCORES = ("algorithmic regret", "positive value loss", "L1 value loss")
SETS = ("mazes", "large", "corridors")
LONGEST = 48  # moves, in the nine mazes
RULES = {"random": "random levels (LPG)", "regret": "algorithmic regret (GROOVE)", "value": "positive value loss"}
TENTHS = 10  # in which the figure shows levels


@dataclasses.dataclass(frozen=True)
class Training:
    """A level to train on, from the ids that no test level has."""

    kind: LevelKind

    def __call__(self, key: Key[Array, ""]) -> CompiledLevel:
        """One level."""
        return CompiledLevel.of(self.kind(self.level_key(key)))

    def level_key(self, key: Key[Array, ""]) -> Key[Array, ""]:
        """What the level is made from."""
        return jax.random.fold_in(jax.random.key(0), jax.random.randint(key, (), 0, TEST_LEVELS))


class GrooveStudy(Study):
    """Discovering general RL algorithms with adversarial environment design (Jackson et al., 2023).

    A learned policy gradient (LPG) is meta-trained on small grids with objects of random reward. Its learners are
    tabular and live for some updates, each on a level of its own. Levels are random, or half of them come back from a
    buffer that keeps those of high score: algorithmic regret (what a tabular A2C earns after a life there minus what
    the rule's learner earns) or positive value loss. All three are one program; compute is the same.

    The rules are tested on nine hand-made mazes, on larger grids and on generated mazes of narrow corridors, all with
    longer lives and episodes than in training, beside A2C. Returns are exact and divided by the exact optimum of the
    levels. On unseen levels of the training distribution three scores are compared with the exact regret of the rule's
    learners at the end of life.

    Smaller than the catalogue's: grids of size 5 with two objects, a GRU of 16, 12 learners at once, 240 meta-
    steps, a buffer of 64; six seeds. Tuned on pilots by the return on training levels: the rule's step size (0.003,
    0.01, 0.03) and the learners' (20, 60) with random levels (seeds 0 and 1), A2C's step size (5 to 160; one
    gradient step a rollout, no bonus for entropy). At 60 rules are learned faster, but one of four pilots with
    replay by algorithmic regret lost its rule for good (seed 3): 20, with which all eight pilots (seeds 0 to 3, six
    of them with that replay) kept theirs. Kept levels come back with probability 1 / rank, where the official code
    takes the highest scores; it has no value losses.

    What came out: meta-training works, from 0.3 to 0.83 of the optimum on training levels in every run (A2C: 0.90),
    and the choice of levels hardly matters: all three claims are inconclusive. GROOVE minus LPG is -0.01 (from
    -0.03 to 0.01): a little more on larger grids (0.83 and 0.81), less in corridors (0.79 and 0.83), so nothing of
    use to the paper's claim, though 120 replayed lives in a run may be too few for a curriculum to tell. Against
    replay by value loss it is +0.009 (from -0.003 to 0.021). The score is the sharper result: algorithmic regret
    ranks levels no better than a value loss does (0.36 and 0.34, the difference between -0.07 and 0.10). The likely
    reason is A2C. It loses 0.16 of return on average, the rule 0.22, mostly on the same levels (rank correlation of
    the two regrets 0.81): what is hard is hard for both, and their difference does not show it. On a third of the
    levels the rule's learner earns more than A2C's. Large regrets are found all the same (linear correlation 0.67).
    An antagonist that comes nearer to the optimum, by longer lives for instance, should help; that was not tried.
    The rules seldom find the goal of the mazes that A2C solves (0.15 of the optimum on the nine, A2C 0.59), perhaps
    because in small grids, where something is always near, they learn to decide quickly.
    """

    side: int = 5  # of a training grid, inside of its border
    objects: int = 2
    pupils: int = 12  # learners at once
    lifetime: int = 60  # updates of a learner in training
    updates: int = 5  # of a learner that a meta-gradient looks through
    meta_steps: int = 240
    every: int = 40  # meta-steps between two looks
    width: int = 16  # of the rule's GRU
    targets: int = 8  # categories of a prediction
    learning_rate: float = 1e-2  # of Adam, for the rule; falls linearly to 0
    rate: float = 20.0  # of the rule's learners
    a2c_rate: float = 10.0
    slots: int = 64  # levels in the buffer
    temperature: float = 1.0  # of the ranks in the buffer
    staleness: float = 0.1  # weight of a level's age against its score
    walkers: int = 8  # copies of the level in a rollout
    time: int = 20  # steps of a rollout
    limit: int = 50  # steps of an episode
    looks: int = 16  # training levels of a look
    levels: int = 512  # unseen levels whose scores are compared with regret
    tests: int = 16  # levels of a test set other than the nine mazes
    test_lifetime: int = 120  # updates of a learner in the test
    test_limit: int = 100  # steps of an episode in the test
    seeds: int = 6

    varies = dict(replay=(0.0, 0.5), regret=(1.0, 0.0))
    traced = ("replay", "regret")
    smoke = dict(
        side=3, pupils=4, lifetime=4, updates=2, meta_steps=4, every=2, width=4, targets=3, slots=4, walkers=2, time=5,
        limit=10, looks=2, levels=8, tests=2, test_lifetime=4, test_limit=48, seeds=2,
    )  # fmt: skip
    # The paper's levels vary in size and its far tests are MinAtar and Atari, which are not built here.
    paper = dict(
        side=11, objects=4, pupils=500, lifetime=250, meta_steps=30_000, every=1_000, width=256, learning_rate=1e-4,
        slots=4_000, walkers=64, limit=500, tests=64, test_lifetime=2_500, test_limit=500, seeds=10,
    )  # fmt: skip
    watch = ("training_return", "kept_score")

    def includes(self, replay, regret) -> bool:
        """Without replay the score is no matter: once."""
        return replay > 0 or regret == max(self.regret)

    def check(self) -> None:
        """Shares, and sizes that fit each other."""
        for name in ("replay", "regret"):
            if bad := [value for value in getattr(self, name) if not 0 <= value <= 1]:
                raise UserError(f"{name} takes shares from 0 to 1, got {bad[0]}.")
        if self.meta_steps < 1 or self.every < 1 or self.meta_steps % self.every:
            raise UserError(f"meta_steps takes a multiple of every, {self.every}, got {self.meta_steps}.")
        for name in ("slots", "looks", "levels", "tests", "test_lifetime"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} takes a number from 1 on, got {getattr(self, name)}.")
        if self.test_limit < LONGEST:
            raise UserError(f"test_limit takes the {LONGEST} moves of the longest maze or more, got {self.test_limit}.")
        self.trainer(0.0, 1.0)  # says what pupils and lifetime must be
        self.kind(self.side)

    # Worlds ----------------------------------------------------------------------------------------------

    def kind(self, side: int) -> FirstPays:
        """Grids with objects, of that many rows and columns inside of the border."""
        return FirstPays(RewardObjects(side + 2, self.objects))

    @property
    def sets(self) -> dict[str, slice]:
        """Where each test set is among the test levels."""
        mazes = len(hand_made_mazes())
        return {
            "mazes": slice(mazes),
            "large": slice(mazes, mazes + self.tests),
            "corridors": slice(mazes + self.tests, None),
        }

    def held_out(self) -> tuple[CompiledLevel, Float[Array, " levels"]]:
        """The test sets, one after the other, and the best possible return on each level."""
        sets = [
            stack_levels(list(hand_made_mazes().values())),
            levels_of(self.kind(self.side + 3), self.tests, "test"),
            levels_of(Maze(9), self.tests, "test"),
        ]
        side, objects = max(level.size[0] for level in sets), max(level.objects for level in sets)
        same = [_padded(levels, side, objects) for levels in sets]
        return _compiled(jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *same), self.test_limit)

    @property
    def lives(self) -> Lives:
        """How learners live in training."""
        return Lives(self.walkers, self.time, self.limit)

    @property
    def test_lives(self) -> Lives:
        """How learners live in the test."""
        return Lives(self.walkers, self.time, self.test_limit)

    # Learners --------------------------------------------------------------------------------------------

    def trainer(self, replay: Any, regret: Any) -> Groove:
        """Meta-training under one condition."""
        teacher = PrioritisedReplay(
            Training(self.kind(self.side)), slots=self.slots, replay=replay, temperature=self.temperature,
            staleness=self.staleness, least=min(self.pupils, self.slots),
        )  # fmt: skip
        rate = optax.linear_schedule(self.learning_rate, 0.0, self.meta_steps)
        return Groove(
            teacher, self.lives, regret=regret, antagonist=a2c(self.a2c_rate),
            optimizer=optax.chain(optax.clip_by_global_norm(0.5), optax.adam(rate)),
            width=self.width, targets=self.targets, pupils=self.pupils, updates=self.updates, lifetime=self.lifetime,
            rate=self.rate,
        )  # fmt: skip

    def learner(self, replay, regret) -> Learner:
        """Meta-training of one rule, its test, and the scores of levels for it."""
        trainer, tests, look = self.trainer(replay, regret), self.held_out(), self.look()
        unseen, _ = _compiled(levels_of(self.kind(self.side), self.levels, "test"), self.limit)

        def measure(state: Meta) -> dict[str, Array]:
            pool = state.pool
            kept = jnp.sum(pool.score * pool.filled) / jnp.maximum(pool.filled.sum(), 1)
            return {"training_return": look(trainer.at_work(state.rule)), "kept_score": kept}

        def final(state: Meta) -> dict[str, Array]:
            rule = trainer.at_work(state.rule)
            test, score = jax.random.split(jax.random.fold_in(state.key, 1))
            found = score_vs_true_regret(
                self.lives, rule, unseen, score, self.lifetime, trainer.antagonist, trainer.table, self.updates
            )
            scores = jnp.stack([found.algorithmic_regret, found.positive_value_loss, found.l1_value_loss])
            return {"score_of_level": scores, "regret_of_level": found.regret} | self.tested(rule, tests, test)

        return Learner(
            init=trainer.init, advance=lambda state: trainer.run(state, self.every), measure=measure, final=final,
            steps=self.meta_steps, every=self.every,
            dims={
                "score_of_level": ("score", "level"), "regret_of_level": ("level",), "maze_return": ("maze",),
                "set_return": ("set",),
            },
            coords={"score": list(SCORES), "maze": list(hand_made_mazes()), "set": list(SETS)},
        )  # fmt: skip

    @part()
    def reference(self) -> Learner:
        """A2C on the same levels."""
        tests, look = self.held_out(), self.look()

        def compute(key: Array) -> dict[str, Array]:
            found = self.tested(a2c(self.a2c_rate), tests, key) | {"training_return": look(a2c(self.a2c_rate))}
            return {f"a2c_{name}": value for name, value in found.items()}

        return Learner.once(
            compute, dims={"a2c_maze_return": ("maze",), "a2c_set_return": ("set",)},
            coords={"maze": list(hand_made_mazes()), "set": list(SETS)},
        )  # fmt: skip

    def look(self) -> Any:
        """What a rule earns on some training levels at the end of life, over their optimum."""
        levels, best = _compiled(levels_of(self.kind(self.side), self.looks), self.limit)

        def earned(rule: UpdateRule) -> Float[Array, ""]:
            return returns_after(self.lives, rule, levels, jax.random.key(0), self.lifetime).mean() / best.mean()

        return earned

    def tested(
        self, rule: UpdateRule, tests: tuple[CompiledLevel, Float[Array, " levels"]], key: Key[Array, ""]
    ) -> dict[str, Array]:
        """Normalised returns of a rule in the test."""
        levels, best = tests
        earned = returns_after(self.test_lives, rule, levels, key, self.test_lifetime)
        return {
            "maze_return": (earned / best)[self.sets["mazes"]],
            "set_return": jnp.stack([earned[part].mean() / best[part].mean() for part in self.sets.values()]),
        }

    # Claims ----------------------------------------------------------------------------------------------

    def of(self, values: xr.DataArray, name: str) -> xr.DataArray:
        """The values of one of the three ways to choose levels."""
        replay = 0.0 if name == "random" else float(values.replay.max())
        regret = {"regret": 1.0, "value": 0.0}.get(name, float(values.regret.max()))
        if (
            replay not in values.replay.values
            or regret not in values.regret.values
            or (name != "random") != (replay > 0)
        ):
            raise UserError(f"{RULES[name]} needs replay {replay:g} and regret {regret:g}, not in this evidence.")
        return values.sel(replay=replay, regret=regret, drop=True)

    def correlations(self, e: xr.Dataset, name: str) -> xr.DataArray:
        """Rank correlation of each score with exact regret, for each seed."""
        scores, regret = self.of(e.score_of_level, name), self.of(e.regret_of_level, name)
        return xr.concat(
            [spearman(scores.sel(score=s, drop=True), regret, "level") for s in SCORES], "score"
        ).assign_coords(score=list(SCORES))

    @claim("score")
    def score(self, e: xr.Dataset) -> Judgement:
        """Rank correlation with exact regret, algorithmic regret minus the better value loss."""
        found = self.correlations(e, "regret")
        rival = max(SCORES[1:], key=lambda name: float(found.sel(score=name).mean()))
        effect = mean_interval(paired_difference(found.sel(score=SCORES[0]), found.sel(score=rival)))
        note = ", ".join(f"{name} {float(found.sel(score=name).mean()):.2f}" for name in SCORES)
        return above(effect, 0.10, refuted_below=0.0, note=f"against {rival}; {note}")

    def compared(self, e: xr.Dataset, name: str) -> Judgement:
        """Return on the held-out sets, GROOVE minus another choice of levels."""
        ours, theirs = (self.of(e.set_return, which) for which in ("regret", name))
        gap = paired_difference(ours, theirs)
        effect = mean_interval(gap.mean("set", skipna=False))
        note = ", ".join(
            f"{s} {float(ours.sel(set=s).mean()):.3f} against {float(theirs.sel(set=s).mean()):.3f}" for s in SETS
        )
        return above(effect, 0.0, note=note)

    @claim("beats-lpg")
    def beats_lpg(self, e: xr.Dataset) -> Judgement:
        """GROOVE minus LPG."""
        return self.compared(e, "random")

    @claim("score-needed")
    def score_needed(self, e: xr.Dataset) -> Judgement:
        """Replay by algorithmic regret minus replay by positive value loss."""
        return self.compared(e, "value")

    def figure(self, e: xr.Dataset) -> Any:
        """Rank of scores against rank of true regret; normalised return on nine mazes."""
        fig, (left, right) = figures.panels(2, width=6.5, height=4.6, gridspec_kw={"width_ratios": [1, 1.5]})
        try:
            found, scores = self.correlations(e, "regret"), self.of(e.score_of_level, "regret")
            regret = self.of(e.regret_of_level, "regret")
            for color, name in zip(figures.COLORS, SCORES, strict=False):
                curve = _by_tenth(scores.sel(score=name), regret)
                label = f"{name} ({float(found.sel(score=name).mean()):.2f})"
                figures.curve(left, curve, x="tenth", color=color, label=label)
            left.legend(loc="upper left", title="rank correlation in brackets", title_fontsize=11)
        except (KeyError, UserError):
            pass
        left.set(xlabel="tenth of levels by exact regret", ylabel="mean rank of score", ylim=(0, 1.25))
        shown = []
        for name, label in RULES.items():
            try:
                shown.append((label, self.of(e.maze_return, name)))
            except (KeyError, UserError):
                continue
        if "a2c_maze_return" in e:
            shown.append(("A2C", e.a2c_maze_return))
        for i, (label, values) in enumerate(shown):
            color = "#000000" if label == "A2C" else figures.COLORS[i]
            for j, maze in enumerate(values.maze.values):
                place = j + 0.2 * (i - (len(shown) - 1) / 2)
                figures.dots(right, place, values.sel(maze=maze), color=color, label="" if j else label, width=0.05)
        right.set(title="return / optimum on nine mazes", ylim=(-0.03, 1.3))
        right.set_xticks(range(e.sizes["maze"]), [str(name) for name in e.maze.values], rotation=35, ha="right")
        right.legend(loc="upper left", ncols=2, fontsize=10)
        return fig


def _padded(levels: GridLevel, side: int, objects: int) -> GridLevel:
    """The same levels with more walls, and with objects in the border, where nobody comes."""
    more, room = objects - levels.objects, ((0, 0), *[(0, side - levels.size[0])] * 2)
    of_object = {
        name: jnp.pad(getattr(levels, name), ((0, 0), (0, more))) for name in ("colour", "reward", "ends", "respawn")
    }
    return dataclasses.replace(
        levels, walls=jnp.pad(levels.walls, room, constant_values=True), lava=jnp.pad(levels.lava, room),
        object_cell=jnp.pad(levels.object_cell, ((0, 0), (0, more), (0, 0))), **of_object,
    )  # fmt: skip


@functools.partial(jax.jit, static_argnums=1)
def _compiled(levels: GridLevel, limit: int) -> tuple[CompiledLevel, Float[Array, " levels"]]:
    """Levels as tables, and the best possible return of an episode in each."""
    tables = jax.vmap(CompiledLevel.of)(levels)
    return tables, jax.vmap(lambda level: level.optimum(limit))(tables)


def _by_tenth(score: xr.DataArray, regret: xr.DataArray) -> xr.DataArray:
    """Mean rank of the score, from 0 to 1, in each tenth of levels by regret."""
    rank, order = (rankdata(x.transpose("seed", "level"), axis=1) / x.sizes["level"] for x in (score, regret))
    tenth = np.minimum(np.ceil(order * TENTHS), TENTHS)
    means = [np.where(tenth == i + 1, rank, 0).sum(1) / np.maximum((tenth == i + 1).sum(1), 1) for i in range(TENTHS)]
    dims, places = ("tenth", "seed"), np.arange(1, TENTHS + 1)
    return xr.DataArray(means, {"tenth": places, "seed": score.seed}, dims)
