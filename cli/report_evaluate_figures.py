"""The figures of an evaluation's report: small multiples, a panel for each policy; or a row where there is one rate."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from inframind.agents import CellResult

from .report_svg import DASHES, INK, MUTED, RUNNING, SERIES, STYLE, as_html, log_scale, subplots

PANEL_HEIGHT = 1.75
MOST_COLUMNS = 4
ROW_WIDTH = 0.4
"""Of a figure with a row for each policy, relative to the page: a telephone can show it."""
COLOURS = (*SERIES, RUNNING, "#b08d00", "#7a6fd0", "#4c9fd6")
"""Of servers and tiers; they stand out on light and on dark paper."""
THE_BEST = "the best, clairvoyant aside"
RATES = "queries a minute"


def shares_by_load(summary: pd.DataFrame, figure: str, best: pd.Series, name: str) -> str:
    """A share against load: a line with its interval for each scheduler, and in grey the best that any policy has.

    At one rate a line would be a dot: the policies stand below each other, with their intervals as whiskers.

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
    schedulers = list(dict.fromkeys(summary["scheduler"]))

    def draw(axes: Axes, rows: pd.DataFrame) -> None:
        axes.plot(best.index, best, color=MUTED, linewidth=0.9, label=THE_BEST)
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

    def draw_row(axes: Axes, at: int, rows: pd.DataFrame) -> None:
        for row in rows.to_dict("records"):
            index = schedulers.index(row["scheduler"])
            y = at + (index - (len(schedulers) - 1) / 2) * 0.8 / len(schedulers)
            ends = np.clip([row[f"{figure}_low"], row[f"{figure}_high"]], 0, 1)
            axes.plot(ends, [y, y], color=SERIES[index], linewidth=1.2)
            axes.plot(
                *([row[figure]], [y]),
                color=SERIES[index],
                linestyle="none",
                marker="o",
                markersize=4.5,
                label=str(row["scheduler"]).upper(),
            )
            right = float(np.nanmax([row[figure], ends[1]]))
            text = f"{100 * row[figure]:.1f}"
            axes.annotate(text, (right, y), (5, 0), textcoords="offset points", va="center", fontsize=9, color=MUTED)
        if at == 0:
            axes.axvline(best.iloc[0], color=MUTED, linewidth=0.9, zorder=1, label=THE_BEST)
        # Beside the last dot there is room for its number.
        axes.set_xlim(bottom, top + 0.2 * (top - bottom))
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))

    if len(best) == 1:
        return _rows(summary, draw_row, name, height=0.08 + 0.17 * len(schedulers))
    return _small_multiples(summary, draw, RATES, name)


def latency_by_tier(summary: pd.DataFrame, tiers: Sequence[str], scheduler: str) -> str:
    """Mean latency against load, a line for each tier of budgets; at one rate a row of dots for each policy."""

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

    def draw_row(axes: Axes, at: int, rows: pd.DataFrame) -> None:
        latency_s = dict(zip(rows["tier"], rows["latency_mean_s"], strict=True))
        axes.plot([min(latency_s.values()), max(latency_s.values())], [at, at], color=MUTED, linewidth=0.6, zorder=1)
        for index, tier in enumerate(tiers):
            colour, label = COLOURS[index % len(COLOURS)], f"budget {tier} s"
            axes.plot([latency_s[tier]], [at], color=colour, linestyle="none", marker="o", markersize=4.5, label=label)
        log_scale(axes)
        axes.set_xlabel("mean latency (s)")

    chosen = summary[(summary["scheduler"] == scheduler) & summary["tier"].isin(tiers)]
    name = f"Mean latency in seconds of each policy and tier under {scheduler.upper()}"
    if chosen["rate_per_min"].nunique() == 1:
        return _rows(chosen, draw_row, name)
    return _small_multiples(chosen, draw, RATES, name, sharey=True)


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

    return _small_multiples(table, draw, "minutes", "Requests waiting over time")


