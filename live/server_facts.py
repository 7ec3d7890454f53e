"""What a server tells about itself before any request."""

import statistics
import time
from dataclasses import dataclass

import httpx

from .client import Client, RequestError, ServerError
from .metrics import parse_cache_config, parse_gauges

ROUND_TRIPS = 10


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """One server, as its API shows it."""

    url: str
    """Without credentials."""
    model: str
    """The name under which requests ask for it."""
    version: str
    """vLLM's; ``unknown`` where the server does not tell."""
    max_model_len: int
    num_engines: int
    """``--data-parallel-size``."""
    num_gpu_blocks: int
    """Of each engine, the null block included."""
    block_size: int
    enable_prefix_caching: bool | None
    """None where the server does not tell."""
    process_start_s: float
    """When the server process began, Unix time; NaN where it does not tell."""


async def read_facts(client: Client, model: str | None = None) -> ServerFacts:
    """Ask ``/v1/models``, ``/version`` and ``/metrics``.

    Parameters
    ----------
    model
        Which of the served models; None if there is only one.

    Raises
    ------
    RequestError
        If the key is refused, the model is not served, or there are several and none was named.
    ServerError
        If nothing answers, or it does not answer as a vLLM server does.
    """
    name, max_model_len = await _model(client, model)
    metrics = await client.get("/metrics")
    if metrics.status_code != 200:
        raise ServerError(f"{client.url}/metrics: answers {metrics.status_code}; is it a vLLM server?")
    cache = parse_cache_config(metrics.text)
    gauges = parse_gauges(metrics.text)
    return ServerFacts(
        url=client.url,
        model=name,
        version=_version(await client.get("/version")),
        max_model_len=max_model_len,
        num_engines=cache.num_engines,
        num_gpu_blocks=cache.num_gpu_blocks,
        block_size=cache.block_size,
        enable_prefix_caching=cache.enable_prefix_caching,
        process_start_s=gauges.process_start_s,
    )


async def round_trip_s(client: Client) -> float:
    """Median time of a request that the server answers without its engine: the part of TTFT that is the way there."""
    times = []
    for _ in range(ROUND_TRIPS):
        begin = time.monotonic()
        await client.get("/version")
        times.append(time.monotonic() - begin)
    return statistics.median(times)


async def _model(client: Client, wanted: str | None) -> tuple[str, int]:
    response = await client.get("/v1/models")
    try:
        served = {entry["id"]: entry.get("max_model_len") for entry in response.json()["data"]}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ServerError(
            f"{client.url}/v1/models: answers {response.status_code}, no list of models; is it a vLLM server?"
        ) from None
    names = ", ".join(served) or "none"
    if wanted is None and len(served) != 1:
        raise RequestError(f"{client.url}: name one of its models with --model: {names}")
    name = next(iter(served)) if wanted is None else wanted
    if name not in served:
        raise RequestError(f"{client.url}: model {name!r} is not served; it serves {names}")
    if not isinstance(served[name], int):
        raise ServerError(f"{client.url}/v1/models: tells no max_model_len of {name!r}; is it a vLLM server?")
    return name, served[name]


def _version(response: httpx.Response) -> str:
    try:
        return str(response.json()["version"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return "unknown"
