"""``inframind simulate EVALUATION.toml --policy NAME``: one cell of an evaluation, as a run folder."""

import argparse
import math
from pathlib import Path

import pandas as pd

from inframind.sim import simulate_workflows
from inframind.sim.outcomes import OutcomeModel
from inframind.traces import summarise, write_run

from .output import number, print_json, print_table, progress
from .workflow_cell import WorkflowCell, load_cell


def run_cell(args: argparse.Namespace) -> int:
    """Simulate the cell, write its run folder, say how it went."""
    cell = load_cell(args, OutcomeModel.shipped())
    out = args.out or Path("runs") / args.experiment.stem
    workflows = simulate_cell(cell, out)
    if args.json:
        print_json({"workflows": figures(workflows), "out": str(out)})
    else:
        print_workflows(workflows)
        print(f"run: {out}")
    return 0


def simulate_cell(cell: WorkflowCell, out: Path) -> pd.DataFrame:
    """Write the run folder of a simulated cell; returns its workflows.

    Raises
    ------
    Mistakes
        ``out`` cannot be written, or a policy chose something that does not exist.
    """
    policy, arrivals = cell.policy(), cell.arrivals
    with progress("simulating", len(arrivals)) as on_progress:
        run = simulate_workflows(
            cell.servers,
            arrivals,
            policy.planner,
            policy.executor,
            cell.outcomes,
            options=cell.options,
            embeddings=cell.outcomes.bank.embedding,
            latency=cell.latency,
            poll_s=cell.evaluation.poll_s,
            seed=cell.cell.seed,
            on_progress=on_progress,
        )
    summary = summarise(
        run.calls,
        run.samples,
        servers={server.name: server.model for server in cell.servers},
        utilisation=run.utilisation,
    )
    write_run(
        out,
        config=cell.config("simulated", strict_lengths=True),
        calls=run.calls,
        samples=run.samples,
        summary=summary,
        workflows=run.workflows,
        events=run.events,
        seed=cell.cell.seed,
    )
    return run.workflows


def figures(workflows: pd.DataFrame) -> dict[str, float | None]:
    """Key figures of a run's workflows; shares are of all queries, and null where nothing was graded."""
    is_graded = workflows["correct"].notna().any()
    latency_s = workflows["latency_s"]
    return {
        "queries": len(workflows),
        "answered": int(latency_s.notna().sum()),
        "on_time": float(workflows["on_time"].mean()),
        "accuracy": float(workflows["correct"].eq(True).mean()) if is_graded else None,
        "goodput": float((workflows["correct"].eq(True) & workflows["on_time"]).mean()) if is_graded else None,
        "latency_mean_s": _finite(float(latency_s.mean())),
        "latency_p99_s": _finite(float(latency_s.quantile(0.99))),
    }


def print_workflows(workflows: pd.DataFrame) -> None:
    """A row for each budget, and for all."""
    groups = [(f"{budget:g} s", group) for budget, group in workflows.groupby("budget_s")]
    rows = []
    for name, group in [*groups, ("all", workflows)]:
        found = figures(group)
        shares = ("on_time", "accuracy", "goodput")
        rows.append(
            [
                name,
                f"{found['queries']:,}",
                f"{found['answered']:,}",
                *("" if (share := found[key]) is None else f"{share:.1%}" for key in shares),
                *(number(found[key] or math.nan, 2) for key in ("latency_mean_s", "latency_p99_s")),
            ]
        )
    columns = ["budget", "queries", "answered", "on time", "right", "goodput", "latency\nmean s", "latency\np99 s"]
    print_table("workflows, by budget", columns, rows)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
