"""``inframind calibrate check``."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(commands: "Commands") -> None:
    """Declare ``calibrate check``."""
    parser = commands.add_parser("check", help="compare predicted with observed")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run it."""
    raise NotImplementedError
