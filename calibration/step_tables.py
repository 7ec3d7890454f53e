"""``python -m inframind.calibration.step_tables``: make the shipped pools from a table of step latencies.

Kept apart from what it calls, so that the package does not import it: Python warns of a module that is imported before
it is run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from inframind.sim.server_file import StepTimeSection
from inframind.traces import Mistakes

from .pool_file import write_pool
from .pool_models import MEMBERS
from .pool_recipes import GPUS, RECIPES, build_pool, fit_members, head
from .step_fit import RelativeErrors, relative_errors
from .step_profiles import StepProfile, read_step_profiles


def main(argv: Sequence[str] | None = None) -> int:
    """Write the pools, print the errors of their fits; 2 if the person's files or options are wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m inframind.calibration.step_tables",
        description="Fit the step times of the five shipped LLMs to a table of step latencies; write the pool files.",
    )
    parser.add_argument("profiles", type=Path, metavar="PROFILES.csv", help="the table; its columns: step_profiles.py")
    parser.add_argument("-o", dest="folder", type=Path, required=True, metavar="DIR", help="for NAME.toml of each pool")
    parser.add_argument("--pool", choices=RECIPES, action="append", help="only this one; may be given several times")
    args = parser.parse_args(argv)
    chosen = [RECIPES[name] for name in args.pool or RECIPES]
    try:
        profiles = {
            system: read_step_profiles(args.profiles, system)
            for system in dict.fromkeys(recipe.system for recipe in chosen)
        }
        kernels = {system: fit_members(own, system) for system, own in profiles.items()}
    except Mistakes as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for recipe in chosen:
        path = args.folder / f"{recipe.name}.toml"
        pool = build_pool(profiles[recipe.system], kernels[recipe.system], recipe.name)
        try:
            write_pool(pool, head(recipe), path)
        except OSError as error:
            print(f"error: {path}: cannot be written: {error.strerror}", file=sys.stderr)
            return 2
    print("\n\n".join("\n".join(error_table(system, profiles[system], kernels[system])) for system in profiles))
    return 0


def error_table(
    system: str, profiles: Mapping[str, StepProfile], kernels: Mapping[str, StepTimeSection]
) -> Iterator[str]:
    """Markdown: the relative errors of each server in percent, over all its steps and over the usual ones."""
    name = GPUS[system].title
    yield f"| {name} | phase | steps | p50 % | p95 % | max % | usual steps | p50 % | p95 % | max % |"
    yield "| --- | --- | --: | --: | --: | --: | --: | --: | --: | --: |"
    for member in MEMBERS:
        steps, step_time = profiles[member.model].steps, kernels[member.name]
        usual = relative_errors(steps, step_time, only_usual=True)
        for phase, every in relative_errors(steps, step_time).items():
            cells = [member.name, phase, *_cells(every), *_cells(usual.get(phase))]
            yield f"| {' | '.join(cells)} |"


def _cells(errors: RelativeErrors | None) -> list[str]:
    if errors is None:
        return ["0", "-", "-", "-"]
    return [str(errors.num_steps), *(f"{100 * error:.1f}" for error in (errors.p50, errors.p95, errors.max))]


if __name__ == "__main__":
    sys.exit(main())
