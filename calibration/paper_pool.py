"""``python -m inframind.calibration.paper_pool``: the InfraMind authors' pool, five servers on two B200.

Nobody published a log of these servers. Their step times are those of the shipped pool ``h200``, moved to a B200 by its
data sheet, times one slowdown that is the same for all five: so that the 32B LLM serves as many calls a second as the
authors' did. ``docs/paper-pool.md`` lists the assumptions, what was used, and what is left as a check.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd

from inframind.sim.server_file import PoolSection, SchedulerSection, ServerSection, StepTimeSection, load_pool
from inframind.sim.simulate import simulate_calls

from .pool_file import write_pool
from .pool_models import MEMBERS, num_gpu_blocks
from .pool_recipes import BLOCK_TOKENS, DECODE_OVERHEAD_S, STEP_OVERHEAD_S

GPU_MEMORY_BYTES = 183_359 * 2**20
"""A B200 as ``nvidia-smi`` states it: 179 GiB."""
GPU_MEMORY_UTILIZATION = {
    "deepseek-r1-32b": 0.50,
    "mistral-24b": 0.30,
    "qwen-coder-14b": 0.18,
    "llama-8b": 0.15,
    "llama-3b": 0.12,
}
"""The authors' ``--gpu-memory-utilization``; the 32B and the 14B share one GPU, the other three the other."""
OVERHEAD_BYTES = int(1.2 * 2**30)
"""Of each server, neither weights nor KV cache, without CUDA graphs, which vLLM did not count then."""

BANDWIDTH_RATIO = 8.0 / 4.8
"""Memory of a B200 to that of an H200, TB/s in the data sheets: reading weights and KV cache is so much faster."""
COMPUTE_RATIO = 2250 / 989
"""TFLOP/s in bf16, dense, in the data sheets: prefills are so much faster."""

BOTTLENECK = "deepseek-r1-32b"
CALLS_PER_S = 0.40
"""Of the 32B server with 16 calls running: 1,000 calls in about 2,450 s, inferred from MoA's latencies at 200
queries/min."""
NUM_CALLS = 1000
PROMPT_TOKENS = 1000
OUTPUT_TOKENS = (352, 2048)
"""Assumed: the calls' outputs are evenly spread between the two, 1,200 in the mean; 2,048 is the authors' cap."""


def stated_calls(num_calls: int = NUM_CALLS) -> pd.DataFrame:
    """Calls of the stated lengths that all arrive at once (columns of ``traces.REQUESTS``)."""
    outputs = np.linspace(*OUTPUT_TOKENS, num_calls).round().astype(np.int64)
    return pd.DataFrame(
        {
            "arrival_s": 0.0,
            "prompt_tokens": PROMPT_TOKENS,
            "output_tokens": np.random.default_rng(0).permutation(outputs),
        }
    )


def drain_calls_per_s(server: ServerSection) -> float:
    """Calls a second until a server has served all the stated ones."""
    calls = stated_calls()
    ended = simulate_calls([server.options()], calls, sample_s=None).calls["finish_s"]
    return len(calls) / float(ended.max())


def paper_pool(h200: PoolSection) -> PoolSection:
    """The authors' pool from the shipped pool ``h200``."""
    alone = {server.name: _server(server, 1.0) for server in h200.servers}
    # Nothing arrives later, and a server that takes twice as long for every step decides the same twice as late.
    slowdown = drain_calls_per_s(alone[BOTTLENECK]) / CALLS_PER_S
    return PoolSection(servers=tuple(_server(server, slowdown) for server in h200.servers))


def _server(h200: ServerSection, slowdown: float) -> ServerSection:
    return ServerSection(
        name=h200.name,
        model=h200.model,
        scheduler=SchedulerSection(
            policy="priority",
            max_num_seqs=16,
            max_num_batched_tokens=8192,
            block_size=BLOCK_TOKENS,
            num_blocks=_num_blocks(h200.name),
            max_model_len=16384,
            enable_prefix_caching=False,
            async_scheduling=False,
        ),
        step_time=_slowed(on_b200(h200.step_time), slowdown),
    )


def _num_blocks(name: str) -> int:
    architecture = next(member.architecture for member in MEMBERS if member.name == name)
    usable = math.floor(GPU_MEMORY_UTILIZATION[name] * GPU_MEMORY_BYTES) - OVERHEAD_BYTES
    return num_gpu_blocks(architecture, usable, BLOCK_TOKENS)


def on_b200(h200: StepTimeSection) -> StepTimeSection:
    """Step times on a B200 that is not shared; the CPU's share stays, the GPU's is scaled by the data sheets."""
    return StepTimeSection(
        fixed_s=STEP_OVERHEAD_S + (h200.fixed_s - STEP_OVERHEAD_S) / BANDWIDTH_RATIO,
        prefill_token_s=h200.prefill_token_s / COMPUTE_RATIO,
        decode_s=DECODE_OVERHEAD_S + (h200.decode_s - DECODE_OVERHEAD_S) / COMPUTE_RATIO,
        context_token_s=h200.context_token_s / BANDWIDTH_RATIO,
        prefill_pair_s=h200.prefill_pair_s / COMPUTE_RATIO,
        free_prefill_tokens=round(h200.free_prefill_tokens * COMPUTE_RATIO / BANDWIDTH_RATIO),
    )


def _slowed(alone: StepTimeSection, slowdown: float) -> StepTimeSection:
    slowed = {name: slowdown * value for name, value in alone.terms.items() if name.endswith("_s")}
    return alone.model_copy(update=slowed)


_HEAD = (
    "paper: the InfraMind authors' five servers on two B200 (docs/paper-pool.md). Generated; do not edit:",
    "  python -m inframind.calibration.paper_pool -o sim/data/paper.toml",
    "Step times: those of the pool h200 (aiconfigurator 0.12.0, Apache-2.0), moved to a B200 by its data sheet, times",
    "  one slowdown with which the 32B serves 0.40 calls/s at 16 slots, as the authors' did. Not measured.",
    "num_blocks: an estimate from the authors' shares of the GPUs' memory.",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the pool file; 2 if the person's option is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m inframind.calibration.paper_pool",
        description="Make the pool of the InfraMind authors from the shipped pool h200 and their published numbers.",
    )
    parser.add_argument(
        "-o", dest="output", type=Path, required=True, metavar="POOL.toml", help="the pool file to write"
    )
    args = parser.parse_args(argv)
    with resources.as_file(resources.files("inframind.sim") / "data" / "h200.toml") as path:
        pool = paper_pool(load_pool(path, Path()))
    try:
        write_pool(pool, _HEAD, args.output)
    except OSError as error:
        print(f"error: {args.output}: cannot be written: {error.strerror}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
