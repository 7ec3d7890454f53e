"""What a comparison reads: run folders of both sides, matched by what their ``config.toml`` says they ran."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from inframind.traces import Mistakes, Run, TraceError, read_run

MARKS = ("calls.parquet", "versions.json")
"""A folder with one of these is meant as a run folder."""
_NO_PART = {"kind", "strict_lengths"}
"""Of ``[run]``: how a run was made, not what was run."""
_MAX_SHOWN = 20

Key = tuple[tuple[str, Any], ...]
"""Names and values, in the order of the names."""


@dataclass(frozen=True, slots=True)
class KnownRun:
    """A run, and what it is a run of."""

    path: Path
    run: Run
    condition: Key
    """What was run: ``policy``, ``scheduler``, ``rate_per_min``, ``tier_s``, ``time_scale``, or whatever ``[run]`` of
    its ``config.toml`` names, less the seed."""
    seed: int | None
    """Runs of one condition that differ in it are its repetitions."""

    @property
    def key(self) -> Key:
        """Condition and seed."""
        return (*self.condition, ("seed", self.seed))

    @property
    def kind(self) -> Any:
        """``live`` or ``simulated``, as it says itself; runs of single calls say nothing."""
        return self.run.config.get("run", {}).get("kind")

    @property
    def is_live(self) -> bool:
        """Whether it says so itself."""
        return bool(self.kind == "live")


@dataclass(frozen=True, slots=True)
class PairedRuns:
    """A simulated run beside the live ones of the same condition and seed."""

    simulated: KnownRun
    live: KnownRun
    repeats: tuple[KnownRun, ...] = ()
    """Further live runs of the same."""

    @property
    def differences(self) -> tuple[str, ...]:
        """In what the two are not the same experiment, a line each."""
        name = "queries" if self.live.seed is None else f"queries of seed {self.live.seed}"
        sizes = [
            (name, None if side.run.workflows is None else len(side.run.workflows))
            for side in (self.live, self.simulated)
        ]
        return key_differences((*self.live.key, sizes[0]), (*self.simulated.key, sizes[1]))

    @property
    def has_same_queries(self) -> bool:
        """Whether each query of one run is the same question with the same budget in the other."""
        tables = [side.run.workflows for side in (self.live, self.simulated)]
        asked = [
            {} if table is None else table.set_index("workflow_id")[["domain", "question", "budget_s"]].to_dict("index")
            for table in tables
        ]
        common = asked[0].keys() & asked[1].keys()
        return bool(common) and all(asked[0][name] == asked[1][name] for name in common)


@dataclass(frozen=True, slots=True)
class MatchedRuns:
    """Both sides of a comparison."""

    pairs: tuple[PairedRuns, ...]
    """At least one, those of a condition one after the other."""
    notes: tuple[str, ...]
    """Of what is left out."""


def match_folders(simulated: Path, live: Sequence[Path]) -> MatchedRuns:
    """Read run folders and match each live run with the simulated run of the same condition and seed.

    Parameters
    ----------
    simulated, live
        Run folders, or folders of run folders at any depth. The first live run of a condition and seed is the one that
        is compared; the others are its repeats.

    Raises
    ------
    TraceError
        A folder cannot be read, holds nothing, or no run of one side has its like on the other. A single run on each
        side is a pair in any case, with its differences told (`PairedRuns.differences`).
    """
    ours, theirs = _read_all([simulated]), _read_all(live)
    by_key: dict[Key, list[KnownRun]] = {}
    for run in theirs:
        by_key.setdefault(run.key, []).append(run)
    if len(ours) == 1 and len(by_key) == 1:
        ((first, *others),) = by_key.values()
        pairs = [PairedRuns(ours[0], first, tuple(others))]
    else:
        of_ours = _by_key(ours, simulated)
        pairs = [
            PairedRuns(of_ours[key], first, tuple(others)) for key, (first, *others) in by_key.items() if key in of_ours
        ]
        if not pairs:
            raise TraceError(simulated, _why_none(ours, theirs)[:_MAX_SHOWN], len(theirs))
    for pair in pairs:
        _check_comparable(pair)
    order: dict[Key, int] = {}
    for pair in pairs:
        order.setdefault(pair.live.condition, len(order))
    pairs.sort(key=lambda pair: order[pair.live.condition])
    return MatchedRuns(tuple(pairs), _left_out(ours, theirs, pairs))


def key_differences(live: Key, simulated: Key) -> tuple[str, ...]:
    """What differs, a line each; nothing where both are the same."""
    theirs, ours = dict(live), dict(simulated)
    return tuple(
        f"{name}: {_shown(theirs.get(name))} in the live run, {_shown(ours.get(name))} in the simulated one"
        for name in dict.fromkeys((*theirs, *ours))
        if theirs.get(name) != ours.get(name)
    )


def _shown(value: Any) -> str:
    return "nothing" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _read_all(places: Sequence[Path]) -> list[KnownRun]:
    """The runs below some folders, each read once.

    All that cannot be read is told at once.
    """
    runs, problems = [], []
    for folder in dict.fromkeys(chain.from_iterable(map(_folders, places))):
        try:
            runs.append(_known(folder))
        except Mistakes as mistakes:
            problems += [f"{folder}: {problem}" for problem in mistakes.problems]
    if problems:
        raise TraceError(places[0], problems[:_MAX_SHOWN], len(problems))
    return runs


def _folders(place: Path) -> list[Path]:
    if not place.is_dir():
        raise TraceError(place, ["is a file; name a run folder" if place.exists() else "no such folder"])
    if any((place / mark).exists() for mark in MARKS):
        return [place]
    found = sorted({path.parent for mark in MARKS for path in place.rglob(mark)})
    if not found:
        raise TraceError(place, [f"neither a run folder nor a folder of run folders: no {MARKS[0]} in or below it"])
    return found


def _known(folder: Path) -> KnownRun:
    run = read_run(folder)
    empty = [
        f"{name}.parquet: has no {name}"
        for name, table in (("calls", run.calls), ("workflows", run.workflows))
        if table is not None and table.empty
    ]
    if empty:
        raise TraceError(folder, empty)
    return KnownRun(folder, run, *_what_it_is(run.config, run.versions))


def _what_it_is(config: Mapping[str, Any], versions: Mapping[str, Any]) -> tuple[Key, int | None]:
    table = config.get("run")
    named = dict(table) if isinstance(table, Mapping) else {}
    seed = named.pop("seed", versions.get("seed"))
    if "policy" in named:
        named = {"time_scale": 1.0} | named
    condition = tuple(sorted((name, value) for name, value in named.items() if name not in _NO_PART))
    return condition, seed


def _by_key(runs: Sequence[KnownRun], source: Path) -> dict[Key, KnownRun]:
    found: dict[Key, KnownRun] = {}
    problems = []
    for run in runs:
        if (other := found.setdefault(run.key, run)) is not run:
            problems.append(f"{run.path} and {other.path} are simulated runs of the same: {in_words(run.key)}")
    if problems:
        raise TraceError(source, problems[:_MAX_SHOWN], len(problems))
    return found


def in_words(key: Key) -> str:
    """A key for a reader."""
    return ", ".join(f"{name} {_shown(value)}" for name, value in key)


def condition_name(condition: Key) -> str:
    """A condition, or what several have in common, in short: what everybody asks for first, then the rest."""
    values = dict(condition)
    if values.get("time_scale") == 1.0:
        del values["time_scale"]
    first = [str(values.pop(name)) for name in ("policy",) if name in values]
    first += [str(values.pop(name)).upper() for name in ("scheduler",) if name in values]
    first += [f"{values.pop(name):g}/min" for name in ("rate_per_min",) if name in values]
    return ", ".join([*first, *([in_words(tuple(values.items()))] if values else [])])


def _why_none(ours: Sequence[KnownRun], theirs: Sequence[KnownRun]) -> list[str]:
    """For each live run what separates it from the simulated run that is most like it."""
    problems = []
    for run in theirs:
        nearest = min(ours, key=lambda other: len(key_differences(run.key, other.key)))
        differences = "; ".join(key_differences(run.key, nearest.key))
        problems.append(f"no run matches {run.path}; nearest is {nearest.path}: {differences}")
    return problems


def _check_comparable(pair: PairedRuns) -> None:
    """The two must be of one pool, and either both of workflows or neither."""
    live, simulated = pair.live.run, pair.simulated.run
    problems = []
    if (live.workflows is None) != (simulated.workflows is None):
        without = pair.live.path if live.workflows is None else pair.simulated.path
        problems.append(f"{without} has no workflows.parquet, the other run has: one served calls, the other workflows")
    servers = [set(run.calls["server"]) | set(run.samples["server"]) for run in (live, simulated)]
    if not servers[0] & servers[1]:
        names = [", ".join(sorted(each)) for each in servers]
        problems.append(f"no server in common: {names[0]} in the live run, {names[1]} in {pair.simulated.path}")
    if problems:
        raise TraceError(pair.live.path, problems)


def _left_out(ours: Sequence[KnownRun], theirs: Sequence[KnownRun], pairs: Sequence[PairedRuns]) -> tuple[str, ...]:
    used = {run.path for pair in pairs for run in (pair.simulated, pair.live, *pair.repeats)}
    notes = []
    for runs, side, other in ((theirs, "live", "simulated"), (ours, "simulated", "live")):
        if unused := [str(run.path) for run in runs if run.path not in used]:
            few = ", ".join(unused[:3]) + (", ..." if len(unused) > 3 else "")
            word = "run" if len(unused) == 1 else "runs"
            notes.append(f"{len(unused)} {side} {word} left out, there is no {other} one of the same: {few}.")
    return tuple(notes)
