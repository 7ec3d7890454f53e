from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from inframind.traces.cells import Cells
from inframind.traces.mistakes import TraceError


def cells_of(**columns: list[Any]) -> Cells:
    frame = pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})
    return Cells(Path("t.csv"), frame, np.arange(2, 2 + len(frame)))


def message(cells: Cells) -> str:
    with pytest.raises(TraceError) as caught:
        cells.finish()
    return str(caught.value)


def test_good_cells_come_back_as_floats_and_finish_is_silent() -> None:
    cells = cells_of(x=["1", " 2.5 ", 3, "4e1"])

    assert cells.number("x").tolist() == [1, 2.5, 3, 40]
    cells.finish()


def test_each_bad_cell_is_named_once_by_the_first_rule_it_breaks() -> None:
    cells = cells_of(x=["1", None, "many", "inf", "2.5", "-3", "1e300", [1], True])

    values = cells.number("x", at_least=0, whole=True)

    np.testing.assert_array_equal(values, [1, *[np.nan] * 7, 1])
    assert message(cells) == (
        "t.csv: 7 problems\n"
        "  line 3, x: missing value\n"
        "  line 4, x: must be a number, got many\n"
        "  line 5, x: must be finite, got inf\n"
        "  line 6, x: must be a whole number, got 2.5\n"
        "  line 7, x: must be at least 0, got -3\n"
        "  line 8, x: must be a whole number, got 1e300\n"
        "  line 9, x: must be a number, got [1]"
    )


def test_an_empty_cell_may_stand_for_a_number() -> None:
    cells = cells_of(x=[None, "7"])

    assert cells.number("x", empty=0, at_least=1).tolist() == [0, 7]
    cells.finish()


def test_a_time_that_goes_back_is_rejected_where_it_does() -> None:
    cells = cells_of(t=["0", "5", "2", "3", "x", "1"])

    cells.forward("t", cells.number("t"))

    assert message(cells) == (
        "t.csv: 2 problems\n"
        "  line 4, t: time goes back, must not be before the row above, got 2\n"
        "  line 6, t: must be a number, got x"
    )


def test_moments_count_from_the_earliest_with_all_seven_digits() -> None:
    cells = cells_of(t=["2023-11-16 18:15:46.6805900", "2023-11-16T18:15:46.6805901+00:00", "2023-11-16 18:15:47"])

    np.testing.assert_allclose(cells.moment("t"), [0, 1e-7, 0.31941], rtol=0, atol=1e-12)


def test_what_is_no_moment_is_rejected() -> None:
    cells = cells_of(t=["2023-11-16 18:15:46", "yesterday", None])

    cells.moment("t")

    assert message(cells) == (
        "t.csv: 2 problems\n  line 3, t: must be a date and time, got yesterday\n  line 4, t: missing value"
    )


def test_a_missing_column_is_named_once_with_the_nearest_or_all_that_are_there() -> None:
    cells = cells_of(prompt_token=["1"], out=["2"])

    assert np.isnan(cells.number("prompt_tokens", at_least=1)).all()
    assert np.isnan(cells.moment("arrival")).all()
    assert message(cells) == (
        "t.csv: 2 problems\n"
        "  prompt_tokens: missing column; did you mean 'prompt_token'?\n"
        "  arrival: missing column; found: prompt_token, out"
    )


def test_only_the_first_twenty_problems_are_listed_in_the_order_of_the_file() -> None:
    cells = cells_of(x=["a"] * 30, y=["b"] * 30)
    cells.number("y")
    cells.number("x")

    headline, *lines, last = message(cells).split("\n  ")

    assert headline == "t.csv: 60 problems"
    assert lines[:3] == [
        "line 2, y: must be a number, got b",
        "line 2, x: must be a number, got a",
        "line 3, y: must be a number, got b",
    ]
    assert len(lines) == 20
    assert last == "... and 40 more"


def test_text_keeps_empty_cells_null() -> None:
    text = cells_of(g=["a", None, 3]).text("g")

    assert text.isna().tolist() == [False, True, False]
    assert text.dropna().tolist() == ["a", "3"]


def test_lists_of_whole_numbers_become_tuples() -> None:
    cells = cells_of(ids=[[0, 1], []])

    assert cells.tuples("ids").tolist() == [(0, 1), ()]

    cells = cells_of(ids=[[0, 1], [1, "a"], None])
    cells.tuples("ids")
    assert message(cells) == (
        "t.csv: 2 problems\n"
        "  line 3, ids: must be a list of whole numbers, got [1, 'a']\n"
        "  line 4, ids: must be a list of whole numbers"
    )


def test_extras_are_the_columns_that_nobody_asked_for() -> None:
    cells = cells_of(x=["1"], note=["n"], y=["2"])
    cells.number("x")

    assert list(cells.extras()) == ["note", "y"]


def test_a_file_without_rows_or_with_two_columns_of_one_name_is_refused_at_once() -> None:
    with pytest.raises(TraceError, match="has no requests"):
        cells_of(x=[])
    frame = pd.DataFrame([["1", "2"]], columns=["x", "x"])
    with pytest.raises(TraceError, match="x: column appears twice"):
        Cells(Path("t.csv"), frame, np.array([2]))
