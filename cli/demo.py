"""``inframind demo``: FCFS against EDF on mixed-deadline traffic at three loads; needs no data."""

import argparse
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from .experiment import load_experiment
from .simulate import REPORT, print_results_json, print_tiers, print_totals, run_experiment

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(commands: "Commands") -> None:
    """Declare ``demo``."""
    parser = commands.add_parser("demo", help="FCFS against EDF on mixed-deadline traffic at three loads")
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/demo"), metavar="RUN", help="default runs/demo")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one key")
    parser.add_argument("--json", action="store_true", help="print JSON, no tables")
    parser.set_defaults(run=run_demo)


def run_demo(args: argparse.Namespace) -> int:
    """Run the shipped experiment ``demo.toml``."""
    with resources.as_file(resources.files("inframind.cli") / "data" / "demo.toml") as path:
        experiment, pool = load_experiment(path, args.set)
        results = run_experiment(experiment, pool, base=path.parent, out=args.out)
    if args.json:
        print_results_json(results, args.out)
        return 0
    print_totals(results)
    print_tiers(results)
    print(f"runs: {args.out}\nreport: {args.out / REPORT}")
    return 0
