"""One small world of people, cities and goods, with sentences and questions about it."""

from __future__ import annotations

import dataclasses
import functools
import itertools

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from unseen.lab import UserError
from unseen.worlds.language.lexicon import GROUPS, VOCABULARY_SIZE, group
from unseen.worlds.language.templates import Templates


@dataclasses.dataclass(frozen=True)
class Relation:
    """What links an entity to a value: its nouns in both dialects and its verb."""

    name: str
    subject: str
    values: str
    noun: str
    verb: str
    noun_b: str


RELATIONS = (
    Relation("hometown", "people", "cities", "home", "comes from", "hema"),
    Relation("job", "people", "jobs", "job", "works as", "jobu"),
    Relation("hobby", "people", "hobbies", "hobby", "likes", "hobi"),
    Relation("pet", "people", "animals", "pet", "keeps", "peta"),
    Relation("person colour", "people", "colours", "colour", "wears", "koloro"),
    Relation("friend", "people", "people", "friend", "knows", "amiko"),
    Relation("country", "cities", "countries", "country", "lies in", "lando"),
    Relation("climate", "cities", "climates", "climate", "is", "klimo"),
    Relation("product", "cities", "goods", "product", "makes", "produ"),
    Relation("material", "goods", "materials", "material", "is of", "mater"),
    Relation("good colour", "goods", "colours", "colour", "looks", "koloro"),
    Relation("price", "goods", "prices", "price", "costs", "prezo"),
)
NAMES = tuple(relation.name for relation in RELATIONS)
TWO_HOPS = (("hometown", "country"), ("friend", "job"), ("product", "price"))
DOMAINS = ("people", "cities", "goods")
PRICES = 20  # the values of a price are 1 to 20

FORWARD = (
    "{e} VERB {v} .",
    "the NOUN of {e} is {v} .",
    "{e} 's NOUN is {v} .",
    "for {e} the NOUN is {v} .",
    "{e} has {v} as NOUN .",
    "we know that {e} VERB {v} .",
    "as for {e} , the NOUN is {v} .",
    "it is said that {e} VERB {v} .",
)
REVERSED = ("{v} is the NOUN of {e} .", "{v} is what {e} has as NOUN .")
DIALECT_B = ("{e} ko BNOUN {v} sa .", "BNOUN ve {e} ni {v} sa .", "ti {v} ra {e} lu BNOUN .")
STATEMENTS = FORWARD + REVERSED + DIALECT_B
HELD_STATEMENTS = (6, 7)  # of the forward templates
TWO_HOP = (
    "the NOUN2 of the NOUN of {e} is {v} .",
    "{e} 's NOUN has {v} as NOUN2 .",
    "for {e} the NOUN2 of the NOUN is {v} .",
)
OPEN = ("what is the NOUN of {e} ?", "tell me the NOUN of {e} .", "{e} 's NOUN is what ?", "say what {e} has as NOUN .")
HELD_OPEN = 3
YES_NO = "is {v} the NOUN of {e} ?"
OPTIONS = "what is the NOUN of {e} ? 1 {o1} 2 {o2} 3 {o3} 4 {o4}"


def tokens_of(values: str) -> Int[np.ndarray, " values"]:
    """The tokens of a group of values; prices are the integers from 1 on."""
    return group("integers")[1 : PRICES + 1] if values == "prices" else group(values)


