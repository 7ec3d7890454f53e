"""What a policy sees: one builder for training, simulation and live servers.

An `Observation` is a snapshot. Rules read its tuples; networks read its arrays, which are built when asked for. So a
rule costs no numpy, and a policy that does not look at the latency map does not pay for the predictors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from inframind.traces import ConfigError

from .query import Query
from .servers import ServerInfo, ServerTable
from .workflow import Node, Workflow

SERVER_FEATURES = ("is_open", "waiting", "running", "kv_usage", "poll_age_s", "in_flight", "since_poll", "ahead")
"""Columns of ``Observation.server_features``."""


class LatencyModel(Protocol):
    """Predicts how long a call would take on each server with each strategy (theory, section 4)."""

    def latency_map(
        self, prompt_tokens: int, running: Sequence[int], waiting: Sequence[int], embedding: NDArray[np.float32] | None
    ) -> NDArray[np.float64]:
        """Seconds from submission to the last token, as ``[server, strategy]``, given the requests on each server."""
        ...


@dataclass(slots=True)
class Context:
    """What observations refer to, the same for a whole run."""

    embeddings: NDArray[np.float32] | None
    """Of the queries, by ``Query.embedding``: ``[rows, dimensions]``."""
    latency: LatencyModel | None
    dead_reckoning: bool
    """Off: a policy learns of its own calls by polls only."""


@dataclass(slots=True)
class Observation:
    """The state of one decision: the planner's (``workflow`` and ``node`` are None) or the executor's.

    Every tuple has one entry for each server.
    """

    t: float
    query: Query
    remaining_s: float
    """Budget less the time since the query arrived; below 0 once it is late."""
    prompt_tokens: int
    """Of the question for the planner; of the call's prompt, less the strategy's instruction, for the executor."""
    workflow: Workflow | None
    node: Node | None
    servers: tuple[ServerInfo, ...]
    is_open: tuple[bool, ...]
    """Whether a server may be chosen: one that has just failed this call may not if there is another."""
    waiting: tuple[int, ...]
    """As last polled."""
    running: tuple[int, ...]
    """As last polled."""
    kv_usage: tuple[float, ...]
    """As last polled: 0 to 1."""
    polled_at: tuple[float, ...]
    """When, in seconds since the run began."""
    in_flight: tuple[int, ...]
    """Own calls submitted and not ended."""
    since_poll: tuple[int, ...]
    """Own calls submitted less those ended since the last poll."""
    ahead: tuple[int, ...]
    """Own calls in flight that the server takes before this one, by their priorities."""
    context: Context
    _latency_map: NDArray[np.float64] | None = None

    @property
    def budget_s(self) -> float:
        """The whole budget."""
        return self.query.budget_s

    @property
    def role(self) -> str | None:
        """The role of the call; None for the planner."""
        return None if self.node is None else self.node.role.name

    def poll_age_s(self, server: int) -> float:
        """How old its gauges are."""
        return self.t - self.polled_at[server]

    def outstanding(self, server: int) -> int:
        """Requests on a server now, as far as can be told: as polled, and own calls since (dead reckoning)."""
        polled = self.waiting[server] + self.running[server] + self.since_poll[server]
        own = self.in_flight[server]
        return polled if polled > own else own

    def before(self, server: int) -> int:
        """Requests that a call submitted now finds before it: those that run, and those that wait and go first.

        By vLLM's priorities a call overtakes those that wait with a later deadline, but takes no slot from one that
        runs. Which of the own calls run is not known: the first in order are taken to, so where some that run are due
        after this one, as many too few are counted. Others' requests go first.
        """
        outstanding = self.outstanding(server)
        others = outstanding - self.in_flight[server]
        return max(min(outstanding, self.servers[server].max_num_seqs), self.ahead[server] + others)

    def running_now(self, server: int) -> int:
        """Those of them that run: up to ``max_num_seqs``, or to those polled where some had to wait beside them."""
        can_run = self.running[server] if self.waiting[server] else self.servers[server].max_num_seqs
        return min(self.outstanding(server), can_run)

    def waiting_now(self, server: int) -> int:
        """Those of them that wait."""
        return self.outstanding(server) - self.running_now(server)

    @property
    def query_embedding(self) -> NDArray[np.float32]:
        """The query's embedding: ``[dimensions]``.

        Raises
        ------
        ConfigError
            The query has none.
        """
        embedding = self._embedding()
        if embedding is None:
            raise ConfigError(f"query {self.query.query_id}", ["has no embedding, and the policy reads it"])
        return embedding

    @property
    def server_features(self) -> NDArray[np.float64]:
        """The servers' state: ``[server, SERVER_FEATURES]``."""
        ages = list(map(self.poll_age_s, range(len(self.servers))))
        polled = (self.is_open, self.waiting, self.running, self.kv_usage, ages)
        return np.array((*polled, self.in_flight, self.since_poll, self.ahead), dtype=np.float64).T

    @property
    def latency_map(self) -> NDArray[np.float64] | None:
        """Predicted seconds of this call: ``[server, strategy]``, from the requests outstanding now.

        None without predictors.
        """
        if self._latency_map is None and self.context.latency is not None:
            indexes = range(len(self.servers))
            self._latency_map = self.context.latency.latency_map(
                self.prompt_tokens,
                [self.running_now(server) for server in indexes],
                [self.waiting_now(server) for server in indexes],
                self._embedding(),
            )
        return self._latency_map

    def _embedding(self) -> NDArray[np.float32] | None:
        row, table = self.query.embedding, self.context.embeddings
        return None if row is None or table is None else table[row]


def observe(
    t: float,
    arrived_at: float,
    query: Query,
    table: ServerTable,
    context: Context,
    priority: int,
    *,
    workflow: Workflow | None = None,
    node: Node | None = None,
    prompt_tokens: int | None = None,
    is_open: Sequence[bool] | None = None,
) -> Observation:
    """The state of a decision at time ``t``; the one place where observations are made.

    Parameters
    ----------
    priority
        The call's; a plan's is that of a call on the query's deadline.
    prompt_tokens
        Of the call; those of the question if None.
    is_open
        Which servers may be chosen; those that are open if None.
    """
    nothing = None if context.dead_reckoning else (0,) * len(table.infos)
    return Observation(
        t,
        query,
        query.budget_s - (t - arrived_at),
        query.prompt_tokens if prompt_tokens is None else prompt_tokens,
        workflow,
        node,
        table.infos,
        tuple(table.is_open if is_open is None else is_open),
        tuple(table.waiting),
        tuple(table.running),
        tuple(table.kv_usage),
        tuple(table.polled_at),
        nothing or tuple(table.in_flight),
        nothing or tuple(table.since_poll),
        nothing or table.ahead_of(priority),
        context,
    )
