"""What each policy chooses, in states whose answer is known by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from agent_world import LARGE, SERVERS, SMALL, look, setting
from policies import FixedOutcomes

from inframind.agents import POLICIES
from inframind.agents.rules import Router, hw_router, quality_in_time, round_robin, route_balance
from inframind.agents.systems import LoadBlindMixture
from inframind.workflows import CallRecord, Observation, build_workflow


def choose(name: str, *observations: Observation, outcomes: FixedOutcomes | None = None) -> list[tuple[int, str]]:
    """One policy's choices, one after another."""
    executor = POLICIES[name](setting(outcomes)).executor
    return [tuple(executor.choose(observation)) for observation in observations]  # type: ignore[misc]


def test_the_policies_to_beat_are_all_there() -> None:
    assert list(POLICIES) == [
        *("random", "round-robin", "cheapest", "always-large", "jsq", "power-of-two", "shortest-expected-delay"),
        *("best-quality", "quality-in-time", "hw-router", "route-balance", "moa", "masrouter", "clairvoyant"),
    ]


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("is_open", [(True, False), (False, True)])
def test_every_policy_takes_the_only_open_server(name: str, is_open: Sequence[bool]) -> None:
    """However bad it is: it has 50 requests, and the budget is spent ten times over."""
    only = is_open.index(True)
    seen = look(0.001, is_open=is_open, outstanding=[50 * each for each in is_open])

    assert {server for server, _ in choose(name, *[seen] * 5)} == {only}


@pytest.mark.parametrize("name", POLICIES)
def test_every_plan_can_be_built(name: str) -> None:
    planner = POLICIES[name](setting()).planner
    for index in range(20):
        build_workflow("math", *planner.plan(look(query_id=f"q{index}")))


@pytest.mark.parametrize("name", POLICIES)
def test_equal_seeds_give_equal_choices(name: str) -> None:
    seen = [look(query_id=f"q{index}", question=index) for index in range(20)]

    assert choose(name, *seen) == choose(name, *seen)


def test_random_takes_all_pairs_alike() -> None:
    """1,000 draws of 6 pairs: 167 each, give or take 5 standard deviations."""
    counts = Counter(choose("random", *[look()] * 1000))

    assert len(counts) == 6
    assert all(abs(count - 1000 / 6) < 5 * 12 for count in counts.values())


def test_round_robin_takes_turns() -> None:
    assert [server for server, _ in choose("round-robin", *[look()] * 4)] == [0, 1, 0, 1]


def test_round_robin_passes_over_a_closed_server_and_goes_on_from_there() -> None:
    pick = round_robin()

    assert [pick(look(), servers) for servers in ([0, 1, 2], [1, 2], [1, 2], [0, 1, 2])] == [0, 1, 2, 0]


def test_cheapest_and_always_large_look_at_the_size_alone() -> None:
    busy = look(1.0, outstanding=(9, 9))

    assert choose("cheapest", busy) == [(SMALL, "Concise")]
    assert choose("always-large", busy) == [(LARGE, "Concise")]


def test_jsq_takes_the_shorter_queue() -> None:
    assert choose("jsq", look(outstanding=(3, 2)), look(outstanding=(2, 3))) == [(1, "Concise"), (0, "Concise")]


def test_jsq_takes_any_of_equals_by_the_call_alone() -> None:
    """200 ties: 100 for each server, give or take 4 standard deviations; asked in another order, the same."""
    seen = [look(query_id=f"q{index}", outstanding=(2, 2)) for index in range(200)]
    servers = [server for server, _ in choose("jsq", *seen)]

    assert abs(servers.count(0) - 100) < 4 * 7.1
    assert [server for server, _ in choose("jsq", *seen[::-1])] == servers[::-1]


def test_power_of_two_compares_both_where_there_are_two() -> None:
    assert {server for server, _ in choose("power-of-two", *[look(outstanding=(3, 2))] * 10)} == {1}


def test_shortest_expected_delay_knows_speeds() -> None:
    """100 tokens: 1 s on the small server, 10 s on the large. With 2 slots, 20 others on the small one are 9.5 rounds
    of its mean call, 103.33 tokens: 9.82 s before it, 10.82 s in all.
    """
    choices = choose(
        "shortest-expected-delay",
        look(),
        look(outstanding=(18, 0)),
        look(outstanding=(20, 0)),
        look(outstanding=(20, 2)),
    )

    assert [server for server, _ in choices] == [SMALL, SMALL, LARGE, SMALL]


def test_best_quality_does_not_look_at_the_time() -> None:
    assert choose("best-quality", look(0.5, outstanding=(0, 99))) == [(LARGE, "DeepThink")]


def test_quality_in_time_takes_the_best_that_is_in_time_with_hedge() -> None:
    """Seconds: small 0.1, 1, 2; large 1, 10, 20. Half of the budget with a hedge of 2."""
    router = Router(quality_in_time(setting().knowledge, 2.0))

    assert router.choose(look(40.1)) == (LARGE, "DeepThink")
    assert router.choose(look(39.9)) == (LARGE, "Concise")
    assert router.choose(look(19.9)) == (LARGE, "Flash")
    assert router.choose(look(1.9)) == (SMALL, "Flash")
    assert router.choose(look(0.1)) == (SMALL, "Flash")  # too late for all: the quickest


