"""Franceschelli and Musolesi (2024): does a policy generalise better when its imagined episodes are dream-like?"""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float, Key
from matplotlib.colors import to_rgb

from unseen.lab import Judgement, Learner, Study, UserError, above, claim, figures
from unseen.lab.statistics import mean_interval, paired_difference
from unseen.learners.imagination import Imagination, ImaginationState, fit_world_model
from unseen.learners.offline_td import OfflineTD, TDBatch, TDState
from unseen.methods.dreams import FeatureDream, RandomSwing, ValueDiversification
from unseen.models.open_loop import DeepDynamics, OpenLoopWorldModel
from unseen.models.world_model import BetaVAE, Segment, WorldModel
from unseen.worlds.control.grid_levels import levels_of
from unseen.worlds.control.hazards import Hazards, HazardTask, Log
from unseen.worlds.control.shift_kinds import CellTable

IMAGINED = ("faithful", "random swing", "feature dream", "value diversification")
ARMS = ("offline", *IMAGINED)
FRAMES = 7  # in the figure


class Night(NamedTuple):
    """State of one seed under one kind of reward: what was lived, the model of it, and all that learn from both."""

    key: Key[Array, ""]
    table: CellTable
    far: Float[Array, "levels cells"]
    log: Log
    model: WorldModel
    latents: Float[Array, "states latent"]
    spread: Float[Array, ""]
    agents: ImaginationState  # stacked, one for each kind of imagination
    offline: TDState


