"""What a profile concludes of the server, and what it only assumes."""

import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from inframind.calibration.profile_log import COMPLETE, ProfileLog, Stay
from inframind.calibration.profile_plan import BURST, PRIORITY, Answer, Ask, Condition, Ended
from inframind.calibration.profile_server_file import (
    Option,
    Stated,
    largest_step,
    observed_policy,
    scheduler_options,
    server_file,
)
from inframind.live import Call, Gauges, Outcome, ServerFacts

FACTS = ServerFacts("http://h:1", "owner/name", "0.32.0", 2048, 1, 364, 128, True, 0.0)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[ProfileLog]:
    with ProfileLog(tmp_path / "log", {"started_at": "then"}) as log:
        yield log


def options(log: ProfileLog, facts: ServerFacts = FACTS, **stated: object) -> dict[str, Option]:
    return {option.name: option for option in scheduler_options(facts, Stated(**stated), log)}  # type: ignore[arg-type]


def sample(log: ProfileLog, waiting: int, running: int, kv_usage: float = 0.1) -> None:
    log.add_sample(1.0, "name", Gauges(waiting, running, kv_usage, 0.0))


def probe(starts: list[float], priorities: list[int]) -> Ended:
    """All sent at 0; with these times of the first token, and a last one 0.08 s later."""
    ended = [Answer(16, 16, 0.0, start, start + 0.08, rank) for start, rank in zip(starts, priorities, strict=True)]
    return Ended(PRIORITY, 1.0, ended, [])


def test_the_server_file_is_toml_and_says_where_each_value_comes_from(log: ProfileLog) -> None:
    text = server_file(FACTS, scheduler_options(FACTS, Stated(max_num_seqs=8), log))

    assert tomllib.loads(text) == {
        "name": "name",
        "model": "owner/name",
        "semantics": "vllm-0.32",
        "data_parallel_size": 1,
        "scheduler": {
            "policy": "fcfs",
            "max_num_seqs": 8,
            "max_num_batched_tokens": 8192,
            "block_size": 128,
            "num_blocks": 364,
            "max_model_len": 2048,
            "enable_prefix_caching": True,
            "async_scheduling": True,
        },
    }
    assert "\nmax_num_seqs = 8  # stated\n" in text
    assert "\nnum_blocks = 364  # told by the server\n" in text
    assert '\npolicy = "fcfs"  # assumed: vLLM\'s default; --policy says otherwise\n' in text


def test_another_version_is_named(log: ProfileLog) -> None:
    facts = ServerFacts("http://h:1", "m", "0.20.2", 2048, 1, 364, 128, None, 0.0)
    text = server_file(facts, scheduler_options(facts, Stated(), log))

    assert 'semantics = "vllm-0.32"  # it is vLLM 0.20.2' in text
    assert "enable_prefix_caching = true  # assumed" in text


def test_what_is_stated_wins(log: ProfileLog) -> None:
    found = options(log, policy="priority", max_num_seqs=3, max_num_batched_tokens=7, async_scheduling=False)

    told = ("policy", "max_num_seqs", "max_num_batched_tokens", "async_scheduling")
    assert [found[name].value for name in told] == ["priority", 3, 7, False]
    assert {found[name].origin for name in told} == {"stated"}


def test_a_batch_that_stays_full_while_others_wait_is_the_limit(log: ProfileLog) -> None:
    for running in (1, 4, 8):
        sample(log, 0, running)
    for running in (7, 8, 8):
        sample(log, 5, running)

    assert options(log)["max_num_seqs"].value == 8


def test_the_slots_of_two_engines_are_shared_out(log: ProfileLog) -> None:
    """16 ran at a time, 8 in each."""
    for running in (15, 16, 16):
        sample(log, 5, running)
    facts = replace(FACTS, num_engines=2)

    assert options(log, facts)["max_num_seqs"].value == 8
    assert tomllib.loads(server_file(facts, scheduler_options(facts, Stated(), log)))["data_parallel_size"] == 2


def test_slots_that_a_step_has_just_freed_do_not_hide_the_limit(log: ProfileLog) -> None:
    """A minute of short requests on a real server with 8 slots, as it was polled."""
    for running, times in ((6, 8), (7, 5), (8, 3)):
        for _ in range(times):
            sample(log, 5, running)

    assert options(log)["max_num_seqs"].value == 8


