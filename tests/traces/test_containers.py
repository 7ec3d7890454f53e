import gzip
from pathlib import Path

import pandas as pd
import pytest

from inframind.traces.containers import check_commas, open_cells
from inframind.traces.mistakes import TraceError


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def lines_of(path: Path, column: str) -> list[str]:
    """Return the problems of a column that must hold numbers: they show the line of each bad cell."""
    _, cells = open_cells(path)
    cells.number(column)
    with pytest.raises(TraceError) as caught:
        cells.finish()
    return list(caught.value.problems)


def test_the_container_is_found_from_the_first_bytes_not_from_the_name() -> None:
    frame = pd.DataFrame({"x": [1, 2]})
    frame.to_parquet("a.csv")
    frame.to_csv("b.jsonl", index=False)
    Path("c.parquet").write_text('\ufeff{"x": 1}\n{"x": 2}')
    with gzip.open("d.csv.gz", "wt") as file:
        file.write("x\n1\n2\n")

    found = {name: open_cells(Path(name)) for name in ("a.csv", "b.jsonl", "c.parquet", "d.csv.gz")}

    assert [container for container, _ in found.values()] == ["parquet", "csv", "jsonl", "csv"]
    assert all(cells.number("x").tolist() == [1, 2] for _, cells in found.values())


def test_csv_line_numbers_count_blank_and_broken_lines_and_crlf() -> None:
    path = Path("t.csv")
    path.write_bytes(b"\xef\xbb\xbfx,y\r\n1,1\r\n\r\nbad,1\r\n1,2,3\r\n4\r\nworse,1\r\n\r\n")

    assert lines_of(path, "x") == [
        "line 4, x: must be a number, got bad",
        "line 5: 3 values where the header has 2: 1,2,3",
        "line 6: 1 values where the header has 2: 4",
        "line 7, x: must be a number, got worse",
    ]


def test_a_bad_csv_cell_far_below_the_first_block_is_found_at_its_line() -> None:
    path = Path("t.csv")
    path.write_text("x,y\n" + "1,1\n" * 600_000 + "bad,1\n")

    assert lines_of(path, "x") == ["line 600002, x: must be a number, got bad"]


def test_json_lines_that_are_no_objects_are_named_with_the_others() -> None:
    path = Path("t.jsonl")
    path.write_text('{"x": 1}\n\n{"x": "bad"}\n[1]\n{"x": 1, \n{"y": 1}\n{"x": 5')

    assert lines_of(path, "x") == [
        "line 3, x: must be a number, got bad",
        "line 4: must be a JSON object, got [1]",
        "line 5: not valid JSON at column 10: Expecting property name enclosed in double quotes",
        "line 6, x: missing value",
        "line 7: not valid JSON at column 8: Expecting ',' delimiter",
    ]


def test_parquet_rows_are_called_rows() -> None:
    pd.DataFrame({"x": ["1", "bad"]}).to_parquet("t.parquet")

    assert lines_of(Path("t.parquet"), "x") == ["row 2, x: must be a number, got bad"]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("t.csv", b"", "has no requests"),
        ("t.csv", b"x,y\n", "has no requests"),
        ("t.csv", b"x,y\n1\n", "line 2: 1 values where the header has 2: 1"),
        ("t.jsonl", b"{", "line 1: not valid JSON at column 2: Expecting property name enclosed in double quotes"),
        ("t.parquet", b"PAR1 and no more", "cannot be read: "),
        ("t.csv", b"x\n\xff\xfe\n", "cannot be read: "),
        ("t.csv.gz", b"not gzip", "cannot be read: "),
    ],
)
def test_a_file_without_a_single_row_is_one_mistake(name: str, content: bytes, problem: str) -> None:
    Path(name).write_bytes(content)

    with pytest.raises(TraceError) as caught:
        open_cells(Path(name))

    assert str(caught.value).startswith(f"{name}: 1 problem\n  {problem}")


def test_a_missing_file_and_a_folder_are_said_so() -> None:
    with pytest.raises(TraceError, match="no such file"):
        open_cells(Path("none.csv"))
    with pytest.raises(TraceError, match="cannot be read"):
        open_cells(Path())


@pytest.mark.parametrize(("separator", "name"), [(";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")])
def test_a_csv_with_other_separators_is_told_so_in_a_line(separator: str, name: str) -> None:
    """Decimal commas, which come with semicolons, do not hide it."""
    header = separator.join(["arrival_s", "prompt_tokens", "output_tokens"])
    path = Path("t.csv")
    path.write_text(f"\ufeff{header}\n" + separator.join(["0,5", "10", "5"]) + "\n")

    for read in (open_cells, check_commas):
        with pytest.raises(TraceError) as caught:
            read(path)
        told = f"line 1: columns seem to be separated by {name}; commas are expected: {header!r}"
        assert str(caught.value) == f"t.csv: 1 problem\n  {told}"


def test_a_csv_of_one_column_and_an_empty_one_have_no_wrong_separator() -> None:
    for text in ("x\n1\n", "", "x,y;z\n1,2\n"):
        Path("t.csv").write_text(text)
        check_commas(Path("t.csv"))
