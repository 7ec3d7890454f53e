"""``python -m inframind.calibration.step_tables``: fit the default pool to a table of step latencies.

Kept apart from what it calls, so that the package does not import it: Python warns of a module that is imported before
it is run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from inframind.sim.server_file import PoolSection
from inframind.traces import Mistakes

from .default_pool import default_pool, write_pool
from .step_fit import RelativeErrors, relative_errors
from .step_profiles import StepProfile, read_step_profiles


def main(argv: Sequence[str] | None = None) -> int:
    """Write the pool, print its errors; 2 if the person's files or options are wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m inframind.calibration.step_tables",
        description="Fit the step times of the five default servers to a table of step latencies; write a pool file.",
    )
    parser.add_argument("profiles", type=Path, metavar="PROFILES.csv", help="the table; its columns: step_profiles.py")
    parser.add_argument("--system", required=True, help="GPU of every server, as the table names it, e.g. h200_sxm")
    parser.add_argument(
        "-o", dest="output", type=Path, required=True, metavar="POOL.toml", help="the pool file to write"
    )
    args = parser.parse_args(argv)
    try:
        profiles = read_step_profiles(args.profiles, args.system)
        pool = default_pool(profiles, args.system)
    except Mistakes as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        write_pool(pool, args.system, args.output)
    except OSError as error:
        print(f"error: {args.output}: cannot be written: {error.strerror}", file=sys.stderr)
        return 2
    print(*error_table(pool, profiles), sep="\n")
    return 0


def error_table(pool: PoolSection, profiles: Mapping[str, StepProfile]) -> Iterator[str]:
    """Markdown: the relative errors of each server in percent, over all its steps and over the usual ones."""
    yield "| server | phase | steps | p50 % | p95 % | max % | usual steps | p50 % | p95 % | max % |"
    yield "| --- | --- | --: | --: | --: | --: | --: | --: | --: | --: |"
    for server in pool.servers:
        steps = profiles[server.model].steps
        usual = relative_errors(steps, server.step_time, only_usual=True)
        for phase, every in relative_errors(steps, server.step_time).items():
            cells = [server.name, phase, *_cells(every), *_cells(usual.get(phase))]
            yield f"| {' | '.join(cells)} |"


def _cells(errors: RelativeErrors | None) -> list[str]:
    if errors is None:
        return ["0", "-", "-", "-"]
    return [str(errors.num_steps), *(f"{100 * error:.1f}" for error in (errors.p50, errors.p95, errors.max))]


if __name__ == "__main__":
    sys.exit(main())
