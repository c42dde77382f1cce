"""The 15 string tasks of "Neural Networks and the Chomsky Hierarchy" (Deletang et al., 2022, section 4 and
appendix A), as pure samplers that take a traced length: one compiled program serves all lengths.

Axis: `length`, of the input string. Every task draws its tokens (`draw`) and computes the targets from the
tokens alone (`solve`); what lies beyond the length is never read. Alphabets, output lengths, the conventions for
very short strings and the accuracy masks are those of the published generators
(google-deepmind/neural_networks_chomsky_hierarchy).
"""

# ruff: noqa: D102  the tasks override what `ChomskyTask` documents
from __future__ import annotations

import abc
import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from unseen.lab import UserError
from unseen.worlds.sequences import Sequences

Level = Literal["regular", "deterministic context-free", "context-sensitive"]
Length = int | Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class ChomskyTask(abc.ABC):
    """A function from strings to strings, with the level of the weakest automaton that computes it.

    Attributes:
        level: the task's place in the hierarchy.
        input_size, output_size: sizes of the two alphabets, without the empty token.
    """

    level: ClassVar[Level]

    @property
    @abc.abstractmethod
    def input_size(self) -> int:
        """Number of input tokens, the empty one not counted."""

    @property
    @abc.abstractmethod
    def output_size(self) -> int:
        """Number of output tokens."""

    @abc.abstractmethod
    def draw(self, key: PRNGKeyArray, length: Length, size: int) -> Int[Array, " size"]:
        """A random input of `input_length(length)` tokens in a row of `size`; what follows is arbitrary."""

    @abc.abstractmethod
    def solve(self, tokens: Int[Array, " size"], length: Length) -> Int[Array, " outputs"]:
        """The output for the first `input_length(length)` tokens, `output_length(length)` tokens of a row of
        `output_length(size)`; what follows is arbitrary."""

    def input_length(self, length: Length) -> Length:
        """Tokens of an input of nominal length `length`."""
        return length

    def output_length(self, length: Length) -> Length:
        """Tokens of the output for an input of nominal length `length`."""
        return 1

    def scored(self, targets: Int[Array, " outputs"]) -> Bool[Array, " outputs"]:
        """Which outputs count for accuracy."""
        return jnp.ones(targets.shape, bool)

    @property
    def chance(self) -> float:
        """Accuracy of a uniform guess."""
        return 1 / self.output_size

    def sample(
        self, key: PRNGKeyArray, length: Length | Int[Array, " batch"], batch: int, size: int | None = None
    ) -> Sequences:
        """A batch of strings with their targets, in the layout of `Sequences`.

        Args:
            key: random key.
            length: nominal input length, one for the batch or one a string; may be traced.
            batch: number of strings.
            size: the longest input there is room for; the rows have `size + output_length(size)` positions. By
                default the length itself, which must then be a plain integer.

        Raises:
            UserError: if a length that is known now does not lie between 1 and `size`.
        """
        if size is None:
            if not isinstance(length, int):
                raise UserError("size takes the longest input there is room for when the length is an array.")
            size = length
        if isinstance(length, int) and not 1 <= length <= size:
            raise UserError(f"length takes a whole number from 1 to size ({size}), got {length}.")
        length = jnp.asarray(length)
        one = jax.vmap(lambda k, n: self._one(k, n, size), in_axes=(0, None if length.ndim == 0 else 0))
        return one(jax.random.split(key, batch), length)

    def _one(self, key: PRNGKeyArray, length: Int[Array, ""], size: int) -> Sequences:
        tokens = self.draw(key, length, size)
        targets = self.solve(tokens, length)
        time = jnp.arange(size + targets.size)
        begin = self.input_length(length)
        end = begin + self.output_length(length)
        outputs = (begin <= time) & (time < end)

        def place(row: Array) -> Array:  # the outputs begin where the input ends
            return jnp.where(outputs, jnp.roll(jnp.pad(row, (0, size)), begin), 0)

        read = jnp.where(outputs, self.input_size, jnp.pad(tokens, (0, targets.size)))
        present = time < end
        inputs = jax.nn.one_hot(jnp.where(present, read, -1), self.input_size + 1)
        return Sequences(
            inputs=inputs,
            targets=place(targets),
            outputs=outputs,
            scored=place(self.scored(targets)).astype(bool),
            present=present,
            input_length=jnp.asarray(begin),
        )


