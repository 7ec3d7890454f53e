"""Experiment files: what to simulate."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from inframind.sim import PoolSection, load_pool
from inframind.traces import Budgets, ConfigError, NotEmpty, Section, Workload, load_toml

Scheduler = Literal["fcfs", "edf"]


class Experiment(Section):
    """An experiment on single calls: one run for each load and scheduler, on common random numbers."""

    name: str | None = None
    """Title of the report; by default what was run."""
    pool: str = "h200"
    """A shipped pool, or a pool file; a relative path starts at this file's folder."""
    seed: int = 0
    """Of everything random."""
    schedulers: Annotated[tuple[Scheduler, ...], NotEmpty] = ("fcfs", "edf")
    """``fcfs``: first come, first served. ``edf``: vLLM's priority policy, with each call's deadline in ms as its
    priority."""
    loads: Annotated[tuple[Annotated[float, Field(gt=0)], ...], NotEmpty] = (1.0,)
    """The workload's request rate times each of these."""
    sample_s: Annotated[float, Field(ge=1e-3)] = 1.0
    """How often queue depth and KV usage are noted."""
    shares: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    """Which share of the calls goes to each server, in any unit; all alike by default. A trace with a column
    ``model`` says itself where its calls go."""
    workload: Workload
    """What is asked."""
    budgets: Budgets = Budgets()
    """Draws a deadline for each call that has none."""

    @model_validator(mode="after")
    def _no_run_twice(self) -> Self:
        for field in ("schedulers", "loads"):
            values = getattr(self, field)
            if len(set(values)) < len(values):
                raise ValueError(f"{field}: a value occurs twice in {list(values)}")
        return self


def load_experiment(path: Path, overrides: list[str]) -> tuple[Experiment, PoolSection]:
    """The experiment and its pool, checked against each other.

    Raises
    ------
    ConfigError
        With all the mistakes of one of the files.
    """
    experiment = load_toml(path, Experiment, overrides)
    pool = load_pool(experiment.pool, path.parent)
    names = [server.name for server in pool.servers]
    problems = [
        f"shares.{name}: pool {experiment.pool} has no such server; it has {', '.join(names)}"
        for name in experiment.shares
        if name not in names
    ]
    if experiment.shares and not any(experiment.shares.values()):
        problems.append("shares: at least one must be greater than 0")
    if problems:
        raise ConfigError(path, problems)
    return experiment, pool
