"""What a vLLM server tells about itself in ``/metrics``, in either spelling of its names: ``vllm:x``, ``vllm_x``."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from .client import ServerError

RUNNING, WAITING, KV_USAGE = "num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"
CACHE_CONFIG = "cache_config_info"
ITERATION_TOKENS = "iteration_tokens_total_bucket"
GENERATION_TOKENS = "generation_tokens_total"
PROCESS_START = "process_start_time_seconds"


class MetricsError(ServerError):
    """``/metrics`` is not what a vLLM server shows."""


@dataclass(frozen=True, slots=True)
class Gauges:
    """Queue state at one moment."""

    waiting: int
    running: int
    kv_usage: float
    """Share of the KV blocks in use, 0 to 1."""
    process_start_s: float
    """When the server process began, Unix time; another value is another process. NaN where it is not told."""
    generation_tokens: float = math.nan
    """Generated since then, by all requests. NaN where it is not told."""


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """The labels of ``vllm:cache_config_info``."""

    num_engines: int
    """``--data-parallel-size``."""
    num_gpu_blocks: int
    """Of each engine, the null block included."""
    block_size: int
    enable_prefix_caching: bool | None
    """None where the server does not tell."""


def parse_gauges(text: str) -> Gauges:
    """Read the gauges; those of several engines (data parallel) are added up, usage is averaged.

    Raises
    ------
    MetricsError
        If one is missing, or is no number.
    """
    found = _samples(text, (RUNNING, WAITING, KV_USAGE, PROCESS_START, GENERATION_TOKENS))
    _check(found, (RUNNING, WAITING, KV_USAGE))
    values = {name: [sample.value for sample in samples] for name, samples in found.items()}
    for name in (RUNNING, WAITING, KV_USAGE):
        if not math.isfinite(total := sum(values[name])):
            raise MetricsError(f"/metrics: vllm:{name} is no number: {total}")
    return Gauges(
        waiting=int(sum(values[WAITING])),
        running=int(sum(values[RUNNING])),
        kv_usage=sum(values[KV_USAGE]) / len(values[KV_USAGE]),
        process_start_s=values[PROCESS_START][0] if values[PROCESS_START] else math.nan,
        generation_tokens=sum(values[GENERATION_TOKENS]) if values[GENERATION_TOKENS] else math.nan,
    )


def parse_cache_config(text: str) -> CacheConfig:
    """Read ``vllm:cache_config_info``.

    Of several engines (data parallel) each has a line, and each line tells the blocks of all of them together
    (``vllm/v1/engine/core_client.py: _apply_ready_response``, 0.32.0).

    Raises
    ------
    MetricsError
        If it is missing or lacks a number.
    """
    found = _samples(text, (CACHE_CONFIG,))
    _check(found, (CACHE_CONFIG,))
    num_engines = len(found[CACHE_CONFIG])
    labels = found[CACHE_CONFIG][0].labels
    caching = labels.get("enable_prefix_caching")
    try:
        return CacheConfig(
            num_engines=num_engines,
            num_gpu_blocks=int(labels["num_gpu_blocks"]) // num_engines,
            block_size=int(labels["block_size"]),
            enable_prefix_caching=None if caching is None else caching == "True",
        )
    except (KeyError, ValueError):
        told = {name: labels.get(name) for name in ("num_gpu_blocks", "block_size")}
        raise MetricsError(f"/metrics: vllm:{CACHE_CONFIG} lacks a number: {told}") from None


def parse_iteration_tokens(text: str) -> Mapping[float, float]:
    """How many engine steps so far held at most so many tokens, by upper bound; empty if the server does not tell.

    Raises
    ------
    MetricsError
        If a bound is no number.
    """
    buckets: dict[float, float] = {}
    for sample in _samples(text, (ITERATION_TOKENS,))[ITERATION_TOKENS]:
        try:
            bound = float(sample.labels["le"])
        except (KeyError, ValueError):
            raise MetricsError(f"/metrics: vllm:{ITERATION_TOKENS} lacks a bound: {sample.labels}") from None
        buckets[bound] = buckets.get(bound, 0.0) + sample.value
    return buckets


def _samples(text: str, names: tuple[str, ...]) -> dict[str, list[Sample]]:
    """The samples of these metrics. Only their lines are parsed: all of ``/metrics`` would stall the event loop, and
    with it every time that is being measured."""
    wanted = [line for line in text.splitlines() if not line.startswith("#") and _plain(line).startswith(names)]
    found: dict[str, list[Sample]] = {name: [] for name in names}
    for sample in _parsed(wanted):
        if (name := _plain(sample.name)) in found:
            found[name].append(sample)
    return found


def _parsed(lines: list[str]) -> Iterator[Sample]:
    try:
        for family in text_string_to_metric_families("\n".join(lines) + "\n"):
            yield from family.samples
    except (ValueError, IndexError, KeyError) as error:
        raise MetricsError(f"/metrics cannot be read: {error}") from None


def _plain(name: str) -> str:
    return name.removeprefix("vllm:").removeprefix("vllm_")


def _check(found: Mapping[str, list[Sample]], names: tuple[str, ...]) -> None:
    missing = [f"vllm:{name}" for name in names if not found[name]]
    if missing:
        raise MetricsError(
            f"/metrics lacks {', '.join(missing)}; is it a vLLM server, started without --disable-log-stats?"
        )
