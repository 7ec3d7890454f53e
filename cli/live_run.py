"""One live run: a cell of an evaluation file on a pool that is up, as a run folder."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from inframind.live import Endpoint, ReplayOptions, graded, replay_live, run_tables
from inframind.live.sandbox import SandboxError
from inframind.traces import begin_run, finish_run, summarise, write_whole
from inframind.workflows import Controller, Replay, ServerInfo, replay

from .live_dashboard import dashboard
from .live_queries import LiveQueries, simulated_queries, task_queries
from .workflow_cell import WorkflowCell


class Finished(NamedTuple):
    """A run that has ended."""

    workflows: pd.DataFrame
    """Columns of ``traces.WORKFLOWS``."""
    replay: Replay
    """Of its log."""
    is_whole: bool
    """Whether it went to its end, instead of being broken off."""


@dataclass(frozen=True, slots=True)
class LiveRun:
    """What is to be run, and where it is written."""

    cell: WorkflowCell
    out: Path
    strict_lengths: bool
    base: Path
    """Where relative paths of tasks start."""

    @property
    def is_begun(self) -> bool:
        """Whether its folder is there."""
        return (self.out / "config.toml").exists()

    @property
    def is_whole(self) -> bool:
        """Whether all its queries have come and been judged, so that nothing of it is left to do."""
        path = self.out / "workflows.parquet"
        if not path.exists():
            return False
        workflows = pd.read_parquet(path, columns=["outcome", "correct"])
        is_judged = workflows.loc[workflows["outcome"] == "finished", "correct"].notna().all()
        return bool(is_judged) and len(workflows) == len(self.cell.arrivals)

    def queries(self) -> LiveQueries:
        """What is asked.

        Raises
        ------
        ConfigError, TraceError
            Tasks that cannot be used.
        """
        return simulated_queries(self.cell) if self.strict_lengths else task_queries(self.cell, self.base)

    def begin(self, *, resume: bool) -> None:
        """Make the folder, or see that the run that is there can be gone on with.

        Raises
        ------
        ConfigError
            It cannot, or there is something else.
        """
        config = self.cell.config("live", strict_lengths=self.strict_lengths)
        begin_run(self.out, config, seed=self.cell.cell.seed, resume=resume)

    def drive(self, endpoints: list[Endpoint], queries: LiveQueries, options: ReplayOptions) -> Finished:
        """Run it, or what is left of it, write its tables, and take all decisions of its log again.

        Raises
        ------
        ConfigError
            A policy's choice that cannot be carried out.
        """
        with dashboard([server.name for server in self.cell.servers], len(queries.arrivals)) as on_progress:
            is_whole = replay_live(
                self._controller(queries),
                endpoints,
                queries.arrivals,
                queries.ask,
                self.out,
                options=options,
                on_progress=on_progress,
            )
        return Finished(self._write_tables(queries), self._replay(queries), is_whole)

    def _controller(self, queries: LiveQueries) -> Controller:
        policy = self.cell.policy()
        return Controller(
            self._infos(),
            policy.planner,
            policy.executor,
            self.cell.options,
            embeddings=queries.embeddings,
            latency=self.cell.latency,
        )

    def _infos(self) -> list[ServerInfo]:
        return [server.info for server in self.cell.servers]

    def _write_tables(self, queries: LiveQueries) -> pd.DataFrame:
        """Returns the workflows."""
        calls, workflows, samples = run_tables(self.out, self._infos())
        try:
            workflows = graded(workflows, self.out, queries.judge)
        except SandboxError as error:
            # The run is not to be lost with it.
            print(f"warning: answers were not graded: {error}; --resume grades them", file=sys.stderr)
        summary = summarise(calls, samples, servers={server.name: server.model for server in self.cell.servers})
        finish_run(self.out, calls=calls, samples=samples, summary=summary, workflows=workflows)
        return workflows

    def _replay(self, queries: LiveQueries) -> Replay:
        """With policies as they were when the run began; noted in ``client.json``."""
        policy, latency = self.cell.policy(), self.cell.latency
        with (self.out / "events.jsonl").open(encoding="utf-8") as lines:
            replayed = replay(lines, policy.planner, policy.executor, embeddings=queries.embeddings, latency=latency)
        path = self.out / "client.json"
        report = json.loads(path.read_text(encoding="utf-8")) | {"replay": as_dict(replayed)}
        write_whole(path, json.dumps(report, indent=2) + "\n")
        return replayed


def as_dict(replayed: Replay) -> dict[str, object]:
    """For JSON."""
    return {
        "events": replayed.num_events,
        "commands": replayed.num_commands,
        "agrees": replayed.difference is None,
        "difference": replayed.difference,
    }
