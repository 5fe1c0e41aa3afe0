"""A training run's log as one picture: a small panel a column over the steps."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any

import numpy as np

from rsvlm.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

STEP = "step"
SCHEDULE = "learning_rate"  # set, not measured: nothing to smooth
FIRST = ("loss", "val_", "scale", SCHEDULE)  # how columns begin that come first, in this order
SMOOTHED = 40  # the running mean spans this part of the rows
MOST = 0.5  # share of rows with a value above which a column has a running mean
MANY = 1000  # rows above which the thin line lies in the SVG as pixels, not as points
RAW, MEAN, INK, GRID = "#9fc3d9", "#0b4f75", "#1d2733", "#d6dde4"
WIDTH, PANEL, MARGIN = 7.0, 1.05, 0.5  # inches: picture, height of a panel, room below for the steps
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rsvlm",
    "text.parse_math": False,  # a column's name may hold a dollar sign
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.edgecolor": GRID,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
}
UNDATED: dict[str, dict[str, None]] = {  # by the end of the file's name
    ".png": {"Software": None},
    ".svg": dict.fromkeys(("Date", "Creator", "Format", "Type")),
}


def plot_log(log: Path, out: Path) -> Path:
    """Draw every column of a log over its column "step" as SVG or PNG, and return `out`; equal logs, equal bytes.

    A column with a value in most rows is a thin line under its running mean (the learning rate has no mean), one with
    few, such as a validation every few hundred steps, a line through dots; one with none is left out. A loss that is
    positive over a decade or more has a log scale.

    Raises:
        ConfigError: the log is missing, has no rows, no column to draw or a value that is no number, or `out` is
            neither .svg nor .png.
    """
    if out.suffix not in UNDATED:
        raise ConfigError(f"a plot is written as {' or '.join(UNDATED)}; got {out.name}")
    columns = read_log(log)
    steps = columns.pop(STEP)
    known = {name: values for name, values in columns.items() if np.isfinite(values).any()}
    if not known:
        raise ConfigError(f"{log} has no column with numbers beside {STEP}; give the log.csv of a training run")
    _draw(steps, {name: known[name] for name in sorted(known, key=_rank)}, out)
    return out


def read_log(log: Path) -> dict[str, NDArray[np.float64]]:
    """The columns of a log by name, (N,) each, in order of steps; the later row where a step stands twice.

    An empty field is NaN. Raises ConfigError for a missing file, a log without steps or rows, a value that is no
    number.
    """
    try:
        with log.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            names = list(reader.fieldnames or ())
            rows = [[_number(log, reader.line_num, name, row[name]) for name in names] for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{log} cannot be read as a training log: {error}") from error
    if STEP not in names or not rows:
        wanted = "rows" if STEP in names else f"column {STEP!r}"
        raise ConfigError(f"{log} has no {wanted}; give the log.csv of a run that has made a step")
    table = np.array(rows)
    at = table[:, names.index(STEP)]
    if not np.isfinite(at).all():
        raise ConfigError(f"{log} has a row without a step; take that row out")
    last = len(at) - 1 - np.unique(at[::-1], return_index=True)[1]
    return {name: table[last, position] for position, name in enumerate(names)}


def running_mean(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Mean (N,) of the finite values up to window // 2 places before and after each; NaN where there is none."""
    reach = window // 2
    finite = np.isfinite(values)
    sums, counts = (
        np.concatenate(([0.0], np.cumsum(part))) for part in (np.where(finite, values, 0), finite.astype(float))
    )
    first = np.maximum(np.arange(len(values)) - reach, 0)
    end = np.minimum(np.arange(len(values)) + reach + 1, len(values))
    with np.errstate(invalid="ignore"):
        mean: NDArray[np.float64] = (sums[end] - sums[first]) / (counts[end] - counts[first])
    return mean


def is_over_a_decade(values: NDArray[np.float64]) -> bool:
    """Whether the finite values are positive and the largest is ten times the smallest or more."""
    finite = values[np.isfinite(values)]
    return bool(finite.size and finite.min() > 0 and finite.max() >= 10 * finite.min())


def _number(log: Path, line: int, name: str, field: str | None) -> float:
    try:
        return float(field) if field else np.nan
    except ValueError as error:
        raise ConfigError(f"{log} line {line}: {name} must be a number or empty; got {field!r}") from error


def _rank(name: str) -> int:
    return next((rank for rank, start in enumerate(FIRST) if name.startswith(start)), len(FIRST))


def _draw(steps: NDArray[np.float64], columns: dict[str, NDArray[np.float64]], out: Path) -> None:
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    out.parent.mkdir(parents=True, exist_ok=True)
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, PANEL * len(columns) + MARGIN), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(len(columns), sharex=True, squeeze=False)[:, 0]
        for axes, (name, values) in zip(panels, columns.items(), strict=True):
            _panel(axes, name, steps, values)
        panels[-1].set_xlabel(STEP)
        figure.savefig(out, dpi=150, metadata=UNDATED[out.suffix])


def _panel(axes: Any, name: str, steps: NDArray[np.float64], values: NDArray[np.float64]) -> None:
    from matplotlib.ticker import LogLocator

    finite = np.isfinite(values)
    if len(values) == 1 or finite.mean() <= MOST:
        axes.plot(steps[finite], values[finite], color=MEAN, linewidth=1.0, marker="o", markersize=3)
    elif name.startswith(SCHEDULE):
        axes.plot(steps, values, color=MEAN, linewidth=1.4)
    else:
        axes.plot(steps, values, color=RAW, linewidth=0.6, rasterized=len(values) > MANY)
        axes.plot(steps, running_mean(values, len(values) // SMOOTHED), color=MEAN, linewidth=1.4)
    if name.startswith("loss") and is_over_a_decade(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
    axes.set_title(name, loc="left", fontsize=9, pad=3)
    axes.grid(visible=True)
