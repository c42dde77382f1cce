"""The catalogue: 207 papers, what each asks, and its claims as registered before any run.

Reading it imports neither jax nor any study, so that the command line answers at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import importlib.metadata
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unseen.lab.claims import ClaimText
from unseen.lab.errors import UserError
from unseen.lab.locate import only_study
from unseen.lab.study import Study
from unseen.lab.version import source_version

PAPERS = Path(__file__).with_name("papers")
STUDIES = Path(__file__).parents[1] / "studies"
# Import names that differ from the names of their distributions by more than a hyphen.
_DISTRIBUTIONS = {"sklearn": "scikit-learn"}


@dataclasses.dataclass(frozen=True)
class Paper:
    """One entry of the catalogue.

    Attributes:
        key: its name on the command line.
        kind: what sort of contribution it is: phenomenon, theory, method, benchmark ...
        question, summary: what it asks and what it found, in our words.
        world, axis: which worlds host it, and what is varied between training and testing.
        components: what it adds to the public API.
        real: which real data, model or simulator must be used.
        laptop, figure: the experiment at laptop scale and its picture, as planned.
        peer: an implementation to compare with, if there is one.
        headline: the finding in numbers, if the entry states one.
        claims: its claims with their statistics and decision rules.
        amended: what was corrected in the entry, and why.
    """

    key: str
    family: str
    title: str
    authors: str
    year: int
    arxiv: str
    kind: str
    question: str
    summary: str
    world: str
    axis: str
    components: tuple[str, ...]
    real: str
    laptop: str
    figure: str
    peer: str
    headline: str
    claims: tuple[ClaimText, ...]
    amended: str = ""

    @property
    def study_file(self) -> Path:
        """Where its study is, or will be."""
        return STUDIES / self.family / f"{self.key.replace('-', '_')}.py"

    @property
    def is_implemented(self) -> bool:
        """Whether its study exists."""
        return self.study_file.is_file()


# Reading ---------------------------------------------------------------------------------------------------


def papers() -> dict[str, Paper]:
    """All papers by key, family by family in the order of the catalogue.

    Raises:
        UserError: if a file of the catalogue does not parse or lacks a field; it names file and line.
    """
    return _read(PAPERS)


def paper(key: str) -> Paper:
    """One paper by its key; underscores pass for hyphens.

    Raises:
        UserError: if the catalogue has no such key; it names the nearest one.
    """
    known = papers()
    found = known.get(key) or known.get(key.replace("_", "-"))
    if found is None:
        close = difflib.get_close_matches(key.lower().replace("_", "-"), list(known), n=1)
        hint = f"did you mean {close[0]!r}?" if close else "`unseen list` shows what it has."
        raise UserError(f"The catalogue has no paper {key!r}; {hint}")
    return found


def families() -> dict[str, str]:
    """The ten families, each with its introduction."""
    return {family: str(_parsed(PAPERS / f"{family}.toml").get("intro", "")) for family in _families(PAPERS)}


def implemented(key: str) -> bool:
    """Whether the paper's study exists (nothing is imported)."""
    return paper(key).is_implemented


def study_version(key: str) -> str:
    """The version of the paper's study as it is now: see `unseen.lab.version.source_version`.

    Raises:
        UserError: if the paper has no study yet.
    """
    return source_version(_implemented(key).study_file)


@functools.lru_cache(maxsize=4)
def _read(folder: Path) -> dict[str, Paper]:
    found: dict[str, Paper] = {}
    for family in _families(folder):
        file = folder / f"{family}.toml"
        for entry in _parsed(file).get("paper", []):
            new = _paper(entry, family, file)
            if new.key in found:
                raise UserError(f"{file}, line {_line(file, new.key, last=True)}: the key {new.key!r} is taken.")
            found[new.key] = new
    return found


def _families(folder: Path) -> list[str]:
    return sorted(file.stem for file in folder.glob("*.toml"))


