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
_METRICS = {
    "ttft_s": ("Time to first token", "s", 1),
    "tpot_s": ("Time per output token", "ms", 1000),
    "e2e_s": ("End-to-end latency", "s", 1),
}
"""Name, unit of its axis, and units in a second."""
_MAX_CURVE_POINTS = 240
_MAX_BINS = 160
_KV_TOPS = (0.1, 0.2, 0.5, 1.0)
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
        width = min(0.4, 0.8 / len(panels.schedulers))
        for axes, load in zip(chain.from_iterable(grid), panels.loads, strict=False):
            for index, run in panels.of_load(load):
                tiers = tables[load, run.scheduler]
                offset = (index - (len(panels.schedulers) - 1) / 2) * width
                at = np.array([place[budget] for budget in tiers["budget_s"]]) + offset
                spread = [tiers["on_time"] - tiers["on_time_low"], tiers["on_time_high"] - tiers["on_time"]]
                axes.bar(at, tiers["on_time"], 0.9 * width, color=_SERIES[index], label=run.scheduler)
                axes.errorbar(at, tiers["on_time"], spread, fmt="none", color=_INK, elinewidth=0.9, capsize=2)
                for x, share, high in zip(at, tiers["on_time"], tiers["on_time_high"], strict=True):
                    axes.text(x, high + 0.02, _percent(share), ha="center", fontsize=7.5, color=_MUTED)
            shares = ", ".join(f"{run.scheduler} {_percent(run.total['on_time'])} %" for _, run in panels.of_load(load))
            axes.set_title(f"Load {load}: {shares} on time")
            axes.set_xticks(range(len(budgets)), [f"{budget:g}" for budget in budgets])
            axes.set_ylim(0, 1.12)
            axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
            axes.tick_params(length=0, labelbottom=True)
            axes.grid(visible=False, axis="x")
            axes.set_xlabel("latency budget (s)")
        for axes in list(chain.from_iterable(grid))[len(panels.loads) :]:
            axes.set_visible(False)
        for row in grid:
            row[0].set_ylabel("on time")
        _legend(figure, of=len(panels.schedulers))
        return _svg(figure, "tiers", "On-time share of each latency budget, for each load and scheduler")


def latency_curves(panels: Panels, budgets_s: Sequence[float] = ()) -> str:
    """Cumulative distributions of TTFT, TPOT and E2E; a row for each load, one scale for each column.

    ``budgets_s`` are marked among the end-to-end latencies.
    """
    with rc_context(_STYLE):
        figure, grid = _grid(len(panels.loads), len(_METRICS), 2.35, sharex="col", sharey="all")
        for row, load in zip(grid, panels.loads, strict=True):
            for axes, (column, (name, _, scale)) in zip(row, _METRICS.items(), strict=True):
                medians = []
                for index, run in panels.of_load(load):
                    known, share = cumulative(run.calls, column)
                    axes.plot(known * scale, share, color=_SERIES[index], linestyle=_DASHES[index], label=run.scheduler)
                    median = run.total[f"{column.removesuffix('_s')}_p50_s"]
                    medians.append(f"{run.scheduler} {seconds(median)}")
                axes.set_title(f"{name}, load {load}\nmedian {', '.join(medians)}")
            for budget_s in budgets_s:
                row[-1].axvline(budget_s, color=_MUTED, linewidth=0.8, linestyle=":", zorder=1)
        for column_of_axes, (name, unit, _) in zip(zip(*grid, strict=True), _METRICS.values(), strict=True):
            axes = column_of_axes[-1]
            if not np.isfinite(min(each.dataLim.minposx for each in column_of_axes)):
                axes.set_xlim(1, 100)  # there is nothing to show, and a logarithmic scale must not begin at 0
            _log_scale(axes)
            axes.set_xlabel(f"{name.lower()} ({unit})")
        for axes, *_ in grid:
            axes.set_ylabel("share of calls")
            axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
            axes.set_ylim(0, 1.02)
        _legend(figure, of=len(panels.schedulers))
        return _svg(figure, "latency", "Cumulative distributions of TTFT, TPOT and E2E for each load and scheduler")


