"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .mistakes import ConfigError


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Write a file that takes the place of ``path`` when all of it is there; text as UTF-8.

    Raises
    ------
    ConfigError
        If it cannot be written there; what stood there is still as it was.
    """
    target = Path(path)
    data = content.encode() if isinstance(content, str) else content
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        try:
            with os.fdopen(descriptor, "wb") as sink:
                sink.write(data)
            Path(temporary).chmod(0o644)  # not only for its owner
            Path(temporary).replace(target)
        except BaseException:
            Path(temporary).unlink()
            raise
    except OSError as error:
        raise ConfigError(path, [f"cannot be written: {error.strerror}"]) from None


@contextmanager
def whole_folder(folder: str | Path) -> Iterator[Path]:
    """Yield an empty folder to be filled; it takes the place of ``folder`` if the block ends well, else it is gone.

    What stood there before is kept until then, and comes back if it cannot be replaced. Whether it may be replaced is
    for the caller to find out first. Parents are made.

    Raises
    ------
    ConfigError
        If nothing can be written there.
    """
    target = Path(folder).resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        raise ConfigError(folder, [f"cannot be written: {error.strerror}"]) from None
    with beside as holder:
        new = Path(holder, "new")  # not the temporary folder itself, which only its owner may read
        new.mkdir()
        yield new
        _swap(new, target, Path(holder, "old"))


def _swap(new: Path, target: Path, old: Path) -> None:
    """Put ``new`` at ``target``; what stood there goes to ``old``, and comes back if that fails."""
    if not target.exists():
        new.rename(target)
        return
    target.rename(old)
    try:
        new.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old)
