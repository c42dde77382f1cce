"""The command line: thin over the Python API, quick to answer, one clear sentence for every mistake."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import io
import json
import math
import os
import shutil
import sys
import textwrap
import tokenize
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unseen.lab.errors import RunInterrupted, UserError
from unseen.lab.table import MARKS

if TYPE_CHECKING:
    from unseen.atlas.catalogue import Paper
    from unseen.lab.run import Run
    from unseen.lab.study import Study


@dataclasses.dataclass(frozen=True)
class Option:
    """One `--option` of a command; `takes` is what its value is called in the help, empty for a flag."""

    name: str
    takes: str
    help: str
    default: str = ""


@dataclasses.dataclass(frozen=True)
class Command:
    """A command with its own options, and what it takes beside them."""

    call: Callable[[Command, list[str]], int]
    summary: str
    takes: str = ""
    options: tuple[Option, ...] = ()
    examples: tuple[tuple[str, str], ...] = ()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 0, 2 for a user's mistake, 130 after Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without our marks shows "?" for them
    try:
        return _dispatch(list(sys.argv[1:] if argv is None else argv))
    except UserError as error:
        _complain(str(error))
        return 2
    except RunInterrupted as stopped:
        _complain(str(stopped))
        return 130
    except KeyboardInterrupt:
        _complain("Stopped.")
        return 130
    except BrokenPipeError:  # the reader (`head`) has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _complain(text: str) -> None:
    print(f"unseen: {' '.join(text.split())}", file=sys.stderr)


def _dispatch(argv: list[str]) -> int:
    name = argv[0] if argv else "--help"
    if name in ("-h", "--help", "help"):
        _print_help()
        return 0
    if name == "--version":
        import unseen

        print(unseen.__version__)
        return 0
    if name not in COMMANDS:
        hint = _near(name, COMMANDS) or f"it has {', '.join(COMMANDS)}."
        raise UserError(f"unseen has no command {name!r}; {hint}")
    command, rest = COMMANDS[name], argv[1:]
    if name != "run" and {"-h", "--help"} & set(rest):
        _print_command_help(name, command)
        return 0
    return command.call(command, rest)


# Options ---------------------------------------------------------------------------------------------------


def _parse(tokens: Sequence[str], options: Iterable[Option], what: str) -> tuple[dict[str, str], list[str]]:
    """Option texts by name (hyphens as underscores), and the other words.

    Raises:
        UserError: on an unknown or repeated option, a missing value, or a value given to a flag.
    """
    known = {option.name: option for option in options}
    found: dict[str, str] = {}
    words: list[str] = []
    waiting = list(tokens)
    while waiting:
        token = waiting.pop(0)
        if not token.startswith("--") or token == "--":
            if token.startswith("-") and len(token) > 1 and not _is_number(token):
                raise UserError(f"{what} has no option {token}; options begin with two hyphens.")
            words.append(token)
            continue
        spelled, equals, value = token.partition("=")
        name = spelled[2:].replace("-", "_")
        if name not in known:
            hint = _near(name, known, "--") or f"`unseen {what} --help` shows its options."
            raise UserError(f"{what} has no option {spelled}; {hint}")
        if name in found:
            raise UserError(f"{spelled} is given twice.")
        if not known[name].takes:
            if equals:
                raise UserError(f"{spelled} takes no value, got {value!r}.")
            value = "true"
        elif not equals:
            if not waiting or waiting[0].startswith("--"):
                raise UserError(f"{spelled} takes a value ({known[name].takes}), got none.")
            value = waiting.pop(0)
        found[name] = value
    return found, words


def _is_number(text: str) -> bool:
    return text[1:2].isdigit() or text[1:2] == "."


def _near(name: str, known: Iterable[str], prefix: str = "") -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {prefix}{close[0].replace('_', '-') if prefix else close[0]}?" if close else ""


def convert(name: str, text: str, hint: Any) -> Any:
    """An option's text as a value of the type `hint`.

    Raises:
        UserError: naming the option, what it takes and what it got.
    """
    option = f"--{name.replace('_', '-')}"
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        parts = [part.strip() for part in text.split(",")]
        if "" in parts:
            raise UserError(f"{option} takes one value or more with commas between them, got {text!r}.")
        return tuple(convert(name, part, args[0]) for part in parts)
    if origin in (typing.Union, types.UnionType):
        if text.lower() == "none" and type(None) in args:
            return None
        return convert(name, text, next(a for a in args if a is not type(None)))
    if origin is typing.Literal:
        chosen = [value for value in args if str(value) == text]
        if not chosen:
            raise UserError(f"{option} takes one of {', '.join(map(str, args))}, got {text!r}.")
        return chosen[0]
    if hint is bool:
        if text.lower() not in ("true", "false"):
            raise UserError(f"{option} takes true or false, got {text!r}.")
        return text.lower() == "true"
    if hint in (int, float):
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise UserError(f"{option} takes a {_type_name(hint)}, got {text!r}.")
        if hint is float:
            return value
        if not value.is_integer():
            raise UserError(f"{option} takes a whole number, got {text!r}.")
        return int(text) if text.lstrip("+-").isdigit() else int(value)
    if hint is str:
        return text
    raise UserError(f"{option} cannot be set on the command line; use Python.")


def _type_name(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        return f"{_type_name(args[0])},..."
    if origin is typing.Literal:
        return "|".join(map(str, args))
    if origin in (typing.Union, types.UnionType):
        return "|".join("none" if a is type(None) else _type_name(a) for a in args)
    return {int: "whole number", float: "number", str: "word", bool: "true|false"}.get(hint, str(hint))


def study_options(study: type[Study]) -> tuple[Option, ...]:
    """Every setting and condition of a study as an option, with its default and the comment beside it."""
    hints = typing.get_type_hints(study)
    comments = field_comments(study)
    options = []
    for field in dataclasses.fields(study):
        default = ",".join(map(_said, field.default)) if isinstance(field.default, tuple) else _said(field.default)
        options.append(Option(field.name, _type_name(hints[field.name]), comments.get(field.name, ""), default))
    return tuple(options)


def _said(value: Any) -> str:
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def field_comments(study: type) -> dict[str, str]:
    """The trailing comments on a study's fields and on the conditions in its `varies`."""
    found: dict[str, str] = {}
    for cls in reversed(study.__mro__[:-1]):
        try:
            lines, _ = inspect.getsourcelines(cls)
        except (OSError, TypeError):
            continue
        source = textwrap.dedent("".join(lines))
        comments = {
            token.start[0]: token.string.lstrip("# ").strip()
            for token in tokenize.generate_tokens(iter(source.splitlines(keepends=True)).__next__)
            if token.type == tokenize.COMMENT
        }
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                name = node.target.id
            elif isinstance(node, ast.keyword) and node.arg:
                name = node.arg
            else:
                continue
            comment = comments.get(node.end_lineno or 0)
            if comment and (isinstance(node, ast.AnnAssign) or name not in found):
                found[name] = comment
    return found


