"""A fake vLLM server on loopback that counts tokens, keeps a queue, and misbehaves on demand."""

import asyncio
import heapq
import itertools
import json
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

LENGTHS = ("1.0", "8.0", "64.0", "512.0", "1024.0", "2048.0", "4096.0", "8192.0", "16384.0", "+Inf")
GARBAGE = {
    "garbage": b"{no json",
    "nested": b"[" * 100_000,
    "endless": b'{"choices": [], "usage": {"prompt_tokens": Infinity, "completion_tokens": 1}}',
}
"""Events that no vLLM server sends, by the name of the fault."""


@dataclass
class Behaviour:
    """What the server is, and what it does wrong; may be changed while it runs."""

    model: str = "owner/fake"
    max_model_len: int | None = 2048
    num_engines: int = 1
    """Data parallel; may not change while it runs. A call goes to the engine that it names, else to the emptiest."""
    max_num_seqs: int = 4
    policy: str = "fcfs"
    prefill_token_s: float = 2e-6
    step_s: float = 0.001
    api_key: str | None = None
    num_gpu_blocks: int = 500
    """Of each engine."""
    spelling: str = "vllm:"
    caching: str | None = "True"
    hidden_metrics: frozenset[str] = frozenset()
    metrics: str | None = None
    """Served as /metrics instead of what is true."""
    metrics_encoding: str | None = None
    """What /metrics is said to be in, whatever it is."""
    metrics_s: float = 0.0
    """How long /metrics takes."""
    process_start_s: float = 1000.0
    answer: str = "x"
    """What is written to a chat, once."""
    faults: list[str] = field(default_factory=list)
    """One for each of the next requests: see `FakeVllm._completion`."""
    fault_always: str | None = None
    """One for every request."""
    dies_after: int | None = None
    """So many requests begin; then the connections break and nothing answers."""


