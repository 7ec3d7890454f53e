"""``inframind sim``: replay a request log, schedule a recorded workload, verify against an installed vLLM."""

import argparse
import gzip
import json
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from inframind.calibration import extrapolations, replay
from inframind.sim import (
    WorkloadFile,
    load_server,
    random_workload,
    schedule_workload,
    verify,
)
from inframind.traces import FORMATS, ConfigError, RequestLog, load_json, read_log, write_whole

from .arguments import positive_int
from .output import TABLE_KINDS, check_target, number, print_json, print_table, progress, write_frame

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

QUANTILES = (0.5, 0.9, 0.99)


def add_parser(commands: "Commands") -> None:
    """Declare ``sim`` and what is below it."""
    group = commands.add_parser("sim", help="the simulator itself: replay, schedule, verify")
    below = group.add_subparsers(title="commands", metavar="COMMAND", required=True)

    replay = below.add_parser("replay", help="serve a request log on one simulated server")
    replay.add_argument("requests", type=Path, metavar="REQUESTS", help="request log; see --format")
    replay.add_argument(
        "--server",
        required=True,
        metavar="S.toml",
        help="server file, or POOL/NAME of a shipped pool, as h200/llama-8b",
    )
    replay.add_argument("-o", "--out", type=Path, required=True, metavar="OUT.csv", help="table to write; .parquet too")
    replay.add_argument("--format", choices=FORMATS, default="auto", help="default: seen from the file")
    replay.add_argument("--json", action="store_true", help="print JSON, no table")
    replay.set_defaults(run=run_replay)

    schedule = below.add_parser("schedule", help="schedule a recorded workload, step by step")
    schedule.add_argument("workload", type=Path, metavar="WORKLOAD.json[.gz]")
    schedule.add_argument(
        "-o", "--out", type=Path, required=True, metavar="OUT.json", help="JSON to write; .gz: gzipped"
    )
    schedule.set_defaults(run=run_schedule)

    check = below.add_parser("verify", help="compare with the vLLM that you have installed")
    check.add_argument("--vllm-python", required=True, metavar="PY", help="the interpreter that has vLLM")
    check.add_argument("--count", type=positive_int, default=40, metavar="N", help="random workloads (default 40)")
    check.add_argument("--seed", type=int, default=None, help="the first workload's; default: a fresh one")
    check.add_argument("--keep", type=Path, metavar="DIR", help="write the recordings there, one .json.gz each")
    check.add_argument(
        "--jobs", type=positive_int, default=os.cpu_count() or 1, help="recorders at a time (default: all cores)"
    )
    check.add_argument("--json", action="store_true", help="print JSON, no table")
    check.set_defaults(run=run_verify)


def run_replay(args: argparse.Namespace) -> int:
    """Write the input rows with ``sim_ttft_s`` and ``sim_e2e_s``; print both beside what was measured."""
    check_target(args.out, args.requests, TABLE_KINDS)
    server = load_server(args.server)
    log = read_log(args.requests, fmt=args.format, max_model_len=server.scheduler.max_model_len)
    requests = log.requests
    with progress("replaying", len(requests)) as on_progress:
        prediction = replay(requests, server, on_progress=on_progress)
    calls, predicted = prediction.calls, prediction.requests
    write_frame(args.out, _in_file_order(predicted, log))
    unserved = int((calls["outcome"] != "finished").sum())
    beyond = extrapolations(requests, calls, server)
    for what in beyond:
        print(f"warning: {args.requests}: {what}: the times are extrapolated", file=sys.stderr)
    columns = {
        "TTFT": (predicted["sim_ttft_s"], requests.get("ttft_s")),
        "E2E": (predicted["sim_e2e_s"], requests.get("e2e_s")),
        "TPOT": (calls["tpot_s"], _observed_tpot(requests)),
    }
    summary = {name: _compare(simulated, observed) for name, (simulated, observed) in columns.items()}
    if args.json:
        print_json(
            {
                "requests": len(requests),
                "failed": len(log.failed),
                "not_served": unserved,
                "seconds": summary,
                "extrapolates": list(beyond),
                "out": str(args.out),
            }
        )
        return 0
    rows = []
    for name, figures in summary.items():
        rows.append([f"{name} simulated", *(number(value, 4) for value in figures["simulated"].values())])
        if "observed" in figures:
            rows.append([f"{name} observed", *(number(value, 4) for value in figures["observed"].values())])
            rows.append(["  error", *(f"{value:+.1%}" for value in figures["relative_error"].values())])
    print_table(f"{len(requests):,} requests on {server.name} (s)", ["", "mean", "p50", "p90", "p99"], rows)
    if len(log.failed):
        print(f"left out: {len(log.failed):,} failed requests, without output tokens")
    if unserved:
        reasons = calls.loc[calls["outcome"] != "finished", "outcome"].value_counts()
        print(f"not served: {', '.join(f'{count} {reason}' for reason, count in reasons.items())}")
    print(f"wrote {args.out}")
    return 0