# Commands --------------------------------------------------------------------------------------------------


def _run(command: Command, tokens: list[str]) -> int:
    target = _target(tokens, command.options)
    if target is None:
        if {"-h", "--help"} & set(tokens):
            _print_command_help("run", command)
            return 0
        raise UserError("run takes the key of a study or the path of a study file, got none.")
    from unseen.atlas import catalogue

    if not target.endswith(".py") and os.sep not in target:
        target = catalogue.paper(target).key
    from unseen.atlas import recorded, running

    study = running.load(target)
    fields = study_options(study)
    if {"-h", "--help"} & set(tokens):
        _print_study_help(study, target, command, fields)
        return 0
    taken = {option.name for option in command.options}
    options = (*command.options, *(field for field in fields if field.name not in taken))
    found, words = _parse(tokens, options, f"run {target}")
    if words[1:]:
        raise UserError(f"run takes one study, got {words[1]!r} beside {words[0]!r}.")
    hints = typing.get_type_hints(study)
    settings = {name: convert(name, text, hints[name]) for name, text in found.items() if name not in taken}
    scale = found.get("scale", "laptop")
    workers = convert("workers", found.get("workers", "1"), int)
    if workers < 1:
        raise UserError(f"--workers takes a whole number from 1 on, got {workers}.")
    on = found.get("on")
    if on is not None:
        _check_cluster(on)
    ready = study.at_scale(scale, **settings)
    if "record" in found:
        recorded.refuse(ready, scale)
    as_json = "json" in found
    if "estimate" in found:
        return _estimate(ready, target, as_json)
    try:
        run = running.run(
            ready,
            scale=scale,
            out=found.get("out"),
            workers=workers,
            on=on,
            fresh="fresh" in found,
            quiet=as_json or not sys.stdout.isatty(),
        )
    except ModuleNotFoundError as error:
        raise catalogue.missing_package(error, target) from error
    place = str(recorded.record(run)) if "record" in found else None
    if as_json:
        print(json.dumps(_run_json(run, place), indent=2))
    else:
        _show(run)
        if place:
            print(f"recorded {place}")
    return 0


