"""Experience: what was decided, under which masks, what came of it, and what policies were told."""

from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from policies import FixedOutcomes, FixedPlan, JoinShortestQueue

from inframind.agents.acting import Actor
from inframind.agents.features import DOMAIN_NAMES, PLANNER_ROLE, ROLE_SETS, SCALARS, TOPOLOGY_NAMES
from inframind.agents.losses import log_probability, plan_log_probability
from inframind.agents.networks import executor_network, planner_network
from inframind.agents.rollouts import Batch, Conditions, TrainingWorld, draw_conditions
from inframind.agents.tensors import FeatureTensors
from inframind.agents.training_file import Training
from inframind.sim import PoolSection, SchedulerOptions, ServerOptions, StepTime, load_pool, simulate_workflows
from inframind.sim.outcomes import OutcomeModel
from inframind.workflows import DOMAINS, Arrived, ControllerOptions, Query, build_workflow

NUM = 25
SHORT = 120
TIERS_S = (0.1, 30.0, 100.0)
"""Nothing is in time for the first."""


@lru_cache(1)
def outcomes() -> OutcomeModel:
    return OutcomeModel.shipped()


def played(preset: str, pool: PoolSection | None = None, num_simulations: int = 1, **options: Any) -> tuple[Any, ...]:
    """A batch of simulations at 300 queries/min under networks that have learnt nothing, and these."""
    torch.manual_seed(0)
    latency = options.pop("latency", None)
    own = {"answer_when_due": False, "budgets": {"tiers_s": list(TIERS_S)}, "load": {"queries": NUM}}
    options = {"preset": preset} | own | options
    training = Training.model_validate(options)
    world = TrainingWorld(training, pool or load_pool("l40s", Path()), outcomes(), latency)
    size = outcomes().bank.embedding.shape[1]
    executor = executor_network(training.executor.network, size, len(world.servers))
    planner = planner_network(training.planner.network, size)
    actor = Actor(world.builder, planner, executor, mask_infeasible=training.masks_plans)
    conditions = [Conditions(300.0, 1.0, 1.0, (1.0, 1.0, 1.0), seed) for seed in range(num_simulations)]
    return world.collect(actor, conditions, seed=7), planner, executor


@lru_cache(2)
def batch_of(preset: str) -> tuple[Any, ...]:
    return played(preset, num_simulations=2)


presets = pytest.mark.parametrize("preset", ["default", "theory"])


@presets
def test_what_was_acted_with_is_what_is_learnt_from(preset: str) -> None:
    """Log-probabilities by numpy, one decision at a time, and by PyTorch, all at once: masks were kept."""
    batch, planner, executor = batch_of(preset)
    features, choice = FeatureTensors.of(batch.features), torch.from_numpy(batch.choice)
    plans, calls = np.flatnonzero(batch.is_plan), np.flatnonzero(~batch.is_plan)
    allowed = torch.from_numpy(batch.allowed)
    with torch.no_grad():
        of_plans, _ = plan_log_probability(*planner(features.rows(torch.from_numpy(plans))), allowed, choice[plans])
        of_calls, _ = log_probability(executor(features.rows(torch.from_numpy(calls))), choice[calls])

    assert of_plans.numpy() == pytest.approx(batch.log_prob[plans], abs=2e-4)
    assert of_calls.numpy() == pytest.approx(batch.log_prob[calls], abs=2e-4)
    assert allowed.flatten(1).gather(1, choice[plans][:, None]).all()


@presets
def test_masks_are_those_of_the_domain_and_of_the_budget_unless_the_preset_says_otherwise(preset: str) -> None:
    """Of each topology the menu of the query's domain; of ``default`` not all of it within 0.1 s."""
    batch, *_ = batch_of(preset)
    whole = np.zeros((len(batch.allowed), len(TOPOLOGY_NAMES), len(ROLE_SETS)), np.bool_)
    for row, domain in enumerate(domains(batch)):
        whole[row, :, [ROLE_SETS.index(role_set) for role_set in DOMAINS[domain].role_sets]] = True
    tight = batch.budget_s == TIERS_S[0]
    plans = batch.workflow[batch.is_plan]

    assert not (batch.allowed & ~whole).any()
    if preset == "theory":
        assert (batch.allowed == whole).all()
    else:
        assert (batch.allowed.sum((1, 2)) < whole.sum((1, 2)))[tight[plans]].all()


def domains(batch: Batch, rows: NDArray[np.int64] | None = None) -> list[str]:
    """Of some decisions; by default of all plans."""
    at = len(SCALARS)
    one_hot = batch.features.context[batch.is_plan if rows is None else rows, at : at + len(DOMAIN_NAMES)]
    return [DOMAIN_NAMES[index] for index in one_hot.argmax(1)]


