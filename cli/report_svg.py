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
from matplotlib.transforms import BboxBase
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
_WIDTH = 11.5  # inches: the page's text width
_UNITS = 72  # of an SVG in an inch, as matplotlib writes it
_MARGIN = 2.0  # units around a panel


def subplots(
    rows: int,
    columns: int,
    row_height: float,
    sharex: Sharing = "none",
    sharey: Sharing = "none",
    *,
    width: float = 1.0,
) -> tuple[Figure, Grid]:
    """A figure to be made and written under `STYLE`; ``width`` is relative to the page's, ``row_height`` in inches."""
    size = (width * _WIDTH, 0.25 + rows * row_height)
    figure = Figure(size, dpi=_UNITS, layout="constrained", facecolor="none")
    grid: Grid = figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey).tolist()
    for axes in chain.from_iterable(grid):
        axes.set_facecolor("none")
    return figure, grid


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


def as_html(figure: Figure, salt: str, description: str, *, in_panels: bool = False) -> str:
    """Write a figure and, if it has several labels, its legend above it; under `STYLE`.

    The same text for the same data; colours are the page's variables.

    Parameters
    ----------
    salt
        Another one for each figure of a page: the names of its parts are made from it.
    description
        For those who do not see it.
    in_panels
        Each panel as an SVG of its own, so that a narrow page shows them below each other. Their titles must say all.
    """
    view_box, text = _drawn(figure, salt)
    role = f'role="img" aria-label="{escape(description)}"'
    if in_panels:
        return f'{_legend(figure, salt)}<div class="panels" {role}>{_panels(figure, text)}</div>'
    return f"{_legend(figure, salt)}{_svg(view_box, _nameless(text), role)}"


def _legend(figure: Figure, salt: str) -> str:
    """Each label once, however many panels it is in, as a list that breaks where the page ends."""
    pairs = (zip(*axes.get_legend_handles_labels(), strict=True) for axes in figure.axes)
    handles = {label: handle for handle, label in chain.from_iterable(pairs)}
    if len(handles) < 2:
        return ""
    entries = []
    for label, handle in handles.items():
        swatch = Figure((26 / _UNITS, 12 / _UNITS), facecolor="none")
        swatch.legend([handle], [""], loc="center", borderpad=0, handletextpad=0, fontsize=9)
        view_box, text = _drawn(swatch, f"{salt} {label}")
        svg = _svg(view_box, _nameless(text), 'aria-hidden="true"')
        entries.append(f"<li>{svg}{escape(label)}</li>")
    return f'<ul class="legend">{"".join(entries)}</ul>'


def _panels(figure: Figure, text: str) -> str:
    """The drawn panels of a figure, each cut out as wide as its column and as high as its row."""
    boxes = {_place(axes): _extent(axes) for axes in figure.axes if axes.get_visible()}
    # matplotlib indents by a blank a level: an SVG holds the figure, and that its axes.
    drawn = re.findall(r'^  <g id="axes_.*?^  </g>$', text, flags=re.DOTALL | re.MULTILINE)
    shared = "".join(re.findall(r"^ <defs>.*?^ </defs>$", text, flags=re.DOTALL | re.MULTILINE))
    svgs: list[str] = []
    for (row, column), part in zip(boxes, drawn, strict=True):
        beside = [box for place, box in boxes.items() if place[0] == row]
        below = [box for place, box in boxes.items() if place[1] == column]
        left, right = min(box.x0 for box in below) - _MARGIN, max(box.x1 for box in below) + _MARGIN
        bottom, top = min(box.y0 for box in beside) - _MARGIN, max(box.y1 for box in beside) + _MARGIN
        view_box = f'viewBox="{left:.1f} {figure.bbox.height - top:.1f} {right - left:.1f} {top - bottom:.1f}"'
        content = _nameless(part) if svgs else _nameless(part) + shared
        svgs.append(_svg(view_box, content, f'style="--units: {right - left:.0f}"'))
    return "".join(svgs)


def _place(axes: Axes) -> tuple[int, int]:
    """Row and column."""
    spec = axes.get_subplotspec()
    assert spec is not None  # `subplots` made it
    return spec.rowspan.start, spec.colspan.start


def _extent(axes: Axes) -> BboxBase:
    """With all that is written around it."""
    box = axes.get_tightbbox()
    assert box is not None  # it is shown
    return box


def _drawn(figure: Figure, salt: str) -> tuple[str, str]:
    """What matplotlib writes of a figure: ``viewBox="..."``, and what is in the SVG, with the page's colours."""
    buffer = io.StringIO()
    without = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({"svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", metadata=without)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)  # it is for every element
    text = re.sub(r'(?<= d=")[^"]*', lambda path: re.sub(r"-?\d+\.\d+", _short, path[0]), text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    head = re.search(r'viewBox="[^"]*"', text)
    assert head is not None  # matplotlib always writes one
    return head[0], re.sub(r"^<svg[^>]*>", "", text, count=1).strip().removesuffix("</svg>")


def _nameless(text: str) -> str:
    """Names of groups occur in every figure of a page again, and nothing refers to them."""
    return re.sub(r'<g id="[^"]*"', "<g", text)


def _svg(view_box: str, text: str, more: str) -> str:
    return f'<svg {view_box} xmlns:xlink="http://www.w3.org/1999/xlink" {more}>{text.strip()}</svg>'


def _short(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")
