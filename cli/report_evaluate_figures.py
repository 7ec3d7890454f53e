"""The figures of an evaluation's report: small multiples, a panel for each policy."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from inframind.agents import CellResult

from .report_svg import DASHES, MUTED, RUNNING, SERIES, STYLE, as_svg, legend, log_scale, subplots

COLUMNS = 4
PANEL_HEIGHT = 1.75
COLOURS = (*SERIES, RUNNING, "#b08d00", "#7a6fd0", "#4c9fd6")
"""Of servers and tiers; they stand out on light and on dark paper."""


def shares_by_load(summary: pd.DataFrame, figure: str, best: pd.Series, name: str) -> str:
    """A share against load: a line with its interval for each scheduler, and in grey the best that any policy has.

    Parameters
    ----------
    summary
        Rows of all tiers together.
    figure
        Column of the summary.
    best
        The share by rate.
    """
    # A panel is as high as the policies differ, not from nothing to all: one scale for all of them.
    known = pd.concat([summary[figure], summary[f"{figure}_low"], summary[f"{figure}_high"]])
    bottom = min(max(0.0, np.floor(10 * known.min()) / 10), 0.9)
    top = max(min(1.0, np.ceil(10 * known.max()) / 10), bottom + 0.1)

    def draw(axes: Axes, rows: pd.DataFrame) -> None:
        axes.plot(best.index, best, color=MUTED, linewidth=0.9, label="the best, clairvoyant aside")
        for index, (scheduler, line) in enumerate(rows.groupby("scheduler", sort=False)):
            colour = SERIES[index]
            low, high = line[f"{figure}_low"].clip(0, 1), line[f"{figure}_high"].clip(0, 1)
            axes.fill_between(line["rate_per_min"], low, high, color=colour, alpha=0.2, linewidth=0)
            axes.plot(
                *(line["rate_per_min"], line[figure]),
                color=colour,
                linestyle=DASHES[index],
                marker=".",
                markersize=4,
                label=str(scheduler).upper(),
            )
        axes.set_ylim(bottom, top + 0.03 * (top - bottom))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
        log_scale(axes)

    return _small_multiples(summary, draw, "queries a minute", name, of=1 + summary["scheduler"].nunique())


def latency_by_tier(summary: pd.DataFrame, tiers: Sequence[str], scheduler: str) -> str:
    """Mean latency against load, a line for each tier of budgets."""

    def draw(axes: Axes, rows: pd.DataFrame) -> None:
        for index, tier in enumerate(tiers):
            line = rows[rows["tier"] == tier]
            axes.plot(
                *(line["rate_per_min"], line["latency_mean_s"]),
                color=COLOURS[index % len(COLOURS)],
                marker=".",
                markersize=4,
                label=f"budget {tier} s",
            )
        log_scale(axes, of="y")
        log_scale(axes)

    chosen = summary[(summary["scheduler"] == scheduler) & summary["tier"].isin(tiers)]
    name = f"Mean latency in seconds of each policy and tier under {scheduler.upper()}"
    return _small_multiples(chosen, draw, "queries a minute", name, of=len(tiers), sharey=True)


def queues_over_time(results: Sequence[CellResult]) -> str:
    """Requests waiting at all servers together over time; results of one rate and seed."""
    frames = [
        pd.DataFrame(
            {
                "policy": result.cell.policy,
                "scheduler": result.cell.scheduler,
                "time_s": result.queues["time_s"],
                "waiting": result.queues.drop(columns="time_s").sum(axis=1),
            }
        )
        for result in results
    ]
    table = pd.concat(frames)

    def draw(axes: Axes, rows: pd.DataFrame) -> None:
        for index, (scheduler, line) in enumerate(rows.groupby("scheduler", sort=False)):
            axes.plot(
                *(line["time_s"] / 60, line["waiting"]),
                color=SERIES[index],
                linestyle=DASHES[index],
                linewidth=1.2,
                label=str(scheduler).upper(),
            )
        axes.set_ylim(0, 1.05 * max(1, rows["waiting"].max()))
        axes.set_xlim(left=0)
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))

    return _small_multiples(table, draw, "minutes", "Requests waiting over time", of=table["scheduler"].nunique())


def chosen_servers(results: Sequence[CellResult]) -> str:
    """Shares of calls by server, stacked, a bar for each rate; results of one scheduler."""
    frames = [
        result.choices.assign(policy=result.cell.policy, rate_per_min=result.cell.rate_per_min) for result in results
    ]
    servers = list(results[0].servers["server"])
    table = pd.concat(frames)

    def draw(axes: Axes, rows: pd.DataFrame) -> None:
        calls = rows.pivot_table(index="rate_per_min", columns="server", values="num_calls", aggfunc="sum")
        shares = calls.reindex(columns=servers).fillna(0.0)
        shares = shares.div(shares.sum(axis=1), axis=0)
        bottom = np.zeros(len(shares))
        for index, server in enumerate(servers):
            colour = COLOURS[index % len(COLOURS)]
            axes.bar(range(len(shares)), shares[server], 0.85, bottom, color=colour, label=server)
            bottom += shares[server].to_numpy(dtype=np.float64)
        axes.set_xticks(range(len(shares)), [f"{rate:g}" for rate in shares.index])
        axes.set_ylim(0, 1)
        axes.grid(visible=False, axis="x")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))

    return _small_multiples(table, draw, "queries a minute", "Shares of calls by server", of=len(servers))


def _small_multiples(
    table: pd.DataFrame,
    draw: Callable[[Axes, pd.DataFrame], None],
    x_label: str,
    description: str,
    *,
    of: int,
    sharey: bool = False,
) -> str:
    """A panel for each policy, in the order of the table."""
    policies = list(dict.fromkeys(table["policy"]))
    columns = min(COLUMNS, len(policies))
    rows = -(-len(policies) // columns)
    with rc_context(STYLE):
        figure, grid = subplots(rows, columns, PANEL_HEIGHT, sharey="all" if sharey else "none")
        for (axes, is_last), policy in zip(_panels(grid, len(policies)), policies, strict=True):
            draw(axes, table[table["policy"] == policy])
            axes.set_title(policy)
            if is_last:
                axes.set_xlabel(x_label)
        for axes in list(chain.from_iterable(grid))[len(policies) :]:
            axes.set_visible(False)
        legend(figure, of=of)
        return as_svg(figure, description, description)


def _panels(grid: list[list[Axes]], num: int) -> Iterator[tuple[Axes, bool]]:
    """The first panels, each with whether there is none below it."""
    columns = len(grid[0])
    for index, axes in enumerate(list(chain.from_iterable(grid))[:num]):
        yield axes, index + columns >= num
