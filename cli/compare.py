"""``inframind compare``: simulated runs beside live ones, in one report."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from inframind.calibration import FoldersComparison, compare_folders, comparison_document, headlines
from inframind.traces import ConfigError, versions, write_whole

from .output import check_target, print_json, print_table, progress
from .report_compare import render_comparison
from .report_compare_tables import CONDITION_HEADS, RANKING_HEADS, condition_cells, ranking_rows, table_notes, warnings

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(commands: "Commands") -> None:
    """Declare ``compare``."""
    parser = commands.add_parser(
        "compare",
        help="compare simulated runs with live ones",
        description="Compare simulated runs with live ones. Runs are matched by policy, scheduler, rate and seed, as "
        "their config.toml says; it is the same whether each folder is one run or holds many.",
    )
    parser.add_argument("simulated", type=Path, metavar="SIM", help="run folder of the simulator, or a folder of them")
    parser.add_argument(
        "live",
        nargs="+",
        type=Path,
        metavar="LIVE",
        help="run folder of the real servers, or a folder of them; further ones are repeats, which show by how much "
        "the real system differs from itself",
    )
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        required=True,
        metavar="REPORT.html",
        help="page to write; its numbers go to REPORT.json",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, no tables")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Match, compare, write both files, print the tables."""
    numbers = _check_out(args.out, [args.simulated, *args.live])
    with progress("comparing", 1) as on_progress:
        comparison = compare_folders(
            args.simulated, args.live, on_progress=lambda done, total: on_progress(done / total)
        )
    document = comparison_document(comparison)
    page = render_comparison(
        comparison, title="Simulated beside live", about=_about(args.simulated, args.live, comparison)
    )
    write_whole(numbers, json.dumps(document, indent=2) + "\n")
    write_whole(args.out, page)
    if args.json:
        print_json(document)
        return 0
    _print(comparison)
    print(f"report: {args.out}\nnumbers: {numbers}")
    return 0


def _check_out(out: Path, folders: Sequence[Path]) -> Path:
    """Find out before long work that the report could not be written; return where its numbers go."""
    for folder in folders:
        check_target(out, folder, (".html",))
    if (out.parent / "calls.parquet").exists():
        raise ConfigError(out, ["lies in a run folder, which has a report.html of its own; name another place"])
    return out.with_suffix(".json")


def _about(simulated: Path, live: Sequence[Path], comparison: FoldersComparison) -> dict[str, str]:
    pairs = [pair for condition in comparison.conditions for pair in condition.pairs]
    seeds = sorted({str(pair.live.seed) for pair in pairs if pair.live.seed is not None})
    software = versions()
    return {
        "Simulated": str(simulated),
        "Live": ", ".join(map(str, live)),
        "Runs": f"pairs: {len(pairs):,}, live repeats: {sum(len(pair.repeats) for pair in pairs):,}",
        "Seeds": ", ".join(seeds) or "not said",
        "Software": f"inframind-router {software['packages'].get('inframind-router', '')}, Python {software['python']}",
    }


def _print(comparison: FoldersComparison) -> None:
    rows = [[each.name or "the runs", *condition_cells(each)] for each in comparison.conditions]
    print_table("simulated beside live", ["condition", *CONDITION_HEADS], rows)
    for text in table_notes(comparison):
        print(text)
    ranking = [row for contest in comparison.contests for row in ranking_rows(contest)]
    if ranking:
        print_table("rankings of policies", ["contest", *RANKING_HEADS], ranking)
    for text in (*warnings(comparison), *comparison.notes, *headlines(comparison)):
        print(text)
