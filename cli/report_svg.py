"""What the figures of all reports share: SVG that stands in a page and takes the page's colours and fonts."""

import io
import re
from html import escape
from itertools import chain
from typing import Any, Literal

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Grid = list[list[Axes]]
Sharing = Literal["none", "all", "row", "col"]

SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # of the schedulers; all colours are Okabe and Ito's
DASHES = ("-", (0, (5, 1.6)), (0, (1.5, 1.2)), "-.")
INK, MUTED, RULE, RUNNING, WAITING, KV = "#1b1f24", "#59636e", "#d1d9e0", "#8c959f", "#cc7aa8", "#009f74"
_VARIABLES = {
    **{colour: f"var(--series-{index})" for index, colour in enumerate(SERIES)},
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    RULE: "var(--rule)",
    RUNNING: "var(--running)",
    WAITING: "var(--waiting)",
    KV: "var(--kv)",
}
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 7,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "svg.fonttype": "none",
    "text.parse_math": False,
}
METRICS = {
    "ttft_s": ("Time to first token", "s", 1),
    "tpot_s": ("Time per output token", "ms", 1000),
    "e2e_s": ("End-to-end latency", "s", 1),
}
"""Name, unit of its axis, and units in a second."""
_MAX_CURVE_POINTS = 240
_MAX_BINS = 160
_WIDTH = 11.5  # inches at 72 units each: the page's text width


def subplots(
    rows: int, columns: int, row_height: float, sharex: Sharing = "none", sharey: Sharing = "none"
) -> tuple[Figure, Grid]:
    """A figure as wide as the page; to be made and written under `STYLE`."""
    figure = Figure((_WIDTH, 0.55 + rows * row_height), layout="constrained", facecolor="none")
    grid: Grid = figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey).tolist()
    for axes in chain.from_iterable(grid):
        axes.set_facecolor("none")
    return figure, grid


LEGEND_COLUMNS = 3
"""On a narrow screen a figure is scrolled sideways: what its first part does not show of the legend is out of sight."""


def legend(figure: Figure, *, of: int) -> None:
    """Name each colour once, however many panels it is in, unless ``of`` says that there is only one."""
    if of > 1:
        pairs = (zip(*axes.get_legend_handles_labels(), strict=True) for axes in figure.axes)
        handles = {label: handle for handle, label in chain.from_iterable(pairs)}
        columns = min(of, LEGEND_COLUMNS)
        figure.legend(handles.values(), handles, loc="outside upper left", ncols=columns, fontsize=9, borderaxespad=0)


def distribution(values: Floats, num_calls: int) -> tuple[Floats, Floats]:
    """Points of the empirical distribution of values among ``num_calls``: quantiles, close together at both ends."""
    known = np.sort(values)
    if not len(known):
        return np.empty(0), np.empty(0)
    angle = np.linspace(0, np.pi, min(len(known), _MAX_CURVE_POINTS))
    at = np.unique(np.rint((1 - np.cos(angle)) / 2 * (len(known) - 1)).astype(np.intp))
    return np.maximum(known[at], 1e-4), (at + 1) / num_calls


def binned(time_s: Floats, values: Floats) -> tuple[Floats, Floats]:
    """Means over equal stretches of time, where there are more values than a panel can show."""
    if len(time_s) <= _MAX_BINS:
        return time_s, values
    edges = np.linspace(time_s[0], time_s[-1], _MAX_BINS + 1)
    bins = np.clip(np.searchsorted(edges, time_s, side="right") - 1, 0, _MAX_BINS - 1)
    counts = np.bincount(bins, minlength=_MAX_BINS)
    filled = counts > 0
    sums = np.bincount(bins, weights=values, minlength=_MAX_BINS)
    return ((edges[:-1] + edges[1:]) / 2)[filled], sums[filled] / counts[filled]


def log_scale(axes: Axes, *, of: Literal["x", "y"] = "x") -> None:
    """Make an axis logarithmic, with round numbers."""
    axes.set(**{f"{of}scale": "log"})
    low, high = axes.get_xlim() if of == "x" else axes.get_ylim()
    axis: Axis = axes.xaxis if of == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,), numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def percent(share: float) -> str:
    """Whole percent, except that what is not quite all or nothing does not look so."""
    percent = 100 * share
    return f"{percent:.1f}" if 0 < percent < 0.5 or 99.5 <= percent < 100 else f"{percent:.0f}"


def as_svg(figure: Figure, salt: str, description: str) -> str:
    """Write a figure as an ``svg`` element: the same bytes for the same data, colours by the page's variables."""
    buffer = io.StringIO()
    without = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({"svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", metadata=without)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)  # it is for every element
    # Names of groups occur in every figure of a page again, and nothing refers to them.
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r'(?<= d=")[^"]*', lambda path: re.sub(r"-?\d+\.\d+", _short, path[0]), text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    head = re.search(r'viewBox="[^"]*"', text)
    assert head is not None  # matplotlib always writes one
    opening = (
        f'<svg {head[0]} xmlns:xlink="http://www.w3.org/1999/xlink" role="img" aria-label="{escape(description)}">'
    )
    return opening + re.sub(r"^<svg[^>]*>", "", text, count=1).strip()


def _short(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")
