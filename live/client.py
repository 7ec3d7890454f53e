"""Talk to one vLLM server over its OpenAI API: streamed completions with the times of their tokens."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

import httpx

CONNECT_TIMEOUT_S = 10.0
MAX_OPEN = 900
"""Calls open at a time, by default: as many as fit into the 1024 open files that a process usually may have."""
KEEP_ALIVE_S = 2.0
"""vLLM's HTTP server closes a connection that was idle for 5 s; a request sent at that moment would be lost."""
CALLS_PER_CONNECTION_POOL = 32
"""Open at a time in one of httpx's connection pools: each request that begins or ends has the pool look through all its
connections, for each that is idle once more (httpcore 1.0), so a pool of a thousand holds the event loop up for seconds
when many calls end together."""


class ServerError(Exception):
    """A server cannot be used, or stopped being usable; the message is one line for a person."""


class RequestError(ServerError):
    """What was asked of the server was wrong: its address, the model, the key."""


class AccessError(RequestError):
    """The server wants an API key, or another one."""


class Outcome(StrEnum):
    """How a call ended."""

    FINISHED = "finished"
    STOPPED = "stopped"
    """We gave it up; the server aborts it."""
    UNREACHABLE = "unreachable"
    """No connection, or one that was closed before an answer began."""
    TIMEOUT = "timeout"
    REJECTED = "rejected"
    """429 or 503: the server takes no more requests for now."""
    REFUSED = "refused"
    """Any other 4xx: what we asked was wrong."""
    SERVER_ERROR = "server error"
    """5xx, or an error told in the stream."""
    CUT = "stream cut"
    """The stream ended before its end mark."""
    GARBAGE = "garbage in the stream"
    """An event that is no JSON object of the expected shape, or a body that cannot be decoded."""
    WRONG_LENGTH = "wrong length"
    """The usage field counts other output tokens than asked for, or is missing."""


@dataclass(slots=True)
class Call:
    """One completion: what is asked, and what is known of it so far. Times are of `time.monotonic`."""

    prompt: Sequence[int] | str
    """Token ids, which fix the prompt's length exactly, or text."""
    output_tokens: int
    """To be generated, neither fewer nor more; at most, if not ``is_exact``."""
    priority: int | None = None
    """vLLM's, lower first; a server with policy fcfs ignores it without a word."""
    is_exact: bool = True
    """Whether the model must write all its ``output_tokens``, instead of ending where it wants to."""
    is_chat: bool = False
    """Whether the prompt, a text, is put into the model's chat template, as the one message of a user."""
    engine: int | None = None
    """Of a server with several engines (data parallel) the one that is to take it; None: the server chooses."""
    sent_s: float | None = None
    first_token_s: float | None = None
    last_token_s: float | None = None
    num_chunks: int = 0
    """Stream events with output so far: at most the tokens, since a busy server puts several into one event."""
    usage: tuple[int, int] | None = None
    """Prompt and output tokens as the server counts them."""
    cached_tokens: int | None = None
    """Of the prompt, found in the prefix cache; None where the server does not tell."""
    text: str = ""
    """What has been written so far."""
    outcome: Outcome = Outcome.STOPPED
    detail: str = ""
    """What went wrong, in the server's words where it has some."""


@dataclass(slots=True)
class _ConnectionPool:
    """One of httpx's."""

    http: httpx.AsyncClient
    num_calls: int = 0
    """Open ones."""


