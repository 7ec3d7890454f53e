"""``inframind train``: a pool and a workload become a policy."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import positive_int
from .output import OVERWRITE_HELP

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(commands: "Commands") -> None:
    """Declare ``train``."""
    parser = commands.add_parser("train", help="train planner and executor on a simulated pool")
    parser.add_argument(
        "training", type=Path, metavar="EXPERIMENT.toml", help="what to train: the keys of docs/training.md"
    )
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="RUN", help="folder to write")
    old = parser.add_mutually_exclusive_group()
    old.add_argument("--resume", action="store_true", help="go on from RUN's last checkpoint")
    old.add_argument("--overwrite", action="store_true", help=OVERWRITE_HELP)
    parser.add_argument(
        "--jobs", type=positive_int, default=os.cpu_count() or 1, metavar="N", help="processes (default: one a core)"
    )
    parser.add_argument(
        "--backend", choices=("loky", "ray"), default="loky", help="joblib's: this machine, or a Ray cluster"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override one key, as batch.iterations=50"
    )
    parser.add_argument("--json", action="store_true", help="print JSON at the end, no display")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    # Not before it is asked for: torch takes a second to load.
    from .train_run import run_train

    return run_train(args)