@pytest.mark.parametrize(
    "samples",
    [
        [(0, 9, 0.1)],  # nobody ever waited
        [(3, 8, 0.1), (3, 8, 0.1), (0, 9, 0.1)],  # more ran when nobody waited
        [(3, 9, 0.99), (3, 9, 0.95)],  # they waited for KV blocks
        [(9, 1, 0.1), (8, 2, 0.1), (7, 3, 0.1), (6, 9, 0.1)],  # they waited while the batch grew
    ],
)
def test_other_reasons_to_wait_are_not_taken_for_the_limit(
    log: ProfileLog, samples: list[tuple[int, int, float]]
) -> None:
    for waiting, running, kv_usage in samples:
        sample(log, waiting, running, kv_usage)
    found = options(log)["max_num_seqs"]

    assert (found.value, found.is_assumed) == (1024, True)
    assert "at most 9 ran" in found.origin


def test_an_assumed_limit_fits_the_tokens_of_a_step(log: ProfileLog) -> None:
    """vLLM does not start with fewer tokens than sequences."""
    assert options(log, max_num_batched_tokens=256)["max_num_seqs"].value == 256


def burst(log: ProfileLog, step_tokens: dict[str, float]) -> None:
    attempt = log.begin(BURST, 0.0)
    for _ in range(8):
        call = Call([7], 1, sent_s=1.0, first_token_s=2.0, last_token_s=2.0, num_chunks=1, usage=(1000, 1))
        call.outcome = Outcome.FINISHED
        log.add_request(Condition(BURST, ()), attempt, Ask(1000, 1), call, 0.0, 0.0)
    log.end(Stay(BURST, attempt, 0.0, 9.0, COMPLETE, step_tokens))


def test_the_largest_step_of_a_burst_is_the_limit(log: ProfileLog) -> None:
    """8 prompts of 1000 tokens at once: the largest step counted more than 1024, and no step more than 2048."""
    burst(log, {"512": 0, "1024": 1, "2048": 5, "4096": 5, "inf": 5})
    found = options(log)["max_num_batched_tokens"]

    assert (found.value, found.is_assumed) == (2048, False)
    assert found.origin == "shown: 8000 tokens at once were taken in steps of at most 2048"


@pytest.mark.parametrize(
    "step_tokens",
    [
        {},  # a server that does not count
        {"4096": 1, "8192": 2, "inf": 2},  # a step took all, or could have
        {"4096": 1, "inf": 2},
    ],
)
def test_a_burst_that_filled_no_step_shows_nothing(log: ProfileLog, step_tokens: dict[str, float]) -> None:
    burst(log, step_tokens)

    assert options(log)["max_num_batched_tokens"].is_assumed


def test_bounds_are_numbers_not_words() -> None:
    assert largest_step({"16384": 3.0, "2048": 3.0, "inf": 3.0, "512": 2.0}) == 2048
    assert largest_step({"512": 0.0, "inf": 0.0}) is None


DEALT = [3, 14, 0, 9, 12, 6, 15, 1, 10, 5, 13, 2, 8, 4, 11, 7]
"""Priorities in the order of sending."""
AT_ONCE = [0.1] * 4
"""The first four find free slots."""


def test_the_order_of_those_that_waited_tells_the_policy() -> None:
    """4 slots, 16 requests: twelve wait, and begin in fours."""
    as_they_came = [0.2 + 0.1 * (index // 4) for index in range(12)]
    by_rank = sorted(DEALT[4:])
    as_urgent = [0.2 + 0.1 * (by_rank.index(rank) // 4) for rank in DEALT[4:]]

    assert observed_policy(probe(AT_ONCE + as_they_came, DEALT)) == "fcfs"
    assert observed_policy(probe(AT_ONCE + as_urgent, DEALT)) == "priority"


def test_a_few_requests_tell_nothing() -> None:
    """Nor do many of which none had to wait, as on a server with more slots than thought."""
    in_order = sorted(DEALT)

    assert observed_policy(probe([0.1] * 8 + [0.2] * 8, in_order)) is None
    assert observed_policy(probe([0.1 + rank / 1000 for rank in in_order], in_order)) is None


def test_a_statement_that_the_probe_contradicts_is_marked(log: ProfileLog) -> None:
    attempt = log.begin(PRIORITY, 0.0)
    for index, rank in enumerate(DEALT):
        first_s = 0.1 + index // 4
        call = Call([7], 16, rank, sent_s=0.0, first_token_s=first_s, last_token_s=first_s + 0.9, usage=(16, 16))
        call.outcome = Outcome.FINISHED
        log.add_request(Condition(PRIORITY, ()), attempt, Ask(16, 16, priority=rank), call, 0.0, 0.0)
    log.end(Stay(PRIORITY, attempt, 0.0, 9.0, COMPLETE, {}))

    assert options(log)["policy"] == Option("policy", "fcfs", "shown: in a queue of requests with priorities")
    stated = options(log, policy="priority")["policy"]
    assert (stated.value, stated.origin) == ("priority", "stated, but requests ran as under fcfs")
