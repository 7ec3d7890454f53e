"""The pool that ships with InfraMind: five LLMs, each alone on its GPUs, with step times fitted to a public table.

``docs/default-pool.md`` has the arithmetic, and says what these numbers are not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from inframind.sim.server_file import PoolSection, SchedulerSection, ServerSection, StepTimeSection
from inframind.traces import ConfigError, TraceError

from .step_fit import fit_step_time
from .step_profiles import StepProfile

LICENCE = "Apache-2.0"
"""Of aiconfigurator 0.12.0 and its data, from which the table is derived."""

GPU_MEMORY_UTILIZATION = 0.92
"""vLLM 0.32's default ``--gpu-memory-utilization``."""
OVERHEAD_BYTES = int(4.5 * 2**30)
"""On each GPU, neither weights nor KV cache: CUDA context, NCCL, CUDA graphs, activations. The table's ``memory_gib``
for a prefill of 8192 tokens, less weights and KV cache, is 4.0 to 4.4 GiB for these LLMs."""
BLOCK_TOKENS = 16
_BF16_BYTES = 2

GPU_MEMORY_MIB = {
    "a100_sxm": 81920,
    "h100_sxm": 81559,
    "h200_sxm": 143771,
    "l40s": 46068,
    "rtx_pro_6000_server": 97887,
}
"""Total memory of one GPU as ``nvidia-smi`` states it."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """A dense decoder-only transformer with gated MLPs (Llama, Mistral, Qwen2), from its public ``config.json``."""

    num_layers: int
    hidden: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    qkv_bias: bool = False
    """Qwen2 has biases on the query, key and value projections."""
    tied_embeddings: bool = False
    """The output layer is the embedding, stored once."""

    @property
    def num_parameters(self) -> int:
        """Weights in all, embeddings included."""
        query, key_value = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        attention = 2 * self.hidden * query + 2 * self.hidden * key_value
        biases = query + 2 * key_value if self.qkv_bias else 0
        norms = 2 * self.hidden
        layer = attention + biases + 3 * self.hidden * self.intermediate + norms
        embeddings = self.vocab * self.hidden * (1 if self.tied_embeddings else 2)
        return self.num_layers * layer + embeddings + self.hidden

    @property
    def kv_bytes_per_token(self) -> int:
        """A key and a value for each layer and KV head, in bf16."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * _BF16_BYTES


@dataclass(frozen=True, slots=True)
class Member:
    """One LLM of the pool."""

    name: str
    """Of its server."""
    model: str
    architecture: Architecture


MEMBERS = (
    Member(
        "deepseek-r1-32b",
        "DeepSeek-R1-Distill-Qwen-32B",
        Architecture(64, 5120, 40, 8, 128, 27648, 152064, qkv_bias=True),
    ),
    Member(
        "mistral-24b",
        "Mistral-Small-24B-Instruct-2501",
        Architecture(40, 5120, 32, 8, 128, 32768, 131072),
    ),
    Member(
        "qwen-coder-14b",
        "Qwen2.5-Coder-14B-Instruct",
        Architecture(48, 5120, 40, 8, 128, 13824, 152064, qkv_bias=True),
    ),
    Member(
        "llama-8b",
        "Llama-3.1-8B-Instruct",
        Architecture(32, 4096, 32, 8, 128, 14336, 128256),
    ),
    Member(
        "llama-3b",
        "Llama-3.2-3B-Instruct",
        Architecture(28, 3072, 24, 8, 128, 8192, 128256, tied_embeddings=True),
    ),
)


def num_gpu_blocks(architecture: Architecture, gpu_memory_bytes: int, tp_size: int = 1) -> int:
    """KV blocks that fit beside the weights in bf16, the null block included; an estimate of what vLLM would find."""
    usable = math.floor(GPU_MEMORY_UTILIZATION * gpu_memory_bytes) - OVERHEAD_BYTES
    weights = architecture.num_parameters * _BF16_BYTES // tp_size
    return (usable - weights) // (BLOCK_TOKENS * architecture.kv_bytes_per_token // tp_size)


