"""The authors' pool: what it was fitted to, and what it was not."""

from pathlib import Path

import numpy as np
import pytest

from inframind.calibration import MEMBERS
from inframind.calibration.paper_pool import (
    GPU_MEMORY_BYTES,
    GPU_MEMORY_UTILIZATION,
    drain_calls_per_s,
    main,
    on_b200,
    stated_calls,
)
from inframind.sim import simulate_calls
from inframind.sim.server_file import PoolSection, ServerSection, StepTimeSection, load_pool

DATA = Path(__file__).parents[2] / "sim" / "data"


@pytest.fixture(scope="module")
def pool() -> PoolSection:
    return load_pool(DATA / "paper.toml", Path())


def server(pool: PoolSection, name: str) -> ServerSection:
    return next(each for each in pool.servers if each.name == name)


def test_the_shipped_pool_is_what_the_module_makes(tmp_path: Path) -> None:
    assert main(["-o", str(tmp_path / "paper.toml")]) == 0
    assert (tmp_path / "paper.toml").read_bytes() == (DATA / "paper.toml").read_bytes()


def test_a_pool_that_cannot_be_written_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-o", str(tmp_path / "no" / "paper.toml")]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}/no/paper.toml: cannot be written: No such file or directory\n"


def test_the_authors_options(pool: PoolSection) -> None:
    assert [(each.name, each.model) for each in pool.servers] == [(member.name, member.model) for member in MEMBERS]
    for each in pool.servers:
        scheduler = each.scheduler
        assert (scheduler.policy, scheduler.max_num_seqs, scheduler.max_model_len) == ("priority", 16, 16384)
        assert (scheduler.enable_prefix_caching, scheduler.async_scheduling) == (False, False)


def test_the_stated_calls() -> None:
    calls = stated_calls()

    assert len(calls) == 1000
    assert calls["output_tokens"].mean() == pytest.approx(1200, abs=1)
    assert (calls["output_tokens"].min(), calls["output_tokens"].max()) == (352, 2048)


def test_the_32b_serves_the_published_calls_a_second(pool: PoolSection) -> None:
    """And a call takes the published 40 s or so, with the published TPOT and share of the KV cache."""
    slow = server(pool, "deepseek-r1-32b")
    calls = stated_calls()

    run = simulate_calls([slow.options()], calls, sample_s=1.0)

    assert len(calls) / run.calls["finish_s"].max() == pytest.approx(0.40, rel=0.05)
    full = run.samples[run.samples["running"] == 16]
    assert full["kv_usage"].mean() == pytest.approx(0.24, abs=0.02)  # published: 0.24 with 15.4 running
    in_service_s = (run.calls["finish_s"] - run.calls["scheduled_s"]).mean()
    assert in_service_s == pytest.approx(40, rel=0.05)
    tpot_ms = 1000 * ((run.calls["e2e_s"] - run.calls["ttft_s"]) / (calls["output_tokens"] - 1)).mean()
    assert 25 < tpot_ms < 40


def test_other_lengths_or_a_faster_server_drain_differently(pool: PoolSection) -> None:
    slow = server(pool, "deepseek-r1-32b")
    faster = slow.model_copy(
        update={"step_time": slow.step_time.model_copy(update={"fixed_s": 0.7 * slow.step_time.fixed_s})}
    )

    assert drain_calls_per_s(faster) > 1.2 * drain_calls_per_s(slow)


def test_each_shares_memory_as_the_authors_did(pool: PoolSection) -> None:
    for member, each in zip(MEMBERS, pool.servers, strict=True):
        blocks_bytes = each.scheduler.num_blocks * 16 * member.architecture.kv_bytes_per_token
        used = blocks_bytes + member.architecture.weight_bytes
        share = used / GPU_MEMORY_BYTES
        assert share < GPU_MEMORY_UTILIZATION[member.name]
        assert share > GPU_MEMORY_UTILIZATION[member.name] - 1.3 / 179
        # vLLM would not start with fewer tokens than one request may have.
        assert (each.scheduler.num_blocks - 1) * 16 >= each.scheduler.max_model_len


@pytest.mark.parametrize(
    ("name", "running", "kv_usage"),
    [
        ("deepseek-r1-32b", 7.7, 0.13),
        ("deepseek-r1-32b", 15.4, 0.24),
        ("deepseek-r1-32b", 15.7, 0.19),
        ("qwen-coder-14b", 3.3, 0.17),
        ("qwen-coder-14b", 8.1, 0.39),
        ("qwen-coder-14b", 12.9, 0.56),
        ("qwen-coder-14b", 13.4, 0.55),
        ("mistral-24b", 2.1, 0.04),
        ("mistral-24b", 11.5, 0.20),
        ("llama-8b", 1.1, 0.02),
    ],
)
def test_published_kv_fractions_mean_possible_contexts(
    pool: PoolSection, name: str, running: float, kv_usage: float
) -> None:
    """A running call holds its prompt and what it has written of at most 2,048 tokens."""
    tokens = 16 * server(pool, name).scheduler.num_blocks * kv_usage / running

    assert 700 < tokens < 2000


def test_a_b200_by_hand() -> None:
    """Memory 8.0 against 4.8 TB/s, compute 2250 against 989 TFLOP/s; the CPU's 0.6 ms and 15 us stay."""
    h200 = StepTimeSection(
        fixed_s=0.0106,
        prefill_token_s=2250e-8,
        decode_s=1.5e-5 + 2250e-9,
        context_token_s=8e-8,
        prefill_pair_s=2250e-12,
        free_prefill_tokens=100,
    )

    b200 = on_b200(h200)

    assert b200.fixed_s == pytest.approx(0.0006 + 0.006)
    assert b200.prefill_token_s == pytest.approx(989e-8)
    assert b200.decode_s == pytest.approx(1.5e-5 + 989e-9)
    assert b200.context_token_s == pytest.approx(4.8e-8)
    assert b200.prefill_pair_s == pytest.approx(989e-12)
    assert b200.free_prefill_tokens == 137  # 100 x 2250 / 989 x 4.8 / 8 = 136.5
    assert b200.std_error == {}


def test_one_slowdown_for_all(pool: PoolSection) -> None:
    h200 = load_pool(DATA / "h200.toml", Path())

    slowdowns = [
        shared.step_time.fixed_s / on_b200(alone.step_time).fixed_s
        for shared, alone in zip(pool.servers, h200.servers, strict=True)
    ]

    assert slowdowns == pytest.approx([np.mean(slowdowns)] * 5, rel=1e-3)
    assert 2.2 < slowdowns[0] < 2.6
