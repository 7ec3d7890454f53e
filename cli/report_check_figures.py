"""The figures of a check: one log, predicted beside observed."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from inframind.calibration import LogCheck

from .report_runs import seconds
from .report_svg import (
    DASHES,
    METRICS,
    MUTED,
    SERIES,
    STYLE,
    Floats,
    as_html,
    binned,
    distribution,
    log_scale,
    subplots,
)

_OBSERVED, _PREDICTED = SERIES[:2]
_SIDES = (("observed", _OBSERVED, DASHES[0]), ("predicted", _PREDICTED, DASHES[1]))
MAX_DOTS = 1200
_NUM_TIMES = 300
_NUM_BINS = 12
_WIDE = 10
"""Times that differ by this factor want a logarithmic axis."""


def distributions(check: LogCheck) -> str:
    """Cumulative distributions of TTFT, TPOT and E2E, predicted over observed."""
    with rc_context(STYLE):
        figure, [row] = subplots(1, len(METRICS), 2.5, sharey="all")
        for axes, (metric, (name, unit, scale)) in zip(row, METRICS.items(), strict=True):
            observed, predicted = _pair(check.rows, metric)
            for values, (label, colour, dashes) in zip((observed, predicted), _SIDES, strict=True):
                at, share = distribution(values, len(values))
                axes.plot(at * scale, share, color=colour, linestyle=dashes, label=label)
            comparison = check.whole.metrics[metric].comparison
            means = (seconds(figures["mean"]) for figures in (comparison.observed, comparison.predicted))
            axes.set_title("{}\nmean {} observed, {} predicted".format(name, *means))
            axes.set_xlabel(f"{name.lower()} ({unit})")
            axes.tick_params(labelleft=True)
            _fitting_scale(axes, np.concatenate([observed, predicted]) * scale)
        row[0].set_ylabel("share of requests")
        row[0].yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        row[0].set_ylim(0, 1.02)
        description = f"Distributions of TTFT, TPOT and E2E of {check.name}"
        return as_html(figure, f"distributions {check.name}", description, in_panels=True)


def single_requests(check: LogCheck) -> str:
    """Each request: predicted by observed, and its relative error by the load it met and by the time it came."""
    with rc_context(STYLE):
        figure, grid = subplots(3, len(METRICS), 2.35)
        for axes_of_metric, (metric, (name, unit, scale)) in zip(zip(*grid, strict=True), METRICS.items(), strict=True):
            known = check.rows[[metric, f"sim_{metric}"]].notna().all(axis=1) & (check.rows[metric] > 0)
            rows = check.rows[known]
            observed, predicted = _pair(rows, metric)
            by_value, by_load, by_time = axes_of_metric
            by_value.set_title(name)
            _draw_identity(by_value, observed * scale, predicted * scale, unit)
            if not len(rows):
                continue
            errors = predicted / observed - 1
            _draw_errors(by_load, rows["in_flight"].to_numpy(dtype=np.float64), errors, _equal_counts)
            _draw_errors(by_time, rows["arrival_s"].to_numpy(dtype=np.float64), errors, _equal_stretches)
            by_load.set_xlabel("requests in flight at arrival, observed")
            by_load.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            by_time.set_xlabel("time of arrival (s)")
        grid[0][0].set_ylabel("predicted")
        grid[1][0].set_ylabel("relative error")
        grid[2][0].set_ylabel("relative error")
        return as_html(figure, f"requests {check.name}", f"Predicted by observed times of each request of {check.name}")


def loads_over_time(check: LogCheck) -> str:
    """Requests in flight over time, and those running and waiting where the server was sampled."""
    observed, predicted = check.observed_samples, check.predicted_samples
    panels = ["in flight", *(("running", "waiting") if len(observed) else ())]
    end_s = float((check.rows["arrival_s"] + check.rows[["e2e_s", "sim_e2e_s"]].max(axis=1)).max())
    unit, scale = ("min", 60) if end_s > 900 else ("s", 1)
    with rc_context(STYLE):
        figure, [row] = subplots(1, len(panels), 2.1, sharex="all")
        for axes, panel in zip(row, panels, strict=True):
            if panel == "in flight":
                time_s = np.linspace(0, end_s, _NUM_TIMES)
                sides = [(time_s, _in_flight_at(time_s, check.rows, column)) for column in ("e2e_s", "sim_e2e_s")]
            else:
                sides = [_series(samples, panel) for samples in (observed, predicted)]
            for (at, depth), (label, colour, dashes) in zip(sides, _SIDES, strict=True):
                axes.plot(at / scale, depth, color=colour, linestyle=dashes, label=label)
            axes.set_title(f"Requests {panel}")
            axes.set_ylim(bottom=0)
            axes.set_xlim(0, end_s / scale)
            axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
            axes.set_xlabel(f"time ({unit})")
        return as_html(figure, f"loads {check.name}", f"Requests in flight over time of {check.name}")


def _pair(rows: pd.DataFrame, metric: str) -> tuple[Floats, Floats]:
    """Observed and predicted of the requests of which both are known."""
    known = rows[[metric, f"sim_{metric}"]].dropna().to_numpy(dtype=np.float64)
    return known[:, 0], known[:, 1]


def _fitting_scale(axes: Axes, values: Floats) -> None:
    """Logarithmic where the values differ much, from 0 on where they do not."""
    values = values[values > 0]
    if not len(values):
        axes.set_xlim(0, 1)
    elif np.quantile(values, 0.99) > _WIDE * np.quantile(values, 0.01):
        log_scale(axes)
    else:
        axes.set_xlim(0, 1.03 * values.max())


def _draw_identity(axes: Axes, observed: Floats, predicted: Floats, unit: str) -> None:
    axes.set_xlabel(f"observed ({unit})")
    both = np.concatenate([observed, predicted])
    both = both[both > 0]
    if not len(both):
        return
    is_wide = np.quantile(both, 0.99) > _WIDE * np.quantile(both, 0.01)
    low, high = (0.8 * both.min(), 1.25 * both.max()) if is_wide else (0.0, 1.05 * both.max())
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.plot([low, high], [low, high], color=MUTED, linewidth=0.9, zorder=1)
    _draw_points(axes, observed, np.maximum(predicted, low))
    if is_wide:
        log_scale(axes)
        log_scale(axes, of="y")


Bins = Callable[[Floats], Floats]


def _draw_errors(axes: Axes, x: Floats, errors: Floats, edges_of: Bins) -> None:
    """Points, and the median with the middle half of some neighbourhoods; what is beyond the axis lies on its edge."""
    top = float(np.clip(1.3 * np.quantile(np.abs(errors), 0.98), 0.05, 2.0))
    axes.axhline(0, color=MUTED, linewidth=0.9, zorder=1)
    _draw_points(axes, x, np.clip(errors, -top, top))
    edges = edges_of(x)
    which = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, len(edges) - 2)
    groups = [(x[which == index], errors[which == index]) for index in range(len(edges) - 1)]
    groups = [(at, values) for at, values in groups if len(values)]
    middle = [float(np.median(at)) for at, _ in groups]
    low, median, high = np.array([np.quantile(values, (0.25, 0.5, 0.75)) for _, values in groups]).T
    axes.fill_between(middle, low, high, color=_PREDICTED, alpha=0.22, linewidth=0, label="middle half of them")
    axes.plot(middle, median, color=_PREDICTED, linewidth=1.4, marker="o", markersize=2.5, label="median error")
    axes.set_ylim(-1.05 * top, 1.05 * top)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:+g} %" if value else "0 %"))


def _equal_counts(x: Floats) -> Floats:
    return np.unique(np.quantile(x, np.linspace(0, 1, _NUM_BINS + 1))) if x.min() < x.max() else _equal_stretches(x)


def _equal_stretches(x: Floats) -> Floats:
    edges: Floats = np.linspace(x.min(), max(x.max(), x.min() + 1e-9), _NUM_BINS + 1)
    return edges


def _draw_points(axes: Axes, x: Floats, y: Floats) -> None:
    """Dots as one path of lines without length and with round ends: a marker for each would be a large file."""
    chosen = np.unique(np.linspace(0, len(x) - 1, MAX_DOTS).round().astype(int)) if len(x) > MAX_DOTS else slice(None)
    points = np.column_stack([x[chosen], y[chosen]])
    codes = np.tile([Path.MOVETO, Path.LINETO], len(points))
    path = Path(np.repeat(points, 2, axis=0), codes)
    path.should_simplify = False
    axes.add_patch(
        PathPatch(path, fill=False, edgecolor=_OBSERVED, linewidth=2.6, capstyle="round", alpha=0.4, zorder=2)
    )
    axes.autoscale_view()


def _in_flight_at(time_s: Floats, rows: pd.DataFrame, e2e: str) -> Floats:
    """Requests that have come and not gone, at some times; one without an end is left out."""
    known = rows[rows[e2e].notna()]
    came = np.sort(known["arrival_s"].to_numpy(dtype=np.float64))
    gone = np.sort((known["arrival_s"] + known[e2e]).to_numpy(dtype=np.float64))
    counts: Floats = (np.searchsorted(came, time_s, "right") - np.searchsorted(gone, time_s, "right")).astype(
        np.float64
    )
    return counts


def _series(samples: pd.DataFrame, column: str) -> tuple[Floats, Floats]:
    return binned(samples["time_s"].to_numpy(dtype=np.float64), samples[column].to_numpy(dtype=np.float64))
