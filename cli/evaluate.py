"""``inframind evaluate``: policies under schedulers and loads, on the same queries, in one table."""

import argparse
import hashlib
import math
import os
import tomllib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import joblib
import pandas as pd
import tomli_w

from inframind.agents import (
    ALL_TIERS,
    MIN_SEEDS,
    Cell,
    CellResult,
    Evaluation,
    World,
    cell_to_bytes,
    figures_table,
    is_folder,
    load_evaluation,
    over_tiers,
    policy_gains,
    read_cell,
    summarise_evaluation,
)
from inframind.sim import PoolSection
from inframind.sim.outcomes import OutcomeModel
from inframind.traces import check_same_config, versions, write_whole

from .arguments import positive_int
from .file_kinds import check_kind
from .output import OVERWRITE_HELP, claim_folder, print_json, print_table, progress, write_frame
from .predictors import load_predictors
from .report_cells import FEW_SEEDS, UNROUNDED
from .report_evaluate import points, render_evaluation

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

CELLS, CONFIG, SUMMARY, REPORT = MEMBERS = "cells", "config.toml", "summary.csv", "report.html"
"""What an evaluation's folder has; no other command's has the first."""
SHOWN = {"goodput": "right and in time", "on_time": "in time"}


def add_parser(commands: "Commands") -> None:
    """Declare ``evaluate``."""
    parser = commands.add_parser("evaluate", help="compare policies, schedulers and loads on simulated workflows")
    parser.add_argument(
        "evaluation", type=Path, metavar="EXPERIMENT.toml", help="what to compare: the keys of docs/evaluation.md"
    )
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="DIR", help="folder to write, or to go on with"
    )
    parser.add_argument("--overwrite", action="store_true", help=OVERWRITE_HELP)
    parser.add_argument(
        "--jobs", type=positive_int, default=os.cpu_count() or 1, metavar="N", help="processes (default: one a core)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override one key, as seeds=[0]"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, no tables")
    parser.set_defaults(run=run_evaluate)


def run_evaluate(args: argparse.Namespace) -> int:
    """Run what is not there yet, write the summary and the report, print the tables."""
    check_kind(args.evaluation, "evaluate")
    evaluation, pool = load_evaluation(args.evaluation, args.set, _outcomes())
    _check_learned(evaluation, pool)
    _open_folder(args.out, evaluation, pool, overwrite=args.overwrite)
    _run_cells(args.out, evaluation, pool, args.jobs)
    results = [read_cell(_cell_path(args.out, cell)) for cell in evaluation.cells()]
    figures = figures_table(results)
    summary = summarise_evaluation(figures)
    write_frame(args.out / SUMMARY, summary)
    gains = policy_gains(over_tiers(figures), evaluation.trained, evaluation.rules)
    write_whole(args.out / REPORT, render_evaluation(evaluation, results, figures, summary, gains))
    if args.json:
        tables = {"summary": summary, "gains": gains}
        records = {
            name: table.astype(object).where(table.notna(), None).to_dict("records") for name, table in tables.items()
        }
        print_json({**records, "out": str(args.out)})
        return 0
    _print_summary(summary)
    _print_gains(gains)
    if len(evaluation.seeds) < MIN_SEEDS:
        print(FEW_SEEDS)
    print(f"summary: {args.out / SUMMARY}\nreport: {args.out / REPORT}")
    return 0


def _check_learned(evaluation: Evaluation, pool: PoolSection) -> None:
    """Make what was trained once, so that a mistake is told before hours of work.

    Raises
    ------
    ConfigError
        Predictors or a policy whose files are broken, or that do not fit the pool.
    """
    world = _world(evaluation.model_dump_json(), pool.model_dump_json())
    trained = [label for entry, label in zip(evaluation.policies, evaluation.labels, strict=True) if is_folder(entry)]
    for cell in evaluation.cells():
        if cell.policy in trained:
            trained.remove(cell.policy)
            world.policy(cell)


def _open_folder(out: Path, evaluation: Evaluation, pool: PoolSection, *, overwrite: bool) -> None:
    """Make the folder, or see that what is in it is of the same evaluation.

    Raises
    ------
    ConfigError
        It is of another one, with every key that differs; or no evaluation's; or cannot be written.
    """
    config = {
        "experiment": evaluation.model_dump(mode="json", exclude_none=True),
        "pool": pool.recorded(),
        "software": _software(),
        "learned": {folder: _digest(Path(folder)) for folder in _learned(evaluation)},
    }
    if (out / CELLS).is_dir() and (out / CONFIG).exists() and not overwrite:
        before = tomllib.loads((out / CONFIG).read_text(encoding="utf-8"))
        check_same_config(out, before, config, "--overwrite begins anew, or name another folder")
        return
    claim_folder(out, MEMBERS, overwrite=overwrite)
    (out / CELLS).mkdir()
    write_whole(out / CONFIG, tomli_w.dumps(config))


def _software() -> dict[str, str]:
    """The version of the program, as far as results hang on it."""
    about = versions()
    return {
        "inframind-router": about["packages"].get("inframind-router", ""),
        "git_commit": about["git_commit"] or "none",
    }


def _learned(evaluation: Evaluation) -> list[str]:
    """Folders of what was trained."""
    predictors = [evaluation.predictors] if evaluation.predictors else []
    return [entry for entry in evaluation.policies if is_folder(entry)] + predictors


def _digest(folder: Path) -> str:
    """Of what is in a folder of weights: trained anew, it is another policy under the same name."""
    hashed = hashlib.sha256()
    for path in sorted((*folder.glob("*.json"), *folder.glob("*.safetensors"))):
        hashed.update(path.name.encode() + b"\0" + path.read_bytes())
    return hashed.hexdigest()


def _cell_path(out: Path, cell: Cell) -> Path:
    return out / CELLS / f"{cell.name}.parquet"


def _run_cells(out: Path, evaluation: Evaluation, pool: PoolSection, jobs: int) -> None:
    cells = list(evaluation.cells())
    missing = [cell for cell in cells if not _cell_path(out, cell).exists()]
    texts = evaluation.model_dump_json(), pool.model_dump_json()
    run = joblib.Parallel(n_jobs=min(jobs, max(1, len(missing))), return_as="generator_unordered")
    results: Iterator[CellResult] = run(joblib.delayed(_run_cell)(*texts, cell) for cell in missing)
    with progress("evaluating", len(cells)) as on_progress:
        for num_done, result in enumerate(results, start=len(cells) - len(missing) + 1):
            write_whole(_cell_path(out, result.cell), cell_to_bytes(result))
            on_progress(num_done)


def _run_cell(evaluation: str, pool: str, cell: Cell) -> CellResult:
    """In a process of its own: what cells share is made once in each."""
    return _world(evaluation, pool).run(cell)


@lru_cache(1)
def _world(evaluation: str, pool: str) -> World:
    settings, servers = Evaluation.model_validate_json(evaluation), PoolSection.model_validate_json(pool)
    return World(settings, servers, _outcomes(), load_predictors(settings.predictors, servers, _outcomes()))


@lru_cache(1)
def _outcomes() -> OutcomeModel:
    return OutcomeModel.shipped()


def _print_summary(summary: pd.DataFrame) -> None:
    """Goodput and on-time shares in percent, with half of their intervals: for each scheduler policies by rates."""
    tiers = [ALL_TIERS] if (summary["tier"] == ALL_TIERS).any() else list(summary["tier"].unique())
    rates = list(summary["rate_per_min"].unique())
    keys = summary[["scheduler", "tier", "policy", "rate_per_min"]].itertuples(index=False, name=None)
    shown = dict(zip(keys, summary.to_dict("records"), strict=True))
    for scheduler in summary["scheduler"].unique():
        for figure, meaning in SHOWN.items():
            rows = [
                [
                    policy if tier == ALL_TIERS else f"{policy}, {tier} s",
                    *(_share(shown[scheduler, tier, policy, rate], figure) for rate in rates),
                ]
                for tier in tiers
                for policy in summary["policy"].unique()
            ]
            title = f"{scheduler.upper()}, {meaning}, % (by queries/min)"
            print_table(title, ["policy", *(f"{rate:g}" for rate in rates)], rows)


def _share(row: Mapping[Any, Any], figure: str) -> str:
    half = 100 * (row[f"{figure}_high"] - row[figure])
    return f"{100 * row[figure]:.1f}" + ("" if math.isnan(half) else f" ±{half:.1f}")


def _print_gains(gains: pd.DataFrame) -> None:
    """Trained policies beside the best rule, in points, and what that comes to."""
    if gains.empty:
        return
    rates = [f"{rate:g}" for rate in gains["rate_per_min"].unique()]
    rows = [
        [f"{policy}, {str(scheduler).upper()}", *(f"{points(row)}\n({row.rival})" for row in group.itertuples())]
        for (policy, scheduler), group in gains.groupby(["policy", "scheduler"], sort=False)
    ]
    print_table("goodput less that of the best rule, points (by queries/min)", ["policy", *rates], rows)
    print(UNROUNDED)
    for policy, group in gains.groupby("policy", sort=False):
        above, below = (group["gain"] > 0).sum(), (group["gain"] < 0).sum()
        told = f"{policy}: above the best rule in {above} of {len(group)} comparisons, below it in {below}"
        if group["gain_low"].notna().any():
            surely_above, surely_below = (group["gain_low"] > 0).sum(), (group["gain_high"] < 0).sum()
            told += f"; beyond chance (95 %) in {surely_above} and {surely_below}"
        print(told)
