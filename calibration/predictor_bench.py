"""How many latency maps a second: the predictors with random weights, which take as long as trained ones."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import median

import numpy as np

from .predictors import IS_LOG, NUM_HIDDEN, NUM_HIDDEN_LENGTH, About, Floats, LatencyPredictors, LengthMlp, StackedMlp

NUM_MODELS, NUM_STRATEGIES, EMBEDDING_SIZE = 5, 3, 384
"""The pool of the InfraMind paper, and all-MiniLM-L6-v2."""
BATCHES = (1, 16, 64, 256, 1024)
MIN_S = 0.2
"""Each measurement takes at least so long."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One batch size, with query embeddings or with mean lengths."""

    batch: int
    with_embeddings: bool
    maps_per_s: float
    """Median over the repeats."""
    call_us: float
    """Microseconds for one batch: for a batch of 1, the latency of a decision's map."""
    cores: float
    """CPU time over elapsed time: above 1 if the BLAS uses threads."""


def bench_predictors(repeats: int = 3, on_progress: Callable[[float], None] | None = None) -> dict[str, object]:
    """All of it, as ``inframind bench predictors --json`` prints it."""
    predictors = random_predictors()
    measurements = []
    for index, batch in enumerate(BATCHES):
        for with_embeddings in (True, False):
            measurements.append(_measure(predictors, batch, with_embeddings, repeats))
        if on_progress is not None:
            on_progress((index + 1) / len(BATCHES))
    return {
        "models": NUM_MODELS,
        "strategies": NUM_STRATEGIES,
        "embedding_size": EMBEDDING_SIZE,
        "measurements": [asdict(measurement) for measurement in measurements],
    }


def random_predictors(
    num_models: int = NUM_MODELS,
    num_strategies: int = NUM_STRATEGIES,
    embedding_size: int = EMBEDDING_SIZE,
    seed: int = 0,
) -> LatencyPredictors:
    """Predictors as large as trained ones, with weights drawn at random."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> Floats:
        return rng.normal(0, 0.1, shape).astype(np.float32)

    def stacked(name: str, num_inputs: int) -> StackedMlp:
        sizes = (num_inputs, NUM_HIDDEN, NUM_HIDDEN, num_strategies)
        return StackedMlp(
            tuple(draw(num_models, *layer) for layer in pairwise(sizes)),
            tuple(draw(num_models, 1, size) for size in sizes[1:]),
            np.ones((num_models, 1, 1), np.float32),
            IS_LOG[name],
        )

    first, second = NUM_HIDDEN_LENGTH
    length = LengthMlp(
        draw(embedding_size, first),
        draw(num_models, num_strategies, first),
        (draw(first, second), draw(second, 1)),
        (draw(second), draw(1)),
        200.0,
    )
    about = About(
        models=tuple(f"model-{i}" for i in range(num_models)),
        strategies=tuple(f"strategy-{i}" for i in range(num_strategies)),
        embedding_size=embedding_size,
        gauges={},
        levels=(0.05, 0.95),
        seed=seed,
        records={},
    )
    mean_length = np.full((num_models, num_strategies), 200.0, np.float32)
    return LatencyPredictors(about, stacked("ttft", 3), stacked("tpot", 2), mean_length, length)


def _measure(predictors: LatencyPredictors, batch: int, with_embeddings: bool, repeats: int) -> Measurement:
    rng = np.random.default_rng(1)
    prompt_tokens = rng.integers(50, 2000, batch)
    running, waiting = rng.integers(0, 16, (batch, NUM_MODELS)), rng.integers(0, 50, (batch, NUM_MODELS))
    embedding = rng.normal(size=(batch, EMBEDDING_SIZE)).astype(np.float32) if with_embeddings else None

    def elapsed_s(calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            predictors.latency_map(prompt_tokens, running, waiting, embedding)
        return time.perf_counter() - start

    calls = 1
    while (guess_s := elapsed_s(calls)) < MIN_S:
        calls = max(2 * calls, int(calls * 1.2 * MIN_S / guess_s) if guess_s > 0.01 else 0)
    cpu = time.process_time()
    times = [elapsed_s(calls) for _ in range(repeats)]
    cpu_s = time.process_time() - cpu
    call_s = median(times) / calls
    return Measurement(batch, with_embeddings, batch / call_s, 1e6 * call_s, cpu_s / sum(times))
