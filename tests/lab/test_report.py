"""The report page: whole, self-contained, and true to the verdicts it shows."""

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from unseen.lab import Study, UserError, claim, judge
from unseen.lab.claims import ClaimText, Verdict
from unseen.lab.forest import forest, thresholds
from unseen.lab.interval import Interval
from unseen.lab.learner import Learner
from unseen.lab.report import curves, latest, rebuild, render
from unseen.lab.run import run

SVG = '<?xml version="1.0"?>\n<!DOCTYPE svg>\n<svg viewBox="0 0 10 10"><path d="M0 0L1 1"/></svg>'
PAPER = {
    "title": "A <b>bold</b> title",
    "authors": "Nobody & Co",
    "year": 2026,
    "arxiv": "2601.00001",
    "question": "Why?",
    "summary": "Because.",
    "claims": [
        {"id": "better", "statistic": "a minus b", "source": "abstract", "amended": ""},
        {"id": "worse", "statistic": "b minus a", "source": "abstract", "amended": "a misprint"},
    ],
}
VERDICTS = [
    Verdict(
        "better",
        "supported",
        1.0,
        0.9,
        float("inf"),
        8,
        "supported if CI > 0.7; refuted if CI < 0.2",
        "",
        "A wins.",
    ),
    Verdict(
        "worse",
        "inconclusive",
        *[float("nan")] * 3,
        0,
        "supported if x; refuted if y",
        "2 of 8 <seeds>",
        "B.",
    ),
]
RECORD = {
    "study": "tiny",
    "scale": "laptop",
    "command": "unseen run tiny --name '<x>'",
    "description": "One line.\n\n    More.",
    "settings": {"width": 4, "rate": [0.1, 0.2]},
    "changed": {"width": 4},
    "watch": ["accuracy", "absent"],
    "seconds": 1.5,
    "counts": {"diverged": 1, "tabular_stopped_at": 2},
    "versions": {"python": "3.11", "jax": "0.7"},
    "machine": {"cpu": "a <fast> one", "devices": ["cpu", "cpu"]},
    "timings": {"rate=0.1": {"compile": 1.0, "run": 2.0, "members": 3}},
}


def evidence(rates=(0.1, 0.2), seeds=3) -> xr.Dataset:
    rng = np.random.default_rng(0)
    values = rng.uniform(size=(len(rates), seeds, 5))
    values[0, 1, 2:] = np.nan  # one member diverges
    return xr.Dataset(
        {"accuracy": (("rate", "seed", "step"), values)},
        {"rate": list(rates), "seed": list(range(100, 100 + seeds)), "step": np.arange(5) * 10},
    )