@functools.lru_cache(maxsize=32)
def _parsed(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        at = re.search(r"\(at line (\d+), column \d+\)", str(error))
        what = str(error).replace(at.group(), "").strip() if at else str(error)
        where = f"line {at.group(1)}" if at else "last line"
        raise UserError(f"{file}, {where}: this is no TOML ({what}).") from None


def _paper(entry: Mapping[str, Any], family: str, file: Path) -> Paper:
    key = str(entry.get("key", ""))
    claims = tuple(_fill(ClaimText, claim, file, key) for claim in entry.get("claim", []))
    if len({claim.id for claim in claims}) != len(claims):
        raise UserError(f"{file}, line {_line(file, key)}: two claims of {key!r} have one id.")
    components = tuple(entry.get("components", ()))
    return _fill(Paper, {**entry, "family": family, "claims": claims, "components": components}, file, key)


def _fill(kind: type[Any], entry: Mapping[str, Any], file: Path, key: str) -> Any:
    """A dataclass from a table of the same names."""
    fields = dataclasses.fields(kind)
    for field in fields:
        needed = field.default is dataclasses.MISSING
        if needed and field.name not in entry:
            raise UserError(f"{file}, line {_line(file, key)}: the entry {key!r} has no {field.name!r}.")
    return kind(**{field.name: entry[field.name] for field in fields if field.name in entry})


def _line(file: Path, key: str, last: bool = False) -> int:
    lines = [i for i, text in enumerate(file.read_text().splitlines(), 1) if text.strip() == f'key = "{key}"']
    return lines[-1 if last else 0] if lines else 1


# Studies ---------------------------------------------------------------------------------------------------


def load_study(key: str) -> type[Study]:
    """The study of a paper; this imports it, and with it jax.

    Raises:
        UserError: if the catalogue has no such key, it has no study yet, or a package is missing.
    """
    from unseen.lab.engine import set_up

    entry = _implemented(key)
    name = f"unseen.studies.{entry.family}.{entry.study_file.stem}"
    set_up()  # some packages start JAX when they are imported; devices are counted then
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise missing_package(error, entry.key) from error
    return only_study(module, str(entry.study_file))


def registered(study: type[Study]) -> dict[str, ClaimText]:
    """The claims that a study judges, by id: as the catalogue or its own `@claim(says=...)` states them.

    Raises:
        UserError: if a claim has a sentence in neither.
    """
    known = papers().get(study.key)
    texts = {claim.id: claim for claim in known.claims} if known else {}
    for id, method in study.claims.items():
        own: ClaimText = getattr(study, method).claim_text
        if own.says:
            texts[id] = own
        elif id not in texts:
            raise UserError(
                f"The claim {id!r} of {study.__name__} has no sentence: write @claim({id!r}, says=..., "
                "statistic=..., supported_if=..., refuted_if=...)."
            )
    return {id: texts[id] for id in study.claims}


def missing_package(error: ModuleNotFoundError, who: str) -> Exception:
    """The error for a package that is not installed: a sentence that names the extra which brings it.

    A missing module of unseen itself is a defect, not a user's mistake: that error comes back unchanged.
    """
    module = (error.name or "").partition(".")[0]
    if module in ("", "unseen"):
        return error
    name = _DISTRIBUTIONS.get(module, module.replace("_", "-"))
    extra = extra_of(name)
    package = f"'unseen[{extra}]'" if extra else name
    return UserError(f"{who} needs {name}: pip install {package}")


def extra_of(distribution: str) -> str | None:
    """Which extra of unseen brings a package, None if none does."""
    found = []
    for requirement in importlib.metadata.requires("unseen") or []:
        wanted = re.match(r"[A-Za-z0-9._-]+", requirement)
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", requirement)
        if wanted and extra and _plain(wanted.group()) == _plain(distribution):
            found.append(extra.group(1))
    return min(found, key=lambda extra: (extra in ("test", "docs", "bench"), extra), default=None)


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _implemented(key: str) -> Paper:
    entry = paper(key)
    if not entry.is_implemented:
        raise UserError(f"{entry.key} is in the catalogue but has no study yet; `unseen show {entry.key}` tells more.")
    return entry