# Regular -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Strings(ChomskyTask):
    """Uniform strings over `symbols` letters, answered in the same letters."""

    symbols: int = 2

    def __post_init__(self) -> None:
        if self.symbols < 2:
            raise UserError(f"symbols takes a whole number from 2 on, got {self.symbols}.")

    @property
    def input_size(self) -> int:
        return self.symbols

    @property
    def output_size(self) -> int:
        return self.symbols

    def draw(self, key: PRNGKeyArray, length: Length, size: int) -> Int[Array, " size"]:
        return jax.random.randint(key, (size,), 0, self.symbols)


@dataclasses.dataclass(frozen=True)
class EvenPairs(_Strings):
    """Is the number of unequal neighbours even (0) or odd (1)? Binary; equals first letter against last."""

    level = "regular"
    symbols: int = dataclasses.field(default=2, init=False)

    def solve(self, tokens: Int[Array, " size"], length: Length) -> Int[Array, " outputs"]:
        return (tokens[0] != tokens[length - 1]).astype(int)[None]


@dataclasses.dataclass(frozen=True)
class ParityCheck(_Strings):
    """Is the number of ones even (0) or odd (1)?"""

    level = "regular"
    symbols: int = dataclasses.field(default=2, init=False)

    def solve(self, tokens: Int[Array, " size"], length: Length) -> Int[Array, " outputs"]:
        return _within(tokens, length).sum(keepdims=True) % 2


@dataclasses.dataclass(frozen=True)
class CycleNavigation(ChomskyTask):
    """Position on a circle of `positions` after steps left (0), none (1) and right (2), from position 0."""

    level = "regular"
    positions: int = 5

    @property
    def input_size(self) -> int:
        return 3

    @property
    def output_size(self) -> int:
        return self.positions

    def draw(self, key: PRNGKeyArray, length: Length, size: int) -> Int[Array, " size"]:
        return jax.random.randint(key, (size,), 0, 3)

    def solve(self, tokens: Int[Array, " size"], length: Length) -> Int[Array, " outputs"]:
        return _within(tokens - 1, length).sum(keepdims=True) % self.positions


@dataclasses.dataclass(frozen=True)
class ModularArithmeticSimple(ChomskyTask):
    """Value of digit, operator, digit, ... modulo `modulus`, * before + and -.

    Tokens: the digits, then + - * and a blank that is never drawn. Inputs have odd length: an even nominal
    length means one token less.
    """

    level = "regular"
    modulus: int = 5

    @property
    def input_size(self) -> int:
        return self.modulus + 4

    @property
    def output_size(self) -> int:
        return self.modulus

    def input_length(self, length: Length) -> Length:
        return length - 1 + length % 2

    def draw(self, key: PRNGKeyArray, length: Length, size: int) -> Int[Array, " size"]:
        digit_key, operator_key = jax.random.split(key)
        digits = jax.random.randint(digit_key, (size,), 0, self.modulus)
        operators = jax.random.randint(operator_key, (size,), self.modulus, self.modulus + 3)
        return jnp.where(jnp.arange(size) % 2 == 0, digits, operators)

    def solve(self, tokens: Int[Array, " size"], length: Length) -> Int[Array, " outputs"]:
        plus, minus, times = self.modulus, self.modulus + 1, self.modulus + 2
        begun = jnp.arange(tokens.size) < self.input_length(length)

        def read(
            state: tuple[Array, Array, Array], item: tuple[Array, Array]
        ) -> tuple[tuple[Array, Array, Array], None]:
            total, term, operator = state
            token, inside = item
            is_digit = token < self.modulus
            factor = jnp.where(operator == times, term, jnp.where(operator == minus, -1, 1))
            closes = ~is_digit & (token != times)  # + and - end a term
            new = (
                jnp.where(closes, total + term, total) % self.modulus,
                jnp.where(is_digit, factor * token, term) % self.modulus,
                jnp.where(is_digit, operator, token),
            )
            return jax.tree.map(lambda a, b: jnp.where(inside, a, b), new, state), None

        start = (jnp.array(0), jnp.array(0), jnp.array(plus))
        (total, term, _), _ = lax.scan(read, start, (tokens, begun))
        return ((total + term) % self.modulus)[None]


