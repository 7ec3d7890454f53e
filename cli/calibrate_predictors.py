"""``inframind calibrate predictors``: train the latency predictors on logs, beside simpler methods."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from .output import number, print_json, print_table, progress

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

TIME_BLOCKS = "held-out time"
HELD_OUT_LOGS = "held-out logs"
UNITS = {"ttft": ("ms", 1e3), "tpot": ("ms", 1e3), "length": ("tokens", 1.0), "e2e": ("s", 1.0)}
LABELS = {"e2e_known_length": "e2e, length known"}


def add_parser(commands: "Commands") -> None:
    """Declare ``calibrate predictors``."""
    parser = commands.add_parser("predictors", help="train the agents' latency predictors on request logs")
    parser.add_argument(
        "logs",
        nargs="+",
        metavar="RUN_OR_LOG",
        help="run folder, or request log with ttft_s and e2e_s; MODEL=LOG where a log does not name the model",
    )
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="PREDICTORS_DIR", help="folder to write")
    parser.add_argument(
        "--held-out", nargs="+", default=[], metavar="RUN_OR_LOG", help="only test on these, such as another load"
    )
    parser.add_argument(
        "--gauges",
        choices=("reckoned", "polled"),
        default="reckoned",
        help="queues as polled and brought up to date by dead reckoning (default), or just as polled",
    )
    parser.add_argument(
        "--embeddings", type=Path, metavar="FILE", help="query embeddings (safetensors); logs name rows in `embedding`"
    )
    parser.add_argument("--seed", type=int, default=0, help="of split and initial weights (default 0)")
    parser.add_argument("--json", action="store_true", help="print JSON, no table")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train, test, write, print."""
    # PyTorch and scikit-learn take seconds to import; no other command shall wait for them.
    from inframind.calibration.predictor_data import load_embeddings, read_observed
    from inframind.calibration.predictor_report import evaluate
    from inframind.calibration.predictor_training import check_known, train_predictors
    from inframind.calibration.predictors import METRICS_FILE, check_replaceable

    check_replaceable(args.out)
    embeddings = None if args.embeddings is None else load_embeddings(args.embeddings)
    logs = [read_observed(source, args.gauges, args.seed) for source in args.logs]
    others = [read_observed(source, args.gauges, args.seed) for source in args.held_out]
    frame = pd.concat([log.frame for log in logs], ignore_index=True)
    held_out = pd.concat([log.frame for log in others], ignore_index=True) if others else frame.iloc[:0]
    check_known(held_out, frame)
    with progress("training", 100) as on_progress:
        predictors = train_predictors(
            frame,
            {log.name: log.gauges for log in logs},
            embeddings=embeddings,
            seed=args.seed,
            on_progress=lambda share: on_progress(80 * share),
        )
        metrics = evaluate(
            predictors,
            frame,
            {TIME_BLOCKS: frame[frame["part"] == "test"], HELD_OUT_LOGS: held_out},
            embeddings=embeddings,
            seed=args.seed,
            on_progress=lambda share: on_progress(80 + 20 * share),
        )
    predictors.save(args.out, {METRICS_FILE: metrics.to_csv(index=False)})
    sources = [
        {"log": log.name, "gauges": log.gauges, "calls": len(log.frame), "unusable": log.num_unusable}
        for log in logs + others
    ]
    if args.json:
        print_json({"out": str(args.out), "logs": sources, "metrics": _records(metrics)})
        return 0
    for source in sources:
        print("{log}: {calls:,} calls, {unusable:,} unusable, gauges: {gauges}".format(**source))
    for test, table in metrics.groupby("test", sort=False):
        _print_metrics(str(test), table)
    print(f"wrote {args.out}")
    return 0


def _print_metrics(test: str, metrics: pd.DataFrame) -> None:
    methods = list(metrics["method"].unique())
    columns = ["model, target", "calls", "actual"]
    columns += [f"{what}\n{method}" for what in ("MAE", "median\nerror", "R\N{SUPERSCRIPT TWO}") for method in methods]
    rows = []
    for (model, target), table in metrics.groupby(["model", "target"], sort=False):
        unit, factor = UNITS[str(target).removesuffix("_known_length")]
        by_method: dict[Any, dict[Any, Any]] = table.set_index("method").to_dict("index")
        mlp = by_method["mlp"]
        row = [
            f"{model} {LABELS.get(str(target), target)} ({unit})",
            f"{mlp['calls']:,}",
            _short(factor * mlp["actual_mean"]),
        ]
        row += [_short(factor * by_method[method]["mae"]) for method in methods]
        row += [number(100 * by_method[method]["median_relative_error"], 1) + "%" for method in methods]
        row += [number(by_method[method]["r2"], 2) for method in methods]
        rows.append([*row, number(100 * mlp["coverage"], 0) + "%"])
    print_table(test, [*columns, "in 90%\nmlp"], rows)


def _short(value: float) -> str:
    """Three digits, or all before the point."""
    return number(value, 2 if value < 10 else 1 if value < 100 else 0)


def _records(metrics: pd.DataFrame) -> list[dict[Any, Any]]:
    """Rows for JSON, which has no NaN."""
    return metrics.astype(object).where(metrics.notna(), None).to_dict("records")
