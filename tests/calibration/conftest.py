"""What the calibration tests share."""

import os
from pathlib import Path

import pytest


@pytest.fixture
def step_profiles() -> Path:
    """The public table of step latencies, which the repository does not hold."""
    beside_the_repo = Path(__file__).parents[2].resolve().parent / "shared"
    shared = Path(os.environ.get("INFRAMIND_SHARED", beside_the_repo))
    table = shared / "data" / "aiconfigurator_five_models" / "profiles.csv"
    if not table.is_file():
        pytest.skip(f"needs the public table: {table} is absent, and INFRAMIND_SHARED names no other folder")
    return table