@presets
def test_a_batch_is_complete_and_by_arrival(preset: str) -> None:
    """Each query once, in the order in which they came, with a call for each node of its plan."""
    batch, *_ = batch_of(preset)
    plans = np.flatnonzero(batch.is_plan)
    by_workflow = plans[np.argsort(batch.workflow[plans])]
    num_calls = Counter(batch.workflow[~batch.is_plan].tolist())

    assert batch.workflow[by_workflow].tolist() == list(range(2 * NUM))
    assert batch.simulation[by_workflow].tolist() == [0] * NUM + [1] * NUM
    for simulation in (by_workflow[:NUM], by_workflow[NUM:]):
        assert (np.diff(batch.time_s[simulation]) > 0).all()
    assert batch.budget_s.tolist() == pytest.approx([TIERS_S[tier] for tier in batch.tier])
    for row, domain in zip(plans, domains(batch), strict=True):
        topology, role_set = divmod(int(batch.choice[row]), len(ROLE_SETS))
        plan = build_workflow(domain, TOPOLOGY_NAMES[topology], ROLE_SETS[role_set])
        assert num_calls[int(batch.workflow[row])] == len(plan.nodes)


@presets
def test_a_workflows_decisions_are_a_chain_among_those_of_others(preset: str) -> None:
    batch, *_ = batch_of(preset)
    firsts = np.flatnonzero(batch.is_plan)
    seen = []
    for first in firsts:
        chain = [int(first)]
        while (following := int(batch.next_row[chain[-1]])) >= 0:
            chain.append(following)
        assert set(batch.workflow[chain]) == {batch.workflow[first]}
        assert (np.diff(batch.time_s[chain]) >= 0).all()
        assert (batch.features.role[chain[1:]] != PLANNER_ROLE).all()
        seen += chain

    assert sorted(seen) == list(range(len(batch.choice)))
    is_next = batch.next_row[:-1] == np.arange(1, len(batch.choice))
    assert not is_next[batch.next_row[:-1] >= 0].all()


@presets
def test_calls_last_until_the_workflow_ends(preset: str) -> None:
    """From the last decision to the end of its call, as from the arrival to the end of the workflow."""
    batch, *_ = batch_of(preset)
    plans, last = np.flatnonzero(batch.is_plan), np.flatnonzero(batch.next_row < 0)
    ends = np.zeros(2 * NUM)
    ends[batch.workflow[plans]] = batch.time_s[plans]
    ends += batch.latency_s

    assert np.isnan(batch.call_s[plans]).all()
    assert batch.time_s[last] + batch.call_s[last] == pytest.approx(ends[batch.workflow[last]])


def test_workflows_that_answer_when_due_have_cancelled_calls_and_may_have_any_plan() -> None:
    """Whose calls have no end, and which is in time unless nobody had written by then."""
    batch, *_ = played("default", num_simulations=6, answer_when_due=True, budgets={"tiers_s": [0.1, 15.0, 20.0]})
    cut = np.unique(batch.workflow[~batch.is_plan & np.isnan(batch.call_s)])

    assert len(cut) > 3
    assert batch.latency_s[cut] == pytest.approx(batch.budget_s[cut] - 0.05, abs=1e-3)
    assert batch.on_time[cut].all()
    assert 0 < batch.correct[cut].mean() < 1
    assert (batch.allowed.sum((1, 2)) == len(TOPOLOGY_NAMES) * 5).all()


def test_calls_wait_for_a_slot() -> None:
    """With one slot a server begins with a call when the one before it ends, or a step before (asynchronous)."""
    pool = load_pool("l40s", Path())
    one = {"scheduler": pool.servers[0].scheduler.model_copy(update={"max_num_seqs": 1})}
    batch, *_ = played(
        "default", pool.model_copy(update={"servers": tuple(each.model_copy(update=one) for each in pool.servers)})
    )
    server = batch.choice // batch.luck.shape[2]
    busiest = np.bincount(server[~batch.is_plan]).argmax()
    own = np.flatnonzero(~batch.is_plan & (server == busiest))
    begin, end = batch.time_s[own] + batch.wait_s[own], batch.time_s[own] + batch.call_s[own]
    order = np.argsort(begin)

    assert batch.wait_s[own].max() > 10
    assert (begin < end).all()
    assert begin[order][1:] == pytest.approx(np.maximum(end[order][:-1], batch.time_s[own][order][1:]), abs=0.2)


def test_late_workflows_count() -> None:
    batch, *_ = batch_of("default")

    assert (batch.on_time == (batch.latency_s <= batch.budget_s)).all()
    assert 0 < (~batch.on_time).sum() < 2 * NUM