class Client:
    """An OpenAI client for one server; use as an async context manager.

    Parameters
    ----------
    url
        Where the server listens, with or without ``/v1`` at the end.
    api_key
        Sent as a bearer token, and kept out of every message.
    timeout_s
        How long to wait for the next piece of an answer; under overload the first one waits for its turn.
    open_limit
        Held by each call while it is open; several clients may share one. By default 900 for this client alone.

    Raises
    ------
    RequestError
        If ``url`` is no http or https URL, or the key cannot stand in a header.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 300.0,
        open_limit: asyncio.Semaphore | None = None,
    ) -> None:
        parsed = _parsed(url)
        # Of a file's last line the end is often read along. What httpx says of a bad header shows the header.
        api_key = (api_key or "").strip()
        if not all("!" <= character <= "~" for character in api_key):
            raise RequestError("the API key has a blank or a character that is not ASCII: no HTTP header may hold it")
        self.url = str(parsed.copy_with(userinfo=b"")).rstrip("/")
        self._open = open_limit or asyncio.Semaphore(MAX_OPEN)
        self.num_chunks = 0
        """Stream events with output that have come so far, of all calls."""
        headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {api_key}"} if api_key else {})
        self._http_options: dict[str, Any] = {
            # A name and password in the URL would take the key's place.
            "base_url": self.url if api_key else parsed,
            "headers": headers,
            "timeout": httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S, pool=None),
            "limits": httpx.Limits(max_connections=None, keepalive_expiry=KEEP_ALIVE_S),
            "verify": httpx.create_ssl_context(),
        }
        self._connection_pools = [_ConnectionPool(httpx.AsyncClient(**self._http_options))]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close its connections."""
        async with AsyncExitStack() as stack:
            for each in self._connection_pools:
                stack.push_async_callback(each.http.aclose)

    async def get(self, path: str, timeout_s: float | None = None) -> httpx.Response:
        """Fetch ``/version``, ``/metrics`` and the like; any status but 401 and 403 is the caller's to judge.

        Parameters
        ----------
        timeout_s
            Instead of the client's own.

        Raises
        ------
        AccessError
            On 401 and 403.
        RequestError
            If there is an answer that cannot be decoded: no vLLM server sends it.
        ServerError
            If there is no answer.
        """
        try:
            limit = httpx.USE_CLIENT_DEFAULT if timeout_s is None else httpx.Timeout(timeout_s)
            response = await self._connection_pools[0].http.get(path, timeout=limit)
        except httpx.InvalidURL as error:
            raise RequestError(f"{self.url}: {error}") from None
        except httpx.TimeoutException:
            raise ServerError(f"{self.url}{path}: no answer in time") from None
        except httpx.TransportError as error:
            raise ServerError(f"{self.url}: nothing answers there ({_reason(error)})") from None
        except httpx.RequestError as error:
            raise RequestError(f"{self.url}{path}: the answer cannot be decoded ({_reason(error)})") from None
        if response.status_code in (401, 403):
            raise AccessError(f"{self.url}{path}: {_access(response)}")
        return response

    async def complete(self, call: Call, model: str) -> None:
        """Send a call, follow its stream to the end, and fill in ``call``.

        Failures are outcomes of the call, not exceptions. If the task is cancelled the call stays ``STOPPED``.
        """
        body = json.dumps(_body(call, model)).encode()
        path = "/v1/chat/completions" if call.is_chat else "/v1/completions"
        async with self._open:
            call.sent_s = time.monotonic()
            try:
                async with (
                    self._connections() as http,
                    http.stream("POST", path, content=body, headers=_headers(call)) as response,
                ):
                    if response.status_code == 200:
                        await self._follow(response, call)
                    else:
                        await response.aread()
                        call.outcome, call.detail = _failure(response)
            except httpx.RequestError as error:
                if call.outcome is Outcome.STOPPED:  # after the end mark it does not matter
                    call.outcome, call.detail = _broken(error, call)

    @asynccontextmanager
    async def _connections(self) -> AsyncIterator[httpx.AsyncClient]:
        """The first pool that has room for a call: so a few calls use a few connections again and again.

        The first stays; another is closed with its last call, for only who uses a pool has it drop what is idle.
        """
        pools = self._connection_pools
        mine = next((each for each in pools if each.num_calls < CALLS_PER_CONNECTION_POOL), None)
        if mine is None:
            mine = _ConnectionPool(httpx.AsyncClient(**self._http_options))
            pools.append(mine)
        mine.num_calls += 1
        try:
            yield mine.http
        finally:
            mine.num_calls -= 1
            if not mine.num_calls and mine is not pools[0]:
                pools.remove(mine)
                await mine.http.aclose()

    async def _follow(self, response: httpx.Response, call: Call) -> None:
        """Read the server-sent events of one answer, to the very end: only then can the connection be used again."""
        rest, is_done = b"", False
        async for piece in response.aiter_raw():
            now = time.monotonic()
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                event = line[5:].strip() if line.startswith(b"data:") else b""
                if event == b"[DONE]":
                    _finish(call)
                    is_done = True
                elif event and not is_done and not self._take(event, call, now):
                    return
        if not is_done:
            call.outcome, call.detail = Outcome.CUT, f"after {call.num_chunks} pieces"

    def _take(self, event: bytes, call: Call, now: float) -> bool:
        """Note one event; returns whether what follows is worth reading."""
        try:
            data = json.loads(event)
            if "error" in data:
                call.outcome, call.detail = Outcome.SERVER_ERROR, _message(data["error"])
                return False
            if choices := data["choices"]:
                says = choices[0]["delta"] if call.is_chat else {"content": choices[0]["text"]}
                call.text += (text := says.get("content") or "")
                # A chat begins with an event of its own, beside the first token's, that only says who speaks.
                if text or "role" not in says:
                    self.num_chunks += 1
                    call.num_chunks += 1
                call.last_token_s = now
                if call.first_token_s is None:
                    call.first_token_s = now
            if usage := data.get("usage"):
                call.usage = int(usage["prompt_tokens"]), int(usage["completion_tokens"])
                call.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            call.outcome, call.detail = Outcome.GARBAGE, repr(event[:60].decode(errors="replace"))
            return False
        return True


