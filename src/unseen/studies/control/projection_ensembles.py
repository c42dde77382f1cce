"""Zanger et al. (2024): exploring where two ways of learning a return distribution disagree."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from gymnax.environments.bsuite.catch import Catch
from gymnax.environments.bsuite.deep_sea import DeepSea
from gymnax.environments.classic_control.cartpole import CartPole
from jaxtyping import Array, Bool, Float, Key, PyTree

from unseen.lab import Judgement, Learner, Study, UserError, above, below, claim, figures, part
from unseen.lab.statistics import mean_interval, paired_difference, roc_auc
from unseen.learners.classifier import classifier
from unseen.learners.projection_ensemble import ProjectionEnsemble, UncertaintyHead, grid_disagreement
from unseen.learners.q_learning import Interaction, QLearner, q_learning
from unseen.methods.value_heads import CategoricalHead, Distribution, Head, QuantileHead
from unseen.worlds.clusters.teacher_network import Regression
from unseen.worlds.control.context import episode_return

PAIRS = ("diverse", "2xQR", "2xC51")
METHODS = (*PAIRS, "bootstrapped", "epsilon-greedy")
GAP, EDGE, WIDEST = 0.35, 1.0, 1.5  # inputs are seen between GAP and EDGE on either side, asked for up to WIDEST


@dataclasses.dataclass(frozen=True)
class Task:
    """An environment and what is known of it.

    Attributes:
        environment, limit: a gymnax environment, and the steps after which an episode is cut off.
        discount, low, high: of a step; the range of discounted returns that a categorical head has atoms for.
        worst, best: returns of an episode that are normalised to 0 and 1.
        factor: on observations.
    """

    environment: Any
    limit: int
    discount: float
    low: float
    high: float
    worst: float
    best: float
    factor: float = 1.0

    @property
    def params(self) -> Any:
        """The environment's parameters with the limit."""
        return self.environment.default_params.replace(max_steps_in_episode=self.limit)


TASKS: dict[str, Callable[[int], Task]] = {  # by the time limit of an episode
    "catch": lambda limit: Task(Catch(), 10, 0.99, -1.5, 1.5, -1.0, 1.0, factor=5.0),
    "cartpole": lambda limit: Task(CartPole(), limit, 0.95, 0.0, 20.0, 0.0, float(limit)),
}


class Scaled(eqx.Module):
    """All numbers of an observation in a row, times a factor: a one-hot input then moves a first layer's units by
    about one, whatever its length."""

    factor: float = eqx.field(static=True)

    def __call__(self, observation: PyTree) -> Float[Array, " features"]:
        """One observation."""
        return self.factor * jax.flatten_util.ravel_pytree(observation)[0].astype(jnp.float32)