def chosen_servers(results: Sequence[CellResult]) -> str:
    """Shares of calls by server, stacked, a bar for each rate; results of one scheduler."""
    frames = [
        result.choices.assign(policy=result.cell.policy, rate_per_min=result.cell.rate_per_min) for result in results
    ]
    servers = list(results[0].servers["server"])
    table = pd.concat(frames)

    def shares_of(rows: pd.DataFrame) -> pd.DataFrame:
        """A row for each rate, a column for each server."""
        calls = rows.pivot_table(index="rate_per_min", columns="server", values="num_calls", aggfunc="sum")
        calls = calls.reindex(columns=servers).fillna(0.0)
        return calls.div(calls.sum(axis=1), axis=0)

    def draw(axes: Axes, rows: pd.DataFrame) -> None:
        shares = shares_of(rows)
        bottom = np.zeros(len(shares))
        for index, server in enumerate(servers):
            colour = COLOURS[index % len(COLOURS)]
            axes.bar(range(len(shares)), shares[server], 0.85, bottom, color=colour, label=server)
            bottom += shares[server].to_numpy(dtype=np.float64)
        axes.set_xticks(range(len(shares)), [f"{rate:g}" for rate in shares.index])
        axes.set_ylim(0, 1)
        axes.grid(visible=False, axis="x")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))

    def draw_row(axes: Axes, at: int, rows: pd.DataFrame) -> None:
        left = 0.0
        for index, (server, share) in enumerate(shares_of(rows).iloc[0].items()):
            axes.barh(at, share, 0.75, left, color=COLOURS[index % len(COLOURS)], label=str(server))
            left += share
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))

    name = "Shares of calls by server"
    if table["rate_per_min"].nunique() == 1:
        return _rows(table, draw_row, name)
    return _small_multiples(table, draw, RATES, name)


def _small_multiples(
    table: pd.DataFrame,
    draw: Callable[[Axes, pd.DataFrame], None],
    x_label: str,
    description: str,
    *,
    sharey: bool = False,
) -> str:
    """A panel for each policy, in the order of the table."""
    policies = list(dict.fromkeys(table["policy"]))
    most = max(3, min(MOST_COLUMNS, len(policies)))
    columns = min(most, len(policies))
    rows = -(-len(policies) // columns)
    with rc_context(STYLE):
        figure, grid = subplots(rows, columns, PANEL_HEIGHT, sharey="all" if sharey else "none", width=columns / most)
        for (axes, is_last), policy in zip(_panels(grid, len(policies)), policies, strict=True):
            draw(axes, table[table["policy"] == policy])
            axes.set_title(policy)
            axes.tick_params(labelleft=True)
            if is_last:
                axes.set_xlabel(x_label)
        for axes in list(chain.from_iterable(grid))[len(policies) :]:
            axes.set_visible(False)
        return as_html(figure, description, description, in_panels=True)


def _panels(grid: list[list[Axes]], num: int) -> Iterator[tuple[Axes, bool]]:
    """The first panels, each with whether there is none below it."""
    columns = len(grid[0])
    for index, axes in enumerate(list(chain.from_iterable(grid))[:num]):
        yield axes, index + columns >= num


def _rows(
    table: pd.DataFrame, draw: Callable[[Axes, int, pd.DataFrame], None], description: str, *, height: float = 0.25
) -> str:
    """One panel with a row for each policy, from the top in the order of the table; a row's height in inches."""
    policies = list(dict.fromkeys(table["policy"]))
    with rc_context(STYLE):
        figure, [[axes]] = subplots(1, 1, 0.3 + height * len(policies), width=ROW_WIDTH)
        for at, policy in enumerate(policies):
            draw(axes, at, table[table["policy"] == policy])
        axes.set_yticks(range(len(policies)), policies, color=INK)
        axes.set_ylim(len(policies) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        return as_html(figure, description, description, in_panels=True)
