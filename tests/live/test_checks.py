"""Whether a server is found out that is not what the pool file says."""

import asyncio
from dataclasses import replace

import pytest
from fake_vllm import Behaviour, FakeVllm

from inframind.live import Checked, Client, Expected, check_server

EXPECTED = Expected(
    version="0.32",
    honours_priority=True,
    data_parallel_size=1,
    max_num_seqs=4,
    max_model_len=2048,
    num_blocks=500,
    block_size=16,
    enable_prefix_caching=True,
)
PRIORITY = Behaviour(policy="priority", step_s=0.005)


def check(behaviour: Behaviour, expected: Expected = EXPECTED, model: str = Behaviour.model) -> Checked:
    async def checked(url: str) -> Checked:
        async with Client(url) as client:
            return await check_server(client, model, expected)

    with FakeVllm(behaviour) as server:
        found = asyncio.run(asyncio.wait_for(checked(server.url), 60))
        assert server.running == 0
    return found


def test_a_server_that_is_as_the_file_says_has_no_problems() -> None:
    found = check(PRIORITY)

    assert found.problems == found.notes == ()
    assert found.facts is not None
    assert found.facts.version == "0.32.0"


def test_priority_that_is_silently_ignored_is_found_out() -> None:
    """Under fcfs vLLM takes a priority without a word."""
    found = check(replace(PRIORITY, policy="fcfs"))

    assert found.problems == ("priority: is ignored; the server must run with --scheduling-policy priority",)
    assert check(replace(PRIORITY, policy="fcfs"), replace(EXPECTED, honours_priority=False)).problems == ()


@pytest.mark.parametrize(("slots", "says"), [(2, "runs 2 at a time"), (9, "runs more at a time")])
def test_another_number_of_slots_is_found_out(slots: int, says: str) -> None:
    (problem,) = check(replace(PRIORITY, max_num_seqs=slots)).problems

    assert problem == f"max_num_seqs: the pool file says 4, the server {says}"


@pytest.mark.parametrize(("policy", "num_problems"), [("priority", 0), ("fcfs", 1)])
def test_of_several_engines_the_slots_and_the_queue_of_one_are_probed(policy: str, num_problems: int) -> None:
    """Each has 4 slots and a queue of its own: of 9 calls to both, the last would not wait."""
    two = replace(PRIORITY, num_engines=2, policy=policy)

    assert len(check(two, replace(EXPECTED, data_parallel_size=2)).problems) == num_problems


def test_every_mismatch_that_the_server_tells_has_a_line() -> None:
    expected = replace(
        EXPECTED,
        version="0.33",
        data_parallel_size=2,
        max_model_len=4096,
        num_blocks=700,
        block_size=32,
        enable_prefix_caching=False,
    )

    assert check(PRIORITY, expected).problems == (
        "version: the pool file simulates vLLM 0.33, the server is 0.32.0",
        "data_parallel_size: the pool file says 2, the server has 1",
        "max_model_len: the pool file says 4096, the server has 2048",
        "num_blocks: the pool file says 700, the server has 500",
        "block_size: the pool file says 32, the server has 16",
        "enable_prefix_caching: the pool file says false, the server has true",
    )


def test_another_model_or_no_answer_is_one_line() -> None:
    (problem,) = check(PRIORITY, model="other").problems
    assert problem.endswith("model 'other' is not served; it serves owner/fake")

    async def nobody() -> Checked:
        async with Client("http://127.0.0.1:9") as client:
            return await check_server(client, "m", EXPECTED)

    (problem,) = asyncio.run(nobody()).problems
    assert "nothing answers there" in problem


def test_what_cannot_be_probed_is_said() -> None:
    many = check(replace(PRIORITY, max_num_seqs=300), replace(EXPECTED, max_num_seqs=300))

    assert many.problems == ()
    assert many.notes == ("max_num_seqs and priority: not checked with more than 256",)


def test_what_was_found_is_told_although_the_probe_fails() -> None:
    found = check(replace(PRIORITY, num_gpu_blocks=400, fault_always="500"))

    mismatch, failure = found.problems
    assert mismatch == "num_blocks: the pool file says 500, the server has 400"
    assert "a probing request failed: server error: 500: told by 500" in failure
    assert found.facts is not None