class FakeVllm:
    """Use as a context manager; ``url`` is where it listens, ``seen`` holds the bodies of all completions."""

    def __init__(self, behaviour: Behaviour | None = None, port: int = 0) -> None:
        self.behaviour = behaviour or Behaviour()
        self.seen: list[dict[str, Any]] = []
        self.keys_seen: set[str] = set()
        self.ports_seen: set[int] = set()
        """The client's: one for each connection."""
        self.most_running = self.generated = 0
        self._engines = [_Engine() for _ in range(self.behaviour.num_engines)]
        self._numbers = itertools.count()
        self._steps = dict.fromkeys(LENGTHS, 0)
        app = Starlette(
            routes=[
                Route("/health", self._health),
                Route("/version", self._version),
                Route("/v1/models", self._models),
                Route("/metrics", self._metrics),
                Route("/v1/completions", self._completion, methods=["POST"]),
                Route("/v1/chat/completions", self._completion, methods=["POST"]),
            ]
        )
        config = uvicorn.Config(
            app, port=port, log_level="critical", ws="none", lifespan="off", timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self.url = ""

    def __enter__(self) -> Self:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)
        host, port = self._server.servers[0].sockets[0].getsockname()[:2]
        self.url = f"http://{host}:{port}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.die()

    def die(self) -> None:
        """Break every connection and listen no more."""
        self._server.should_exit = self._server.force_exit = True
        self._thread.join()

    async def _health(self, request: Request) -> Response:
        return self._denied(request) or Response()

    async def _version(self, request: Request) -> Response:
        return self._denied(request) or JSONResponse({"version": "0.32.0"})

    async def _models(self, request: Request) -> Response:
        models = [{"id": self.behaviour.model, "max_model_len": self.behaviour.max_model_len}]
        return self._denied(request) or JSONResponse({"object": "list", "data": models})

    async def _metrics(self, request: Request) -> Response:
        await asyncio.sleep(self.behaviour.metrics_s)
        told, encoding = self.behaviour.metrics, self.behaviour.metrics_encoding
        headers = {} if encoding is None else {"Content-Encoding": encoding}
        return PlainTextResponse(self.metrics_text() if told is None else told, headers=headers)

    @property
    def running(self) -> int:
        """Calls that have a slot."""
        return sum(engine.running for engine in self._engines)

    def metrics_text(self) -> str:
        """What is true."""
        behaviour = self.behaviour
        labels = {"num_gpu_blocks": str(behaviour.num_engines * behaviour.num_gpu_blocks), "block_size": "16"}
        if behaviour.caching is not None:
            labels["enable_prefix_caching"] = behaviour.caching
        told = ",".join(f'{name}="{value}"' for name, value in labels.items())
        values: dict[str, float] = {'generation_tokens_total{engine="0"}': self.generated}
        for index, engine in enumerate(self._engines):
            values |= {
                f'num_requests_running{{engine="{index}"}}': engine.running,
                f'num_requests_waiting{{engine="{index}"}}': len(engine.waiting),
                f'kv_cache_usage_perc{{engine="{index}"}}': engine.running / 100,
                f'cache_config_info{{engine="{index}",{told}}}': 1.0,
            }
        cumulative = itertools.accumulate(self._steps.values())
        values |= {
            f'iteration_tokens_total_bucket{{le="{bound}"}}': count
            for bound, count in zip(LENGTHS, cumulative, strict=True)
        }
        lines = [
            f"{behaviour.spelling}{name} {value}"
            for name, value in values.items()
            if name.partition("{")[0] not in behaviour.hidden_metrics
        ]
        lines.append(f"process_start_time_seconds {behaviour.process_start_s}")
        return "# HELP vllm:num_requests_running Words.\n" + "\n".join(lines) + "\n"

    async def _completion(self, request: Request) -> Response:
        body = await request.json()
        self.seen.append(body)
        self.ports_seen.add(request.client.port if request.client else 0)
        if (denied := self._denied(request)) is not None:
            return denied
        behaviour = self.behaviour
        if behaviour.dies_after is not None and len(self.seen) > behaviour.dies_after:
            self._server.should_exit = self._server.force_exit = True
        fault = behaviour.faults.pop(0) if behaviour.faults else behaviour.fault_always
        if fault is not None and fault.isdigit():
            message = f"told by {fault}"
            return JSONResponse({"error": {"message": message, "code": int(fault)}}, status_code=int(fault))
        if fault == "no gzip":
            return PlainTextResponse("broken", status_code=502, headers={"Content-Encoding": "gzip"})
        if _num_tokens(body) + body["max_tokens"] > (behaviour.max_model_len or 10**9):
            return JSONResponse({"error": {"message": "longer than max_model_len"}}, status_code=400)
        rank = request.headers.get("x-data-parallel-rank")
        engine = min(self._engines, key=_Engine.load) if rank is None else self._engines[int(rank)]
        return StreamingResponse(self._stream(body, fault, engine), media_type="text/event-stream")

    def _denied(self, request: Request) -> Response | None:
        key = self.behaviour.api_key
        sent = request.headers.get("authorization", "")
        self.keys_seen.add(sent)
        if key is None or sent == f"Bearer {key}":
            return None
        return JSONResponse({"error": "Unauthorized"}, status_code=403 if sent else 401)

    async def _stream(self, body: dict[str, Any], fault: str | None, engine: "_Engine") -> AsyncIterator[bytes]:
        """``cut`` and `GARBAGE` come after two tokens; ``error`` is told in the stream; ``stall`` never ends."""
        behaviour = self.behaviour
        is_chat = "messages" in body
        words = behaviour.answer.split(" ") if is_chat else ["x"] * body["max_tokens"]
        number = min(len(words), body["max_tokens"]) - (1 if fault == "short" else 0)
        prompt_tokens = _num_tokens(body)
        async with self._slot(engine, body.get("priority", 0)):
            self.most_running = max(self.most_running, self.running)
            self._steps[next(le for le in LENGTHS if float(le) >= prompt_tokens)] += 1
            await asyncio.sleep(behaviour.prefill_token_s * prompt_tokens)
            for index in range(number):
                await asyncio.sleep(behaviour.step_s)
                if fault == "stall":
                    await asyncio.sleep(3600)
                if index == 2 and fault == "cut":
                    return
                if index == 2 and fault in GARBAGE:
                    yield b"data: " + GARBAGE[fault] + b"\n\n"
                if fault == "error":
                    yield _event({"error": {"message": "it\nbroke", "code": 500}})
                    return
                if is_chat and index == 0:
                    yield _event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
                self.generated += 1
                text = words[index] + (" " if is_chat and index < number - 1 else "")
                yield _event(
                    {"choices": [{"index": 0, **({"delta": {"content": text}} if is_chat else {"text": text})}]}
                )
        if fault != "no usage":
            yield _event({"choices": [], "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": number}})
        yield b"data: [DONE]\n\n"

    @asynccontextmanager
    async def _slot(self, engine: "_Engine", priority: int) -> AsyncIterator[None]:
        if engine.running < self.behaviour.max_num_seqs:
            engine.running += 1
        else:
            await self._turn(engine, priority)
        try:
            yield
        finally:
            engine.pass_on()

    async def _turn(self, engine: "_Engine", priority: int) -> None:
        rank = priority if self.behaviour.policy == "priority" else 0
        entry = (rank, next(self._numbers), asyncio.Event())
        heapq.heappush(engine.waiting, entry)
        try:
            await entry[2].wait()
        except asyncio.CancelledError:
            if entry in engine.waiting:
                engine.waiting.remove(entry)
                heapq.heapify(engine.waiting)
            else:
                engine.pass_on()
            raise


class _Engine:
    """Slots and a queue."""

    def __init__(self) -> None:
        self.running = 0
        self.waiting: list[tuple[int, int, asyncio.Event]] = []

    def load(self) -> int:
        """Calls that run or wait."""
        return self.running + len(self.waiting)

    def pass_on(self) -> None:
        """The slot of one that ended goes to the next one."""
        if self.waiting:
            heapq.heappop(self.waiting)[2].set()
        else:
            self.running -= 1


def _num_tokens(body: dict[str, Any]) -> int:
    """Of the prompt: ids, or a quarter of the characters of a chat's message."""
    return len(body["prompt"]) if "prompt" in body else -(-len(body["messages"][0]["content"]) // 4)


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"