def _estimate(study: Any, target: str, as_json: bool) -> int:
    """A line a group as soon as its first steps are done, then the sum."""
    from unseen.atlas import catalogue
    from unseen.lab.estimate import estimate

    groups, heads = [], ("compiling", "a round", "rounds", "blocks", "in all", "memory", "condition")
    if not as_json:
        print(_bold("".join(f"{head:11}" for head in heads[:-1]) + heads[-1]))
    try:
        for group in estimate(study):
            groups.append(group)
            if not as_json:
                cells = (
                    _duration(group.compiling),
                    _duration(group.round) if group.rounds else "",
                    str(group.rounds),
                    f"{group.blocks} of {group.members}",
                    _duration(group.seconds),
                    f"{group.bytes / 2**30:.1f} GiB" if group.bytes else "",
                )
                print("".join(f"{cell:11}" for cell in cells) + group.label, flush=True)
    except ModuleNotFoundError as error:
        raise catalogue.missing_package(error, target) from error
    except MemoryError as error:
        raise UserError(f"{error} Take a smaller size.") from error
    seconds = sum(group.seconds for group in groups)
    if as_json:
        found = [{**dataclasses.asdict(group), "seconds": group.seconds} for group in groups]
        print(json.dumps(_plain({"key": study.key, "seconds": seconds, "groups": found}), indent=2))
    else:
        print(f"about {_duration(seconds)} on one device of this machine; devices side by side share it")
    return 0


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min"), (1, "s")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.2f} s"


def _target(tokens: Sequence[str], options: Iterable[Option]) -> str | None:
    """The first word that is neither an option nor an option's value."""
    flags = {option.name for option in options if not option.takes}
    value_follows = False
    for token in tokens:
        if value_follows:
            value_follows = False
        elif token.startswith("--"):
            value_follows = "=" not in token and token[2:].replace("-", "_") not in {*flags, "help"}
        elif not token.startswith("-"):
            return token
    return None


def _check_cluster(on: str) -> None:
    kind, _, address = on.partition("=")
    if kind != "ray" or ("=" in on and not address):
        raise UserError(f"--on takes ray or ray=ADDRESS, got {on!r}.")
    import importlib.util

    if importlib.util.find_spec("ray") is None:
        raise UserError("--on ray needs ray: pip install 'unseen[ray]'")


def _run_json(run: Run, place: str | None) -> dict[str, Any]:
    found = {
        "key": run.study.key,
        "scale": run.scale,
        "directory": run.directory,
        "seconds": run.seconds,
        "version": run.record.get("version"),
        "settings": run.study.settings(),
        "verdicts": [{**v.to_json(), "says": v.says} for v in run.verdicts],
    }
    return {**found, "recorded": place} if place else found


def _list(command: Command, tokens: list[str]) -> int:
    from unseen.atlas import catalogue, recorded

    found = _only_options(tokens, command, "list")
    family = found.get("family")
    if family is not None and family not in catalogue.families():
        known = catalogue.families()
        raise UserError(f"--family takes one of {', '.join(known)}, got {family!r}.")
    status = found.get("status")
    if status is not None and status not in STATUSES:
        raise UserError(f"--status takes one of {', '.join(STATUSES)}, got {status!r}.")
    rows = []
    for entry in catalogue.papers().values():
        if family not in (None, entry.family):
            continue
        result = recorded.recorded(entry.key) if entry.is_implemented else None
        counts = result.counts if result else {}
        stale = result.stale if result else ""
        states = {
            "open" if not entry.is_implemented else "implemented",
            *(["recorded"] if result else []),
            *(["stale"] if stale else []),
            *counts,
        }
        if status is None or status in states:
            rows.append((entry, counts, stale, "implemented" in states))
    if "json" in found:
        keys = ("key", "year", "title", "family")
        listed = [
            {
                **{key: getattr(entry, key) for key in keys},
                "implemented": implemented,
                "recorded": counts,
                "stale": bool(stale),
            }
            for entry, counts, stale, implemented in rows
        ]
        print(json.dumps(listed, indent=2))
        return 0
    table = []
    for entry, counts, stale, implemented in rows:
        state = "  ".join(f"{n} {name}" for name, n in counts.items()) or ("not recorded" if implemented else "open")
        table.append((entry.key, str(entry.year), entry.title, entry.family, state + (" (stale)" if stale else "")))
    _print_table(("key", "year", "title", "family", "state"), table, flexible=2)
    if sys.stdout.isatty():
        done = sum(implemented for _, _, _, implemented in rows)
        print(f"{len(rows)} papers, {done} implemented; `unseen show KEY` tells more.")
    return 0


