"""The version of a study's code: it changes with the code and with nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest

from unseen.lab.version import source_digests, source_version

FILES = {
    "__init__.py": "",
    "lab/__init__.py": "def claim(): return 1\n",
    "worlds/__init__.py": "",
    "worlds/algorithms/__init__.py": "from unseen.worlds.algorithms.modular import Modular\n"
    "from unseen.worlds.algorithms.stack import Stack\n",
    "worlds/algorithms/modular.py": "class Modular:\n    size = 31\n",
    "worlds/algorithms/stack.py": "class Stack:\n    size = 5\n",
    "models/__init__.py": "from .mlp import MLP\nWIDTH = 16\n",
    "models/mlp.py": "from unseen.lab import claim\nclass MLP: pass\n",
    "methods/__init__.py": "from unseen.methods.decay import decay\nfrom unseen.methods.sam import sam\n",
    "methods/decay.py": "def decay(x): return x * 0.5\n",
    "methods/sam.py": "def sam(x): return x\n",
    "studies/dynamics/grokking.py": '''"""Paper."""
from unseen import methods
from unseen.lab import claim
from unseen.worlds.algorithms import Modular

class Grokking:
    """One line."""
    width: int = 128  # help
    fraction: float = 0.0
    smoke = dict(width=8)
    paper = dict(width=512)

    def learner(self):
        """Doc."""
        from unseen.models import MLP
        return methods.decay(Modular, MLP)
''',
}


@pytest.fixture
def house(tmp_path: Path) -> Path:
    root = tmp_path / "unseen"
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def version(root: Path) -> str:
    return source_version(root / "studies/dynamics/grokking.py", root)


STUDY = "studies/dynamics/grokking.py"


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        (STUDY, "128", "129"),
        (STUDY, "128", "128.0"),
        (STUDY, "0.0", "None"),
        (STUDY, "    fraction", "    share"),
        ("worlds/algorithms/modular.py", "31", "37"),
        ("models/mlp.py", "pass", "x = 1"),  # imported inside a function, through a relative re-export
        ("methods/decay.py", "0.5", "0.25"),  # used as an attribute of the package
    ],
)
def test_changes_with_the_code(house: Path, file: str, old: str, new: str) -> None:
    before = version(house)
    edit(house / file, old, new)
    assert version(house) != before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        (STUDY, "# help", "# another help"),
        (STUDY, '"""One line."""', '"""Another line.\n\n    And more."""'),
        (STUDY, '        """Doc."""\n', ""),
        (
            "studies/dynamics/grokking.py",
            "methods.decay(Modular, MLP)",
            "methods.decay(\n            Modular,\n MLP,)",
        ),
        ("worlds/algorithms/stack.py", "5", "6"),  # beside the world that the study uses
        (
            "worlds/algorithms/__init__.py",
            "import Stack\n",
            "import Stack\nfrom unseen.worlds.new import New\n",
        ),
        ("methods/sam.py", "return x", "return -x"),
        ("models/__init__.py", "16", "17"),
        ("lab/__init__.py", "return 1", "return 2"),
        (STUDY, "dict(width=8)", "dict(width=4, fraction=1.0)"),
        (STUDY, "    paper = dict(width=512)\n", ""),
    ],
)
def test_stays_with_everything_else(house: Path, file: str, old: str, new: str) -> None:
    before = version(house)
    edit(house / file, old, new)
    assert version(house) == before


def test_a_name_defined_in_the_package_itself_brings_the_package(house: Path) -> None:
    edit(house / "studies/dynamics/grokking.py", "import MLP", "import WIDTH, MLP")
    before = version(house)
    edit(house / "models/__init__.py", "16", "17")
    assert version(house) != before


def test_a_package_used_as_a_value_brings_all_that_it_imports(house: Path) -> None:
    edit(house / "studies/dynamics/grokking.py", "methods.decay(Modular, MLP)", "getattr(methods, 'decay')")
    before = version(house)
    edit(house / "methods/sam.py", "return x", "return -x")
    assert version(house) != before


def test_falsy_constants_and_empty_keys_are_not_dropped(house: Path) -> None:
    file = house / "one.py"
    seen = set()
    for text in (
        "f(0)",
        "f(None)",
        "f('')",
        "f(False)",
        "f()",
        "f(0.0)",
        "{**a}",
        "{a: a}",
        "f(...)",
        "f(b'')",
    ):
        file.write_text(text)
        seen.add(source_version(file, house))
    assert len(seen) == 10


def test_a_study_outside_of_the_package_keeps_its_version_when_it_moves(house: Path, tmp_path: Path) -> None:
    text = (house / "studies/dynamics/grokking.py").read_text()
    for name in ("mine.py", "elsewhere/yours.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert source_version(tmp_path / "mine.py", house) == source_version(tmp_path / "elsewhere/yours.py", house)


def test_the_real_package_needs_no_jax() -> None:
    code = (
        "import sys, pathlib, unseen.lab.version as v; "
        "print(v.source_version(pathlib.Path(v.__file__))); assert 'jax' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(done.stdout.strip()) == 12 and int(done.stdout, 16) >= 0


def test_a_cycle_of_imports_ends(house: Path) -> None:
    (house / "worlds/algorithms/modular.py").write_text("from .stack import Stack\n")
    (house / "worlds/algorithms/stack.py").write_text("from .modular import Modular\n")
    (house / "worlds/algorithms/stack.py").write_text("from unseen.worlds.algorithms.modular import Modular\n")
    before = version(house)
    edit(house / "worlds/algorithms/stack.py", "import Modular", "import Modular as M")
    assert version(house) != before


def test_the_version_can_only_change_with_one_of_its_files(house: Path) -> None:
    study = house / STUDY
    before = source_digests(study, house)
    assert set(before) == {
        STUDY,
        "models/__init__.py",  # not hashed, but it says where MLP is
        "models/mlp.py",
        "methods/decay.py",
        "worlds/algorithms/__init__.py",
        "worlds/algorithms/modular.py",
    }
    edit(house / "worlds/algorithms/stack.py", "5", "6")
    assert source_digests(study, house) == before
    (house / "worlds/algorithms/__init__.py").write_text("from .stack import Stack as Modular\n")
    after = source_digests(study, house)
    assert after["worlds/algorithms/__init__.py"] != before["worlds/algorithms/__init__.py"]
    assert "worlds/algorithms/stack.py" in after and "worlds/algorithms/modular.py" not in after
