"""``inframind live replay``: cells of an evaluation file on real servers, each as a run folder."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from inframind.live import ReplayOptions, ServerError
from inframind.sim.outcomes import OutcomeModel
from inframind.traces import ConfigError, read_run

from .arguments import positive_int
from .live_pool import await_idle, check_endpoints, live_pool, read_urls, terminable, with_policy
from .live_queries import LiveQueries
from .live_run import Finished, LiveRun, as_dict
from .live_up import add_pool_arguments
from .output import print_json
from .simulate_cell import figures, print_cells, print_workflows
from .workflow_cell import add_cell_arguments, load_cells

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

OTHER_FILES = 100
"""Open files that are no calls."""
MOST_OPEN = 20_000


def add_parser(commands: "Commands") -> None:
    """Declare ``live replay``."""
    parser = commands.add_parser("replay", help="run workflows on real servers, under one policy or all of a file")
    parser.add_argument("experiment", type=Path, metavar="EXPERIMENT.toml", help="as of `inframind evaluate`")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="run folder to write")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in DIR: queries that have not begun; with --all: runs that are not there yet, too",
    )
    add_cell_arguments(parser)
    parser.add_argument(
        "--strict-lengths",
        action="store_true",
        help="prompts and outputs of exactly the simulated lengths, and as right: only times are compared",
    )
    parser.add_argument(
        "--urls", type=Path, metavar="FILE", help="urls.toml of a running `inframind live up`: nothing is started"
    )
    parser.add_argument(
        "--timeout",
        type=positive_int,
        default=600,
        metavar="S",
        help="wait so long for a call's next token (default 600)",
    )
    add_pool_arguments(parser)
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override one key, as num_queries=40"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, no tables")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the cells live, write their folders, and check that their logs repeat every decision."""
    cells = load_cells(args, OutcomeModel.shipped())
    runs = [
        LiveRun(cell, args.out / cell.cell.name if args.all else args.out, args.strict_lengths, args.experiment.parent)
        for cell in cells
    ]
    try:
        with terminable():
            ended = _run_all(args, _to_do(args, runs))
    except ServerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    _print(args, runs, ended)
    if wrong := [(name, end.replay.difference) for name, end in ended.items() if end.replay.difference is not None]:
        for name, difference in wrong:
            print(f"error: {name}: the log does not repeat the run's decisions: {difference}", file=sys.stderr)
        return 1
    if stopped := [end for end in ended.values() if not end.is_whole]:
        print(
            f"stopped: {len(stopped[0].workflows)} queries have begun; --resume goes on with the others",
            file=sys.stderr,
        )
        return 130
    return 0


def _to_do(args: argparse.Namespace, runs: list[LiveRun]) -> list[LiveRun]:
    """Those that are not whole yet.

    Raises
    ------
    ConfigError
        A folder that is there, and must not be, or is of something else.
    """
    if not args.all:
        return runs
    if args.out.exists() and not args.out.is_dir():
        raise ConfigError(args.out, ["is a file; name a folder"])
    for run in runs:
        if run.is_begun:
            run.begin(resume=args.resume)
    return [run for run in runs if not run.is_whole]


def _run_all(args: argparse.Namespace, runs: list[LiveRun]) -> dict[str, Finished]:
    """One after the other on one pool, until one is broken off; returns what has ended, by its folder."""
    ended: dict[str, Finished] = {}
    if not runs:
        return ended
    first = runs[0].cell
    policies = {run.cell.scheduler_policy for run in runs}
    # With priorities that are all alike, vLLM's priority policy is first come, first served.
    pool = with_policy(first.world.pool, "priority" if "priority" in policies else "fcfs")
    base = (args.experiment.parent / first.evaluation.pool).parent
    urls = None if args.urls is None else read_urls(args.urls)
    options = ReplayOptions(first.evaluation.poll_s, _raise_open_files(), args.timeout)
    # Its mistakes are told before servers are started.
    queries = _prepared(args, runs[0])
    with live_pool(pool, base, args.out / "logs", vllm_python=args.vllm_python, urls=urls) as running:
        if not args.no_checks:
            check_endpoints(pool, running.endpoints)
        for number, run in enumerate(runs):
            if number:
                queries = _prepared(args, run)
                await_idle(running.endpoints)
            end = ended[str(run.out)] = run.drive(running.endpoints, queries, options)
            if args.all:
                _say(number, runs, end)
            if not end.is_whole:
                break
    return ended


def _prepared(args: argparse.Namespace, run: LiveRun) -> LiveQueries:
    queries = run.queries()
    run.begin(resume=run.is_begun if args.all else args.resume)
    return queries


def _say(number: int, runs: list[LiveRun], end: Finished) -> None:
    """A line on stderr when a run of many has ended."""
    name, found = runs[number].cell.cell.name, figures(end.workflows)
    latency = "" if (latency_s := found["latency_mean_s"]) is None else f", latency {latency_s:.2f} s"
    print(
        f"{number + 1} of {len(runs)}: {name}: {found['answered']} of {found['queries']} answered, "
        f"{found['on_time']:.0%} on time{latency}",
        file=sys.stderr,
        flush=True,
    )


def _print(args: argparse.Namespace, runs: list[LiveRun], ended: dict[str, Finished]) -> None:
    if not args.all:
        ((name, end),) = ended.items()
        if args.json:
            print_json({"workflows": figures(end.workflows), "replay": as_dict(end.replay), "out": name})
        else:
            print_workflows(end.workflows)
            _print_client(end, args.out)
        return
    tables = [(run.cell.cell, read_run(run.out).workflows) for run in runs if run.is_whole]
    whole = [(cell, workflows) for cell, workflows in tables if workflows is not None]
    if args.json:
        print_json({"runs": {cell.name: {"workflows": figures(table)} for cell, table in whole}, "out": str(args.out)})
    else:
        print_cells(whole)
        print(f"runs: {args.out}")


def _print_client(end: Finished, out: Path) -> None:
    part = json.loads((out / "client.json").read_text(encoding="utf-8"))["parts"][-1]
    late = ", ".join(
        f"{name} mean {1000 * part[f'{key}_mean_s']:.1f} ms, p99 {1000 * part[f'{key}_p99_s']:.1f} ms"
        for name, key in (("arrivals", "arrival_late"), ("event loop", "loop_late"))
        if part[f"{key}_mean_s"] is not None
    )
    print(f"late: {late}; {1000 * part['cpu_s_per_call']:.1f} ms of CPU time a call")
    if end.replay.difference is None:
        replayed = end.replay
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
