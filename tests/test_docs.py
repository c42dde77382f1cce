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


def test_what_the_readme_imports_exists():
    (imports,) = [b for b in blocks("README.md") if "unseen.methods" in b]
    exec(compile(imports, "README.md", "exec"), {"__name__": "page"})


@pytest.mark.parametrize("page", sorted(p.name for p in (ROOT / "docs").glob("*.md")))
def test_links_between_pages_lead_somewhere(page):
    made = {"results.md", "own-study.md"}  # by docs/hooks.py
    for target in re.findall(r"\]\(([\w-]+\.md)", (ROOT / "docs" / page).read_text()):
        assert target in made or (ROOT / "docs" / target).exists(), target