def test_failed_workflows_count() -> None:
    """No server takes prompts of more than a few tokens: calls fail, and have no time of their own."""
    pool = load_pool("l40s", Path())
    scheduler = pool.servers[0].scheduler.model_copy(update={"max_model_len": SHORT})
    short = pool.model_copy(
        update={"servers": tuple(each.model_copy(update={"scheduler": scheduler}) for each in pool.servers)}
    )
    batch, *_ = played("default", short)
    failed = np.isnan(batch.call_s) & ~batch.is_plan

    assert len(batch.tier) == NUM
    assert failed.any()
    assert not batch.on_time[batch.workflow[failed]].any()
    assert not batch.correct[batch.workflow[failed]].any()
    assert np.isfinite(batch.latency_s).all()


def test_a_call_that_was_refused_has_no_time_and_its_second_try_has() -> None:
    """Servers that have one call at most refuse the others: a right answer in the end has one time for each node."""
    pool = load_pool("l40s", Path())
    full = tuple(each.model_copy(update={"max_num_queued_reqs": 1}) for each in pool.servers)
    batch, *_ = played("default", pool.model_copy(update={"servers": full}))
    is_call, has_time = ~batch.is_plan, np.isfinite(batch.call_s)
    plans = np.flatnonzero(batch.is_plan & batch.correct[batch.workflow])
    num_failed = 0
    for row, domain in zip(plans, domains(batch, plans), strict=True):
        topology, role_set = divmod(int(batch.choice[row]), len(ROLE_SETS))
        own = is_call & (batch.workflow == batch.workflow[row])
        num_failed += int((own & ~has_time).sum())
        plan = build_workflow(domain, TOPOLOGY_NAMES[topology], ROLE_SETS[role_set])
        assert (own & has_time).sum() == len(plan.nodes)

    assert num_failed > 0
    assert (np.isfinite(batch.wait_s) == has_time).all()


def test_predictors_make_the_latency_map() -> None:
    """All that the networks see of latencies is what predictors say."""

    class Known:
        def latency_map(self, *_: object) -> NDArray[np.float64]:
            return np.arange(1.0, 16.0).reshape(5, 3)

    batch, *_ = played("theory", latency=Known())

    assert (batch.features.latency_s == np.arange(1.0, 16.0).reshape(5, 3)).all()


def test_conditions_are_drawn_within_their_ranges() -> None:
    """Log-uniform: half of the draws are below the geometric mean; 1000 of them are within 0.06 of it."""
    load = {"rates_per_min": [10.0, 250.0], "burstiness_cv": [1.0, 2.0], "pool_speed": [0.8, 1.25]}
    training = Training.model_validate({"load": load})
    rng = np.random.default_rng(0)
    drawn = [draw_conditions(training, rng) for _ in range(1000)]

    for column, (low, high) in enumerate(load.values()):
        values = np.array([each[column] for each in drawn])
        assert low * 0.999 < values.min()
        assert values.max() < high * 1.001
        assert (values < np.sqrt(low * high)).mean() == pytest.approx(0.5, abs=0.06)
    assert {len(each.budget_weights) for each in drawn} == {len(training.budgets.tiers_s)}
    assert [sum(each.budget_weights) for each in drawn] == pytest.approx([1.0] * 1000)
    assert len({each.seed for each in drawn}) == 1000


def test_conditions_without_randomness_are_those_of_the_file() -> None:
    load = {"rates_per_min": [60.0, 60.0], "burstiness_cv": [1.0, 1.0], "pool_speed": [1.0, 1.0]}
    budgets = {"tiers_s": [10.0, 100.0], "weights": [1.0, 3.0]}
    training = Training.model_validate({"load": load | {"random_budget_mix": False}, "budgets": budgets})

    drawn = draw_conditions(training, np.random.default_rng(0))

    assert drawn[:3] == pytest.approx((60.0, 1.0, 1.0))
    assert drawn.budget_weights == (1.0, 3.0)


@pytest.mark.parametrize(("dead_reckoning", "largest"), [(True, 4), (False, 12)])
def test_dead_reckoning_keeps_a_burst_from_herding(dead_reckoning: bool, largest: int) -> None:
    """Twelve queries between two polls, three idle servers: told of its own calls, a chooser of the shortest queue
    sends four to each; else all to the first, which the last poll found idle."""
    scheduler = SchedulerOptions(max_num_seqs=16, num_blocks=1000, max_model_len=2000, async_scheduling=False)
    step = StepTime(fixed_s=1.0, prefill_token_s=0.0, decode_s=0.0)
    servers = [ServerOptions(name, "m", scheduler, step) for name in "abc"]
    burst = [Arrived(0.1 + 0.1 * number, Query(f"q{number}", "math", 4, 20, 50.0)) for number in range(12)]

    run = simulate_workflows(
        servers,
        burst,
        FixedPlan(),
        JoinShortestQueue("Flash"),
        FixedOutcomes(10),
        options=ControllerOptions(dead_reckoning=dead_reckoning),
        poll_s=5.0,
    )

    assert run.calls["server"].value_counts().max() == largest
