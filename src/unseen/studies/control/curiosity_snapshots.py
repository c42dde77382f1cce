"""Groth et al. (2021): what curiosity learns and forgets, and what snapshots of it are worth."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import xarray as xr
from jaxtyping import Array, Key

from unseen.lab import Judgement, Learner, Study, UserError, above, claim, figures, judge, part
from unseen.lab.statistics import mean_interval, paired_difference
from unseen.learners.skill_ppo import SkillPPO, SkillState
from unseen.measures.predicates import predicate_profile
from unseen.methods.curiosity import CuriosityReward
from unseen.methods.skills import SnapshotStore
from unseen.worlds.control.coordinate_levels import PLAYROOM_EVENTS, CoordinateLevels, playroom_events
from unseen.worlds.control.grid_levels import GridLevel, Playroom

TASKS = ("box in corner", "switch", "door", "treasure")
ARMS = ("snapshots", "final only", "untrained", "curiosity bonus", "scratch")
TREASURE = PLAYROOM_EVENTS.index("treasure")


class Explorer(NamedTuple):
    """An agent without a task in the level of its life, and what rewards it."""

    agent: SkillState
    level: GridLevel
    taste: eqx.nn.MLP  # the fixed random reward network
    moments: Array  # of its rewards in the first rollout: mean and standard deviation
    store: SnapshotStore


class Apprentices(NamedTuple):
    """One agent for every arm and task, in the explorer's level, with the arm's stored policies."""

    agents: SkillState
    level: GridLevel
    stored: Any
    success: Array


class CuriositySnapshots(Study):
    """Is curiosity all you need? On the utility of emergent behaviours (Groth et al., 2021).

    An agent lives in one playroom (three rooms, key, door, box, switch, a treasure behind the door). PPO rewards it
    with the error of a forward model that learns beside it or, as the control, with a fixed random network's opinion
    of where it is. Twenty snapshots on the way are profiled: in which share of episodes do they fetch the key, push the
    box, bring it into a corner, flip the switch, pass the door, take the treasure? The best one is chosen on one set of
    episodes and scored on a fresh one.

    Then four sparse tasks in the same playroom (reward 1 when it comes about for the first time in an episode), each
    learned by five arms from the same start: with a scheduler over the new policy and the curious snapshots, over the
    new policy and the final curious one alone, over the new one and as many untrained policies; and without stored
    policies, with and without a curiosity bonus. Success is that of the learner's own training episodes.

    What came out: behaviours come and go. From its best snapshot to the last one a behaviour loses 0.42 of the
    episodes under curiosity and next to nothing (0.02) under the fixed reward, whose policy settles on fetching the key
    and moving the box within 50 thousand steps. Learned options beat untrained ones by 0.14 of the area under the
    curve, so their content counts. They do not clearly beat starting from scratch (+0.04, interval from -0.09 to 0.17),
    nor do twenty snapshots beat the final policy alone (+0.01): options begin at three times the success of a fresh
    policy, which catches up within 20 thousand steps. The likely reason is that chance meets every task but the
    treasure in rooms this small, so there is little to be saved; the plain curiosity bonus is the best arm (0.81). A
    playroom in which chance does not meet the tasks (`paper`) would be the fairer test of reuse.
    """

    side: int = 4  # of a room
    horizon: int = 64  # steps of an episode
    episodes: int = 32  # in an iteration of exploration
    iterations: int = 200  # of exploration
    snapshots: int = 20  # kept on the way
    profiled: int = 16  # episodes to choose a snapshot by, and as many to score it
    task_episodes: int = 16  # in an iteration of a task
    task_iterations: int = 60
    task_every: int = 4  # iterations between two looks
    period: int = 8  # steps for which a choice of the scheduler holds
    bonus: float = (
        0.01  # weight of the curiosity bonus, whose mean square is 1; an episode's sum stays below the task's 1
    )
    learning_rate: float = 1e-3
    entropy: float = 0.01
    epochs: int = 3
    width: int = 64
    model_width: int = 128  # of the forward model
    model_updates: int = 8  # gradient steps of the forward model in an iteration
    capacity: int = 16_384  # steps in the memory that it learns from
    seeds: int = 5

    varies = dict(curious=(1.0, 0.0))  # 0: the fixed random network's reward instead
    traced = ("curious",)
    smoke = dict(
        horizon=16, episodes=4, iterations=4, snapshots=2, profiled=2, task_episodes=4, task_iterations=2, task_every=1,
        epochs=1, width=8, model_width=8, model_updates=1, capacity=128, seeds=2,
    )  # fmt: skip
    paper = dict(
        side=8, horizon=256, episodes=128, iterations=300, snapshots=100, capacity=1_048_576, width=256,
        model_width=256, model_updates=64, task_episodes=64, task_iterations=200,
    )  # fmt: skip
    watch = ("curious_surprise", "success")

    def check(self) -> None:
        """Known rewards; sizes that fit."""
        if bad := [value for value in self.curious if value not in (0.0, 1.0)]:
            raise UserError(f"curious takes 1 (curiosity) or 0 (a fixed random reward), got {bad[0]}.")
        if self.snapshots < 1 or self.iterations % self.snapshots:
            raise UserError(
                f"iterations takes a multiple of snapshots, {self.snapshots} (1 or more), got {self.iterations}."
            )
        if self.task_iterations % self.task_every:
            raise UserError(
                f"task_iterations takes a multiple of task_every, {self.task_every}, got {self.task_iterations}."
            )
        for name in ("episodes", "task_episodes"):
            if self.capacity % (self.horizon * getattr(self, name)):
                raise UserError(
                    f"capacity takes a multiple of {name} * horizon = {self.horizon * getattr(self, name)}, "
                    f"got {self.capacity}."
                )

    # The world -------------------------------------------------------------------------------------------

    @property
    def world(self) -> CoordinateLevels:
        """A playroom seen as coordinates."""
        return CoordinateLevels(Playroom(self.side))

    def level(self, key: Key[Array, ""]) -> GridLevel:
        """A playroom whose treasure does not end the episode."""
        level = Playroom(self.side)(key)
        return eqx.tree_at(lambda level: level.ends, level, jnp.zeros_like(level.ends))

    def trainer(self, level: GridLevel, episodes: int) -> SkillPPO:
        """PPO in a level."""
        return SkillPPO(
            environment=self.world, params=self.world.params(level, max_steps=self.horizon),
            events=lambda state: playroom_events(level, state), horizon=self.horizon, episodes=episodes,
            epochs=self.epochs, minibatches=max(1, self.horizon * episodes // 256), period=self.period,
            width=self.width, learning_rate=self.learning_rate, entropy=self.entropy,
            curiosity=CuriosityReward(
                width=self.model_width, capacity=self.capacity, updates=self.model_updates
            ),
        )  # fmt: skip

    # Exploration -----------------------------------------------------------------------------------------

    def begin(self, key: Key[Array, ""]) -> Explorer:
        """A newborn; the same under every reward."""
        where, who, taste, first = jax.random.split(key, 4)
        level = self.level(where)
        trainer = self.trainer(level, self.episodes)
        agent = trainer.init(who)
        size = self.world.observation_space().shape[0]
        net = eqx.nn.MLP(size, "scalar", self.model_width, 1, jnp.tanh, key=taste)
        net = jax.tree.map(lambda leaf: 3 * leaf if eqx.is_inexact_array(leaf) else leaf, net)
        liked = jax.vmap(jax.vmap(net))(trainer.play(agent.agent, first).observation)
        moments = jnp.stack([liked.mean(), liked.std()])
        return Explorer(agent, level, net, moments, SnapshotStore.empty(agent.agent.policy, self.snapshots))

    def explore(self, explorer: Explorer, curious: Any) -> Explorer:
        """On to the next snapshot, rewarded by curiosity (where `curious`) or by the fixed network."""
        trainer = self.trainer(explorer.level, self.episodes)

        def pay(played: Any, surprise: Array) -> Array:
            mean, deviation = explorer.moments
            liked = (jax.vmap(jax.vmap(explorer.taste))(played.observation[1:]) - mean) / deviation
            return jnp.where(jnp.asarray(curious) > 0, surprise, liked)

        agent = _repeated(lambda state: trainer.iterate(state, pay), explorer.agent, self.iterations // self.snapshots)
        return explorer._replace(agent=agent, store=explorer.store.add(agent.agent.policy))

    def learner(self, curious) -> Learner:
        """A life without a task."""

        def measure(explorer: Explorer) -> dict[str, Array]:
            params = self.world.params(explorer.level, max_steps=self.horizon)
            policy = explorer.agent.agent.policy

            def profile(key: Array) -> Array:
                return predicate_profile(
                    lambda key, seen: jax.random.categorical(key, policy.log_probs(seen)), self.world, params,
                    lambda state: playroom_events(explorer.level, state), key, episodes=self.profiled,
                )  # fmt: skip

            keys = jax.random.split(jax.random.fold_in(explorer.agent.key, 1))
            chosen, fresh = jax.lax.map(profile, keys)
            return {"chosen": chosen, "fresh": fresh, "curious_surprise": jnp.sqrt(explorer.agent.scale)}

        return Learner(
            init=self.begin, advance=lambda explorer: self.explore(explorer, curious), measure=measure,
            steps=self.iterations * self.horizon * self.episodes,
            every=self.iterations // self.snapshots * self.horizon * self.episodes,
            dims={"chosen": ("predicate",), "fresh": ("predicate",)}, coords={"predicate": list(PLAYROOM_EVENTS)},
        )  # fmt: skip

    # Tasks -----------------------------------------------------------------------------------------------

    @part()
    def transfer(self) -> Learner:
        """The curious life again, then all tasks by all arms."""
        task = jnp.array([PLAYROOM_EVENTS.index(name) for name in TASKS])
        weight = jnp.array([self.bonus if arm == "curiosity bonus" else 0.0 for arm in ARMS])
        slots = jnp.arange(self.snapshots)
        allowed = {"snapshots": slots >= 0, "untrained": slots >= 0, "final only": slots == self.snapshots - 1}
        may = jnp.stack([allowed.get(arm, slots < 0) for arm in ARMS])

        def init(key: Array) -> Apprentices:
            explorer = _repeated(lambda explorer: self.explore(explorer, 1.0), self.begin(key), self.snapshots)
            trainer = self.trainer(explorer.level, self.task_episodes)
            start, blank = jax.random.split(jax.random.fold_in(key, 1))
            untrained = eqx.filter_vmap(lambda key: trainer.policy(key))(jax.random.split(blank, self.snapshots))
            kept = explorer.store.policies
            stacks = [untrained if arm == "untrained" else kept for arm in ARMS]
            stored = jax.tree.map(lambda *leaves: jnp.stack(leaves) if eqx.is_array(leaves[0]) else leaves[0], *stacks)
            keys = jax.random.split(start, len(TASKS))  # every arm starts a task from the same networks
            agents = eqx.filter_vmap(lambda may: eqx.filter_vmap(lambda key: trainer.init(key, may))(keys))(may)
            return Apprentices(agents, explorer.level, stored, jnp.zeros((len(ARMS), len(TASKS))))

        def advance(state: Apprentices) -> Apprentices:
            trainer = self.trainer(state.level, self.task_episodes)

            def one(agent: SkillState, stored: Any, task: Array, weight: Array) -> tuple[SkillState, Array]:
                def pay(played: Any, surprise: Array) -> Array:
                    return jnp.take(played.newly, task, axis=-1) + weight * surprise

                def step(carry: Any, _: None) -> tuple[Any, Array]:
                    agent = trainer.iterate(eqx.combine(carry, static), pay, stored)
                    return eqx.filter(agent, eqx.is_array), agent.achieved[task]

                arrays, static = eqx.partition(agent, eqx.is_array)
                arrays, success = jax.lax.scan(step, arrays, None, self.task_every)
                return eqx.combine(arrays, static), success.mean()

            tasks = eqx.filter_vmap(one, in_axes=(eqx.if_array(0), None, 0, None))
            arms = eqx.filter_vmap(tasks, in_axes=(eqx.if_array(0), eqx.if_array(0), None, 0))
            agents, success = arms(state.agents, state.stored, task, weight)
            return state._replace(agents=agents, success=success)

        steps = self.horizon * self.task_episodes
        return Learner(
            init=init, advance=advance, measure=lambda state: {"success": state.success},
            steps=self.task_iterations * steps, every=self.task_every * steps, dims={"success": ("arm", "task")},
            coords={"arm": list(ARMS), "task": list(TASKS)},
        )  # fmt: skip

    # Claims ----------------------------------------------------------------------------------------------

    def lost(self, e: xr.Dataset) -> xr.DataArray:
        """Fresh success of the snapshot that was best on other episodes, minus the final policy's: (curious, seed)."""
        trained = e.isel(step=slice(1, None))  # the untrained policy is no snapshot
        best = trained.fresh.isel(step=trained.chosen.fillna(0).argmax("step"))
        return (best - trained.fresh.isel(step=-1)).mean("predicate", skipna=False)

    def area(self, e: xr.Dataset, arm: str) -> xr.DataArray:
        """Mean success over the training of a task, and over tasks."""
        return e.success.sel(arm=arm).isel(transfer_step=slice(1, None)).mean(("transfer_step", "task"), skipna=False)

    @claim("emerge-and-vanish")
    def emerge_and_vanish(self, e: xr.Dataset) -> Judgement:
        """What is lost under curiosity, and how much more that is than under a fixed reward."""
        lost = self.lost(e)
        value = mean_interval(lost.sel(curious=1.0))
        more = mean_interval(paired_difference(lost.sel(curious=1.0), lost.sel(curious=0.0)))
        return judge(
            value, supported=value.low > 0.20 and more.low > 0, refuted=value.high < 0.10 or more.high < 0,
            also={"more than under a fixed reward": more},
        )  # fmt: skip

    @claim("snapshots-help")
    def snapshots_help(self, e: xr.Dataset) -> Judgement:
        """Area under the success curve, snapshots minus scratch and minus the final policy only."""
        ours = self.area(e, "snapshots")
        scratch = mean_interval(paired_difference(ours, self.area(e, "scratch")))
        final = mean_interval(paired_difference(ours, self.area(e, "final only")))
        return judge(
            scratch, supported=scratch.low > 0.03 and final.low > 0.03, refuted=scratch.high < 0 or final.high < 0,
            also={"minus final only": final}, note=self.levels(e),
        )  # fmt: skip

    @claim("content-control")
    def content_control(self, e: xr.Dataset) -> Judgement:
        """Area under the success curve, snapshots minus untrained policies."""
        difference = paired_difference(self.area(e, "snapshots"), self.area(e, "untrained"))
        return above(mean_interval(difference), 0.03, refuted_below=0.0, note=self.levels(e))

    def levels(self, e: xr.Dataset) -> str:
        """All arms' areas in words."""
        return "areas: " + ", ".join(f"{arm} {float(self.area(e, arm).mean()):.2f}" for arm in ARMS)

    def figure(self, e: xr.Dataset) -> Any:
        """Predicates over the training without a task; below, success on the tasks."""
        fig, axes = figures.panels(2, 2, width=6.0, height=3.6)
        shown = {1.0: "Rewarded by curiosity", 0.0: "Rewarded by a fixed random network"}
        for ax, (curious, title) in zip(axes[0], shown.items(), strict=True):
            ax.grid(False)
            ax.set(title=title)
            if curious not in e.curious.values:
                continue
            bands = e.fresh.sel(curious=curious).mean("seed").transpose("predicate", "step")
            thousand = bands.step.values / 1000
            half = (thousand[1] - thousand[0]) / 2 if thousand.size > 1 else 0.5
            span = (thousand[0] - half, thousand[-1] + half, len(PLAYROOM_EVENTS) - 0.5, -0.5)
            image = ax.imshow(bands, aspect="auto", extent=span, vmin=0, vmax=1, cmap=figures.SEQUENTIAL)
            ax.set(xlabel="thousand steps", yticks=range(len(PLAYROOM_EVENTS)))
            ax.set_yticklabels(PLAYROOM_EVENTS, fontsize=11)
            fig.colorbar(image, ax=ax, label="share of episodes")
        left, right = axes[1]
        looks = e.success.isel(transfer_step=slice(1, None))
        thousand = looks.assign_coords(transfer_step=looks.transfer_step / 1000)
        for position, (arm, color) in enumerate(zip(ARMS, figures.COLORS, strict=False)):
            one = thousand.sel(arm=arm)
            figures.curve(left, one.mean("task"), x="transfer_step", label=arm, color=color)
            for at, name in enumerate(TASKS):
                mean = one.sel(task=name).mean("transfer_step")
                figures.dots(right, at + 0.16 * (position - 2), mean, color=color, width=0.04)
        left.set(xlabel="thousand steps", ylabel="success", title="Four sparse tasks", ylim=(0, 1))
        left.legend(fontsize=10)
        right.set(ylabel="mean success", title="Each task", xticks=range(len(TASKS)), ylim=(0, 1))
        right.set_xticklabels(TASKS, fontsize=11)
        return fig


def _repeated(function: Any, state: Any, times: int) -> Any:
    """A function of a state with static leaves, applied several times."""
    arrays, static = eqx.partition(state, eqx.is_array)

    def body(arrays: Any, _: None) -> tuple[Any, None]:
        return eqx.filter(function(eqx.combine(arrays, static)), eqx.is_array), None

    return eqx.combine(jax.lax.scan(body, arrays, None, times)[0], static)
