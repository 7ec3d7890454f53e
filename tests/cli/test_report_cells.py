"""Numbers in the tables of reports."""

import math

import pytest

from inframind.cli.report_cells import UNKNOWN, cell


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (0.1234, "share", "12.3 %"),
        (1234.5, "count", "1,234"),
        (1.2345, "ms", "1,234.5"),
        (1234.56, "depth", "1,234.6"),
        (0.987, "ratio", "0.99"),
        (9.876, "seconds", "9.88"),
        (98.76, "seconds", "98.8"),
        (9876.5, "seconds", "9,876"),
        (math.nan, "share", UNKNOWN),
        (None, "count", UNKNOWN),
    ],
)
def test_a_number_has_the_digits_that_a_reader_needs(value: float | None, kind: str, text: str) -> None:
    assert cell(value, kind) == text
