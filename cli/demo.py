"""``inframind demo``: train a small policy, then evaluate it beside rules. Nothing but two commands and their files."""

import argparse
import shlex
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from inframind.traces import write_whole

from . import evaluate, train
from .output import OVERWRITE_HELP, claim_folder

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

TRAIN, EVALUATE, TRAINED = "train.toml", "evaluate.toml", "trained"
DATA = resources.files("inframind.cli") / "data"


def add_parser(commands: "Commands") -> None:
    """Declare ``demo``."""
    parser = commands.add_parser("demo", help="train a small policy, evaluate it beside rules: some minutes")
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/demo"), metavar="DIR", help="default runs/demo")
    parser.add_argument("--overwrite", action="store_true", help=OVERWRITE_HELP)
    parser.set_defaults(run=run_demo)


def run_demo(args: argparse.Namespace) -> int:
    """Copy the shipped files to the folder, and run the commands that a person would."""
    out: Path = args.out
    claim_folder(out, (TRAIN, EVALUATE, TRAINED, *evaluate.MEMBERS), overwrite=args.overwrite)
    for name in (TRAIN, EVALUATE):
        write_whole(out / name, (DATA / f"demo-{name}").read_bytes())
    print("A planner and an executor learn on a simulated pool of five LLMs, in some two minutes on two cores:")
    code = _run("train", str(out / TRAIN), "-o", str(out / TRAINED))
    if code == 0:
        print("\nWhat they have learnt, beside rules, on questions and arrivals that they have not seen:")
        code = _run("evaluate", str(out / EVALUATE), "-o", str(out))
    return code


def _run(*words: str) -> int:
    """One command of the command line, shown as it would be typed."""
    print(f"$ {shlex.join(['inframind', *words])}", flush=True)
    parser = argparse.ArgumentParser(prog="inframind")
    commands = parser.add_subparsers()
    for module in (train, evaluate):
        module.add_parser(commands)
    args = parser.parse_args(words)
    code: int = args.run(args)
    return code
