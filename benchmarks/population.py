"""Many members as one population, against one run after the other.

    python -m benchmarks.population {mlp,transformer,ppo,ppo-grid} [--write]

Supervised: the engine; the same learner in jitted runs without vmap, one member at a time; the same in PyTorch.
PPO on CartPole and on a gridworld: the engine; rejax as its documentation runs it; stable-baselines3 with vectorised
environments.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks.clock import Lap, Laps, interleave, said, timed
from benchmarks.engine_side import own_home, population
from benchmarks.report import Result, markdown, parser, show, write
from benchmarks.tasks import SmallMLP, SmallTransformer, TorchMLP, TorchTransformer
from unseen.lab.learner import Learner
from unseen.lab.study import Study
from unseen.learners.ppo import _FiveTuple, ppo

MEMBERS = 32


# Supervised ------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class OneByOne:
    """A learner without the engine: `init`, and `advance` with `measure`, jitted once and called for one member
    after the other."""

    learner: Learner
    devices: Sequence[Any]

    def __post_init__(self) -> None:
        def start(seed: Any) -> Any:
            state = self.learner.init(jax.random.key(seed))
            return state, self.learner.measure(state)

        def step(state: Any) -> Any:
            state = self.learner.advance(state)
            return state, self.learner.measure(state)

        self.start, self.step = jax.jit(start), jax.jit(step, donate_argnums=0)

    def compile(self) -> float:
        """Seconds until every device has its programs."""
        return timed(lambda: [self.one(0, device, rounds=1) for device in self.devices])

    def one(self, seed: int, device: Any, rounds: int | None = None) -> list[dict[str, Any]]:
        """The whole run of a member."""
        state, measures = self.start(jax.device_put(np.uint32(seed), device))
        history = [jax.device_get(measures)]
        for _ in range(self.learner.rounds if rounds is None else rounds):
            state, measures = self.step(state)
            history.append(jax.device_get(measures))
        return history

    def all(self, members: int) -> None:
        """Members dealt out to the devices, a thread each."""
        if len(self.devices) == 1:
            for seed in range(members):
                self.one(seed, self.devices[0])
            return
        with ThreadPoolExecutor(len(self.devices)) as pool:

            def share(i: int) -> None:
                for seed in range(i, members, len(self.devices)):
                    self.one(seed, self.devices[i])

            list(pool.map(share, range(len(self.devices))))


def one_by_one(build: Callable[[], Learner], devices: Sequence[Any]) -> Callable[[int], Lap]:
    """A side that compiles in its first lap, outside of the clock."""
    runner: list[OneByOne] = []

    def lap(members: int) -> Lap:
        setup = 0.0
        if not runner:
            began = time.perf_counter()
            runner.append(OneByOne(build(), devices))
            runner[0].compile()
            setup = time.perf_counter() - began
        return Lap(timed(lambda: runner[0].all(members)) * MEMBERS / members, setup, members / MEMBERS)

    return lap


def one_after_the_other(count: int, run: Callable[[int], object], members: int, of: int) -> Lap:
    """`members` runs of PyTorch with so many threads, counted as `of`."""
    torch.set_num_threads(count)
    seconds = timed(lambda: [run(seed) for seed in range(members)])
    return Lap(seconds * of / members, share=members / of)


def best_threads(trial: Callable[[int], object]) -> tuple[int, str]:
    """With how many threads PyTorch does a short trial fastest, and the times in words."""
    spent: dict[int, list[float]] = {count: [] for count in range(1, len(os.sched_getaffinity(0)) + 1)}
    for again in range(4):
        for count, times in spent.items():
            torch.set_num_threads(count)
            seconds = timed(lambda: trial(0))
            if again:  # the first call prepares every kernel
                times.append(seconds)
    best = min(spent, key=lambda count: min(spent[count]))
    words = ", ".join(f"{min(times):.3g} s with {count}" for count, times in spent.items())
    return best, f"PyTorch has {best} of {len(spent)} threads, the faster in a trial ({words})."


def supervised(name: str, title: str, study: Study, peer: Any, what: str, share: int, repeats: int) -> Result:
    """The population through the engine, jitted runs one after the other, and PyTorch.

    Args:
        share: members that are run one after the other, of 32; their time is multiplied.
    """
    members = study.seeds
    count, words = best_threads(type(peer)(dataclasses.replace(study, steps=study.every)).run)
    with own_home():
        alone = one_by_one(study.learner, jax.devices()[:1])
        pair = one_by_one(study.learner, jax.devices()[:2])
        sides: dict[str, Callable[[], Lap]] = {
            f"unseen, {members} in one population": lambda: population(study),
            "jit, one after the other": lambda: alone(share),
            "jit, one after the other on each core": lambda: pair(share),
            "PyTorch, one after the other": lambda: one_after_the_other(count, peer.run, share, members),
        }
        found = interleave(sides, repeats)
    notes = [
        f"{members} members, {what}; {study.steps:,} updates each, measured every {study.every}. {repeats} "
        "interleaved repeats, median (smallest to largest).",
        f"Of the runs one after the other {share} of {members} were run and their time multiplied by "
        f"{members // share}. Set-up (tracing, compiling, first evaluation, with an empty cache) is not in the times. "
        f"PyTorch runs eagerly with the fused optimizer, without torch.compile. {words}",
    ]
    return Result(name, title, COLUMNS, rows_of(found), notes, ("torch", "optax", "equinox"))


COLUMNS = ("", "time of all members", "times the population's", "set-up")


def rows_of(found: dict[str, Laps]) -> list[list[str]]:
    """A row a side; ratios are to the first side, repeat by repeat."""
    base = next(iter(found.values()))
    return [
        [
            name,
            said(laps.seconds, " s"),
            "1" if laps is base else said(laps.ratios(base)),
            f"{laps.first_setup:.1f} s" if laps.first_setup else "",
        ]
        for name, laps in found.items()
    ]


def mlp(tiny: bool = False) -> Result:
    """2 x 64 ReLU network on digits."""
    study = SmallMLP(seeds=MEMBERS, first_seed=0, **(dict(width=8, steps=4, every=2) if tiny else {}))
    what = f"64-{study.width}-{study.width}-10 ReLU network on 8 x 8 digits, minibatches of {study.batch}, AdamW"
    share, repeats = (2, 1) if tiny else (4, 5)
    return supervised("population-mlp", "A small MLP", study, TorchMLP(study), what, share, repeats)


def transformer(tiny: bool = False) -> Result:
    """2-layer transformer on strings."""
    small = dict(width=8, batch=4, length=3, pool=16, steps=2, every=1)
    study = SmallTransformer(seeds=MEMBERS, first_seed=0, **(small if tiny else {}))
    what = (
        f"{study.layers}-layer transformer of width {study.width} (the one of `chomsky-hierarchy`), batches of "
        f"{study.batch} x {2 * study.length} tokens, clipped Adam"
    )
    share, repeats = (2, 1) if tiny else (4, 3)
    return supervised(
        "population-transformer", "A 2-layer transformer", study, TorchTransformer(study), what, share, repeats
    )


# PPO -------------------------------------------------------------------------------------------------------


class CartPole(Study):
    """PPO of 2 x 64 tanh networks on CartPole-v1."""

    theirs = "CartPole-v1"  # what stable-baselines3 is trained on

    envs: int = 64
    rollout: int = 64  # environment steps an iteration and environment
    epochs: int = 4
    minibatches: int = 16
    iterations: int = 5

    @property
    def environment_steps(self) -> int:
        return self.iterations * self.envs * self.rollout

    @staticmethod
    def environment() -> Any:
        import gymnax

        return gymnax.make("CartPole-v1")[0]

    @staticmethod
    def flat(environment: Any) -> Any:
        """stable-baselines3's environment, observed as a vector."""
        return environment

    def learner(self) -> Learner:
        return ppo(
            self.environment(),
            total_steps=self.environment_steps,
            every=self.iterations,
            num_envs=self.envs,
            num_steps=self.rollout,
            num_epochs=self.epochs,
            num_minibatches=self.minibatches,
        )


