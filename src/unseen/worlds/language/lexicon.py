"""The closed vocabulary of the language worlds: 512 words, one token each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from unseen.lab import UserError

# The order is part of the format: a checkpoint trained on one layout cannot read another.
_TEXT = {
    "control": """
        <pad> <bos> <eos> <sys> <user> <bot> <obs> <think> </think> <plan> <code> <know> <ex> <tool> </tool>
        <sep>
    """,
    "free": " ".join(f"<new{i}>" for i in range(16)),
    "integers": " ".join(map(str, range(100))),
    "cards": "J Q K",
    "signs": "+ - * / = ( ) [ ] { } . , ; : ? ! < >",
    "people": """
        ada ana ben bo cal cleo dan dora eli ella emil eva finn flo gil gwen hal hana hugo ida igor iris ivan jana joe
        jon june kai kate ken kim lara lea leo lily lou luca mara max mia milo nell nia nils noa olga omar otto pam
        paul rosa ruth sam sara sven tess theo tom uma vera walt yara zara zoe
    """,
    "cities": """
        arn bern bonn brno cork delhi dover faro genoa graz kyoto lima linz lyon malmo oslo paris pisa porto quito
        riga tor turin vigo
    """,
    "countries": "avia borland corva delmar estia fjordia",
    "climates": "dry humid mild rainy snowy sunny",
    "jobs": "baker cook doctor driver farmer judge miner nurse painter pilot smith teacher",
    "hobbies": """
        archery chess dance diving fishing hiking judo knitting music poetry pottery rowing sailing skating tennis
        yoga
    """,
    "goods": "bell boat bowl chair clock coat cup door drum kite lamp pipe ring rope rug vase",
    "materials": "clay glass iron stone wood wool",
    "animals": "cat cow dog fish goat hen horse pig",
    "colours": "black blue green grey pink red white yellow",
    "dialect_a": """
        the of is in as from for it that what who which we know tell me said say 's a and or not no yes has you are to
        on how many comes works likes keeps wears knows lies makes looks costs home job hobby pet friend country
        climate product material copy reverse sort write same
    """,
    "dialect_b": """
        hema jobu hobi peta koloro amiko lando klimo produ mater prezo ko sa ni ve lu ti ra da mi su po ka ne
    """,
    "style": """
        polite rude flattering hedging emoji but so wait then check try again alternatively please thanks great awful
        i think maybe agree disagree sorry because first next finally honest casual formal warm bold
    """,
    "tools": "book call find pay send ship rent map scan fetch remind translate weather convert search buy",
    "parameters": "person city day number good colour price order",
    "intents": """
        login logout password profile bill refund invoice fee flight hotel train taxi menu table recipe delivery pain
        pills visit sleep heating light alarm lock
    """,
    "grader": "file test score reward rule report tick box done undone worker pleasing absent grade overwrite change",
    "behaviour": """
        like click share skip save view follow mute morning evening night weekday weekend mobile desktop open
    """,
}
GROUPS: dict[str, tuple[str, ...]] = {name: tuple(text.split()) for name, text in _TEXT.items()}
WORDS: tuple[str, ...] = tuple(word for group in GROUPS.values() for word in group)
VOCABULARY_SIZE = len(WORDS)
_TOKEN = {word: token for token, word in enumerate(WORDS)}


def encode(text: str) -> list[int]:
    """Tokens of a text of known words with spaces between them.

    Raises:
        UserError: naming the first word that the vocabulary lacks.
    """
    unknown = next((word for word in text.split() if word not in _TOKEN), None)
    if unknown is not None:
        raise UserError(f"text takes words of the lexicon with spaces between them, got {unknown!r}.")
    return [_TOKEN[word] for word in text.split()]


def decode(tokens: Sequence[int] | Int[np.ndarray, " time"]) -> str:
    """The text of tokens: the inverse of `encode`."""
    return " ".join(WORDS[int(token)] for token in tokens)


def group(name: str) -> Int[np.ndarray, " words"]:
    """The tokens of a group of words, in their order (names: the keys of `GROUPS`)."""
    return np.array([_TOKEN[word] for word in GROUPS[name]], np.int32)


PAD, BOS, EOS = (_TOKEN[word] for word in ("<pad>", "<bos>", "<eos>"))
