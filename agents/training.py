"""Training: simulate, learn, and from time to time check on simulations not learnt from; resumable to the bit.

A folder of a training:

================== ======================================================================
``config.toml``    the training as resolved
``versions.json``  what it ran on
``metrics.jsonl``  a line of figures for each iteration
``tensorboard/``   the same for TensorBoard, with histograms of actions
``checkpoint/``    networks, optimisers and multipliers of the last checkpoint
``policy/``        the best policy so far, by goodput on simulations that are set apart
================== ======================================================================
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import joblib
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from inframind.sim import PoolSection
from inframind.sim.outcomes import OutcomeModel
from inframind.workflows import LatencyModel

from .acting import Actor
from .features import DOMAIN_NAMES, FEATURE_SIZES, ROLE_SETS, STRATEGY_NAMES
from .learning import Agents
from .networks import executor_network, planner_network
from .plans import planner_of
from .rollouts import OUTCOME_SEEDS, Batch, Conditions, TrainingWorld, draw_conditions
from .trained import PolicyRecord, save_policy
from .training_file import Training

VALIDATION_SEED = 2**31
"""Of the generator that draws the simulations for choosing the best policy; a batch has one of its own."""
VALIDATION_SIMULATIONS = 16

Weights: TypeAlias = Mapping[str, Mapping[str, NDArray[np.float32]]]


@dataclass(frozen=True, slots=True)
class Iteration:
    """What an iteration tells."""

    number: int
    """From 1."""
    figures: Mapping[str, float]
    """By name, as in ``metrics.jsonl``."""
    histograms: Mapping[str, NDArray[np.int64]]
    """Which actions were taken: one entry for each decision."""
    is_checkpoint: bool
    """Whether its state should be written."""
    learning_s: float
    """What the update took."""


class Trainer:
    """Agents, and the simulations that they learn from.

    Parameters
    ----------
    jobs
        Processes. Results do not depend on it.
    latency
        Predictors for the pool's servers, those of ``training.predictors``.
    """

    def __init__(
        self,
        training: Training,
        pool: PoolSection,
        outcomes: OutcomeModel,
        jobs: int,
        latency: LatencyModel | None = None,
    ) -> None:
        self.training = training
        self.pool = pool
        self.latency = latency
        self.agents = Agents(training, outcomes.bank.embedding.shape[1], len(pool.servers))
        self.embedding_size = outcomes.bank.embedding.shape[1]
        self.done = 0
        """Iterations so far."""
        self.best: float | None = None
        """Goodput of the best policy on the simulations set apart; None before the first checkpoint."""
        self._jobs = min(jobs, training.batch.groups)

    @property
    def record(self) -> PolicyRecord:
        """What the present policy says of itself."""
        training = self.training
        return PolicyRecord(
            name=training.name,
            planner=None if training.planner.fixed else training.planner.network,
            fixed_planner=training.planner.fixed,
            mask_infeasible=training.masks_plans,
            executor=training.executor.network,
            embedding_size=self.embedding_size,
            feature_sizes=FEATURE_SIZES,
            servers=tuple(server.model for server in self.pool.servers),
            training={
                "config": training.model_dump(mode="json", exclude_none=True),
                "iterations": self.done,
                "validation_goodput": self.best,
            },
        )

    def iterate(self) -> Iteration:
        """One batch and one update."""
        training, number = self.training, self.done
        options = training.batch
        rng = np.random.default_rng([training.seed, number])
        conditions = [
            [draw_conditions(training, rng) for _ in range(options.simulations)] for _ in range(options.groups)
        ]
        batch = self._collect(conditions, number, is_greedy=False)
        figures = _figures(training, batch)
        start = time.perf_counter()
        # Results must not depend on the machine, and sums in another order round otherwise. Nor would threads within an
        # operation be worth it: where they lack a core each, they spin at its end for most of their time.
        torch.set_num_threads(1)
        figures |= self.agents.update(batch, number / options.iterations, rng, self._jobs)
        learning_s = time.perf_counter() - start
        self.done += 1
        is_last = self.done >= options.iterations
        is_checkpoint = is_last or self.done % options.checkpoint_every == 0
        if is_checkpoint:
            figures["validation/goodput"] = self.validate()
        figures = {name: value for name, value in figures.items() if np.isfinite(value)}
        return Iteration(self.done, figures, _histograms(batch), is_checkpoint, learning_s)

    def warm_up(self) -> None:
        """Let every process draw the outcomes of all seeds; else they do when they come to them."""
        training = self.training
        tasks = [joblib.delayed(_warm_up)(training, self.pool, self.latency) for _ in range(self._jobs)]
        joblib.Parallel(n_jobs=self._jobs)(tasks)

    def validate(self) -> float:
        """Goodput, deciding by what is most probable, on simulations that no batch has."""
        rng = np.random.default_rng(VALIDATION_SEED)
        groups = self.training.batch.groups
        conditions = [draw_conditions(self.training, rng) for _ in range(VALIDATION_SIMULATIONS)]
        batch = self._collect([conditions[group::groups] for group in range(groups)], VALIDATION_SEED, is_greedy=True)
        return float((batch.correct & batch.on_time).mean())

    def save_policy(self, folder: Path) -> None:
        """Write the present policy."""
        save_policy(folder, self.record, self.agents.planner, self.agents.executor)

    def _collect(self, conditions: Sequence[Sequence[Conditions]], number: int, *, is_greedy: bool) -> Batch:
        weights: Weights = {
            name: {key: tensor.numpy() for key, tensor in network.state_dict().items()}
            for name, network in self.agents.networks.items()
            if name in ("planner", "executor")
        }
        tasks = [
            joblib.delayed(_collect)(
                self.training,
                self.pool,
                self.latency,
                weights,
                group,
                None if is_greedy else _group_seed(self.training.seed, number, index),
            )
            for index, group in enumerate(conditions)
            if group
        ]
        return Batch.concatenate(joblib.Parallel(n_jobs=self._jobs)(tasks))


def _group_seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


_worlds: dict[tuple[str, str], TrainingWorld] = {}
"""Of this process: it takes a second to make one, and an iteration is not much longer."""


def _collect(
    training: Training,
    pool: PoolSection,
    latency: LatencyModel | None,
    weights: Weights,
    conditions: Sequence[Conditions],
    seed: int | None,
) -> Batch:
    """In a worker process: simulate one group."""
    torch.set_num_threads(1)
    world = _world_of(training, pool, latency)
    size = world.outcomes.bank.embedding.shape[1]
    executor = _loaded(executor_network(training.executor.network, size, len(pool.servers)), weights["executor"])
    planner = (
        planner_of(training.planner.fixed, training.seed)
        if training.planner.fixed
        else _loaded(planner_network(training.planner.network, size), weights["planner"])
    )
    actor = Actor(world.builder, planner, executor, mask_infeasible=training.masks_plans)
    return world.collect(actor, conditions, seed)


def _world_of(training: Training, pool: PoolSection, latency: LatencyModel | None) -> TrainingWorld:
    key = (training.model_dump_json(), pool.model_dump_json())
    if key not in _worlds:
        _worlds.clear()
        outcomes = OutcomeModel.shipped(cache_size=OUTCOME_SEEDS * len(DOMAIN_NAMES), luck_by_seed=True)
        _worlds[key] = TrainingWorld(training, pool, outcomes, latency)
    return _worlds[key]


def _warm_up(training: Training, pool: PoolSection, latency: LatencyModel | None) -> None:
    outcomes = _world_of(training, pool, latency).outcomes
    for domain in training.domains:
        for seed in range(OUTCOME_SEEDS):
            outcomes.right_calls(domain, 0, seed)


def _loaded(network: nn.Module, weights: Mapping[str, NDArray[np.float32]]) -> nn.Module:
    network.load_state_dict({key: torch.tensor(value) for key, value in weights.items()})
    return network


def _figures(training: Training, batch: Batch) -> dict[str, float]:
    """What happened in a batch."""
    good = batch.correct & batch.on_time
    calls = int((~batch.is_plan).sum())
    figures = {
        "goodput": float(good.mean()),
        "accuracy": float(batch.correct.mean()),
        "on_time": float(batch.on_time.mean()),
        "mean_latency_over_budget": float((batch.latency_s / batch.budget_s).mean()),
        "role_steps": float(calls),
        "calls_per_query": calls / len(batch.tier),
    }
    for index, tier in enumerate(training.budgets.tiers_s):
        own = batch.tier == index
        if own.any():
            figures[f"violation/{tier:g}s"] = float(1 - batch.on_time[own].mean())
            figures[f"goodput/{tier:g}s"] = float(good[own].mean())
    return figures


def _histograms(batch: Batch) -> dict[str, NDArray[np.int64]]:
    """Choices by tier and by load (slow, middle and fast thirds of the batch's arrival rates)."""
    calls, plans = ~batch.is_plan, batch.is_plan
    num_strategies, num_sets = len(STRATEGY_NAMES), len(ROLE_SETS)
    low, high = np.quantile(batch.rate_per_min, (1 / 3, 2 / 3))
    thirds = {
        "slow": batch.rate_per_min <= low,
        "middle": (batch.rate_per_min > low) & (batch.rate_per_min <= high),
        "fast": batch.rate_per_min > high,
    }
    groups = {f"tier{index}": batch.tier == index for index in range(int(batch.tier.max()) + 1)} | thirds
    histograms = {}
    for name, workflows in groups.items():
        own = workflows[batch.workflow]
        histograms[f"server/{name}"] = batch.choice[own & calls] // num_strategies
        histograms[f"strategy/{name}"] = batch.choice[own & calls] % num_strategies
        histograms[f"topology/{name}"] = batch.choice[own & plans] // num_sets
    return {name: values for name, values in histograms.items() if len(values)}


def train(
    trainer: Trainer,
    on_iteration: Callable[[Iteration], None],
    on_checkpoint: Callable[[bool], None],
) -> None:
    """Go on from where the trainer is until the last iteration.

    Parameters
    ----------
    on_iteration
        Called after each.
    on_checkpoint
        Called when the state should be written; with whether the policy is the best so far.
    """
    while trainer.done < trainer.training.batch.iterations:
        iteration = trainer.iterate()
        on_iteration(iteration)
        if iteration.is_checkpoint:
            goodput = iteration.figures["validation/goodput"]
            is_best = trainer.best is None or goodput > trainer.best
            if is_best:
                trainer.best = goodput
            on_checkpoint(is_best)
