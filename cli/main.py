"""The command line: sub-commands, and what a person sees when something is wrong."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from inframind.sim import RecorderError
from inframind.traces import Mistakes

from . import bench, calibrate, compare, demo, evaluate, live, sim, simulate, train

COMMANDS = (simulate, evaluate, train, live, sim, calibrate, compare, demo, bench)
"""In the order of the help; each module has ``add_parser(commands)``, and its parser a default ``run(args) -> int``."""


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="inframind",
        description="Multi-agent LLM workflows with latency budgets on vLLM servers: simulated, trained, live.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('inframind-router')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in COMMANDS:
        module.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns the exit code: 0, 1 for a failure, 2 for a mistake in what the person gave, 130 for Ctrl-C.
    """
    args = build_parser().parse_args(argv)
    try:
        code: int = args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has seen enough, as in `inframind ... | head`. Python flushes stdout again when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Mistakes as mistakes:
        print(f"error: {mistakes}", file=sys.stderr)
        return 2
    except RecorderError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return code