class Page(HTMLParser):
    """Checks that every element is closed, and collects text and what would be fetched."""

    void = {"meta", "link", "br", "img", "hr", "input"}

    def __init__(self, page: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.text = ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in self.void:
            self.open.append(tag)
        given = dict(attrs)
        self.fetched += [given[name] for name in ("src", "srcset", "data") if name in given]
        self.fetched += [given["href"]] if tag == "link" else []
        assert not any(name.startswith("on") for name in given)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data


def test_the_page_is_whole_and_needs_nothing_else() -> None:
    page = render(RECORD, VERDICTS, evidence(), SVG, PAPER)
    parsed = Page(page)
    assert parsed.fetched == [] and "script" not in parsed.tags and "url(" not in page and "@import" not in page
    assert "<!DOCTYPE svg>" not in page and '<svg viewBox="0 0 10 10">' in page


def test_everything_is_escaped_and_everything_is_said() -> None:
    page = render(RECORD, VERDICTS, evidence(), SVG, PAPER)
    text = " ".join(Page(page).text.split())
    for said in (
        "A <b>bold</b> title",
        "unseen run tiny --name '<x>'",
        "cpu: a <fast> one",
        "2 of 8 <seeds>",
        "A wins.",
        "1 [0.9, inf]",
        "n = 8",
        "no value",
        "a minus b",
        "CI > 0.7",
        "CI < 0.2",
        "a misprint",
        "1 members diverged",
        "2 members stopped early, as the study declares in tabular",
        "seeds 100 to 102",
        "rate=0.1",
        "0.1, 0.2",
        "1 supported",
        "1 inconclusive",
    ):
        assert said in text, said
    assert "refuted" not in list(re.findall(r'class="badge (\w+)"', page))
    assert page.count("<mark") == 1 and re.search(r"<mark[^>]*>4</mark>", page)


def test_a_study_of_ones_own_needs_no_entry_and_no_record() -> None:
    page = render({}, [], xr.Dataset(), "", None)
    assert "This study judges no claim." in Page(page).text
    assert "None" not in Page(page).text


@pytest.mark.parametrize(
    ("half", "bounds"),
    [
        ("CI lower bound > 0.7 and at most 1 of 8 runs censored", (0.7,)),
        ("CI upper bound of test accuracy < 0.10 with train accuracy CI lower bound > 0.95", (0.1,)),
        ("whole CI inside [-1.25, -0.75]", (-1.25, -0.75)),
        ("whole CI inside +-0.12", (-0.12, 0.12)),
        ("slope CI outside [0.85, 1.15] or R^2 CI upper bound < 0.8", (0.85, 1.15)),
        ("lower bound of the slope > 1e-4.", (1e-4,)),
        ("the CI of the difference lies above 0.05", (0.05,)),
        ("CI lower bounds > log 1.5 and > 0.3", ()),
        ("the control is better", ()),
    ],
)
def test_thresholds_of_a_rule(half: str, bounds: tuple[float, ...]) -> None:
    assert thresholds(half) == bounds


def test_the_bar_puts_the_interval_on_the_right_side_of_the_threshold() -> None:
    v = VERDICTS[0]
    drawn = forest(dataclasses.replace(v, high=1.2), (0.7,), (0.2,))
    at = {kind: float(x) for kind, x in re.findall(r'class="bound (\w+)" x1="([\d.]+)"', drawn)}
    (left, right) = map(float, re.search(r'class="interval supported" x1="([\d.]+)" x2="([\d.]+)"', drawn).groups())
    assert at["refuted"] < at["supported"] < left < right
    # 0.9 lies 0.2/0.5 of the way between 0.7 and 1.2, in the same units on the page.
    assert (left - at["supported"]) / (right - at["supported"]) == pytest.approx(0.2 / 0.5, abs=0.01)
    assert drawn.count("<path") == 0
    assert forest(v, (0.7,), ()).count("<path") == 1  # an arrow where the interval has no end
    assert forest(VERDICTS[1], (0.7,), ()) == "" and forest(v, (), ()) == ""


def test_one_picture_for_each_condition_that_was_run() -> None:
    e = evidence(rates=(0.1, 0.2, 0.3))
    e["accuracy"][2] = np.nan  # a cell of the crossing that was not run
    e["loss"] = e.accuracy.expand_dims(length=[1, 2]) * 2
    drawn = list(curves(e, ("accuracy", "loss", "seed", "absent"), {"rate": [0.1, 0.2, 0.3], "width": 4}))
    assert [title for title, _ in drawn] == ["rate 0.1", "rate 0.2"]
    for _, picture in drawn:
        assert picture.count("<path") == 1 + 2 * 2  # axes, and band and mean of both measures
        assert "nan" not in picture and "inf" not in picture
    page = render({**RECORD, "settings": {"rate": list(range(40))}}, [], evidence(rates=range(40)), SVG, None)
    assert page.count('class="curve"') == 24 and "The first 24 of 40 conditions." in page


def test_a_mean_curve_stands_where_its_values_are() -> None:
    flat = xr.Dataset({"accuracy": (("seed", "step"), np.full((2, 3), 0.25))}, {"seed": [0, 1], "step": [0, 5, 10]})
    flat["accuracy"][:, 2] = 1.0
    (_, picture) = next(curves(flat, ("accuracy",), {}))
    mean = re.findall(r'd="M([^"Z]*)" fill="none" stroke="#', picture)[0]
    points = [tuple(map(float, p.split())) for p in mean.split("L")]
    assert points == [(34, 73.5), (135, 73.5), (236, 6)]  # accuracies from 0 (96) to 1 (6)


# A page of a real run --------------------------------------------------------------------------------------


class Tiny(Study):
    """A study of two lines."""

    seeds: int = 3
    varies = {"lift": (0.0, 1.0)}

    def learner(self, lift):
        import jax

        return Learner.once(lambda key: {"value": jax.random.uniform(key) + lift})

    @claim("higher", says="The lift shows.", statistic="mean", supported_if="CI > 0.5", refuted_if="CI < 0.5")
    def higher(self, e):
        low = float(e.value.sel(lift=1.0).min())
        return judge(Interval(low, low - 0.1, low + 0.1, 3), supported=low > 0.5, refuted=low < 0.5)

    def figure(self, e):
        from unseen.lab import figures

        figure, ax = figures.panels()
        ax.plot(e.lift, e.value.mean("seed"))
        return figure


TEXT = {"higher": ClaimText("higher", "The lift shows.", "mean", "CI > 0.5", "CI < 0.5")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("runs") / "tiny" / "one"
    run(Tiny(), out=str(place), registered=TEXT, quiet=True)
    return place


def test_a_finished_run_is_reported_again(finished: Path) -> None:
    first = (finished / "report.html").read_text()
    assert "Settings" in first and "The lift shows." in first and "A study of two lines." in first
    (finished / "report.html").write_text("scribbled over")
    page = rebuild(finished, {"test-report": {**PAPER, "claims": []}})
    assert Path(page).read_text().startswith("<!doctype html>")
    said: list[str] = []
    run(Tiny(), out=str(finished), registered=TEXT, quiet=True, say=said.append)
    assert said == []  # the record knows the new page: the run is whole
    assert latest("tiny", finished.parents[1]) == str(finished)


def test_what_cannot_be_reported(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no run of unseen \(there is no run.json\)"):
        rebuild(tmp_path)
    with pytest.raises(UserError, match="There is no finished run of tiny"):
        latest("tiny", tmp_path)
    for name in ("run.json", "evidence.nc", "verdicts.json", "figure.svg"):
        kept = (finished / name).read_bytes()
        (finished / name).write_bytes(kept[: len(kept) // 2])
        with pytest.raises(UserError, match=f"{name} is damaged"):
            rebuild(finished)
        (finished / name).write_bytes(kept)
    record = json.loads((finished / "run.json").read_text())
    assert record["status"] == "done"