class LavaGrid(CartPole):
    """PPO of 2 x 64 tanh networks on lava crossings of 9 x 9 cells, seen whole."""

    theirs = "MiniGrid-LavaCrossingS9N1-v0"

    @staticmethod
    def environment() -> Any:
        from unseen.worlds.control.grid_levels import GridLevels, Lava

        return GridLevels(Lava(9), "flat")

    @staticmethod
    def flat(environment: Any) -> Any:
        from gymnasium.wrappers import FlattenObservation
        from minigrid.wrappers import FullyObsWrapper, ImgObsWrapper

        return FlattenObservation(ImgObsWrapper(FullyObsWrapper(environment)))


def rejax_train(study: CartPole) -> Callable[[Any], Any]:
    """key -> train state: rejax's own training loop with the settings of our learner, and no evaluation."""
    import rejax

    environment = _FiveTuple(study.environment())  # rejax 0.1.3 does not know gymnax 1.0 otherwise
    algorithm = rejax.PPO.create(
        env=environment,
        num_envs=study.envs,
        num_steps=study.rollout,
        num_epochs=study.epochs,
        num_minibatches=study.minibatches,
        agent_kwargs={"hidden_layer_sizes": (64, 64), "activation": "tanh"},
        learning_rate=3e-4,
        gamma=0.99,
        gae_lambda=0.95,
        clip_eps=0.2,
        ent_coef=0.0,
        vf_coef=0.5,
        max_grad_norm=0.5,
        total_timesteps=study.environment_steps,
        eval_freq=study.environment_steps,
        skip_initial_evaluation=True,
    ).replace(eval_callback=lambda algorithm, state, key: jnp.zeros(()))

    def train(seed: Any) -> Any:
        # A bare key without its type, and arrays alone: rejax makes a new state class at each call.
        state, _ = algorithm.train(jax.random.key(seed))
        return tuple(jax.tree.leaves(state.actor_ts.params))

    return train


