"""The figures of a report, as SVG that stands in a page and takes the page's colours and fonts."""

import io
import re
from collections.abc import Sequence
from html import escape
from itertools import chain
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter
from numpy.typing import NDArray

from inframind.traces import by_tier

from .report_runs import Panels, seconds

Floats = NDArray[np.float64]
Grid = list[list[Axes]]
Sharing = Literal["none", "all", "row", "col"]

_SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # of the schedulers; all colours are Okabe and Ito's
_DASHES = ("-", (0, (5, 1.6)), (0, (1.5, 1.2)), "-.")
_INK, _MUTED, _RULE, _RUNNING, _WAITING, _KV = "#1b1f24", "#59636e", "#d1d9e0", "#8c959f", "#cc7aa8", "#009f74"
_VARIABLES = {
    **{colour: f"var(--series-{index})" for index, colour in enumerate(_SERIES)},
    _INK: "var(--ink)",
    _MUTED: "var(--muted)",
    _RULE: "var(--rule)",
    _RUNNING: "var(--running)",
    _WAITING: "var(--waiting)",
    _KV: "var(--kv)",
}
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 7,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": _MUTED,
    "axes.titlecolor": _INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": _RULE,
    "grid.linewidth": 0.6,
    "text.color": _INK,
    "xtick.color": _RULE,
    "ytick.color": _RULE,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _MUTED,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "svg.fonttype": "none",
    "text.parse_math": False,
}
_METRICS = {"ttft_s": "Time to first token", "tpot_s": "Time per output token", "e2e_s": "End-to-end latency"}
_MAX_POINTS = 240
_WIDTH = 11.5  # inches at 72 units each: the page's text width


def tier_bars(panels: Panels) -> str:
    """On-time share of each tier, schedulers side by side; a panel for each load."""
    tables = {key: by_tier(run.calls) for key, run in panels.runs.items()}
    budgets = sorted({budget for tiers in tables.values() for budget in tiers["budget_s"]})
    place = {budget: index for index, budget in enumerate(budgets)}
    columns = min(len(panels.loads), 3)
    rows = -(-len(panels.loads) // columns)
    with rc_context(_STYLE):
        figure, grid = _grid(rows, columns, 2.6 if columns > 1 else 2.9, sharex="all", sharey="all")
        width = 0.8 / len(panels.schedulers)
        for axes, load in zip(chain.from_iterable(grid), panels.loads, strict=False):
            for index, run in panels.of_load(load):
                tiers = tables[load, run.scheduler]
                offset = (index - (len(panels.schedulers) - 1) / 2) * width
                at = np.array([place[budget] for budget in tiers["budget_s"]]) + offset
                spread = [tiers["on_time"] - tiers["on_time_low"], tiers["on_time_high"] - tiers["on_time"]]
                axes.bar(at, tiers["on_time"], 0.9 * width, color=_SERIES[index], label=run.scheduler)
                axes.errorbar(at, tiers["on_time"], spread, fmt="none", ecolor=_INK, elinewidth=0.9, capsize=2)
                for x, share, high in zip(at, tiers["on_time"], tiers["on_time_high"], strict=True):
                    axes.text(x, high + 0.02, f"{100 * share:.0f}", ha="center", fontsize=7.5, color=_MUTED)
            shares = ", ".join(f"{run.scheduler} {run.total['on_time']:.0%}" for _, run in panels.of_load(load))
            axes.set_title(f"Load {load}: {shares} on time")
            axes.set_xticks(range(len(budgets)), [f"{budget:g}" for budget in budgets])
            axes.set_ylim(0, 1.12)
            axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
            axes.tick_params(length=0)
            axes.grid(visible=False, axis="x")
            axes.set_xlabel("latency budget (s)")
        for axes in list(chain.from_iterable(grid))[len(panels.loads) :]:
            axes.set_visible(False)
        for row in grid:
            row[0].set_ylabel("on time")
        _legend(figure, grid[0][0], panels)
        return _svg(figure, "tiers", "On-time share of each latency budget, for each load and scheduler")


def latency_curves(panels: Panels) -> str:
    """Cumulative distributions of TTFT, TPOT and E2E; a row for each load, one scale for each column."""
    with rc_context(_STYLE):
        figure, grid = _grid(len(panels.loads), len(_METRICS), 2.35, sharex="col", sharey="all")
        for row, load in zip(grid, panels.loads, strict=True):
            for axes, (column, name) in zip(row, _METRICS.items(), strict=True):
                medians = []
                for index, run in panels.of_load(load):
                    known, share = _cumulative(run.calls, column)
                    axes.plot(known, share, color=_SERIES[index], linestyle=_DASHES[index], label=run.scheduler)
                    median = run.total[f"{column.removesuffix('_s')}_p50_s"]
                    medians.append(f"{run.scheduler} {seconds(median)}")
                axes.set_title(f"{name}, load {load}\nmedian {', '.join(medians)}")
        for axes, name in zip(grid[-1], _METRICS.values(), strict=True):
            _log_seconds(axes)
            axes.set_xlabel(f"{name.lower()} (s)")
        for axes, *_ in grid:
            axes.set_ylabel("share of calls")
            axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
            axes.set_ylim(0, 1.02)
        _legend(figure, grid[0][0], panels)
        return _svg(figure, "latency", "Cumulative distributions of TTFT, TPOT and E2E for each load and scheduler")


def queues(panels: Panels, load: str, servers: Sequence[str]) -> str:
    """Queue depth and KV usage over time; a row for each server, the schedulers beside each other."""
    runs = panels.of_load(load)
    longest_s = max((float(run.samples["time_s"].max()) for _, run in runs if len(run.samples)), default=0.0)
    unit, scale = ("min", 60) if longest_s > 900 else ("s", 1)
    with rc_context(_STYLE):
        figure, grid = _grid(len(servers), 2 * len(runs), 1.45, sharex="all")
        for row, server in zip(grid, servers, strict=True):
            for column, (_, run) in enumerate(runs):
                depth, kv = row[column], row[len(runs) + column]
                looks = run.samples[run.samples["server"] == server]
                _draw_depth(depth, looks, scale)
                _draw_kv(kv, looks, scale)
                most = f"{looks['waiting'].max():,} waiting" if len(looks) else "no samples"
                peak = f"{looks['kv_usage'].max():.0%}".replace("%", " %") if len(looks) else "no samples"
                depth.set_title(f"{run.scheduler}: at most {most}")
                kv.set_title(f"{run.scheduler}: KV cache peaks at {peak}")
                if column:
                    depth.sharey(row[0])
                    depth.tick_params(labelleft=False)
                if column or len(runs) > 1:
                    kv.tick_params(labelleft=column == 0)
            row[0].set_ylabel(server, color=_INK)
        for axes in grid[-1]:
            axes.set_xlabel(f"time since the run began ({unit})")
        figure.legend(
            *grid[0][0].get_legend_handles_labels(), loc="outside upper left", ncols=2, fontsize=9, borderaxespad=0
        )
        return _svg(figure, f"queues {load}", f"Queue depth and KV cache usage of each server at load {load}")


def _grid(
    rows: int, columns: int, row_height: float, sharex: Sharing = "none", sharey: Sharing = "none"
) -> tuple[Figure, Grid]:
    figure = Figure((_WIDTH, 0.55 + rows * row_height), layout="constrained", facecolor="none")
    grid: Grid = figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey).tolist()
    for axes in chain.from_iterable(grid):
        axes.set_facecolor("none")
    return figure, grid


