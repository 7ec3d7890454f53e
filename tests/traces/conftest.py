"""What the trace tests share."""

import os
from pathlib import Path

import pytest


@pytest.fixture
def shared_data() -> Path:
    """The folder of public data files, which the repository does not hold."""
    beside_the_repo = Path(__file__).parents[2].resolve().parent / "shared"
    data = Path(os.environ.get("INFRAMIND_SHARED", beside_the_repo)) / "data"
    if not data.is_dir():
        pytest.skip(f"needs the public data files: {data} is absent, and INFRAMIND_SHARED names no other")
    return data
