"""``inframind calibrate fit``."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inframind.calibration import Fit, fit_server, fitted_toml, of_server
from inframind.sim import load_server_to_fit
from inframind.traces import FORMATS, ConfigError, read_log, write_whole

from .output import check_target, print_json, print_table, progress

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(commands: "Commands") -> None:
    """Declare ``calibrate fit``."""
    parser = commands.add_parser(
        "fit",
        help="fit a server file to request logs",
        description="Fit step times and the client's overhead to the measured ttft_s and e2e_s of request logs.",
    )
    parser.add_argument(
        "requests",
        type=Path,
        nargs="+",
        metavar="REQUESTS.csv",
        help="request logs of one server, each from when it was idle; see --format",
    )
    parser.add_argument(
        "--server",
        type=Path,
        required=True,
        metavar="SERVER.toml",
        help="server file with the scheduler's options; step_time may be absent, it is not looked at",
    )
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FITTED.toml", help="server file to write")
    parser.add_argument("--format", choices=FORMATS, default="auto", help="default: seen from the files")
    parser.add_argument("--json", action="store_true", help="print JSON, no table")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Fit, write the server file, say how good it is and what it rests on."""
    asked = load_server_to_fit(args.server)
    for path in (args.server, *args.requests):
        check_target(args.out, path, (".toml",))
    for path in args.requests:
        if args.requests.count(path) > 1:
            raise ConfigError(path, ["this request log is named twice"])
    limit = asked.scheduler.max_model_len
    logs = {
        str(path): of_server(path, read_log(path, fmt=args.format, max_model_len=limit), asked.name)
        for path in args.requests
    }
    with progress("fitting", 100) as on_progress:
        requests = {name: log.requests for name, log in logs.items()}
        fit = fit_server(requests, asked, on_progress=lambda share: on_progress(round(100 * share)))
    write_whole(args.out, fitted_toml(fit.server))
    num_failed = {name: len(log.failed) for name, log in logs.items()}
    if args.json:
        print_json(_document(fit, num_failed) | {"out": str(args.out)})
        return 0
    _print_parameters(fit)
    _print_quality(fit)
    for name, failed in num_failed.items():
        if failed:
            print(f"- {name}: {failed:,} failed requests, without output tokens, are left out")
    for remark in fit.remarks:
        print(f"- {remark}")
    print(f"wrote {args.out}")
    return 0


def _parameters(fit: Fit) -> Mapping[str, float]:
    steps = fit.server.step_time
    names = ["fixed_s", "prefill_token_s", "decode_s", "context_token_s", "prefill_pair_s", "free_prefill_tokens"]
    names += ["expert_s", "expert_tokens"] if steps.expert_s > 0 else []
    return {name: getattr(steps, name) for name in names} | {"client_overhead_s": fit.server.client.overhead_s}


def _print_parameters(fit: Fit) -> None:
    rows = []
    for name, value in _parameters(fit).items():
        error = fit.std_errors.get(name)
        state = "not identified" if name in fit.not_identified else f"± {error:.2g}" if error is not None else ""
        rows.append([name, f"{value:.4g}", state])
    print_table(f"{fit.server.name}: fitted parameters (s)", ["", "value", "std error"], rows)


def _print_quality(fit: Fit) -> None:
    rows = []
    for log in fit.quality:
        cells = [log.name, f"{log.num_measured:,}"]
        for name in ("TTFT", "E2E", "TPOT"):
            has = name in log.errors
            cells += [f"{log.errors[name]:+.1%}", f"{log.usual_errors[name]:.1%}"] if has else ["", ""]
        rows.append(cells)
    columns = ["log", "requests"]
    for name in ("TTFT", "E2E", "TPOT"):
        columns += [f"mean {name}", "usual"]
    print_table("Simulated against measured: error of the mean, and the usual error of a request", columns, rows)


def _document(fit: Fit, num_failed: Mapping[str, int]) -> dict[str, Any]:
    return {
        "parameters": dict(_parameters(fit)),
        "std_errors": dict(fit.std_errors),
        "not_identified": list(fit.not_identified),
        "scheduler": fit.server.scheduler.model_dump(),
        "data_parallel_size": fit.server.data_parallel_size,
        "logs": [
            {
                "name": log.name,
                "requests": log.num_requests,
                "measured": log.num_measured,
                "failed": num_failed[log.name],
                "mean_errors": dict(log.errors),
                "usual_errors": dict(log.usual_errors),
            }
            for log in fit.quality
        ],
        "remarks": list(fit.remarks),
        "simulations": fit.num_simulations,
    }
