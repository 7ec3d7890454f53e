"""The shipped pools are what they say, and physically plausible."""

from pathlib import Path

import pytest

from inframind.calibration import MEMBERS, RECIPES, correct, fit_members
from inframind.calibration.pool_recipes import GPUS
from inframind.sim.server_file import FittedOn, PoolSection, ServerSection, StepTimeSection, load_pool
from inframind.traces import TraceError

DATA = Path(__file__).parents[2] / "sim" / "data"
FASTEST_FIRST = ("h200", "h100", "a100")

in_each_pool = pytest.mark.parametrize("name", RECIPES)
on_each_gpu = pytest.mark.parametrize("name", [name for name in RECIPES if not name.endswith("-vllm-defaults")])


def pool(name: str) -> PoolSection:
    return load_pool(DATA / f"{name}.toml", Path())


def decode_step_s(server: ServerSection, num_decodes: int, context_tokens: int) -> float:
    step_time = server.step_time
    return step_time.fixed_s + num_decodes * (step_time.decode_s + context_tokens * step_time.context_token_s)


def prefill_s(server: ServerSection, tokens: int) -> float:
    step_time = server.step_time
    return (
        step_time.fixed_s
        + step_time.prefill_token_s * max(0, tokens - step_time.free_prefill_tokens)
        + step_time.context_token_s * tokens
        + step_time.prefill_pair_s * tokens * (tokens + 1) / 2
    )


@in_each_pool
def test_each_pool_has_the_five_llms_with_the_options_of_its_name(name: str) -> None:
    recipe, gpu = RECIPES[name], GPUS[RECIPES[name].system]

    servers = pool(name).servers

    assert [(server.name, server.model) for server in servers] == [(member.name, member.model) for member in MEMBERS]
    for server in servers:
        scheduler = server.scheduler
        assert scheduler.max_num_batched_tokens == gpu.max_num_batched_tokens
        assert (scheduler.block_size, scheduler.max_model_len, scheduler.async_scheduling) == (16, 16384, True)
        expected = ("fcfs", gpu.max_num_seqs, True) if name.endswith("-vllm-defaults") else ("priority", 16, False)
        assert (scheduler.policy, scheduler.max_num_seqs, scheduler.enable_prefix_caching) == expected
        fitted_on = server.step_time.fitted_on
        assert fitted_on is not None
        assert (
            f"aiconfigurator 0.12.0 from its latencies of vLLM 0.{14 if name[:4] == 'a100' else 24}.0"
            in fitted_on.source
        )
        assert recipe.system in fitted_on.source
        assert fitted_on.source.endswith("; corrected by real runs")
        assert fitted_on.licence == "Apache-2.0"


def test_vllms_defaults_by_gpu() -> None:
    """70 GiB or more and no A100: 8192 tokens and 1024 requests a step; others 2048 and 256."""
    defaults = {system: (gpu.max_num_batched_tokens, gpu.max_num_seqs) for system, gpu in GPUS.items()}

    assert defaults == {
        system: (8192, 1024) if gpu.memory_mib >= 70 * 1024 and "a100" not in system else (2048, 256)
        for system, gpu in GPUS.items()
    }


@pytest.mark.parametrize("name", [*FASTEST_FIRST, "l40s"])
def test_the_two_variants_differ_in_their_options_only(name: str) -> None:
    for paper, default in zip(pool(name).servers, pool(f"{name}-vllm-defaults").servers, strict=True):
        assert paper.step_time == default.step_time
        assert paper.scheduler.num_blocks == default.scheduler.num_blocks


@pytest.mark.parametrize("place", range(len(MEMBERS)), ids=lambda place: MEMBERS[place].name)
def test_a_faster_gpu_is_faster(place: int) -> None:
    """L40S servers of the two largest LLMs have two GPUs: only the other three are compared."""
    gpus = FASTEST_FIRST if place < 2 else (*FASTEST_FIRST, "l40s")
    servers = [pool(name).servers[place] for name in gpus]

    for num_decodes, context_tokens in ((1, 256), (16, 1024), (64, 2048)):
        seconds = [decode_step_s(server, num_decodes, context_tokens) for server in servers]
        assert seconds == sorted(seconds)
    # H200 and H100 have the same cores: prefills take equally long, up to the weights' reading.
    h200, h100, a100 = (prefill_s(server, 4096) for server in servers[:3])
    assert h200 == pytest.approx(h100, rel=0.05)
    assert 1.8 * h100 < a100


