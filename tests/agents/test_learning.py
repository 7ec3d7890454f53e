"""Updates of the agents: problems whose answer is known, and what goes wrong elsewhere."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from agent_world import features_of

from inframind.agents.features import PLANNER_ROLE, ROLE_SETS, TOPOLOGY_NAMES
from inframind.agents.learning import Agents
from inframind.agents.losses import log_probability, plan_log_probability
from inframind.agents.networks import FlatExecutor
from inframind.agents.rollouts import Batch
from inframind.agents.tensors import FeatureTensors
from inframind.agents.training_file import PRESETS, Training

SIZE, SERVERS, STRATEGIES = 8, 3, 3
TIER_S = (10.0, 100.0)


def training(**sections: Any) -> Training:
    return Training.model_validate({"budgets": {"tiers_s": list(TIER_S)}, "congestion": {"weight": 0}} | sections)


def calls(
    choice: np.ndarray, log_prob: np.ndarray, *, correct: np.ndarray, on_time: np.ndarray, tier: Any = 0
) -> Batch:
    """Workflows of one call each, all alike but for what was chosen and what came of it."""
    num = len(choice)
    features = features_of(1, SERVERS, SIZE).take(np.zeros(num, np.int64))
    tier = np.broadcast_to(tier, num).copy()
    budget_s = np.array(TIER_S)[tier]
    return Batch(
        features=features,
        choice=choice,
        log_prob=log_prob,
        is_plan=np.zeros(num, np.bool_),
        allowed=np.empty((0, len(TOPOLOGY_NAMES), len(ROLE_SETS)), np.bool_),
        workflow=np.arange(num),
        next_row=np.full(num, -1),
        call_s=np.full(num, 1.0),
        wait_s=np.zeros(num),
        time_s=np.arange(num, dtype=float),
        simulation=np.zeros(num, np.int64),
        luck=np.zeros((num, SERVERS, STRATEGIES, 2), np.float32),
        tier=tier,
        budget_s=budget_s,
        latency_s=np.where(on_time, 0.5, 1.5) * budget_s,
        correct=correct,
        on_time=on_time,
        rate_per_min=np.full(num, 60.0),
    )


def probabilities(agents: Agents) -> np.ndarray:
    with torch.no_grad():
        logits = agents.executor(FeatureTensors.of(features_of(1, SERVERS, SIZE)))
    return np.asarray(torch.softmax(logits, -1).numpy()[0])


def play(
    agents: Agents, right: np.ndarray, late: np.ndarray, *, rounds: int, tier: int = 0, num: int = 300
) -> np.ndarray:
    """A bandit: arm a is right with probability ``right[a]`` and late with ``late[a]``; the odds of each round."""
    rng = np.random.default_rng(0)
    history = []
    for round_ in range(rounds):
        odds = probabilities(agents)
        history.append(odds)
        choice = rng.choice(len(odds), size=num, p=odds / odds.sum())
        batch = calls(
            choice,
            np.log(odds[choice]).astype(np.float32),
            correct=rng.random(num) < right[choice],
            on_time=rng.random(num) >= late[choice],
            tier=tier,
        )
        agents.update(batch, round_ / rounds, rng)
    return np.array(history)


ARMS = SERVERS * STRATEGIES
FIXED = {"planner": {"fixed": "single"}}


@pytest.mark.parametrize("preset", PRESETS)
def test_the_executor_solves_a_bandit(preset: str) -> None:
    """One arm of nine is right in 90 of 100, the others in 40; none is late."""
    right = np.full(ARMS, 0.4)
    right[5] = 0.9
    # Faster than in life, and with an end to exploring, which the reference has not.
    learner = {"learning_rate": 0.01, "last_entropy": 0.0}
    # What is known beforehand of these arms is drawn: it means nothing.
    executor = {"learner": learner, "network": {"prior": 0.0}}
    agents = Agents(training(preset=preset, executor=executor, **FIXED), SIZE, SERVERS)

    play(agents, right, np.zeros(ARMS), rounds=30)

    assert probabilities(agents).argmax() == 5
    assert probabilities(agents)[5] > 0.8


def test_a_price_turns_the_executor_away_from_what_is_late() -> None:
    """Arm 0 is right more often, and too late in 60 of 100; arm 1 is right in 70 and in time. 20 may be late.

    With quality as reward the constraint alone speaks for arm 1. The best mixture has arm 0 in a third of all (a linear
    program's, by hand); a policy that goes on exploring circles around it, so its mean over the rounds is what counts.
    """
    right, late = np.full(ARMS, 0.1), np.zeros(ARMS)
    right[:2], late[0] = (0.95, 0.7), 0.6
    free = {"limit": 1.0, "initial": 0.0}
    bound = {"limit": 0.2, "initial": 0.0, "rate": 0.05}
    # So slow that it never settles on one arm for good.
    learner = {"learning_rate": 0.004, "entropy": 0.1, "last_entropy": 0.1}
    shares = {}
    for name, constraint in (("free", free), ("bound", bound)):
        executor = {"learner": learner, "network": {"prior": 0.0}}
        options = training(reward={"kind": "quality"}, constraint=constraint, executor=executor, **FIXED)
        agents = Agents(options, SIZE, SERVERS)
        shares[name] = play(agents, right, late, rounds=120)[40:, 0].mean()

    assert shares["free"] > 0.9
    assert shares["bound"] == pytest.approx(1 / 3, abs=0.1)


def test_a_tier_has_a_price_of_its_own() -> None:
    """Tier 0 is late in half, tier 1 never: with one price for both the late half is hidden."""
    rng = np.random.default_rng(1)
    num = 400
    tier = np.arange(num) % 2
    on_time = (tier == 1) | (rng.random(num) < 0.5)
    batch = calls(np.zeros(num, np.int64), np.zeros(num, np.float32), correct=on_time, on_time=on_time, tier=tier)
    prices = {}
    for per_tier in (True, False):
        options = {"per_tier": per_tier, "limit": 0.3, "initial": 0.1}
        agents = Agents(training(constraint=options, **FIXED), SIZE, SERVERS)
        agents.update(batch, 0.0, rng)
        prices[per_tier] = agents.multipliers.values

    assert prices[True][0] > 0.1 > prices[True][1]
    assert prices[False][0] == prices[False][1] < 0.1


def plans_and_calls(num: int, *, correct: bool = False, on_time: bool = False) -> Batch:
    """A batch of the theory's: of each two workflows one is seen by its plan, one by its call."""
    batch = calls(
        np.zeros(num, np.int64),
        np.full(num, -2.0, np.float32),
        correct=np.full(num, correct),
        on_time=np.full(num, on_time),
    )
    batch.is_plan[::2] = True
    batch.features.role[::2] = PLANNER_ROLE
    allowed = np.ones((len(batch.is_plan[::2]), len(TOPOLOGY_NAMES), len(ROLE_SETS)), np.bool_)
    return replace(batch, allowed=allowed)


def test_the_theory_learns_at_the_price_under_which_it_has_played() -> None:
    """8.5: R - lambda C / beta at the old lambda, softplus(0); then lambda moves, by 2 x (1.5 - 1).

    The baseline's first value tells which price it was: rho times the mean of -lambda C / beta.
    """
    agents = Agents(training(preset="theory", constraint={"rate": 2.0}), SIZE, SERVERS)

    figures = agents.update(plans_and_calls(40), 0.0, np.random.default_rng(0))

    assert agents.averages["planner"] == pytest.approx(0.05 * -np.log(2) * 1.5)
    assert figures["multiplier/10s"] == pytest.approx(np.log1p(np.exp(2.0 * 0.5)))
    assert figures["cost/10s"] == pytest.approx(1.5)


def test_the_moving_average_of_the_theory() -> None:
    """8.2, from 0 with rho = 0.05: returns of 1, then of 3. What is subtracted is the average before."""
    options = training(preset="theory")
    agents = Agents(options, SIZE, SERVERS)
    subtracted = [agents._baseline("planner", options.planner.learner, torch.full((4,), each)) for each in (1.0, 3.0)]

    assert subtracted == pytest.approx([0.0, 0.05])
    assert agents.averages["planner"] == pytest.approx(0.95 * 0.05 + 0.05 * 3.0)


def steps_of(agents: Agents, name: str) -> int:
    """Gradient steps so far, as Adam counts them."""
    (num,) = {int(state["step"]) for state in agents.optimisers[name].state.values()}
    return num


def test_minibatches_of_the_theory() -> None:
    """8.4: ceil(95 / 64) steps for each policy."""
    agents = Agents(training(preset="theory"), SIZE, SERVERS)

    agents.update(plans_and_calls(190), 0.0, np.random.default_rng(0))

    assert (steps_of(agents, "planner"), steps_of(agents, "executor")) == (2, 2)


def test_the_reference_always_makes_three_passes() -> None:
    """However far the policy has moved: the log-probabilities of the batch, -6, are far from the network's, -2.2."""
    agents = Agents(training(preset="reference"), SIZE, SERVERS)
    batch = replace(plans_and_calls(128), log_prob=np.full(128, -6.0, np.float32))

    agents.update(batch, 0.0, np.random.default_rng(0))

    assert steps_of(agents, "executor") == 3


def test_the_value_of_the_theory_is_learnt_with_the_executor() -> None:
    """8.3: no critic of its own, c_V = 0.5. All calls are right, at a price of 0.7 x 1 s / 4 s: V goes there."""
    options = training(preset="theory", constraint={"rate": 0.0}, executor={"learner": {"learning_rate": 0.01}})
    agents = Agents(options, SIZE, SERVERS)
    batch = plans_and_calls(200, correct=True, on_time=True)
    batch.features.remaining_s[:] = 4.0
    for _ in range(40):
        agents.update(batch, 0.0, np.random.default_rng(0))

    assert isinstance(agents.executor, FlatExecutor)
    assert "critic" not in agents.networks
    with torch.no_grad():
        values = agents.executor.with_value(FeatureTensors.of(batch.features))[1].numpy()[1::2]
    assert values == pytest.approx(1 - np.log(2) / 4, abs=0.05)


def test_learning_rates_fall_to_the_share_that_is_asked_for() -> None:
    """By default to a tenth; those of the theory do not."""
    for preset, left in (("default", 0.1), ("theory", 1.0)):
        options = training(preset=preset)
        agents = Agents(options, SIZE, SERVERS)
        agents.update(plans_and_calls(20), 1.0, np.random.default_rng(0))
        (group,) = agents.optimisers["executor"].param_groups
        assert group["lr"] == pytest.approx(left * options.executor.learner.learning_rate)


def test_entropy_is_annealed() -> None:
    """8.1: in the middle of a training halfway; at the end, with none left and nothing to gain, nothing moves."""
    learner = training(preset="theory").planner.learner
    assert [learner.entropy_at(progress) for progress in (0.0, 0.5, 1.0)] == pytest.approx([0.05, 0.0275, 0.005])

    moved = {}
    for progress in (0.0, 1.0):
        none_left = {"entropy": 0.05, "last_entropy": 0.0, "baseline": "batch", "standardise": False}
        executor = {"learner": none_left, "network": {"prior": 0.0}}
        agents = Agents(training(executor=executor, reward={"combine": "rewards"}, **FIXED), SIZE, SERVERS)
        before = probabilities(agents)
        batch = calls(
            np.arange(90) % ARMS,
            np.log(before).astype(np.float32)[np.arange(90) % ARMS],
            correct=np.ones(90, np.bool_),
            on_time=np.ones(90, np.bool_),
        )
        agents.update(batch, progress, np.random.default_rng(0))
        moved[progress] = float(np.abs(probabilities(agents) - before).max())
    assert moved[0.0] > 1e-4
    assert moved[1.0] < 1e-6


def test_what_the_critics_learn_does_not_hang_on_the_price(monkeypatch: pytest.MonkeyPatch) -> None:
    """With "advantages" values stay true when the price moves; with "rewards" the price is in them."""
    seen: list[list[float]] = []

    def fit(
        self: Agents, critic: torch.nn.Module, features: Any, luck: Any, targets: torch.Tensor, orders: Any
    ) -> dict[str, float]:
        seen.append(targets[0].tolist())
        return {}

    monkeypatch.setattr(Agents, "_fit_critic", fit)
    everybody, nobody = np.ones(20, np.bool_), np.zeros(20, np.bool_)
    batch = calls(np.zeros(20, np.int64), np.full(20, -2.0, np.float32), correct=everybody, on_time=nobody)
    for combine, price in (("advantages", 0.0), ("advantages", 1.5), ("rewards", 0.0), ("rewards", 1.5)):
        reward = {"kind": "quality", "combine": combine}
        options = training(reward=reward, constraint={"initial": price, "rate": 0.0}, **FIXED)
        Agents(options, SIZE, SERVERS).update(batch, 0.0, np.random.default_rng(0))

    assert seen == [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [-0.5, 1.0]]


def test_multipliers_move_before_the_policies() -> None:
    """The batch that is late is learnt from at the price that it has led to."""
    agents = Agents(training(constraint={"initial": 0.0, "rate": 1.0, "limit": 0.0}, **FIXED), SIZE, SERVERS)
    num = 50
    nobody = np.zeros(num, np.bool_)
    batch = calls(np.zeros(num, np.int64), np.zeros(num, np.float32), correct=nobody, on_time=nobody)

    assert agents.update(batch, 0.0, np.random.default_rng(0))["multiplier/10s"] == 1.0


def test_the_joint_probability_is_that_of_both_heads() -> None:
    """With masks: a role set's probability is among those that its topology leaves."""
    generator = torch.Generator().manual_seed(0)
    topology = torch.randn(1, len(TOPOLOGY_NAMES), generator=generator)
    role_set = torch.randn(1, len(ROLE_SETS), generator=generator)
    allowed = torch.zeros(1, len(TOPOLOGY_NAMES), len(ROLE_SETS), dtype=torch.bool)
    allowed[0, 0, :2] = True
    allowed[0, 1, 2:5] = True

    total = sum(
        plan_log_probability(topology, role_set, allowed, torch.tensor([first * len(ROLE_SETS) + second]))[0].exp()
        for first in range(2)
        for second in range(5)
    )

    assert float(total) == pytest.approx(1.0)
    alone = (
        log_probability(topology[:, :2], torch.tensor([1]))[0] + log_probability(role_set[:, 2:5], torch.tensor([2]))[0]
    )
    joint, _ = plan_log_probability(topology, role_set, allowed, torch.tensor([len(ROLE_SETS) + 4]))
    assert float(joint) == pytest.approx(float(alone))


def test_rewards_of_the_theory() -> None:
    """7.3: R - lambda L_k / b_rem for a call, R - lambda C / beta for a plan; lambda = softplus(0) + its step."""
    options = training(preset="theory", constraint={"rate": 0.0})
    agents = Agents(options, SIZE, SERVERS)
    batch = calls(
        np.zeros(2, np.int64), np.zeros(2, np.float32), correct=np.array([True, False]), on_time=np.array([True, False])
    )
    batch.is_plan[1] = True
    batch.features.role[1] = PLANNER_ROLE
    batch.features.remaining_s[:] = 4.0

    reward, cost = agents._reward_and_cost(batch)

    assert agents.multipliers.values == pytest.approx(np.log(2))
    assert reward.tolist() == [1.0, 0.0]
    assert cost.tolist() == pytest.approx([1.0 / 4.0, 1.5])
