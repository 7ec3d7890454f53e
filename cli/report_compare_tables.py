"""The tables of a comparison of runs, as the page and the terminal show them."""

import math
from collections.abc import Iterator

from inframind.agents import MIN_SEEDS
from inframind.calibration import (
    STATISTICS,
    ConditionComparison,
    Contest,
    Decisions,
    Difference,
    FoldersComparison,
    LatencyFigures,
    LoadBin,
    PairSign,
    ServerFigures,
    Sources,
    TierFigures,
    count_signs,
    figure_name,
)

from .report_cells import FEW_SEEDS, UNKNOWN, UNROUNDED, cell
from .report_check_tables import SHORT, error_cell, time_cell

MINUS = "\N{MINUS SIGN}"
CONDITION_HEADS = (
    *("seeds", "latency\nlive", "latency\nsimulated", "error", "own\nspread"),
    *("on time\nlive", "on time\nsimulated", "points", "own\nspread"),
    *("goodput\nlive", "goodput\nsimulated", "points", "TTFT\nerror", "TPOT\nerror", "E2E\nerror", "same\naction"),
)
"""Of `condition_cells`; latency is of workflows, of calls where there are none."""
LATENCY_HEADS = ("live", "simulated", "error", "own spread")
TIER_HEADS = (
    *("latency\nlive", "latency\nsimulated", "error"),
    *(f"{name}\n{side}" for name in ("goodput", "on time", "accuracy") for side in ("live", "simulated", "points")),
)
SERVER_HEADS = (
    *("calls live", "calls simulated", "running live", "running simulated"),
    *("waiting live", "waiting simulated"),
)
DECISION_HEADS = ("decisions", "same server", "same strategy", "same action", "by chance")
STEP_NAMES = {
    "servers": "simulated servers in place of the real ones",
    "lengths": "simulated output lengths",
    "arrivals": "queries at the simulated times",
    "decisions": "the simulated run's own decisions",
}
STEP_HEADS = ("mean latency of workflows", "of live", "mean E2E of calls", "of live")
LOAD_HEADS = ("calls", "TTFT error", "TPOT error", "E2E error")
RANKING_HEADS = ("figure", "seeds", "tau", "95 %", "live itself", "same order", "of the clear ones")
SIGN_HEADS = ("live", "simulated", "same order", "clear")


def condition_cells(each: ConditionComparison) -> list[str]:
    """A condition in one row."""
    latency = each.latency or each.calls["e2e_s"]
    cells = [
        f"{len(each.pairs)}",
        time_cell(latency.live["mean"]),
        time_cell(latency.simulated["mean"]),
        with_half(error_cell(latency.relative_error["mean"]), latency.error_low, latency.error_high),
        cell(latency.spread["mean"], "share"),
    ]
    if each.tiers:
        on_time, goodput = each.tiers[0].shares["on_time"], each.tiers[0].shares["goodput"]
        points = [with_half(points_cell(share.difference), share.low, share.high) for share in (on_time, goodput)]
        cells += [
            cell(on_time.live, "share"),
            cell(on_time.simulated, "share"),
            points[0],
            _plain_points(on_time.spread),
        ]
        cells += [cell(goodput.live, "share"), cell(goodput.simulated, "share"), points[1]]
    else:
        cells += [UNKNOWN] * 7
    cells += [error_cell(figures.relative_error["mean"]) for figures in each.calls.values()]
    action = each.decisions.simulated.every.action if each.decisions else math.nan
    return [*cells, cell(action, "share")]


def latency_rows(figures: LatencyFigures) -> list[list[str]]:
    """A row for each statistic: its name, and the columns of `LATENCY_HEADS`."""
    return [
        [
            statistic,
            time_cell(figures.live[statistic]),
            time_cell(figures.simulated[statistic]),
            with_half(error_cell(figures.relative_error[statistic]), figures.error_low, figures.error_high)
            if statistic == "mean"
            else error_cell(figures.relative_error[statistic]),
            cell(figures.spread[statistic], "share"),
        ]
        for statistic in STATISTICS
    ]


def tier_row(tier: TierFigures) -> list[str]:
    """The budget, and the columns of `TIER_HEADS`."""
    latency = tier.latency
    cells = [
        f"{tier.tier} s" if tier.tier != "all" else "all",
        time_cell(latency.live["mean"]),
        time_cell(latency.simulated["mean"]),
        with_half(error_cell(latency.relative_error["mean"]), latency.error_low, latency.error_high),
    ]
    for share in tier.shares.values():
        cells += [
            cell(share.live, "share"),
            cell(share.simulated, "share"),
            with_half(points_cell(share.difference), share.low, share.high),
        ]
    return cells


def server_row(server: ServerFigures) -> list[str]:
    """The server, and the columns of `SERVER_HEADS`."""
    shares = (cell(value, "share") for value in server.call_share)
    depths = (cell(value, "depth") for pair in (server.running, server.waiting) for value in pair)
    return [server.server, *shares, *depths]


def decision_rows(decisions: Decisions) -> Iterator[list[str]]:
    """What is compared, and the columns of `DECISION_HEADS`."""
    for side, figures in (("simulated", decisions.simulated), ("live again", decisions.live_again)):
        if figures is None:
            continue
        plan = cell(figures.same_plan, "share")
        yield [f"{side}, plan", f"{figures.num_workflows:,}", UNKNOWN, UNKNOWN, plan, UNKNOWN]
        for name, agreement in (("first call", figures.first), ("all calls", figures.every)):
            shares = (agreement.server, agreement.strategy, agreement.action, agreement.by_chance)
            yield [f"{side}, {name}", f"{agreement.num:,}", *(cell(share, "share") for share in shares)]