def _show_paper(command: Command, tokens: list[str]) -> int:
    from unseen.atlas import catalogue, recorded

    found, words = _parse(tokens, command.options, "show")
    entry = catalogue.paper(_one_word(words, "show takes the key of one paper"))
    result = recorded.recorded(entry.key)
    if "json" in found:
        print(json.dumps(_paper_json(entry, result), indent=2))
        return 0
    width = min(shutil.get_terminal_size((100, 24)).columns, 110)

    def say(text: str, indent: int = 0) -> None:
        print(_fill(text, width, " " * indent, " " * indent))

    say(_bold(entry.title))
    print(f"{entry.authors}, {entry.year}" + (f", arXiv:{entry.arxiv}" if entry.arxiv else ""))
    print()
    say(entry.question)
    print()
    say(entry.summary)
    print()
    print(f"family   {entry.family} ({entry.kind})\nworld    {entry.world}")
    for name, text in (("axis", entry.axis), ("adds", ", ".join(entry.components)), ("real", entry.real)):
        print(_fill(text, width, f"{name:9}", " " * 9))
    if entry.amended:
        print(_fill(entry.amended, width, "amended  ", " " * 9))
    verdicts = {v.claim: v for v in result.verdicts} if result else {}
    print(f"\n{_bold('Claims')}")
    for claim in entry.claims:
        print(f"\n{_bold(claim.id)}")
        say(claim.says, 2)
        say(f"statistic  {claim.statistic}", 2)
        say(f"rule       {claim.rule}", 2)
        if claim.amended:
            say(f"amended    {claim.amended}", 2)
        if claim.id in verdicts:
            v = verdicts[claim.id]
            say(
                f"recorded   {_verdict_text(v.verdict)}: {_measured(v)}" + (f". {v.note}" if v.note else ""),
                2,
            )
    print()
    if result:
        print(
            f"recorded on {result.date} with version {result.version}, {result.seconds:.0f} s"
            + _stale_text(result.stale)
        )
        print(f"figure      {result.figure}")
    if entry.is_implemented:
        print(f"run it      unseen run {entry.key}")
    else:
        print("It has no study yet.")
    return 0


def _paper_json(entry: Paper, result: Any) -> dict[str, Any]:
    found = {**dataclasses.asdict(entry), "implemented": entry.is_implemented, "recorded": None}
    if result:
        found["recorded"] = {**result.record, "stale": result.stale, "figure": str(result.figure)}
    return found


def _report(command: Command, tokens: list[str]) -> int:
    found, words = _parse(tokens, command.options, "report")
    target = _one_word(words, "report takes the key of a study or the directory of a run")
    from unseen.atlas import catalogue
    from unseen.lab.report import latest, rebuild

    known = catalogue.papers()
    directory = latest(target) if target in known else target
    page = rebuild(directory, {key: dataclasses.asdict(entry) for key, entry in known.items()})
    print(page)
    if "open" in found:
        import webbrowser

        webbrowser.open(page if "://" in page else Path(page).resolve().as_uri())
    return 0


def _worlds(command: Command, tokens: list[str]) -> int:
    found = _only_options(tokens, command, "worlds")
    if "pictures" in found:
        return _pictures(Path(found["pictures"]))
    from unseen.atlas.worlds import worlds

    listed = worlds()
    if "json" in found:
        print(json.dumps(listed, indent=2))
        return 0
    width = min(shutil.get_terminal_size((100, 24)).columns, 110)
    for world in listed:
        print(f"{_bold(world['name'])}  from {world['module']}")
        print(_fill(world["summary"], width, "  ", "  "))
        print(_fill(f"axes: {world['axes']}", width, "  ", "    "))
    return 0


