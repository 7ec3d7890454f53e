"""Which engine gets a request: vLLM's rule, step by step."""

from __future__ import annotations

from inframind.sim import Request, to_ticks
from inframind.sim.balancer import Balancer


def ended(balancer: Balancer, engine: int) -> None:
    request = Request("r", 0, 1, 1)
    request.data_parallel_rank = engine
    balancer.told_of(lambda request: None)(request)


def test_equal_engines_take_turns() -> None:
    balancer = Balancer(3)

    assert [balancer.choose(0) for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def test_whoever_has_ended_more_gets_the_next() -> None:
    """Of four requests engine 1 has ended both of its own: it gets two more, then it is engine 0's turn again."""
    balancer = Balancer(2)
    for _ in range(4):
        balancer.choose(0)
    ended(balancer, 1)
    ended(balancer, 1)
    # What was sent since the last publication counts until then, ended or not.
    later = to_ticks(0.1)
    balancer.tell(0, 1, 0, 2, 0.0)

    assert [balancer.choose(later) for _ in range(3)] == [1, 1, 0]


def test_published_counts_are_old() -> None:
    """At 0.1 s it is published that engine 0 has three requests. They end at once: until 0.2 s, when that is published,
    engine 1 gets all while it has no more than three."""
    balancer = Balancer(2)
    balancer.tell(0, 1, 0, 3, 0.1)
    balancer.choose(to_ticks(0.1))
    balancer.tell(0, to_ticks(0.11), 0, 0, 0.0)

    assert [balancer.choose(to_ticks(0.12)) for _ in range(4)] == [1, 1, 1, 0]
    assert balancer.choose(to_ticks(0.2)) == 0


def test_what_is_no_news_is_not_published() -> None:
    """Usage alone is not told, and as long as nothing is, own requests still count as waiting."""
    balancer = Balancer(2)
    balancer.choose(0)
    ended(balancer, 0)
    balancer.tell(0, 1, 0, 0, 0.9)

    assert [balancer.choose(to_ticks(t)) for t in (0.1, 0.2)] == [1, 0]


def test_a_queue_counts_for_more_where_the_cache_is_full() -> None:
    """1 waiting and 2 running at 100 % are 3 + 1 x 6 x 0.5 = 6, as much as 6 running; at 50 % they are 3."""
    for usage, chosen in ((1.0, [1, 0]), (0.5, [0, 0])):
        balancer = Balancer(2)
        balancer.tell(0, 1, 1, 2, usage)
        balancer.tell(1, 1, 0, 5, 1.0)

        assert [balancer.choose(to_ticks(0.1)) for _ in range(2)] == chosen