def queues(panels: Panels, load: str, servers: Sequence[str]) -> str:
    """Queue depth and KV usage over time; a row for each server, the schedulers beside each other."""
    runs = panels.of_load(load)
    samples = pd.concat([run.samples for _, run in runs if len(run.samples)])
    unit, scale = ("min", 60) if samples["time_s"].max() > 900 else ("s", 1)
    kv_top = next((top for top in _KV_TOPS if samples["kv_usage"].max() <= top), 1.0)
    with rc_context(_STYLE):
        figure, grid = _grid(len(servers), 2 * len(runs), 1.45, sharex="all")
        for row, server in zip(grid, servers, strict=True):
            of_server = samples[samples["server"] == server]
            depth_top = 1.05 * max(1, (of_server["waiting"] + of_server["running"]).max() if len(of_server) else 1)
            for column, (_, run) in enumerate(runs):
                depth, kv = row[column], row[len(runs) + column]
                looks = run.samples[run.samples["server"] == server]
                _draw_depth(depth, looks, scale)
                _draw_kv(kv, looks, scale)
                depth.set_ylim(0, depth_top)
                kv.set_ylim(0, 1.03 * kv_top)
                kv.set_yticks([0, kv_top / 2, kv_top], [f"{100 * tick:g} %" for tick in (0, kv_top / 2, kv_top)])
                for axes in (depth, kv):
                    axes.tick_params(labelleft=column == 0)
                for axes, title in zip((depth, kv), _queue_titles(run.scheduler, looks, len(runs)), strict=True):
                    axes.set_title(title)
            row[0].set_ylabel(server if len(server) <= 18 else f"{server[:17]}…", color=_INK)
        for axes in grid[-1]:
            axes.set_xlim(left=0)
            axes.set_xlabel(f"time since the run began ({unit})" if len(runs) < 3 else f"time ({unit})")
        _legend(figure, of=2)
        return _svg(figure, f"queues {load}", f"Queue depth and KV cache usage of each server at load {load}")


def _grid(
    rows: int, columns: int, row_height: float, sharex: Sharing = "none", sharey: Sharing = "none"
) -> tuple[Figure, Grid]:
    figure = Figure((_WIDTH, 0.55 + rows * row_height), layout="constrained", facecolor="none")
    grid: Grid = figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey).tolist()
    for axes in chain.from_iterable(grid):
        axes.set_facecolor("none")
    return figure, grid


def _legend(figure: Figure, *, of: int) -> None:
    """Name each colour once, however many panels it is in, unless ``of`` says that there is only one."""
    if of > 1:
        pairs = (zip(*axes.get_legend_handles_labels(), strict=True) for axes in figure.axes)
        handles = {label: handle for handle, label in chain.from_iterable(pairs)}
        figure.legend(handles.values(), handles, loc="outside upper left", ncols=of, fontsize=9, borderaxespad=0)


def cumulative(calls: pd.DataFrame, column: str) -> tuple[Floats, Floats]:
    """Points of an empirical distribution: some quantiles, close together at both ends.

    All calls count, and one that failed never arrives: its curve ends below 1. But a call that cannot have a time per
    token, because it had one token, does not count for it.
    """
    done = calls["outcome"] == "finished"
    known = np.sort(calls.loc[done, column].dropna().to_numpy(dtype=np.float64))
    if not len(known):
        return np.empty(0), np.empty(0)
    num_calls = len(calls) - int((done & calls[column].isna()).sum())
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


def _queue_titles(scheduler: str, looks: pd.DataFrame, num_runs: int) -> tuple[str, str]:
    """What the panels of a server show at most, in few words where many stand beside each other."""
    if looks.empty:
        return f"{scheduler}: no samples", ""
    waiting, kv = f"{looks['waiting'].max():,}", f"{_percent(looks['kv_usage'].max())} %"
    if num_runs > 2:
        return f"{scheduler}: {waiting}", f"{scheduler}: {kv}"
    return f"{scheduler}: at most {waiting} waiting", f"{scheduler}: KV cache up to {kv}"


def _draw_depth(axes: Axes, looks: pd.DataFrame, scale: float) -> None:
    time_s = looks["time_s"].to_numpy(dtype=np.float64)
    at, running = binned(time_s, looks["running"].to_numpy(dtype=np.float64))
    _, waiting = binned(time_s, looks["waiting"].to_numpy(dtype=np.float64))
    axes.stackplot(at / scale, running, waiting, labels=["running", "waiting"], colors=[_RUNNING, _WAITING])
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))


def _draw_kv(axes: Axes, looks: pd.DataFrame, scale: float) -> None:
    at, usage = binned(looks["time_s"].to_numpy(dtype=np.float64), looks["kv_usage"].to_numpy(dtype=np.float64))
    axes.fill_between(at / scale, usage, color=_KV, alpha=0.25, linewidth=0)
    axes.plot(at / scale, usage, color=_KV, linewidth=1.1)


def _log_scale(axes: Axes) -> None:
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,), numticks=8))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _percent(share: float) -> str:
    """Whole percent, except that what is not quite all or nothing does not look so."""
    percent = 100 * share
    return f"{percent:.1f}" if 0 < percent < 0.5 or 99.5 <= percent < 100 else f"{percent:.0f}"


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