def _legend(figure: Figure, axes: Axes, panels: Panels) -> None:
    if len(panels.schedulers) > 1:
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=len(labels), fontsize=9, borderaxespad=0)


def _cumulative(calls: pd.DataFrame, column: str) -> tuple[Floats, Floats]:
    """Points of an empirical distribution: some quantiles, close together at both ends.

    All calls count, and one that failed never arrives: its curve ends below 1. But a call that cannot have a time per
    token, because it had one token, does not count for it.
    """
    done = calls["outcome"] == "finished"
    known = np.sort(calls.loc[done, column].dropna().to_numpy(dtype=np.float64))
    if not len(known):
        return np.empty(0), np.empty(0)
    num_calls = len(calls) - int((done & calls[column].isna()).sum())
    angle = np.linspace(0, np.pi, min(len(known), _MAX_POINTS))
    at = np.unique(np.rint((1 - np.cos(angle)) / 2 * (len(known) - 1)).astype(np.intp))
    return np.maximum(known[at], 1e-4), (at + 1) / num_calls


def _binned(time_s: Floats, values: Floats) -> tuple[Floats, Floats]:
    """Means over equal stretches of time, where there are more values than a panel can show."""
    if len(time_s) <= _MAX_POINTS:
        return time_s, values
    edges = np.linspace(time_s[0], time_s[-1], _MAX_POINTS + 1)
    bins = np.clip(np.searchsorted(edges, time_s, side="right") - 1, 0, _MAX_POINTS - 1)
    counts = np.bincount(bins, minlength=_MAX_POINTS)
    filled = counts > 0
    sums = np.bincount(bins, weights=values, minlength=_MAX_POINTS)
    return ((edges[:-1] + edges[1:]) / 2)[filled], sums[filled] / counts[filled]


def _draw_depth(axes: Axes, looks: pd.DataFrame, scale: float) -> None:
    time_s = looks["time_s"].to_numpy(dtype=np.float64)
    at, running = _binned(time_s, looks["running"].to_numpy(dtype=np.float64))
    _, waiting = _binned(time_s, looks["waiting"].to_numpy(dtype=np.float64))
    axes.stackplot(at / scale, running, waiting, labels=["running", "waiting"], colors=[_RUNNING, _WAITING])
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))


def _draw_kv(axes: Axes, looks: pd.DataFrame, scale: float) -> None:
    at, usage = _binned(looks["time_s"].to_numpy(dtype=np.float64), looks["kv_usage"].to_numpy(dtype=np.float64))
    axes.fill_between(at / scale, usage, color=_KV, alpha=0.25, linewidth=0)
    axes.plot(at / scale, usage, color=_KV, linewidth=1.1)
    axes.set_ylim(0, 1.03)
    axes.set_yticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])


def _log_seconds(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(numticks=8))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _svg(figure: Figure, salt: str, description: str) -> str:
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
