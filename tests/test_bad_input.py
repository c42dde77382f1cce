"""Every kind of bad input gets one clear sentence on stderr and exit code 2, never a traceback."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from unseen import cli
from unseen.atlas import catalogue, recorded

STUDY = '''
from typing import Literal

import jax

from unseen.lab import Learner, Study, UserError, claim, judge
from unseen.lab.interval import Interval


class Small(Study):
    """A small study (nobody, 2026)."""

    width: int = 4  # hidden units
    learning_rate: float = 0.1  # step size
    bias: bool = True  # whether there is one
    model: Literal["linear", "mlp"] = "linear"  # which network
    cap: int | None = None  # most of something
    seeds: int = 2

    varies = dict(
        operation=("add", "mul"),  # what is learned
        fraction=(0.25, 0.5),
    )
    smoke = dict(width=2)

    def check(self):
        for operation in self.operation:
            if operation not in ("add", "mul", "xor"):
                raise UserError(f"operation takes add, mul or xor, got {operation!r}.")

    def learner(self, operation, fraction):
        return Learner.once(lambda key: {"value": jax.random.uniform(key) + fraction})

    @claim("grows", says="It grows.", statistic="mean", supported_if="CI > 0", refuted_if="CI < 0")
    def grows(self, e):
        low = float(e.value.min())
        return judge(Interval(low, low, low, 2), supported=low > 0, refuted=low < 0)
'''


@pytest.fixture
def here(tmp_path: Path, monkeypatch) -> Path:
    """An empty working directory with a small study file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.py").write_text(STUDY)
    return tmp_path


@pytest.fixture
def complaint(capsys):
    """Runs a command that must fail as a user's mistake and returns its one sentence."""

    def run(*argv: str) -> str:
        assert cli.main(argv) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.count("\n") == 1 and said.err.endswith("\n"), said.err
        assert said.err.startswith("unseen: ") and "Traceback" not in said.err
        return said.err.removeprefix("unseen: ").strip()

    return run


