"""``inframind bench``: how fast the simulator, training and the latency predictors are on this machine."""

import argparse
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inframind.calibration.predictor_bench import bench_predictors
from inframind.sim import bench_sim, bench_workflows, load_pool
from inframind.sim.outcomes import OutcomeModel

from .arguments import positive_int
from .output import print_json, print_table, progress

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(commands: "Commands") -> None:
    """Declare ``bench`` and what is below it."""
    group = commands.add_parser("bench", help="how fast it is on this machine")
    below = group.add_subparsers(title="commands", metavar="COMMAND", required=True)
    parser = below.add_parser("sim", help="the simulator beside bare SimPy, one process on one core")
    parser.add_argument(
        "--calls", type=positive_int, default=20_000, metavar="N", help="LLM calls in each run (default 20,000)"
    )
    parser.add_argument(
        "--workflows",
        type=positive_int,
        nargs="?",
        const=1000,
        metavar="N",
        help="multi-agent workflows instead of single calls (N: 1,000)",
    )
    parser.add_argument("--repeats", type=positive_int, default=3, metavar="N", help="runs of each kind (default 3)")
    parser.add_argument("--json", action="store_true", help="print JSON, no table")
    parser.set_defaults(run=run_sim)
    parser = below.add_parser("train", help="training of agents, end to end")
    parser.add_argument(
        "--iterations", type=positive_int, default=5, metavar="N", help="batches and updates (default 5)"
    )
    parser.add_argument(
        "--jobs", type=positive_int, default=os.cpu_count() or 1, metavar="N", help="processes (default: one a core)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, no table")
    parser.set_defaults(run=run_train)
    parser = below.add_parser("predictors", help="latency maps per second, five models and three strategies")
    parser.add_argument("--repeats", type=positive_int, default=3, metavar="N", help="runs of each kind (default 3)")
    parser.add_argument("--json", action="store_true", help="print JSON, no table")
    parser.set_defaults(run=run_predictors)


def run_train(args: argparse.Namespace) -> int:
    """Train the default agents for some iterations and print how fast that was."""
    # Not before it is asked for: torch takes a second to load.
    from inframind.agents.bench_training import EPOCH_ROLE_STEPS, bench_training
    from inframind.agents.training_file import Training

    training = Training()
    pool = load_pool(training.pool, Path())
    with progress("training", args.iterations) as on_progress:
        m = bench_training(training, pool, OutcomeModel.shipped(), args.jobs, args.iterations, on_progress)
    if args.json:
        print_json(asdict(m))
        return 0
    row = [
        f"{m.jobs}",
        f"{m.role_steps:,}",
        f"{m.seconds:.1f}",
        f"{m.role_steps_per_s:,.0f}",
        f"{m.learning_share:.0%}",
        f"{m.epoch_s:.0f}",
    ]
    columns = ["processes", "role steps", "seconds", "role steps/s", "of it learning", f"s for {EPOCH_ROLE_STEPS:,}"]
    print_table(f"training on {training.pool}: simulation, decisions and learning", columns, [row])
    return 0


def run_sim(args: argparse.Namespace) -> int:
    """Run the benchmark and print it."""
    if args.workflows is not None:
        return _run_workflows(args)
    with progress("simulating", 100) as on_progress:
        report: dict[str, Any] = bench_sim(args.calls, args.repeats, lambda share: on_progress(100 * share))
    if args.json:
        print_json(report)
        return 0
    rows = [
        [
            m["name"],
            f"{m['num_calls']:,}",
            f"{m['calls_per_s']:,.0f}",
            f"{m['simulated_s_per_s']:,.0f}",
            f"{m['simpy_timeouts_per_s']:,.0f}",
            f"1/{m['timeouts_per_call']:.1f}",
            "1/{:.1f} to 1/{:.1f}".format(*reversed(m["timeouts_per_call_range"])),
            f"{m['mean_running']:.1f}",
        ]
        for m in report["measurements"]
    ]
    columns = ["workload", "calls", "calls/s", "sim s/s", "SimPy timeouts/s", "ratio", "range", "running"]
    print_table("LLM calls per second of this machine's time, everything recorded (medians)", columns, rows)
    print("time per call, against 'fcfs, async':")
    for name, ratio in report["time_per_call_ratio"].items():
        print(f"  {name.replace('_', ' ')}: x{ratio:.2f}")
    print(f"peak memory: {report['peak_memory_mib']:,.0f} MiB")
    return 0


def _run_workflows(args: argparse.Namespace) -> int:
    with progress("simulating", 100) as on_progress:
        m = bench_workflows(args.workflows, args.repeats, on_progress=lambda share: on_progress(100 * share))
    if args.json:
        print_json(asdict(m))
        return 0
    row = [
        f"{m.num_workflows:,}",
        f"{m.num_calls:,}",
        f"{m.wall_s:.3f}",
        "{:.3f} to {:.3f}".format(*m.wall_range_s),
        f"{m.role_steps_per_s:,.0f}",
        f"{m.simpy_timeouts_per_s:,.0f}",
        f"{m.timeouts_per_workflow:,.0f}",
    ]
    columns = ["workflows", "calls", "seconds", "range", "role steps/s", "SimPy timeouts/s", "timeouts/workflow"]
    print_table("workflows on one core, join-shortest-queue and EDF, everything recorded (medians)", columns, [row])
    return 0


def run_predictors(args: argparse.Namespace) -> int:
    """Run the benchmark and print it."""
    with progress("predicting", 100) as on_progress:
        report: dict[str, Any] = bench_predictors(args.repeats, lambda share: on_progress(100 * share))
    if args.json:
        print_json(report)
        return 0
    rows = [
        [
            "queries' embeddings" if m["with_embeddings"] else "mean lengths",
            f"{m['batch']:,}",
            f"{m['maps_per_s']:,.0f}",
            f"{m['call_us']:,.0f}",
            f"{m['cores']:.1f}",
        ]
        for m in report["measurements"]
    ]
    title = "latency maps of {models} models x {strategies} strategies (medians)".format(**report)
    print_table(title, ["lengths from", "batch", "maps/s", "us/batch", "cores"], rows)
    return 0
