"""The catalogue is whole, and it and the studies are bound to each other both ways."""

import ast
import collections
import re
import subprocess
import sys
from pathlib import Path

import pytest

from unseen.atlas import catalogue
from unseen.lab.errors import UserError
from unseen.lab.locate import study_in_file

SEED = Path(__file__).parents[2].parent / "shared" / "seed.txt"
IMPLEMENTED = [key for key, paper in catalogue.papers().items() if paper.is_implemented]
CLAIMS = [(key, claim.id) for key in IMPLEMENTED for claim in catalogue.paper(key).claims]


def test_size_and_families() -> None:
    papers = catalogue.papers()
    assert len(papers) == 207
    expected = "agents composition control dynamics finetuning minds offline rewards robots shift"
    assert " ".join(sorted(catalogue.families())) == expected
    assert all(intro for intro in catalogue.families().values())
    assert {paper.family for paper in papers.values()} == set(catalogue.families())


def test_keys_titles_and_claim_ids_are_unique() -> None:
    papers = list(catalogue.papers().values())
    titles = collections.Counter(paper.title for paper in papers)
    assert max(titles.values()) == 1
    for paper in papers:
        ids = [claim.id for claim in paper.claims]
        assert ids and len(set(ids)) == len(ids), paper.key
        assert re.fullmatch(r"[a-z][a-z0-9-]*", paper.key)
        for claim in paper.claims:
            assert claim.says and claim.statistic and claim.supported_if and claim.refuted_if, (
                paper.key,
                claim.id,
            )


@pytest.mark.skipif(not SEED.exists(), reason="the user's page lies beside the checkout only")
def test_every_title_of_the_page_is_catalogued_once() -> None:
    lines = SEED.read_text().splitlines()
    # Below its two head lines the page alternates between a title and an abstract; the first title follows
    # the label of a button without a space.
    titles = [line.removeprefix("Subscribe") for line in lines[2::2]]
    catalogued = collections.Counter(paper.title for paper in catalogue.papers().values())
    assert len(titles) == 207
    assert [title for title in titles if catalogued[title] != 1] == []


def test_reading_needs_neither_jax_nor_xarray() -> None:
    code = (
        "import sys; from unseen.atlas import catalogue; catalogue.papers(); catalogue.implemented('carl');"
        "print([m for m in ('jax', 'xarray', 'scipy', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_near_miss() -> None:
    with pytest.raises(UserError, match="'groking'; did you mean 'grokking'"):
        catalogue.paper("groking")
    with pytest.raises(UserError, match="unseen list"):
        catalogue.paper("zzzzzz")
    assert catalogue.paper("linear_grokking").key == "linear-grokking"


ENTRY = """
[[paper]]
key = "one"
title = "One"
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("family = dynamics\n", r"line 1: this is no TOML"),
        ("a = 1\nb = [1, 2\n", r"(line \d+|last line): this is no TOML"),
        (ENTRY, r"line 3: the entry 'one' has no 'authors'"),
        (ENTRY + '[[paper.claim]]\nid = "x"\n', r"line 3: the entry 'one' has no 'says'"),
    ],
)
def test_a_broken_file_is_named_with_the_line(tmp_path: Path, monkeypatch, text: str, said: str) -> None:
    (tmp_path / "dynamics.toml").write_text(text)
    monkeypatch.setattr(catalogue, "PAPERS", tmp_path)
    with pytest.raises(UserError, match=said) as caught:
        catalogue.papers()
    assert str(tmp_path / "dynamics.toml") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_papers_with_one_key(tmp_path: Path, monkeypatch) -> None:
    real = (catalogue.PAPERS / "agents.toml").read_text()
    (tmp_path / "agents.toml").write_text(real)
    (tmp_path / "more.toml").write_text(real)
    monkeypatch.setattr(catalogue, "PAPERS", tmp_path)
    with pytest.raises(UserError, match="is taken"):
        catalogue.papers()


def test_the_extra_of_a_missing_package() -> None:
    def said(module: str) -> str:
        return str(catalogue.missing_package(ModuleNotFoundError(name=module), "carl"))

    assert said("rejax.algos") == "carl needs rejax: pip install 'unseen[control]'"
    assert said("sklearn") == "carl needs scikit-learn: pip install 'unseen[images]'"
    assert said("inspect_ai") == "carl needs inspect-ai: pip install 'unseen[minds]'"
    assert said("nowhere") == "carl needs nowhere: pip install nowhere"
    own = ModuleNotFoundError(name="unseen.worlds.missing")
    assert catalogue.missing_package(own, "carl") is own


# Studies against the catalogue, both ways ------------------------------------------------------------------


def study_class(key: str) -> ast.ClassDef:
    """The study's class, parsed and not imported, so that this needs no extra."""
    tree = ast.parse(catalogue.paper(key).study_file.read_text())
    found = [
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef) and any("Study" in ast.unparse(base) for base in node.bases)
    ]
    assert len(found) == 1, f"{key} has {len(found)} studies"
    return found[0]


def judges(key: str) -> dict[str, list[ast.FunctionDef]]:
    """Claim id -> methods under `@claim(id)`."""
    found: dict[str, list[ast.FunctionDef]] = collections.defaultdict(list)
    for node in study_class(key).body:
        for decorator in getattr(node, "decorator_list", []):
            if isinstance(decorator, ast.Call) and ast.unparse(decorator.func).split(".")[-1] == "claim":
                found[ast.literal_eval(decorator.args[0])].append(node)
    return found


