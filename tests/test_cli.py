"""The command line as a person uses it: quick, plain in a pipe, and the same as the Python API."""

import ast
import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unseen import cli
from unseen.atlas import catalogue, recorded
from unseen.atlas.worlds import worlds
from unseen.lab import Study

STUDY = '''
import jax
import jax.numpy as jnp

from unseen.lab import Learner, Study, claim, figures, judge
from unseen.lab.statistics import mean_interval


class Small(Study):
    """A small study (nobody, 2026).

    It measures little.
    """

    width: int = 4  # hidden units
    learning_rate: float = 0.1  # step size
    bias: bool = True
    cap: int | None = None  # most of something
    seeds: int = 3

    varies = dict(
        operation=("add", "mul"),  # what is learned
        weight_decay=(0.0, 1.0),
    )
    traced = ("weight_decay",)
    smoke = dict(width=2)
    watch = ("size",)

    def learner(self, operation, weight_decay):
        def advance(x):
            return x * (1 - 0.1 * weight_decay)

        return Learner(
            init=lambda key: 1 + jax.random.uniform(key, (self.width,)),
            advance=advance,
            measure=lambda x: {"size": jnp.mean(x)},
            steps=5,
        )

    @claim("shrinks", says="Decay shrinks.", statistic="size", supported_if="CI < 1.8", refuted_if="CI > 1.8")
    def shrinks(self, e):
        ci = mean_interval(e["size"].isel(step=-1).sel(weight_decay=1.0, operation="add"))
        return judge(ci, supported=ci.high < 1.8, refuted=ci.low > 1.8)

    def figure(self, e):
        figure, ax = figures.panels()
        figures.curve(ax, e["size"].sel(weight_decay=1.0, operation="add"))
        return figure
'''


