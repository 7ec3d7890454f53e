"""The pools that ship with InfraMind: five LLMs, each alone on its GPU(s), with step times fitted to a public table.

``docs/pools.md`` has the arithmetic, and says what these numbers are not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from inframind.sim.server_file import PoolSection, SchedulerSection, ServerSection, StepTimeSection
from inframind.traces import TraceError

from .pool_models import MEMBERS, Member, num_gpu_blocks
from .step_fit import fit_step_time
from .step_profiles import StepProfile

LICENCE = "Apache-2.0"
"""Of aiconfigurator 0.12.0 and its data, from which the table is derived."""

BLOCK_TOKENS = 16
MAX_MODEL_LEN = 16384
"""The paper's. vLLM's default is all that the LLM was trained for, which the smaller GPUs have no blocks for."""
GPU_MEMORY_UTILIZATION = 0.92
"""vLLM 0.32's default ``--gpu-memory-utilization``."""
OVERHEAD_BYTES = 2 * 2**30
"""On each GPU, neither weights nor KV cache: CUDA context, CUDA graphs, activations; give or take 0.8 GiB.

A real vLLM 0.19 with 2048 tokens a step had 1.15 GiB of it (llmservingsim_vllm_bench, RTX 4090), where CUDA graphs are
not counted; a step of 8192 tokens holds more."""

STEP_OVERHEAD_S = 0.6e-3
STEP_OVERHEAD_SPREAD_S = 0.6e-3
DECODE_OVERHEAD_S = 1.5e-5
DECODE_OVERHEAD_SPREAD_S = 1.4e-5
PREFILL_FACTOR = 1.025
PREFILL_FACTOR_SPREAD = 0.03
"""What real runs add to kernel times, and how far servers (for the factor: runs) differ: `pool_evidence`."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One kind of GPU."""

    title: str
    memory_mib: int
    """In all, as ``nvidia-smi`` states it."""
    max_num_batched_tokens: int
    """vLLM 0.32's default for a server on it."""
    max_num_seqs: int
    """vLLM 0.32's default for a server on it."""


GPUS = {
    "a100_sxm": Gpu("A100 SXM 80 GB", 81920, 2048, 256),
    "h100_sxm": Gpu("H100 SXM", 81559, 8192, 1024),
    "h200_sxm": Gpu("H200 SXM", 143771, 8192, 1024),
    "l40s": Gpu("L40S", 46068, 2048, 256),
    "rtx_pro_6000_server": Gpu("RTX PRO 6000", 97887, 8192, 1024),
}
"""By the table's name. vLLM takes 8192 tokens and 1024 requests on a GPU of 70 GiB or more that is no A100."""


@dataclass(frozen=True, slots=True)
class PoolRecipe:
    """One shipped pool."""

    name: str
    system: str
    """GPU of every server, by the table's name."""
    options: Literal["paper", "vllm-defaults"]
    policy: Literal["fcfs", "priority"]

    @property
    def title(self) -> str:
        """What the pool is, in a few words."""
        options = "the paper's serving options" if self.options == "paper" else "vLLM's default options"
        return f"five LLMs, each alone on its {GPUS[self.system].title}, {options}"

    def scheduler(self, num_blocks: int) -> SchedulerSection:
        """The options of each server."""
        gpu = GPUS[self.system]
        is_paper = self.options == "paper"
        return SchedulerSection(
            policy=self.policy,
            max_num_seqs=16 if is_paper else gpu.max_num_seqs,
            max_num_batched_tokens=gpu.max_num_batched_tokens,
            block_size=BLOCK_TOKENS,
            num_blocks=num_blocks,
            max_model_len=MAX_MODEL_LEN,
            enable_prefix_caching=not is_paper,
            async_scheduling=True,
        )


_SHORT_NAMES = {"h200": "h200_sxm", "h100": "h100_sxm", "a100": "a100_sxm", "l40s": "l40s"}

RECIPES = {
    recipe.name: recipe
    for recipe in (
        *(PoolRecipe(name, system, "paper", "priority") for name, system in _SHORT_NAMES.items()),
        *(
            PoolRecipe(f"{name}-vllm-defaults", system, "vllm-defaults", "fcfs")
            for name, system in _SHORT_NAMES.items()
        ),
    )
}
"""By name."""


