"""Text from outside: titles, abstracts and queries as they come, made harmless before anything else sees them."""

from __future__ import annotations

import hashlib
import html
import re
import unicodedata

LONGEST_QUERY = 1_000  # characters; what follows is cut off
LONGEST_TITLE = 500
LONGEST_TEXT = 20_000
MOST_TERMS = 32

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
# Words that say nothing about a paper. A query of nothing else keeps them.
_SAY_NOTHING = """
a about after all also an and any are as at be been between both but by can could did do does doing done during
each for from had has have having he her his how i if in into is it its just me more most my no nor not of on
one only or other our over own same she should so some such than that the their them then there these they this
those through to too under until up us very was we were what when where which while who whom why will with would
you your
"""
STOP_WORDS = frozenset(_SAY_NOTHING.split())


def clean(text: str, longest: int = LONGEST_TEXT, lines: bool = False) -> str:
    """Text without control characters, lone surrogates and directional overrides, white space folded, cut to length.

    What is left may still be markup, SQL or search syntax: those are text here, and whoever shows or looks it up
    quotes it. With `lines`, line breaks stay.
    """
    text = text[: 2 * longest]
    kept = []
    for character in text:
        kind = unicodedata.category(character)
        if character in "\n\r\t\v\f\x85\u2028\u2029":
            kept.append("\n" if lines and character in "\n\u2028\u2029" else " ")
        elif kind in ("Cc", "Cs", "Cn", "Co") or (kind == "Cf" and character not in "\u200c\u200d"):
            continue
        else:
            kept.append(character)
    folded = "".join(kept)
    if lines:
        return "\n".join(" ".join(line.split()) for line in folded.split("\n")).strip()[:longest]
    return " ".join(folded.split())[:longest].rstrip()


def words(text: str) -> list[str]:
    """The words of a text, in lower case, in order."""
    return [found.group().lower() for found in _WORD.finditer(unicodedata.normalize("NFC", text))]


def terms(query: str) -> list[str]:
    """What to look for: the words of a query that say something, each once; all of them if none does."""
    found = list(dict.fromkeys(words(query)))
    telling = [word for word in found if word not in STOP_WORDS]
    return (telling or found)[:MOST_TERMS]


def title_key(title: str) -> str:
    """What two spellings of one title have in common: its letters and digits, without accents, case and LaTeX."""
    text = re.sub(r"\\[a-zA-Z]+|[${}]", " ", html.unescape(title))
    text = unicodedata.normalize("NFKD", text)
    return "".join(c for c in text.lower() if c.isalnum())


def digest(*parts: str) -> str:
    """A short content address of texts."""
    return hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:24]


def edits(a: str, b: str, most: int) -> int:
    """Insertions, deletions, replacements and swaps of neighbours between two words; `most + 1` if there are more."""
    if abs(len(a) - len(b)) > most:
        return most + 1
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        older, before, row = before, row, [i]
        for j, y in enumerate(b, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                cost = min(cost, older[j - 2] + 1)
            row.append(cost)
        if min(row) > most:
            return most + 1
    return min(row[-1], most + 1)


def trigrams(word: str) -> list[str]:
    """The distinct triples of neighbouring letters of a word, its ends marked."""
    marked = f"\x02{word}\x03"
    return list(dict.fromkeys(marked[i : i + 3] for i in range(len(marked) - 2)))