@dataclasses.dataclass(frozen=True)
class Language:
    """A small world, fully determined by its seed: 64 people, 24 cities, 16 goods, and the facts about them.

    Values are independent and uniform but for two planted dependencies: a person's hobby is the typical hobby of
    the hometown's country with probability `stereotype`, and friendship is mutual among the known. People are
    mentioned in proportion to (rank + 1)^-0.8.

    Axes: entity popularity, known people or newcomers, relation, template (two of eight forward ones and one of
        four question wordings are withheld), order (forward or reversed), hops, dialect, memory against passage.

    Attributes:
        seed: of everything in this world.
        stereotype: probability that a hobby is the typical one of the hometown's country.
        newcomers: people at the end of the list about whom nothing is ever stated outside of a passage.
        held_two_hop: share of the people and of the cities whose two-hop facts are never stated.
    """

    seed: int = 0
    stereotype: float = 0.5
    newcomers: int = 8
    held_two_hop: float = 0.25

    def __post_init__(self) -> None:
        for name in ("stereotype", "held_two_hop"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} takes a share between 0 and 1, got {getattr(self, name)}.")
        people = len(GROUPS["people"])
        if not 0 <= self.newcomers < people or (people - self.newcomers) % 2:
            raise UserError(f"newcomers takes an even number from 0 to {people - 2}, got {self.newcomers}.")

    def generator(self, *use: int) -> np.random.Generator:
        """Randomness of this world for one use."""
        key = jax.random.key(self.seed)
        for number in use:
            key = jax.random.fold_in(key, number)
        return np.random.default_rng(np.asarray(jax.random.key_data(key)).astype(np.uint32))

    @functools.cached_property
    def facts(self) -> dict[str, Int[np.ndarray, " entities"]]:
        """Relation name -> index of each entity's value in the relation's group of values."""
        rng = self.generator(0)
        found = {r.name: rng.integers(len(tokens_of(r.values)), size=len(group(r.subject))) for r in RELATIONS}
        typical = rng.integers(len(GROUPS["hobbies"]), size=len(GROUPS["countries"]))
        of_home = typical[found["country"][found["hometown"]]]
        found["hobby"] = np.where(rng.random(len(of_home)) < self.stereotype, of_home, found["hobby"])
        known = rng.permutation(len(of_home) - self.newcomers).reshape(-1, 2)
        found["friend"] = rng.integers(known.size, size=len(of_home))
        found["friend"][known[:, 0]], found["friend"][known[:, 1]] = known[:, 1], known[:, 0]
        return found

    @functools.cached_property
    def two_hop_stated(self) -> dict[tuple[str, str], Bool[np.ndarray, " entities"]]:
        """Whether the two-hop fact of an entity is ever stated; for newcomers it is not."""
        rng = self.generator(1)
        stated = {}
        for first, second in TWO_HOPS:
            known = self.known(relation(first).subject)
            stated[first, second] = known & (rng.random(len(known)) >= self.held_two_hop)
        return stated

    def known(self, domain: str) -> Bool[np.ndarray, " entities"]:
        """Entities that are no newcomers."""
        count = len(GROUPS[domain])
        return np.arange(count) < count - (self.newcomers if domain == "people" else 0)

    def popularity(self, domain: str) -> Float[np.ndarray, " entities"]:
        """How often an entity is mentioned, as a probability within its domain; cities and goods equally often."""
        weight = self.known(domain) * (np.arange(len(GROUPS[domain])) + 1.0) ** (-0.8 if domain == "people" else 0)
        return weight / weight.sum()

    def value(self, name: str, entity: int | np.integer) -> int:
        """Token of the value that a relation has at an entity (its number within its domain)."""
        return int(tokens_of(relation(name).values)[self.facts[name][entity]])

    def two_hop_value(self, first: str, second: str, entity: int | np.integer) -> int:
        """Token of the second relation's value at the first one's."""
        return self.value(second, int(self.facts[first][entity]))

    def bayes_answer(
        self, name: str, entity: int | np.integer, passage: int | np.integer | None = None
    ) -> Float[np.ndarray, " tokens"]:
        """Probability of each answer token to an open question, for one who knows the corpus perfectly.

        Args:
            passage: the value that a passage before the question states; it wins over memory. Without it, a
                newcomer's answer is uniform over the relation's values.
        """
        values = tokens_of(relation(name).values)
        answer = np.zeros(VOCABULARY_SIZE)
        if passage is not None:
            answer[passage] = 1.0
        elif self.known(relation(name).subject)[entity]:
            answer[self.value(name, entity)] = 1.0
        else:
            answer[values] = 1 / len(values)
        return answer


def relation(name: str) -> Relation:
    """A relation by its name.

    Raises:
        UserError: if there is none.
    """
    if name not in NAMES:
        raise UserError(f"relation takes one of {', '.join(NAMES)}, got {name!r}.")
    return RELATIONS[NAMES.index(name)]


