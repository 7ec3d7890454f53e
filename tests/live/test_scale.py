"""Five hundred workflows at once, on fake servers: ``make test-live``. What that costs: docs/going-live.md."""

import bench_live
import pytest

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]


def test_of_500_workflows_at_once_none_is_lost(capsys: pytest.CaptureFixture[str]) -> None:
    """All have come before the first of them can end; each has two agents and a decision."""
    found = bench_live.measure(500, 2)

    with capsys.disabled():
        print("", *(f"  {name}: {value}" for name, value in found.items()), sep="\n")
    assert found["at_once"] == 500
    assert (found["unanswered"], found["without_outcome"]) == (0, 0)
    assert (found["calls"], found["failed_calls"]) == (1500, 0)
    assert found["log_agrees"]
