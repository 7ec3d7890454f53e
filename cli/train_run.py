"""What ``inframind train`` does: the folder, the display, and going on."""

import argparse
import json
import sys
import time
import tomllib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import joblib
import tomli_w
from rich.console import Console, Group
from rich.live import Live
from rich.progress import Progress
from rich.table import Table

from inframind.agents.checkpoint import load_checkpoint, save_checkpoint
from inframind.agents.training import Iteration, Trainer, train
from inframind.agents.training_file import load_training
from inframind.sim.outcomes import OutcomeModel
from inframind.traces import ConfigError, check_same_config, versions, write_whole

from .file_kinds import check_kind
from .output import claim_folder, print_json, progress_columns
from .predictors import load_predictors

METRICS, CONFIG, VERSIONS, BOARD, CHECKPOINT, POLICY = MEMBERS = (
    *("metrics.jsonl", "config.toml", "versions.json"),
    *("tensorboard", "checkpoint", "policy"),
)
"""What a training's folder has; no other command's has the first."""
HISTOGRAM_EVERY = 10
"""Iterations between histograms of actions."""


def run_train(args: argparse.Namespace) -> int:
    """Train, with checkpoints; Ctrl-C keeps the best policy so far."""
    outcomes = OutcomeModel.shipped()
    check_kind(args.training, "train")
    training, pool = load_training(args.training, args.set, outcomes)
    trainer = Trainer(training, pool, outcomes, args.jobs, load_predictors(training.predictors, pool, outcomes))
    config = {
        "training": training.model_dump(mode="json", exclude_none=True),
        "pool": pool.recorded(),
    }
    _open_folder(args.out, config, trainer, resume=args.resume, overwrite=args.overwrite)
    start, num_kept = time.perf_counter(), trainer.done
    with ExitStack() as stack:
        stack.enter_context(_backend(args.backend))
        board = stack.enter_context(_Board(args.out / BOARD, trainer.done))
        show = stack.enter_context(_Display(trainer, is_quiet=args.json))

        def on_iteration(iteration: Iteration) -> None:
            with (args.out / METRICS).open("a", encoding="utf-8") as sink:
                sink.write(json.dumps({"iteration": iteration.number, **iteration.figures}) + "\n")
            board(iteration)
            show.update(iteration)

        def on_checkpoint(is_best: bool) -> None:
            nonlocal num_kept
            if is_best:
                trainer.save_policy(args.out / POLICY)
            save_checkpoint(args.out / CHECKPOINT, trainer)
            num_kept = trainer.done

        try:
            train(trainer, on_iteration, on_checkpoint)
        except KeyboardInterrupt:
            if not (args.out / POLICY).exists():
                trainer.save_policy(args.out / POLICY)
            show.close()
            goes_on = f"--resume goes on after the {num_kept} of the last checkpoint"
            if not num_kept:
                goes_on = "there is no checkpoint yet, so --overwrite begins anew"
            print(
                f"stopped with {trainer.done} of {training.batch.iterations} iterations done; {goes_on}\n"
                f"policy so far: {args.out / POLICY}"
            )
            return 130
    seconds = time.perf_counter() - start
    assert trainer.best is not None  # a training ends with a checkpoint
    if args.json:
        print_json({"policy": str(args.out / POLICY), "validation_goodput": trainer.best, "seconds": seconds})
    else:
        print(
            f"trained in {seconds / 60:.1f} min; goodput on simulations set apart: {trainer.best:.3f}\n"
            f"policy: {args.out / POLICY}"
        )
    return 0


