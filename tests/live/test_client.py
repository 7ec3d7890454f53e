"""The client, against a fake server that misbehaves on demand."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from fake_vllm import Behaviour, FakeVllm

from inframind.live import Call, Client, Outcome, RequestError
from inframind.live.client import CALLS_PER_CONNECTION_POOL

MODEL = Behaviour.model


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 30))


async def completed(url: str, *calls: Call, **options: Any) -> tuple[Call, ...]:
    async with Client(url, **options) as client:
        await asyncio.gather(*(client.complete(call, MODEL) for call in calls))
    return calls


def one(server: FakeVllm, call: Call | None = None, **options: Any) -> Call:
    (ended,) = run(completed(server.url, call or Call([7] * 5, 6), **options))
    assert isinstance(ended, Call)
    return ended


def test_a_call_has_the_servers_token_counts_and_its_own_times() -> None:
    with FakeVllm(Behaviour(prefill_token_s=0.02, step_s=0.02)) as server:
        call = one(server, Call([7] * 5, 6))

    assert call.outcome is Outcome.FINISHED
    assert call.usage == (5, 6)
    assert call.sent_s is not None
    assert call.first_token_s is not None
    assert call.last_token_s is not None
    assert call.first_token_s - call.sent_s >= 0.12  # five prompt tokens and a step
    assert call.last_token_s - call.first_token_s >= 0.08  # five more steps, the first token's delay may eat into them


def test_lengths_are_fixed_and_priority_is_sent_only_if_there_is_one() -> None:
    with FakeVllm() as server:
        one(server, Call([7, 8], 3))
        one(server, Call("text", 3, priority=-4))

    plain, urgent = server.seen
    assert plain["max_tokens"] == plain["min_tokens"] == 3
    assert plain["ignore_eos"] is True
    assert plain["stream_options"] == {"include_usage": True}
    assert plain["prompt"] == [7, 8]
    assert "priority" not in plain
    assert (urgent["prompt"], urgent["priority"]) == ("text", -4)


@pytest.mark.parametrize(
    ("fault", "outcome", "detail"),
    [
        ("cut", Outcome.CUT, "after 2 pieces"),
        ("garbage", Outcome.GARBAGE, "{no json"),
        ("error", Outcome.SERVER_ERROR, "it broke"),
        ("short", Outcome.WRONG_LENGTH, "5 output tokens, asked for 6"),
        ("no usage", Outcome.WRONG_LENGTH, "no usage field"),
        ("400", Outcome.REFUSED, "400: told by 400"),
        ("404", Outcome.REFUSED, "404: told by 404"),
        ("429", Outcome.REJECTED, "429: told by 429"),
        ("500", Outcome.SERVER_ERROR, "500: told by 500"),
        ("503", Outcome.REJECTED, "503: told by 503"),
        ("nested", Outcome.GARBAGE, "[[[["),
        ("endless", Outcome.GARBAGE, "Infinity"),
        ("no gzip", Outcome.GARBAGE, "decompress"),
    ],
)
def test_each_failure_has_its_name(fault: str, outcome: Outcome, detail: str) -> None:
    """And the call after it works."""
    with FakeVllm(Behaviour(faults=[fault])) as server:
        failed = one(server)
        next_one = one(server)

    assert failed.outcome is outcome
    assert detail in failed.detail
    assert next_one.outcome is Outcome.FINISHED


def test_a_stream_that_stalls_times_out() -> None:
    with FakeVllm(Behaviour(faults=["stall"])) as server:
        call = one(server, timeout_s=0.2)

    assert call.outcome is Outcome.TIMEOUT
    assert call.detail.startswith("ReadTimeout after 0.2 s")


def test_a_server_that_is_not_there_is_unreachable() -> None:
    with FakeVllm() as server:
        pass
    call = one(server)

    assert call.outcome is Outcome.UNREACHABLE
    assert call.first_token_s is None


def test_a_server_that_dies_cuts_the_stream() -> None:
    async def until_it_dies(server: FakeVllm) -> Call:
        call = Call([7], 1000)
        async with Client(server.url) as client:
            task = asyncio.create_task(client.complete(call, MODEL))
            while call.num_chunks < 3:
                await asyncio.sleep(0.01)
            await asyncio.to_thread(server.die)
            await task
        return call

    with FakeVllm(Behaviour(step_s=0.01)) as server:
        call = run(until_it_dies(server))

    assert call.outcome is Outcome.CUT
    assert 3 <= call.num_chunks < 1000


def test_a_call_that_is_given_up_keeps_what_it_has() -> None:
    async def give_up(server: FakeVllm) -> Call:
        call = Call([7], 1000)
        async with Client(server.url) as client:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.complete(call, MODEL), 0.3)
        return call

    with FakeVllm(Behaviour(step_s=0.02)) as server:
        call = run(give_up(server))

    assert call.outcome is Outcome.STOPPED
    assert call.first_token_s is not None
    assert 0 < call.num_chunks < 20


def test_calls_share_one_limit_and_are_timed_from_when_they_are_sent() -> None:
    with FakeVllm(Behaviour(max_num_seqs=100, step_s=0.01)) as server:
        calls = run(completed(server.url, *(Call([7], 10) for _ in range(6)), open_limit=asyncio.Semaphore(2)))

    assert server.most_running == 2
    sent = sorted(call.sent_s for call in calls)
    assert sent[2] - sent[0] >= 0.1  # the third waits for a whole one
    assert all(call.last_token_s - call.sent_s < 0.3 for call in calls)


def test_connections_are_used_again() -> None:
    async def one_after_the_other(server: FakeVllm) -> None:
        async with Client(server.url) as client:
            for _ in range(5):
                await client.complete(Call([7], 2), MODEL)

    with FakeVllm() as server:
        run(one_after_the_other(server))

    assert len(server.seen) == 5
    assert len(server.ports_seen) == 1


def test_many_calls_at_once_are_spread_over_connection_pools_of_which_one_is_kept() -> None:
    most = CALLS_PER_CONNECTION_POOL

    async def at_once(server: FakeVllm) -> list[int]:
        ports = []
        async with Client(server.url) as client:
            for num in (3 * most, 3 * most, 1):
                calls = [Call([7], 2) for _ in range(num)]
                await asyncio.gather(*(client.complete(call, MODEL) for call in calls))
                assert all(call.outcome is Outcome.FINISHED for call in calls)
                ports.append(len(server.ports_seen))
        return ports

    with FakeVllm(Behaviour(max_num_seqs=1000)) as server:
        # Two of three pools are closed with their last call, and made anew when there are as many calls again.
        assert run(at_once(server)) == [3 * most, 5 * most, 5 * most]


@pytest.mark.parametrize(
    ("key", "detail"),
    [(None, "401 Unauthorized: it wants an API key"), ("secret-2", "403 Forbidden: the API key is wrong")],
)
def test_a_refused_key_is_named_as_such_and_not_shown(key: str | None, detail: str) -> None:
    async def get(url: str) -> None:
        async with Client(url, api_key=key) as client:
            await client.get("/version")

    with FakeVllm(Behaviour(api_key="secret-1")) as server:
        call = one(server, api_key=key)
        with pytest.raises(RequestError) as error:
            run(get(server.url))

    assert (call.outcome, call.detail) == (Outcome.REFUSED, detail)
    assert str(error.value) == f"{server.url}/version: {detail}"


def test_a_right_key_is_sent_as_a_bearer_token() -> None:
    with FakeVllm(Behaviour(api_key="secret-1")) as server:
        assert one(server, api_key="secret-1").outcome is Outcome.FINISHED


def test_the_end_of_the_line_that_a_key_was_read_from_is_no_part_of_it() -> None:
    with FakeVllm(Behaviour(api_key="secret-1")) as server:
        assert one(server, api_key="secret-1\n").outcome is Outcome.FINISHED


@pytest.mark.parametrize("key", ["secret\n1", "secret 1", "sécret"])
def test_a_key_that_no_header_can_hold_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(RequestError, match="the API key has a blank or a character") as error:
        Client("http://host:1", api_key=key)

    assert key not in str(error.value)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "http://", "http://host:port", "", "http://[::1"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(RequestError, match="must look like http://HOST:PORT"):
        Client(url)


@pytest.mark.parametrize(
    "url", ["http://me:secret@host:8000/v1", "http://host:8000/", "http://host:8000/v1/?key=secret"]
)
def test_the_url_that_is_told_holds_no_secret(url: str) -> None:
    assert Client(url).url == "http://host:8000"


def test_a_url_may_end_with_v1() -> None:
    with FakeVllm() as server:
        (call,) = run(completed(f"{server.url}/v1/", Call([7], 2)))

    assert call.outcome is Outcome.FINISHED


def test_an_answer_that_cannot_be_decoded_is_no_vllm_servers() -> None:
    """Something answers there: the server is not gone."""

    async def get(url: str) -> None:
        async with Client(url) as client:
            await client.get("/metrics")

    with FakeVllm(Behaviour(metrics_encoding="gzip")) as server, pytest.raises(RequestError) as error:
        run(get(server.url))

    assert str(error.value).startswith(f"{server.url}/metrics: the answer cannot be decoded (")
