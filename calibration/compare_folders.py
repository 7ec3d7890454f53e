"""Compare simulated runs with live ones: every figure of `inframind compare`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from inframind.traces import Mistakes

from .compare_decisions import Decisions, compare_decisions
from .compare_figures import (
    LatencyFigures,
    ServerFigures,
    TierFigures,
    call_figures,
    server_figures,
    tier_figures,
    workflow_latency,
)
from .compare_inputs import Key, PairedRuns, condition_name, match_folders
from .compare_ranking import Contest, rank_policies
from .compare_replay import CannotReplay
from .compare_sources import (
    LoadBin,
    Sources,
    SourcesOfPair,
    errors_by_load,
    paired_calls,
    pool_sources,
    sources_of,
)


@dataclass(frozen=True, slots=True)
class ConditionComparison:
    """All seeds of one condition: a policy, say, under a scheduler at a rate."""

    name: str
    """For a reader; empty where the runs do not say what they are."""
    condition: Key
    pairs: tuple[PairedRuns, ...]
    """One for each seed."""
    calls: dict[str, LatencyFigures]
    """TTFT, TPOT and E2E."""
    latency: LatencyFigures | None
    """Of workflows; None for runs of single calls."""
    tiers: tuple[TierFigures, ...]
    """All budgets first; empty for runs of single calls."""
    servers: tuple[ServerFigures, ...]
    decisions: Decisions | None
    """None for runs of single calls, and without a common query."""
    sources: Sources | None
    """None where counterfactuals cannot be had; ``notes`` say why."""
    replayed: pd.DataFrame
    """Live calls beside the same calls on the simulated servers, as `paired_calls` has them; may be empty."""
    by_load: tuple[LoadBin, ...]
    """Errors of ``replayed`` by the load that calls met."""
    warnings: tuple[str, ...]
    """In what the runs are not the same experiment."""
    notes: tuple[str, ...]
    """What else a reader must know."""


@dataclass(frozen=True, slots=True)
class FoldersComparison:
    """Everything."""

    conditions: tuple[ConditionComparison, ...]
    contests: tuple[Contest, ...]
    """Rankings of policies; empty where there are not several."""
    notes: tuple[str, ...]
    """Of what is left out."""


def compare_folders(
    simulated: Path, live: Sequence[Path], *, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> FoldersComparison:
    """Compare simulated with live runs.

    Parameters
    ----------
    simulated, live
        As `match_folders` takes them.
    on_progress
        Called with the number of pairs of runs that have been compared, and of all.

    Raises
    ------
    TraceError
        A folder cannot be read, or nothing matches.
    """
    matched = match_folders(simulated, live)
    by_condition: dict[Key, list[PairedRuns]] = {}
    for pair in matched.pairs:
        by_condition.setdefault(pair.live.condition, []).append(pair)
    total = len(matched.pairs)
    num_done = 0
    conditions = []
    for condition, pairs in by_condition.items():
        parts: list[SourcesOfPair] = []
        whys: dict[str, None] = {}
        for pair in pairs:
            try:
                parts.append(sources_of(pair))
            except (CannotReplay, Mistakes) as reason:
                whys[" ".join(str(reason).split())] = None
            num_done += 1
            on_progress(num_done, total)
        conditions.append(_condition(condition, pairs, parts, list(whys)))
    notes = matched.notes
    if all(pair.live.kind == "simulated" for pair in matched.pairs):
        notes = (*notes, "The runs named as live say of themselves that they are simulated: read simulated for live.")
    return FoldersComparison(tuple(conditions), rank_policies(matched.pairs), notes)


def _condition(
    condition: Key, pairs: Sequence[PairedRuns], parts: Sequence[SourcesOfPair], whys: Sequence[str]
) -> ConditionComparison:
    has_workflows = pairs[0].live.run.workflows is not None
    sources = pool_sources(parts) if parts and sum(len(part.workflows_s) for part in parts) else None
    replayed = [part.replayed for part in parts] if has_workflows else list(map(_same_calls, pairs))
    rows = pd.concat(replayed, ignore_index=True) if replayed else pd.DataFrame()
    return ConditionComparison(
        name=condition_name(condition),
        condition=condition,
        pairs=tuple(pairs),
        calls=call_figures(pairs),
        latency=workflow_latency(pairs) if has_workflows else None,
        tiers=tier_figures(pairs) if has_workflows else (),
        servers=server_figures(pairs),
        decisions=compare_decisions(pairs) if has_workflows else None,
        sources=sources,
        replayed=rows,
        by_load=errors_by_load(rows),
        warnings=tuple(dict.fromkeys(line for pair in pairs for line in pair.differences)),
        notes=tuple(_notes(pairs, whys if has_workflows else ())),
    )


def _same_calls(pair: PairedRuns) -> pd.DataFrame:
    """Of runs of single calls: those with the same name and lengths in both."""
    live, simulated = pair.live.run.calls, pair.simulated.run.calls
    return paired_calls(live, simulated, ["call_id", "output_tokens"])


def _notes(pairs: Sequence[PairedRuns], whys: Sequence[str]) -> list[str]:
    notes = [f"Where the difference comes from is not known for a seed: {why}." for why in whys]
    for word, runs in (
        ("live", [pair.live for pair in pairs]),
        ("simulated", [pair.simulated for pair in pairs]),
    ):
        outcomes = pd.concat([run.run.workflows if run.run.workflows is not None else run.run.calls for run in runs])
        failed = outcomes.loc[outcomes["outcome"] != "finished", "outcome"]
        if len(failed):
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in failed.value_counts().items())
            what = "calls" if runs[0].run.workflows is None else "workflows"
            notes.append(f"{len(failed):,} of {len(outcomes):,} {word} {what} did not finish: {reasons}.")
    workflows = [pair.live.run.workflows for pair in pairs if pair.live.run.workflows is not None]
    if workflows:
        finished = pd.concat([table[table["outcome"] == "finished"] for table in workflows])
        if ungraded := int(finished["correct"].isna().sum()):
            notes.append(
                f"{ungraded:,} of {len(finished):,} live answers were not graded: they count for latency only."
            )
    if any(pair.live.is_live is False for pair in pairs) and any(pair.simulated.is_live for pair in pairs):
        notes.append("The run named as simulated says of itself that it is live: the sides may have been mixed up.")
    return notes
