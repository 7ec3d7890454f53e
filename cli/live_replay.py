"""``inframind live replay``: one cell of an evaluation file on real servers, as a run folder."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from inframind.live import ReplayOptions, ServerError, graded, replay_live, run_tables
from inframind.live.sandbox import SandboxError
from inframind.sim.outcomes import OutcomeModel
from inframind.traces import begin_run, finish_run, summarise
from inframind.workflows import Controller, Replay, ServerInfo, replay

from .arguments import positive_int
from .live_dashboard import dashboard
from .live_pool import check_endpoints, live_pool, read_urls, terminable
from .live_queries import LiveQueries, simulated_queries, task_queries
from .live_up import add_pool_arguments
from .output import print_json, write_whole
from .simulate_cell import figures, print_workflows
from .workflow_cell import WorkflowCell, add_cell_arguments, load_cell

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

OTHER_FILES = 100
"""Open files that are no calls."""
MOST_OPEN = 20_000


def add_parser(commands: "Commands") -> None:
    """Declare ``live replay``."""
    parser = commands.add_parser("replay", help="run workflows on real servers, under one policy")
    parser.add_argument("experiment", type=Path, metavar="EXPERIMENT.toml", help="as of `inframind evaluate`")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="run folder to write")
    parser.add_argument("--resume", action="store_true", help="go on with the run in DIR: queries that have not begun")
    add_cell_arguments(parser, is_policy_required=True)
    parser.add_argument(
        "--strict-lengths",
        action="store_true",
        help="prompts and outputs of exactly the simulated lengths, and as right: only times are compared",
    )
    parser.add_argument(
        "--urls", type=Path, metavar="FILE", help="urls.toml of a running `inframind live up`: nothing is started"
    )
    parser.add_argument(
        "--timeout", type=positive_int, default=600, metavar="S", help="wait so long for a call's next token (600)"
    )
    add_pool_arguments(parser)
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override one key, as num_queries=40"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, no tables")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the cell live, write its folder, and check that its log repeats every decision."""
    outcomes = OutcomeModel.shipped()
    cell = load_cell(args, outcomes)
    base = args.experiment.parent
    queries = simulated_queries(cell) if args.strict_lengths else task_queries(cell, base)
    begin_run(
        args.out,
        cell.config("live", strict_lengths=args.strict_lengths),
        seed=cell.cell.seed,
        resume=args.resume,
    )
    try:
        with terminable():
            is_whole = _run_on_pool(args, cell, queries)
    except ServerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    workflows = _finish(args.out, cell, queries)
    replayed = _replay(args.out, cell, queries)
    if args.json:
        print_json({"workflows": figures(workflows), "replay": _as_dict(replayed), "out": str(args.out)})
    else:
        _print(workflows, replayed, args.out)
    if replayed.difference is not None:
        print(f"error: the log does not repeat the run's decisions: {replayed.difference}", file=sys.stderr)
        return 1
    if not is_whole:
        print(f"stopped: {len(workflows)} queries have begun; --resume goes on with the others", file=sys.stderr)
        return 130
    return 0


def _run_on_pool(args: argparse.Namespace, cell: WorkflowCell, queries: LiveQueries) -> bool:
    """Whether the run went to its end."""
    pool = cell.pool
    base = (args.experiment.parent / cell.evaluation.pool).parent
    urls = None if args.urls is None else read_urls(args.urls)
    with live_pool(pool, base, args.out / "logs", vllm_python=args.vllm_python, urls=urls) as running:
        if not args.no_checks:
            check_endpoints(pool, running.endpoints)
        with dashboard([server.name for server in pool.servers], len(queries.arrivals)) as on_progress:
            return replay_live(
                _controller(cell, queries),
                running.endpoints,
                queries.arrivals,
                queries.ask,
                args.out,
                options=ReplayOptions(cell.evaluation.poll_s, _raise_open_files(), args.timeout),
                on_progress=on_progress,
            )


def _controller(cell: WorkflowCell, queries: LiveQueries) -> Controller:
    policy = cell.policy()
    return Controller(
        _infos(cell),
        policy.planner,
        policy.executor,
        cell.options,
        embeddings=queries.embeddings,
        latency=cell.latency,
    )


def _infos(cell: WorkflowCell) -> list[ServerInfo]:
    return [server.info for server in cell.servers]


def _finish(out: Path, cell: WorkflowCell, queries: LiveQueries) -> pd.DataFrame:
    """Write the tables; returns the workflows."""
    calls, workflows, samples = run_tables(out, _infos(cell))
    try:
        workflows = graded(workflows, out, queries.judge)
    except SandboxError as error:
        # The run is not to be lost with it.
        print(f"warning: answers were not graded: {error}; --resume grades them", file=sys.stderr)
    summary = summarise(calls, samples, servers={server.name: server.model for server in cell.servers})
    finish_run(out, calls=calls, samples=samples, summary=summary, workflows=workflows)
    return workflows


def _replay(out: Path, cell: WorkflowCell, queries: LiveQueries) -> Replay:
    """Take all decisions of the log again, with policies as they were when the run began; noted in ``client.json``."""
    policy = cell.policy()
    with (out / "events.jsonl").open(encoding="utf-8") as lines:
        replayed = replay(lines, policy.planner, policy.executor, embeddings=queries.embeddings, latency=cell.latency)
    path = out / "client.json"
    report = json.loads(path.read_text(encoding="utf-8")) | {"replay": _as_dict(replayed)}
    write_whole(path, json.dumps(report, indent=2) + "\n")
    return replayed


def _as_dict(replayed: Replay) -> dict[str, object]:
    return {
        "events": replayed.num_events,
        "commands": replayed.num_commands,
        "agrees": replayed.difference is None,
        "difference": replayed.difference,
    }


def _print(workflows: pd.DataFrame, replayed: Replay, out: Path) -> None:
    print_workflows(workflows)
    part = json.loads((out / "client.json").read_text(encoding="utf-8"))["parts"][-1]
    late = ", ".join(
        f"{name} mean {1000 * part[f'{key}_mean_s']:.1f} ms, p99 {1000 * part[f'{key}_p99_s']:.1f} ms"
        for name, key in (("arrivals", "arrival_late"), ("event loop", "loop_late"))
        if part[f"{key}_mean_s"] is not None
    )
    print(f"late: {late}; {1000 * part['cpu_s_per_call']:.1f} ms of CPU time a call")
    if replayed.difference is None:
        print(f"log: {replayed.num_events:,} events replayed, all {replayed.num_commands:,} commands came out again")
    print(f"run: {out}")


def _raise_open_files() -> int:
    """As many open files as this process may have; returns how many calls may be open at a time."""
    import resource  # there is none on Windows, where the other commands run

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_OPEN + OTHER_FILES
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if most > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return max(most, soft) - OTHER_FILES
