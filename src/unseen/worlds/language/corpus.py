"""The pretraining mixture of a language world: documents, their probability, and windows of a stream of them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from unseen.lab import UserError
from unseen.worlds.language import language as words
from unseen.worlds.language.language import RELATIONS, Language, tokens_of
from unseen.worlds.language.lexicon import BOS, EOS, GROUPS, VOCABULARY_SIZE, encode, group
from unseen.worlds.language.templates import EMPTY

Side = Literal["train", "validation"]
SHARES: Mapping[str, float] = MappingProxyType(
    dict(facts=0.14, two_hop=0.04, questions=0.10, passages=0.08, tasks=0.12, dialect=0.05, role_free=0.05)
)
RELATION_SHARE = {"people": 0.6 / 6, "cities": 0.25 / 3, "goods": 0.15 / 3}  # of one relation of a domain


@dataclasses.dataclass(frozen=True)
class Documents:
    """Many documents at once.

    Attributes:
        tokens: `EMPTY` behind a document's end.
        length: tokens of each.
        log_prob: log-probability of each under its kind's generator, in nats: what a model that knows the world
            perfectly would give it, the kind being known.
        kind: index into `kinds`.
        kinds: names of the kinds of documents.
    """

    tokens: Int[np.ndarray, "documents time"]
    length: Int[np.ndarray, " documents"]
    log_prob: Float[np.ndarray, " documents"]
    kind: Int[np.ndarray, " documents"]
    kinds: tuple[str, ...]

    @property
    def stream(self) -> Int[np.ndarray, " tokens"]:
        """All documents behind one another."""
        return self.tokens[self.tokens != EMPTY]

    @property
    def kind_log_prob(self) -> Float[np.ndarray, " documents"]:
        """Log-probability of each document's kind, from the kinds' shares of the documents."""
        counts = np.bincount(self.kind, minlength=len(self.kinds))
        return np.log(counts / counts.sum())[self.kind]

    def floor(self, kind: str | None = None) -> float:
        """Lowest mean loss a token, in nats, on documents of a kind (or on all): the generator's own, estimated
        from these documents. The first token, which always opens a document, counts as predicted."""
        mine = np.ones(len(self.kind), bool) if kind is None else self.kind == self.kinds.index(kind)
        return float(-(self.log_prob + self.kind_log_prob)[mine].sum() / self.length[mine].sum())


class ShuffledWindows(eqx.Module):
    """Windows of text, and the same with the tokens of each window in random order: a control that keeps the
    frequencies and takes what predicts a token from those before it.

    Attributes:
        plain, mixed: the windows as they are, and shuffled.
        turn: a number between 0 and 1 for each window; at a share above it, the window is shuffled.
    """

    plain: Int[Array, "windows length"]
    mixed: Int[Array, "windows length"]
    turn: Float[Array, " windows"]

    def __init__(self, windows: Int[np.ndarray, "windows length"], key: PRNGKeyArray):
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).astype(np.uint32))
        self.plain = jnp.asarray(windows)
        self.mixed = jnp.asarray(rng.permuted(windows, axis=1))
        self.turn = jnp.asarray((rng.permutation(len(windows)) + 0.5) / len(windows), jnp.float32)

    def read(self, rows: Int[Array, " rows"], share: float | Float[Array, ""] = 0.0) -> Int[Array, "rows length"]:
        """Some of the windows, `share` of all windows being shuffled."""
        return jnp.where(self.turn[rows, None] < share, self.mixed[rows], self.plain[rows])


@dataclasses.dataclass(frozen=True)
class LanguageCorpus:
    """Documents about one world in given shares of tokens, in random order.

    Kinds: `facts` and `dialect` (one sentence), `two_hop`, `questions` (open, yes or no, four options),
    `passages` (a sentence, a question about it, its answer; the sentence agrees with memory in half of the cases,
    states another value, or is about a newcomer), `tasks` (copy, reverse, sort lists) and `role_free` (random
    words, twice, so that every word is known before it has a role).

    Axes: side (train and validation share no latent: a sentence about a fact, a question about a fact, a passage
        about an entity and a relation, a list's first and last item), kind, and those of the `Language`.

    Attributes:
        language: the world.
        shares: kind -> share of the tokens, in any unit; kinds left out do not come up.
        validation: share of the latents that belong to the validation side.
    """

    language: Language = dataclasses.field(default_factory=Language)
    shares: Mapping[str, float] = dataclasses.field(default_factory=lambda: dict(SHARES))
    validation: float = 0.1

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.shares if kind not in SHARES]
        if unknown or not self.shares or min(self.shares.values()) < 0 or not sum(self.shares.values()) > 0:
            got = unknown[0] if unknown else dict(self.shares)
            raise UserError(f"shares takes positive numbers under the names {', '.join(SHARES)}, got {got!r}.")
        if not 0 < self.validation < 1:
            raise UserError(f"validation takes a share between 0 and 1, got {self.validation}.")

    def documents(self, key: PRNGKeyArray, tokens: int, side: Side = "train") -> Documents:
        """At least `tokens` tokens of documents, in random order.

        Args:
            side: from which latents they are.
        """
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).astype(np.uint32))
        kinds = tuple(kind for kind, share in self.shares.items() if share > 0)
        total = sum(self.shares[kind] for kind in kinds)
        parts = []
        for kind in kinds:
            wanted = int(np.ceil(tokens * self.shares[kind] / total))
            text, log_prob = self._samplers[kind](rng, wanted // 7 + 1, side)
            length = (text != EMPTY).sum(1)
            count = min(int(np.searchsorted(np.cumsum(length), wanted)) + 1, len(text))
            parts.append((text[:count], length[:count], log_prob[:count]))
        widest = max(text.shape[1] for text, _, _ in parts)
        padded = [np.pad(t, ((0, 0), (0, widest - t.shape[1])), constant_values=EMPTY) for t, _, _ in parts]
        kind = np.repeat(np.arange(len(kinds)), [len(t) for t, _, _ in parts])
        order = rng.permutation(len(kind))
        return Documents(
            np.concatenate(padded)[order],
            np.concatenate([length for _, length, _ in parts])[order],
            np.concatenate([log_prob for _, _, log_prob in parts])[order],
            kind[order],
            kinds,
        )

    def windows(
        self, key: PRNGKeyArray, count: int, length: int = 128, side: Side = "train"
    ) -> Int[np.ndarray, "count length"]:
        """Windows of a stream of documents, one behind the other; documents are cut at their borders."""
        return self.documents(key, count * length, side).stream[: count * length].reshape(count, length)

    # Kinds -------------------------------------------------------------------------------------------------

    @functools.cached_property
    def _samplers(self) -> dict[str, Callable[..., tuple[np.ndarray, np.ndarray]]]:
        return {
            "facts": functools.partial(
                self._facts, forms=_forms(words.FORWARD + words.REVERSED, words.HELD_STATEMENTS)
            ),
            "dialect": functools.partial(self._facts, forms=_forms(words.STATEMENTS)[-len(words.DIALECT_B) :]),
            "two_hop": self._two_hop,
            "questions": self._questions,
            "passages": self._passages,
            "tasks": self._tasks,
            "role_free": self._role_free,
        }

    @functools.cached_property
    def _mentions(self) -> Float[np.ndarray, "relations entities"]:
        """Probability that a sentence is about this relation of this entity; 0 where there is no such entity."""
        table = np.zeros((len(RELATIONS), max(len(group(domain)) for domain in words.DOMAINS)))
        for i, r in enumerate(RELATIONS):
            table[i, : len(group(r.subject))] = RELATION_SHARE[r.subject] * self.language.popularity(r.subject)
        return table

    def _side(self, use: int, shape: tuple[int, ...], side: Side) -> Bool[np.ndarray, "..."]:
        """Which latents of a kind belong to a side."""
        held = self.language.generator(2, use).random(shape) < self.validation
        return held if side == "validation" else ~held

    @functools.cached_property
    def _true(self) -> Int[np.ndarray, "relations entities"]:
        """Index of every fact's value within its relation's values."""
        table = np.zeros(self._mentions.shape, int)
        for i, r in enumerate(RELATIONS):
            table[i, : len(group(r.subject))] = self.language.facts[r.name]
        return table

    def _facts(self, rng: np.random.Generator, count: int, side: Side, forms: np.ndarray) -> tuple:
        weights = np.repeat(self._mentions[:, :, None], len(forms), 2)
        weights = weights * self._side(int(forms[0]), weights.shape, side)
        (r, e, form), log_prob = _draw(rng, weights, count)
        values = np.stack([_SUBJECTS[r, e], _VALUES[r, self._true[r, e]]], 1)
        return _document(words.statements().fill(r * len(words.STATEMENTS) + forms[form], values)), log_prob

    def _two_hop(self, rng: np.random.Generator, count: int, side: Side) -> tuple:
        most = max(len(group(domain)) for domain in words.DOMAINS)
        weights = np.zeros((len(words.TWO_HOPS), most, len(words.TWO_HOP)))
        subjects, values = np.zeros((2, *weights.shape[:2]), int)
        for i, (a, b) in enumerate(words.TWO_HOPS):
            stated, domain = self.language.two_hop_stated[a, b], words.relation(a).subject
            weights[i, : len(stated)] = (stated * self.language.popularity(domain))[:, None]
            subjects[i, : len(stated)] = group(domain)
            values[i, : len(stated)] = [self.language.two_hop_value(a, b, e) for e in range(len(stated))]
        weights = weights * self._side(100, weights.shape, side)
        (pair, e, form), log_prob = _draw(rng, weights, count)
        values = np.stack([subjects[pair, e], values[pair, e]], 1)
        return _document(words.two_hop_statements().fill(pair * len(words.TWO_HOP) + form, values)), log_prob

    def _questions(self, rng: np.random.Generator, count: int, side: Side) -> tuple:
        weights = self._mentions * self._side(101, self._mentions.shape, side)
        (r, e), log_prob = _draw(rng, weights, count)
        # Half of the questions are open, in one of the wordings of pretraining; yes or no and options share the rest.
        open_forms = _forms(words.OPEN, (words.HELD_OPEN,))
        form, form_log_prob = _choose(rng, [0.5 / len(open_forms)] * len(open_forms) + [0.25, 0.25], count)
        true, values = self._true[r, e], _COUNT[r]
        asked, yes = true.copy(), rng.random(count) < 0.5
        wrong = (true + rng.integers(1, values)) % values
        yes_no, options = form == len(open_forms), form == len(open_forms) + 1
        asked = np.where(yes_no & ~yes, wrong, asked)
        answer = np.where(yes_no, np.where(yes, *encode("yes no")), EMPTY)
        right = rng.integers(4, size=count)
        offered = _distinct(rng, values, true, 3)
        offered = np.insert(offered, 0, true, 1)[np.arange(count)[:, None], (np.arange(4) - right[:, None]) % 4]
        answer = np.where(options, group("integers")[right + 1], answer)
        log_prob = log_prob + form_log_prob
        log_prob -= np.where(yes_no, np.log(2) + np.where(yes, 0, np.log(values - 1)), 0)
        log_prob -= np.where(options, np.log(4) + sum(np.log(values - 1 - i) for i in range(3)), 0)
        number = np.append(open_forms, [len(words.OPEN), len(words.OPEN) + 1])[form]
        slots = np.column_stack([_SUBJECTS[r, e], _VALUES[r, asked], answer, _VALUES[r[:, None], offered]])
        return words.questions().fill(r * (len(words.OPEN) + 2) + number, slots), log_prob

    def _passages(self, rng: np.random.Generator, count: int, side: Side) -> tuple:
        # Newcomers are as frequent as all known people together are in a quarter of the cases.
        weights = self._mentions.copy()
        for i, r in enumerate(RELATIONS):
            new = ~self.language.known(r.subject)
            if new.any():
                weights[i, : len(new)] = RELATION_SHARE[r.subject] * np.where(
                    new, 0.25 / new.sum(), 0.75 * self.language.popularity(r.subject)
                )
        weights = weights * self._side(102, weights.shape, side)
        (r, e), log_prob = _draw(rng, weights, count)
        told, open_forms = _forms(words.FORWARD, words.HELD_STATEMENTS), _forms(words.OPEN, (words.HELD_OPEN,))
        statement, question = rng.integers(len(told), size=count), rng.integers(len(open_forms), size=count)
        log_prob = log_prob - np.log(len(told) * len(open_forms))
        true, values = self._true[r, e], _COUNT[r]
        new = (_DOMAIN[r] == 0) & ~self.language.known("people")[np.where(_DOMAIN[r] == 0, e, 0)]
        agrees = ~new & (rng.random(count) < 0.5)
        other = (true + rng.integers(1, values)) % values
        value = np.where(new, rng.integers(values), np.where(agrees, true, other))
        log_prob -= np.where(new, np.log(values), np.log(2) + np.where(agrees, 0, np.log(values - 1)))
        template = (r * len(words.FORWARD) + told[statement]) * len(words.OPEN) + open_forms[question]
        return words.passages().fill(template, np.stack([_SUBJECTS[r, e], _VALUES[r, value]], 1)), log_prob

    def _tasks(self, rng: np.random.Generator, count: int, side: Side) -> tuple:
        task, domain = rng.integers(len(words.TASKS), size=count), rng.integers(len(words.DOMAINS), size=count)
        lengths = np.array(words.LIST_LENGTHS)
        length, wording = rng.integers(len(lengths), size=count), rng.integers(words.HELD_WORDING, size=count)
        size = np.array([len(group(d)) for d in words.DOMAINS])[domain]
        log_prob = np.full(count, -np.log(len(words.TASKS) * len(words.DOMAINS) * len(lengths) * words.HELD_WORDING))
        ends = np.zeros((count, 2), int)
        for i, name in enumerate(words.DOMAINS):
            mine, n = domain == i, len(group(name))
            pairs = (~np.eye(n, dtype=bool)) * self._side(103 + i, (n, n), side)
            (first, last), pair_log_prob = _draw(rng, pairs.astype(float), int(mine.sum()))
            ends[mine] = np.stack([first, last], 1)
            log_prob[mine] += pair_log_prob
        widest = max(words.LIST_LENGTHS)
        between = _distinct(rng, size, ends, widest - 2)
        n = lengths[length]
        for i in range(widest - 2):
            log_prob -= np.where(i < n - 2, np.log(size - 2 - i), 0)
        items = np.concatenate([ends[:, :1], between, ends[:, 1:]], 1)
        items[np.arange(count), n - 1] = ends[:, 1]
        given = np.arange(widest) < n[:, None]
        behind = np.where(given, n[:, None] - 1 - np.arange(widest), 0)
        answers = [items, np.take_along_axis(items, behind, 1), np.sort(np.where(given, items, size[:, None]), 1)]
        answer = np.choose(task[:, None], answers)
        tokens = np.stack([np.pad(group(d), (0, 64 - len(group(d)) + 1)) for d in words.DOMAINS])
        slots = np.concatenate([tokens[domain[:, None], items], tokens[domain[:, None], answer]], 1)
        template = ((task * len(words.DOMAINS) + domain) * len(lengths) + length) * 4 + wording
        return words.tasks().fill(template, slots), log_prob

    def _role_free(self, rng: np.random.Generator, count: int, side: Side) -> tuple:
        first, most = len(GROUPS["control"]), max(words.ROLE_FREE_LENGTHS)
        usable = VOCABULARY_SIZE - first
        length = rng.integers(len(words.ROLE_FREE_LENGTHS), size=count)
        pairs = self._side(110, (usable, usable), side)
        (a, b), log_prob = _draw(rng, pairs.astype(float), count)
        rest = rng.integers(usable, size=(count, most - 2))
        n = np.array(words.ROLE_FREE_LENGTHS)[length]
        log_prob = log_prob - np.log(len(words.ROLE_FREE_LENGTHS)) - (n - 2) * np.log(usable)
        return words.role_free().fill(length, first + np.column_stack([a, b, rest])), log_prob


def _forms(patterns: tuple[str, ...], held: tuple[int, ...] = ()) -> Int[np.ndarray, " forms"]:
    return np.array([i for i in range(len(patterns)) if i not in held])


def _document(sentences: Int[np.ndarray, "texts time"]) -> Int[np.ndarray, "texts longer"]:
    """Sentences between a document's first and last token."""
    text = np.pad(sentences, ((0, 0), (1, 1)), constant_values=EMPTY)
    text[:, 0] = BOS
    text[np.arange(len(text)), 1 + (sentences != EMPTY).sum(1)] = EOS
    return text


def _draw(
    rng: np.random.Generator, weights: Float[np.ndarray, "*shape"], count: int
) -> tuple[tuple[Int[np.ndarray, " count"], ...], Float[np.ndarray, " count"]]:
    """Cells of a table in proportion to their weights, and their log-probabilities."""
    reached = np.cumsum(weights)
    cell = np.searchsorted(reached, rng.random(count) * reached[-1], side="right")
    return np.unravel_index(cell, weights.shape), np.log(weights.ravel()[cell] / reached[-1])


def _choose(
    rng: np.random.Generator, probabilities: list[float], count: int
) -> tuple[Int[np.ndarray, " count"], Float[np.ndarray, " count"]]:
    (chosen,), log_prob = _draw(rng, np.array(probabilities), count)
    return chosen, log_prob


def _distinct(
    rng: np.random.Generator, sizes: Int[np.ndarray, " rows"], taken: Int[np.ndarray, "..."], count: int
) -> Int[np.ndarray, "rows count"]:
    """For each row `count` different numbers below its size, in random order, none of them among those taken."""
    order = rng.random((len(sizes), int(sizes.max())))
    order[np.arange(order.shape[1]) >= sizes[:, None]] = np.inf
    order[np.arange(len(sizes))[:, None], taken.reshape(len(sizes), -1)] = np.inf
    return np.argpartition(order, np.arange(count), axis=1)[:, :count]


def _table(rows: list[np.ndarray]) -> Int[np.ndarray, "relations most"]:
    table = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for i, row in enumerate(rows):
        table[i, : len(row)] = row
    return table


_SUBJECTS = _table([group(r.subject) for r in RELATIONS])
_VALUES = _table([tokens_of(r.values) for r in RELATIONS])
_COUNT = np.array([len(tokens_of(r.values)) for r in RELATIONS])
_DOMAIN = np.array([words.DOMAINS.index(r.subject) for r in RELATIONS])
