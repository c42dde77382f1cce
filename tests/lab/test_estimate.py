"""An estimate runs the first steps of every group and multiplies; it keeps nothing."""

import math
from pathlib import Path

import pytest

import unseen.lab.estimate as module
from unseen.lab.estimate import estimate


@pytest.fixture(scope="module")
def groups(toy) -> list:
    return list(estimate(toy.at_scale("smoke", seeds=5, pause=0.2)))


def test_every_group_of_the_plan_is_there(groups: list) -> None:
    assert [(g.part, g.label) for g in groups] == [
        ("learner", "kind=plain"),
        ("learner", "kind=stopped"),
        ("exact", "exact, amount=1"),
        ("exact", "exact, amount=2"),
        ("outside", "outside, word=x"),
        ("outside", "outside, word=y"),
    ]
    assert [g.rounds for g in groups] == [2, 1, 0, 0, 4, 4]
    assert all(g.blocks * g.members >= (15 if g.part == "learner" else 5) for g in groups)


def test_what_it_says_follows_from_what_it_measured(groups: list) -> None:
    for g in groups:
        rounds = g.rounds * g.round if g.rounds else 0
        assert g.seconds == pytest.approx(g.compiling + g.blocks * (g.starting + rounds + g.finishing))
        assert math.isnan(g.round) == (g.rounds == 0)
        assert g.host == (g.part == "outside") == (g.bytes == 0)
    x, y = groups[4:]
    assert min(x.round, y.round) >= 0.2  # the pause of one round of one member
    assert min(x.seconds, y.seconds) >= 5 * 4 * 0.2


def test_where_memory_is_short_it_measures_smaller_blocks(toy, monkeypatch) -> None:
    study = toy.at_scale("smoke", seeds=4, kind="plain", rate=(0.1, 0.2))
    whole = next(iter(estimate(study)))
    monkeypatch.setattr(module, "_memory", lambda: whole.bytes - 1)
    half = next(iter(estimate(study)))
    assert (half.members, half.blocks) == (math.ceil(whole.members / 2), 2 * whole.blocks)
    monkeypatch.setattr(module, "_memory", lambda: 0)
    with pytest.raises(MemoryError, match="One member of toy"):
        next(iter(estimate(study)))


def test_nothing_is_kept(toy, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    next(iter(estimate(toy.at_scale("smoke"))))
    assert not list(tmp_path.iterdir())
