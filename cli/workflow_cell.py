"""Cells of an evaluation file as `inframind simulate` and `inframind live replay` run them."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from inframind.agents import SCHEDULERS, Cell, Evaluation, Policy, World, arrivals, is_folder, load_evaluation
from inframind.sim import ServerOptions
from inframind.sim.outcomes import OutcomeModel
from inframind.traces import ConfigError
from inframind.workflows import Arrived, ControllerOptions, LatencyModel

from .arguments import positive_number
from .file_kinds import check_kind
from .predictors import load_predictors


@dataclass(frozen=True, slots=True)
class WorkflowCell:
    """A cell, and all that its run needs, be it on a simulated or a live pool."""

    world: World
    cell: Cell
    time_scale: float
    """Arrivals are so many times as far apart, budgets so many times as long as in the file."""

    @property
    def evaluation(self) -> Evaluation:
        """The file."""
        return self.world.evaluation

    @property
    def scheduler_policy(self) -> Literal["fcfs", "priority"]:
        """Of vLLM, as the cell's scheduler needs it."""
        return SCHEDULERS[self.cell.scheduler].policy

    @property
    def servers(self) -> list[ServerOptions]:
        """The pool, as the simulator takes it."""
        return self.world.servers(self.cell)

    @property
    def outcomes(self) -> OutcomeModel:
        """What models write."""
        return self.world.outcomes

    @property
    def latency(self) -> LatencyModel | None:
        """Predictors, if the file names some."""
        return self.world.latency

    @property
    def arrivals(self) -> list[Arrived]:
        """The queries."""
        return [
            Arrived(
                arrived.t * self.time_scale, replace(arrived.query, budget_s=arrived.query.budget_s * self.time_scale)
            )
            for arrived in arrivals(self.evaluation, self.cell, self.outcomes.bank)
        ]

    @property
    def options(self) -> ControllerOptions:
        """The controller's."""
        return self.evaluation.controller_options(self.cell.scheduler)

    def policy(self) -> Policy:
        """Who decides, as at the begin of a run."""
        return self.world.policy(self.cell)

    def config(self, kind: str, **more: object) -> Mapping[str, Any]:
        """``config.toml`` of the run folder; of the file's policies, schedulers, rates and seeds it has this cell's."""
        cell = self.cell
        entries = dict(zip(self.evaluation.labels, self.evaluation.policies, strict=True))
        own = {
            "policies": [entries[cell.policy]],
            "schedulers": [cell.scheduler],
            "rates_per_min": [cell.rate_per_min],
            "seeds": [cell.seed],
        }
        run = {
            "kind": kind,
            "policy": cell.policy,
            "scheduler": cell.scheduler,
            "rate_per_min": cell.rate_per_min,
            "tier_s": cell.tier_s,
            "seed": cell.seed,
            "time_scale": self.time_scale,
        }
        return {
            "experiment": self.evaluation.model_dump(mode="json") | own,
            "pool": self.world.pool.recorded(),
            "run": run | more,
        }


def add_cell_arguments(parser: argparse._ActionsContainer) -> None:
    """Those that choose cells."""
    parser.add_argument("--policy", metavar="NAME", help="who decides: a policy's name, or the folder of a trained one")
    parser.add_argument(
        "--all",
        action="store_true",
        help="every policy, scheduler, rate and seed of the file, or those that the other options leave, each as a "
        "folder below that of -o",
    )
    for name, kind, metavar in (("scheduler", str, "NAME"), ("rate", positive_number, "PER_MIN"), ("seed", int, "N")):
        told = f"only this {name}; default: the file's first, with --all each"
        parser.add_argument(f"--{name}", type=kind, metavar=metavar, help=told)
    parser.add_argument(
        "--time-scale",
        type=positive_number,
        default=1.0,
        metavar="X",
        help="for slow hardware: arrivals X times as far apart, budgets X times as long (default 1)",
    )


def load_cells(args: argparse.Namespace, outcomes: OutcomeModel) -> list[WorkflowCell]:
    """The cells that the arguments choose: one, or with ``--all`` the file's.

    Raises
    ------
    ConfigError
        With all the mistakes of the file and the arguments.
    """
    if not (args.policy or args.all):
        raise ConfigError("arguments", ["--policy: say who decides, or --all for every policy of the file"])
    path: Path = args.experiment
    # The file's relative folders start at the file, those of the command line here.
    policy = str(Path(args.policy).resolve()) if args.policy and is_folder(args.policy) else args.policy
    chosen: Sequence[tuple[str, object]] = (
        ("policies", policy),
        ("schedulers", args.scheduler),
        ("rates_per_min", args.rate),
        ("seeds", args.seed),
    )
    overrides = [*args.set, *(f"{key}={json.dumps([value])}" for key, value in chosen if value is not None)]
    check_kind(path, "evaluate")
    evaluation, pool = load_evaluation(path, overrides, outcomes)
    world = World(evaluation, pool, outcomes, load_predictors(evaluation.predictors, pool, outcomes))
    cells = list(evaluation.cells()) if args.all else [next(evaluation.cells())]
    return [WorkflowCell(world, cell, args.time_scale) for cell in cells]