class Dreams(Study):
    """Do agents dream of electric sheep? Generalisation by generative learning (Franceschelli and Musolesi, 2024).

    A noisy behaviour policy (half of its moves random, the others a shortest safe way) fills a buffer on a few levels
    with walls, hazards and a coin. A world model learns from it, and five policies of one size learn from the model's
    latents: offline from the buffer (implicit Q-learning, `OfflineTD`), in faithful imagination (actor-critic), and in
    imagination whose predicted states are edited now and then: swung in a random direction, moved up the gradient of
    the decoder's features, or moved to where the value differs more from that of the state before. All edits have the
    same length, so that they differ in direction alone. Sparse reward is the coin alone, dense reward adds 0.1 for a
    move that comes nearer. Success is exact, the chance of reaching the coin within 20 steps, of the policies as they
    were trained (moves are drawn from them).

    The player sees walls and hazards two cells around itself and how far off the coin is; on planes of the whole room
    with absolute places nothing carries over to unseen levels at this size (offline: 0.12, random moves 0.10; a pilot).
    The model is trained on its own long predictions (trained one step ahead it lost the coin after a few steps, and
    policies learned in it were worse than random ones), with rewards times 10, since one reward counts little beside 68
    observed numbers. Pilots (seeds 7 and 8 of `jax.random.key`, one each) chose by success on training levels: the
    model's sizes, the entropy's weight, how many updates (in imagination more than about 300 make policies worse, most
    under dense reward; offline success on unseen levels no longer rose), and the edits' length: of 0.05 to 0.5 the
    shortest, since longer ones made policies worse. Offline training has the weights first tried.

    Only the paper's abstract and introduction could be read: what each edit maximises is this study's reading of the
    catalogue, sizes and chances are its own. `paper` is these rooms, larger, with the usual sizes of such agents, and
    not Procgen.

    What came out (5 seeds; 642 s of computation): no dream helps. Under sparse reward unseen levels are solved to
    0.54 by offline training, 0.50 by faithful imagination and 0.48 to 0.49 by the dreams (random moves 0.10); dreams
    minus faithful is -0.012 [-0.048, 0.024]: `sparse-gain` inconclusive, and what it leaves open is small. Dreams
    minus offline is -0.059 [-0.097, -0.020]: `vs-offline` refuted. Under dense reward dreams minus faithful is -0.037
    [-0.077, 0.002], which is not established to be less: `sparse-specific` inconclusive. Likely reasons: the model is
    the bottleneck, not a lack of variety. One step ahead it is right in about nine of ten moves, and errors add up
    over ten steps; edits move its states further from those that it knows (in pilots the longer, the worse; a feature
    dream under dense reward lost one seed altogether), while offline training reads encoded real states only. A model
    that snaps back onto real states, as the paper's discrete one may, could come out otherwise; so could experience
    that is scarcer than 24,000 steps in 32 levels.
    """

    side: int = 7  # rows and columns of a level, border included
    levels: int = 32  # in training, of the pool's, others for each seed
    pool: int = 512  # levels that may be trained on; none of them is tested on
    tested: int = 200  # unseen levels, the same for all seeds
    horizon: int = 20  # steps of an episode
    transitions: int = 24_000  # real ones, lived before any training
    careless: float = 0.5  # share of random moves in them, the others take a shortest safe way
    shaping: float = 0.1  # dense reward for a move nearer to the coin
    latent: int = 32
    memory: int = 64  # of the latent dynamics
    hidden: int = 192  # of the networks of the model
    beta: float = 0.001  # weight of the latents' prior
    model_updates: int = 3_000
    segments: int = 40  # in a batch of the world model
    segment: int = 10  # their steps
    updates: int = 300  # of every policy
    every: int = 75  # updates between two looks
    rollouts: int = 32  # imagined at once
    imagined: int = 10  # steps of an imagined episode
    width: int = 64  # of policies and critics, two hidden layers
    discount: float = 0.95
    entropy: float = 0.03  # weight in imagination
    model_rate: float = 2e-3  # of learning the world model, at first
    reward_unit: float = 10.0  # factor on the rewards that the model learns, against one of its many losses
    learning_rate: float = 1e-3  # of all policies and critics
    size: float = 0.05  # of a dream's edit, in standard deviations of all latents together
    chance: float = 0.5  # that a state is edited
    ascent: int = 2  # gradient steps of an edit
    temperature: float = 10.0  # inverse one of the offline policy's weights
    expectile: float = 0.7  # of the offline values
    target_rate: float = 0.05  # at which the target of its critics follows
    seeds: int = 5

    varies = dict(dense=(0.0, 1.0))
    traced = ("dense",)
    smoke = dict(
        levels=2, pool=4, tested=4, horizon=5, transitions=160, latent=4, memory=6, hidden=8, model_updates=3,
        segments=4, segment=3, updates=2, every=1, rollouts=4, imagined=3, width=6, seeds=2,
    )  # fmt: skip
    paper = dict(
        side=15, levels=200, pool=10_000, tested=1_000, horizon=200, transitions=1_000_000, latent=1_024, memory=600,
        hidden=600, model_updates=100_000, segments=50, segment=50, updates=100_000, every=10_000, rollouts=2_500,
        width=400, discount=0.99, seeds=10,
    )  # fmt: skip
    watch = ("train_success", "test_success")

    def check(self) -> None:
        """Sizes that fit."""
        if bad := [x for x in self.dense if not x >= 0]:
            raise UserError(f"dense takes shares of the shaping reward from 0 on, got {bad[0]}.")
        if self.transitions // self.segments <= self.segment + 1 or self.transitions % self.segments:
            raise UserError(
                f"transitions takes a multiple of segments, {self.segments}, of more than segment + 1 = "
                f"{self.segment + 1} steps each, got {self.transitions}."
            )
        if not 1 <= self.levels <= self.pool:
            raise UserError(f"levels takes 1 to pool, {self.pool}, got {self.levels}.")
        if self.updates < 1 or self.updates % self.every:
            raise UserError(f"updates takes a multiple of every, {self.every}, got {self.updates}.")
        for name in ("careless", "chance"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} takes a share from 0 to 1, got {getattr(self, name)}.")
        if not self.reward_unit > 0:
            raise UserError(f"reward_unit takes a number above 0, got {self.reward_unit}.")
        if self.size < 0 or self.ascent < 1:
            raise UserError(f"size takes 0 or more and ascent 1 or more, got {self.size} and {self.ascent}.")

    @property
    def task(self) -> HazardTask:
        """Hazardous rooms, cell by cell."""
        return HazardTask(Hazards(self.side), self.horizon, self.careless, self.shaping)

    # Learning --------------------------------------------------------------------------------------------

    def imagination(self) -> Imagination:
        """What policies train in."""
        return Imagination(
            latent=self.latent, actions=4, horizon=self.imagined, gamma=self.discount, entropy=self.entropy,
            width=self.width, depth=2,
            optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adam(self.learning_rate)),
        )  # fmt: skip

    def dreamt(self, on: Float[Array, "3"], spread: Float[Array, ""]) -> tuple[Any, ...]:
        """The three edits, each of its size or not at all: one program for all kinds of imagination."""
        length = on * self.size * spread
        return (
            RandomSwing(length[0], self.chance),
            FeatureDream(length[1], self.chance, self.ascent),
            ValueDiversification(length[2], self.chance, self.ascent),
        )

    def offline(self, night: Night | None = None) -> OfflineTD:
        """The same policy on the buffer's steps, as many as an update has imagined ones."""

        def sample(key: Array) -> TDBatch:
            assert night is not None
            log, latents = night.log, night.latents
            row = jax.random.randint(key, (self.rollouts * self.imagined,), 0, log.reward.size)
            state, after, action, reward, ends = (
                leaf.ravel()[row] for leaf in (log.state, log.after, log.action, log.reward, log.ends)
            )
            return TDBatch(latents[state], action, reward, latents[after], self.discount * (1.0 - ends))

        return OfflineTD(
            sample=sample, features=self.latent, actions=4, discrete=True, temperature=self.temperature,
            expectile=self.expectile, width=self.width, depth=2, optimizer=optax.adam(self.learning_rate),
            target_rate=self.target_rate,
        )  # fmt: skip

    def init(self, pool: tuple[CellTable, Array], dense: Any, key: Key[Array, ""]) -> Night:
        """Some levels of the pool, experience in them, a world model of it, untrained policies."""
        draw, life, encoder, dynamics, fit, actor, critic, key = jax.random.split(key, 8)
        mine = jax.random.permutation(draw, pool[1].shape[0])[: self.levels]
        table, far = jax.tree.map(lambda leaf: leaf[mine], pool)
        log = self.task.live(table, far, life, self.transitions, self.segments, dense)
        seen = table.observation.reshape(-1, table.observation.shape[-1])
        vae = BetaVAE(seen.shape[1], self.latent, self.hidden, beta=self.beta, key=encoder)
        model = OpenLoopWorldModel(vae, DeepDynamics(self.latent, 4, self.memory, self.hidden, key=dynamics))

        def segments(key: Array) -> Segment:
            begin = jax.random.randint(key, (self.segments,), 0, log.state.shape[1] - self.segment - 1)
            some = jax.tree.map(
                lambda leaf: jax.vmap(lambda row, i: jax.lax.dynamic_slice_in_dim(row, i, self.segment + 1))(
                    leaf, begin
                ),
                log,
            )
            now = jax.tree.map(lambda leaf: leaf[:, :-1], some)
            reward = self.reward_unit * now.reward
            return Segment(seen[some.state], jax.nn.one_hot(now.action, 4), reward, now.ends, now.first, ~now.late)

        rate = optax.cosine_decay_schedule(self.model_rate, self.model_updates)
        optimizer = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(rate))
        model, _ = fit_world_model(model, segments, optimizer, fit, steps=self.model_updates)
        model = eqx.tree_at(lambda m: m.dynamics, model, model.dynamics.in_units(1 / self.reward_unit))
        latents = jax.vmap(lambda o: model.vae.encode(o)[0])(seen)
        lived = latents[log.state.ravel()[:2_000]]
        one = self.imagination().init(actor)  # every imagination starts from the same networks
        agents = jax.tree.map(lambda x: jnp.stack([x] * len(IMAGINED)) if eqx.is_array(x) else x, one)
        spread = jnp.sqrt(lived.var(0).sum())
        return Night(key, table, far, log, model, latents, spread, agents, self.offline().init(critic))

    def advance(self, night: Night) -> Night:
        """`every` updates of all policies."""
        keys = jax.random.split(night.key, self.every + 1)
        imagination, states = self.imagination(), night.log.state.ravel()
        arrays, static = eqx.partition(night.agents, eqx.is_array)

        def update(arrays: Any, key: Array) -> tuple[Any, None]:
            draw, play = jax.random.split(key)
            starts = night.latents[states[jax.random.randint(draw, (self.rollouts,), 0, states.size)]]

            def one(arrays: Any, on: Array) -> Any:
                state = eqx.combine(arrays, static)
                state = imagination.update(state, night.model, starts, play, self.dreamt(on, night.spread))
                return eqx.filter(state, eqx.is_array)

            return jax.vmap(one)(arrays, jnp.eye(len(IMAGINED), 4)[:, 1:]), None

        arrays, _ = jax.lax.scan(update, arrays, keys[1:])
        offline = self.offline(night).train(night.offline, self.every)
        return night._replace(key=keys[0], agents=eqx.combine(arrays, static), offline=offline)

    def policies(self, night: Night, latents: Float[Array, "states latent"]) -> Float[Array, "arms states 4"]:
        """Log probabilities of moves, of all arms."""

        def of(policy: Any) -> Array:
            return jax.vmap(policy.log_probs)(latents)

        dreamers = eqx.filter_vmap(lambda agent: of(agent.policy), in_axes=(eqx.if_array(0),))(night.agents.agent)
        return jnp.concatenate([of(night.offline.networks.policy)[None], dreamers])

    def learner(self, dense) -> Learner:
        """All five policies of one seed under one kind of reward: they share experience and world model."""
        pool = self.task.tables(levels_of(self.task.kind, self.pool))
        test, _ = self.task.tables(levels_of(self.task.kind, self.tested, "test"))

        def scores(night: Night, table: CellTable) -> tuple[Array, Array]:
            shape = table.following.shape
            seen = table.observation.reshape(-1, table.observation.shape[-1])
            log_probs = self.policies(night, jax.vmap(lambda o: night.model.vae.encode(o)[0])(seen))
            log_probs = log_probs.reshape(-1, *shape)
            greedy = jax.nn.one_hot(log_probs.argmax(-1), 4)
            score = jax.vmap(lambda chances: self.task.success(table, chances))
            return score(jnp.exp(log_probs)), score(greedy)

        def measure(night: Night) -> dict[str, Array]:
            train, train_greedy = scores(night, night.table)
            unseen, unseen_greedy = scores(night, test)
            return {
                "train_success": train, "test_success": unseen,
                "train_greedy": train_greedy, "test_greedy": unseen_greedy,
            }  # fmt: skip

        def final(night: Night) -> dict[str, Array]:
            return {
                "behaviour_success": self.task.success(night.table, self.task.behaviour(night.table, night.far)),
                "random_success": self.task.success(test, jnp.full(test.following.shape, 0.25)),
                "foreseen": self.foreseen(night), "frames": self.frames(night),
            }  # fmt: skip

        return Learner(
            init=lambda key: self.init(pool, dense, key), advance=self.advance, measure=measure, final=final,
            steps=self.updates, every=self.every,
            dims=dict.fromkeys(("train_success", "test_success", "train_greedy", "test_greedy"), ("arm",))
            | {"foreseen": ("ahead",), "frames": ("kind", "frame", "plane", "row", "column")},
            coords={"arm": list(ARMS), "kind": list(IMAGINED), "ahead": list(range(1, self.imagined + 1))},
        )  # fmt: skip

    def foreseen(self, night: Night, count: int = 128) -> Float[Array, " ahead"]:
        """How often the model knows where the coin is from the player, after that many random moves in imagination;
        over episodes that would still be under way."""
        draw, moves = jax.random.split(jax.random.fold_in(night.key, 1))
        state = night.log.state.ravel()[jax.random.randint(draw, (count,), 0, night.log.state.size)]
        cells = night.far.shape[1]
        seen = night.table.observation.reshape(-1, night.table.observation.shape[-1])
        following, ends = night.table.following.reshape(-1, 4), night.table.ends.ravel()

        def follow(state: Array, actions: Array) -> tuple[Array, Array]:
            def step(carry: tuple[Array, ...], action: Array) -> tuple[tuple[Array, ...], tuple[Array, Array]]:
                memory, latent, state, going = carry
                memory, expected = night.model.dynamics(memory, latent, jax.nn.one_hot(action, 4))
                state = state // cells * cells + following[state, action]
                going = going & ~ends[state]
                coin = self.task.coin(night.model.vae.decode(expected.latent))
                right = (coin == self.task.coin(seen[state])).all()
                return (memory, expected.latent, state, going), (right & going, going)

            begin = night.model.dynamics.start(), night.latents[state], state, jnp.array(True)
            return jax.lax.scan(step, begin, actions)[1]

        right, going = jax.vmap(follow)(state, jax.random.randint(moves, (count, self.imagined), 0, 4))
        return right.sum(0) / going.sum(0)

    def frames(self, night: Night) -> Float[Array, "kinds frames planes rows columns"]:
        """Decoded imagination of each kind, from one start."""
        imagination = self.imagination()
        start = night.latents[night.table.start[0]]

        def one(agent: Any, on: Array) -> Array:
            played = imagination.dream(
                agent, night.model, start, jax.random.fold_in(night.key, 2), self.dreamt(on, night.spread)
            )
            shown = played.latent[jnp.minimum(jnp.arange(FRAMES), self.imagined)]
            return self.task.planes(jax.vmap(night.model.vae.decode)(shown))

        drawn = eqx.filter_vmap(one, in_axes=(eqx.if_array(0), 0))(night.agents.agent, jnp.eye(len(IMAGINED), 4)[:, 1:])
        return jnp.moveaxis(drawn, -1, 2)

    # Claims ----------------------------------------------------------------------------------------------

    def last(self, e: xr.Dataset, dense: float, name: str = "test_success") -> tuple[xr.DataArray, xr.DataArray]:
        """At the end, (mean of the three dreams, all arms)."""
        found = e[name].isel(step=-1).sel(dense=dense)
        return found.sel(arm=list(IMAGINED[1:])).mean("arm", skipna=False), found

    def note(self, e: xr.Dataset, dense: float) -> str:
        """All arms in words."""
        unseen, train = (self.last(e, dense, name)[1].mean("seed") for name in ("test_success", "train_success"))
        each = ", ".join(f"{arm} {float(unseen.sel(arm=arm)):.2f} ({float(train.sel(arm=arm)):.2f})" for arm in ARMS)
        return f"unseen (training) levels: {each}; random moves {float(e.random_success.mean()):.2f}"

    def gain(self, e: xr.Dataset, dense: float, rival: str, name: str = "test_success") -> xr.DataArray:
        """Mean of the three dreams minus another arm."""
        dreams, each = self.last(e, dense, name)
        return paired_difference(dreams, each.sel(arm=rival))

    def apart(self, e: xr.Dataset, rival: str) -> dict[str, Any]:
        """Each dream minus another arm, and the mean of all with greedy policies."""
        _, each = self.last(e, 0.0)
        found = {
            kind: mean_interval(paired_difference(each.sel(arm=kind), each.sel(arm=rival))) for kind in IMAGINED[1:]
        }
        return found | {"greedy policies": mean_interval(self.gain(e, 0.0, rival, "test_greedy"))}

    @claim("sparse-gain")
    def sparse_gain(self, e: xr.Dataset) -> Judgement:
        """Success on unseen levels under sparse reward, dreams minus faithful imagination."""
        effect = mean_interval(self.gain(e, 0.0, "faithful"))
        return above(effect, 0.0, also=self.apart(e, "faithful"), note=self.note(e, 0.0))

    @claim("vs-offline")
    def vs_offline(self, e: xr.Dataset) -> Judgement:
        """Success on unseen levels under sparse reward, dreams minus offline training."""
        return above(mean_interval(self.gain(e, 0.0, "offline")), 0.0, also=self.apart(e, "offline"))

    @claim("sparse-specific")
    def sparse_specific(self, e: xr.Dataset) -> Judgement:
        """What dreams gain over faithful imagination under sparse reward, minus that under dense reward."""
        sparse, dense = (self.gain(e, kind, "faithful") for kind in (0.0, 1.0))
        effect = mean_interval(paired_difference(sparse, dense))
        return above(effect, 0.0, also={"gain under dense reward": mean_interval(dense)}, note=self.note(e, 1.0))

    def figure(self, e: xr.Dataset) -> Any:
        """What is imagined, frame by frame; below, success on unseen levels."""
        fig, axes = figures.panels(FRAMES, len(IMAGINED) + 2, width=1.5, height=1.55)
        grid = axes[0, 0].get_gridspec()
        one = e.frames.isel(seed=0, dense=0)
        for row, kind in zip(axes, IMAGINED, strict=False):
            for ax, frame in zip(row, one.sel(kind=kind).transpose("frame", "row", "column", "plane"), strict=True):
                ax.imshow(picture(frame.values))
                ax.set(xticks=[], yticks=[])
                ax.grid(False)
            row[0].set_ylabel(kind.replace(" ", "\n"), fontsize=11)
        for ax in axes[len(IMAGINED) :].ravel():
            ax.remove()
        axes[0, 0].set_title("start")
        axes[0, FRAMES // 2].set_title("imagined steps; blue player, gold coin, red hazards, grey walls", fontsize=12)
        middle = FRAMES // 2 + 1
        for columns, dense, title in (
            (slice(0, middle), 0.0, "sparse reward"),
            (slice(middle, None), 1.0, "dense reward"),
        ):
            ax = fig.add_subplot(grid[len(IMAGINED) :, columns])
            ax.spines[["top", "right"]].set_visible(False)
            if dense in e.dense.values:
                last = e.test_success.isel(step=-1).sel(dense=dense)
                for at, (arm, color) in enumerate(zip(ARMS, figures.COLORS, strict=False)):
                    figures.dots(ax, at, last.sel(arm=arm), color=color)
                ax.axhline(float(e.random_success.mean()), color="0.4", ls=":", lw=1.5)
            ax.set(title=title, ylabel="success, unseen levels", xticks=range(len(ARMS)))
            ax.set_xticklabels([arm.replace(" ", "\n") for arm in ARMS], fontsize=9, rotation=30)
        return fig


def picture(planes: Float[np.ndarray, "rows columns planes"]) -> Float[np.ndarray, "rows columns 3"]:
    """Walls, hazards, coin and player as colours that mix where the model is unsure."""
    colors = np.array([to_rgb(c) for c in ("#8a8480", "#C03020", "#E6B800", "#0072B2")])
    shares = np.clip(planes, 0, 1)
    total = shares.sum(-1, keepdims=True)
    mixed = (shares @ colors) / np.maximum(total, 1e-6)
    there = np.clip(total, 0, 1)
    return np.clip(there * mixed + (1 - there), 0, 1)