def rejax_side(study: CartPole, vmapped: bool, cores: int, share: int) -> Callable[[], Lap]:
    """rejax with all members at once, on one core or spread over several, or one member after the other."""
    train = rejax_train(study)
    seeds = np.arange(study.seeds, dtype=np.uint32)
    programs: list[Any] = []
    mesh = jax.make_mesh((cores,), ("members",), devices=jax.devices()[:cores])
    placed = jax.device_put(seeds, NamedSharding(mesh, P("members")))

    def build() -> Any:
        if not vmapped:
            return jax.jit(train).lower(seeds[0]).compile()
        if cores == 1:
            return jax.jit(jax.vmap(train)).lower(seeds).compile()
        spread = jax.shard_map(
            jax.vmap(train), mesh=mesh, in_specs=P("members"), out_specs=P("members"), check_vma=False
        )
        return jax.jit(spread).lower(placed).compile()

    def work() -> None:
        if vmapped:
            jax.block_until_ready(programs[0](placed if cores > 1 else seeds))
        else:
            for seed in seeds[:share]:
                jax.block_until_ready(programs[0](seed))

    def lap() -> Lap:
        setup = 0.0
        if not programs:
            setup = timed(lambda: programs.append(build()))
        part = 1.0 if vmapped else share / study.seeds
        return Lap(timed(work) / part, setup, part)

    return lap


