"""One update of planner, executor, critic and multipliers from one batch of experience."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .congestion import CongestionNetwork, charges, fit, to_go
from .constraint import Multipliers, cost_of
from .features import CONTEXT_SIZE
from .losses import (
    advantages,
    approx_kl,
    explained_variance,
    lagrangian,
    log_probability,
    plan_log_probability,
    ppo_loss,
    reinforce_loss,
    standardised,
)
from .networks import critic_network, executor_network, planner_network
from .rollouts import Batch
from .tensors import FeatureTensors
from .training_file import Learner, Training

LEAST_RATE = 0.1
"""Share of the learning rate at the end."""


@dataclass(frozen=True, slots=True)
class _Rows:
    """The decisions of one policy."""

    features: FeatureTensors
    choice: Tensor
    log_prob: Tensor
    allowed: Tensor
    """Planner only."""
    advantage: Tensor


class Agents:
    """The networks, their optimisers and the multipliers.

    Parameters
    ----------
    num_servers
        Of the pool; networks of kind ``set`` do not depend on it.
    """

    def __init__(self, training: Training, embedding_size: int, num_servers: int) -> None:
        torch.manual_seed(training.seed)
        self.training = training
        self.planner = None
        if not training.planner.fixed:
            self.planner = planner_network(training.planner.network, embedding_size)
        self.executor = executor_network(training.executor.network, embedding_size, num_servers)
        self.critic = critic_network(training.critic.network, embedding_size, num_servers)
        self.congestion = CongestionNetwork(CONTEXT_SIZE) if training.congestion.weight else None
        self.multipliers = Multipliers(training.constraint, len(training.budgets.tiers_s))
        rates = {
            "planner": training.planner.learner.learning_rate,
            "executor": training.executor.learner.learning_rate,
            "critic": training.critic.learning_rate,
            "congestion": training.congestion.learning_rate,
        }
        self._rates = {name: rate for name, rate in rates.items() if name in self.networks}
        self.optimisers = {
            name: torch.optim.Adam(self.networks[name].parameters(), rate) for name, rate in self._rates.items()
        }
        self.policies = {
            name: AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(training.batch.averaging))  # type: ignore[no-untyped-call]
            for name, network in self.networks.items()
            if name in ("planner", "executor")
        }
        """Moving averages of planner and executor: what a training comes to."""
        self.averages: dict[str, float] = {}
        """Moving averages of the returns (theory, 8.2)."""

    @property
    def networks(self) -> dict[str, nn.Module]:
        """By name."""
        networks = {
            "planner": self.planner,
            "executor": self.executor,
            "critic": self.critic,
            "congestion": self.congestion,
        }
        return {name: network for name, network in networks.items() if network is not None}

    def update(self, batch: Batch, progress: float, rng: np.random.Generator) -> dict[str, float]:
        """Learn from one batch; multipliers move before the policies.

        Parameters
        ----------
        progress
            Share of the training that is done: learning rates and entropy weights fall with it.
        rng
            Shuffles.

        Returns
        -------
        Figures for the log, by name.
        """
        training = self.training
        for name, optimiser in self.optimisers.items():
            for group in optimiser.param_groups:
                group["lr"] = self._rates[name] * (1 - (1 - LEAST_RATE) * progress)
        prices = self._update_multipliers(batch)
        reward, cost = self._reward_and_cost(batch)
        figures: dict[str, float] = {}
        if self.congestion is not None:
            reward = reward + self._charged(batch, reward, figures)
        multiplier = torch.from_numpy(prices[batch.tier][batch.workflow]).float()
        features, luck = FeatureTensors.of(batch.features), torch.from_numpy(batch.luck)
        if not training.critic.knows_outcomes:
            luck = torch.zeros_like(luck)

        is_folded = training.reward.combine == "rewards"
        folded = reward - multiplier * cost
        targets = torch.stack([folded, cost] if is_folded else [reward, cost], -1)
        with torch.no_grad():
            values = torch.cat(
                [
                    self.critic(features.rows(rows), luck[rows])
                    for rows in torch.tensor_split(torch.arange(len(luck)), 1 + len(luck) // 8192)
                ]
            )
        figures["explained_variance/reward"] = explained_variance(values[:, 0], targets[:, 0])
        figures["explained_variance/cost"] = explained_variance(values[:, 1], targets[:, 1])

        next_row, is_plan = torch.from_numpy(batch.next_row), torch.from_numpy(batch.is_plan)
        for name, learner in (("planner", training.planner.learner), ("executor", training.executor.learner)):
            network = self.networks.get(name)
            rows = torch.nonzero(is_plan if name == "planner" else ~is_plan).squeeze(-1)
            if network is None or not len(rows):
                continue
            if learner.baseline == "critic":
                gains = [
                    advantages(values[:, column], targets[:, column], next_row, learner.trace)[rows]
                    for column in (0, 1)
                ]
                gain = gains[0] if is_folded else lagrangian(gains[0], gains[1], multiplier[rows])
            else:
                gain = folded[rows] - self._baseline(name, learner, folded[rows])
            if learner.standardise:
                gain = standardised(gain)
            own = _Rows(
                features.rows(rows),
                torch.from_numpy(batch.choice)[rows],
                torch.from_numpy(batch.log_prob)[rows],
                torch.from_numpy(batch.allowed),
                gain,
            )
            evaluate = _evaluate_plan if name == "planner" else _evaluate_call
            figures |= self._improve(name, network, learner, own, evaluate, progress, rng)
        for name, policy in self.policies.items():
            policy.update_parameters(self.networks[name])
        figures["loss/critic"] = self._fit_critic(features, luck, targets, rng)
        for tier, price in zip(training.budgets.tiers_s, prices, strict=True):
            figures[f"multiplier/{tier:g}s"] = float(price)
        return figures

    def _update_multipliers(self, batch: Batch) -> NDArray[np.float64]:
        cost = cost_of(self.training.constraint, batch.latency_s, batch.budget_s, batch.on_time)
        num = len(self.training.budgets.tiers_s)
        return self.multipliers.update([cost[batch.tier == tier] for tier in range(num)])

    def _reward_and_cost(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Of each decision: ``[N]``."""
        options = self.training.reward
        earned = batch.correct & batch.on_time if options.kind == "goodput" else batch.correct
        # A plan's cost is its workflow's; of the ratios, C / beta (theory, 7.3).
        if self.training.constraint.cost == "violation":
            of_workflow = (~batch.on_time).astype(float)
        else:
            of_workflow = batch.latency_s / batch.budget_s
        cost = of_workflow[batch.workflow]
        if options.executor_cost != "workflow":
            time_s = batch.features.remaining_s
            if options.executor_cost == "elapsed-over-budget":
                time_s = batch.features.budget_s
            own = batch.call_s / np.maximum(time_s, 1.0)
            cost = np.where(batch.is_plan | np.isnan(own), cost, own)
        return torch.from_numpy(earned[batch.workflow]).float(), torch.from_numpy(cost).float()

    def _charged(self, batch: Batch, reward: Tensor, figures: dict[str, float]) -> Tensor:
        """What each decision and those after it take from other workflows; see `inframind.agents.congestion`."""
        assert self.congestion is not None
        options = self.training.congestion
        figures["explained_variance/congestion"] = fit(
            self.congestion, self.optimisers["congestion"], batch, reward, options.passes
        )
        own = charges(self.congestion, batch)
        figures["congestion_per_query"] = float(own.sum() / len(batch.tier))
        return torch.from_numpy(options.weight * to_go(own, batch.next_row)).float()

    def _baseline(self, name: str, learner: Learner, returns: Tensor) -> float:
        mean = float(returns.mean())
        if learner.baseline == "batch":
            return mean
        before = self.averages.get(name, 0.0)
        self.averages[name] = (1 - learner.ema_rate) * before + learner.ema_rate * mean
        return before

    def _improve(
        self,
        name: str,
        network: nn.Module,
        learner: Learner,
        rows: _Rows,
        evaluate: "_Evaluate",
        progress: float,
        rng: np.random.Generator,
    ) -> dict[str, float]:
        entropy_weight = learner.entropy + (learner.last_entropy - learner.entropy) * progress
        optimiser = self.optimisers[name]
        losses, entropies, kl = [], [], 0.0
        is_ppo = learner.algorithm == "ppo"
        for _ in range(learner.passes if is_ppo else 1):
            kls = []
            for some in _minibatches(len(rows.choice), learner.minibatch, rng):
                log_prob, entropy = evaluate(network, rows, some)
                if is_ppo:
                    loss = ppo_loss(log_prob, rows.log_prob[some], rows.advantage[some], learner.clip)
                else:
                    loss = reinforce_loss(log_prob, rows.advantage[some])
                kls.append(approx_kl(log_prob, rows.log_prob[some]))
                optimiser.zero_grad()
                (loss - entropy_weight * entropy.mean()).backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(network.parameters(), learner.max_grad_norm)
                optimiser.step()
                losses.append(float(loss.detach()))
                entropies.append(float(entropy.detach().mean()))
            kl = float(np.mean(kls))
            if is_ppo and kl > learner.max_kl:
                break
        return {
            f"loss/{name}": float(np.mean(losses)),
            f"entropy/{name}": float(np.mean(entropies)),
            f"kl/{name}": kl,
        }

    def _fit_critic(self, features: FeatureTensors, luck: Tensor, targets: Tensor, rng: np.random.Generator) -> float:
        options = self.training.critic
        losses = []
        for _ in range(options.passes):
            for some in _minibatches(len(targets), options.minibatch, rng):
                loss = (self.critic(features.rows(some), luck[some]) - targets[some]).pow(2).mean()
                self.optimisers["critic"].zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.critic.parameters(), 1.0)
                self.optimisers["critic"].step()
                losses.append(float(loss.detach()))
        return float(np.mean(losses))


_Evaluate = Callable[[nn.Module, _Rows, Tensor], tuple[Tensor, Tensor]]
"""Log-probability of what was chosen, and entropy."""


def _evaluate_plan(network: nn.Module, rows: _Rows, some: Tensor) -> tuple[Tensor, Tensor]:
    topology, role_set = network(rows.features.rows(some))
    return plan_log_probability(topology, role_set, rows.allowed[some], rows.choice[some])


def _evaluate_call(network: nn.Module, rows: _Rows, some: Tensor) -> tuple[Tensor, Tensor]:
    return log_probability(network(rows.features.rows(some)), rows.choice[some])


def _minibatches(num: int, size: int, rng: np.random.Generator) -> Iterator[Tensor]:
    order = torch.from_numpy(rng.permutation(num))
    parts = max(1, round(num / size))
    yield from order.tensor_split(parts)
