"""``inframind simulate``: serve single calls on a simulated pool, under one or several schedulers and loads.

With ``--policy`` or ``--all`` the file is one of `inframind evaluate`, and its cells are run (`simulate_cell`).
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from inframind.sim import PoolSection, simulate_calls
from inframind.traces import ConfigError, build_requests, by_tier, summarise, versions, write_run
from inframind.workflows import edf_priority

from .experiment import Experiment, Scheduler, load_experiment
from .file_kinds import check_kind
from .output import OVERWRITE_HELP, REPORT, SUMMARY, claim_runs, number, print_json, print_table, progress, write_frame
from .report import RunView, write_report
from .simulate_cell import run_cells
from .workflow_cell import add_cell_arguments

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

POLICY: Final[dict[Scheduler, Literal["fcfs", "priority"]]] = {"fcfs": "fcfs", "edf": "priority"}
"""The vLLM policy behind each scheduler."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One of an experiment's runs."""

    load: float
    scheduler: Scheduler

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"load-{self.load:g}-{self.scheduler}"

    @property
    def label(self) -> str:
        """For a person."""
        return f"load {self.load:g}, {self.scheduler.upper()}"


@dataclass(frozen=True, slots=True)
class Result:
    """One run, and its key figures."""

    variant: Variant
    calls: pd.DataFrame
    samples: pd.DataFrame
    summary: pd.DataFrame


def add_parser(commands: "Commands") -> None:
    """Declare ``simulate``."""
    parser = commands.add_parser("simulate", help="serve a trace or a synthetic load on a simulated pool")
    parser.add_argument(
        "experiment", type=Path, metavar="EXPERIMENT.toml", help="what to simulate: the keys of docs/files.md"
    )
    parser.add_argument("-o", "--out", type=Path, metavar="RUN", help="folder to write (default runs/EXPERIMENT)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override one key, as workload.num=1000"
    )
    parser.add_argument("--overwrite", action="store_true", help=OVERWRITE_HELP)
    parser.add_argument("--json", action="store_true", help="print JSON, no tables")
    workflows = parser.add_argument_group(
        "workflows", "runs of a file of `inframind evaluate`: with --policy one, or --all"
    )
    add_cell_arguments(workflows)
    workflows.add_argument(
        "--tasks",
        action="store_true",
        help="ask the questions that stand for the file's tasks: beside a live run without --strict-lengths",
    )
    parser.set_defaults(run=run_simulate)


def run_simulate(args: argparse.Namespace) -> int:
    """Simulate, write the run folders and the report, print the tables."""
    if args.policy is not None or args.all:
        return run_cells(args)
    chosen = {"--scheduler": args.scheduler, "--rate": args.rate, "--seed": args.seed, "--tasks": args.tasks or None}
    if lone := [f"{name}: only with --policy or --all" for name, value in chosen.items() if value is not None]:
        raise ConfigError("simulate", lone)
    check_kind(args.experiment, "simulate")
    experiment, pool = load_experiment(args.experiment, args.set)
    out = args.out or Path("runs") / args.experiment.stem
    results = run_experiment(experiment, pool, base=args.experiment.parent, out=out, overwrite=args.overwrite)
    if args.json:
        print_results_json(results, out)
        return 0
    print_runs(results, out)
    return 0