def run_schedule(args: argparse.Namespace) -> int:
    """Write the same document with our own ``steps`` and ``finished``."""
    check_target(args.out, args.workload, (".json", ".json.gz"))
    workload = load_json(args.workload, WorkloadFile)
    asked = workload.model_dump()
    try:
        answer = schedule_workload(asked["config"], asked["requests"])
    except ValueError as error:
        raise ConfigError(args.workload, [str(error)]) from None
    # The question goes back as it came, seed and all; the rest of the document is replaced.
    raw = args.workload.read_bytes()
    document = json.loads(gzip.decompress(raw) if args.workload.suffix == ".gz" else raw)
    document = {key: value for key, value in document.items() if key != "vllm_version"} | answer
    data = json.dumps(document, separators=(",", ":")).encode()
    write_whole(args.out, gzip.compress(data, mtime=0) if args.out.suffix == ".gz" else data)
    print(f"wrote {args.out}: {len(answer['steps']):,} steps, {len(answer['finished']):,} requests finished")
    return 0


def run_verify(args: argparse.Namespace) -> int:
    """Exit 0 if no workload differs, 1 if one does."""
    seed = random.SystemRandom().randrange(10**6) * 8 if args.seed is None else args.seed
    with progress("recording vLLM's decisions", args.count) as on_progress:
        result = verify(
            args.vllm_python,
            args.count,
            seed=seed,
            jobs=args.jobs,
            on_progress=on_progress,
            on_recording=None if args.keep is None else _keeper(args.keep),
        )
    configs = [random_workload(s)["config"] for s in range(seed, seed + args.count)]
    covered = {
        "priority": sum(config["policy"] == "priority" for config in configs),
        "async_scheduling": sum(config["async_scheduling"] for config in configs),
        "prefix_caching": sum(config["prefix_caching"] for config in configs),
    }
    if args.json:
        print_json(
            {
                "vllm_version": result.vllm_version,
                "workloads": result.num_workloads,
                "steps": result.num_steps,
                "preemptions": result.num_preemptions,
                "seed": seed,
                "covered": covered,
                "differences": list(result.differences),
            }
        )
    else:
        kinds = ", ".join(f"{count} with {name}" for name, count in covered.items())
        print(
            f"vLLM {result.vllm_version}: {result.num_workloads} workloads ({kinds}), {result.num_steps:,} steps, "
            f"{result.num_preemptions:,} preemptions; seeds {seed} to {seed + args.count - 1}"
        )
        for difference in result.differences:
            print(f"  {difference}")
        print(f"{len(result.differences)} differences")
    return 1 if result.differences else 0


def _keeper(folder: Path) -> Callable[[dict[str, Any]], None]:
    folder.mkdir(parents=True, exist_ok=True)

    def keep(recording: dict[str, Any]) -> None:
        data = json.dumps(recording, separators=(",", ":")).encode()
        write_whole(folder / f"{recording['seed']:06d}.json.gz", gzip.compress(data, mtime=0))

    return keep


def _in_file_order(frame: pd.DataFrame, log: RequestLog) -> pd.DataFrame:
    """Columns and rows as they stand in the log; `read_log` puts the columns that it knows first, and the rows in order
    of arrival."""
    there = [name for name in log.columns if name in frame]
    return frame[there + [name for name in frame if name not in there]].iloc[np.argsort(log.places)]


def _observed_tpot(requests: pd.DataFrame) -> pd.Series | None:
    if "ttft_s" not in requests or "e2e_s" not in requests:
        return None
    decodes = requests["output_tokens"] - 1
    return ((requests["e2e_s"] - requests["ttft_s"]) / decodes).where(decodes > 0)


def _compare(simulated: pd.Series, observed: pd.Series | None) -> dict[str, dict[str, float]]:
    figures = {"simulated": _figures(simulated)}
    if observed is not None and observed.notna().any():
        # Quantiles are compared over the same requests.
        both = simulated.notna() & observed.notna()
        mine, theirs = _figures(simulated[both]), _figures(observed[both])
        figures = {"simulated": mine, "observed": theirs}
        figures["relative_error"] = {key: mine[key] / theirs[key] - 1 for key in mine}
    return figures


def _figures(values: pd.Series) -> dict[str, float]:
    quantiles: dict[str, Any] = {f"p{round(100 * q)}": float(values.quantile(q)) for q in QUANTILES}
    return {"mean": float(values.mean())} | quantiles
