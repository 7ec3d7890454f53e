"""The figures of a comparison of runs: live and simulated in the same panels."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from inframind.calibration import STEPS, ConditionComparison
from inframind.traces import Run

from .report_check_tables import SHORT
from .report_compare_tables import MINUS
from .report_runs import seconds
from .report_svg import (
    DASHES,
    METRICS,
    MUTED,
    RUNNING,
    SERIES,
    STYLE,
    Floats,
    as_html,
    binned,
    distribution,
    log_scale,
    subplots,
)

SIDES = (("live", SERIES[0], DASHES[0]), ("simulated", SERIES[1], DASHES[1]))
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
_STEP_LABELS = ("live", *STEPS, "simulated")


def all_conditions(conditions: Sequence[ConditionComparison]) -> str:
    """Every condition as a dot: latency, on-time share and goodput, simulated by live; on the line they are equal."""
    shown = [each for each in conditions if each.latency is not None]
    policies = list(dict.fromkeys(_part(each, "policy") for each in shown))
    schedulers = list(dict.fromkeys(_part(each, "scheduler") for each in shown))
    with rc_context(STYLE):
        figure, [row] = subplots(1, 3, 3.1)
        for axes, figure_of in zip(row, ("latency", "on_time", "goodput"), strict=True):
            for each in shown:
                live, simulated = _both(each, figure_of)
                policy, scheduler = _part(each, "policy"), _part(each, "scheduler")
                axes.plot(
                    *([live], [simulated]),
                    linestyle="none",
                    marker=MARKS[policies.index(policy) % len(MARKS)],
                    markersize=5,
                    alpha=0.8,
                    color=SERIES[schedulers.index(scheduler) % len(SERIES)],
                    label=", ".join(filter(None, (policy, scheduler.upper()))),
                )
            if figure_of == "latency":
                _equal_scales(axes, np.array([_both(each, figure_of) for each in shown]))
            else:
                _share_scales(axes, np.array([_both(each, figure_of) for each in shown]))
            axes.plot(axes.get_xlim(), axes.get_xlim(), color=MUTED, linewidth=0.9, zorder=1)
            axes.set_xlabel("live")
            axes.set_ylabel("simulated")
        for axes, title in zip(row, ("Mean workflow latency (s)", "On time", "Goodput"), strict=True):
            axes.set_title(title)
        description = "Mean latency, on-time share and goodput, simulated by live"
        return as_html(figure, "all conditions", description, in_panels=True)


def distributions(each: ConditionComparison) -> str:
    """Cumulative distributions of workflow latency, TTFT, TPOT and E2E, simulated over live, all seeds together."""
    metrics = ([("latency_s", ("Workflow latency", "s", 1))] if each.latency else []) + list(METRICS.items())
    with rc_context(STYLE):
        figure, [row] = subplots(1, len(metrics), 2.7, sharey="all")
        for axes, (metric, (name, unit, scale)) in zip(row, metrics, strict=True):
            medians = []
            for (label, colour, dashes), runs in zip(SIDES, _runs(each), strict=True):
                values, num = _values(runs, metric)
                at, share = distribution(values, num)
                axes.plot(at * scale, share, color=colour, linestyle=dashes, label=label)
                medians.append(seconds(float(np.median(values))) if len(values) else "unknown")
            # Side by side titles must not run into one another.
            axes.set_title("{}, median\n{} live\n{} simulated".format(name, *medians))
            axes.set_xlabel(f"{name.lower()} ({unit})")
            axes.tick_params(labelleft=True)
            if np.isfinite(axes.dataLim.minposx):
                log_scale(axes)
        row[0].set_ylabel("share")
        row[0].yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        row[0].set_ylim(0, 1.02)
        description = f"Distributions of latencies of {each.name}"
        return as_html(figure, f"distributions {each.name}", description, in_panels=True)


def queues(each: ConditionComparison) -> str:
    """Running and waiting requests of each server over time, live and simulated; the first seed."""
    pair = each.pairs[0]
    servers = [server.server for server in each.servers]
    runs = (pair.live.run, pair.simulated.run)
    end_s = max(float(run.calls["finish_s"].max()) for run in runs)
    unit, scale = ("min", 60) if end_s > 900 else ("s", 1)
    with rc_context(STYLE):
        figure, grid = subplots(len(servers), 2, 1.5, sharex="all")
        for row, server in zip(grid, servers, strict=True):
            for axes, column in zip(row, ("running", "waiting"), strict=True):
                for (label, colour, dashes), run in zip(SIDES, runs, strict=True):
                    looks = run.samples[run.samples["server"] == server]
                    if len(looks):
                        at, depth = binned(*(looks[name].to_numpy(dtype=np.float64) for name in ("time_s", column)))
                        axes.plot(at / scale, depth, color=colour, linestyle=dashes, linewidth=1.2, label=label)
                axes.set_title(f"{server}: {column}")
                axes.set_ylim(0, max(1, 1.05 * axes.dataLim.ymax))
                axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        for axes in grid[-1]:
            axes.set_xlim(0, end_s / scale)
            axes.set_xlabel(f"time since the run began ({unit})")
        return as_html(figure, f"queues {each.name}", f"Running and waiting requests of each server of {each.name}")


def sources(each: ConditionComparison) -> str:
    """The way from live to simulated mean latency, and the errors of single calls by the load that they met."""
    with rc_context(STYLE):
        figure, [[steps, errors]] = subplots(1, 2, 2.5)
        _draw_steps(steps, each)
        _draw_errors(errors, each)
        return as_html(figure, f"sources {each.name}", f"Where the difference comes from in {each.name}")


def errors_by_load(each: ConditionComparison) -> str:
    """The errors of single calls by the load that they met."""
    with rc_context(STYLE):
        figure, [[errors]] = subplots(1, 1, 2.2)
        _draw_errors(errors, each)
        return as_html(figure, f"errors {each.name}", f"Errors of calls by load of {each.name}")


def _draw_steps(axes: Axes, each: ConditionComparison) -> None:
    assert each.sources is not None  # the figure is only drawn with them
    latency = each.sources.latency
    level = top = latency.live_s
    axes.bar(0, level, 0.7, color=SERIES[0])
    for index, step in enumerate(STEPS, start=1):
        change = latency.steps_s[step]
        axes.bar(index, change, 0.7, bottom=level, color=RUNNING)
        axes.plot([index - 1, index], [level, level], color=MUTED, linewidth=0.8)
        level += change
        top = max(top, level)
    axes.bar(len(STEPS) + 1, latency.simulated_s, 0.7, color=SERIES[1])
    axes.set_ylim(0, 1.08 * top)
    axes.set_xticks(range(len(_STEP_LABELS)), _STEP_LABELS)
    axes.grid(visible=False, axis="x")
    axes.set_ylabel("mean latency (s)")
    axes.set_title("From the live to the simulated mean workflow latency")


def _draw_errors(axes: Axes, each: ConditionComparison) -> None:
    middle = [(one.low + one.high) / 2 for one in each.by_load]
    axes.axhline(0, color=MUTED, linewidth=0.9, zorder=1)
    for (metric, name), colour, dashes in zip(SHORT.items(), SERIES, DASHES, strict=False):
        errors = [one.relative_error[metric] for one in each.by_load]
        axes.plot(middle, errors, color=colour, linestyle=dashes, marker="o", markersize=3, label=name)
    axes.set_xlabel("calls at the same server at arrival, live")
    axes.set_title("Error of the mean of calls: same decisions, same lengths")
    axes.margins(y=0.25)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{100 * value:+g} %".replace("-", MINUS) if value else "0 %")
    )


def _share_scales(axes: Axes, values: Floats) -> None:
    top = min(1.03, 1.2 * max(0.05, values[np.isfinite(values)].max(initial=0.0)))
    axes.set_xlim(-0.03 * top, top)
    axes.set_ylim(-0.03 * top, top)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
        axis.set_major_locator(MaxNLocator(5))


def _equal_scales(axes: Axes, values: Floats) -> None:
    known = values[np.isfinite(values) & (values > 0)]
    low, high = (known.min() / 1.4, known.max() * 1.4) if len(known) else (1.0, 10.0)
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    log_scale(axes)
    log_scale(axes, of="y")


def _both(each: ConditionComparison, figure: str) -> tuple[float, float]:
    if figure == "latency":
        assert each.latency is not None  # only such conditions are drawn
        return each.latency.live["mean"], each.latency.simulated["mean"]
    share = each.tiers[0].shares[figure]
    return share.live, share.simulated


def _part(each: ConditionComparison, name: str) -> str:
    return str(dict(each.condition).get(name, ""))


def _runs(each: ConditionComparison) -> tuple[list[Run], list[Run]]:
    return [pair.live.run for pair in each.pairs], [pair.simulated.run for pair in each.pairs]


def _values(runs: Sequence[Run], metric: str) -> tuple[Floats, int]:
    """What is known, and of how many: what failed never arrives, so that a curve with failures ends below 1."""
    of_workflows = metric == "latency_s"
    tables = [run.workflows if of_workflows else run.calls for run in runs]
    table = pd.concat([each for each in tables if each is not None])
    done = table["outcome"] == "finished"
    known = table.loc[done, metric].dropna().to_numpy(dtype=np.float64)
    return known, len(known) + int((~done).sum())
