"""What kind of player is a language model?"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from unseen.lab import Learner, Study, UserError, claim, figures, judge, part
from unseen.lab.interval import Interval
from unseen.lab.statistics import mean_interval
from unseen.measures.protocol_validity import (
    ProtocolValidity,
    crossed_bootstrap,
    mean_test,
    power_curve,
    smallest_detectable,
)
from unseen.methods.probes import ALTERNATION, PROBES, UNFORGIVING, Probe, dominance_gate
from unseen.methods.protocol import NOT_ASKED, ask_next, outcomes, predict_then_act, through_inspect, unrelated_then_act
from unseen.models.subjects import Subject, unavailable
from unseen.models.subjects import subject as subject_named
from unseen.worlds.games import repeated
from unseen.worlds.games.repeated import FAMILIES, ask_directly, ordinal_games

SUBJECTS = tuple(name for probe in PROBES for name in (probe.planted, probe.null, *probe.decoys))
PLAYERS = ("myopic", "fictitious play", "reciprocator", "random")
ASKED = {"direct": ask_directly, "predict": predict_then_act, "unrelated": unrelated_then_act}
EFFECTS = tuple(np.arange(0.1, 1.01, 0.1).round(1).tolist())


class RepeatedGames(Study):
    """Playing repeated games with large language models (Akata et al., 2023).

    Four parts: (1) every pair of four players plays all 144 ordinal games; (2) the two probes are tried on scripted
    subjects, by simulation; (3) one replicate in a hundred of these goes through Inspect AI, prompt by prompt, and must
    agree answer by answer; (4) a real model, by default the local Gemma-3-270M (a base model, prompted with two worked
    examples), plays both probes behind a competence gate: it must take the dominant option of one-shot games in 70%.

    What came out: the instrument is valid (and 60,800 of 60,800 answers agree through Inspect AI). `self-interest`
    is refuted: a myopic player is as near to the best other player in the biased games as in the self-interested
    ones (-0.01), while the reciprocator shows the reported profile strongly (0.25); the likely reason, not tested,
    is that best-responding settles on one of the biased games' equilibria, which pays well, and that giving way
    in turn misses them. The local model takes the dominant option of one-shot games half of the time, fails the
    gate, and so nothing is said about language models' forgiveness here.
    """

    seeds: int = 20  # of noise and beliefs in the families' part
    rounds: int = 10  # of every game
    noise: float = 0.1  # share of the myopic player's choices that a coin makes
    games: int = 160  # games in one replicate of a probe, half of them in each arm
    effect: float = 0.2  # planted behaviour: share of games in which it shows
    lapse: float = 0.05  # share of a scripted subject's answers that a coin makes
    habit: float = 0.5  # share of answers that the label habit decides
    planted_replicates: int = 300  # replicates of the planted subject and of each decoy
    null_replicates: int = 1_000  # replicates of the null subject
    one_in: int = 100  # one replicate in so many goes through Inspect AI
    model_games: int = 24  # games of each probe that the named model plays
    gate_games: int = 20  # one-shot games of the competence gate, each in two orders
    gate: float = 0.7  # share of dominant options that a competent subject takes
    one: int = 1  # samples of stimuli for the instrument's and the named model's parts

    smoke = dict(
        seeds=2,
        games=8,
        planted_replicates=6,
        null_replicates=8,
        one_in=6,
        gate_games=3,
        player=("unforgiving", "coin"),
        subject=("scripted/unforgiving?effect=1&seed=1",),
    )
    paper = dict(model_games=1_224)

    def check(self) -> None:
        """Both arms, both halves and all ways of asking need games of their own."""
        if self.games % 2 or self.games < 4:
            raise UserError(f"games takes an even number from 4 on, got {self.games}.")
        if self.model_games % 24:
            raise UserError(f"model_games takes a multiple of 24, got {self.model_games}.")
        if self.rounds < 4:
            raise UserError(f"rounds takes a whole number from 4 on, got {self.rounds}.")

    # (1) families ---------------------------------------------------------------------------------------------

    def learner(self) -> Learner:
        """All pairs of players on all games; payoffs are normalised: 0 the worst, 1 the best of the own outcomes."""
        games = jnp.asarray(np.stack(ordinal_games()), float)
        players = (
            repeated.lapsing(repeated.myopic, self.noise),
            repeated.fictitious_play,
            repeated.tit_for_tat,
            repeated.coin,
        )

        def compute(key: Any) -> dict[str, Any]:
            def against(row: Any, column: Any, pair: int) -> Any:
                keys = jax.random.split(jax.random.fold_in(key, pair), 2 * len(games)).reshape(-1, 2)

                def one(game: Any, keys: Any) -> Any:
                    sides = repeated.Sides(keys[0]), repeated.Sides(keys[1])
                    actions = repeated.play(game, row, column, self.rounds, *sides)
                    return (repeated.payoffs(game, actions)[:, 0].mean() - 1) / 3

                return jax.vmap(one)(games, keys)

            n = len(players)
            table = [[against(a, b, n * i + j) for j, b in enumerate(players)] for i, a in enumerate(players)]
            return {"payoff": jnp.asarray(table).mean(1)}

        return Learner.once(
            compute,
            dims={"payoff": ("strategy", "game")},
            coords={"strategy": PLAYERS, "game": list(range(1, len(games) + 1))},
        )

    # (2) and (3) the instrument -------------------------------------------------------------------------------

    def replicates(self, player: str) -> int:
        """How many replicates a scripted subject has."""
        return self.null_replicates if player in (p.null for p in PROBES) else self.planted_replicates

    def knobs(self) -> dict[str, float]:
        """The settings of the scripted subjects."""
        return dict(effect=self.effect, lapse=self.lapse, habit=self.habit)

    @part(varies=dict(player=SUBJECTS), seeds="one")
    def instrument(self, player: str) -> Learner:
        """How often the test at 0.05 finds the behaviour in a scripted subject."""
        probe, count = _probe_of(player), self.replicates(player)
        act = repeated.scripted_players(**self.knobs())[player]

        def one(key: Any) -> tuple[Any, Any, Any]:
            design, luck = probe.replicate(key, self.games // 2)
            actions = probe.simulate(act, design, jax.random.key(luck), self.rounds)
            effects = probe.effect(actions)
            return mean_test(effects), effects.mean(), actions[..., 0].mean(1)

        def compute(key: Any) -> dict[str, Any]:
            found, effect, action = jax.lax.map(one, jax.random.split(key, count), batch_size=50)
            return {
                "found": found.sum(),
                "replicates": jnp.asarray(count),
                "measured_effect": effect.mean(),
                "second_action": action.mean(0),
            }

        return Learner.once(
            compute, dims={"second_action": ("arm", "round")}, coords={"round": list(range(1, self.rounds + 1))}
        )

    @part(varies=dict(player=SUBJECTS), seeds="one")
    def end_to_end(self, player: str) -> Learner:
        """One replicate in a hundred in words, through Inspect AI, compared with the simulation answer by answer."""
        probe, count = _probe_of(player), self.replicates(player)
        chosen = range(0, count, self.one_in)
        act = repeated.scripted_players(**self.knobs())[player]
        simulate = jax.jit(lambda design, luck: probe.simulate(act, design, jax.random.key(luck), self.rounds))

        def init(key: Any) -> dict[str, Any]:
            return {"key": key, "done": np.zeros((), int), "same": np.zeros((), int), "answers": np.zeros((), int)}

        def advance(state: dict[str, Any]) -> dict[str, Any]:
            key = jax.random.split(state["key"], count)[chosen[int(state["done"])]]
            design, luck = probe.replicate(key, self.games // 2)
            expected = np.asarray(simulate(design, luck)).reshape(-1, self.rounds, 2)
            knobs = "&".join(f"{name}={value!r}" for name, value in self.knobs().items())
            model = f"scripted/{player}?{knobs}&seed={int(luck)}"
            said = np.stack(through_inspect(player, probe.starts(design, self.rounds), model))[..., :2]
            return state | {
                "done": state["done"] + 1,
                "same": state["same"] + (said == expected)[..., 0].sum(),
                "answers": state["answers"] + expected[..., 0].size,
            }

        def final(state: dict[str, Any]) -> dict[str, Any]:
            return {"inspect_same": state["same"], "inspect_answers": state["answers"]}

        return Learner(init=init, advance=advance, final=final, steps=len(chosen), host=True)

    # (4) the named model --------------------------------------------------------------------------------------

    @part(varies=dict(subject=("local/gemma-3-270m",)), seeds="one")
    def named(self, subject: str) -> Learner:
        """The gate, the early defection, and the partner who takes turns under three ways of asking."""
        forgiving, turns = self.model_games // 2, self.model_games // 3
        columns = 2 * self.rounds

        def dialogues(key: Any) -> tuple[list[list[Any]], np.ndarray]:
            keys = jax.random.split(key, 3)
            gate, right = dominance_gate(keys[0], self.gate_games)
            probe = UNFORGIVING.starts(UNFORGIVING.design(keys[1], forgiving), self.rounds)
            design, arms = ALTERNATION.design(keys[2], turns), [i // 4 % 2 for i in range(turns)]
            ways = [s for ask in ASKED.values() for s in ALTERNATION.starts(design, self.rounds, ask, arms)]
            return [gate, probe, ways], right

        def init(key: Any) -> dict[str, Any]:
            (gate, probe, ways), _ = dialogues(key)
            rows = len(gate) + len(probe) + len(ways)
            return {"key": key, "choices": np.full((rows, columns), NOT_ASKED), "asked": np.zeros((), int)}

        missing = unavailable(subject)  # then nothing is asked, and what was not measured is NaN

        def advance(state: dict[str, Any]) -> dict[str, Any]:
            asked, choices, start = int(state["asked"]), state["choices"].copy(), 0
            for starts, questions in zip(dialogues(state["key"])[0], (1, self.rounds, columns), strict=True):
                if 0 <= asked < questions and not missing:  # the three batches one after the other
                    who = _asked(subject)
                    preamble = repeated.worked_examples() if who.tuning == "base" else ""
                    rows = slice(start, start + len(starts))
                    choices[rows] = ask_next(starts, choices[rows], who, preamble)
                asked, start = asked - questions, start + len(starts)
            return state | {"choices": choices, "asked": state["asked"] + 1}

        def final(state: dict[str, Any]) -> dict[str, Any]:
            batches, right = dialogues(state["key"])
            choices = np.zeros_like(state["choices"]) if missing else state["choices"]
            edges = np.cumsum([0, *map(len, batches)])
            gate, probe, ways = (
                np.stack(outcomes(starts, choices[a:b]))
                for starts, a, b in zip(batches, edges[:-1], edges[1:], strict=True)
            )
            played = probe[..., :2].reshape(2, forgiving, self.rounds, 2)
            second = ways.reshape(len(ASKED), turns, self.rounds, 3)
            met = second[..., 0] != second[..., 1]  # what a meeting pays: 1 to one, 2/3 to the other; a miss: 0
            measured = {
                "gate_passed_share": ((gate[:, 0, 0] == right) & (gate[:, 0, 2] == 1)).mean(),
                "unparsed": 1 - np.mean([x[..., 2].mean() for x in (gate, probe, ways)]),
                "late_defection": _by_story(np.asarray(UNFORGIVING.effect(jnp.asarray(played)))),
                "named_defection": played[..., 0].mean(1),
                "joint_payoff": np.stack([_by_story(x) for x in met.mean(-1) * 5 / 6]),
                "detectable": self.detectable(forgiving),
            }
            return {k: np.full_like(v, np.nan, dtype=float) if missing else v for k, v in measured.items()}

        return Learner(
            init=init,
            advance=advance,
            final=final,
            steps=1 + self.rounds + columns,
            dims={
                "late_defection": ("variant", "story"),
                "named_defection": ("arm", "round"),
                "joint_payoff": ("asked", "meeting", "story"),
            },
            coords={"asked": list(ASKED), "round": list(range(1, self.rounds + 1))},
            host=True,
        )

    def detectable(self, stimuli: int) -> float:
        """The smallest share of unforgiving games that the probe with so many stimuli finds with power 0.8."""

        def found(key: Any, effect: Any) -> Any:
            design, luck = UNFORGIVING.replicate(key, stimuli)
            player = repeated.sometimes(repeated.grim, effect, otherwise=repeated.tit_for_tat)
            player = repeated.lapsing(player, self.lapse)
            return mean_test(
                UNFORGIVING.effect(UNFORGIVING.simulate(player, design, jax.random.key(luck), self.rounds))
            )

        return smallest_detectable(EFFECTS, power_curve(found, EFFECTS, 300, jax.random.key(0)))

    # Claims ---------------------------------------------------------------------------------------------------

    @claim("instrument")
    def instrument_claim(self, e: Any) -> Any:
        """Both probes by ProtocolValidity; and the simulation must be what Inspect AI would have found."""
        e = e.isel(seed=0)
        validity = {
            probe.name: ProtocolValidity.of(
                _counts(e, probe.planted), _counts(e, probe.null), {name: _counts(e, name) for name in probe.decoys}
            )
            for probe in PROBES
        }
        same, answers = float(e.inspect_same.sum()), float(e.inspect_answers.sum())
        note = "; ".join(f"{name}: {v}" for name, v in validity.items())
        return judge(
            min((v.margin for v in validity.values()), key=lambda margin: margin.low),
            supported=all(v.valid for v in validity.values()) and same == answers,
            refuted=any(v.invalid for v in validity.values()),
            note=f"{note}; {same:.0f} of {answers:.0f} answers through Inspect AI agree; effect is the smallest margin",
        )

    @claim("self-interest")
    def self_interest(self, e: Any) -> Any:
        """Where the myopic player keeps up with the best of the others, and where not."""
        myopic, reciprocator = (mean_interval(self.contrast(e, name)) for name in ("myopic", "reciprocator"))
        return judge(
            myopic,
            supported=myopic.low > 0.05 and reciprocator.estimate < myopic.estimate,
            refuted=myopic.high < 0.05,
            also={"reciprocator": reciprocator},
        )

    def contrast(self, e: Any, strategy: str) -> Any:
        """Payoff relative to the best other player of each game: self-interested families minus biased, per seed."""
        rest = [name for name in PLAYERS if name != strategy]
        relative = e.payoff.sel(strategy=strategy) - e.payoff.sel(strategy=rest).max("strategy", skipna=False)
        families = np.array([repeated.family(game) for game in ordinal_games()])
        selfish = np.isin(families, ("win-win", "prisoner's dilemma"))
        return relative[..., selfish].mean("game", skipna=False) - relative[..., families == "biased"].mean(
            "game", skipna=False
        )

    @claim("unforgiving")
    def unforgiving(self, e: Any) -> Any:
        """The named model after one early defection, if it passes the gate."""
        model, passed, note = self.gated(e)
        ci = _bootstrap(model.late_defection)
        return judge(ci, supported=passed and ci.low > 0.3, refuted=passed and ci.high < 0.3, note=note)

    @claim("predict-first")
    def predict_first(self, e: Any) -> Any:
        """The named model with a partner who takes turns, asked in three ways, if it passes the gate."""
        model, passed, note = self.gated(e)
        predict = model.joint_payoff.sel(asked="predict")
        direct, control = (_bootstrap(predict - model.joint_payoff.sel(asked=way)) for way in ("direct", "unrelated"))
        return judge(
            direct,
            supported=passed and direct.low > 0 and control.low > 0,
            refuted=passed and (direct.high < 0 or control.high < 0),
            also={"minus unrelated question": control},
            note=note,
        )

    def gated(self, e: Any) -> tuple[Any, bool, str]:
        """The first named subject's evidence, whether it passed the gate, and what to say of it."""
        name = self.subject[0]
        model = e.isel(seed=0).sel(subject=name) if "subject" in e.dims else e.isel(seed=0)
        share = float(model.gate_passed_share)
        if math.isnan(share):
            return model, False, f"{name} was not asked: {unavailable(name) or 'a package was missing when this ran'}"
        passed = share >= self.gate
        note = f"{name} takes the dominant option in {share:.0%} of one-shot games"
        note += "" if passed else f" (gate: {self.gate:.0%}, not passed)"
        note += f"; smallest detectable share of unforgiving games {float(model.detectable):.2g}"
        return model, passed, note + (f"; {float(model.unparsed):.0%} unparsed" if model.unparsed > 0 else "")

    def figure(self, e: Any) -> Any:
        """Payoff by family and player, beside defection by round after one early defection."""
        fig, (left, right) = figures.panels(2, width=6.0, height=4.6)
        families = np.array([repeated.family(game) for game in ordinal_games()])
        for i, strategy in enumerate(PLAYERS):
            payoff = e.payoff.sel(strategy=strategy)
            means = [payoff[..., families == name].mean("game") for name in FAMILIES]
            x = np.arange(len(FAMILIES)) + 0.2 * (i - 1.5)
            left.bar(x, [m.mean() for m in means], 0.19, color=figures.COLORS[i], label=strategy)
        left.set_xticks(range(len(FAMILIES)), [name.replace(" ", "\n") for name in FAMILIES], fontsize=10)
        left.set(ylabel="payoff (0 worst, 1 best)", ylim=(0, 1.12), title="Payoff by family of games")
        left.legend(ncols=2, loc="upper center", fontsize=10)
        rounds = np.arange(1, self.rounds + 1)
        shown = [name for name in (UNFORGIVING.planted, UNFORGIVING.null, "end-game") if name in e.player.values]
        for i, name in enumerate(shown):
            values = e.second_action.isel(seed=0).sel(player=name)
            for arm, style in ((0, "-"), (1, ":")):
                right.plot(rounds, values.isel(arm=arm), style, color=figures.COLORS[i], label=None if arm else name)
        model, passed, _ = self.gated(e)
        for arm, style in ((0, "-"), (1, ":")):
            label = None if arm else self.subject[0].split("/")[-1] + ("" if passed else " (fails gate)")
            right.plot(rounds, model.named_defection.isel(arm=arm), style, color="#000000", label=label)
        right.set(xlabel="round", ylabel="defection rate", ylim=(-0.05, 1.35), xticks=rounds[::2])
        right.set_title("After one defection in round 1 (dotted: none)")
        right.legend(ncols=2, loc="upper center", fontsize=10)
        return fig


@functools.lru_cache(maxsize=1)
def _asked(name: str) -> Subject:
    return subject_named(name)  # made once: it keeps what it has read between questions


def _probe_of(player: str) -> Probe:
    for probe in PROBES:
        if player in (probe.planted, probe.null, *probe.decoys):
            return probe
    raise UserError(f"player takes one of {', '.join(SUBJECTS)}, got {player!r}.")


def _counts(e: Any, player: str) -> tuple[float, float]:
    cell = e.sel(player=player)
    return float(cell.found), float(cell.replicates)


def _by_story(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, 4)  # designs run through the four stories first


def _bootstrap(values: xr.DataArray) -> Interval:
    if not np.isfinite(values).any():
        return Interval(math.nan, math.nan, math.nan, 0, 1, "crossed bootstrap")
    return crossed_bootstrap(values)
