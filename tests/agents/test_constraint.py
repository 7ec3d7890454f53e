"""The multipliers: their steps by hand, and constrained problems whose answer a linear program knows."""

import json
from itertools import pairwise, product

import numpy as np
import pytest
from cmdp import CMDP, OnlyUp, busy_server, learn, solve, three_llms, tight_and_slack

from inframind.agents.constraint import ConstraintOptions, Multipliers, cost_of

LATE, IN_TIME = np.ones(20), np.zeros(20)
NOBODY = np.array([])


def one(**options: object) -> Multipliers:
    """Of one tier; half may be late, a step is 0.1."""
    return Multipliers(ConstraintOptions.model_validate({"limit": 0.5, "rate": 0.1, "initial": 0.0} | options), 1)


# The step.


def test_the_price_rises_by_the_gap_and_falls_by_it() -> None:
    """Signed: the gap is 0.5 or -0.5, the rate 0.1."""
    multipliers = one(initial=0.2)

    assert multipliers.update([LATE]) == pytest.approx([0.25])
    assert multipliers.update([IN_TIME]) == pytest.approx([0.2])
    assert multipliers.update([np.array([1.0, 0.0])]) == pytest.approx([0.2])


def test_the_price_is_never_below_zero() -> None:
    multipliers = one(initial=0.06)

    assert [multipliers.update([IN_TIME])[0] for _ in range(3)] == pytest.approx([0.01, 0.0, 0.0])


def test_a_price_is_at_most_the_maximum_and_comes_down_at_once() -> None:
    """The sum is cut, not only what is shown of it."""
    multipliers = one(initial=1.99)

    assert [multipliers.update([LATE])[0] for _ in range(100)][-1] == 2.0
    assert multipliers.update([IN_TIME]) == pytest.approx([1.95])


@pytest.mark.parametrize("slack", [100, 3_000])
def test_projected_a_long_slack_leaves_nothing_to_unwind(slack: int) -> None:
    multipliers = one()
    for _ in range(slack):
        multipliers.update([IN_TIME])

    assert multipliers.update([LATE]) == pytest.approx([0.05])


@pytest.mark.parametrize("slack", [200, 3_000])
def test_softplus_a_long_slack_is_unwound_from_the_floor(slack: int) -> None:
    """From -6, in steps of 0.05, up to log(e^0.5 - 1) = -0.4328, where softplus is 0.5: 111.3 steps."""
    multipliers = one(form="softplus")
    for _ in range(slack):
        multipliers.update([IN_TIME])
    assert multipliers.values == pytest.approx(np.log1p(np.exp(-6.0)))

    prices = [multipliers.update([LATE])[0] for _ in range(112)]
    assert prices[110] < 0.5 < prices[111]


@pytest.mark.parametrize("overload", [200, 3_000])
def test_softplus_a_long_overload_is_unwound_from_the_maximum(overload: int) -> None:
    """softplus is 2 at log(e^2 - 1) = 1.8546; a step down of 0.05 is 1.9571."""
    multipliers = one(form="softplus")
    for _ in range(overload):
        multipliers.update([LATE])
    assert multipliers.values == pytest.approx([2.0])

    assert multipliers.update([IN_TIME]) == pytest.approx(np.log1p(np.exp(np.log(np.expm1(2.0)) - 0.05)))


def test_softplus_begins_at_its_argument() -> None:
    assert one(form="softplus").values == pytest.approx([np.log(2.0)])


def test_heavy_tails_count_up_to_the_largest_gap() -> None:
    """C / beta of 100 is a gap of 1, not of 99."""
    multipliers = one(cost="mean-ratio", limit=1.0, max_gap=1.0)

    assert multipliers.update([np.array([100.0])]) == pytest.approx([0.1])


def test_costs_are_averaged_over_batches() -> None:
    """0, then 0.5 x 0 + 0.5 x 1, then 0.5 x 0.5 + 0.5 x 1."""
    multipliers = one(smoothing=0.5)
    seen = []
    for costs in (IN_TIME, LATE, LATE):
        multipliers.update([costs])
        seen.append(multipliers.costs[0])

    assert seen == pytest.approx([0.0, 0.5, 0.75])


def test_pid_adds_the_present_gap_and_a_rise() -> None:
    """The sum of steps is 0.1 x gap; beside it 2 x gap, and 3 x what the cost has risen since the last batch."""
    multipliers = one(proportional=2.0, derivative=3.0, limit=0.25, maximum=10.0)

    first = multipliers.update([np.array([0.5])])
    assert first == pytest.approx([0.1 * 0.25 + 2 * 0.25])
    rising = multipliers.update([np.array([0.75])])
    assert rising == pytest.approx([0.1 * (0.25 + 0.5) + 2 * 0.5 + 3 * 0.25])
    falling = multipliers.update([np.array([0.5])])
    assert falling == pytest.approx([0.1 * (0.25 + 0.5 + 0.25) + 2 * 0.25])


