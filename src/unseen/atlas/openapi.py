"""The description of the JSON interface (OpenAPI 3.1), from which it is tested, too."""

from __future__ import annotations

from typing import Any

import unseen
from unseen.atlas import catalogue, search

_TEXT = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 0}


def document(base: str) -> dict[str, Any]:
    """What can be asked, with which parameters, and what comes back."""
    filters = [
        _query("family", "papers of one family", {"type": "string", "enum": list(catalogue.families())}),
        _query("kind", "papers of one kind", {"type": "string", "enum": sorted({e.kind for e in _entries()})}),
        _query("world", "papers that a package of worlds hosts", {"enum": sorted({e.world for e in _entries()})}),
        _query("axis", "words of the axis of variation", {"type": "string", "maxLength": 200}),
        _query("verdict", "papers with such a claim", {"type": "string", "enum": list(search.VERDICTS)}),
        _query(
            "year", "2021, 2020-2023, 2022- or -2019", {"type": "string", "pattern": r"^(\d{4}|\d{4}-(\d{4})?|-\d{4})$"}
        ),
        _query("origin", "of the catalogue or imported", {"type": "string", "enum": ["catalogue", "imported"]}),
    ]
    asked = [_query("q", "what to look for; 1,000 characters count", _TEXT), *filters]
    page = _query("page", "of twenty results", {"type": "integer", "minimum": 1, "maximum": 50})
    typing = _query("typing", "1: the last word may be the beginning of one", {"type": "string", "enum": ["0", "1"]})
    card = {
        "type": "object",
        "required": ["key", "title"],
        "properties": {"key": _TEXT, "title": _TEXT, "year": {"type": "integer"}, "verdicts": {"type": "object"}},
    }
    hit = {
        "type": "object",
        "required": ["key", "title", "score", "snippet", "marks"],
        "properties": {
            **card["properties"],
            "score": {"type": "number"},
            "snippet": _TEXT,
            "marks": {"type": "object"},
        },
    }
    found = {
        "query": _TEXT,
        "corrected": {"type": "object", "additionalProperties": _TEXT},
        "mode": {"type": "string", "enum": ["hybrid", "words", "meaning"]},
        "total": _COUNT,
        "page": _COUNT,
        "pages": _COUNT,
        "results": {"type": "array", "items": hit},
    }
    claim = {
        "type": "object",
        "required": ["id", "says", "statistic", "supported_if", "refuted_if", "verdict"],
        "properties": {"id": _TEXT, "says": _TEXT, "verdict": {"type": ["object", "null"]}},
    }
    paper = {
        "key": _TEXT,
        "title": _TEXT,
        "origin": _TEXT,
        "votes": _COUNT,
        "claims": {"type": "array", "items": claim},
    }
    cards = {"type": "array", "items": card}
    paths = {
        "/index.json": _get("The front page", [], {"trending": cards, "recorded": cards, "imported": cards}),
        "/search.json": _get("Search, best first", [*asked, page, typing], found, bad=True),
        "/papers/{key}.json": _get("A paper", [_key()], paper, missing=True),
        "/families.json": _get("The families", [], {"families": {"type": "array"}}),
        "/families/{key}.json": _get("A family", [_key()], {"papers": cards}, missing=True),
        "/worlds.json": _get("The packages of worlds", [], {"worlds": {"type": "array"}}),
        "/worlds/{key}.json": _get("A package of worlds", [_key()], {"papers": cards}, missing=True),
        "/reference/{key}.json": _get(
            "Something that the package exports, by its whole name",
            [_key()],
            {"name": _TEXT, "import": _TEXT, "signature": _TEXT, "documentation": _TEXT, "papers": cards},
            missing=True,
        ),
        "/verdicts.json": _get("All recorded verdicts", [], {"claims": {"type": "array"}, "tally": {"type": "object"}}),
        "/map.json": _get("The catalogue on a plane", [], {"points": cards}),
        "/health": _get("Whether it works", [], {"status": _TEXT, "documents": _COUNT}),
        "/search.atom": {
            "get": {
                "summary": "A search as an Atom feed, newest first",
                "parameters": asked,
                "responses": {
                    "200": {"description": "The feed", "content": {"application/atom+xml": {"schema": _TEXT}}},
                    "400": {"description": "A parameter takes no such value"},
                },
            }
        },
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "The atlas of unseen",
            "version": unseen.__version__,
            "description": "Papers on generalization with their registered claims and recorded verdicts.",
        },
        "servers": [{"url": base}],
        "paths": paths,
    }


def _entries() -> list[catalogue.Paper]:
    return list(catalogue.papers().values())


def _query(name: str, says: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": says, "required": False, "schema": {"type": "string", **schema}}


def _key() -> dict[str, Any]:
    return {"name": "key", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _get(
    says: str, parameters: list[Any], properties: dict[str, Any], bad: bool = False, missing: bool = False
) -> dict[str, Any]:
    error = {"type": "object", "required": ["error"], "properties": {"error": _TEXT}}
    schema = {"type": "object", "required": [n for n in properties if n != "claims"], "properties": properties}
    responses = {"200": {"description": "Found", "content": {"application/json": {"schema": schema}}}}
    refused = {"application/json": {"schema": error}}
    if bad:
        responses["400"] = {"description": "A parameter takes no such value", "content": refused}
    if missing:
        responses["404"] = {"description": "There is none", "content": refused}
    return {"get": {"summary": says, "parameters": parameters, "responses": responses}}