def _pictures(folder: Path) -> int:
    """A contact sheet of each world, as PNG."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--pictures takes a directory to write to, got {folder} ({error.strerror}).") from None
    try:
        from unseen.worlds.control.sheets import SHEETS, sheet
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "unseen":
            raise
        raise UserError(f"The pictures need {error.name}: pip install 'unseen[control]'") from None
    for name, rows in SHEETS.items():
        file = folder / f"{name}.png"
        sheet(rows()).savefig(file, dpi=80)
        print(file, flush=True)
    return 0


def _collapse(command: Command, tokens: list[str]) -> int:
    found, words = _parse(tokens, command.options, "collapse")
    directory = _one_word(words, "collapse takes the directory of a checkpoint")
    from unseen.measures.checkpoint import checkpoint_report

    report = checkpoint_report(directory, found.get("text"))
    if "json" in found:
        print(json.dumps(_plain(report), indent=2))
        return 0
    print(f"{report.directory}: {report.kind}, {report.parameters:,} parameters\n")
    if report.text is not None:
        rows = [("held-out loss (nats a token)", report.text.loss), ("agreement", report.text.agreement)]
        rows += [(name.replace("_", " "), float(value)) for name, value in report.text.report._asdict().items()]
        said = [(name, f"{value:.4g}", AT_COLLAPSE.get(name, "")) for name, value in rows]
        _print_table((f"neural collapse, {report.text.tokens:,} tokens", "value", "at collapse"), said, flexible=0)
        print()
    laws = [(m.name, "x".join(map(str, m.shape)), f"{m.stable_rank:.4g}", _exponent(m.law)) for m in report.matrices]
    _print_table(("weight matrix", "shape", "stable rank", "spectral alpha"), laws, flexible=0)
    return 0


def _exponent(law: Any) -> str:
    return f"{law.alpha:.3g} (tail of {law.tail})" if law.alpha == law.alpha else "-"


def _plain(value: Any) -> Any:
    """A report as JSON knows it: named fields as objects, single-number arrays as numbers, NaN as null."""
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if hasattr(value, "_asdict"):
        return {name: _plain(item) for name, item in value._asdict().items()}
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str | int) or value is None:
        return value
    return float(value) if math.isfinite(float(value)) else None


# The atlas's database --------------------------------------------------------------------------------------


def _search(command: Command, tokens: list[str]) -> int:
    found, words = _parse(tokens, command.options, "search")
    limit = convert("limit", found.pop("limit", "10"), int)
    if not 1 <= limit <= 100:
        raise UserError(f"--limit takes a whole number from 1 to 100, got {limit}.")
    as_json = found.pop("json", None) is not None
    mode = convert("by", found.pop("by", "hybrid"), typing.Literal["hybrid", "words", "meaning"])
    if not words and not found:
        raise UserError("search takes words to look for, or a filter, got none.")
    store = _open_store()
    from unseen.atlas import search

    results = search.search(store, " ".join(words), found, limit=limit, mode=mode)
    if results.mode == "words" and mode != "words" and words:
        _complain(search.WITHOUT_MEANING)
    if as_json:
        print(json.dumps([hit.to_json() for hit in results.hits], indent=2))
        return 0
    width = min(shutil.get_terminal_size((100, 24)).columns, 110)
    for wrong, right in results.corrected.items():
        print(f"Searched for {_bold(right)}; nothing contains {wrong!r}.")
    for hit in results.hits:
        fields = hit.fields
        facts = [str(fields["year"] or ""), fields["family"] or fields["origin"], fields["kind"]]
        state = "  ".join(f"{n} {verdict}" for verdict, n in hit.verdicts.items())
        title = "".join(_styled(piece, "1;4" if matched else "1") for piece, matched in hit.title)
        print(f"\n{title}\n  {hit.key}  {', '.join(filter(None, facts))}" + (f"  {state}" if state else ""))
        print(_fill(search.plain(hit.snippet), width, "  ", "  "))
    if not results.hits:
        print("Nothing found; `unseen list` shows all papers.")
    return 0


def _open_store() -> Any:
    """The atlas's database with the catalogue in it."""
    # One core answers a query sooner than two that wait for each other; counts only before NumPy is loaded.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from unseen.atlas import index
    from unseen.atlas.store import Store

    store = Store()
    index.sync(store)
    return store


def _import(command: Command, tokens: list[str]) -> int:
    found, words = _parse(tokens, command.options, "import")
    name = _one_word(words, "import takes one file or source")
    from unseen.atlas import importing, index, sources

    source = sources.source(name)
    store = _open_store()
    as_json = "json" in found
    if as_json or not sys.stderr.isatty():
        counts = importing.bring_in(store, source)
        index.embed(store)
    else:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        parts = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*parts, console=Console(stderr=True), transient=True) as bar:
            reading = bar.add_task("reading", total=None)
            counts = importing.bring_in(store, source, lambda c: bar.update(reading, completed=c.read))
            bar.update(reading, total=max(counts.read, 1), completed=counts.read)
            embedding = bar.add_task("embedding", total=None)
            index.embed(store, tell=lambda done, total: bar.update(embedding, completed=done, total=total))
    for refused in counts.refused[:20]:
        _complain(f"refused {refused.where}: {refused.why}")
    if as_json:
        print(json.dumps(counts.to_json(), indent=2))
        return 0
    _say_nearest(store, counts.fresh)
    print(counts.line())
    return 0


