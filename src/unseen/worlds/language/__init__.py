"""A small world in words: entities, facts, sentences and questions about them, and a corpus to learn them from."""

from unseen.worlds.language.corpus import Documents, LanguageCorpus, ShuffledWindows
from unseen.worlds.language.language import Language
from unseen.worlds.language.lexicon import VOCABULARY_SIZE, decode, encode
from unseen.worlds.language.templates import Templates

__all__ = [
    "VOCABULARY_SIZE",
    "Documents",
    "Language",
    "LanguageCorpus",
    "ShuffledWindows",
    "Templates",
    "decode",
    "encode",
]