def test_every_study_file_is_a_paper_of_the_catalogue() -> None:
    files = {file for file in catalogue.STUDIES.glob("*/*.py") if file.name != "__init__.py"}
    assert files == {catalogue.paper(key).study_file for key in IMPLEMENTED}


@pytest.mark.parametrize("key", IMPLEMENTED)
def test_claims_and_judges_match_one_to_one(key: str) -> None:
    found = judges(key)
    assert sorted(found) == sorted(claim.id for claim in catalogue.paper(key).claims)
    assert {id for id, methods in found.items() if len(methods) != 1} == set()
    for methods in found.values():
        call = next(d for d in methods[0].decorator_list if isinstance(d, ast.Call))
        assert len(call.args) == 1 and not call.keywords, "a catalogued claim takes its text from the catalogue"


def numbers_of(node: ast.AST, study: ast.ClassDef, module: ast.Module, seen: set[str] | None = None) -> set[float]:
    """Numbers in a judge's source, with those of the settings, constants and helpers that it names."""
    seen = set() if seen is None else seen
    found: set[float] = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.Constant) and isinstance(inner.value, int | float):
            found.add(abs(float(inner.value)))
        name = None
        if isinstance(inner, ast.Attribute) and isinstance(inner.value, ast.Name) and inner.value.id == "self":
            name, scope = inner.attr, study.body
        elif isinstance(inner, ast.Name):
            name, scope = inner.id, module.body
        if name is None or name in seen:
            continue
        seen.add(name)
        for statement in scope:
            if isinstance(statement, ast.FunctionDef) and statement.name == name:
                found |= numbers_of(statement, study, module, seen)
            elif isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
                targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
                if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                    found |= numbers_of(statement.value, study, module, seen)
    return found


def decimals(rule: str) -> list[str]:
    """Numbers of a rule that are no counts: with a decimal point or an exponent."""
    return re.findall(r"(?<![\w.])\d+\.\d+(?:e-?\d+)?|(?<![\w.])\d+e-?\d+", rule)


@pytest.mark.parametrize(("key", "id"), CLAIMS)
def test_a_rule_in_code_uses_the_numbers_of_the_registered_rule(key: str, id: str) -> None:
    claim = next(claim for claim in catalogue.paper(key).claims if claim.id == id)
    module = ast.parse(catalogue.paper(key).study_file.read_text())
    study = study_class(key)
    # The decorated function itself, without its decorator.
    known = set().union(*(numbers_of(part, study, module) for part in judges(key)[id][0].body))
    missing = [text for text in decimals(claim.rule) if float(text) not in known]
    assert not missing, f"{key}: the judge of {id} does not know {missing} of: {claim.rule}"


def test_the_rule_reader_finds_numbers_where_they_stand() -> None:
    assert decimals("whole CI inside [-1.25, -0.75] or 95% CI > log 1.5, 3 of 8, R2 < 1e-4") == [
        "1.25",
        "0.75",
        "1.5",
        "1e-4",
    ]
    module = ast.parse(
        "LIMIT = 0.25\n"
        "class S(Study):\n"
        "    level: float = 0.95\n"
        "    def _rule(self): return -0.5\n"
        "    def judge(self, e): return LIMIT, self.level, self._rule(), 2\n"
    )
    study = module.body[1]
    assert isinstance(study, ast.ClassDef)
    assert numbers_of(study.body[2], study, module) == {0.25, 0.95, 0.5, 2.0}


# Studies of one's own --------------------------------------------------------------------------------------

OWN = """
from unseen.lab import Study, claim

class Mine(Study):
    width: int = 4

    @claim("works"{text})
    def works(self, e): ...
"""


def test_a_study_of_ones_own_states_its_claims(tmp_path: Path) -> None:
    file = tmp_path / "my_own.py"
    file.write_text(OWN.format(text=", says='It works.', statistic='x', supported_if='x > 0', refuted_if='x < 0'"))
    study = study_in_file(file)
    assert study.key == "my-own"
    assert catalogue.registered(study)["works"].rule == "supported if x > 0; refuted if x < 0"
    file = tmp_path / "silent.py"
    file.write_text(OWN.format(text=""))
    with pytest.raises(UserError, match=r"The claim 'works' of Mine has no sentence: write @claim\('works', says="):
        catalogue.registered(study_in_file(file))


def test_a_copied_study_keeps_the_registered_claims(tmp_path: Path) -> None:
    file = tmp_path / "grokking.py"
    file.write_text(OWN.format(text="").replace('"works"', '"delay"'))
    texts = catalogue.registered(study_in_file(file))
    assert texts == {"delay": catalogue.paper("grokking").claims[0]}


@pytest.mark.parametrize("key", IMPLEMENTED)
def test_an_implemented_study_loads(key: str) -> None:
    study = catalogue.load_study(key)
    assert study.key == key
    assert set(catalogue.registered(study)) == {claim.id for claim in catalogue.paper(key).claims}
    assert len(catalogue.study_version(key)) == 12
    for scale in ("smoke", "laptop", "paper"):  # their sizes must fit each other
        study.at_scale(scale)


def test_a_paper_without_a_study() -> None:
    key = next(key for key, paper in catalogue.papers().items() if not paper.is_implemented)
    with pytest.raises(UserError, match="no study yet"):
        catalogue.load_study(key)
