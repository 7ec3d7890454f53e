"""What tests of several packages share."""

import os
from pathlib import Path

import pytest

# Tests run beside each other: threads of one would take the cores of the others. It is read when a library is loaded,
# by the processes that tests start too.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def shared_data() -> Path:
    """The folder of public data files, which the repository does not hold."""
    beside_the_repo = Path(__file__).parents[1].resolve().parent / "shared"
    data = Path(os.environ.get("INFRAMIND_SHARED", beside_the_repo)) / "data"
    if not data.is_dir():
        pytest.skip(f"needs the public data files: {data} is absent, and INFRAMIND_SHARED names no other")
    return data


@pytest.fixture
def step_profiles(shared_data: Path) -> Path:
    """The public table of step latencies."""
    table = shared_data / "aiconfigurator_five_models" / "profiles.csv"
    if not table.is_file():
        pytest.skip(f"needs the public table: {table} is absent")
    return table