@pytest.fixture
def here(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.py").write_text(STUDY)
    return tmp_path


def say(capsys, *argv: str) -> str:
    assert cli.main(argv) == 0
    said = capsys.readouterr()
    assert "\x1b" not in said.out  # a pipe gets no control codes
    return said.out


# Light -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("argv", [["--help"], ["list"], ["show", "grokking"], ["run", "--help"], ["worlds"]])
def test_loads_neither_jax_nor_xarray(argv: list[str]) -> None:
    code = (
        f"import sys, unseen.cli; assert unseen.cli.main({argv!r}) == 0; "
        "print([m for m in ('jax', 'xarray', 'scipy', 'matplotlib', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# Catalogue -------------------------------------------------------------------------------------------------


def test_help_names_every_command(capsys) -> None:
    assert all(f"  {name} " in say(capsys, "--help") for name in cli.COMMANDS)
    for name in cli.COMMANDS:
        text = say(capsys, name, "--help")
        assert f"usage: unseen {name}" in text
        assert all(f"--{option.name.replace('_', '-')}" in text for option in cli.COMMANDS[name].options)


def test_list_is_one_line_a_paper(capsys) -> None:
    lines = say(capsys, "list").splitlines()
    assert len(lines) == 208
    assert all(line.startswith(key + " ") for line, key in zip(lines[1:], catalogue.papers(), strict=True))
    assert len(say(capsys, "list", "--family", "dynamics").splitlines()) == 27
    listed = json.loads(say(capsys, "list", "--json"))
    assert [entry["key"] for entry in listed] == list(catalogue.papers())
    done = json.loads(say(capsys, "list", "--json", "--status=implemented"))
    todo = json.loads(say(capsys, "list", "--json", "--status", "open"))
    assert len(done) + len(todo) == 207
    assert [entry["key"] for entry in done] == [k for k, p in catalogue.papers().items() if p.is_implemented]


@pytest.fixture
def result(tmp_path: Path, monkeypatch) -> dict:
    """A recorded result of a version that is not today's."""
    claims = catalogue.paper("grokking").claims
    numbers = {"effect": 1.04, "low": 0.96, "high": "inf", "n": 8, "note": "mind the gap"}
    kinds = ["supported", "refuted", "supported", "inconclusive"]
    found = {
        "key": "grokking",
        "version": "0" * 12,
        "date": "2026-01-02",
        "settings": {"seeds": 8},
        "seconds": 170.2,
        "verdicts": [
            {"claim": c.id, "verdict": kind, "rule": c.rule, **numbers} for c, kind in zip(claims, kinds, strict=True)
        ],
    }
    monkeypatch.setattr(recorded, "RESULTS", tmp_path)
    (tmp_path / "dynamics").mkdir()
    (tmp_path / "dynamics" / "grokking.json").write_text(json.dumps(found))
    return found


@pytest.mark.skipif(not catalogue.implemented("grokking"), reason="needs a study")
def test_recorded_results_are_shown(capsys, result: dict) -> None:
    for status in ("recorded", "stale", "supported", "refuted", "inconclusive"):
        lines = say(capsys, "list", "--status", status).splitlines()
        assert len(lines) == 2 and lines[1].endswith("2 supported  1 refuted  1 inconclusive (stale)")
    text = say(capsys, "show", "grokking")
    assert "✔ supported: 1.04 [0.96, inf], n = 8. mind the gap" in text
    assert "✘ refuted: 1.04" in text and "stale: the study has changed" in text
    assert "unseen run grokking" in text
    whole = json.loads(say(capsys, "show", "grokking", "--json"))
    assert whole["recorded"]["verdicts"] == result["verdicts"] and whole["recorded"]["stale"]


@pytest.mark.parametrize("key", ["grokking", "repeated-games", "pi-zero"])
def test_show_says_every_claim_with_its_rule(capsys, key: str) -> None:
    text = " ".join(say(capsys, "show", key).split())
    entry = catalogue.paper(key)
    for claim in entry.claims:
        assert " ".join(claim.says.split()) in text
        assert " ".join(claim.rule.split()) in text and " ".join(claim.statistic.split()) in text
    shown = json.loads(say(capsys, "show", key, "--json"))
    assert [c["id"] for c in shown["claims"]] == [c.id for c in entry.claims]


# Worlds ----------------------------------------------------------------------------------------------------


def test_worlds_are_read_from_their_docstrings(tmp_path: Path) -> None:
    (tmp_path / "games").mkdir()
    (tmp_path / "games" / "__init__.py").write_text("from unseen.worlds.games.one import Game, Helper\n")
    (tmp_path / "games" / "one.py").write_text(
        'class Game:\n    """A game\n    of two.\n\n    Axes: the partner and\n    the `horizon`.\n\n'
        '    Attributes:\n        x: no axis.\n    """\n'
        'class Helper:\n    """No world: it has no axes."""\n'
        'class Hidden:\n    """Not exported.\n\n    Axes: none.\n    """\n'
    )
    assert worlds(tmp_path) == [
        {
            "name": "Game",
            "module": "unseen.worlds.games.one",
            "summary": "A game of two.",
            "axes": "the partner and the `horizon`.",
        }
    ]


def test_worlds_exist_where_they_are_said_to_be(capsys) -> None:
    import importlib

    listed = json.loads(say(capsys, "worlds", "--json"))
    assert listed and all(world["axes"] and world["summary"] for world in listed)
    for world in listed:
        assert isinstance(getattr(importlib.import_module(world["module"]), world["name"]), type)
        assert world["name"] in say(capsys, "worlds")


# Running ---------------------------------------------------------------------------------------------------


def test_the_help_of_a_study_shows_every_field(here: Path, capsys) -> None:
    text = say(capsys, "run", "small.py", "--help")
    lines = {line.split()[0]: " ".join(line.split()) for line in text.splitlines() if line.startswith("  --")}
    assert lines["--width"] == "--width whole number hidden units [4]"
    assert lines["--learning-rate"] == "--learning-rate number step size [0.1]"
    assert lines["--bias"] == "--bias true|false [true]"
    assert lines["--cap"] == "--cap whole number|none most of something [none]"
    assert lines["--operation"] == "--operation word,... what is learned [add,mul]"
    assert lines["--weight-decay"] == "--weight-decay number,... [0.0,1.0]"
    assert lines["--first-seed"].endswith("[100]")
    assert "--scale smoke: width 2" in text and "It measures little." in text


def test_a_run_prints_its_verdicts_and_leaves_its_files(here: Path, capsys) -> None:
    text = say(capsys, "run", "small.py", "--out", "done")
    assert "Decay shrinks." in text and "shrinks" in text and "n = 3" in text
    assert "done/report.html" in text and "done/figure.png" in text
    assert {file.name for file in (here / "done").iterdir()} == {
        "run.json",
        "evidence.nc",
        "verdicts.json",
        "figure.svg",
        "figure.png",
        "report.html",
    }
    # The same command returns the same run at once; --json says the same as the file.
    found = json.loads(say(capsys, "run", "small.py", "--out=done", "--json"))
    assert found["key"] == "small" and Path(found["directory"]).resolve() == here / "done"
    written = json.loads((here / "done" / "verdicts.json").read_text())
    assert [{k: v for k, v in verdict.items() if k != "says"} for verdict in found["verdicts"]] == written
    assert set(written[0]) == {"claim", "verdict", "effect", "low", "high", "n", "rule", "note"}
    page = say(capsys, "report", "done").strip()
    assert Path(page).resolve() == here / "done" / "report.html"


def test_an_estimate_says_what_a_run_would_take_and_leaves_nothing(here: Path, capsys) -> None:
    text = say(capsys, "run", "small.py", "--seeds", "4", "--estimate").splitlines()
    assert " ".join(text[0].split()) == "compiling a round rounds blocks in all memory condition"
    assert [line.split("  ")[-1] for line in text[1:3]] == ["operation=add", "operation=mul"]
    assert text[-1].startswith("about ")
    found = json.loads(say(capsys, "run", "small.py", "--estimate", "--json"))
    assert [group["rounds"] for group in found["groups"]] == [5, 5]
    assert found["seconds"] == pytest.approx(sum(group["seconds"] for group in found["groups"]))
    assert [file.name for file in here.iterdir()] == ["small.py"]


def test_options_reach_the_study(here: Path, capsys) -> None:
    argv = "run --scale smoke small.py --learning_rate=1e-2 --weight-decay 1,0.5 --operation add --bias false"
    found = json.loads(say(capsys, *argv.split(), "--cap", "1e3", "--seeds", "2", "--first-seed", "7", "--json"))
    assert found["settings"] == {
        "seeds": 2,
        "first_seed": 7,
        "width": 2,
        "learning_rate": 0.01,
        "bias": False,
        "cap": 1000,
        "operation": ["add"],
        "weight_decay": [1.0, 0.5],
    }
    assert found["scale"] == "smoke"
    assert Path(found["directory"]).parts[-3:-1] == ("runs", "small")


def test_the_command_line_is_the_python_api(here: Path, capsys) -> None:
    import unseen

    found = json.loads(say(capsys, "run", "small.py", "--seeds", "2", "--out", "one", "--json"))
    run = unseen.run("small.py", seeds=2, out="two", quiet=True)
    assert [v.to_json() for v in run.verdicts] == [
        {k: v for k, v in verdict.items() if k != "says"} for verdict in found["verdicts"]
    ]
    assert (here / "one" / "evidence.nc").exists() and (here / "two" / "evidence.nc").exists()


def test_negative_values_are_values() -> None:
    option = cli.Option("shift", "number,...", "")
    for tokens in (["--shift", "-1,-0.5"], ["--shift=-1,-0.5"]):
        found, words = cli._parse(tokens, [option], "run")
        assert (found, words) == ({"shift": "-1,-0.5"}, [])
    assert cli.convert("shift", "-1,-0.5", tuple[float, ...]) == (-1.0, -0.5)


@pytest.mark.parametrize("text", ["7", "+7", "7.0", "7e0", "1_000"])
def test_whole_numbers_may_be_written_as_people_do(text: str) -> None:
    assert cli.convert("n", text, int) == int(float(text))


def test_a_large_whole_number_is_not_rounded() -> None:
    assert cli.convert("n", "9007199254740993", int) == 9007199254740993


SLOW = """
import time

from unseen.lab import Learner, Study


class Slow(Study):
    seeds: int = 1

    def learner(self):
        def advance(x):
            time.sleep(0.05)
            return x + 1

        return Learner(
            init=lambda key: 0, advance=advance, measure=lambda x: {"count": x}, steps=40, host=True
        )
"""


def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(here: Path) -> None:
    (here / "slow.py").write_text(SLOW)
    command = [sys.executable, "-m", "unseen", "run", "slow.py", "--out", "slow"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (here / "slow" / "unfinished").exists():
        assert running.poll() is None, running.communicate()
        time.sleep(0.02)
    time.sleep(0.5)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=30)
    assert running.returncode == 130 and out == ""
    assert err.splitlines()[-1].startswith("unseen: ") and "goes on from here" in err
    assert "Traceback" not in err
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "slow/report.html" in done.stdout


def test_a_defect_keeps_its_traceback(here: Path) -> None:
    (here / "broken.py").write_text(STUDY.replace("return x * (1", "return undefined * (1"))
    done = subprocess.run([sys.executable, "-m", "unseen", "run", "broken.py"], capture_output=True, text=True)
    assert done.returncode == 1 and "NameError" in done.stderr and "Traceback" in done.stderr


def test_a_reader_that_stops_early_is_no_defect() -> None:
    done = subprocess.run(
        f"{sys.executable} -m unseen list --json | head -1", shell=True, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stderr == ""


def test_a_plain_terminal_without_our_marks(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "unseen", "show", "grokking"],
        capture_output=True,
        env={"PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 0 and b"Traceback" not in done.stderr


@pytest.mark.parametrize("key", [key for key, paper in catalogue.papers().items() if paper.is_implemented])
def test_no_field_of_a_study_hides_behind_an_option_of_run(key: str) -> None:
    tree = ast.parse(catalogue.paper(key).study_file.read_text())
    (study,) = (
        node for node in tree.body if isinstance(node, ast.ClassDef) and "Study" in map(ast.unparse, node.bases)
    )
    names = {field.name for field in dataclasses.fields(Study)}
    for node in ast.walk(study):
        if isinstance(node, ast.AnnAssign) and node in study.body:
            names.add(ast.unparse(node.target))
        elif isinstance(node, ast.Assign | ast.keyword) and isinstance(node.value, ast.Call):
            target = node.arg if isinstance(node, ast.keyword) else ast.unparse(node.targets[0])
            if target == "varies":
                names |= {keyword.arg for keyword in node.value.keywords if keyword.arg}
    assert not {option.name for option in cli.COMMANDS["run"].options} & names
