"""The study that CONTRIBUTING shows is executed as it stands, and can fail."""

import re
from pathlib import Path

import pytest

import unseen

PAGE = Path(__file__).parents[1] / "CONTRIBUTING.md"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 60
    path = tmp_path_factory.mktemp("own") / "double_descent.py"
    path.write_text(code)
    return path


def test_the_study_of_the_page_runs_and_its_claim_holds(file, tmp_path):
    run = unseen.run(str(file), out=tmp_path / "run", quiet=True)
    (verdict,) = run.verdicts
    assert verdict.claim == "peak" and verdict.verdict == "supported"
    assert run.evidence.test_error.sizes == {"width": 6, "seed": 12}


def test_its_smoke_scale_and_its_options(file, tmp_path):
    run = unseen.run(str(file), scale="smoke", noise=0.0, out=tmp_path / "run", quiet=True)
    assert run.evidence.sizes["width"] == 3


def test_the_test_command_of_ci_is_the_one_that_the_readme_shows():
    root = PAGE.parent
    (command,) = re.findall(r"^(python3 -m venv .*pytest.*)$", (root / "README.md").read_text(), re.MULTILINE)
    assert command in (root / ".ci" / "run").read_text()
    assert command in PAGE.read_text()
