"""``inframind calibrate profile`` on a real vLLM server, and in a vLLM environment: ``make test-live``."""

import json
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from inframind.sim import load_server_to_fit
from inframind.traces import read_requests

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]


def test_every_request_finished_with_exactly_its_tokens(profile_log: Path) -> None:
    lines = [json.loads(line) for line in (profile_log / "requests.jsonl").read_text().splitlines()]

    assert len(lines) > 60
    assert {line["outcome"] for line in lines} == {"finished"}
    assert all(line["output_tokens"] == line["asked_output_tokens"] for line in lines)


def test_the_log_is_one_to_fit_to(profile_log: Path) -> None:
    frame = read_requests(profile_log / "requests.csv")
    spread = frame["prompt_tokens"].max() / frame["prompt_tokens"].min()

    assert (frame["ttft_s"] > 0).all()
    assert (frame["ttft_s"] <= frame["e2e_s"]).all()
    assert frame["arrival_s"].is_monotonic_increasing
    assert spread > 10
    assert {"light", "saturate-2", "open-1.2", "open-0.75-repeat"} <= set(frame["condition"])
    # 150 to 700 tokens a second: a server that is not measured in some other unit.
    prefill = frame[(frame["condition"] == "light") & (frame["prompt_tokens"] > 100)]
    assert 50 < (prefill["prompt_tokens"] / prefill["ttft_s"]).median() < 5000


def test_the_server_was_full_and_its_slots_were_counted(profile_log: Path) -> None:
    samples = pd.read_csv(profile_log / "samples.csv")
    text = (profile_log / "server.toml").read_text()
    scheduler = load_server_to_fit(profile_log / "server.toml").scheduler

    assert samples["waiting"].max() > 0
    assert samples["running"].max() == 8
    assert samples["kv_usage"].between(0, 1).all()
    assert "max_num_seqs = 8  # shown: 8 ran while others waited" in text
    assert 'policy = "fcfs"  # shown' in text
    assert (scheduler.max_num_seqs, scheduler.async_scheduling, scheduler.max_model_len) == (8, False, 2048)


def test_the_facts_are_those_of_the_server(profile_log: Path) -> None:
    facts = json.loads((profile_log / "server.json").read_text())

    assert facts["server"]["model"] == "smollm2"
    assert facts["server"]["version"].startswith("0.32")
    assert facts["server"]["max_model_len"] == 2048
    assert facts["server"]["num_gpu_blocks"] * facts["server"]["block_size"] > 8 * 2048
    assert facts["server"]["enable_prefix_caching"] is True


def test_installing_beside_vllm_moves_none_of_its_pins(smollm2: Path, tmp_path: Path) -> None:
    """A dry run in vLLM's environment: what would be installed is new there."""
    pip = smollm2.parents[1] / "bin" / "pip"
    report = tmp_path / "report.json"
    quiet = ("--quiet", "--disable-pip-version-check")
    subprocess.run([pip, "install", *quiet, "--dry-run", "--report", report, ROOT], check=True)
    there = json.loads(
        subprocess.run(
            [pip, "list", "--disable-pip-version-check", "--format", "json"], check=True, capture_output=True
        ).stdout
    )

    new = {entry["metadata"]["name"].lower().replace("_", "-") for entry in json.loads(report.read_text())["install"]}
    assert "inframind-router" in new
    assert not new & {package["name"].lower().replace("_", "-") for package in there}