def _serve(command: Command, tokens: list[str]) -> int:
    found = _only_options(tokens, command, "serve")
    port = convert("port", found.get("port", "8000"), int)
    if not 1 <= port <= 65535:
        raise UserError(f"--port takes a whole number from 1 to 65535, got {port}.")
    host = found.get("host", "127.0.0.1")
    from unseen.atlas import catalogue, index

    store = _open_store()
    index.embed(store)
    try:
        from unseen.atlas import shown, web
    except ModuleNotFoundError as error:
        raise catalogue.missing_package(error, "unseen serve") from error
    shown.field_map(store)  # laid out and kept before anybody asks
    docs = os.environ.get("UNSEEN_DOCS", "")
    site = web.Site(store, web.base_url(host, port), docs, "trust_proxy" in found, web.names(host))
    print(f"The atlas is at {site.base} (Ctrl-C ends it).", flush=True)
    web.serve(site, host, port)
    return 0


def _digest(command: Command, tokens: list[str]) -> int:
    found = _only_options(tokens, command, "digest")
    if ("dry_run" in found) == ("send" in found):
        raise UserError("digest takes one of --dry-run and --send.")
    import datetime

    day = found.get("day", datetime.datetime.now(datetime.UTC).date().isoformat())
    try:
        day = datetime.date.fromisoformat(day).isoformat()
    except ValueError:
        raise UserError(f"--day takes a day like 2026-11-23, got {day!r}.") from None
    store = _open_store()
    from unseen.atlas import digest

    base = os.environ.get("UNSEEN_URL", "").rstrip("/") or "http://127.0.0.1:8000"
    if "dry_run" in found:
        out = Path(found.get("out", "digests"))
        sender = os.environ.get("UNSEEN_SMTP_SENDER", "atlas@localhost")
        print(f"{digest.dry_run(store, base, sender, day, out)} digests in {out}, none sent")
        return 0
    done = digest.send_all(store, digest.Smtp.read(), base, day)
    for failed in done.failed[:20]:
        _complain(f"not sent to {failed}")
    print(done.line())
    return 1 if done.failed else 0


def _say_nearest(store: Any, keys: Sequence[str]) -> None:
    """What of the catalogue is nearest to new papers: entries and claims that could test them."""
    from unseen.atlas import search

    for key in keys[:10]:
        title = store.read("SELECT title FROM documents WHERE key = ?", key)[0]["title"]
        near = [paper for paper, _ in search.similar(store, key, 3)]
        claims = [f"{paper}/{claim}" for paper, claim, _ in search.nearest_claims(store, key, 2)]
        if near:
            print(f"{_bold(title)}\n  {key}  near {', '.join(near)}; claims {', '.join(claims)}")
    if len(keys) > 10:
        print(f"and {len(keys) - 10} more; `unseen search --origin imported` lists them.")


def _only_options(tokens: Sequence[str], command: Command, what: str) -> dict[str, str]:
    found, words = _parse(tokens, command.options, what)
    if words:
        raise UserError(f"{what} takes options only, got {words[0]!r}.")
    return found


def _one_word(words: Sequence[str], sentence: str) -> str:
    if len(words) != 1:
        raise UserError(f"{sentence}, got {' and '.join(map(repr, words)) or 'none'}.")
    return words[0]


# What is printed -------------------------------------------------------------------------------------------


def _show(run: Run) -> None:
    from rich.console import Console

    terminal = sys.stdout.isatty()
    Console(width=None if terminal else 120, force_terminal=terminal).print(run)


def _measured(v: Any) -> str:
    return f"{v.effect:.3g} [{v.low:.3g}, {v.high:.3g}], n = {v.n}" if v.effect == v.effect else "no value"


def _verdict_text(verdict: str) -> str:
    mark, color = MARKS[verdict]
    return _styled(f"{mark} {verdict}", {"green": "32", "red": "31", "yellow": "33"}[color])


def _stale_text(why: str) -> str:
    return f"; stale: {why}" if why else ""