def default_pool(profiles: Mapping[str, StepProfile], system: str) -> PoolSection:
    """The five servers on ``system``, fitted to ``profiles`` (by LLM, see `read_step_profiles`).

    Raises:
        TraceError: If an LLM has no profile, or one that does not determine its step time.
        ConfigError: If the memory of such a GPU is not known.
    """
    if system not in GPU_MEMORY_MIB:
        raise ConfigError(system, [f"GPU of unknown memory; known: {', '.join(GPU_MEMORY_MIB)}"])
    missing = [member.model for member in MEMBERS if member.model not in profiles]
    if missing:
        raise TraceError(system, [f"no steps of {model}" for model in missing])
    return PoolSection(servers=tuple(_server(member, profiles[member.model]) for member in MEMBERS))


def _server(member: Member, profile: StepProfile) -> ServerSection:
    source = (
        f"derived with aiconfigurator 0.12.0 from its latencies of vLLM {profile.backend_version} kernels: "
        f"{profile.system}, bf16, TP{profile.tp_size}"
    )
    try:
        step_time = fit_step_time(profile.steps, source=source, licence=LICENCE)
    except ValueError as error:
        raise TraceError(f"{member.model} on {profile.system}", [str(error)]) from None
    memory_mib = GPU_MEMORY_MIB[profile.system]
    scheduler = SchedulerSection(
        policy="fcfs",
        max_num_seqs=16,
        max_num_batched_tokens=8192 if memory_mib >= 70 * 1024 and profile.system != "a100_sxm" else 2048,
        block_size=BLOCK_TOKENS,
        num_blocks=num_gpu_blocks(member.architecture, memory_mib * 2**20, profile.tp_size),
        max_model_len=16384,
        enable_prefix_caching=False,
        async_scheduling=True,
    )
    return ServerSection(name=member.name, model=member.model, scheduler=scheduler, step_time=step_time)


_HEAD = """\
# The default pool: five LLMs, each alone on its GPU(s) (docs/default-pool.md). Generated; do not edit:
#   python -m inframind.calibration.step_tables PROFILES.csv --system {system} -o FILE
# Step times: fitted to step latencies derived from aiconfigurator 0.12.0 (Apache-2.0). They are kernel times: the CPU's
# share of a step is not in them, so real steps are slower.
# num_blocks: an estimate from the memory of the GPU and the size of the LLM.
"""


def write_pool(pool: PoolSection, system: str, path: str | Path) -> None:
    """Write a pool file; numbers are rounded to 4 significant digits (errors: 3, standard errors: 2).

    Raises:
        OSError: If it cannot be written.
    """
    lines = [_HEAD.format(system=system)]
    for server in pool.servers:
        scheduler = server.scheduler.model_dump(include=server.scheduler.model_fields_set)
        lines += ["[[servers]]", *_pairs({"name": server.name, "model": server.model})]
        lines += ["", "[servers.scheduler]", *_pairs(scheduler), "", *_step_time_lines(server.step_time), ""]
    Path(path).write_text("\n".join(lines).rstrip("\n") + "\n", encoding="utf-8", newline="\n")


def _step_time_lines(step_time: StepTimeSection) -> Iterable[str]:
    parameters = step_time.model_dump(exclude={"std_error", "fitted_on"})
    yield "[servers.step_time]"
    yield from _pairs(parameters)
    if step_time.std_error:
        yield ""
        yield "[servers.step_time.std_error]"
        yield from _pairs(step_time.std_error, digits=2)
    if step_time.fitted_on is not None:
        yield ""
        yield "[servers.step_time.fitted_on]"
        yield from _pairs(step_time.fitted_on.model_dump(), digits=3)


def _pairs(table: Mapping[str, object], digits: int = 4) -> Iterable[str]:
    return [f"{key} = {_toml(value, digits)}" for key, value in table.items()]


def _toml(value: object, digits: int) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(float(f"{value:.{digits}g}"))
    if isinstance(value, int):
        return str(value)
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'
