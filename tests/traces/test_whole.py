"""Files that are written whole or not at all; folders are tested with what is written into them."""

import stat
from pathlib import Path

import pytest

from inframind.traces import ConfigError, write_whole


def test_a_file_is_replaced_by_what_is_written(tmp_path: Path) -> None:
    """Text as UTF-8, bytes as they are; others may read it."""
    path = tmp_path / "file"
    write_whole(path, "é\n")
    assert path.read_bytes() == b"\xc3\xa9\n"
    write_whole(path, b"\x00")

    assert path.read_bytes() == b"\x00"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_file_that_cannot_be_finished_is_as_it_was(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Path, "chmod", fail)
    with pytest.raises((ConfigError, KeyboardInterrupt)) as caught:
        write_whole(path, "new")

    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    if isinstance(caught.value, ConfigError):
        assert caught.value.problems == ("cannot be written: No space left on device",)


def test_a_place_where_nothing_can_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written: No such file or directory"):
        write_whole(tmp_path / "no" / "file", "x")