# Deterministic context-free ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class ReverseString(_Strings):
    """The string backwards."""

    level = "deterministic context-free"

    def output_length(self, length: Length) -> Length:
        return length

    def solve(self, tokens: Int[Array, " size"], length: Length) -> Int[Array, " outputs"]:
        return jnp.roll(tokens[::-1], length)  # reversed padding comes first; bring it to the end


@dataclasses.dataclass(frozen=True)
class _Terminated(ChomskyTask):
    """Outputs end with the token 2 and are filled up with zeros, which do not count for accuracy."""

    @property
    def output_size(self) -> int:
        return 3

    def scored(self, targets: Int[Array, " outputs"]) -> Bool[Array, " outputs"]:
        ends = targets == 2
        return jnp.cumsum(ends) - ends == 0


@dataclasses.dataclass(frozen=True)
class StackManipulation(_Terminated):
    """A stack of bits, bottom first, then actions (2 pop, 3 push 0, 4 push 1): the final stack, top first.

    Popping an empty stack does nothing.
    """

    level = "deterministic context-free"

    @property
    def input_size(self) -> int:
        return 5

    def output_length(self, length: Length) -> Length:
        return length + 1

    def draw(self, key: PRNGKeyArray, length: Length, size: int) -> Int[Array, " size"]:
        height_key, bit_key, action_key = jax.random.split(key, 3)
        height = jax.random.randint(height_key, (), 1, jnp.maximum(length, 2))
        bits = jax.random.randint(bit_key, (size,), 0, 2)
        actions = jax.random.randint(action_key, (size,), 2, 5)
        return jnp.where(jnp.arange(size) < height, bits, actions)

    def solve(self, tokens: Int[Array, " size"], length: Length) -> Int[Array, " outputs"]:
        place = jnp.arange(tokens.size)

        def act(state: tuple[Array, Array], item: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
            stack, height = state
            token, inside = item
            pops = token == 2
            pushed = jnp.where((place == height) & ~pops & inside, token % 3, stack)  # 3 and 4 push 0 and 1
            moved = jnp.where(pops, jnp.maximum(height - 1, 0), height + 1)
            return (pushed, jnp.where(inside, moved, height)), None

        (stack, height), _ = lax.scan(act, (jnp.zeros_like(tokens), jnp.array(0)), (tokens, place < length))
        return _terminate(jnp.roll(stack[::-1], height), height, tokens.size + 1)


@dataclasses.dataclass(frozen=True)
class _Bracketed(ChomskyTask):
    """Random fully bracketed expressions over the digits modulo `modulus`.

    An expression of length 1 to 4 is d, -d, (d) or (-d); a longer one is (left operator right), with the length
    of the left part uniform over what leaves one token for the right part.
    """

    modulus: int = 5
    operators: ClassVar[int]  # + - and perhaps *: the first tokens after the digits

    @property
    def input_size(self) -> int:
        return self.modulus + 6

    @property
    def output_size(self) -> int:
        return self.modulus

    @property
    def _signs(self) -> tuple[int, int, int, int, int]:
        """Tokens + - * ( ); without *, its token is one that never comes up."""
        plus = self.modulus
        bracket = plus + self.operators
        return plus, plus + 1, plus + 2 if self.operators == 3 else -1, bracket, bracket + 1

    def _expression(self, key: PRNGKeyArray, length: Length, size: int) -> Int[Array, " size"]:
        """Expand the grammar from the left: every step pops an item off a stack and emits one token. Items are
        tokens, or, as negative numbers, lengths of expressions still to be written."""
        plus, minus, _, opening, closing = self._signs

        def emit(state: tuple[Array, Array], step_key: PRNGKeyArray) -> tuple[tuple[Array, Array], Array]:
            stack, height = state
            digit_key, operator_key, split_key = jax.random.split(step_key, 3)
            digit = jax.random.randint(digit_key, (), 0, self.modulus)
            operator = jax.random.randint(operator_key, (), plus, plus + self.operators)
            item = stack[height - 1]
            rest = jnp.maximum(-item, 0)  # 0: the item is a token
            left = jax.random.randint(split_key, (), 1, jnp.maximum(rest - 3, 2))
            case = jnp.minimum(rest, 5)
            token = jnp.array([0, digit, minus, opening, opening, opening])[case]
            left_to_write = jnp.array(  # the top of the stack comes last
                [
                    [0, 0, 0, 0],
                    [0, 0, 0, 0],
                    [digit, 0, 0, 0],
                    [closing, digit, 0, 0],
                    [closing, digit, minus, 0],
                    [closing, left + 3 - rest, operator, -left],
                ]
            )[case]
            stack = lax.dynamic_update_slice(stack, left_to_write, (height - 1,))
            height = jnp.maximum(height - 1 + jnp.maximum(case - 1, 0), 0)
            return (stack, height), jnp.where(case == 0, item, token)

        stack = jnp.zeros(size + 4, int).at[0].set(-length)  # an item writes a token or more: never too many
        _, tokens = lax.scan(emit, (stack, jnp.array(1)), jax.random.split(key, size))
        return tokens

    def _value(self, tokens: Int[Array, " size"], length: Length) -> Int[Array, ""]:
        """Value of the expression in the first `length` tokens."""
        plus, minus, times, opening, closing = self._signs
        frames = jnp.arange(tokens.size + 1)

        def read(state: tuple[Array, ...], item: tuple[Array, Array]) -> tuple[tuple[Array, ...], None]:
            value, sign, follows_operand, depth, lefts, operators = state
            token, inside = item
            here = frames == depth
            is_digit = token < self.modulus
            unary = (token == minus) & ~follows_operand
            binary = ((token == plus) | (token == minus) | (token == times)) & ~unary
            left, operator = (lefts * here).sum(), (operators * here).sum()
            closed = jnp.where(operator == plus, left + value, value)
            closed = jnp.where(operator == minus, left - value, closed)
            closed = jnp.where(operator == times, left * value, closed)
            new_value = jnp.where(is_digit, sign * token, jnp.where(token == closing, closed, value)) % self.modulus
            opens, closes = token == opening, token == closing
            new_depth = depth + opens - closes
            new = (
                new_value,
                jnp.where(unary, -1, 1),
                is_digit | closes,
                new_depth,
                jnp.where(here & binary, value, lefts),
                jnp.where(here & binary, token, jnp.where((frames == new_depth) & opens, 0, operators)),
            )
            return jax.tree.map(lambda a, b: jnp.where(inside, a, b), new, state), None

        zeros = jnp.zeros_like(frames)
        start = (jnp.array(0), jnp.array(1), jnp.array(False), jnp.array(0), zeros, zeros)
        state, _ = lax.scan(read, start, (tokens, jnp.arange(tokens.size) < length))
        return state[0]


@dataclasses.dataclass(frozen=True)
class ModularArithmeticBrackets(_Bracketed):
    """Value of a bracketed expression with + - * modulo `modulus`. Tokens: digits, + - * ( ), two unused."""

    level = "deterministic context-free"
    operators = 3

    def draw(self, key: PRNGKeyArray, length: Length, size: int) -> Int[Array, " size"]:
        return self._expression(key, length, size)

    def solve(self, tokens: Int[Array, " size"], length: Length) -> Int[Array, " outputs"]:
        return self._value(tokens, length)[None]


@dataclasses.dataclass(frozen=True)
class SolveEquation(_Bracketed):
    """The digit that x stands for in "expression with one x = value", modulo `modulus`, with + and - only.

    Tokens: digits, + - ( ) x =. Below length 3 there is no equation: zeros, answered by 0.
    """

    level = "deterministic context-free"
    operators = 2

    def draw(self, key: PRNGKeyArray, length: Length, size: int) -> Int[Array, " size"]:
        expression_key, index_key = jax.random.split(key)
        place = jnp.arange(size)
        length = jnp.asarray(length)
        written = jnp.maximum(length - 2, 1)
        tokens = self._expression(expression_key, written, size)
        index = jax.random.randint(index_key, (), 0, written)
        # x replaces the first digit at a random place or, round the end, after it.
        distance = jnp.where((tokens < self.modulus) & (place < written), (place - index) % written, size)
        equation = jnp.where(place == jnp.argmin(distance), self.modulus + 4, tokens)
        equation = jnp.where(place == written, self.modulus + 5, equation)
        equation = jnp.where(place == written + 1, self._value(tokens, written), equation)
        return jnp.where(length < 3, 0, equation)

    def solve(self, tokens: Int[Array, " size"], length: Length) -> Int[Array, " outputs"]:
        digits = jnp.arange(self.modulus)
        length = jnp.asarray(length)
        written = jnp.maximum(length - 2, 1)
        values = jax.vmap(lambda d: self._value(jnp.where(tokens == self.modulus + 4, d, tokens), written))(digits)
        solution = jnp.argmax(values == tokens[length - 1])
        return jnp.where(length < 3, 0, solution)[None]


# Context-sensitive -------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class DuplicateString(_Strings):
    """The string twice."""

    level = "context-sensitive"

    def output_length(self, length: Length) -> Length:
        return 2 * length

    def solve(self, tokens: Int[Array, " size"], length: Length) -> Int[Array, " outputs"]:
        return tokens[jnp.arange(2 * tokens.size) % length]


@dataclasses.dataclass(frozen=True)
class MissingDuplicateString(ChomskyTask):
    """The bit that is missing (token 2) from a binary string written twice; odd lengths end in token 3.

    The string of length 1 is always 1, and so is its answer.
    """

    level = "context-sensitive"

    @property
    def input_size(self) -> int:
        return 4

    @property
    def output_size(self) -> int:
        return 2

    def draw(self, key: PRNGKeyArray, length: Length, size: int) -> Int[Array, " size"]:
        bit_key, index_key = jax.random.split(key)
        half = jnp.maximum(length // 2, 1)
        place = jnp.arange(size)
        tokens = jax.random.randint(bit_key, (size,), 0, 2)[place % half]
        tokens = jnp.where(place == jax.random.randint(index_key, (), 0, 2 * half), 2, tokens)
        return jnp.where(jnp.asarray(length) == 1, 1, jnp.where(place < 2 * half, tokens, 3))

    def solve(self, tokens: Int[Array, " size"], length: Length) -> Int[Array, " outputs"]:
        half = jnp.maximum(length // 2, 1)
        missing = jnp.argmax(tokens == 2)
        return jnp.where(jnp.asarray(length) == 1, 1, tokens[(missing + half) % (2 * half)])[None]


@dataclasses.dataclass(frozen=True)
class OddsFirst(_Strings):
    """Second, fourth, sixth, ... letter, then first, third, fifth, ... (odd places when counted from 0)."""

    level = "context-sensitive"

    def output_length(self, length: Length) -> Length:
        return length

    def solve(self, tokens: Int[Array, " size"], length: Length) -> Int[Array, " outputs"]:
        place, odds = jnp.arange(tokens.size), length // 2
        return tokens[jnp.where(place < odds, 2 * place + 1, 2 * (place - odds))]


@dataclasses.dataclass(frozen=True)
class _TwoNumbers(_Terminated):
    """Two positive binary numbers, least bit first, with token 2 between them.

    Where the separator stands is uniform. Below length 3 there is no room for two numbers: the input is then
    one number below 2^length - 1.
    """

    @property
    def input_size(self) -> int:
        return 3

    def draw(self, key: PRNGKeyArray, length: Length, size: int) -> Int[Array, " size"]:
        first_key, left_key, right_key, short_key = jax.random.split(key, 4)
        length = jnp.asarray(length)
        place = jnp.arange(size)
        first = jax.random.randint(first_key, (), 1, jnp.maximum(length - 1, 2))
        left = _positive(left_key, first, size)
        right = _positive(right_key, jnp.maximum(length - 1 - first, 1), size)
        pair = jnp.where(place < first, left, jnp.where(place == first, 2, jnp.roll(right, first + 1)))
        number = jax.random.randint(short_key, (), 0, jnp.where(length == 1, 1, 3))
        single = (number >> jnp.minimum(place, 2)) & 1
        return jnp.where(length < 3, single, pair)

    @staticmethod
    def _split(tokens: Int[Array, " size"], length: Length) -> tuple[Int[Array, " size"], Int[Array, " size"]]:
        """The two numbers; the second is 0 if there is no separator."""
        tokens = _within(tokens, length)
        first = jnp.where(jnp.asarray(length) < 3, tokens.size, jnp.argmax(tokens == 2))
        left = _within(tokens, first)
        right = _within(jnp.roll(tokens, -first - 1), length - 1 - first)
        return left, right


@dataclasses.dataclass(frozen=True)
class BinaryAddition(_TwoNumbers):
    """The sum of two binary numbers, without leading zeros (so ending in 1), then 2."""

    level = "context-sensitive"

    def output_length(self, length: Length) -> Length:
        return length + 1

    def solve(self, tokens: Int[Array, " size"], length: Length) -> Int[Array, " outputs"]:
        left, right = (jnp.pad(number, (0, 1)) for number in self._split(tokens, length))
        # A carry comes in where the last place before with equal bits has ones.
        total = (left + right + _last(left == right, left == 1)[:-1]) % 2
        return _terminate(total, jnp.maximum(_digits(total), 1), tokens.size + 1)


@dataclasses.dataclass(frozen=True)
class BinaryMultiplication(_TwoNumbers):
    """The product of two binary numbers, without leading zeros, then 2. Below length 3 the answer is all zeros."""

    level = "context-sensitive"

    def output_length(self, length: Length) -> Length:
        return length

    def solve(self, tokens: Int[Array, " size"], length: Length) -> Int[Array, " outputs"]:
        left, right = self._split(tokens, length)
        # Exact in float32: a coefficient is at most the number of bits.
        sums = jnp.convolve(left.astype(jnp.float32), right.astype(jnp.float32))[: tokens.size].astype(int)
        _, product = lax.scan(lambda carry, s: ((carry + s) // 2, (carry + s) % 2), jnp.array(0), sums)
        length = jnp.asarray(length)
        return _terminate(product, jnp.where(length < 3, length - 1, _digits(product)), tokens.size)


@dataclasses.dataclass(frozen=True)
class ComputeSqrt(_Strings):
    """Integer part of the square root of a positive binary number, greatest bit first, in half as many bits."""

    level = "context-sensitive"
    symbols: int = dataclasses.field(default=2, init=False)

    def output_length(self, length: Length) -> Length:
        return (length + 1) // 2

    def draw(self, key: PRNGKeyArray, length: Length, size: int) -> Int[Array, " size"]:
        return jnp.roll(_positive(key, length, size)[::-1], length)

    def solve(self, tokens: Int[Array, " size"], length: Length) -> Int[Array, " outputs"]:
        # Schoolbook: bring down two bits a step, subtract 4 root + 1 from the remainder where it fits. Numbers are
        # rows of bits, least first, so that any length is exact.
        odd = length % 2
        pairs = jnp.pad(_within(tokens, length), (0, tokens.size % 2))
        pairs = jnp.where(odd, jnp.roll(jnp.pad(pairs, (0, 2)), 1)[: pairs.size], pairs).reshape(-1, 2)
        room = pairs.shape[0] + 3

        def bring_down(state: tuple[Array, Array], pair: Array) -> tuple[tuple[Array, Array], Array]:
            remainder, root = state
            remainder = jnp.concatenate([pair[::-1], remainder[:-2]])
            trial = jnp.concatenate([jnp.array([1, 0]), root[:-2]])
            borrow = _last(remainder != trial, trial == 1)
            fits = ~borrow[-1]
            remainder = jnp.where(fits, (remainder - trial - borrow[:-1]) % 2, remainder)
            return (remainder, jnp.concatenate([fits.astype(int)[None], root[:-1]])), fits.astype(int)

        zeros = jnp.zeros(room, int)
        _, root = lax.scan(bring_down, (zeros, zeros), pairs)
        return root


@dataclasses.dataclass(frozen=True)
class BucketSort(_Strings):
    """The letters in increasing order."""

    level = "context-sensitive"
    symbols: int = 5

    def output_length(self, length: Length) -> Length:
        return length

    def solve(self, tokens: Int[Array, " size"], length: Length) -> Int[Array, " outputs"]:
        place = jnp.arange(tokens.size)
        letters = jnp.arange(self.symbols - 1)
        up_to = ((tokens[:, None] <= letters) & (place < length)[:, None]).sum(0)  # letters up to this one
        return (place[:, None] >= up_to).sum(-1)


# What the tasks share ----------------------------------------------------------------------------------------


def _within(row: Int[Array, " size"], length: Length) -> Int[Array, " size"]:
    return jnp.where(jnp.arange(row.size) < length, row, 0)


def _positive(key: PRNGKeyArray, length: Length, size: int) -> Int[Array, " size"]:
    """Bits, least first, of a number uniform over 1 .. 2^length - 1: its greatest bit is at place h with
    probability proportional to 2^h, the bits below are fair coins."""
    top_key, bit_key = jax.random.split(key)
    place = jnp.arange(size)
    top = jax.random.categorical(top_key, jnp.where(place < length, place * jnp.log(2.0), -jnp.inf))
    bits = jax.random.randint(bit_key, (size,), 0, 2)
    return jnp.where(place < top, bits, (place == top).astype(int))


def _digits(bits: Int[Array, " size"]) -> Int[Array, ""]:
    """Number of bits up to the greatest one that is set."""
    return jnp.max(jnp.where(bits == 1, jnp.arange(bits.size) + 1, 0))


def _last(where: Bool[Array, " size"], value: Bool[Array, " size"]) -> Bool[Array, " more"]:
    """`value` at the last place before i at which `where` holds, for i = 0 .. size; false if there is none."""
    code = jnp.where(where, 2 * jnp.arange(where.size) + value, 0)
    return jnp.pad(lax.cummax(code) % 2 == 1, (1, 0))


def _terminate(row: Int[Array, " size"], length: Int[Array, ""], size: int) -> Int[Array, " outputs"]:
    """The first `length` tokens, then 2, then zeros."""
    place = jnp.arange(size)
    row = jnp.pad(row, (0, max(0, size - row.size)))[:size]
    return jnp.where(place < length, row, jnp.where(place == length, 2, 0))


CHOMSKY_TASKS: dict[str, type[ChomskyTask]] = {
    "even_pairs": EvenPairs,
    "modular_arithmetic": ModularArithmeticSimple,
    "parity_check": ParityCheck,
    "cycle_navigation": CycleNavigation,
    "modular_arithmetic_brackets": ModularArithmeticBrackets,
    "reverse_string": ReverseString,
    "stack_manipulation": StackManipulation,
    "solve_equation": SolveEquation,
    "missing_duplicate_string": MissingDuplicateString,
    "compute_sqrt": ComputeSqrt,
    "duplicate_string": DuplicateString,
    "binary_addition": BinaryAddition,
    "binary_multiplication": BinaryMultiplication,
    "odds_first": OddsFirst,
    "bucket_sort": BucketSort,
}
"""The paper's names of the tasks, in the paper's order of levels."""