def stable_baselines(study: CartPole, seed: int) -> Any:
    """One run of stable-baselines3's PPO, built and trained."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env

    if study.theirs.startswith("MiniGrid"):
        import minigrid  # noqa: F401 (registers its environments)
    environments = make_vec_env(study.theirs, n_envs=study.envs, seed=seed, wrapper_class=study.flat)  # DummyVecEnv
    model = PPO(
        "MlpPolicy",
        environments,
        n_steps=study.rollout,
        batch_size=study.envs * study.rollout // study.minibatches,
        n_epochs=study.epochs,
        learning_rate=3e-4,
        device="cpu",
        seed=seed,
        policy_kwargs={"net_arch": [64, 64]},
    )
    return model.learn(study.environment_steps)


def cart_pole(tiny: bool = False) -> Result:
    """PPO on CartPole."""
    return reinforcement("population-ppo", "PPO on CartPole", CartPole, "CartPole-v1", [], tiny)


def lava_grid(tiny: bool = False) -> Result:
    """PPO on a gridworld."""
    note = (
        "They do not do the same: GridLevels moves in four directions and shows 9 x 9 cells in 8 one-hot planes (648 "
        "numbers), one of 64 levels made beforehand; minigrid turns an agent, shows 9 x 9 x 3 numbers and draws a "
        "level at every reset."
    )
    what = "lava crossings of 9 x 9 cells, seen whole (stable-baselines3: MiniGrid-LavaCrossingS9N1-v0)"
    return reinforcement("population-ppo-grid", "PPO on a gridworld", LavaGrid, what, [note], tiny)


def reinforcement(name: str, title: str, kind: type[CartPole], what: str, further: list[str], tiny: bool) -> Result:
    """PPO through the engine, by rejax alone, and by stable-baselines3."""
    small = dict(envs=4, rollout=8, epochs=1, minibatches=2, iterations=1)
    study = kind(seeds=MEMBERS, first_seed=0, **(small if tiny else {}))
    share, slow, repeats = (2, 1, 1) if tiny else (8, 1, 3)
    count, words = best_threads(partial(stable_baselines, dataclasses.replace(study, iterations=1)))
    alone = partial(stable_baselines, study)
    with own_home():
        cores = min(2, len(jax.devices()))
        sides: dict[str, Callable[[], Lap]] = {
            f"unseen, {study.seeds} in one population": lambda: population(study),
            "rejax, vmap, one core": rejax_side(study, True, 1, share),
            f"rejax, vmap, spread over {cores} cores": rejax_side(study, True, cores, share),
            "rejax, one after the other": rejax_side(study, False, 1, share),
            "stable-baselines3, one after the other": lambda: one_after_the_other(count, alone, slow, study.seeds),
        }
        found = interleave(sides, repeats)
    notes = [
        f"{study.seeds} members, {study.environment_steps:,} environment steps each: {what}, {study.envs} "
        f"environments, rollouts of {study.rollout}, {study.epochs} epochs of {study.minibatches} minibatches, 2 x 64 "
        f"tanh networks, no evaluations. {repeats} interleaved repeats, median (smallest to largest).",
        f"Of rejax's runs one after the other {share} of {study.seeds} were run, of stable-baselines3's {slow} of "
        f"{study.seeds}, and their time multiplied. Set-up (tracing, compiling, with an empty cache) is not in the "
        "times. stable-baselines3 steps its environments with DummyVecEnv, in one process; SubprocVecEnv was "
        f"not timed. {words}",
        *further,
    ]
    packages = ("rejax", "gymnax", "stable_baselines3", "gymnasium", "torch")
    packages += ("minigrid",) if kind is LavaGrid else ()
    return Result(name, title, COLUMNS, rows_of(found), notes, packages)


CASES = {"mlp": mlp, "transformer": transformer, "ppo": cart_pole, "ppo-grid": lava_grid}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("case", choices=CASES, nargs="*", default=list(CASES))
    chosen = options.parse_args()
    for case in chosen.case:
        result = CASES[case](chosen.tiny)
        show(result)
        if chosen.write:
            write(result.name, markdown(result))


if __name__ == "__main__":
    main()
