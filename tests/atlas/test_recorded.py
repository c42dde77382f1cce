"""Recorded results: written from registered runs only, read back as they were, and known to be stale."""

import dataclasses
import io
import json
import math
from pathlib import Path

import pytest
from PIL import Image

from unseen.atlas import catalogue, recorded
from unseen.lab.claims import Verdict
from unseen.lab.errors import UserError
from unseen.lab.run import Run
from unseen.lab.store import Store

KEY = "grokking"
pytestmark = pytest.mark.skipif(not catalogue.implemented(KEY), reason="needs a study to record")


@pytest.fixture
def finished(tmp_path: Path) -> Run:
    """A run as `unseen.lab.run` returns it, with verdicts of every kind; the evidence plays no part here."""
    import xarray as xr

    study = catalogue.load_study(KEY)()
    claims = catalogue.paper(KEY).claims
    kinds = ["supported", "refuted", "inconclusive"]
    numbers = [(1.0, 0.5, math.inf), (0.1, -math.inf, 0.2), (math.nan,) * 3]
    verdicts = [
        Verdict(claim.id, kinds[i % 3], *numbers[i % 3], 8, claim.rule, f"note {i}", claim.says)
        for i, claim in enumerate(claims)
    ]
    buffer = io.BytesIO()
    Image.effect_noise((1800, 900), 40).convert("RGB").save(buffer, "png")
    Store(str(tmp_path / "run")).write("figure.png", buffer.getvalue())
    record = {
        "version": catalogue.study_version(KEY),
        "settings": study.settings(),
        "seconds": 12.5,
        "versions": {"jax": "1"},
        "machine": {"cpu": "one"},
    }
    return Run(study, "laptop", xr.Dataset(), verdicts, str(tmp_path / "run"), record)


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setattr(recorded, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


def test_what_is_written_is_read_back(finished: Run, results: Path) -> None:
    assert recorded.recorded(KEY) is None
    file = recorded.record(finished)
    assert file == results / "dynamics" / "grokking.json"
    back = recorded.recorded(KEY)
    assert back is not None and back.stale == "" and back.seconds == 12.5
    assert list(map(repr, back.verdicts)) == list(map(repr, finished.verdicts))  # NaN is not equal to itself
    assert back.counts == {"supported": 2, "refuted": 1, "inconclusive": 1}
    assert back.settings == finished.study.settings()
    json.loads(file.read_text(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    with Image.open(back.figure) as picture:
        assert picture.width == 1000 and picture.height == 500
    assert {f.name for f in results.rglob("*") if f.is_file()} == {"grokking.json", "grokking.png"}


def test_a_result_becomes_stale_with_the_study_and_with_the_claims(finished: Run, results: Path) -> None:
    file = recorded.record(finished)
    found = json.loads(file.read_text())
    assert found["sources"]["studies/dynamics/grokking.py"]
    # Bytes that changed (a comment, say) are no reason by themselves: the version decides.
    sources = {**found["sources"], "studies/dynamics/grokking.py": "0" * 12}
    file.write_text(json.dumps({**found, "sources": sources}))
    assert recorded.recorded(KEY).stale == ""
    file.write_text(json.dumps({**found, "sources": sources, "version": "0" * 12}))
    assert recorded.recorded(KEY).stale == "the study has changed"
    found["verdicts"][0]["rule"] += " (or not)"
    file.write_text(json.dumps(found))
    assert recorded.recorded(KEY).stale == "the registered claims have changed"


def test_a_run_of_an_older_study_is_not_recorded(finished: Run, results: Path) -> None:
    old = dataclasses.replace(finished, record={**finished.record, "version": "0" * 12})
    with pytest.raises(UserError, match="grokking has changed since this one"):
        recorded.record(old)
    assert not results.exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"scale": "smoke"},
            "--record takes the laptop scale, at which the claims are registered, got smoke.",
        ),
        ({"seeds": 4}, "--record takes the registered settings; seeds is 4, not 8."),
        ({"first_seed": 0}, "first_seed is 0, not 100."),
        ({"weight_decay": (1.0,)}, r"weight_decay is \[1.0\], not"),
        ({"verdicts": 1}, "--record takes a verdict on every claim; grokking does not judge"),
    ],
)
def test_only_the_registered_run_is_recorded(finished: Run, results: Path, change: dict, said: str) -> None:
    settings = {name: value for name, value in change.items() if name not in ("scale", "verdicts")}
    run = dataclasses.replace(
        finished,
        study=dataclasses.replace(finished.study, **settings),
        scale=change.get("scale", "laptop"),
        verdicts=finished.verdicts[: change.get("verdicts")],
    )
    with pytest.raises(UserError, match=said):
        recorded.record(run)
    assert not results.exists()


def test_a_place_that_cannot_be_written(finished: Run, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(recorded, "RESULTS", tmp_path / "file")
    with pytest.raises(UserError, match=r"Cannot write .*grokking\.json"):
        recorded.record(finished)


@pytest.mark.parametrize("file", sorted(Path(recorded.__file__).with_name("results").glob("*/*.json")), ids=str)
def test_every_shipped_result_is_whole(file: Path, monkeypatch) -> None:
    monkeypatch.setattr(recorded, "RESULTS", file.parents[1])
    result = recorded.recorded(file.stem)
    entry = catalogue.paper(file.stem)
    assert result is not None and file.parent.name == entry.family
    assert {v.claim for v in result.verdicts} == {claim.id for claim in entry.claims}
    assert result.figure.is_file() and result.figure.stat().st_size < 300_000
    assert result.settings["first_seed"] == 100