def test_what_pid_adds_does_not_wind_up_the_sum() -> None:
    """Far below the limit the proportional part is negative; the price is 0, and back with the first late batch."""
    multipliers = one(proportional=1.0)
    for _ in range(1000):
        assert multipliers.update([IN_TIME]) == 0.0

    assert multipliers.update([LATE]) == pytest.approx([0.05 + 0.5])


# Tiers.


def test_each_tier_has_a_price_of_its_own() -> None:
    multipliers = Multipliers(ConstraintOptions(limit=0.5, rate=0.1, initial=0.2), 3)

    assert multipliers.update([LATE, IN_TIME, np.array([1.0, 0.0])]) == pytest.approx([0.25, 0.15, 0.2])


@pytest.mark.parametrize("pid", [{}, {"proportional": 1.0, "derivative": 1.0}])
def test_a_tier_without_workflows_keeps_its_price(pid: dict[str, float]) -> None:
    multipliers = Multipliers(ConstraintOptions(limit=0.5, rate=0.1, initial=0.2, **pid), 2)
    before = multipliers.update([LATE, IN_TIME])
    after = multipliers.update([NOBODY, IN_TIME])

    assert after[0] == before[0]
    assert multipliers.costs.tolist() == [1.0, 0.0]


def test_pooled_every_workflow_counts_alike() -> None:
    """One of four is late: a gap of -0.25 for both tiers."""
    multipliers = Multipliers(ConstraintOptions(limit=0.5, rate=0.1, initial=0.2, per_tier=False), 2)

    assert multipliers.update([np.array([1.0]), np.zeros(3)]) == pytest.approx([0.175, 0.175])


def test_a_checkpoint_goes_on_as_if_nothing_had_happened() -> None:
    options = ConstraintOptions(proportional=1.0, derivative=1.0, smoothing=0.3)
    unbroken, resumed = Multipliers(options, 3), Multipliers(options, 3)
    unbroken.update([LATE, IN_TIME, NOBODY])
    resumed.restore(json.loads(json.dumps(unbroken.state())))

    for costs in ([IN_TIME, LATE, NOBODY], [LATE, LATE, LATE]):
        assert unbroken.update(costs).tolist() == resumed.update(costs).tolist()


# Costs.


def test_costs_by_hand() -> None:
    """The second is late; the third has failed, in time."""
    latency_s, budget_s = np.array([5.0, 30.0, 1.0]), np.array([10.0, 20.0, 30.0])
    on_time = np.array([True, False, False])

    def cost(kind: str) -> list[float]:
        options = ConstraintOptions.model_validate({"cost": kind, "per_tier": False})
        return cost_of(options, latency_s, budget_s, on_time, np.arange(3)).tolist()

    assert cost("violation") == [0.0, 1.0, 1.0]
    assert cost("mean-ratio") == pytest.approx([0.5, 1.5, 1 / 30])
    assert np.mean(cost("ratio-of-means")) == pytest.approx((5 + 30 + 1) / (10 + 20 + 30))


def test_a_ratio_of_means_is_within_its_tier() -> None:
    """Tier 0: (5 + 10) / (10 + 10), tier 1: (50 + 250) / (100 + 100). Pooled: 315 / 220."""
    latency_s, budget_s = np.array([5.0, 50.0, 10.0, 250.0]), np.array([10.0, 100.0, 10.0, 100.0])
    tier = np.array([0, 1, 0, 1])
    means = {}
    for per_tier in (True, False):
        options = ConstraintOptions(cost="ratio-of-means", per_tier=per_tier)
        cost = cost_of(options, latency_s, budget_s, latency_s <= budget_s, tier)
        means[per_tier] = [cost[tier == each].mean() for each in (0, 1)] if per_tier else [cost.mean()]

    assert means[True] == pytest.approx([0.75, 1.5])
    assert means[False] == pytest.approx([315 / 220])


@pytest.mark.parametrize(("cost", "limit"), [("violation", 0.05), ("mean-ratio", 1.0), ("ratio-of-means", 1.0)])
def test_the_limit_follows_from_the_cost_where_a_file_does_not_say(cost: str, limit: float) -> None:
    """A limit of 0.05 on C / beta would ask for answers in a twentieth of the budget."""
    assert ConstraintOptions.model_validate({"cost": cost}).limit == limit
    assert ConstraintOptions.model_validate({"cost": cost, "limit": 0.3}).limit == 0.3


def test_a_mean_ratio_below_one_can_hide_that_many_are_late() -> None:
    """Two of five at 1.5 beta, the others at 0.1: E[C / beta] = 0.66, and 40 % are late."""
    latency_s, budget_s = np.array([1.0, 1.0, 1.0, 15.0, 15.0]), np.full(5, 10.0)
    prices = {}
    for kind, limit in (("violation", 0.05), ("mean-ratio", 1.0)):
        options = ConstraintOptions.model_validate({"cost": kind, "limit": limit})
        multipliers = Multipliers(options, 1)
        for _ in range(20):
            (prices[kind],) = multipliers.update(
                [cost_of(options, latency_s, budget_s, latency_s <= budget_s, np.zeros(5, int))]
            )

    assert prices["violation"] > 0.1
    assert prices["mean-ratio"] == 0.0


