from pathlib import Path

import pytest

from inframind.calibration import MEMBERS, Architecture, default_pool, num_gpu_blocks, write_pool
from inframind.sim.server_file import (
    FittedOn,
    PoolSection,
    SchedulerSection,
    ServerSection,
    StepTimeSection,
    load_pool,
)
from inframind.traces import ConfigError, TraceError

PUBLISHED_PARAMETERS = {
    "deepseek-r1-32b": 32_763_876_352,
    "mistral-24b": 23_572_403_200,
    "qwen-coder-14b": 14_770_033_664,
    "llama-8b": 8_030_261_248,
    "llama-3b": 3_212_749_824,
}
"""Of the published weights."""


def test_the_architectures_have_as_many_weights_as_published() -> None:
    assert {member.name: member.architecture.num_parameters for member in MEMBERS} == PUBLISHED_PARAMETERS


def test_kv_bytes_of_llama_8b() -> None:
    llama_8b = next(member.architecture for member in MEMBERS if member.name == "llama-8b")

    assert llama_8b.kv_bytes_per_token == 2 * 32 * 8 * 128 * 2 == 128 * 1024


def test_blocks_are_what_weights_and_overhead_leave() -> None:
    """50 GiB at 0.92 are 46 GiB, less 4.5 GiB and the weights; a block is 2 MiB."""
    tiny = Architecture(32, 4096, 32, 8, 128, 14336, 128256)
    weights_mib = 16_060_522_496 / 2**20

    one_gpu = num_gpu_blocks(tiny, 50 * 2**30)
    two_gpus = num_gpu_blocks(tiny, 50 * 2**30, tp_size=2)

    assert one_gpu == int((41.5 * 1024 - weights_mib) / 2)
    assert two_gpus == int((41.5 * 1024 - weights_mib / 2) / 1)


def test_a_written_pool_is_read_back_with_rounded_numbers(tmp_path: Path) -> None:
    step_time = StepTimeSection(
        fixed_s=0.0123456,
        prefill_token_s=6.54321e-5,
        decode_s=0.0,
        std_error={"fixed_s": 1.239e-4},
        fitted_on=FittedOn(
            source='a "table"',
            licence="CC0-1.0",
            num_points=46,
            error_p50=0.01239,
            error_p95=0.1,
            max_prefill_tokens=8192,
            max_num_decodes=256,
            max_context_tokens=132160,
        ),
    )
    scheduler = SchedulerSection(num_blocks=2000, max_model_len=16384, enable_prefix_caching=False)
    pool = PoolSection(
        servers=tuple(
            ServerSection(name=name, model="M", scheduler=scheduler, step_time=step_time) for name in ("a", "b")
        )
    )

    write_pool(pool, "h200_sxm", tmp_path / "pool.toml")

    read = load_pool("pool.toml", tmp_path)
    assert [server.name for server in read.servers] == ["a", "b"]
    assert read.servers[0].scheduler == scheduler
    assert read.servers[0].step_time.fixed_s == 0.01235
    assert read.servers[0].step_time.prefill_token_s == 6.543e-5
    assert read.servers[0].step_time.decode_s == 0
    assert read.servers[0].step_time.std_error == {"fixed_s": 1.2e-4}
    fitted_on = read.servers[0].step_time.fitted_on
    assert fitted_on is not None
    assert (fitted_on.source, fitted_on.error_p50, fitted_on.num_points) == ('a "table"', 0.0124, 46)


def test_what_is_not_known_is_said() -> None:
    with pytest.raises(ConfigError, match=r"b200: 1 problem.*\n.*known: a100_sxm, .*h200_sxm"):
        default_pool({}, "b200")
    with pytest.raises(TraceError, match="no steps of DeepSeek-R1-Distill-Qwen-32B"):
        default_pool({}, "h200_sxm")


def test_the_shipped_pool_is_the_authors_set_up() -> None:
    pool = load_pool("five-models", Path())

    assert [server.name for server in pool.servers] == [member.name for member in MEMBERS]
    assert [server.model for server in pool.servers] == [member.model for member in MEMBERS]
    for server in pool.servers:
        scheduler = server.scheduler
        assert (scheduler.policy, scheduler.max_num_seqs, scheduler.max_num_batched_tokens) == ("fcfs", 16, 8192)
        assert (scheduler.block_size, scheduler.max_model_len) == (16, 16384)
        assert (scheduler.enable_prefix_caching, scheduler.async_scheduling) == (False, True)
        assert server.step_time.fitted_on is not None
        assert "aiconfigurator 0.12.0" in server.step_time.fitted_on.source
        assert server.step_time.fitted_on.licence == "Apache-2.0"


def test_a_larger_llm_is_slower_and_has_fewer_blocks() -> None:
    servers = load_pool("five-models", Path()).servers

    for name in ("fixed_s", "prefill_token_s", "decode_s"):
        seconds = [getattr(server.step_time, name) for server in servers]
        assert seconds == sorted(seconds, reverse=True)
    blocks = [server.scheduler.num_blocks for server in servers]
    assert blocks == sorted(blocks)
