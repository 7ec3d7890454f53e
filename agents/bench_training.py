"""How fast training is on this machine: simulation, observation, decisions and learning, end to end."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from inframind.sim import PoolSection
from inframind.sim.outcomes import OutcomeModel

from .training import Trainer
from .training_file import Training

EPOCH_ROLE_STEPS = 136_500
"""Of an epoch of the InfraMind authors' rates analysis: 6 rates x 5 budgets. Live it took them 3,000 to 3,500 s."""


@dataclass(frozen=True, slots=True)
class TrainingMeasurement:
    """Some iterations of a training, after one that does not count."""

    jobs: int
    iterations: int
    role_steps: int
    """Decisions of the executor."""
    seconds: float
    role_steps_per_s: float
    """End to end."""
    learning_share: float
    """Of the time: networks, not simulations."""
    epoch_s: float
    """Of so many role steps as an epoch of the rates analysis has, at this speed."""


def bench_training(
    training: Training,
    pool: PoolSection,
    outcomes: OutcomeModel,
    jobs: int,
    iterations: int,
    on_progress: Callable[[int], None] | None = None,
) -> TrainingMeasurement:
    """Train, and stop the time.

    A training's first iterations draw the outcomes of each seed, once for all; here that is done beforehand.
    """
    trainer = Trainer(training, pool, outcomes, jobs)
    trainer.warm_up()
    trainer.iterate()
    role_steps, start, learning_s = 0.0, time.perf_counter(), 0.0
    for number in range(iterations):
        iteration = trainer.iterate()
        role_steps += iteration.figures["role_steps"]
        learning_s += iteration.learning_s
        if on_progress is not None:
            on_progress(number + 1)
    seconds = time.perf_counter() - start
    return TrainingMeasurement(
        jobs=jobs,
        iterations=iterations,
        role_steps=round(role_steps),
        seconds=seconds,
        role_steps_per_s=role_steps / seconds,
        learning_share=learning_s / seconds,
        epoch_s=EPOCH_ROLE_STEPS * seconds / role_steps,
    )
