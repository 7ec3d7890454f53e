"""Whether what is in a folder was made from the same settings, so that it can be gone on with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .mistakes import ConfigError


def check_same_config(folder: str | Path, before: Mapping[str, object], now: Mapping[str, object], advice: str) -> None:
    """Compare two sets of settings, as TOML files hold them.

    Parameters
    ----------
    folder
        What is gone on with.
    before
        What was written there.
    now
        What is asked for.
    advice
        What the person may do instead.

    Raises
    ------
    ConfigError
        They differ; with every key that does, and the advice.
    """
    old, new = _leaves(before), _leaves(now)
    if wrong := [
        f"{key}: is now {new.get(key, 'absent')!r}, and was {old.get(key, 'absent')!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]:
        raise ConfigError(folder, [*wrong, f"what is there cannot be gone on with; {advice}"])


def _leaves(value: object, place: str = "") -> dict[str, object]:
    """Values by dotted key."""
    if isinstance(value, Mapping):
        items = [(f"{place}.{key}".removeprefix("."), item) for key, item in value.items()]
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        items = [(f"{place}[{index}]", item) for index, item in enumerate(value)]
    else:
        return {place: list(value) if isinstance(value, tuple) else value}
    return {key: leaf for name, item in items for key, leaf in _leaves(item, name).items()}
