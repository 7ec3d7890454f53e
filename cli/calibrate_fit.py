"""``inframind calibrate fit``."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(commands: "Commands") -> None:
    """Declare ``calibrate fit``."""
    parser = commands.add_parser("fit", help="fit a server file to request logs")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run it."""
    raise NotImplementedError
