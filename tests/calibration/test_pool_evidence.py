"""What the shipped pools were corrected by: logs of three real servers."""

from pathlib import Path

import pandas as pd
import pytest

from inframind.calibration.pool_evidence import (
    CODELLAMA_34B,
    LLAMA_2_7B,
    NONE,
    SHIPPED,
    Correction,
    RealRun,
    average,
    fit_correction,
    from_the_others,
    main,
    mean_errors,
    read_runs,
    scaled,
)
from inframind.calibration.pool_models import Architecture
from inframind.sim.server_file import SchedulerSection, StepTimeSection
from inframind.traces import TraceError

KERNELS = StepTimeSection(fixed_s=0.01, prefill_token_s=2e-5, decode_s=1e-5, context_token_s=4e-8, prefill_pair_s=1e-9)
SCHEDULER = SchedulerSection(num_blocks=5000, max_model_len=8192, max_num_batched_tokens=2048, max_num_seqs=64)


@pytest.fixture
def runs(shared_data: Path, step_profiles: Path) -> list[RealRun]:
    otel, llmservingsim = shared_data / "blis_vllm_otel_jan2026", shared_data / "llmservingsim_vllm_bench"
    if not (otel.is_dir() and llmservingsim.is_dir()):
        pytest.skip("needs the logs of real servers")
    return read_runs(step_profiles, otel, llmservingsim)


def made_up_run(truth: Correction) -> RealRun:
    """A log that a simulated server wrote: light, then heavy."""
    arrivals = [*(2.0 * i for i in range(20)), *(40 + 0.05 * i for i in range(40))]
    requests = pd.DataFrame(
        {
            "arrival_s": arrivals,
            "prompt_tokens": [200 + 37 * i % 1500 for i in range(60)],
            "output_tokens": [20 + 53 * i % 200 for i in range(60)],
        }
    )
    replayed = RealRun("made up", "made up", requests, KERNELS, SCHEDULER).replay(truth)
    log = requests.assign(ttft_s=replayed["sim_ttft_s"], e2e_s=replayed["sim_e2e_s"])
    return RealRun("made up", "made up", log, KERNELS, SCHEDULER)


def test_published_sizes() -> None:
    assert CODELLAMA_34B.num_parameters == 33_743_970_304
    assert LLAMA_2_7B.num_parameters == 6_738_415_616


def test_scaling_by_hand() -> None:
    """Twice the layers, without output layers to speak of: twice the bytes, the products and the KV cache."""
    small = Architecture(10, 1024, 8, 8, 128, 4096, 1)
    large = Architecture(20, 1024, 8, 8, 128, 4096, 1)

    double = scaled(KERNELS, small, large)

    for name in ("fixed_s", "prefill_token_s", "decode_s", "context_token_s", "prefill_pair_s"):
        assert getattr(double, name) == pytest.approx(2 * getattr(KERNELS, name), rel=1e-4)
    half_the_kv = scaled(KERNELS, small, Architecture(10, 1024, 8, 4, 128, 4096, 1))
    assert half_the_kv.context_token_s == pytest.approx(2e-8)
    assert half_the_kv.prefill_pair_s == KERNELS.prefill_pair_s


def test_a_known_correction_is_found_again() -> None:
    truth = Correction(step_s=0.8e-3, decode_s=2e-5, prefill_factor=1.1)

    found = fit_correction(made_up_run(truth))

    assert found.step_s == pytest.approx(truth.step_s, abs=0.1e-3)
    assert found.decode_s == pytest.approx(truth.decode_s, abs=0.3e-5)
    assert found.prefill_factor == pytest.approx(truth.prefill_factor, abs=0.01)


def test_runs_of_one_server_count_once() -> None:
    mean, spread = average({"a": [Correction(1.0), Correction(3.0)], "b": [Correction(4.0)]})

    assert mean.step_s == 3.0
    assert spread.step_s == pytest.approx(2**0.5)

    made_up = [RealRun("", server, pd.DataFrame(), KERNELS, SCHEDULER) for server in ("a", "a", "b", "c")]
    others = from_the_others(made_up, [Correction(step) for step in (1.0, 3.0, 4.0, 6.0)])
    assert [each.step_s for each in others] == [5.0, 5.0, 4.0, 3.0]


def test_errors_of_means() -> None:
    requests = pd.DataFrame({"output_tokens": [1, 11], "ttft_s": [1.0, 1.0], "e2e_s": [1.0, 2.0]})

    errors = mean_errors(requests.assign(sim_ttft_s=[1.0, 1.2], sim_e2e_s=[1.0, 1.7]))

    assert errors == {"ttft": pytest.approx(0.1), "tpot": pytest.approx(-0.5), "e2e": pytest.approx(-0.1)}


def test_real_servers_are_slower_than_their_kernels_and_about_as_slow_as_shipped(runs: list[RealRun]) -> None:
    """The one that is far off is overloaded all along: a step that is 4 % too short makes a queue 12 % too short."""
    assert [len(run.requests) for run in runs] == [281, 300, 280, 197]
    at_most = {"Llama-3.1-8B, RTX PRO 6000": (0.16, 0.07, 0.09)}

    for run in runs:
        alone, shipped = mean_errors(run.replay(NONE)), mean_errors(run.replay(SHIPPED))
        for name, limit in zip(("ttft", "tpot", "e2e"), at_most.get(run.name, (0.06, 0.06, 0.05)), strict=True):
            assert abs(shipped[name]) < limit
            assert alone[name] < shipped[name]


def test_a_missing_log_is_named(step_profiles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TraceError, match=r"jan20-.*\.csv"):
        read_runs(step_profiles, tmp_path, tmp_path)
    assert main([str(step_profiles), str(tmp_path), str(tmp_path)]) == 2
    assert "cannot be read" in capsys.readouterr().err
