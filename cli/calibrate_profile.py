"""``inframind calibrate profile``."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(commands: "Commands") -> None:
    """Declare ``calibrate profile``."""
    parser = commands.add_parser("profile", help="measure a running server")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run it."""
    raise NotImplementedError