def test_quality_in_time_leaves_time_for_the_calls_to_come() -> None:
    """Of 30 s, the first of two calls may have 15."""
    router = Router(quality_in_time(setting().knowledge, 1.0))
    chain = "Chain", "MathSolver+Inspector"

    assert router.choose(look(30.0, topology=chain[0], role_set=chain[1], slot=0)) == (LARGE, "Concise")
    assert router.choose(look(30.0, topology=chain[0], role_set=chain[1], slot=1)) == (LARGE, "DeepThink")


def test_hw_router_weighs_quality_against_time() -> None:
    """w = 1/2, budget 20 s, Q - C: large 0.7 - 0.05, 0.8 - 0.5, 0.9 - 1; small 0.4 - 0.005, 0.5 - 0.05, 0.6 - 0.1."""
    knowledge = setting().knowledge

    assert Router(hw_router(knowledge, 0.5)).choose(look(20.0)) == (LARGE, "Flash")
    assert Router(hw_router(knowledge, 0.0)).choose(look(20.0)) == (LARGE, "DeepThink")
    assert Router(hw_router(knowledge, 1.0)).choose(look(20.0)) == (SMALL, "Flash")


def test_route_balance_filters_then_ranks() -> None:
    """Budget 12 s: large DeepThink (20 s) is out with P = ndtr(ln 0.6 / 0.5) = 0.15; large Concise (10 s, 0.64) too."""
    knowledge = setting().knowledge

    assert Router(route_balance(knowledge, (1.0, 0.0, 0.0), 0.5, 0.7)).choose(look(12.0)) == (LARGE, "Flash")
    assert Router(route_balance(knowledge, (1.0, 0.0, 0.0), 0.5, 0.6)).choose(look(12.0)) == (LARGE, "Concise")
    assert Router(route_balance(knowledge, (0.0, 1.0, 0.0), 0.5, 0.7)).choose(look(12.0)) == (SMALL, "Flash")


def test_route_balance_relaxes_until_something_is_left() -> None:
    """Budget 0.08 s: only small Flash has more than nothing, P = ndtr(ln 0.8 / 0.5) = 0.33, below 0.7 and 0.35."""
    router = Router(route_balance(setting().knowledge, (1.0, 0.0, 0.0), 0.5, 0.7))

    assert router.choose(look(0.08)) == (SMALL, "Flash")


def test_moa_has_all_propose_and_the_largest_join() -> None:
    policy = POLICIES["moa"](setting())
    plan = policy.planner.plan(look())
    slots = [look(topology=plan[0], role_set=plan[1], slot=slot) for slot in range(3)]

    assert plan == ("IO", "MathSolver+MathSolver")
    assert [policy.executor.choose(seen).server for seen in slots] == [SMALL, LARGE, LARGE]


def test_moa_asks_plainly() -> None:
    """Half of 200 calls are short, half are long, give or take 4 standard deviations."""
    seen = [look(query_id=f"q{index}", topology="IO", role_set="MathSolver+MathSolver") for index in range(200)]
    strategies = Counter(strategy for _, strategy in choose("moa", *seen))

    assert set(strategies) == {"Concise", "DeepThink"}
    assert abs(strategies["Concise"] - 100) < 4 * 7.1


def test_masrouter_is_blind_to_load_and_its_agents_keep_their_llm() -> None:
    policy = POLICIES["masrouter"](setting())
    team = "+".join(["MathSolver"] * 5)
    idle = [look(topology="Debate", role_set=team, slot=slot) for slot in range(11)]
    busy = [look(topology="Debate", role_set=team, slot=slot, outstanding=(99, 0)) for slot in range(11)]
    servers = [policy.executor.choose(seen)[0] for seen in idle]

    assert servers == [policy.executor.choose(seen)[0] for seen in busy]
    assert servers[:5] == servers[5:10]
    assert servers[10] == Counter(servers[:5]).most_common(1)[0][0]  # five agents, two servers: no ties


def test_masrouter_draws_llms_by_their_weights() -> None:
    mixture = LoadBlindMixture(SERVERS, {"small": 3.0, "large": 1.0}, "Flash", 0)
    drawn = [mixture.choose(look(query_id=f"q{index}"))[0] for index in range(1000)]

    assert np.mean(drawn) == pytest.approx(0.25, abs=5 * 0.0137)


@dataclass
class Riddle(FixedOutcomes):
    """Every call writes 100 tokens; right are those that are listed."""

    tokens: int = 100
    right: Sequence[tuple[int, str]] = ()

    def answer_correct(
        self, domain: str, question: int, topology: str, role_set: str, calls: Sequence[CallRecord], seed: int
    ) -> bool:
        return any((call.server, call.strategy) in self.right for call in calls)


def test_clairvoyant_takes_what_is_right_and_in_time_and_costs_least() -> None:
    """100 tokens: 1 s on the small server, 10 s on the large."""
    both = Riddle(right=[(LARGE, "Flash"), (SMALL, "DeepThink")])
    large = Riddle(right=[(LARGE, "Flash")])

    assert choose("clairvoyant", look(), outcomes=both) == [(SMALL, "DeepThink")]
    assert choose("clairvoyant", look(10.1), outcomes=large) == [(LARGE, "Flash")]
    assert choose("clairvoyant", look(9.9), outcomes=large) == [(SMALL, "Flash")]  # lost: the least work


def test_clairvoyant_knows_when_slots_are_free() -> None:
    """Two slots, 10 s a call: the third waits 10 s, and takes 20."""
    only = Riddle(right=[(LARGE, "Flash")])
    seen = [look(19.9), look(19.9), look(19.9), look(20.1)]

    assert [server for server, _ in choose("clairvoyant", *seen, outcomes=only)] == [LARGE, LARGE, SMALL, LARGE]
