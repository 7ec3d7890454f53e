"""``inframind sim verify`` with a real vLLM: ``make test-live`` installs one."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from inframind.cli import main

PYTHON = Path(__file__).parents[2] / ".venv-vllm" / "bin" / "python"
COUNT = 24
"""Three times the eight kinds: both policies, both engines, caching on and off."""


@pytest.fixture
def vllm_python() -> str:
    """The interpreter that has vLLM. On CI its absence is a failure, not a reason to skip."""
    command = [str(PYTHON), "-c", "import importlib.util as u, sys; sys.exit(u.find_spec('vllm') is None)"]
    if not PYTHON.exists() or subprocess.run(command, check=False).returncode != 0:
        reason = f"no vLLM in {PYTHON.parents[1].name}; make test-live installs it"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return str(PYTHON)


@pytest.mark.live
@pytest.mark.timeout(900)
def test_fresh_workloads_are_scheduled_as_vllm_does(vllm_python: str, capsys: pytest.CaptureFixture[str]) -> None:
    """24 random workloads that are in no recording: no step and no finish time differs."""
    assert (
        main(["sim", "verify", "--vllm-python", vllm_python, "--count", f"{COUNT}", "--seed", "900000", "--json"]) == 0
    )

    answer = json.loads(capsys.readouterr().out)
    assert answer["differences"] == []
    assert answer["workloads"] == COUNT
    assert answer["covered"] == {"priority": 12, "async_scheduling": 12, "prefix_caching": 12}
    assert answer["vllm_version"].startswith("0.32")
    assert answer["preemptions"] > 0
