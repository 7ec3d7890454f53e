"""What a server tells about itself, and each reason why it is not one that can be used."""

import asyncio
from dataclasses import replace

import pytest
from fake_vllm import Behaviour, FakeVllm

from inframind.live import Client, RequestError, ServerError, ServerFacts, read_facts, round_trip_s


def facts_of(url: str, model: str | None = None) -> ServerFacts:
    async def ask() -> ServerFacts:
        async with Client(url) as client:
            return await read_facts(client, model)

    return asyncio.run(ask())


def test_the_facts_are_those_of_the_api() -> None:
    with FakeVllm() as server:
        facts = facts_of(server.url)

    assert facts == ServerFacts(
        url=server.url,
        model="owner/fake",
        version="0.32.0",
        max_model_len=2048,
        num_engines=1,
        num_gpu_blocks=500,
        block_size=16,
        enable_prefix_caching=True,
        process_start_s=1000.0,
    )


def test_the_blocks_of_two_engines_are_told_as_a_sum() -> None:
    with FakeVllm(Behaviour(num_engines=2)) as server:
        facts = facts_of(server.url)

    assert (facts.num_engines, facts.num_gpu_blocks) == (2, 500)


def test_a_model_that_is_not_served_is_refused_with_those_that_are() -> None:
    with FakeVllm() as server, pytest.raises(RequestError) as error:
        facts_of(server.url, "other")

    assert str(error.value) == f"{server.url}: model 'other' is not served; it serves owner/fake"


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        (Behaviour(max_model_len=None), "tells no max_model_len of 'owner/fake'"),
        (Behaviour(metrics="hello 1\n"), "/metrics lacks vllm:cache_config_info"),
        (Behaviour(hidden_metrics=frozenset({"num_requests_running"})), "/metrics lacks vllm:num_requests_running"),
    ],
)
def test_what_is_missing_is_named(behaviour: Behaviour, message: str) -> None:
    with FakeVllm(behaviour) as server, pytest.raises(ServerError, match=message):
        facts_of(server.url)


def test_the_other_spelling_is_read_too() -> None:
    with FakeVllm(Behaviour(spelling="vllm_")) as server:
        assert facts_of(server.url).num_gpu_blocks == 500


def test_nothing_listens() -> None:
    with FakeVllm() as server:
        pass
    with pytest.raises(ServerError, match=rf"^{server.url}: nothing answers there \("):
        facts_of(server.url)


def test_something_else_than_vllm_listens() -> None:
    with FakeVllm() as server, pytest.raises(ServerError, match=r"/v1/models: answers 404, no list of models"):
        facts_of(f"{server.url}/elsewhere")


def test_a_round_trip_is_the_median_of_some() -> None:
    async def measure(url: str) -> float:
        async with Client(url) as client:
            return await round_trip_s(client)

    with FakeVllm() as server:
        assert 0 < asyncio.run(measure(server.url)) < 1


def test_nan_is_no_start_time() -> None:
    """A server that does not tell its start is not equal to itself: compare the other facts."""
    with FakeVllm(Behaviour(process_start_s=float("nan"))) as server:
        facts = facts_of(server.url)

    assert replace(facts, process_start_s=0.0).model == "owner/fake"