def run_experiment(
    experiment: Experiment, pool: PoolSection, *, base: Path, out: Path, overwrite: bool
) -> list[Result]:
    """All runs of an experiment: simulated, written below ``out``, and reported there.

    Raises
    ------
    Mistakes
        The trace has bad rows, or ``out`` cannot be written.
    """
    requests = _requests(experiment, pool, base)
    server_index = _destinations(experiment, pool, requests)
    variants = [Variant(load, scheduler) for load in experiment.loads for scheduler in experiment.schedulers]
    claim_runs(out, is_one=len(variants) == 1, overwrite=overwrite)
    results = []
    with progress("simulating", len(variants) * len(requests)) as on_progress:
        for index, variant in enumerate(variants):
            before = index * len(requests)

            def on_calls(num_calls: int, before: int = before) -> None:
                on_progress(before + num_calls)

            results.append(_run(variant, experiment, pool, requests, server_index, on_calls))
    config = {"experiment": experiment.model_dump(mode="json"), "pool": pool.recorded()}
    for result in results:
        write_run(
            out if len(results) == 1 else out / result.variant.name,
            config=config | {"run": {"load": result.variant.load, "scheduler": result.variant.scheduler}},
            calls=result.calls,
            samples=result.samples,
            summary=result.summary,
            seed=experiment.seed,
        )
    if len(results) > 1:
        write_frame(out / SUMMARY, _all_summaries(results))
    _write_report(out / REPORT, experiment, results)
    return results


def _requests(experiment: Experiment, pool: PoolSection, base: Path) -> pd.DataFrame:
    max_model_len = min(server.scheduler.max_model_len for server in pool.servers)
    requests = build_requests(
        experiment.workload, experiment.budgets, experiment.seed, base, max_model_len=max_model_len
    )
    if failed := requests.attrs.get("num_failed_dropped"):
        print(f"warning: {failed:,} failed requests of the trace, without output tokens, are left out", file=sys.stderr)
    return requests


def _run(
    variant: Variant,
    experiment: Experiment,
    pool: PoolSection,
    requests: pd.DataFrame,
    server_index: NDArray[np.int64],
    on_progress: Callable[[int], None],
) -> Result:
    asked = requests.assign(arrival_s=requests["arrival_s"] / variant.load)
    if variant.scheduler == "edf":
        deadlines = (asked["arrival_s"] + asked["budget_s"]).to_numpy(dtype=np.float64)
        asked["priority"] = [edf_priority(deadline) for deadline in deadlines]
    servers = [server.options(policy=POLICY[variant.scheduler]) for server in pool.servers]
    run = simulate_calls(
        servers, asked, server_index=server_index, sample_s=experiment.sample_s, on_progress=on_progress
    )
    summary = summarise(
        run.calls,
        run.samples,
        servers={server.name: server.model for server in pool.servers},
        utilisation=run.utilisation,
    )
    return Result(variant, run.calls, run.samples, summary)


def _destinations(experiment: Experiment, pool: PoolSection, requests: pd.DataFrame) -> NDArray[np.int64]:
    """Which server each request goes to: one of its model, or one by the experiment's shares."""
    names = [server.name for server in pool.servers]
    rng = np.random.default_rng(np.random.SeedSequence(experiment.seed, spawn_key=(99,)))
    shares = np.array([experiment.shares.get(name, 0.0) if experiment.shares else 1.0 for name in names])
    drawn = rng.choice(len(names), size=len(requests), p=shares / shares.sum())
    if "model" not in requests:
        return drawn
    by_model: dict[str, list[int]] = {}
    for index, server in enumerate(pool.servers):
        by_model.setdefault(server.model, []).append(index)
    wanted = requests["model"]
    unknown = sorted(set(wanted.dropna()) - set(by_model))
    if unknown:
        rule = f"pool {experiment.pool} serves {', '.join(by_model)}"
        raise ConfigError("workload", [f"column model: {name!r}: {rule}" for name in unknown])
    # The servers of one model take turns.
    turn = requests.groupby("model").cumcount()
    return np.array(
        [
            drawn[row] if not isinstance(model, str) else by_model[model][turn[row] % len(by_model[model])]
            for row, model in enumerate(wanted)
        ],
        dtype=np.int64,
    )


def _all_summaries(results: list[Result]) -> pd.DataFrame:
    tables = [r.summary.assign(load=r.variant.load, scheduler=r.variant.scheduler) for r in results]
    together = pd.concat(tables, ignore_index=True)
    first = ["load", "scheduler"]
    return together[[*first, *(name for name in together if name not in first)]]


