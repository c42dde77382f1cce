"""The documentation's examples are executed, and what README promises to import exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def blocks(page):
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def test_components_run_as_they_stand(capsys):
    code = "\n".join(blocks("docs/components.md"))
    exec(compile(code, "docs/components.md", "exec"), {"__name__": "page"})
    assert len(capsys.readouterr().out.splitlines()) >= 4


@pytest.mark.slow
def test_measures_of_three_frameworks_run_as_they_stand(capsys):
    """And they tell of networks that have learned: what comes out is in the range of what digits give."""
    for package in ("flax", "torch", "sklearn"):
        pytest.importorskip(package)
    code = "\n".join(blocks("docs/your_model.md"))
    exec(compile(code, "docs/your_model.md", "exec"), {"__name__": "page"})
    out = capsys.readouterr().out
    forgotten = [int(n) for n in re.findall(r"(\d+)(?: of 500 digits were learned and)? forgotten", out)]
    coherence = [float(n) for n in re.findall(r"coherence ([\d.]+)", out)]
    agreement = [float(n) for n in re.findall(r"agreement ([\d.]+)", out)]
    assert len(forgotten) == len(coherence) == len(agreement) == 3
    assert all(5 < n < 250 for n in forgotten) and all(1 < c < 250 for c in coherence)
    assert all(0.8 < a <= 1 for a in agreement)


@pytest.mark.slow
def test_environments_of_others_run_as_they_stand(capsys, tmp_path, monkeypatch):
    pytest.importorskip("rejax")
    monkeypatch.setenv("UNSEEN_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    code = "\n".join(blocks("docs/your_environment.md"))
    exec(compile(code, "docs/your_environment.md", "exec"), {"__name__": "page"})
    out = capsys.readouterr().out
    assert "tested under 81 contexts" in out
    # Acrobot loses a point a step, and 50 steps are too few to swing up: every mean is between -50 and 0.
    returns = [float(x) for x in re.findall(r"(-\d+) (?:inside|outside)|lengths: (-\d+)", out) for x in x if x]
    assert len(returns) == 3 and all(-50 <= x < 0 for x in returns)


def test_what_the_readme_imports_exists():
    (imports,) = [b for b in blocks("README.md") if "unseen.methods" in b]
    exec(compile(imports, "README.md", "exec"), {"__name__": "page"})


@pytest.mark.parametrize("page", sorted(p.name for p in (ROOT / "docs").glob("*.md")))
def test_links_between_pages_lead_somewhere(page):
    made = {"results.md", "own-study.md"}  # by docs/hooks.py
    for target in re.findall(r"\]\(([\w-]+\.md)", (ROOT / "docs" / page).read_text()):
        assert target in made or (ROOT / "docs" / target).exists(), target