def step_rows(sources: Sources) -> Iterator[list[str]]:
    """From live to simulated: what is changed, and the columns of `STEP_HEADS`."""
    differences = (sources.latency, sources.e2e)
    yield ["live", *(text for each in differences for text in (time_cell(each.live_s), ""))]
    for step, name in STEP_NAMES.items():
        yield [f"+ {name}", *(text for each in differences for text in _step(each, step))]
    yield [
        "simulated",
        *(
            text
            for each in differences
            for text in (time_cell(each.simulated_s), error_cell(_ratio(each.simulated_s - each.live_s, each.live_s)))
        ),
    ]


def measure_lines(sources: Sources) -> Iterator[str]:
    """What was measured of the causes, a sentence each."""
    measures = sources.measures
    if measures.num_equal_calls:
        live, simulated = measures.output_tokens
        yield (
            f"Output tokens of the {measures.num_equal_calls:,} calls that both made of the same model with the same "
            f"strategy: {live:.1f} live, {simulated:.1f} simulated."
        )
    live, simulated = measures.prompt_tokens
    if not math.isnan(live):
        yield f"Prompt tokens of a call: {live:.1f} live, {simulated:.1f} as the simulator counts them."
    if not math.isnan(measures.late_s[0]):
        mean, p99 = map(time_cell, measures.late_s)
        yield f"Queries came later in the live run than in the simulated one: by {mean} in the mean, {p99} at the p99."
    ages = [measures.live_gauge_age_s, measures.simulated_gauge_age_s]
    if not any(math.isnan(age) for age, _ in ages):
        texts = [f"{time_cell(mean)} (99th percentile {time_cell(p99)})" for mean, p99 in ages]
        yield f"Age of a server's gauges when a call was sent there: {texts[0]} live, {texts[1]} simulated."
    names = {
        "arrival_late_p99_s": "arrivals late by {} at the 99th percentile",
        "loop_late_p99_s": "its event loop late by {} at the 99th percentile",
        "cpu_s_per_call": "{} of CPU for a call",
    }
    said = [names[name].format(time_cell(value)) for name, value in measures.client.items()]
    if said:
        yield f"The live client of itself: {', '.join(said)}."


def load_row(one: LoadBin) -> list[str]:
    """The load, and the columns of `LOAD_HEADS`."""
    load = f"{one.low}" if one.low == one.high else f"{one.low} to {one.high}"
    return [load, f"{one.num_calls:,}", *(error_cell(one.relative_error[metric]) for metric in SHORT)]


def ranking_rows(contest: Contest) -> Iterator[list[str]]:
    """The contest, and the columns of `RANKING_HEADS`."""
    for index, ranking in enumerate(contest.rankings):
        same, num = count_signs(ranking)
        clear_same, clear = count_signs(ranking, clear_only=True)
        interval = UNKNOWN if math.isnan(ranking.tau_low) else f"{_tau(ranking.tau_low)} to {_tau(ranking.tau_high)}"
        yield [
            contest.name if index == 0 else "",
            figure_name(ranking.figure),
            f"{len(contest.seeds)}",
            _tau(ranking.tau),
            interval,
            _tau(ranking.live_tau),
            f"{same} of {num}",
            f"{clear_same} of {clear}" if clear else UNKNOWN,
        ]


def sign_row(sign: PairSign, figure: str) -> list[str]:
    """The pair, and the columns of `SIGN_HEADS`."""
    sides = []
    for mean, low, high in (sign.live, sign.simulated):
        text = time_cell(mean) if figure == "latency_mean_s" else points_cell(mean)
        half = (high - low) / 2
        wide = time_cell(half) if figure == "latency_mean_s" else f"{100 * half:.1f}"
        sides.append(text if math.isnan(half) else f"{text} ± {wide}")
    return [
        f"{sign.first} {MINUS} {sign.second}",
        *sides,
        "yes" if sign.agrees else "no",
        "yes" if sign.is_clear else "no",
    ]


def warnings(comparison: FoldersComparison) -> list[str]:
    """What makes the comparison less than one of the same experiment."""
    return [
        f"Not the same experiment{f' ({each.name})' if each.name else ''}: {line}."
        for each in comparison.conditions
        for line in each.warnings
    ]


def table_notes(comparison: FoldersComparison) -> list[str]:
    """What stands beneath the tables of conditions."""
    has_few = any(len(each.pairs) < MIN_SEEDS for each in comparison.conditions)
    return [FEW_SEEDS, UNROUNDED] if has_few else [UNROUNDED]


def points_cell(difference: float) -> str:
    """A difference of shares, in percentage points with its sign."""
    if math.isnan(difference):
        return UNKNOWN
    text = f"{100 * difference:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", MINUS)


def with_half(text: str, low: float, high: float) -> str:
    """A figure in percent with half of its interval; by itself where there is none."""
    return text if math.isnan(low) else f"{text} ± {50 * (high - low):.1f}"


def _plain_points(spread: float) -> str:
    return UNKNOWN if math.isnan(spread) else f"{100 * spread:.1f}"


def _step(difference: Difference, step: str) -> tuple[str, str]:
    value = difference.steps_s[step]
    sign = "+" if value > 0 else ""
    return sign + time_cell(value), error_cell(_ratio(value, difference.live_s))


def _ratio(value: float, of: float) -> float:
    return value / of if of > 0 else math.nan


def _tau(value: float) -> str:
    return UNKNOWN if math.isnan(value) else f"{value:.2f}".replace("-", MINUS)