# Problems with a known answer.


def frontier(cmdp: CMDP) -> list[tuple[float, float]]:
    """Late share and reward of every deterministic policy, where no other is better: by enumeration."""
    num_states, num_actions = cmdp.reward.shape
    points = []
    for actions in product(range(num_actions), repeat=num_states):
        occupancy = cmdp.occupancy(np.eye(num_actions)[list(actions)])
        points.append((float((occupancy * cmdp.late).sum()), float((occupancy * cmdp.reward).sum())))
    hull: list[tuple[float, float]] = []
    for point in sorted(points):
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) <= _slope(hull[-2], point):
            hull.pop()
        hull.append(point)
    return hull


def _slope(start: tuple[float, float], end: tuple[float, float]) -> float:
    return (end[1] - start[1]) / (end[0] - start[0])


@pytest.mark.parametrize("cmdp", [busy_server(), three_llms()], ids=["busy server", "three LLMs"])
def test_the_linear_program_agrees_with_enumeration(cmdp: CMDP) -> None:
    """The multiplier is the slope of the frontier at the limit; the optimum lies on it."""
    ((low, high),) = [(low, high) for low, high in pairwise(frontier(cmdp)) if low[0] < cmdp.limit < high[0]]
    solution = solve(cmdp)

    assert solution.multipliers == pytest.approx([_slope(low, high)])
    assert solution.reward == pytest.approx(low[1] + _slope(low, high) * (cmdp.limit - low[0]))
    assert cmdp.late_share(solution.policy) == pytest.approx([cmdp.limit])


def test_the_linear_program_by_hand() -> None:
    """Three LLMs: 0.3 more reward for 0.4 more lateness. Tiers: 0.4 for 1.0, and the slack one has no price."""
    assert solve(three_llms()).multipliers == pytest.approx([0.75])
    assert solve(three_llms()).reward == pytest.approx(0.675)
    assert solve(tight_and_slack()).multipliers == pytest.approx([0.4, 0.0])
    assert solve(tight_and_slack()).policy == pytest.approx(np.array([[0.85, 0.15], [0.0, 1.0]]))


SLOW = {"rate": 0.01}
WAYS = {
    "projected": SLOW,
    "softplus": {"form": "softplus", "initial": -2.0, "rate": 0.02},
    "PID": SLOW | {"proportional": 0.5, "derivative": 0.1},
}


@pytest.mark.parametrize("way", WAYS)
def test_the_multiplier_is_that_of_the_linear_program(way: str) -> None:
    """Within 5 %, in a Markov decision process of two states; so are lateness, and with it reward."""
    cmdp = busy_server()
    solution = solve(cmdp)
    multipliers = Multipliers(ConstraintOptions.model_validate(WAYS[way] | {"limit": cmdp.limit}), 1)
    learnt = learn(cmdp, multipliers)

    assert learnt.multipliers == pytest.approx(solution.multipliers, rel=0.05)
    assert cmdp.late_share(learnt.policy) == pytest.approx([cmdp.limit], rel=0.05)
    assert (cmdp.occupancy(learnt.policy) * cmdp.reward).sum() == pytest.approx(solution.reward, rel=0.01)


def test_a_price_for_each_tier_sees_what_a_pooled_one_does_not() -> None:
    """With the large LLM for all, 0.1 x 1 + 0.9 x 0.02 = 11.8 % are late, below 15 %: and all that are tight."""
    cmdp = tight_and_slack()
    options = ConstraintOptions(limit=cmdp.limit, rate=0.01)
    per_tier = learn(cmdp, Multipliers(options, 2))
    pooled = learn(cmdp, Multipliers(options.model_copy(update={"per_tier": False}), 2))

    assert per_tier.multipliers == pytest.approx([0.4, 0.0], rel=0.05, abs=1e-9)
    assert cmdp.late_share(per_tier.policy) == pytest.approx([0.15, 0.02], rel=0.05)
    assert pooled.multipliers == pytest.approx([0.0, 0.0], abs=1e-3)
    assert cmdp.late_share(pooled.policy) == pytest.approx([1.0, 0.02], abs=1e-3)


def test_an_unsigned_update_ends_with_the_cheapest_and_a_signed_one_does_not() -> None:
    """Theory, 7.4: the cheapest LLM is right 20 % of the time, the optimum 67.5 %."""
    cmdp = three_llms()
    unsigned = learn(cmdp, OnlyUp(rate=0.05, limit=cmdp.limit))
    signed = learn(cmdp, Multipliers(ConstraintOptions(limit=cmdp.limit, rate=0.01), 1))

    assert (np.diff(unsigned.history[:, 0]) >= 0).all()
    assert unsigned.last_policy[0, 0] > 0.99
    assert signed.last_policy[0, 0] < 0.01
    assert signed.multipliers == pytest.approx([0.75], rel=0.05)
    assert (cmdp.occupancy(signed.policy) * cmdp.reward).sum() == pytest.approx(0.675, rel=0.01)
