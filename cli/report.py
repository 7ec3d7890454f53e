"""A report on one run or several: one HTML file that loads nothing, for screen and paper."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from markupsafe import Markup

from inframind.traces import by_tier, write_whole

from .report_cells import UNKNOWN, cell
from .report_figures import latency_curves, queues, tier_bars
from .report_page import render_page
from .report_runs import Panels, RunView, rows_of, seconds

__all__ = ["RunView", "render_report", "write_report"]

MAX_TIERS = 12
MAX_SERVERS = 10


@dataclass(frozen=True, slots=True)
class _Column:
    """A figure of the summary as a column of a table."""

    head: str
    name: str
    """Column of the summary."""
    kind: str = "seconds"


@dataclass(frozen=True, slots=True)
class _ServerRows:
    """One server in the table of servers."""

    name: str
    model: str
    rows: list[tuple[int, list[str]]]
    """Number of the scheduler, and its figures."""


_KEY_COLUMNS = (
    _Column("On time", "on_time", "share"),
    _Column("TTFT mean (s)", "ttft_mean_s"),
    _Column("TTFT p99 (s)", "ttft_p99_s"),
    _Column("E2E mean (s)", "e2e_mean_s"),
    _Column("E2E p99 (s)", "e2e_p99_s"),
    _Column("Output tokens/s", "output_tokens_per_s", "count"),
    _Column("Failed", "failed", "count"),
)
_SERVER_COLUMNS = (
    _Column("Calls", "requests", "count"),
    _Column("Failed", "failed", "count"),
    _Column("On time", "on_time", "share"),
    _Column("TTFT mean (s)", "ttft_mean_s"),
    _Column("TTFT p99 (s)", "ttft_p99_s"),
    _Column("TPOT mean (ms)", "tpot_mean_s", "ms"),
    _Column("E2E mean (s)", "e2e_mean_s"),
    _Column("E2E p99 (s)", "e2e_p99_s"),
    _Column("Output tokens/s", "output_tokens_per_s", "count"),
    _Column("Busy", "utilisation", "share"),
    _Column("Waiting mean", "waiting_mean", "depth"),
    _Column("Running mean", "running_mean", "depth"),
    _Column("KV peak", "kv_usage_max", "share"),
    _Column("Preemptions", "num_preemptions", "count"),
)


def write_report(path: Path, runs: Sequence[RunView], *, title: str, about: Mapping[str, str] | None = None) -> None:
    """Write what `render_report` makes, whole or not at all.

    Raises
    ------
    ConfigError
        If it cannot be written there.
    ValueError
        As `render_report`.
    """
    write_whole(path, render_report(runs, title=title, about=about))


def render_report(runs: Sequence[RunView], *, title: str, about: Mapping[str, str] | None = None) -> str:
    """Return the report as HTML; equal arguments give equal text.

    Parameters
    ----------
    runs
        Each of another load and scheduler; loads and schedulers are shown in their order of appearance, the first
        scheduler as what the others are compared with.
    title
        Heading of the page.
    about
        What was run, in pairs of label and text: pool, workload, seed, versions, date.

    Raises
    ------
    ValueError
        If there are no runs, two of one load and scheduler, or more than four schedulers.
    """
    panels = Panels.of(runs)
    budgets = {budget for run in runs for budget in by_tier(run.calls)["budget_s"]}
    has_deadlines = all(pd.notna(run.total["on_time"]) for run in runs)
    columns = [column for column in _KEY_COLUMNS if column.name != "on_time" or has_deadlines]
    has_tiers = has_deadlines and 0 < len(budgets) <= MAX_TIERS
    has_latencies = any(run.total["finished"] for run in runs)
    servers = _busiest_servers(runs)
    return render_page(
        "report.html.j2",
        title=title,
        about=about or {},
        panels=panels,
        findings=[_finding(panels, load, has_deadlines) for load in panels.loads],
        key_heads=[column.head for column in columns],
        key_rows=[(load, _key_row(panels, load, columns)) for load in panels.loads],
        tiers=Markup(tier_bars(panels)) if has_tiers else None,
        tier_changes=[change for load in panels.loads if (change := _tier_change(panels, load))] if has_tiers else [],
        has_deadlines=has_deadlines,
        num_budgets=len(budgets),
        latencies=Markup(latency_curves(panels, sorted(budgets) if has_tiers else ())) if has_latencies else None,
        queues=[
            (load, Markup(queues(panels, load, servers)))
            for load in panels.loads
            if any(len(run.samples) for _, run in panels.of_load(load))
        ],
        num_servers_left_out=len(_servers(runs)) - len(servers),
        server_heads=[column.head for column in _SERVER_COLUMNS],
        server_tables=[(load, _server_rows(panels, load)) for load in panels.loads],
    )


def _finding(panels: Panels, load: str, has_deadlines: bool) -> str:
    """What a load comes to, in a sentence."""
    runs = [run for _, run in panels.of_load(load)]
    if not has_deadlines:
        means = (f"{seconds(run.total['e2e_mean_s'])} under {run.scheduler}" for run in runs)
        return f"At load {load} a call takes {', '.join(means)}, in the mean."
    if len(runs) == 1:
        return f"At load {load}, {runs[0].scheduler} finishes {cell(runs[0].total['on_time'], 'share')} on time."
    best, *_, worst = sorted(runs, key=lambda run: -float(run.total["on_time"]))
    points = 100 * float(best.total["on_time"] - worst.total["on_time"])
    shares = [f"{run.scheduler} {cell(run.total['on_time'], 'share')}" for run in (best, worst)]
    if points < 0.05:
        return f"At load {load} the schedulers are equal: {shares[0]} on time."
    p99 = " against ".join(seconds(run.total["e2e_p99_s"]) for run in (best, worst))
    return f"At load {load}, {shares[0]} on time, {shares[1]}: {points:.1f} points more; p99 of E2E {p99}."


def _tier_change(panels: Panels, load: str) -> str | None:
    """Which tiers gain and lose most from the first scheduler to the last."""
    runs = [run for _, run in panels.of_load(load)]
    if len(runs) < 2:
        return None
    tiers = (by_tier(run.calls) for run in (runs[0], runs[-1]))
    first, last = (dict(zip(tier["budget_s"].tolist(), tier["on_time"].tolist(), strict=True)) for tier in tiers)
    points = sorted((100 * (last[budget] - share), budget) for budget, share in first.items() if budget in last)
    told = []
    if points and points[-1][0] >= 0.05:
        told.append(f"the {points[-1][1]:g} s tier gains {points[-1][0]:.1f} points")
    if points and points[0][0] <= -0.05:
        told.append(f"the {points[0][1]:g} s tier loses {-points[0][0]:.1f} points")
    names = f"from {runs[0].scheduler} to {runs[-1].scheduler}"
    return f"Load {load}, {names}: {' and '.join(told) or 'no tier changes'}."


def _key_row(panels: Panels, load: str, columns: Sequence[_Column]) -> list[list[str]]:
    """For each column, the figure of each scheduler."""
    runs = [panels.runs.get((load, scheduler)) for scheduler in panels.schedulers]
    return [[cell(run.total[column.name], column.kind) if run else UNKNOWN for run in runs] for column in columns]


def _server_rows(panels: Panels, load: str) -> list[_ServerRows]:
    """The figures of each server, the schedulers below each other."""
    runs = panels.of_load(load)
    found: dict[str, _ServerRows] = {}
    for name in [*_servers([run for _, run in runs]), "total"]:
        found[name] = _ServerRows(name, "", [])
    for index, run in runs:
        for row in rows_of(run.summary):
            server = found[row["server"]]
            model = server.model if pd.isna(row["model"]) else row["model"]
            figures = [cell(row[column.name], column.kind) for column in _SERVER_COLUMNS]
            found[row["server"]] = _ServerRows(server.name, model, [*server.rows, (index, figures)])
    return list(found.values())


def _servers(runs: Sequence[RunView]) -> list[str]:
    return list(dict.fromkeys(name for run in runs for name in run.summary["server"].iloc[:-1]))


def _busiest_servers(runs: Sequence[RunView]) -> list[str]:
    """The servers that are drawn, in the order of the pool: the busiest, where there are many."""
    summaries = pd.concat([run.summary.iloc[:-1] for run in runs])
    busiest = summaries.groupby("server")["requests"].sum().nlargest(MAX_SERVERS).index
    return [name for name in _servers(runs) if name in busiest]
