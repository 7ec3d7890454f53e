from __future__ import annotations

import pytest

from inframind.workflows import PRIORITY_RULES, edf_priority
from inframind.workflows.priorities import LATE, CallTimes

CALLS = {
    # (time of submission, deadline, seconds of the remaining critical path)
    "urgent": (100.0, 110.25, 2.0),
    "long": (100.0, 130.0, 28.0),
    "relaxed": (40.0, 640.0, 28.0),
    "late": (100.0, 95.5, 2.0),
    "very late": (100.0, 50.0, 2.0),
    "just in time": (100.0, 100.0, 2.0),
}


def test_edf_priorities_are_milliseconds() -> None:
    assert edf_priority(12.3456) == 12346


@pytest.mark.parametrize(
    ("rule", "priorities", "order"),
    [
        ("none", [0, 0, 0, 0, 0, 0], None),
        (
            "edf",
            [110_250, 130_000, 640_000, 95_500, 50_000, 100_000],
            ["very late", "late", "just in time", "urgent", "long", "relaxed"],
        ),
        (
            "edf-late-last",
            [110_250, 130_000, 640_000, LATE - 95_500, LATE - 50_000, 100_000],
            ["just in time", "urgent", "long", "relaxed", "late", "very late"],
        ),
        (
            "least-slack",
            [108_250, 102_000, 612_000, 93_500, 48_000, 98_000],
            ["very late", "late", "just in time", "long", "urgent", "relaxed"],
        ),
    ],
)
def test_rules_by_hand(rule: str, priorities: list[int], order: list[str] | None) -> None:
    ours = {name: PRIORITY_RULES[rule](*call) for name, call in CALLS.items()}

    assert list(ours.values()) == priorities
    assert order is None or sorted(ours, key=lambda name: ours[name]) == order


def test_priorities_fit_into_vllms_integers() -> None:
    assert all(abs(rule(0.0, 1e9, 1e6)) < 2**53 for rule in PRIORITY_RULES.values())
    assert PRIORITY_RULES["edf-late-last"](2.0, 1.0, 0.0) > PRIORITY_RULES["edf-late-last"](0.0, 1e9, 0.0)


def test_call_times_are_running_means() -> None:
    """20 then 30: 20 + 0.05 x 10; a server that nobody has tried is taken for the mean of all."""
    times = CallTimes()

    assert times.path_s(0, "Flash", 3) == 30.0

    times.add(0, "Flash", 20.0)
    times.add(0, "Flash", 30.0)

    assert times.path_s(0, "Flash", 1) == 20.5
    assert times.path_s(1, "Flash", 3) == 3 * 20.5

    times.add(1, "Flash", 0.5)

    assert times.path_s(0, "Flash", 1) == 20.5
    assert times.path_s(1, "Flash", 1) == 0.5
    assert times.path_s(1, "Flash", 2) == pytest.approx(0.5 + 20.5 + 0.05 * (0.5 - 20.5))
