"""Contact sheets: there is one of every world, with a row for each of its axes."""

import pytest

pytest.importorskip("gymnax", reason="needs the extra control")

from unseen.atlas import shown
from unseen.atlas.worlds import worlds
from unseen.worlds.control.sheets import SHEETS, sheet

ELSEWHERE = {"ContextMDP": "ContextPendulum", "Swimmer": "Embodiments"}  # an abstract one, and the bodies of another


def test_every_world_of_the_family_has_a_sheet_that_comes_with_the_atlas() -> None:
    control = [world["name"] for world in worlds() if world["module"].startswith("unseen.worlds.control")]
    assert {ELSEWHERE.get(name, name) for name in control} == set(SHEETS)
    assert {file.stem for file in (shown.SHEETS / "control").glob("*.png")} == set(SHEETS)


@pytest.mark.parametrize("name", ["Playroom", "ChangingTask"])
def test_a_row_is_an_axis(name: str) -> None:
    rows = SHEETS[name]()
    figure = sheet(rows)
    columns = max(len(row.pictures) for row in rows)
    assert len(figure.axes) == columns * len(rows)
    for i, row in enumerate(rows):
        line = figure.axes[i * columns : (i + 1) * columns]
        assert line[0].get_ylabel() == row.axis
        assert [ax.get_title() for ax in line if ax.get_title()] == [caption for caption, _ in row.pictures]
        assert all(bool(ax.get_images()) == bool(ax.get_title()) for ax in line)
