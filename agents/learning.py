"""One update of planner, executor, critic and multipliers from one batch of experience."""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .congestion import CongestionNetwork, charges, fit, to_go
from .constraint import Multipliers, cost_of
from .evaluation_file import SCHEDULERS
from .features import CONTEXT_SIZE
from .losses import (
    advantages,
    approx_kl,
    critic_loss,
    explained_variance,
    lagrangian,
    log_probability,
    plan_log_probability,
    ppo_loss,
    reinforce_loss,
    standardised,
)
from .networks import FlatExecutor, critic_network, executor_network, planner_network
from .rollouts import Batch
from .tensors import FeatureTensors
from .training_file import Learner, Training


@dataclass(frozen=True, slots=True)
class _Rows:
    """The decisions of one policy."""

    features: FeatureTensors
    choice: Tensor
    log_prob: Tensor
    allowed: Tensor
    """Planner only."""
    advantage: Tensor
    returns: Tensor | None
    """For the value, where it is the executor's network that has one."""


@dataclass(frozen=True, slots=True)
class _Returns:
    """What came of the decisions of a batch, and what was expected of them; N decisions."""

    folded: Tensor
    """Reward less the price of the cost: ``[N]``."""
    targets: Tensor
    """Of reward and cost; of the folded reward and cost where the price is part of the reward: ``[N, 2]``."""
    values: Tensor
    """The critic's, before the update, see `Agents._values`."""
    multiplier: Tensor
    """Of each decision's tier: ``[N]``."""
    next_row: Tensor
    """See `rollouts.Batch`."""


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
        self.critic = None
        """Of its own; where ``critic.shared``, the executor's network has the value."""
        if not training.critic.shared:
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
            name: torch.optim.Adam(self.networks[name].parameters(), rate, fused=True)
            for name, rate in self._rates.items()
        }
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

    def update(self, batch: Batch, progress: float, rng: np.random.Generator, threads: int = 1) -> dict[str, float]:
        """Learn from one batch.

        Multipliers move before the policies: what is late is learnt from at the price that it has led to. But where the
        price is part of the reward, that is earned at the price under which the batch was played, and the multipliers
        move at the end (theory, 8.5).

        Parameters
        ----------
        progress
            Share of the training that is done: learning rates and entropy weights fall with it.
        rng
            Shuffles.
        threads
            In which what does not hang on one another is done side by side; results do not depend on it.

        Returns
        -------
        Figures for the log, by name.
        """
        for name, optimiser in self.optimisers.items():
            for group in optimiser.param_groups:
                group["lr"] = self._rates[name] * (1 - (1 - self.training.batch.last_rate) * progress)
        features, luck = FeatureTensors.of(batch.features), torch.from_numpy(batch.luck)
        if not self.training.critic.knows_outcomes:
            luck = torch.zeros_like(luck)
        prices = self.multipliers.values if self._is_folded else self._update_multipliers(batch)
        with ThreadPoolExecutor(threads) as pool:
            returns, figures = self._returns(batch, features, luck, prices, pool)
            work = list(self._policy_updates(batch, features, returns, progress, rng))
            if self.critic is not None:
                orders = _orders(len(luck), self.training.critic.passes, rng)
                work.append(partial(self._fit_critic, self.critic, features, luck, returns.targets, orders))
            for figures_of_one in pool.map(lambda learn: learn(), work):
                figures |= figures_of_one
        if self._is_folded:
            self._update_multipliers(batch)
        return figures | self._constraint_figures()

    @property
    def _is_folded(self) -> bool:
        """Whether the price is part of the reward."""
        return self.training.reward.combine == "rewards"

    def _returns(
        self,
        batch: Batch,
        features: FeatureTensors,
        luck: Tensor,
        prices: NDArray[np.float64],
        pool: ThreadPoolExecutor,
    ) -> tuple[_Returns, dict[str, float]]:
        """What the decisions came to at these prices of the tiers, and figures for the log."""
        figures: dict[str, float] = {}
        reward, cost = self._reward_and_cost(batch)
        valuing = pool.submit(self._values, features, luck)
        if self.congestion is not None:
            reward = reward + pool.submit(self._charged, batch, reward, figures).result()
        values = valuing.result()
        multiplier = torch.from_numpy(prices[batch.tier][batch.workflow]).float()
        folded = reward - multiplier * cost
        targets = torch.stack([folded if self._is_folded else reward, cost], -1)
        valued = ~torch.from_numpy(batch.is_plan) if self.training.critic.shared else slice(None)
        for column, name in enumerate(("reward", "cost")[: values.shape[1]]):
            figures[f"explained_variance/{name}"] = explained_variance(values[valued, column], targets[valued, column])
        return _Returns(folded, targets, values, multiplier, torch.from_numpy(batch.next_row)), figures

    def _policy_updates(
        self, batch: Batch, features: FeatureTensors, returns: _Returns, progress: float, rng: np.random.Generator
    ) -> Iterator[Callable[[], dict[str, float]]]:
        """Of planner and executor, those that learn and have decided anything."""
        training = self.training
        for name, learner in (("planner", training.planner.learner), ("executor", training.executor.learner)):
            network = self.networks.get(name)
            rows = torch.from_numpy(np.flatnonzero(batch.is_plan == (name == "planner")))
            if network is None or not len(rows):
                continue
            own = _Rows(
                features.rows(rows),
                torch.from_numpy(batch.choice)[rows],
                torch.from_numpy(batch.log_prob)[rows],
                torch.from_numpy(batch.allowed),
                self._gain(name, learner, rows, returns),
                returns.folded[rows] if training.critic.shared and name == "executor" else None,
            )
            evaluate = _evaluate_plan if name == "planner" else _evaluate_call
            orders = _orders(len(rows), learner.passes if learner.algorithm == "ppo" else 1, rng)
            yield partial(self._improve, name, network, learner, own, evaluate, progress, orders)

    def _constraint_figures(self) -> dict[str, float]:
        """Of each tier: its price, and the cost that this was moved by."""
        tiers = [f"{tier:g}s" for tier in self.training.budgets.tiers_s]
        prices, costs = self.multipliers.values, self.multipliers.costs
        return {
            f"{name}/{tier}": float(value)
            for name, values in (("multiplier", prices), ("cost", costs))
            for tier, value in zip(tiers, values, strict=True)
        }

    def _update_multipliers(self, batch: Batch) -> NDArray[np.float64]:
        cost = cost_of(self.training.constraint, batch.latency_s, batch.budget_s, batch.on_time, batch.tier)
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

    def _values(self, features: FeatureTensors, luck: Tensor) -> Tensor:
        """Before the update: ``[N, 2]`` of reward and cost; ``[N, 1]`` where the executor's network has the value."""
        parts = torch.tensor_split(torch.arange(len(luck)), 1 + len(luck) // 8192)
        with torch.no_grad():
            if self.critic is not None:
                return torch.cat([self.critic(features.rows(rows), luck[rows]) for rows in parts])
            assert isinstance(self.executor, FlatExecutor)
            return torch.cat([self.executor.with_value(features.rows(rows))[1] for rows in parts])[:, None]

    def _charged(self, batch: Batch, reward: Tensor, figures: dict[str, float]) -> Tensor:
        """What each decision and those after it take from other workflows; see `inframind.agents.congestion`."""
        assert self.congestion is not None
        options = self.training.congestion
        figures["explained_variance/congestion"] = fit(
            self.congestion, self.optimisers["congestion"], batch, reward, options.passes
        )
        own = charges(self.congestion, batch, SCHEDULERS[self.training.scheduler].priority)
        figures["congestion_per_query"] = float(own.sum() / len(batch.tier))
        return torch.from_numpy(options.weight * to_go(own, batch.next_row)).float()

    def _gain(self, name: str, learner: Learner, rows: Tensor, returns: _Returns) -> Tensor:
        """By how much the decisions of a policy did better than was expected: ``[rows]``."""
        if learner.baseline == "critic":
            values, targets, next_row = returns.values, returns.targets, returns.next_row
            gain = advantages(values[:, 0], targets[:, 0], next_row, learner.trace)
            if not self._is_folded:
                of_cost = advantages(values[:, 1], targets[:, 1], next_row, learner.trace)
                gain = lagrangian(gain, of_cost, returns.multiplier)
            gain = gain[rows]
        else:
            folded = returns.folded[rows]
            gain = folded - self._baseline(name, learner, folded)
        return standardised(gain) if learner.standardise else gain

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
        orders: Sequence[Tensor],
    ) -> dict[str, float]:
        entropy_weight = learner.entropy_at(progress)
        optimiser = self.optimisers[name]
        losses, value_losses, entropies, kl = [], [], [], 0.0
        is_ppo = learner.algorithm == "ppo"
        num = len(rows.choice) / learner.minibatch
        # Theory, 8.4: ceil(N / B). PPO's passes are cut as near to the size as equal parts come.
        parts = max(1, round(num)) if is_ppo else math.ceil(num)
        for order in orders:
            kls = []
            for some in order.tensor_split(parts):
                log_prob, entropy, value_loss = evaluate(network, rows, some)
                if is_ppo:
                    loss = ppo_loss(log_prob, rows.log_prob[some], rows.advantage[some], learner.clip)
                else:
                    loss = reinforce_loss(log_prob, rows.advantage[some])
                kls.append(approx_kl(log_prob, rows.log_prob[some]))
                optimiser.zero_grad()
                total = loss - entropy_weight * entropy.mean() + self.training.critic.value_weight * value_loss
                total.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(network.parameters(), learner.max_grad_norm)
                optimiser.step()
                losses.append(float(loss.detach()))
                value_losses.append(float(value_loss.detach()))
                entropies.append(float(entropy.detach().mean()))
            kl = float(np.mean(kls))
            if is_ppo and kl > learner.max_kl:
                break
        figures = {
            f"loss/{name}": float(np.mean(losses)),
            f"entropy/{name}": float(np.mean(entropies)),
            f"kl/{name}": kl,
        }
        return figures if rows.returns is None else figures | {"loss/critic": float(np.mean(value_losses))}

    def _fit_critic(
        self, critic: nn.Module, features: FeatureTensors, luck: Tensor, targets: Tensor, orders: Sequence[Tensor]
    ) -> dict[str, float]:
        parts = max(1, round(len(targets) / self.training.critic.minibatch))
        losses = []
        for order in orders:
            for some in order.tensor_split(parts):
                loss = critic_loss(critic(features.rows(some), luck[some]), targets[some])
                self.optimisers["critic"].zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(critic.parameters(), 1.0)
                self.optimisers["critic"].step()
                losses.append(float(loss.detach()))
        return {"loss/critic": float(np.mean(losses))}


_Evaluate = Callable[[nn.Module, _Rows, Tensor], tuple[Tensor, Tensor, Tensor]]
"""Log-probability of what was chosen, entropy, and the loss of a value on the same network, else 0."""


def _evaluate_plan(network: nn.Module, rows: _Rows, some: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    topology, role_set = network(rows.features.rows(some))
    return (*plan_log_probability(topology, role_set, rows.allowed[some], rows.choice[some]), torch.zeros(()))


def _evaluate_call(network: nn.Module, rows: _Rows, some: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    features, value_loss = rows.features.rows(some), torch.zeros(())
    if rows.returns is None:
        logits = network(features)
    else:
        assert isinstance(network, FlatExecutor)
        logits, values = network.with_value(features)
        value_loss = critic_loss(values, rows.returns[some])
    return (*log_probability(logits, rows.choice[some]), value_loss)


def _orders(num: int, passes: int, rng: np.random.Generator) -> list[Tensor]:
    """In which order each pass goes through the rows."""
    return [torch.from_numpy(rng.permutation(num)) for _ in range(passes)]