def _fill(text: str, width: int, first: str = "", rest: str = "") -> str:
    wrapper = textwrap.TextWrapper(width, initial_indent=first, subsequent_indent=rest)
    wrapper.break_on_hyphens = wrapper.break_long_words = False
    return wrapper.fill(text)


def _bold(text: str) -> str:
    return _styled(text, "1")


def _styled(text: str, code: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else text


def _print_table(heads: Sequence[str], rows: Sequence[Sequence[str]], flexible: int) -> None:
    """Aligned columns, one line a row; in a terminal the flexible column is cut to fit."""
    widths = [max([len(head), *(len(row[i]) for row in rows)]) for i, head in enumerate(heads)]
    if sys.stdout.isatty():
        room = shutil.get_terminal_size().columns - sum(widths) - 2 * (len(heads) - 1)
        widths[flexible] = max(widths[flexible] + min(room, 0), 16)
    for row in (heads, *rows):
        cells = [cell if len(cell) <= w else cell[: w - 1] + "…" for cell, w in zip(row, widths, strict=True)]
        line = "  ".join(f"{cell:{w}}" for cell, w in zip(cells, widths, strict=True)).rstrip()
        print(_bold(line) if row is heads else line)


def _print_help() -> None:
    print("unseen: a laboratory for generalization. Every claim is a runnable experiment that can fail.\n")
    print("usage: unseen COMMAND ...\n")
    for name, command in COMMANDS.items():
        print(f"  {name:8} {command.summary}")
    print("\nStart with `unseen run grokking`. `unseen COMMAND --help` tells more.")


def _print_command_help(name: str, command: Command) -> None:
    print(" ".join(filter(None, ["usage: unseen", name, command.takes, "[OPTIONS]"])) + "\n")
    print(f"{command.summary}\n")
    _print_options(command.options)
    if name == "run":
        print("\nEvery setting and condition of a study is an option, too: `unseen run KEY --help` shows them.")
    if command.examples:
        print("\nexamples:")
        width = max(len(line) for line, _ in command.examples)
        for line, why in command.examples:
            print(f"  {line:{width}}  {why}")


def _print_study_help(study: type[Study], target: str, command: Command, fields: Sequence[Option]) -> None:
    conditions = study.conditions()
    print(f"usage: unseen run {target} [OPTIONS]\n")
    print(f"{inspect.getdoc(study) or ''}\n")
    print("conditions (a comma between values; all combinations run):")
    _print_options([option for option in fields if option.name in conditions])
    print("\nsettings:")
    _print_options([option for option in fields if option.name not in conditions])
    print("\nrunning:")
    _print_options(command.options)
    for scale in ("smoke", "paper"):
        changes = getattr(study, scale)
        if changes:
            said = ", ".join(f"{name} {value}" for name, value in changes.items())
            print(_fill(f"--scale {scale}: {said}", 100, rest="  "))


def _print_options(options: Iterable[Option]) -> None:
    for option in options:
        head = f"  --{option.name.replace('_', '-')}" + (f" {option.takes}" if option.takes else "")
        tail = option.help + (f" [{option.default}]" if option.default else "")
        if len(head) > 34:
            print(head)
            head = ""
        print(_fill(tail, 104, f"{head:36}", " " * 36) if tail else head)


STATUSES = ("implemented", "open", "recorded", "stale", "supported", "refuted", "inconclusive")
AT_COLLAPSE = {
    "agreement": "1",
    "alignment": "1",
    **dict.fromkeys(("variability", "damped variability", "norm variation", "simplex error"), "0"),
    **dict.fromkeys(("kernel variation", "alignment variation"), "0"),
}
_JSON = Option("json", "", "print JSON and nothing else")
COMMANDS: Mapping[str, Command] = {
    "run": Command(
        _run,
        "run a study: evidence, a verdict on each claim, a report page",
        "KEY|FILE.py",
        (
            Option("scale", "smoke|laptop|paper", "sizes: seconds, minutes, or the paper's own", "laptop"),
            Option("out", "DIR", "the run's directory, a path or an fsspec URL", "runs/KEY/ID"),
            Option("workers", "N", "processes; 1 runs in this one, with a JAX device a core", "1"),
            Option("on", "ray[=ADDRESS]", "send the work to a Ray cluster"),
            Option("fresh", "", "start again instead of resuming or returning what is there"),
            Option("estimate", "", "run the first steps of every group only, and say what the whole would take"),
            _JSON,
            Option(
                "record",
                "",
                "keep the verdicts as the paper's recorded result (laptop scale, registered seeds)",
            ),
        ),
        (
            ("unseen run grokking", "a few minutes on a laptop"),
            ("unseen run grokking --scale smoke", "seconds, to see that it works"),
            ("unseen run grokking --scale paper --estimate", "what would that take here?"),
            ("unseen run grokking --seeds 32 --first-seed 200", "more seeds, other ones"),
            ("unseen run grokking --weight-decay 0,0.3,1", "three values of one condition"),
            ("unseen run my_study.py --out /tmp/mine", "a study of your own"),
        ),
    ),
    "list": Command(
        _list,
        "list the papers of the catalogue with what is recorded of them",
        "",
        (
            Option("family", "FAMILY", "papers of one family only"),
            Option("status", "STATUS", f"one of {', '.join(STATUSES)}"),
            _JSON,
        ),
        (("unseen list --status refuted", "papers with a refuted claim"),),
    ),
    "show": Command(
        _show_paper,
        "show a paper: what it asks, its claims with their rules, the recorded verdicts",
        "KEY",
        (_JSON,),
        (("unseen show grokking", ""),),
    ),
    "report": Command(
        _report,
        "make the report page of a run again and print its path",
        "KEY|DIR",
        (Option("open", "", "open it in a browser"),),
        (("unseen report grokking --open", "the latest run below ./runs"),),
    ),
    "search": Command(
        _search,
        "find papers, of the catalogue and imported ones, by words and meaning",
        "QUERY",
        (
            Option("family", "FAMILY", "papers of one family"),
            Option("kind", "KIND", "method, theory, phenomenon, benchmark, measure, survey, dataset or model"),
            Option("world", "WORLD", "papers that one package of worlds hosts"),
            Option("axis", "WORDS", "papers whose axis of variation has these words"),
            Option("verdict", "VERDICT", "papers with a claim that is supported, refuted, inconclusive, or none"),
            Option("year", "YEARS", "2021, 2020-2023, 2022- or -2019"),
            Option("origin", "ORIGIN", "catalogue or imported"),
            Option("limit", "N", "number of results", "10"),
            Option("by", "hybrid|words|meaning", "both rankings, or one of them", "hybrid"),
            _JSON,
        ),
        (
            ('unseen search "reward models under shift"', ""),
            ("unseen search grokking --verdict supported --json", ""),
        ),
    ),
    "import": Command(
        _import,
        "bring papers in: a saved listing page, BibTeX, arXiv, Hugging Face's daily papers",
        "FILE|SOURCE",
        (_JSON,),
        (
            ("unseen import papers.bib", "or a saved listing page, as text or HTML"),
            ("unseen import arxiv:grokking", "or ids: arxiv:2201.02177,2210.01117"),
            ("unseen import hf:2026-11-01..2026-11-20", "daily papers; hf alone: today's"),
        ),
    ),
    "serve": Command(
        _serve,
        "serve the atlas as web pages, to this machine alone unless told otherwise",
        "",
        (
            Option("host", "HOST", "the address to listen on; 0.0.0.0 lets others in", "127.0.0.1"),
            Option("port", "PORT", "", "8000"),
            Option("trust_proxy", "", "behind a reverse proxy: readers' addresses from X-Forwarded-For"),
        ),
        (("unseen serve", "UNSEEN_URL says what readers call it, UNSEEN_DOCS where the documentation is"),),
    ),
    "digest": Command(
        _digest,
        "write or send the mails of a day to those who follow a search or a family",
        "",
        (
            Option("dry_run", "", "write them to a folder and send nothing"),
            Option("send", "", "send them, each subscriber's once a day however often this runs"),
            Option("day", "DAY", "the day they are for", "today"),
            Option("out", "DIR", "with --dry-run: the folder", "digests"),
        ),
        (("unseen digest --send", "UNSEEN_SMTP_HOST and others, or UNSEEN_HOME/smtp.json, name the mail server"),),
    ),
    "collapse": Command(
        _collapse,
        "measure a language model on disk: spectra of its weights, neural collapse on a text",
        "CHECKPOINT",
        (Option("text", "FILE", "text to measure neural collapse on, UTF-8; without it, spectra only"), _JSON),
        (("unseen collapse ./my-model --text notes.txt", "a Hugging Face directory; nothing is downloaded"),),
    ),
    "worlds": Command(
        _worlds,
        "list the worlds, each with its axes of variation",
        "",
        (_JSON, Option("pictures", "DIR", "draw a contact sheet of each control world, its axes dialled")),
        (("unseen worlds --pictures sheets", "a PNG a world, two minutes in all"),),
    ),
}
