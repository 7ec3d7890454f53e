"""The figures of a report on runs."""

from collections.abc import Sequence
from itertools import chain

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from inframind.traces import by_tier

from .report_runs import Panels, seconds
from .report_svg import (
    DASHES,
    INK,
    KV,
    METRICS,
    MUTED,
    RUNNING,
    SERIES,
    STYLE,
    WAITING,
    Floats,
    as_html,
    binned,
    distribution,
    log_scale,
    percent,
    subplots,
)

_KV_TOPS = (0.1, 0.2, 0.5, 1.0)


def tier_bars(panels: Panels) -> str:
    """On-time share of each tier, schedulers side by side; a panel for each load."""
    tables = {key: by_tier(run.calls) for key, run in panels.runs.items()}
    budgets = sorted({budget for tiers in tables.values() for budget in tiers["budget_s"]})
    place = {budget: index for index, budget in enumerate(budgets)}
    columns = min(len(panels.loads), 3)
    rows = -(-len(panels.loads) // columns)
    with rc_context(STYLE):
        figure, grid = subplots(rows, columns, 2.6 if columns > 1 else 2.9, sharex="all", sharey="all")
        width = min(0.4, 0.8 / len(panels.schedulers))
        for axes, load in zip(chain.from_iterable(grid), panels.loads, strict=False):
            for index, run in panels.of_load(load):
                tiers = tables[load, run.scheduler]
                offset = (index - (len(panels.schedulers) - 1) / 2) * width
                at = np.array([place[budget] for budget in tiers["budget_s"]]) + offset
                spread = [tiers["on_time"] - tiers["on_time_low"], tiers["on_time_high"] - tiers["on_time"]]
                axes.bar(at, tiers["on_time"], 0.9 * width, color=SERIES[index], label=run.scheduler)
                axes.errorbar(at, tiers["on_time"], spread, fmt="none", color=INK, elinewidth=0.9, capsize=2)
                for x, share, high in zip(at, tiers["on_time"], tiers["on_time_high"], strict=True):
                    axes.text(x, high + 0.02, percent(share), ha="center", fontsize=7.5, color=MUTED)
            shares = ", ".join(f"{run.scheduler} {percent(run.total['on_time'])} %" for _, run in panels.of_load(load))
            axes.set_title(f"Load {load}: {shares} on time")
            axes.set_xticks(range(len(budgets)), [f"{budget:g}" for budget in budgets])
            axes.set_ylim(0, 1.12)
            axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
            axes.tick_params(length=0, labelbottom=True, labelleft=True)
            axes.grid(visible=False, axis="x")
            axes.set_xlabel("latency budget (s)")
        for axes in list(chain.from_iterable(grid))[len(panels.loads) :]:
            axes.set_visible(False)
        for row in grid:
            row[0].set_ylabel("on time")
        description = "On-time share of each latency budget, for each load and scheduler"
        return as_html(figure, "tiers", description, in_panels=columns == 3)


def latency_curves(panels: Panels, budgets_s: Sequence[float] = ()) -> str:
    """Cumulative distributions of TTFT, TPOT and E2E; a row for each load, one scale for each column.

    ``budgets_s`` are marked among the end-to-end latencies.
    """
    with rc_context(STYLE):
        figure, grid = subplots(len(panels.loads), len(METRICS), 2.5, sharex="col", sharey="all")
        for row, load in zip(grid, panels.loads, strict=True):
            for axes, (column, (name, _, scale)) in zip(row, METRICS.items(), strict=True):
                medians = []
                for index, run in panels.of_load(load):
                    known, share = cumulative(run.calls, column)
                    axes.plot(known * scale, share, color=SERIES[index], linestyle=DASHES[index], label=run.scheduler)
                    median = run.total[f"{column.removesuffix('_s')}_p50_s"]
                    medians.append(f"{run.scheduler} {seconds(median)}")
                axes.set_title(f"{name}, load {load}\nmedian {', '.join(medians)}")
                axes.tick_params(labelleft=True, labelbottom=True)
            for budget_s in budgets_s:
                row[-1].axvline(budget_s, color=MUTED, linewidth=0.8, linestyle=":", zorder=1)
        for column_of_axes, (name, unit, _) in zip(zip(*grid, strict=True), METRICS.values(), strict=True):
            axes = column_of_axes[-1]
            if not np.isfinite(min(each.dataLim.minposx for each in column_of_axes)):
                axes.set_xlim(1, 100)  # there is nothing to show, and a logarithmic scale must not begin at 0
            log_scale(axes)
            axes.set_xlabel(f"{name.lower()} ({unit})")
        for axes, *_ in grid:
            axes.set_ylabel("share of calls")
            axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
            axes.set_ylim(0, 1.02)
        description = "Cumulative distributions of TTFT, TPOT and E2E for each load and scheduler"
        return as_html(figure, "latency", description, in_panels=True)


def queues(panels: Panels, load: str, servers: Sequence[str]) -> str:
    """Queue depth and KV usage over time; a row for each server, the schedulers beside each other."""
    runs = panels.of_load(load)
    samples = pd.concat([run.samples for _, run in runs if len(run.samples)])
    unit, scale = ("min", 60) if samples["time_s"].max() > 900 else ("s", 1)
    kv_top = next((top for top in _KV_TOPS if samples["kv_usage"].max() <= top), 1.0)
    with rc_context(STYLE):
        figure, grid = subplots(len(servers), 2 * len(runs), 1.45, sharex="all")
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
            row[0].set_ylabel(server if len(server) <= 18 else f"{server[:17]}…", color=INK)
        for axes in grid[-1]:
            axes.set_xlim(left=0)
            axes.set_xlabel(f"time since the run began ({unit})" if len(runs) < 3 else f"time ({unit})")
        return as_html(figure, f"queues {load}", f"Queue depth and KV cache usage of each server at load {load}")


def cumulative(calls: pd.DataFrame, column: str) -> tuple[Floats, Floats]:
    """Points of the distribution of a latency over finished calls.

    All calls count, and one that failed never arrives: its curve ends below 1. But a call that cannot have a time per
    token, because it had one token, does not count for it.
    """
    done = calls["outcome"] == "finished"
    known = calls.loc[done, column].dropna().to_numpy(dtype=np.float64)
    return distribution(known, len(calls) - int((done & calls[column].isna()).sum()))


def _queue_titles(scheduler: str, looks: pd.DataFrame, num_runs: int) -> tuple[str, str]:
    """What the panels of a server show at most, in few words where many stand beside each other."""
    if looks.empty:
        return f"{scheduler}: no samples", ""
    waiting, kv = f"{looks['waiting'].max():,}", f"{percent(looks['kv_usage'].max())} %"
    if num_runs > 2:
        return f"{scheduler}: {waiting}", f"{scheduler}: {kv}"
    return f"{scheduler}: at most {waiting} waiting", f"{scheduler}: KV cache up to {kv}"


def _draw_depth(axes: Axes, looks: pd.DataFrame, scale: float) -> None:
    time_s = looks["time_s"].to_numpy(dtype=np.float64)
    at, running = binned(time_s, looks["running"].to_numpy(dtype=np.float64))
    _, waiting = binned(time_s, looks["waiting"].to_numpy(dtype=np.float64))
    axes.stackplot(at / scale, running, waiting, labels=["running", "waiting"], colors=[RUNNING, WAITING])
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))


def _draw_kv(axes: Axes, looks: pd.DataFrame, scale: float) -> None:
    at, usage = binned(looks["time_s"].to_numpy(dtype=np.float64), looks["kv_usage"].to_numpy(dtype=np.float64))
    axes.fill_between(at / scale, usage, color=KV, alpha=0.25, linewidth=0)
    axes.plot(at / scale, usage, color=KV, linewidth=1.1)