def _open_folder(out: Path, config: Mapping[str, Any], trainer: Trainer, *, resume: bool, overwrite: bool) -> None:
    """Make the folder, or go on with what is in it.

    Raises
    ------
    ConfigError
        There is something else, or a training from another file, or nothing to go on with.
    """
    if resume:
        try:
            before = tomllib.loads((out / CONFIG).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(out, [f"is no training to go on with: {CONFIG}: {error.strerror}"]) from None
        check_same_config(
            out, before, config, "give the same file and --set, --overwrite begins anew, or name another folder"
        )
        if not (out / CHECKPOINT).exists():
            raise ConfigError(out, ["has no checkpoint yet; --overwrite begins anew"])
        load_checkpoint(out / CHECKPOINT, trainer)
        lines = (out / METRICS).read_text(encoding="utf-8").splitlines(keepends=True)
        write_whole(out / METRICS, "".join(lines[: trainer.done]))
        return
    claim_folder(out, MEMBERS, overwrite=overwrite, hint="--resume goes on with a training, ")
    write_whole(out / METRICS, "")
    write_whole(out / CONFIG, tomli_w.dumps(config))
    write_whole(out / VERSIONS, json.dumps({**versions(), "seed": trainer.training.seed}, indent=2) + "\n")


def _backend(name: str) -> Any:
    """joblib's backend, as a context.

    Raises
    ------
    ConfigError
        Ray is asked for and not installed.
    """
    if name == "ray":
        try:
            from ray.util.joblib import register_ray
        except ImportError:
            raise ConfigError("--backend ray", ["needs Ray: pip install 'inframind-router[ray]'"]) from None
        register_ray()
    return joblib.parallel_config(backend=name)


class _Board:
    """TensorBoard, where tensorboardX is installed; ``metrics.jsonl`` has the figures in any case."""

    def __init__(self, folder: Path, done: int) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            needs = "needs tensorboardX: pip install 'inframind-router[tensorboard]'"
            print(f"note: {folder.name}/ is not written: {needs}", file=sys.stderr)
            self._writer = None
        else:
            self._writer = SummaryWriter(str(folder), purge_step=done + 1 if done else None)

    def __enter__(self) -> Callable[[Iteration], None]:
        return self._write

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def _write(self, iteration: Iteration) -> None:
        if self._writer is None:
            return
        for name, value in iteration.figures.items():
            self._writer.add_scalar(name, value, iteration.number)
        if iteration.number % HISTOGRAM_EVERY == 0:
            for name, values in iteration.histograms.items():
                self._writer.add_histogram(name, values, iteration.number)


class _Display:
    """What a person sees: a bar and a table of tiers; where there is no terminal a line for each checkpoint."""

    def __init__(self, trainer: Trainer, *, is_quiet: bool) -> None:
        self._trainer = trainer
        self._console = Console(stderr=True, quiet=is_quiet)
        self._bar = Progress(*progress_columns())
        self._task = self._bar.add_task("training", total=trainer.training.batch.iterations, completed=trainer.done)
        self._live: Live | None = None
        if self._console.is_terminal and not is_quiet:
            self._live = Live(self._bar, console=self._console, transient=True)
        self._last = time.perf_counter()
        self._steps_per_s = 0.0

    def __enter__(self) -> "_Display":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take it off the screen."""
        if self._live is not None:
            self._live.stop()

    def update(self, iteration: Iteration) -> None:
        """After an iteration."""
        now = time.perf_counter()
        own = iteration.figures["role_steps"] / (now - self._last)
        self._steps_per_s = own if not self._steps_per_s else 0.8 * self._steps_per_s + 0.2 * own
        self._last = now
        self._bar.update(self._task, completed=iteration.number)
        if self._live is not None:
            self._live.update(Group(self._bar, self._table(iteration.figures)))
        elif iteration.is_checkpoint:
            figures = iteration.figures
            self._console.print(
                f"{iteration.number}/{self._trainer.training.batch.iterations}: goodput {figures['goodput']:.3f}, "
                f"set apart {figures['validation/goodput']:.3f}, in time {figures['on_time']:.3f}, "
                f"{self._steps_per_s:,.0f} role steps/s",
                highlight=False,
            )

    def _table(self, figures: Mapping[str, float]) -> Table:
        title = (
            f"goodput {figures['goodput']:.3f} (best set apart {self._trainer.best or 0.0:.3f})   calls a query "
            f"{figures['calls_per_query']:.2f}   entropy "
            + ", ".join(
                f"{name} {figures[f'entropy/{name}']:.2f}"
                for name in ("planner", "executor")
                if f"entropy/{name}" in figures
            )
            + f"   {self._steps_per_s:,.0f} role steps/s"
        )
        table = Table(title=title, title_justify="left", title_style="")
        for column in ("tier", "goodput", "late", "multiplier"):
            table.add_column(column, justify="right")
        for tier_s in self._trainer.training.budgets.tiers_s:
            tier = f"{tier_s:g}s"
            values = (figures.get(f"{name}/{tier}") for name in ("goodput", "violation", "multiplier"))
            table.add_row(tier, *("" if value is None else f"{value:.3f}" for value in values))
        return table
