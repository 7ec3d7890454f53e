"""A log is known again by what it holds."""

import math
from pathlib import Path

import pandas as pd
import pytest

from inframind.calibration.fingerprint import fingerprints, holds_one_of
from inframind.traces import read_requests


def a_log() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "arrival_s": [0.1, 0.2, 1 / 3],
            "prompt_tokens": [1, 2, 3],
            "output_tokens": 5,
            "ttft_s": [0.1, math.nan, 0.3],
            "e2e_s": [1 / 7, math.nan, 0.9],
        }
    )


@pytest.mark.parametrize("name", ["b.csv", "c.parquet"])
def test_another_file_of_the_same_requests_is_the_same_log(tmp_path: Path, name: str) -> None:
    moved = a_log().assign(arrival_s=lambda log: log["arrival_s"] + 100, team="a")
    path = tmp_path / name
    moved.to_csv(path, index=False) if name.endswith("csv") else moved.to_parquet(path)

    assert fingerprints(read_requests(path)) == fingerprints(a_log())


@pytest.mark.parametrize("column", ["arrival_s", "prompt_tokens", "output_tokens", "ttft_s", "e2e_s"])
def test_a_log_that_differs_in_one_cell_is_another(column: str) -> None:
    other = a_log()
    other.loc[2, column] += 1

    assert fingerprints(other) != fingerprints(a_log())


def test_a_log_that_begins_with_a_known_one_holds_it() -> None:
    known = [*fingerprints(a_log()[:2]), "0:none"]

    assert holds_one_of(a_log(), known)
    assert holds_one_of(a_log()[:2], known)
    assert not holds_one_of(a_log()[:1], known)
    assert not holds_one_of(a_log()[1:], known)
    assert not holds_one_of(a_log(), [])


def test_a_condition_is_known_again_by_itself_and_within_another_log() -> None:
    log = a_log().assign(condition=["a", "b", "b"])
    alone = log[1:].drop(columns="condition")

    assert len(fingerprints(log)) == 3
    assert holds_one_of(alone, fingerprints(log))
    assert holds_one_of(log, fingerprints(alone))
    assert not holds_one_of(log[:2].drop(columns="condition"), fingerprints(alone))
