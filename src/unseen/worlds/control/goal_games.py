"""Games of two players on a grid: a layout, and for each player a goal that is a formula over relations."""

from __future__ import annotations

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from unseen.lab import UserError
from unseen.worlds.control.grid_levels import MOVES, TEST_LEVELS, GridLevel, TwoPlayerGoals

RELATIONS = ("near", "hold", "on", "see")
NEAR, HOLD, ON, SEE = range(4)
INTERESTS = ("cooperative", "competitive", "independent")
SCRIPTS = ("still", "patrol", "chaser")
ACTIONS = 5  # up, right, down, left, stay
STEPS = np.concatenate([MOVES, np.zeros((1, 2), MOVES.dtype)])
EMPTY = -1


class GoalFormula(eqx.Module):
    """A disjunction of options, each a conjunction of predicates, in the eyes of the player who has it.

    A predicate says that a subject is in a relation to a target, or that it is not. Any number of formulas at once;
    predicates that are not used do not count, and an option without any is not there.

    Attributes:
        relation: number in `RELATIONS`.
        subject: 0 the owner, 1 the other player.
        target: number of an object; the number of objects stands for the player who is not the subject.
        negated: whether the relation must not hold.
        used: whether there is a predicate.

    Source: Open-Ended Learning Team (2021), goals of XLand.
    """

    relation: Int[Array, "*goals options predicates"]
    subject: Int[Array, "*goals options predicates"]
    target: Int[Array, "*goals options predicates"]
    negated: Bool[Array, "*goals options predicates"]
    used: Bool[Array, "*goals options predicates"]

    def satisfied(self, facts: Bool[Array, "relations subjects targets"]) -> Bool[Array, "*goals"]:
        """Whether the goals hold, from what holds (subjects in the order owner, other player): one reward a step."""
        value = facts[self.relation, self.subject, self.target] ^ self.negated
        option = (value | ~self.used).all(-1) & self.used.any(-1)
        return option.any(-1)

    def opposed(self) -> GoalFormula:
        """The other player's goal that holds exactly where this one does not, by De Morgan's law.

        For formulas with one option, or with one predicate an option: then the negation is in this form again, with
        options and predicates changing places (their numbers must be equal).
        """
        swapped = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, -1, -2), self)
        return GoalFormula(swapped.relation, 1 - swapped.subject, swapped.target, ~swapped.negated, swapped.used)

    def shared(self) -> GoalFormula:
        """The same goal in the eyes of the other player."""
        return GoalFormula(self.relation, 1 - self.subject, self.target, self.negated, self.used)

    def encoding(self, objects: int, colours: int) -> Float[Array, "*goals slots features"]:
        """Every predicate as numbers: one-hot relation, shape and colour of the target (none for a player), subject,
        negation and use; zeros where there is no predicate. Slots are option by option."""
        thing = (self.target < objects)[..., None]
        parts = [
            jax.nn.one_hot(self.relation, len(RELATIONS)),
            jax.nn.one_hot(self.target // colours, objects // colours) * thing,
            jax.nn.one_hot(self.target % colours, colours) * thing,
            jnp.stack([self.subject, self.negated, self.used], -1).astype(jnp.float32),
        ]
        numbers = jnp.concatenate(parts, -1) * self.used[..., None]
        return numbers.reshape(*numbers.shape[:-3], -1, numbers.shape[-1])


class GoalGame(eqx.Module):
    """A game, or with a leading axis on every array many of one size.

    Attributes:
        level: the layout, see `TwoPlayerGoals`.
        goals: of both players (the axis before options and predicates).
        interest: number in `INTERESTS`, how the second player's goal comes from the first's.
        script: number in `SCRIPTS`, what plays the second player in a test.
        turn: in which direction a patrol begins.
    """

    level: GridLevel
    goals: GoalFormula
    interest: Int[Array, "*games"]
    script: Int[Array, "*games"]
    turn: Int[Array, "*games"]


class GameState(eqx.Module):
    """A running episode.

    Attributes:
        player: cell of each player.
        hand: number of the object that each holds, or -1.
        time: steps so far.
    """

    player: Int[Array, "*games players 2"]
    hand: Int[Array, "*games players"]
    time: Int[Array, "*games"]


@dataclasses.dataclass(frozen=True)
class TwoPlayerGoalGrid:
    """Games on `TwoPlayerGoals` levels: two players move (or stay), one after the other, and at every step each one
    whose goal holds is paid 1. An episode lasts `horizon` steps, whatever happens.

    Objects stay where they are. A player holds the object on whose cell it was last, until it is on another's or the
    other player is on that one's. Near: at most one move apart. See: in one row or column without a wall between.

    The first player's goal is one predicate, two in one option, or two options of one; the first predicate is about an
    object, the second about any or, sometimes, about the other player. The second player shares the goal, has the
    opposite one, or has one of its own. One goal in `shapes * colours` is held out: those whose numbers of relations
    and targets add up to a multiple of it. Games may be hopeless (on two objects at once) or trivial.

    Attributes:
        side: rows and columns, border included.
        shapes, colours: of the objects, one of each pair.
        walls: share of inner cells that are wall.
        horizon: steps of an episode.
        alone, either: shares of goals with one predicate and with two options; the others are conjunctions.
        about_player: share of second predicates about the other player.

    Source: Open-Ended Learning Team (2021), the universe of XLand, on a grid.
    """

    side: int = 9
    shapes: int = 2
    colours: int = 3
    walls: float = 0.1
    horizon: int = 24
    alone: float = 0.3
    either: float = 0.2
    about_player: float = 0.25

    def __post_init__(self) -> None:
        free = (self.side - 2) ** 2 - max(1, round(self.walls * (self.side - 2) ** 2))
        if min(self.shapes, self.colours) < 1 or free < self.objects + 2:
            raise UserError(
                f"side takes a room for {self.shapes} shapes x {self.colours} colours and two players, got {self.side}."
            )
        if self.horizon < 1 or not 0 <= self.alone <= 1 - self.either <= 1:
            raise UserError(
                f"horizon takes 1 step or more, alone and either take shares, got {self.horizon}, {self.alone} and "
                f"{self.either}."
            )

    @property
    def objects(self) -> int:
        """How many there are."""
        return self.shapes * self.colours

    @property
    def kind(self) -> TwoPlayerGoals:
        """The levels."""
        return TwoPlayerGoals(self.side, self.shapes, self.colours, self.walls)

    @property
    def observation_size(self) -> int:
        """Numbers in an observation."""
        state = jax.eval_shape(lambda key: self.observe(*self._begun(key), 0), jax.random.key(0))
        return state.shape[0]

    def _begun(self, key: Key[Array, ""]) -> tuple[GoalGame, GameState]:
        game = self.game(key)
        return game, self.start(game)

    # Games -----------------------------------------------------------------------------------------------

    def goal(self, key: Key[Array, ""], held_out: bool = False) -> GoalFormula:
        """A goal of the training set, or one that is held out."""
        form_key, *keys = jax.random.split(key, 6)
        uniform = jax.random.uniform(form_key, (2,))
        alone, either = uniform[0] < self.alone, uniform[0] > 1 - self.either
        player = uniform[1] < self.about_player
        first, second = jax.random.randint(keys[0], (2,), 0, len(RELATIONS))
        second = jnp.where(player, jnp.array([NEAR, SEE])[second % 2], second)
        target = jnp.where(player, self.objects, jax.random.randint(keys[1], (), 0, self.objects))
        rest = first + jnp.where(alone, 0, second + target)
        shift = 0 if held_out else jax.random.randint(keys[2], (), 1, max(self.objects, 2))
        chosen = (shift - rest) % self.objects
        # The second predicate stands beside the first, or in the second option.
        other, no = jnp.array([[False, True], [True, False]]), jnp.array(False)
        used = jnp.stack([jnp.array(True), ~alone & ~either, ~alone & either, no]).reshape(2, 2)
        zeros = jnp.zeros((2, 2), int)
        return GoalFormula(
            jnp.where(other, second, first), zeros, jnp.where(other, target, chosen), zeros.astype(bool), used
        )

    def is_held_out(self, goal: GoalFormula) -> Bool[Array, "*goals"]:
        """Whether a goal of a first player belongs to the held-out ones."""
        return ((goal.relation + goal.target) * goal.used).sum((-1, -2)) % self.objects == 0

    def game(self, key: Key[Array, ""], held_out: bool = False) -> GoalGame:
        """A game; held out if the first player's goal is."""
        layout, own, others, sort = jax.random.split(key, 4)
        goal = self.goal(own, held_out)
        interest, script, turn = jax.random.randint(sort, (3,), 0, jnp.array([len(INTERESTS), len(SCRIPTS), 4]))
        choices = goal.shared(), goal.opposed(), self.goal(others)
        second = jax.tree.map(lambda *leaves: jnp.stack(leaves)[interest], *choices)
        goals = jax.tree.map(lambda a, b: jnp.stack([a, b]), goal, second)
        return GoalGame(self.kind(layout), goals, interest, script, turn)

    def held_out_games(self, count: int, seed: int = 0, *, hardest: int | None = None) -> GoalGame:
        """The first games of the test set that can be won while the co-player stands still, and are not won before the
        first step.

        Args:
            count: of games.
            hardest: choose these, out of `count` others after the first `count`, by the length of their solution.

        Raises:
            UserError: if there are too few among 16 times as many.
        """
        numbers = jnp.arange(16 * count, dtype=jnp.uint32) + TEST_LEVELS
        keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(numbers)
        games, length = _with_solutions(self, keys)
        length = np.asarray(length)
        found = np.flatnonzero((length > 0) & (length <= self.horizon))
        if len(found) < count * (1 if hardest is None else 2):
            raise UserError(f"count takes fewer games: only {len(found)} of {16 * count} can be won.")
        if hardest is None:
            chosen = found[:count]
        else:
            rest = found[count : 2 * count]
            chosen = rest[np.argsort(-length[rest], kind="stable")[:hardest]]
        return jax.tree.map(lambda leaf: leaf[chosen], games)

    def solution_length(self, game: GoalGame) -> Float[Array, ""]:
        """Least number of steps until the first player's goal holds, while the second stands still: breadth first over
        cells and what is in the hand. Infinite if it is more than the horizon."""
        level, still = game.level, game.level.start[1]
        cells = jnp.stack(jnp.meshgrid(*[jnp.arange(self.side)] * 2, indexing="ij"), -1)
        hands = jnp.arange(EMPTY, self.objects)
        blocked = level.walls | (cells == still).all(-1)
        here = (cells[:, :, None] == level.object_cell).all(-1)  # (rows, columns, objects)
        taken = jnp.where(here.any(-1), here.argmax(-1), EMPTY)

        def won(hand: Array, cell: Array) -> Array:
            state = GameState(jnp.stack([cell, still]), jnp.stack([hand, jnp.array(EMPTY)]), jnp.zeros((), int))
            return self.paid(game, state)[0] > 0

        goal = jax.vmap(jax.vmap(jax.vmap(won, (None, 0)), (None, 0)), (0, None))(hands, cells)
        start = level.start[0]
        reached = jnp.zeros(goal.shape, bool).at[0, start[0], start[1]].set(True)

        def spread(time: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            reached, length = carry
            length = jnp.minimum(length, jnp.where((reached & goal).any(), time, jnp.inf))
            wide = jnp.pad(reached, ((0, 0), (1, 1), (1, 1)))
            near = wide[:, :-2, 1:-1] | wide[:, 2:, 1:-1] | wide[:, 1:-1, :-2] | wide[:, 1:-1, 2:]
            after = (reached | near) & ~blocked
            return jnp.where(taken >= 0, after.any(0) & (taken == hands[:, None, None]), after), length

        return jax.lax.fori_loop(0, self.horizon + 1, spread, (reached, jnp.array(jnp.inf)))[1]

    # Playing ---------------------------------------------------------------------------------------------

    def start(self, game: GoalGame) -> GameState:
        """The first state."""
        return GameState(game.level.start, jnp.full(2, EMPTY), jnp.zeros((), int))

    def step(self, game: GoalGame, state: GameState, actions: Int[Array, " players"]) -> GameState:
        """Both players' moves, the first's first; neither enters a wall or the other's cell."""
        player, level = state.player, game.level
        for i in range(2):
            target = player[i] + jnp.asarray(STEPS)[actions[i]]
            free = ~level.walls[target[0], target[1]] & (target != player[1 - i]).any()
            player = player.at[i].set(jnp.where(free, target, player[i]))
        on = (player[:, None] == level.object_cell).all(-1)
        at = on.any(-1)
        hand = jnp.where(at, on.argmax(-1), state.hand)
        lost = at[::-1] & ~at & (hand == hand[::-1])
        return GameState(player, jnp.where(lost, EMPTY, hand), state.time + 1)

    def facts(self, game: GoalGame, state: GameState) -> Bool[Array, "relations players targets"]:
        """Which relations hold between each player and each object, or the other player (the last target)."""
        objects = jnp.broadcast_to(game.level.object_cell, (2, self.objects, 2))
        targets = jnp.concatenate([objects, state.player[::-1, None]], 1)
        gap = jnp.abs(targets - state.player[:, None])
        line = jnp.arange(self.side)
        low, high = jnp.minimum(targets, state.player[:, None]), jnp.maximum(targets, state.player[:, None])
        inside = (line >= low[..., None]) & (line <= high[..., None])  # (players, targets, axis, side)
        between = inside[..., 0, :, None] & inside[..., 1, None, :]
        aligned = (gap == 0).any(-1)
        sees = aligned & ~(between & game.level.walls).any((-1, -2))
        holds = state.hand[:, None] == jnp.arange(self.objects + 1)
        return jnp.stack([gap.sum(-1) <= 1, holds, (gap == 0).all(-1), sees])

    def paid(self, game: GoalGame, state: GameState) -> Float[Array, " players"]:
        """Each player's reward in a state."""
        facts = self.facts(game, state)
        # Subjects are owner and other player, so the second player's facts are exchanged.
        each = jax.vmap(GoalFormula.satisfied)(game.goals, jnp.stack([facts, facts[:, ::-1]]))
        return each.astype(jnp.float32)

    def observe(self, game: GoalGame, state: GameState, player: int) -> Float[Array, " numbers"]:
        """What a player sees: one-hot offsets (row, column) to the other player and to the target of each predicate of
        its goal; walls and objects in the 5x5 cells around it; who holds the targets; the goal's encoding; the share
        of the episode that is gone."""
        me, you = state.player[player], state.player[1 - player]
        goal: GoalFormula = jax.tree.map(lambda leaf: leaf[player], game.goals)
        target, used, subject = goal.target.ravel(), goal.used.ravel(), goal.subject.ravel()
        # The other one of the two, seen from the subject: for a subject that is not me, that is me.
        last = jnp.where((subject == 0)[:, None], you, me)
        known = game.level.object_cell[jnp.minimum(target, self.objects - 1)]
        cells = jnp.where((target < self.objects)[:, None], known, last)
        middle = self.side - 3
        span = 2 * middle + 1

        def offset(cell: Int[Array, "*n 2"]) -> Float[Array, "*n numbers"]:
            return jax.nn.one_hot(cell - me + middle, span).reshape(*cell.shape[:-1], -1)

        ground = jnp.pad(self._ground(game.level), ((1, 1), (1, 1), (0, 0)))
        around = jax.lax.dynamic_slice(ground, (me[0] - 1, me[1] - 1, 0), (5, 5, 2))
        held = (state.hand[:, None] == target) & used
        parts = [
            offset(you), (offset(cells) * used[:, None]).ravel(), around.ravel(),
            jnp.concatenate([held[player], held[1 - player]]).astype(jnp.float32),
            goal.encoding(self.objects, self.colours).ravel(), (state.time / self.horizon)[None],
        ]  # fmt: skip
        return jnp.concatenate(parts)

    def _ground(self, level: GridLevel) -> Float[Array, "rows columns 2"]:
        line = jnp.arange(self.side)
        row, column = (line[:, None] == level.object_cell[:, i] for i in range(2))
        things = (row[:, None] & column[None]).any(-1)
        return jnp.stack([level.walls, things], -1).astype(jnp.float32)

    def scripted(self, game: GoalGame, state: GameState) -> Int[Array, ""]:
        """The second player's action in a test: it stands still, walks round (three steps in each direction), or runs
        after the first player."""
        gap = state.player[0] - state.player[1]
        vertical = jnp.where(gap[0] > 0, 2, 0)
        chase = jnp.where(jnp.abs(gap[0]) >= jnp.abs(gap[1]), vertical, jnp.where(gap[1] > 0, 1, 3))
        patrol = (game.turn + state.time // 3) % 4
        return jnp.stack([jnp.array(ACTIONS - 1), patrol, chase])[game.script]


@functools.partial(jax.jit, static_argnums=0)
def _with_solutions(world: TwoPlayerGoalGrid, keys: Key[Array, " games"]) -> tuple[GoalGame, Float[Array, " games"]]:
    games = jax.vmap(lambda key: world.game(key, held_out=True))(keys)
    return games, jax.vmap(world.solution_length)(games)
