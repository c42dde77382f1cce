"""Games between players: repeated two-by-two games, played by strategies and in words."""

from unseen.worlds.games.repeated import (
    BATTLE_OF_THE_SEXES,
    FAMILIES,
    PRISONERS_DILEMMA,
    Framing,
    View,
    converse,
    family,
    ordinal_games,
    parse,
    play,
    scripted_players,
)

__all__ = [
    "BATTLE_OF_THE_SEXES",
    "FAMILIES",
    "PRISONERS_DILEMMA",
    "Framing",
    "View",
    "converse",
    "family",
    "ordinal_games",
    "parse",
    "play",
    "scripted_players",
]