class ProjectionEnsembles(Study):
    """Diverse projection ensembles for distributional reinforcement learning (Zanger et al., 2024).

    Two value heads with trunks of their own learn from their mixture; the distance between what they say is a bonus,
    and a third network values the bonuses to come. Heads are a quantile and a categorical one (diverse), or two of one
    kind, with the same bonus. DeepSea (gymnax's, from bsuite) asks how many episodes pass before the treasure is found
    first; where it never is, all 1,500 count. Bootstrapped DQN has two members with priors. The epsilon-greedy QR-DQN
    acts at random throughout DeepSea, since in pilots nothing else that epsilon can do found the treasure as soon.
    Catch and CartPole ask whether the bonus harms where it is not needed: greedy test episodes, mean of the last third
    of the evaluations. The regression asks where two heads disagree that were fitted to the same points around a gap,
    without priors.

    Against the registered sizes: one update in two steps with 32 stored steps and 32 units (registered: every step,
    64 and 64), 6 seeds (8), which is what the five minutes allow. gymnax lacks bsuite's CartPole: here it is
    CartPole-v1 with episodes of at most 100 steps. Supports of categorical heads in DeepSea are symmetric, so that no
    head begins as an optimist. Pilots (size 8, seeds 0 to 3) chose weights of the bonus from 1, 5, 20 and scales of the
    priors from 0, 2 and 10, for each pair of heads. On CartPole QR-DQN learned nothing at DeepSea's learning rate of
    0.005 with targets that follow every 4 updates; of six settings the tasks have the one with which it did.
    Inputs are scaled by DeepSea's size. The regression's quantiles are fitted without Huber's threshold, as in the
    paper's equations 6 and 11: with a threshold of 1, wider than the noise, they had been expectiles in a pilot, and
    the diverse pair had disagreed where there is data.

    What came out: in DeepSea disagreement finds the treasure in fewer episodes than chance at size 10 (240 against
    800), but at size 14 it never does within 1,500 episodes (2xQR in two runs of six), and between seeds
    the times differ by ten: the gain over acting at random stays inconclusive, and so does diverse against two
    quantile heads, which are as good here; two categorical heads are worse (2.83 against 2.43 log10 episodes). The
    inductive bias shows in the regression (supported): diverse disagrees both in the gap and outside, two categorical
    heads mostly in the gap, two quantile heads mostly outside. Catch is solved by all, CartPole nearly.
    """

    episodes: int = 1_500  # of DeepSea
    lanes: int = 2  # environments side by side; each step of all of them is followed by one update
    rounds: int = 15  # evaluations of a run
    batch_size: int = 32
    capacity: int = 10_000  # steps in the replay buffer
    width: int = 32  # of the trunks' hidden layers
    depth: int = 1
    atoms: int = 21  # quantiles, or locations of a categorical head
    learning_rate: float = 5e-3
    target_every: int = 4  # updates between two copies of the networks to the targets
    discount: float = 0.99
    bonus: float = 20.0  # weight of disagreement at the beginning; it falls to 0 linearly
    decay: float = 0.33  # share of a run in which the bonus, or epsilon, falls
    prior_scale: float = 2.0  # of the fixed random networks that are added to an ensemble's heads
    c51_prior_scale: float = 10.0  # the same for two categorical heads, whose logits need more
    boot_prior_scale: float = 3.0  # the same for bootstrapped DQN
    epsilon: float = 1.0  # what remains of the random actions of epsilon-greedy QR-DQN in DeepSea, from 1
    task_epsilon: float = 0.05  # the same in Catch and CartPole, where these two differ from DeepSea as well:
    task_learning_rate: float = 2.5e-3
    task_target_every: int = 50
    task_steps: int = 9_600  # environment steps of Catch and CartPole
    task_limit: int = 100  # steps of a CartPole episode
    test_episodes: int = 16
    points: int = 200  # of the regression
    updates: int = 1_500
    noise: float = 0.1  # around either mode
    seeds: int = 6

    varies = dict(explorer=METHODS, size=(6, 10, 14))
    smoke = dict(
        explorer=("diverse", "epsilon-greedy"), size=(3,), task=("catch",), agent=("diverse",), pair=("diverse",),
        episodes=40, rounds=2, width=8, atoms=5, batch_size=8, task_steps=80, test_episodes=2, points=20,
        updates=30, seeds=2,
    )  # fmt: skip
    paper = dict(
        size=tuple(range(10, 52, 2)), episodes=10_000, rounds=100, lanes=1, batch_size=128, width=512, depth=1,
        atoms=101, learning_rate=5e-4, prior_scale=20.0, c51_prior_scale=20.0, boot_prior_scale=5.0, epsilon=0.05,
        task_learning_rate=5e-4, task_steps=100_000, task_limit=1_000, seeds=10,
    )  # fmt: skip
    watch = ("solved",)

    def check(self) -> None:
        """Known methods and tasks; a run in whole rounds."""
        for name, known in dict(explorer=METHODS, agent=METHODS, task=tuple(TASKS), pair=PAIRS).items():
            if bad := [given for given in getattr(self, name) if given not in known]:
                raise UserError(f"{name} takes {', '.join(known)}, got {bad[0]!r}.")
        if bad := [n for n in self.size if n < 2]:
            raise UserError(f"size takes whole numbers from 2 on, got {bad[0]}.")
        for name in ("episodes", "task_steps"):
            if getattr(self, name) % (self.lanes * self.rounds):
                whole = self.lanes * self.rounds
                raise UserError(f"{name} takes a multiple of lanes * rounds = {whole}, got {getattr(self, name)}.")
        if not 0 < self.decay <= 1:
            raise UserError(f"decay takes a share above 0 and at most 1, got {self.decay}.")

    # Agents ----------------------------------------------------------------------------------------------

    def _agent(
        self, method: str, task: Task, total_steps: int, epsilon: float, learning_rate: float, target_every: int
    ) -> tuple[Any, dict[str, Any]]:
        """What learns, and how it acts while it does."""
        updates = total_steps // self.lanes

        def left(count: Any) -> Any:
            return jnp.clip(1 - count / (self.decay * updates), 0.0)

        common: dict[str, Any] = dict(
            actions=task.environment.num_actions, discount=task.discount, width=self.width, depth=self.depth,
            target_rate=1.0, target_every=target_every, optimizer=optax.adam(learning_rate),
            encoder=lambda key: Scaled(task.factor),
        )  # fmt: skip
        if method in PAIRS:
            learner = ProjectionEnsemble(
                heads=heads(method, task.low, task.high, self.atoms), low=task.low, high=task.high, atoms=self.atoms,
                bonus_scale=lambda count: self.bonus * left(count), uncertainty=UncertaintyHead(task.discount),
                prior_scale=self.c51_prior_scale if method == "2xC51" else self.prior_scale, **common,
            )  # fmt: skip
            return learner, dict(epsilon=0.0)
        if method == "bootstrapped":
            learner = QLearner(members=2, prior_scale=self.boot_prior_scale, share=0.5, **common)
            return learner, dict(epsilon=0.0, per_episode_member=True)
        learner = QLearner(head=QuantileHead(self.atoms), **common)
        return learner, dict(epsilon=lambda steps: jnp.maximum(epsilon, left(steps / self.lanes)))

    def _run(self, task: Task, learner: Any, acting: dict[str, Any], total_steps: int, **what: Any) -> Learner:
        return q_learning(
            learner, task.environment, task.params, total_steps=total_steps,
            every=total_steps // (self.lanes * self.rounds), capacity=max(self.capacity // self.lanes, 1),
            batch_size=self.batch_size, lanes=self.lanes, **acting, **what,
        )  # fmt: skip

    def learner(self, explorer, size) -> Learner:
        """One method in DeepSea, until it has come to the treasure once."""
        task = Task(DeepSea(size), size, self.discount, -1.0, 1.0, 0.0, 1.0, factor=float(size))
        steps = self.episodes * size

        def solved(state: Interaction) -> Bool[Array, ""]:
            return state.best > 0.5

        def final(state: Interaction) -> dict[str, Array]:
            return {"first_solve": jnp.where(solved(state), state.best_at, self.episodes), "found": solved(state)}

        agent = self._agent(explorer, task, steps, self.epsilon, self.learning_rate, self.target_every)
        return self._run(
            task, *agent, steps, done=solved, final=final,
            measure=lambda state: {"solved": solved(state) * 1.0},
        )  # fmt: skip

    @part(varies=dict(task=tuple(TASKS), agent=("diverse", "epsilon-greedy")))
    def tasks(self, task, agent) -> Learner:
        """Two methods where exploring is easy; the score is that of greedy episodes in between."""
        one = TASKS[task](self.task_limit)
        learner, acting = self._agent(
            agent, one, self.task_steps, self.task_epsilon, self.task_learning_rate, self.task_target_every
        )

        def best(network: Any, observation: Any) -> Array:
            if isinstance(learner, ProjectionEnsemble):
                return learner.greedy(network, observation)
            return learner.act(network, observation, jax.random.key(0))

        def measure(state: Interaction) -> dict[str, Array]:
            def play(key: Key[Array, ""]) -> Array:
                return episode_return(
                    one.environment, one.params, lambda _, seen: best(state.learning.network, seen), key
                )

            # The test episodes are one fixed set, the same for all agents.
            returns = jax.vmap(play)(jax.random.split(jax.random.key(0), self.test_episodes))
            return {"score": (returns.mean() - one.worst) / (one.best - one.worst)}

        return self._run(one, learner, acting, self.task_steps, measure=measure)

    @part(varies=dict(pair=PAIRS))
    def regression(self, pair) -> Learner:
        """Two heads fitted to the same points, and how far they disagree along the whole line."""
        # Plain quantile regression: with Huber's threshold above the spread of the data it would fit expectiles, which
        # differ from what a categorical head learns also where there is data.
        both = heads(pair, -2.0, 2.0, self.atoms, kappa=0.0)
        line = jnp.linspace(-WIDEST, WIDEST, 121)

        def points(key: Key[Array, ""]) -> Regression:
            where, side, mode, noise = jax.random.split(key, 4)
            x = jax.random.uniform(where, (self.points,), minval=GAP, maxval=EDGE)
            x = x * jax.random.rademacher(side, (self.points,), float)
            clean = jnp.sin(3 * x)
            y = clean + 0.5 * jax.random.rademacher(mode, x.shape, float)
            y = y + self.noise * jax.random.normal(noise, x.shape)
            return Regression((x[:, None],), clean, y, jnp.ones(self.points), jnp.zeros(self.points))

        def loss(outputs: Float[Array, "points numbers"], y: Float[Array, " points"]) -> Float[Array, " points"]:
            target = Distribution(y[:, None], jnp.ones((y.shape[0], 1)))
            return sum(head.loss(out, target) for head, out in zip(both, split(outputs), strict=True))  # type: ignore[return-value]

        def split(outputs: Array) -> tuple[Array, Array]:
            return outputs[..., : both[0].size], outputs[..., both[0].size :]

        def disagreement(model: TwoTrunks, data: Regression) -> dict[str, Array]:
            first, second = (
                head.distribution(out) for head, out in zip(both, split(model(line[:, None])), strict=True)
            )
            return {"disagreement": grid_disagreement(first, second, -2.0, 2.0, 4 * self.atoms)}

        fit = classifier(
            lambda key: TwoTrunks(key, tuple(head.size for head in both), self.width), points,
            optax.adam(self.learning_rate), steps=self.updates, every=self.updates, loss=loss, score=None,
            final=disagreement,
        )  # fmt: skip
        return dataclasses.replace(
            fit, measure=lambda state: {}, dims={"disagreement": ("x",)}, coords={"x": line.tolist()}
        )

    # Claims ----------------------------------------------------------------------------------------------

    def log_episodes(self, e: xr.Dataset) -> xr.DataArray:
        """log10 of the episodes to the first solution, or of all episodes where there was none; mean of sizes."""
        return np.log10(e.first_solve.astype(float)).mean("size", skipna=False)

    def _unsolved(self, e: xr.Dataset, *methods: str) -> str:
        counts = (~e.found.astype(bool)).sum(("size", "seed"))
        cells = e.sizes["size"] * e.sizes["seed"]
        return ", ".join(f"{name} {int(counts.sel(explorer=name))}" for name in methods) + f" of {cells} runs unsolved"

    @claim("deep-exploration")
    def deep_exploration(self, e: xr.Dataset) -> Judgement:
        """Diverse minus epsilon-greedy."""
        times = self.log_episodes(e)
        effect = mean_interval(paired_difference(times.sel(explorer="diverse"), times.sel(explorer="epsilon-greedy")))
        return below(effect, -0.15, refuted_above=-0.05, note=self._unsolved(e, "diverse", "epsilon-greedy"))

    @claim("diversity")
    def diversity(self, e: xr.Dataset) -> Judgement:
        """Diverse minus the better of two heads of one kind."""
        times = self.log_episodes(e)
        means = {name: float(times.sel(explorer=name).mean("seed", skipna=False)) for name in ("2xQR", "2xC51")}
        rival = min(means, key=lambda name: -np.inf if np.isnan(means[name]) else means[name])
        effect = mean_interval(paired_difference(times.sel(explorer="diverse"), times.sel(explorer=rival)))
        note = f"against {rival}; means: " + ", ".join(f"{name} {value:.2f}" for name, value in means.items())
        return below(effect, 0.0, note=f"{note}; {self._unsolved(e, *PAIRS)}")

    @claim("ood-disagreement")
    def ood_disagreement(self, e: xr.Dataset) -> Judgement:
        """Area under the ROC curve of disagreement for inputs that were not seen, diverse minus the others' mean."""
        area = roc_auc(e.disagreement, unseen_input(e.x), "x")
        same = area.sel(pair=["2xQR", "2xC51"]).mean("pair", skipna=False)
        effect = mean_interval(paired_difference(area.sel(pair="diverse"), same))
        note = "areas: " + ", ".join(f"{name} {float(area.sel(pair=name).mean()):.2f}" for name in PAIRS)
        return above(effect, 0.02, refuted_below=0.0, note=note)

    @claim("harmless")
    def harmless(self, e: xr.Dataset) -> Judgement:
        """Diverse minus epsilon-greedy: mean score of the last third of the evaluations."""
        late = e.score.isel(tasks_step=slice(-(-2 * e.sizes["tasks_step"] // 3), None))
        score = late.mean("tasks_step", skipna=False)
        both = score.sel(task=list(TASKS)).mean("task", skipna=False)
        effect = mean_interval(paired_difference(both.sel(agent="diverse"), both.sel(agent="epsilon-greedy")))
        note = ", ".join(
            f"{agent} on {task} {float(score.sel(agent=agent, task=task).mean()):.2f}"
            for task in TASKS for agent in ("diverse", "epsilon-greedy")
        )  # fmt: skip
        return above(effect, -0.05, note=note)

    def figure(self, e: xr.Dataset) -> Any:
        """Episodes to the first solution against size; disagreement along the line of inputs."""
        fig, (left, right) = figures.panels(2, width=5.2, height=4.4)
        for color, method in zip(figures.COLORS, METHODS, strict=False):
            if method in e.explorer.values:
                figures.curve(left, e.first_solve.sel(explorer=method), x="size", label=method, color=color)
        sizes = e["size"].values
        left.plot(sizes, 2.0**sizes, ":", color="grey", label="random")
        left.set(xlabel="size of DeepSea", title="episodes to the first solution", yscale="log", xticks=sizes)
        left.set_ylim(None, 1.3 * self.episodes)
        left.legend(fontsize=9, loc="lower right")
        for color, pair in zip(figures.COLORS, PAIRS, strict=False):
            if pair in e.pair.values:
                curve = e.disagreement.sel(pair=pair)
                figures.curve(right, curve / curve.mean("x"), x="x", label=pair, color=color)
        for low, high in ((-EDGE, -GAP), (GAP, EDGE)):
            right.axvspan(low, high, color="grey", alpha=0.15, lw=0)
        right.set(xlabel="input (grey: where data was seen)", title="disagreement over its mean")
        right.legend(fontsize=9)
        return fig


class TwoTrunks(eqx.Module):
    """Two networks that read the same points; their outputs side by side."""

    trunks: tuple[eqx.nn.MLP, eqx.nn.MLP]

    def __init__(self, key: Key[Array, ""], sizes: tuple[int, ...], width: int):
        first, second = (
            eqx.nn.MLP(1, size, width, 2, key=k) for size, k in zip(sizes, jax.random.split(key), strict=True)
        )
        self.trunks = first, second

    def __call__(self, x: Float[Array, "points 1"]) -> Float[Array, "points numbers"]:
        """All points at once."""
        return jnp.concatenate([jax.vmap(trunk)(x) for trunk in self.trunks], -1)


def heads(pair: str, low: float, high: float, atoms: int, kappa: float = 1.0) -> tuple[Head, Head]:
    """The two heads of an ensemble by its name; `kappa` as in `QuantileHead`."""
    quantile, categorical = QuantileHead(atoms, kappa), CategoricalHead(low, high, atoms)
    both = {"diverse": (quantile, categorical), "2xQR": (quantile, quantile), "2xC51": (categorical, categorical)}
    return both[pair]


def unseen_input(x: xr.DataArray) -> xr.DataArray:
    """Where no data was: in the gap and beyond the edges."""
    return (abs(x) < GAP - 1e-6) | (abs(x) > EDGE + 1e-6)
