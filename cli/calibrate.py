"""``inframind calibrate``: profile a server, fit the simulator to it, check the fit, train the latency predictors."""

import argparse
from typing import TYPE_CHECKING

from . import calibrate_check, calibrate_fit, calibrate_predictors, calibrate_profile

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

STEPS = (calibrate_profile, calibrate_fit, calibrate_check, calibrate_predictors)
"""In the order in which they are used; each module has ``add_parser(commands)``, as those of `main.COMMANDS` have."""


def add_parser(commands: "Commands") -> None:
    """Declare ``calibrate`` and what is below it."""
    group = commands.add_parser("calibrate", help="make a simulated server of a real one: profile, fit, check")
    below = group.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in STEPS:
        module.add_parser(below)
