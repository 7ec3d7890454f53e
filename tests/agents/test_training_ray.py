"""Training on a local Ray, where Ray is installed."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from inframind.cli import main

SMALL = """
name = "small"
domains = ["math"]
[batch]
iterations = 2
groups = 2
simulations = 1
checkpoint_every = 2
[load]
queries = 6
"""


@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs the extra ray: pip install 'inframind-router[ray]'"
)
def test_ray_makes_the_policy_that_this_machine_makes(tmp_path: Path) -> None:
    """In a process of its own: Ray's processes end with it."""
    experiment = tmp_path / "small.toml"
    experiment.write_text(SMALL, encoding="utf-8")
    words = ["train", str(experiment), "--jobs", "2", "-o"]
    assert main([*words, str(tmp_path / "here")]) == 0

    subprocess.run(
        [sys.executable, "-m", "inframind.cli", *words, str(tmp_path / "ray"), "--backend", "ray"],
        env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0"},
        timeout=200,
        check=True,
    )

    policies = [tmp_path / name / "policy" for name in ("here", "ray")]
    assert len({(policy / "weights.safetensors").read_bytes() for policy in policies}) == 1
    records = [json.loads((policy / "policy.json").read_text(encoding="utf-8")) for policy in policies]
    assert records[0] == records[1]
