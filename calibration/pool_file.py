"""Write pool files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from inframind.sim.server_file import PoolSection, StepTimeSection


def write_pool(pool: PoolSection, head: Sequence[str], path: str | Path) -> None:
    """Write a pool file below ``head``, lines of comment; numbers have 4 significant digits (errors 3, their own 2).

    Raises
    ------
    OSError
        If it cannot be written.
    """
    lines = [*(f"# {line}" for line in head), ""]
    for server in pool.servers:
        scheduler = server.scheduler.model_dump(include=server.scheduler.model_fields_set)
        lines += ["[[servers]]", *_pairs({"name": server.name, "model": server.model})]
        lines += ["", "[servers.scheduler]", *_pairs(scheduler), "", *_step_time_lines(server.step_time), ""]
    Path(path).write_text("\n".join(lines).rstrip("\n") + "\n", encoding="utf-8", newline="\n")


def _step_time_lines(step_time: StepTimeSection) -> Iterable[str]:
    yield "[servers.step_time]"
    yield from _pairs(step_time.terms)
    if step_time.std_error:
        yield ""
        yield "[servers.step_time.std_error]"
        yield from _pairs(step_time.std_error, digits=2)
    if step_time.fitted_on is not None:
        yield ""
        yield "[servers.step_time.fitted_on]"
        yield from _pairs(step_time.fitted_on.model_dump(exclude_none=True), digits=3)


def _pairs(table: Mapping[str, object], digits: int = 4) -> Iterable[str]:
    return [f"{key} = {_toml(value, digits)}" for key, value in table.items()]


def _toml(value: object, digits: int) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(float(f"{value:.{digits}g}"))
    if isinstance(value, int):
        return str(value)
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'
