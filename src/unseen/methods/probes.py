"""Probes: designed sets of repeated games with an effect statistic, played by simulation or in words.

`UNFORGIVING` and `ALTERNATION` rebuild the two probes of Akata et al. (2023, arXiv 2305.16867): a partner who defects
once and then cooperates, and a partner who takes turns. Each stimulus is played in two arms, so a habit that does not
depend on what the partner did falls out of the effect.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from unseen.lab import UserError
from unseen.methods.protocol import Start
from unseen.worlds.games import repeated
from unseen.worlds.games.repeated import Ask, Framing, Payoff, Player, Sides


class Design(NamedTuple):
    """The nuisance factors of a probe's stimuli, [stimuli]: stories, names and scales crossed, the rest balanced."""

    story: Int[Array, " stimuli"]
    names: Int[Array, " stimuli"]
    scale: Int[Array, " stimuli"]
    swap: Bool[Array, " stimuli"]
    reverse: Bool[Array, " stimuli"]
    table: Bool[Array, " stimuli"]


@dataclasses.dataclass(frozen=True)
class Probe:
    """A game, the partners of its two arms, and what counts as the effect.

    Attributes:
        name: for people. game: payoff levels. partners: one strategy an arm. crossed: see `Framing`.
        effect: (actions [arms, stimuli, rounds, 2]) -> effect per stimulus.
        planted, null, decoys: names of the scripted subjects that validate it.
    """

    name: str
    game: tuple[tuple[tuple[int, ...], ...], ...]
    partners: tuple[Player, Player]
    crossed: bool
    effect: Callable[[Int[Array, "arms stimuli rounds 2"]], Float[Array, " stimuli"]]
    planted: str
    null: str
    decoys: tuple[str, ...]

    @property
    def payoff(self) -> Payoff:
        """The game as an array of levels."""
        return np.array(self.game)

    def design(self, key: PRNGKeyArray, stimuli: int) -> Design:
        """Fresh stimuli: the crossing of 4 stories, 4 name pairs and 5 scales in order, and for each of the binary
        factors a random half of the stimuli."""
        i = jnp.arange(stimuli)
        halves = [jax.random.permutation(k, i) % 2 == 0 for k in jax.random.split(key, 3)]
        return Design(i % 4, i // 4 % 4, (i // 4 % 4 + i // 16) % 5, *halves)

    def simulate(
        self, player: Player, design: Design, luck: PRNGKeyArray, rounds: int
    ) -> Int[Array, "arms stimuli rounds 2"]:
        """The fast path: every game of the design as one compiled program, without a word of text."""
        points = jnp.asarray(np.stack([repeated.points(self.payoff, s) for s in range(len(repeated.SCALES))]), float)

        def game(partner: Player, arm: int, i: Array, scale: Array, swap: Array, reverse: Array) -> Array:
            subject = Sides(luck, _session(i, arm), swap.astype(int), reverse.astype(int))
            return repeated.play(points[scale], player, partner, rounds, subject, Sides(luck))

        i = jnp.arange(design.story.shape[0])
        return jnp.stack(
            [
                jax.vmap(functools.partial(game, partner, arm))(i, design.scale, design.swap, design.reverse)
                for arm, partner in enumerate(self.partners)
            ]
        )

    def replicate(self, key: PRNGKeyArray, stimuli: int) -> tuple[Design, Int[Array, ""]]:
        """The stimuli of a replicate and the seed of its subject."""
        design_key, luck = jax.random.split(key)
        return self.design(design_key, stimuli), jax.random.randint(luck, (), 0, 2**31 - 1)

    def starts(
        self, design: Design, rounds: int, ask: Ask = repeated.ask_directly, arms: Sequence[int] | None = None
    ) -> list[Start]:
        """The same games as dialogues, arm by arm.

        Args:
            design: the stimuli. rounds: of each game. ask: how a choice is asked for.
            arms: the arm of each stimulus; by default each is played in all.
        """
        columns = [np.asarray(column).tolist() for column in design]
        framings = [
            Framing(story, names, scale, swap, reverse, self.crossed, "table" if table else "transcript")
            for story, names, scale, swap, reverse, table in zip(*columns, strict=True)
        ]
        pairs = [(arm, i) for arm in range(len(self.partners)) for i in range(len(framings))]
        if arms is not None:
            if len(arms) != len(framings):
                raise UserError(f"arms takes one arm for each of the {len(framings)} stimuli, got {len(arms)}.")
            pairs = [(arm, i) for i, arm in enumerate(arms)]
        return [
            functools.partial(
                repeated.converse,
                self.payoff,
                dataclasses.replace(framings[i], session=int(_session(i, arm))),
                self.partners[arm],
                rounds,
                ask,
            )
            for arm, i in pairs
        ]


def _session(stimulus: int | Array, arm: int) -> int | Array:
    return 2 * stimulus + arm + 1


def late_defection(actions: Int[Array, "arms stimuli rounds 2"]) -> Float[Array, " stimuli"]:
    """Defection rate in the second half of the game after one early defection, minus after none."""
    rate = actions[:, :, actions.shape[2] // 2 :, 0].mean(-1)
    return rate[0] - rate[1]


def turn_taking(actions: Int[Array, "arms stimuli rounds 2"]) -> Float[Array, " stimuli"]:
    """How much oftener than in half of the rounds the subject meets a partner who takes turns, from the third round on
    (in canonical coordinates of the battle of the sexes to meet is to take different actions)."""
    return (actions[:, :, 2:, 0] != actions[:, :, 2:, 1]).mean((0, 2)) - 0.5


def _late_alternator(view: repeated.View, draws: repeated.Draws) -> repeated.Action:
    return 1 - repeated.alternator(view, draws)


def _tuples(payoff: Payoff) -> tuple:
    return tuple(tuple(tuple(cell) for cell in row) for row in payoff.tolist())


UNFORGIVING = Probe(
    name="one early defection",
    game=_tuples(repeated.PRISONERS_DILEMMA),
    partners=(repeated.defect_once, repeated.cooperator),
    crossed=False,
    effect=late_defection,
    planted="unforgiving",
    null="tit-for-tat",
    decoys=("label-habit", "end-game"),
)
# The partner begins with its own favourite in one arm and with the subject's in the other, so that a subject who takes
# turns with itself, blind to the partner, meets it in half of the rounds.
ALTERNATION = Probe(
    name="turn-taking",
    game=_tuples(repeated.BATTLE_OF_THE_SEXES),
    partners=(repeated.alternator, _late_alternator),
    crossed=True,
    effect=turn_taking,
    planted="alternating",
    null="coin",
    decoys=("own-favourite", "switching"),
)
PROBES = (UNFORGIVING, ALTERNATION)


def dominance_gate(key: PRNGKeyArray, games: int) -> tuple[list[Start], Int[np.ndarray, " prompts"]]:
    """One-shot games in which one action is better whatever the other does, each with both orders of its options.

    A subject that does not take the dominant action here does not read payoffs, and its play of repeated games says
    nothing.

    Returns:
        Dialogues, two a game, and the dominant action for each.
    """
    strict = [g for g in repeated.ordinal_games() if repeated.dominant_action(g) is not None]
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    starts, right = [], []
    for i, g in enumerate(rng.permutation(len(strict))[:games]):
        swap, crossed = (bool(b) for b in rng.integers(2, size=2))
        for reverse in (False, True):
            framing = Framing(i % 4, i // 4 % 4, i % 5, swap=swap, reverse=reverse, crossed=crossed, session=1 + i)
            starts.append(functools.partial(repeated.converse, strict[g], framing, repeated.cooperator, 1))
            right.append(repeated.dominant_action(strict[g]))
    return starts, np.array(right)
