"""Charts as inline SVG by matplotlib, without dates, random ids or fonts: equal numbers give equal text."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

INK, GRID, PALE = "#1d2733", "#d6dde4", "#8fbcd6"
COLOURS = ("#0b6fa4", "#c2571a", "#3d7d4a", "#7a4f9a")
NUMBERED = 15  # classes a side up to which a heat map's cells carry their number
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rsvlm",
    "text.parse_math": False,  # a label may hold a dollar sign
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}
UNDATED = dict.fromkeys(("Date", "Creator", "Format", "Type"))


@dataclass(frozen=True, slots=True)
class Line:
    """A named line through points; `guide` draws it thin and dashed, as what chance or a bound would give."""

    label: str
    x: NDArray[np.float64]  # (P,)
    y: NDArray[np.float64]  # (P,)
    guide: bool = False
    colour: int = 0


def line_chart(lines: Sequence[Line], *, x: str, y: str) -> str:
    """Lines over common axes named `x` and `y`, y from 0 to 100; a single point is drawn as one."""

    def paint(axes: Any) -> None:
        for line in lines:
            look = {"linestyle": "--", "linewidth": 1.0} if line.guide else {"linewidth": 1.8}
            marker = "o" if len(line.x) == 1 else None
            colour = COLOURS[line.colour % len(COLOURS)]
            axes.plot(line.x, line.y, label=line.label, color=colour, marker=marker, **look)
        axes.set(xlabel=x, ylabel=y, ylim=(0, 102))
        axes.grid(visible=True)
        if len(lines) > 1:
            axes.legend()

    return _drawn(paint, (5.2, 3.4))


def heat_chart(shares: NDArray[np.float64], rows: Sequence[str], columns: Sequence[str], *, x: str, y: str) -> str:
    """Percentages (R, C) as a heat map, the first row on top; NaN stays white."""

    def paint(axes: Any) -> None:
        axes.pcolormesh(shares, cmap="Blues", vmin=0, vmax=100, edgecolors="white", linewidth=0.4)
        axes.set(xlabel=x, ylabel=y, aspect="equal")
        axes.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=90)
        axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
        axes.invert_yaxis()
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        if max(shares.shape) <= NUMBERED:
            for (row, column), share in np.ndenumerate(shares):
                if np.isfinite(share):
                    colour = "white" if share > 60 else INK
                    axes.text(column + 0.5, row + 0.5, f"{share:.0f}", ha="center", va="center", color=colour)

    side = 1.9 + 0.22 * max(len(rows), len(columns), 10)
    return _drawn(paint, (side + 0.8, side))


def bar_chart(
    names: Sequence[str],
    values: NDArray[np.float64],
    bounds: NDArray[np.float64],
    *,
    x: str,
) -> str:
    """Horizontal bars of percentages (N,) with intervals (N, 2) of low and high; NaN has neither bar nor whisker."""

    def paint(axes: Any) -> None:
        places = np.arange(len(names))
        axes.barh(places, np.nan_to_num(values), color=PALE, height=0.62)
        known = np.isfinite(values) & np.isfinite(bounds).all(axis=1)
        axes.hlines(places[known], bounds[known, 0], bounds[known, 1], color=INK, linewidth=1.2)
        axes.set_yticks(places, names)
        axes.set(xlabel=x, xlim=(0, 102), ylim=(len(names) - 0.4, -0.6))
        axes.grid(visible=True, axis="x")
        axes.set_axisbelow(True)
        axes.tick_params(axis="y", length=0)

    return _drawn(paint, (5.2, 0.8 + 0.24 * max(len(names), 4)))


def scatter_chart(across: NDArray[np.float64], up: NDArray[np.float64], colours: Any, *, x: str, y: str) -> str:
    """Points (P,) of percentages against percentages with the line where both are equal.

    `colours` is one colour for all or (P, 3) with values of 0 to 1.
    """

    def paint(axes: Any) -> None:
        axes.plot((0, 100), (0, 100), color=INK, linestyle="--", linewidth=0.8)
        axes.scatter(across, up, c=colours, s=18, alpha=0.85, edgecolors=INK, linewidths=0.3)
        axes.set(xlabel=x, ylabel=y, xlim=(-2, 102), ylim=(-2, 102), aspect="equal")
        axes.grid(visible=True)

    return _drawn(paint, (4.2, 3.9))


def _drawn(paint: Callable[[Any], None], inches: tuple[float, float]) -> str:
    """One <svg> element for a page; its only addresses are the names of its XML namespaces."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    out = io.StringIO()
    with rc_context(STYLE):
        figure = Figure(figsize=inches, layout="constrained")
        FigureCanvasSVG(figure)
        paint(figure.add_subplot())
        figure.savefig(out, format="svg", metadata=UNDATED)
    text = out.getvalue()
    return text[text.index("<svg") :]
