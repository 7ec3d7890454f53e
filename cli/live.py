"""``inframind live``: real vLLM servers under the same controller as the simulated ones."""

import argparse
from typing import TYPE_CHECKING

from . import live_replay, live_up

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(commands: "Commands") -> None:
    """Declare ``live`` and what is below it."""
    group = commands.add_parser("live", help="start real vLLM servers, and run workflows on them")
    below = group.add_subparsers(title="commands", metavar="COMMAND", required=True)
    live_up.add_parser(below)
    live_replay.add_parser(below)
