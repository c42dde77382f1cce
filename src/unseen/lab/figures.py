"""One plotting style for every study: legible at 600 pixels, safe for colour-blind readers."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's palette (Color Universal Design, 2008), black and yellow last.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
SEQUENTIAL = "cividis"
STYLE: Any = {
    "font.size": 13,
    "axes.titlesize": 14,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "lines.linewidth": 2.0,
    "legend.frameon": False,
    "legend.fontsize": 11,
    "figure.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "unseen",
}


def panels(
    columns: int = 1, rows: int = 1, *, width: float = 5.0, height: float = 4.0, **kwargs: Any
) -> tuple[Figure, Any]:
    """A figure with `rows` x `columns` axes in the laboratory's style; axes as matplotlib's `subplots`
    returns them. Sizes in inches a panel."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
        axes = figure.subplots(rows, columns, **kwargs)
    return figure, axes


def curve(
    ax: Axes,
    values: xr.DataArray,
    *,
    x: str = "step",
    label: str = "",
    color: str | None = None,
    **kwargs: Any,
) -> None:
    """Mean over seeds along `x` with the band of the individual seeds (minimum to maximum).

    Args:
        values: dims (seed, x), in any order.
    """
    values = values.transpose("seed", x)
    mean = values.mean("seed", skipna=False)
    line = ax.plot(values[x], mean, label=label or None, color=color, **kwargs)[0]
    ax.fill_between(values[x], values.min("seed"), values.max("seed"), color=line.get_color(), alpha=0.18, linewidth=0)


def dots(
    ax: Axes, position: float | int, values: Any, *, color: str | None = None, label: str = "", width: float = 0.16
) -> None:
    """One dot a seed beside its mean, at one categorical position; a poor man's strip plot that shows n."""
    values = np.asarray(values, dtype=float).ravel()
    spread = np.linspace(-width, width, values.size) if values.size > 1 else np.zeros(1)
    ax.plot(position + spread, values, "o", ms=4, alpha=0.55, color=color)
    finite = values[np.isfinite(values)]
    if finite.size:
        ax.plot(
            [position - 1.6 * width, position + 1.6 * width],
            [finite.mean()] * 2,
            color=color,
            lw=3,
            label=label or None,
        )