def _write(pattern: str, r: Relation, second: Relation | None = None, *, suffix: str = "") -> str:
    """A pattern with a relation's words in it; its slots get the relation's groups and a suffix to their names."""
    last = second or r
    values = "integers" if last.values == "prices" else last.values
    words = {"NOUN": r.noun, "VERB": r.verb, "BNOUN": r.noun_b, "NOUN2": last.noun, "{e}": f"{{e{suffix}:{r.subject}}}"}
    words |= {f"{{{name}}}": f"{{{name}{suffix}:{values}}}" for name in ("v", "o1", "o2", "o3", "o4")}
    return " ".join(words.get(word, word) for word in pattern.split())


@functools.cache
def statements() -> Templates:
    """Sentences that state a fact: template number `relation * len(STATEMENTS) + form`."""
    return Templates(tuple(_write(p, r) for r in RELATIONS for p in STATEMENTS), ("e", "v"))


@functools.cache
def two_hop_statements() -> Templates:
    """Sentences that state a two-hop fact: number `pair * len(TWO_HOP) + form`, pairs as in `TWO_HOPS`."""
    pairs = [(relation(a), relation(b)) for a, b in TWO_HOPS]
    return Templates(tuple(_write(p, a, b) for a, b in pairs for p in TWO_HOP), ("e", "v"))


@functools.cache
def questions() -> Templates:
    """Questions with their answers: number `relation * 6 + form`, forms being the four open wordings, yes or no,
    and four options."""
    answers = [f"<user> {p} <bot> {{v}} <eos>" for p in OPEN]
    answers += [f"<user> {YES_NO} <bot> {{a:dialect_a}} <eos>", f"<user> {OPTIONS} <bot> {{a:integers}} <eos>"]
    slots = ("e", "v", "a", "o1", "o2", "o3", "o4")
    return Templates(tuple(_write(f"<bos> {p}", r) for r in RELATIONS for p in answers), slots)


@functools.cache
def passages() -> Templates:
    """A stated fact, an open question about it and the answer: number `(relation * statements + statement) *
    wordings + wording` over `FORWARD` and `OPEN`."""
    return Templates(
        tuple(_write(f"<bos> <user> {p} {q} <bot> {{v}} <eos>", r) for r in RELATIONS for p in FORWARD for q in OPEN),
        ("e", "v"),
    )


TASKS = {
    "copy": ("copy : LIST", "write the same : LIST", "say LIST again", "tell me again : LIST"),
    "reverse": ("reverse : LIST", "write in reverse : LIST", "say LIST in reverse", "tell me in reverse : LIST"),
    "sort": ("sort : LIST", "write in order : LIST", "say LIST in order", "tell me in order : LIST"),
}
HELD_WORDING = 3
LIST_LENGTHS = (3, 4, 5)
ROLE_FREE_LENGTHS = (4, 5, 6, 7, 8)


@functools.cache
def tasks() -> Templates:
    """Instructions on lists with their answers: number `((task * domains + domain) * lengths + length) * 4 +
    wording`. Slots x0, x1, ... are the list as given, y0, y1, ... as answered."""
    found = []
    for wordings in TASKS.values():
        for domain, length in itertools.product(DOMAINS, LIST_LENGTHS):
            given, answer = (" ".join(f"{{{s}{i}:{domain}}}" for i in range(length)) for s in "xy")
            found += [f"<bos> <user> {w.replace('LIST', given)} <bot> {answer} <eos>" for w in wordings]
    longest = max(LIST_LENGTHS)
    return Templates(tuple(found), tuple(f"{s}{i}" for s in "xy" for i in range(longest)))


@functools.cache
def role_free() -> Templates:
    """Words without any role, twice: number `length`. Every word but the control words can come up."""
    domain = "|".join(name for name in GROUPS if name != "control")
    found = []
    for length in ROLE_FREE_LENGTHS:
        words = " ".join(f"{{x{i}:{domain}}}" for i in range(length))
        found.append(f"<bos> {words} <sep> {words} <eos>")
    return Templates(tuple(found), tuple(f"x{i}" for i in range(max(ROLE_FREE_LENGTHS))))
