"""``inframind calibrate profile``: measure a running server."""

import argparse
import os
import sys
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from inframind.calibration import ProfileOptions, ProfileReport, Stated, profile_server
from inframind.live import AccessError, RequestError, ServerError
from inframind.traces import ConfigError

from .arguments import positive_int
from .output import number, print_json, print_table, progress

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

API_KEY = "INFRAMIND_API_KEY"


def add_parser(commands: "Commands") -> None:
    """Declare ``calibrate profile``."""
    parser = commands.add_parser("profile", help="measure a running vLLM server over its API")
    parser.add_argument("url", metavar="SERVER_URL", help="where it listens, as http://127.0.0.1:8000")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="LOG_DIR", help="folder for the logs")
    parser.add_argument("--resume", action="store_true", help="go on with the profile in LOG_DIR")
    parser.add_argument("--model", metavar="NAME", help="which of the served models; default: the only one")
    parser.add_argument(
        "--minutes", type=_minutes, default=10.0, metavar="M", help="how long to take, about (default 10)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of lengths and arrivals (default 0)")
    parser.add_argument(
        "--max-prompt-tokens", type=positive_int, metavar="N", help="longest prompt; default: what the time allows"
    )
    parser.add_argument(
        "--max-output-tokens", type=positive_int, metavar="N", help="longest output; default: what the time allows"
    )
    parser.add_argument(
        "--timeout", type=positive_int, default=300, metavar="S", help="wait so long for a token (default 300)"
    )
    parser.add_argument(
        "--api-key-env",
        default=API_KEY,
        metavar="VARIABLE",
        help=f"environment variable that holds the server's API key, if it wants one (default {API_KEY})",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, no table")
    told = parser.add_argument_group("what the API does not tell; found out or assumed where it is not given")
    told.add_argument("--policy", choices=("fcfs", "priority"), help="--scheduling-policy of the server")
    told.add_argument("--max-num-seqs", type=positive_int, metavar="N", help="the server's")
    told.add_argument("--max-num-batched-tokens", type=positive_int, metavar="N", help="the server's")
    told.add_argument("--async-scheduling", action=argparse.BooleanOptionalAction, help="whether the server does it")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Profile the server, and say what was found."""
    stated = Stated(args.policy, args.max_num_seqs, args.max_num_batched_tokens, args.async_scheduling)
    if stated.max_num_seqs and stated.max_num_batched_tokens and stated.max_num_batched_tokens < stated.max_num_seqs:
        rule = f"({stated.max_num_batched_tokens}) must be at least --max-num-seqs ({stated.max_num_seqs})"
        raise ConfigError("calibrate profile", [f"--max-num-batched-tokens {rule}"])
    options = ProfileOptions(
        url=args.url,
        model=args.model,
        budget_s=60 * args.minutes,
        seed=args.seed,
        max_prompt_tokens=args.max_prompt_tokens,
        max_output_tokens=args.max_output_tokens,
        timeout_s=args.timeout,
        stated=stated,
    )
    try:
        with progress("profiling, s", round(options.budget_s)) as on_progress:
            report = profile_server(
                options,
                args.out,
                api_key=os.environ.get(args.api_key_env),
                resume=args.resume,
                on_progress=lambda elapsed_s, _: on_progress(min(round(elapsed_s), round(options.budget_s))),
            )
    except ServerError as error:
        whence = f"; the key is taken from the environment variable {args.api_key_env}"
        print(f"error: {error}{whence * isinstance(error, AccessError)}", file=sys.stderr)
        _say_what_is_kept(args.out)
        return 2 if isinstance(error, RequestError) else 1
    except KeyboardInterrupt:
        _say_what_is_kept(args.out)
        raise
    if args.json:
        print_json(_as_json(report, args.out))
    else:
        _print(report, args.out)
    return 0


def _minutes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.05 <= value <= 24 * 60:
        raise argparse.ArgumentTypeError(f"must be a number from 0.05 to 1440, got {text!r}")
    return value


def _say_what_is_kept(folder: Path) -> None:
    log = folder / "requests.jsonl"
    if log.is_file():
        number = log.read_text(encoding="utf-8").count("\n")
        print(f"{number:,} requests are in {folder}; the same command with --resume goes on", file=sys.stderr)


def _print(report: ProfileReport, folder: Path) -> None:
    rows = [
        [
            name,
            f"{len(ended.answers):,}",
            number(ended.duration_s, 1),
            number(median(answer.ttft_s for answer in ended.answers), 3),
            number(median(answer.e2e_s for answer in ended.answers), 3),
        ]
        for name, ended in report.conditions.items()
    ]
    facts = report.facts
    print_table(
        f"{facts.model} at {facts.url}, vLLM {facts.version}",
        ["condition", "finished", "s", "TTFT p50 s", "E2E p50 s"],
        rows,
    )
    for option in report.options:
        print(f"{option.name} = {option.value}: {option.origin}")
    for remark in report.remarks:
        print(remark)
    print(f"{report.num_finished:,} of {report.num_requests:,} requests finished; logs in {folder}")
    print(
        "next: inframind calibrate fit", folder / "requests.csv", "--server", folder / "server.toml", "-o FITTED.toml"
    )


def _as_json(report: ProfileReport, folder: Path) -> dict[str, object]:
    return {
        "out": str(folder),
        "model": report.facts.model,
        "version": report.facts.version,
        "requests": report.num_requests,
        "finished": report.num_finished,
        "conditions": {name: len(ended.answers) for name, ended in report.conditions.items()},
        "scheduler": {option.name: option.value for option in report.options},
        "assumed": [option.name for option in report.options if option.is_assumed],
        "remarks": list(report.remarks),
    }