def _headers(call: Call) -> dict[str, str]:
    """vLLM reads the engine in ``vllm/entrypoints/generate/base/serving.py: _get_data_parallel_rank`` (0.32.0)."""
    headers = {"Content-Type": "application/json"}
    return headers if call.engine is None else headers | {"X-data-parallel-rank": str(call.engine)}


def _body(call: Call, model: str) -> dict[str, Any]:
    prompt = call.prompt if isinstance(call.prompt, str) else list(call.prompt)
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": call.output_tokens,
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    body |= {"messages": [{"role": "user", "content": prompt}]} if call.is_chat else {"prompt": prompt}
    if call.is_exact:
        body |= {"min_tokens": call.output_tokens, "ignore_eos": True}
    return body if call.priority is None else body | {"priority": call.priority}


def _broken(error: httpx.RequestError, call: Call) -> tuple[Outcome, str]:
    if isinstance(error, httpx.TimeoutException):
        return Outcome.TIMEOUT, f"{type(error).__name__} after {time.monotonic() - (call.sent_s or 0.0):.1f} s"
    if isinstance(error, httpx.DecodingError):
        return Outcome.GARBAGE, _reason(error)
    return (Outcome.UNREACHABLE if call.first_token_s is None else Outcome.CUT), _reason(error)


def _finish(call: Call) -> None:
    if call.usage is None:
        call.outcome, call.detail = Outcome.WRONG_LENGTH, "no usage field"
    elif call.is_exact and call.usage[1] != call.output_tokens:
        call.outcome = Outcome.WRONG_LENGTH
        call.detail = f"{call.usage[1]} output tokens, asked for {call.output_tokens}"
    else:
        call.outcome = Outcome.FINISHED


def _failure(response: httpx.Response) -> tuple[Outcome, str]:
    status = response.status_code
    if status in (401, 403):
        return Outcome.REFUSED, _access(response)
    try:
        told = _message(response.json()["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        told = response.text[:200]
    detail = f"{status}: {told}"
    if status in (429, 503):
        return Outcome.REJECTED, detail
    return (Outcome.REFUSED if 400 <= status < 500 else Outcome.SERVER_ERROR), detail


def _message(error: object) -> str:
    told = error.get("message", error) if isinstance(error, Mapping) else error
    return str(told).replace("\n", " ")[:300]


def _access(response: httpx.Response) -> str:
    sent = "authorization" in response.request.headers
    hint = "the API key is wrong" if sent else "it wants an API key"
    return f"{response.status_code} {response.reason_phrase}: {hint}"


def _reason(error: httpx.RequestError) -> str:
    return str(error) or type(error).__name__


def _parsed(url: str) -> httpx.URL:
    """Scheme, credentials, host, port and path, without ``/v1``."""
    try:
        parsed = httpx.URL(url)
        usable = parsed.scheme in ("http", "https") and bool(parsed.host)
    except httpx.InvalidURL:
        usable = False
    if not usable:
        # A broken URL is not repeated: it might hold a password.
        raise RequestError("the server's URL must look like http://HOST:PORT")
    return parsed.copy_with(path=parsed.path.rstrip("/").removesuffix("/v1"), query=None, fragment=None)