@on_each_gpu
def test_a_larger_llm_on_as_many_gpus_is_slower_and_has_fewer_blocks(name: str) -> None:
    servers = pool(name).servers
    for alike in [servers[:2], servers[2:]] if name == "l40s" else [servers]:
        for num_decodes, context_tokens in ((1, 256), (16, 1024), (64, 2048)):
            seconds = [decode_step_s(server, num_decodes, context_tokens) for server in alike]
            assert seconds == sorted(seconds, reverse=True)
        seconds = [prefill_s(server, 2048) for server in alike]
        assert seconds == sorted(seconds, reverse=True)


@on_each_gpu
def test_reading_the_weights_is_slower_than_the_data_sheet_allows_but_not_by_half(name: str) -> None:
    bytes_per_s = {"h100_sxm": 3.35e12, "h200_sxm": 4.8e12, "a100_sxm": 2.04e12, "l40s": 0.864e12}
    system = RECIPES[name].system

    for member, server in zip(MEMBERS, pool(name).servers, strict=True):
        num_gpus = 2 if system == "l40s" and member.architecture.num_parameters > 20e9 else 1
        least_s = 2 * member.architecture.read_parameters / bytes_per_s[system] / num_gpus
        assert least_s < server.step_time.fixed_s < 2 * least_s + 0.001


@in_each_pool
def test_weights_and_blocks_fit_into_memory(name: str) -> None:
    gpu_bytes = GPUS[RECIPES[name].system].memory_mib * 2**20

    for member, server in zip(MEMBERS, pool(name).servers, strict=True):
        num_gpus = 2 if name.startswith("l40s") and member.architecture.num_parameters > 20e9 else 1
        block_bytes = 16 * member.architecture.kv_bytes_per_token
        used = member.architecture.weight_bytes + server.scheduler.num_blocks * block_bytes
        assert used <= 0.92 * num_gpus * gpu_bytes - num_gpus * 2**30
        assert used >= 0.92 * num_gpus * gpu_bytes - num_gpus * 4.6 * 2**30


def test_the_correction_by_hand() -> None:
    fitted_on = FittedOn(
        source="a table",
        licence="CC0-1.0",
        num_points=9,
        error_p50=0.01,
        error_p95=0.1,
        max_prefill_tokens=1,
        max_num_decodes=1,
        max_context_tokens=1,
    )
    kernels = StepTimeSection(
        fixed_s=0.01,
        prefill_token_s=1e-4,
        decode_s=2e-5,
        context_token_s=3e-8,
        prefill_pair_s=1e-9,
        free_prefill_tokens=100,
        std_error={"fixed_s": 8e-4, "context_token_s": 1e-9},
        fitted_on=fitted_on,
    )

    corrected = correct(kernels)

    assert corrected.fixed_s == pytest.approx(0.0106)
    assert corrected.decode_s == pytest.approx(3.5e-5)
    assert corrected.prefill_token_s == pytest.approx(1.025e-4)
    assert corrected.prefill_pair_s == pytest.approx(1.025e-9)
    assert (corrected.context_token_s, corrected.free_prefill_tokens) == (3e-8, 100)
    assert corrected.std_error == {"fixed_s": pytest.approx(1e-3), "context_token_s": 1e-9}  # 3-4-5
    assert corrected.fitted_on == fitted_on.model_copy(update={"source": "a table; corrected by real runs"})
    assert kernels.fixed_s == 0.01


def test_an_llm_without_steps_is_named() -> None:
    with pytest.raises(TraceError, match=r"h200_sxm: 5 problem.*\n.*no steps of DeepSeek-R1-Distill-Qwen-32B"):
        fit_members({}, "h200_sxm")