def fit_members(profiles: Mapping[str, StepProfile], system: str) -> dict[str, StepTimeSection]:
    """Kernel times of each LLM on ``system``, by the name of its server, from ``profiles`` (by LLM).

    Raises
    ------
    TraceError
        If an LLM has no profile, or one that does not determine its step time.
    """
    missing = [member.model for member in MEMBERS if member.model not in profiles]
    if missing:
        raise TraceError(system, [f"no steps of {model}" for model in missing])
    return {member.name: _fit(member, profiles[member.model]) for member in MEMBERS}


def _fit(member: Member, profile: StepProfile) -> StepTimeSection:
    source = (
        f"derived with aiconfigurator 0.12.0 from its latencies of vLLM {profile.backend_version} kernels: "
        f"{profile.system}, bf16, TP{profile.tp_size}"
    )
    try:
        return fit_step_time(profile.steps, source=source, licence=LICENCE)
    except ValueError as error:
        raise TraceError(f"{member.model} on {profile.system}", [str(error)]) from None


def correct(kernels: StepTimeSection) -> StepTimeSection:
    """Kernel times as real runs of vLLM show them; each standard error covers how far servers differ.

    The CPU's share of a step, and of each request in it, is added; prefills take a little longer.
    """
    spreads = {
        "fixed_s": STEP_OVERHEAD_SPREAD_S,
        "decode_s": DECODE_OVERHEAD_SPREAD_S,
        "prefill_token_s": PREFILL_FACTOR_SPREAD * kernels.prefill_token_s,
        "prefill_pair_s": PREFILL_FACTOR_SPREAD * kernels.prefill_pair_s,
    }
    fitted_on = kernels.fitted_on
    return kernels.model_copy(
        update={
            "fixed_s": kernels.fixed_s + STEP_OVERHEAD_S,
            "decode_s": kernels.decode_s + DECODE_OVERHEAD_S,
            "prefill_token_s": PREFILL_FACTOR * kernels.prefill_token_s,
            "prefill_pair_s": PREFILL_FACTOR * kernels.prefill_pair_s,
            "std_error": {name: math.hypot(s, spreads.get(name, 0.0)) for name, s in kernels.std_error.items()},
            "fitted_on": fitted_on
            and fitted_on.model_copy(update={"source": f"{fitted_on.source}; corrected by real runs"}),
        }
    )


def build_pool(profiles: Mapping[str, StepProfile], kernels: Mapping[str, StepTimeSection], name: str) -> PoolSection:
    """One shipped pool.

    Parameters
    ----------
    profiles
        Of the pool's GPU, by LLM, see `read_step_profiles`.
    kernels
        What `fit_members` makes of them.
    name
        A key of ``RECIPES``.
    """
    recipe = RECIPES[name]
    usable = math.floor(GPU_MEMORY_UTILIZATION * GPUS[recipe.system].memory_mib * 2**20)
    usable -= OVERHEAD_BYTES
    servers = []
    for member in MEMBERS:
        tp_size = profiles[member.model].tp_size
        num_blocks = num_gpu_blocks(member.architecture, usable, BLOCK_TOKENS, tp_size)
        step_time = correct(kernels[member.name])
        servers.append(
            ServerSection(
                name=member.name, model=member.model, scheduler=recipe.scheduler(num_blocks), step_time=step_time
            )
        )
    return PoolSection(servers=tuple(servers))


def head(recipe: PoolRecipe) -> list[str]:
    """Lines of comment for the pool's file."""
    return [
        f"{recipe.name}: {recipe.title} (docs/pools.md). Generated; do not edit:",
        "  python -m inframind.calibration.step_tables PROFILES.csv -o sim/data",
        "Step times: fitted to step latencies derived from aiconfigurator 0.12.0 (Apache-2.0);",
        "  corrected by what real runs of vLLM show.",
        "num_blocks: an estimate from the memory of the GPU and the size of the LLM.",
    ]