def _write_report(path: Path, experiment: Experiment, results: list[Result]) -> None:
    workload = experiment.workload
    about = versions()
    write_report(
        path,
        [
            RunView(
                f"{r.variant.load:g} \N{MULTIPLICATION SIGN}",
                r.variant.scheduler.upper(),
                r.calls,
                r.samples,
                r.summary,
            )
            for r in results
        ],
        title=_title(experiment),
        about={
            "Pool": experiment.pool,
            "Workload": str(workload.path)
            if workload.kind == "trace"
            else f"synthetic, {workload.arrivals.kind} arrivals",
            "Calls in a run": f"{len(results[0].calls):,}",
            "Seed": str(experiment.seed),
            "Scheduler semantics": "vLLM 0.32",
            "Software": f"inframind-router {about['packages'].get('inframind-router', '')}, Python {about['python']}",
        },
    )


def _title(experiment: Experiment) -> str:
    """The name, or what was run."""
    if experiment.name is not None:
        return f"{experiment.name}: single calls on a simulated pool"
    schedulers = " and ".join(scheduler.upper() for scheduler in experiment.schedulers)
    loads = ", ".join(f"{load:g}" for load in experiment.loads)
    return f"Single calls on {experiment.pool} under {schedulers}, load {loads}"


def print_results_json(results: list[Result], out: Path) -> None:
    """What the tables say, for machines."""
    runs = {
        r.variant.name: {
            "summary": r.summary.astype(object).where(r.summary.notna(), None).to_dict("records"),
            "by_tier": by_tier(r.calls).to_dict("records"),
        }
        for r in results
    }
    print_json({"runs": runs, "out": str(out)})


def print_runs(results: Sequence[Result], out: Path) -> None:
    """The key figures: a row for each run, or of a single one for each server."""
    if len(results) == 1:
        (result,) = results
        title, head = result.variant.label, "server"
        rows = [_figures_cells(str(row["server"]), row) for _, row in result.summary.iterrows()]
    else:
        title, head = "all servers together", "run"
        rows = [_figures_cells(result.variant.label, result.summary.iloc[-1]) for result in results]
    print_table(f"{title} (TTFT and E2E in s)", [head, *_FIGURES], rows)
    for result in results:
        if failed := result.summary["failed"].iloc[-1]:
            print(f"{result.variant.label}: {failed:,} calls failed")
    _print_tiers(results)
    print(f"runs: {out}\nall figures: {out / SUMMARY}\nreport: {out / REPORT}")


_FIGURES = ("calls", *(f"{name}\n{figure}" for name in ("TTFT", "E2E") for figure in ("mean", "p99")), "busy")
"""So few that they fit into 80 columns; ``summary.csv`` has all."""


def _figures_cells(name: str, row: "pd.Series[float]") -> list[str]:
    return [
        name,
        f"{row['requests']:,}",
        *(number(row[f"ttft_{figure}_s"], 2) for figure in ("mean", "p99")),
        *(number(row[f"e2e_{figure}_s"], 1) for figure in ("mean", "p99")),
        f"{row['utilisation']:.0%}",
    ]


def _print_tiers(results: Sequence[Result]) -> None:
    """On-time shares by budget, a row for each run."""
    tiers = [by_tier(result.calls).set_index("budget_s")["on_time"] for result in results]
    budgets = sorted({budget for tier in tiers for budget in tier.index})
    if not budgets:
        return
    rows = [
        [
            result.variant.label,
            *(f"{tier[budget]:.1%}" if budget in tier.index else "" for budget in budgets),
            f"{result.summary['on_time'].iloc[-1]:.1%}",
        ]
        for result, tier in zip(results, tiers, strict=True)
    ]
    print_table("on time, by latency budget", ["run", *(f"{budget:g} s" for budget in budgets), "all"], rows)
