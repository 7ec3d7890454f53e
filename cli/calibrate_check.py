"""``inframind calibrate check``: predicted against observed, on logs that the fit has not seen."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from inframind.calibration import LogCheck, as_document, check_logs, headline, read_logs
from inframind.sim import ServerSection, load_server
from inframind.traces import ConfigError, versions, write_whole

from .output import print_json, print_table, progress
from .report_cells import UNKNOWN
from .report_check import render_check
from .report_check_tables import (
    REQUEST_HEADS,
    SHORT,
    key_cells,
    key_heads,
    marks,
    request_rows,
    spread_note,
    statistic_heads,
    statistic_rows,
    warnings,
)

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

REPORT = "report.html"
DOCUMENT = "check.json"


def add_parser(commands: "Commands") -> None:
    """Declare ``calibrate check``."""
    parser = commands.add_parser("check", help="compare predicted with observed, on logs that the fit has not seen")
    parser.add_argument("logs", nargs="+", type=Path, metavar="LOG", help="request log with ttft_s and e2e_s")
    parser.add_argument(
        "--server", required=True, type=Path, metavar="FITTED.toml", help="the server file to check, or POOL/SERVER"
    )
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help=f"for {REPORT} and {DOCUMENT}")
    parser.add_argument(
        "--repeat",
        nargs="+",
        action="append",
        default=[],
        type=Path,
        metavar="LOG",
        help="all logs of one load that was measured more than once: they show the server's own spread",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, no tables")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Replay, compare, write both files, print the tables."""
    server = load_server(args.server)
    for group in args.repeat:
        if len(set(group)) < 2:
            rule = "a load is repeated if it was measured more than once: name all its logs, LOG too where it is one"
            raise ConfigError("--repeat", [f"{group[0]}: {rule}"])
    logs = read_logs([*args.logs, *(path for group in args.repeat for path in group)], server)
    _make_folder(args.out)
    with progress("replaying", sum(len(log.requests) for log in logs.values())) as on_progress:
        checks = check_logs(logs, server, repeats=args.repeat, on_progress=on_progress)
    document = as_document(checks, server)
    page = render_check(checks, title=f"Predicted against observed: {server.name}", about=_about(args.server, server))
    write_whole(args.out / DOCUMENT, json.dumps(document, indent=2) + "\n")
    write_whole(args.out / REPORT, page)
    if args.json:
        print_json(document)
        return 0
    _print(checks)
    print(f"report: {args.out / REPORT}")
    return 0


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise ConfigError(folder, ["is a file; name a folder"]) from None
    except OSError as error:
        raise ConfigError(folder, [f"cannot be written: {error.strerror}"]) from None


def _about(path: Path, server: ServerSection) -> dict[str, str]:
    about = versions()
    return {
        "Server file": f"{path}: {server.name}, {server.model}",
        "Fitted on": _fitted_on(server),
        "Scheduler semantics": "vLLM 0.32",
        "Software": f"inframind-router {about['packages'].get('inframind-router', '')}, Python {about['python']}",
    }


def _fitted_on(server: ServerSection) -> str:
    fitted_on = server.step_time.fitted_on
    if fitted_on is None:
        return "not said in the server file"
    logs = f": {', '.join(fitted_on.requests.logs)}" if fitted_on.requests else ""
    return f"{fitted_on.source}{logs}"


def _print(checks: Sequence[LogCheck]) -> None:
    for check in checks:
        _print_log(check)
    if len(checks) > 1:
        rows = [[check.name, marks(check) or UNKNOWN, *key_cells(check.whole)] for check in checks]
        print_table("all logs, relative errors", ["log", "remark", *key_heads()], rows)
    print(headline(checks))


def _print_log(check: LogCheck) -> None:
    load = check.whole
    rows = [
        [f"{SHORT[metric]} {statistic}", *cells]
        for metric in load.metrics
        for statistic, *cells in statistic_rows(load, metric)
    ]
    in_brackets = f" ({marks(check)})" if marks(check) else ""
    print_table(f"{check.name}{in_brackets}: {load.num_requests:,} requests", ["", *statistic_heads(load)], rows)
    print_table(f"{check.name}: single requests", ["", *REQUEST_HEADS], request_rows(load))
    if check.conditions:
        conditions = [[one.name, f"{one.num_requests:,}", *key_cells(one)] for one in check.conditions]
        print_table(f"{check.name}: conditions, relative errors", ["condition", "requests", *key_heads()], conditions)
    for text in (*warnings(check), *check.notes, spread_note(load.metrics["e2e_s"].spread)):
        print(text)
    print()
