"""``inframind simulate EVALUATION.toml``, with ``--policy`` or ``--all``: cells of an evaluation, as run folders."""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from inframind.agents import Cell
from inframind.sim import simulate_workflows
from inframind.sim.outcomes import OutcomeModel
from inframind.traces import summarise, write_run
from inframind.workflows import Arrived

from .live_queries import LiveQueries, task_queries
from .output import claim_runs, number, print_json, print_table, progress
from .workflow_cell import WorkflowCell, load_cells


def run_cells(args: argparse.Namespace) -> int:
    """Simulate the cells, write their run folders, say how it went."""
    cells = load_cells(args, OutcomeModel.shipped())
    out = args.out or Path("runs") / args.experiment.stem
    claim_runs(out, is_one=not args.all, overwrite=args.overwrite)
    ended = []
    with progress("simulating", len(cells)) as on_progress:
        for index, cell in enumerate(cells):
            num_queries = len(cell.arrivals)

            def on_query(done: int, before: int = index, num: int = num_queries) -> None:
                on_progress(before + done / num)

            tasks = task_queries(cell, args.experiment.parent) if args.tasks else None
            ended.append((cell.cell, simulate_cell(cell, out / cell.cell.name if args.all else out, on_query, tasks)))
    if args.json and args.all:
        print_json({"runs": {cell.name: {"workflows": figures(table)} for cell, table in ended}, "out": str(out)})
    elif args.json:
        print_json({"workflows": figures(ended[0][1]), "out": str(out)})
    elif args.all:
        print_cells(ended)
        print(f"runs: {out}")
    else:
        print_workflows(ended[0][1])
        print(f"run: {out}")
    return 0


def simulate_cell(
    cell: WorkflowCell, out: Path, on_progress: Callable[[int], None], tasks: LiveQueries | None = None
) -> pd.DataFrame:
    """Write the run folder of a simulated cell; returns its workflows.

    Parameters
    ----------
    tasks
        Those of a live run. The questions that stand for them are asked; without, the cell's own.

    Raises
    ------
    Mistakes
        ``out`` cannot be written, or a policy chose something that does not exist.
    """
    policy = cell.policy()
    arrivals, embeddings = cell.arrivals, cell.outcomes.bank.embedding
    if tasks is not None:
        # Nobody here reads the text.
        arrivals = [Arrived(arrived.t, replace(arrived.query, text=None)) for arrived in tasks.arrivals]
        embeddings = tasks.embeddings
    run = simulate_workflows(
        cell.servers,
        arrivals,
        policy.planner,
        policy.executor,
        cell.outcomes,
        options=cell.options,
        embeddings=embeddings,
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
        config=cell.config("simulated", strict_lengths=tasks is None),
        calls=run.calls,
        samples=run.samples,
        summary=summary,
        workflows=run.workflows,
        events=run.events,
        seed=cell.cell.seed,
    )
    return run.workflows


def figures(workflows: pd.DataFrame) -> dict[str, float | None]:
    """Key figures of a run's workflows; shares are of all queries, and null where nothing came or was graded."""
    is_graded = workflows["correct"].notna().any()
    latency_s = workflows["latency_s"]
    return {
        "queries": len(workflows),
        "answered": int(latency_s.notna().sum()),
        "on_time": _finite(float(workflows["on_time"].mean())),
        "accuracy": float(workflows["correct"].eq(True).mean()) if is_graded else None,
        "goodput": float((workflows["correct"].eq(True) & workflows["on_time"]).mean()) if is_graded else None,
        "latency_mean_s": _finite(float(latency_s.mean())),
        "latency_p99_s": _finite(float(latency_s.quantile(0.99))),
    }


def print_workflows(workflows: pd.DataFrame) -> None:
    """A row for each budget, and for all."""
    groups = [(f"{budget:g} s", group) for budget, group in workflows.groupby("budget_s")]
    rows = [[name, *_cells(group)] for name, group in [*groups, ("all", workflows)]]
    print_table("workflows, by budget", ["budget", *_COLUMNS], rows)


def print_cells(ended: Sequence[tuple[Cell, pd.DataFrame]]) -> None:
    """A row for each cell, of its workflows."""
    rows = [[_label(cell), *_cells(workflows)] for cell, workflows in ended]
    print_table("workflows", ["run", *_COLUMNS], rows)


_COLUMNS = ("queries", "answered", "on time", "right", "goodput", "latency\nmean s", "latency\np99 s")


def _cells(workflows: pd.DataFrame) -> list[str]:
    found = figures(workflows)
    return [
        f"{found['queries']:,}",
        f"{found['answered']:,}",
        *("" if (share := found[key]) is None else f"{share:.1%}" for key in ("on_time", "accuracy", "goodput")),
        *(number(found[key] or math.nan, 2) for key in ("latency_mean_s", "latency_p99_s")),
    ]


def _label(cell: Cell) -> str:
    """All of it in one column: a table that is wider than the terminal goes on below with the first one only."""
    tier = "" if cell.tier_s is None else f", budget {cell.tier_s:g} s"
    return f"{cell.policy}, {cell.scheduler}, {cell.rate_per_min:g}/min{tier}, seed {cell.seed}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
