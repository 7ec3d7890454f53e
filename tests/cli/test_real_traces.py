"""Public traces end to end through the commands. The files are not part of the repository."""

import json
from pathlib import Path

import pytest

from inframind.cli import main
from inframind.traces import read_run

AZURE_CONVERSATIONS = 19_366
EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "azure.toml"

# Plausible for the GPUs, not fitted: what is tested is that every request is served.
SERVER = """
name = "{name}"
model = "{name}"

[scheduler]
max_num_seqs = {max_num_seqs}
max_num_batched_tokens = 2048
num_blocks = {num_blocks}
max_model_len = 32768

[step_time]
fixed_s = {fixed_s}
prefill_token_s = 1e-4
decode_s = 2e-5
context_token_s = 1e-7
"""
SERVERS = {
    "RTX4090__Llama-3.1-8B": {"max_num_seqs": 256, "num_blocks": 2500, "fixed_s": 0.018},
    "RTXPRO6000__Llama-3.1-8B": {"max_num_seqs": 128, "num_blocks": 34_000, "fixed_s": 0.011},
    "RTXPRO6000__Qwen3-30B-A3B-Instruct-2507": {"max_num_seqs": 128, "num_blocks": 20_000, "fixed_s": 0.012},
}


def test_the_azure_conversations_are_served_by_five_models(shared_data: Path, tmp_path: Path) -> None:
    """All 19,366 of them, under both schedulers, each call finished and long ones as long as asked for."""
    trace = shared_data / "azure_llm_2023" / "AzureLLMInferenceTrace_conv.csv"
    if not trace.is_file():
        pytest.skip(f"needs the public trace: {trace} is absent")

    out = tmp_path / "azure"
    assert main(["simulate", str(EXAMPLE), "--set", f'workload.path="{trace}"', "-o", str(out)]) == 0
    for scheduler in ("fcfs", "edf"):
        run = read_run(out / f"load-1-{scheduler}")
        assert len(run.calls) == AZURE_CONVERSATIONS
        assert set(run.calls["outcome"]) == {"finished"}
        assert run.calls["call_id"].is_unique
        assert run.calls["output_tokens"].mean() == pytest.approx(211, abs=1)
        assert set(run.calls["server"]) == set(run.summary["server"]) - {"total"}
    assert (out / "report.html").is_file()


def test_every_measured_run_replays_whole(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each of LLMServingSim's runs of a real vLLM, with the options it ran with."""
    logs = sorted((shared_data / "llmservingsim_vllm_bench").glob("*__requests.jsonl"))
    if not logs:
        pytest.skip(f"needs the public runs: {shared_data / 'llmservingsim_vllm_bench'} has none")

    for log in logs:
        name = log.name.removesuffix("__requests.jsonl")
        server = tmp_path / f"{name}.toml"
        server.write_text(SERVER.format(name=name, **SERVERS[name]))
        out = tmp_path / f"{name}.csv"

        assert main(["sim", "replay", str(log), "--server", str(server), "-o", str(out), "--json"]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert (answer["requests"], answer["not_served"]) == (300, 0)
        assert answer["seconds"]["TTFT"].keys() == {"simulated", "observed", "relative_error"}