OPTIONS = [
    # Words and commands.
    (["rnu", "grokking"], "no command 'rnu'; did you mean run?"),
    (["zzz"], "no command 'zzz'; it has run"),
    (["run"], "run takes the key of a study or the path of a study file, got none."),
    (["run", "groking"], "'groking'; did you mean 'grokking'?"),
    (["run", "nothing-like-it"], "no paper 'nothing-like-it'; `unseen list`"),
    (["run", "small.py", "again"], "got 'again' beside 'small.py'"),
    (["run", "small.py", "-x"], "no option -x"),
    # Options that are not there, or not whole.
    (["run", "small.py", "--widht", "8"], "no option --widht; did you mean --width?"),
    (["run", "small.py", "--zzz", "8"], "no option --zzz; `unseen run small.py --help`"),
    (["run", "small.py", "--width"], "--width takes a value (whole number), got none."),
    (["run", "small.py", "--width", "--json"], "--width takes a value (whole number), got none."),
    (["run", "small.py", "--json=yes"], "--json takes no value, got 'yes'."),
    (["run", "small.py", "--width", "1", "--width=2"], "--width is given twice."),
    # Values of the wrong type.
    (["run", "small.py", "--width", "wide"], "--width takes a whole number, got 'wide'."),
    (["run", "small.py", "--width", "1.5"], "--width takes a whole number, got '1.5'."),
    (["run", "small.py", "--width", ""], "--width takes a whole number, got ''."),
    (["run", "small.py", "--learning-rate", "fast"], "--learning-rate takes a number, got 'fast'."),
    (["run", "small.py", "--learning_rate", "nan"], "--learning-rate takes a number, got 'nan'."),
    (["run", "small.py", "--learning-rate=-inf"], "--learning-rate takes a number, got '-inf'."),
    (["run", "small.py", "--bias", "perhaps"], "--bias takes true or false, got 'perhaps'."),
    (["run", "small.py", "--model", "cnn"], "--model takes one of linear, mlp, got 'cnn'."),
    (["run", "small.py", "--cap", "many"], "--cap takes a whole number, got 'many'."),
    # Conditions.
    (["run", "small.py", "--fraction", ""], "--fraction takes one value or more"),
    (["run", "small.py", "--fraction", "0.5,,0.25"], "--fraction takes one value or more"),
    (["run", "small.py", "--fraction", "0.5,half"], "--fraction takes a number, got 'half'."),
    (["run", "small.py", "--fraction", "0.5,inf"], "--fraction takes a number, got 'inf'."),
    (["run", "small.py", "--fraction", "0.5,0.5"], "fraction takes different values, got 0.5 twice."),
    (["run", "small.py", "--operation", "add,divide"], "operation takes add, mul or xor, got 'divide'."),
    # Seeds.
    (["run", "small.py", "--seeds", "0"], "seeds takes a whole number from 1 on, got 0."),
    (["run", "small.py", "--seeds", "-3"], "seeds takes a whole number from 1 on, got -3."),
    (["run", "small.py", "--first-seed", "-1"], "first_seed takes a whole number from 0 on, got -1."),
    # How and where it runs.
    (["run", "small.py", "--scale", "huge"], "scale takes one of smoke, laptop and paper, got 'huge'."),
    (["run", "small.py", "--workers", "0"], "--workers takes a whole number from 1 on, got 0."),
    (["run", "small.py", "--workers", "two"], "--workers takes a whole number, got 'two'."),
    (["run", "small.py", "--on", "slurm"], "--on takes ray or ray=ADDRESS, got 'slurm'."),
    (["run", "small.py", "--on", "ray="], "--on takes ray or ray=ADDRESS, got 'ray='."),
    (["run", "small.py", "--out", "nowhere://bucket/run"], "nowhere://bucket/run"),
    (["run", "small.py", "--record"], "--record takes a study of the catalogue, got Small"),
    # Study files.
    (["run", "absent.py"], "There is no study file"),
    (["run", "./absent"], "There is no study file"),
    # The other commands.
    (["list", "--family", "dynamic"], "--family takes one of agents, composition"),
    (["list", "--status", "done"], "--status takes one of implemented, open"),
    (["list", "grokking"], "list takes options only, got 'grokking'."),
    (["show"], "show takes the key of one paper, got none."),
    (["show", "grokking", "carl"], "show takes the key of one paper, got 'grokking' and 'carl'."),
    (["show", "gorkking"], "'gorkking'; did you mean 'grokking'?"),
    (["show", "grokking", "--jsn"], "no option --jsn; did you mean --json?"),
    (["report"], "report takes the key of a study or the directory of a run, got none."),
    (["report", "grokking"], "There is no finished run of grokking"),
    (["report", "."], "holds no run of unseen (there is no run.json)."),
    (["worlds", "--axes"], "worlds has no option --axes"),
]


@pytest.mark.parametrize(("argv", "said"), OPTIONS, ids=[" ".join(argv) for argv, _ in OPTIONS])
def test_bad_words_and_options(here: Path, complaint, argv: list[str], said: str) -> None:
    assert said in complaint(*argv)


def test_there_are_thirty_kinds() -> None:
    assert len({said for _, said in OPTIONS}) >= 30


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("class Small(Study:\n", "bad.py, line 1: this is no Python (invalid syntax)."),
        ("import no_such_package\n", "bad.py needs no-such-package: pip install no-such-package"),
        ("x = 1\n", "bad.py has no study"),
        (
            STUDY + STUDY.replace("class Small", "class Other"),
            "bad.py has more than one study: Small, Other.",
        ),
        (STUDY.replace(', says="It grows."', ""), "The claim 'grows' of Small has no sentence"),
    ],
)
def test_bad_study_files(here: Path, complaint, text: str, said: str) -> None:
    (here / "bad.py").write_text(text)
    assert said in complaint("run", "bad.py")


def test_a_missing_package_names_the_extra(here: Path, complaint, monkeypatch) -> None:
    (here / "needs.py").write_text(
        STUDY.replace("        return Learner", "        import rejax\n        return Learner")
    )
    monkeypatch.setitem(sys.modules, "rejax", None)  # as if it were not installed
    assert complaint("run", "needs.py") == "needs.py needs rejax: pip install 'unseen[control]'"


def test_ray_not_installed(here: Path, complaint, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert complaint("run", "small.py", "--on", "ray") == "--on ray needs ray: pip install 'unseen[ray]'"


def test_record_refuses_what_is_not_registered(here: Path, complaint) -> None:
    assert "laptop scale" in complaint("run", "grokking", "--record", "--scale", "smoke")
    assert "--record takes the registered settings; seeds is 3" in complaint(
        "run", "grokking", "--seeds", "3", "--record"
    )
    assert "first_seed is 0, not 100" in complaint("run", "grokking", "--record", "--first-seed=0")
    said = complaint("run", "grokking", "--record", "--train-fraction", "0.5")
    assert "train_fraction is [0.5]" in said


def test_a_broken_catalogue_names_file_and_line(here: Path, complaint, monkeypatch) -> None:
    (here / "dynamics.toml").write_text('family = "dynamics"\n[[paper]\n')
    monkeypatch.setattr(catalogue, "PAPERS", here)
    for argv in (["list"], ["show", "grokking"], ["run", "grokking"]):
        assert f"{here / 'dynamics.toml'}, line 2: this is no TOML" in complaint(*argv)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{\n 'key'", "line 2: this is no JSON"),
        ("{}", "the recorded result has no 'key'"),
        ("[]", "this is no recorded"),
    ],
)
def test_a_broken_recorded_result_names_file_and_line(here: Path, complaint, monkeypatch, text, said) -> None:
    monkeypatch.setattr(recorded, "RESULTS", here)
    file = here / "dynamics" / "grokking.json"
    file.parent.mkdir()
    file.write_text(text)
    for argv in (["show", "grokking"], ["list"]):
        answer = complaint(*argv)
        assert str(file) in answer and said in answer


# Directories -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory) -> Path:
    """A finished run of the small study."""
    place = tmp_path_factory.mktemp("finished")
    (place / "small.py").write_text(STUDY)
    old = os.getcwd()
    os.chdir(place)
    try:
        assert cli.main(["run", "small.py", "--out", "done", "--json"]) == 0
    finally:
        os.chdir(old)
    return place / "done"


def test_out_is_a_file(here: Path, complaint) -> None:
    (here / "taken").write_text("mine")
    assert "taken" in complaint("run", "small.py", "--out", "taken")
    assert (here / "taken").read_text() == "mine"


def test_out_below_a_file(here: Path, complaint) -> None:
    (here / "taken").write_text("mine")
    assert "taken" in complaint("run", "small.py", "--out", "taken/run")


def test_out_cannot_be_made(here: Path, complaint) -> None:
    # /proc takes no new directory from anybody, not even from root.
    assert "/proc/unseen" in complaint("run", "small.py", "--out", "/proc/unseen")


def test_out_holds_a_run_with_other_settings(here: Path, complaint, run_directory: Path) -> None:
    shutil.copytree(run_directory, here / "done")
    said = complaint("run", "small.py", "--out", "done", "--width", "5")
    assert "other settings (width 4, now 5)" in said and "--fresh" in said


def test_out_holds_somebody_elses_file(here: Path, complaint) -> None:
    (here / "foreign").mkdir()
    (here / "foreign" / "evidence.nc").write_bytes(b"CDF\x01 somebody's data")
    assert "evidence.nc that no run of unseen wrote" in complaint("run", "small.py", "--out", "foreign")
    assert (here / "foreign" / "evidence.nc").read_bytes() == b"CDF\x01 somebody's data"


def test_report_of_a_damaged_run(here: Path, complaint, run_directory: Path) -> None:
    shutil.copytree(run_directory, here / "done")
    text = (here / "done" / "run.json").read_text()
    (here / "done" / "run.json").write_text(text[:100])
    assert "run.json is damaged" in complaint("report", "done")
    (here / "done" / "run.json").write_text(text.replace('"seeds": 2', '"seeds": 3'))
    assert "run.json is damaged (its checksum does not fit)" in complaint("report", "done")
    (here / "done" / "run.json").write_text(json.dumps([1, 2]))
    assert "run.json is damaged" in complaint("report", "done")


def test_report_of_an_unfinished_run(here: Path, complaint, run_directory: Path) -> None:
    from unseen.lab.store import Store

    shutil.copytree(run_directory, here / "done")
    store = Store(str(here / "done"))
    store.write_json("run.json", {**store.read_json("run.json"), "status": "unfinished"})
    assert "is not finished" in complaint("report", "done")


# The same as a person sees it: a real process --------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["run", "groking"], "did you mean 'grokking'?"),
        (["run", "small.py", "--width", "wide"], "--width takes a whole number, got 'wide'."),
        (["list", "--family", "x"], "--family takes one of"),
    ],
)
def test_in_a_real_process(here: Path, argv: list[str], said: str) -> None:
    done = subprocess.run([sys.executable, "-m", "unseen", *argv], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and said in done.stderr
