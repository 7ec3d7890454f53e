"""What networks read of observations: arrays for a whole batch at once.

The same for training, simulation and live servers. Numbers are scaled so that most are in [-3, 3], whatever the pool.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from inframind.sim.knowledge import Knowledge, Map
from inframind.workflows import DOMAINS, STRATEGIES, TOPOLOGIES, Observation
from inframind.workflows.roles import ROLE_NAMES

DOMAIN_NAMES = tuple(DOMAINS)
TOPOLOGY_NAMES = tuple(TOPOLOGIES)
STRATEGY_NAMES = tuple(STRATEGIES)
ROLE_SETS = tuple(role_set for domain in DOMAINS.values() for role_set in domain.role_sets)
"""The menus of all domains, in the order of the planner's head."""
PLANNER_ROLE = len(ROLE_NAMES)
"""In place of a role where no call is asked about."""
NUM_SLOTS = 8
"""Later nodes of a workflow look like its last one."""

SCALARS = ("log_budget", "log_remaining", "remaining_share", "log_share", "calls_to_go", "predecessors", "log_prompt")
BUDGET_SCALARS = ("log_budget", "log_remaining", "remaining_share", "log_share")
"""Those of them that tell of the budget."""
CONTEXT_SIZE = len(SCALARS) + len(DOMAIN_NAMES) + len(TOPOLOGY_NAMES) + NUM_SLOTS
SERVER_FEATURES = (
    *("log_waiting", "log_running", "log_in_flight", "since_poll", "kv_usage", "poll_age", "load", "before"),
    *("log_slots", "log_token_s"),
)
RAW_METRICS = tuple(SERVER_FEATURES.index(name) for name in ("log_waiting", "log_running", "kv_usage"))
"""Those that a policy on raw metrics reads: what the server itself reports."""
ACTION_FEATURES = ("quality", "log_slack", "in_time", "good", "log_tokens", "log_work")
FEATURE_SIZES = (CONTEXT_SIZE, len(SERVER_FEATURES), len(ACTION_FEATURES))
"""Weights fit one version of them."""
GOOD = ACTION_FEATURES.index("good")
SLACK = ACTION_FEATURES.index("log_slack")
MIN_SHARE_S = 1e-2

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Features:
    """Of a batch of B decisions on n servers; S strategies."""

    embedding: Floats
    """Of the queries: ``[B, dimensions]``; ``[B, 0]`` where no network reads it."""
    context: Floats
    """Of query, budget and node: ``[B, CONTEXT_SIZE]``."""
    role: NDArray[np.int64]
    """Index in ``ROLE_NAMES``, or ``PLANNER_ROLE``: ``[B]``."""
    servers: Floats
    """``[B, n, SERVER_FEATURES]``."""
    actions: Floats
    """``[B, n, S, ACTION_FEATURES]``."""
    is_open: NDArray[np.bool_]
    """``[B, n]``."""
    budget_s: Floats
    """``[B]``, not scaled."""
    remaining_s: Floats
    """``[B]``, not scaled."""
    latency_s: Floats
    """The latency map, not scaled: ``[B, n, S]``."""

    def __len__(self) -> int:
        return len(self.role)

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """One batch after the other."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in _FIELDS))

    def take(self, rows: NDArray[np.int64]) -> Self:
        """Some of the decisions."""
        return type(self)(*(getattr(self, name).take(rows, axis=0) for name in _FIELDS))


_FIELDS = tuple(field.name for field in fields(Features))


class FeatureBuilder:
    """Turns observations of one pool into `Features`.

    Decisions come in small batches, so what counts is the number of numpy calls. What hangs on the query or on the node
    alone is computed once and looked up.

    Parameters
    ----------
    knowledge
        Of the pool's LLMs and step times.
    with_embedding
        Whether ``embedding`` is filled; if not, queries need none.
    """

    def __init__(self, knowledge: Knowledge, *, with_embedding: bool = True) -> None:
        self._knowledge = knowledge
        self._with_embedding = with_embedding
        slots = knowledge.max_num_seqs[:, 0]
        self._slots = slots
        self._of_server = np.stack([np.log(slots) / 3, np.log(knowledge.token_s[:, 0]) / 2 + 2], axis=-1)
        """The features that no load changes, the last ones of ``SERVER_FEATURES``: ``[n, 2]``."""
        self._nodes = _Rows(_of_node)
        self._queries = _Rows(self._of_query)

    def build(self, observations: Sequence[Observation]) -> Features:
        """Observations of planner and executor alike, in any mixture."""
        num, num_servers = len(observations), len(self._slots)
        numbers = np.array([_numbers(observation) for observation in observations], np.float64)
        budget_s, remaining_s, prompt_tokens, now = numbers[:, :_NUM_SCALARS].T
        gauges = numbers[:, _NUM_SCALARS:].reshape(num, -1, num_servers).swapaxes(0, 1)
        waiting, running, in_flight, since_poll, ahead, kv_usage, polled_at, is_open = gauges
        outstanding = np.maximum(waiting + running + since_poll, in_flight)
        # As Observation.before.
        before = np.maximum(np.minimum(outstanding, self._slots), ahead + (outstanding - in_flight))

        known = self._nodes.of([_node_key(observation) for observation in observations], observations)
        calls_to_go = known[:, 1 + _TO_GO]
        share_s = np.maximum(remaining_s / calls_to_go, MIN_SHARE_S)
        context = known[:, 1:]
        context[:, _AT["log_budget"]] = _log_scaled(budget_s)
        context[:, _AT["log_remaining"]] = _log_scaled(np.maximum(remaining_s, 0.0))
        context[:, _AT["remaining_share"]] = np.minimum(np.maximum(remaining_s / budget_s, -1.0), 1.0)
        context[:, _AT["log_share"]] = _log_scaled(share_s)
        context[:, _TO_GO] = calls_to_go / 4
        context[:, _AT["log_prompt"]] = np.log(prompt_tokens) / 3 - 1.5

        servers = np.empty((num, num_servers, len(SERVER_FEATURES)), np.float32)
        servers[:, :, _LOG_GAUGES] = np.log1p(gauges[:3]).transpose(1, 2, 0) / 2
        servers[:, :, _AT["since_poll"]] = since_poll / self._slots
        servers[:, :, _AT["kv_usage"]] = kv_usage
        servers[:, :, _AT["poll_age"]] = np.minimum(now[:, None] - polled_at, 10.0) / 5
        servers[:, :, _AT["load"]] = np.minimum(outstanding / self._slots, 8.0) / 2
        servers[:, :, _AT["before"]] = np.minimum(before / self._slots, 8.0) / 2
        servers[:, :, _OF_SERVER] = self._of_server
        keys = [(observation.query.domain, observation.query.question) for observation in observations]
        of_query = self._queries.of(keys, observations)
        latency_s, actions = self._actions(observations, of_query, prompt_tokens, before, share_s)
        return Features(
            self._embedding(observations),
            context.astype(np.float32),
            known[:, 0].astype(np.int64),
            servers,
            actions,
            is_open.astype(bool),
            budget_s.astype(np.float32),
            remaining_s.astype(np.float32),
            latency_s.astype(np.float32),
        )

    def _embedding(self, observations: Sequence[Observation]) -> Floats:
        if not self._with_embedding:
            return np.empty((len(observations), 0), np.float32)
        return np.array([observation.query_embedding for observation in observations])

    def _actions(
        self,
        observations: Sequence[Observation],
        known: NDArray[np.float64],
        prompt_tokens: NDArray[np.float64],
        before: NDArray[np.float64],
        share_s: NDArray[np.float64],
    ) -> tuple[Map, Floats]:
        quality, tokens = known[:, 0], known[:, 1]
        if observations[0].context.latency is not None:
            latency_s = call_s = np.stack([observation.latency_map for observation in observations])  # type: ignore[misc]
            left_s = share_s[:, None, None]
        else:
            wait_s, call_s = self._knowledge.wait_and_call_s(
                prompt_tokens[:, None, None], tokens, np.ascontiguousarray(before)[:, :, None]
            )
            latency_s = wait_s + call_s
            left_s = np.maximum(share_s[:, None, None] - wait_s, MIN_SHARE_S)
        log_slack = np.log(share_s[:, None, None] / latency_s)
        # Of a right answer, whose length is log-normal about its own median.
        in_time = ndtr((np.log(left_s / call_s) - known[:, 5]) / known[:, 6])
        actions = np.empty((*latency_s.shape, len(ACTION_FEATURES)), np.float32)
        actions[..., _AT["quality"]] = known[:, 2]
        actions[..., SLACK] = np.minimum(np.maximum(log_slack / 2, -3.0), 3.0)
        actions[..., _AT["in_time"]] = in_time
        actions[..., GOOD] = quality * in_time
        actions[..., _AT["log_tokens"]] = known[:, 3]
        actions[..., _AT["log_work"]] = known[:, 4]
        return latency_s, actions

    def _of_query(self, observation: Observation) -> NDArray[np.float64]:
        """Quality, tokens, the three features of actions that hang on the query alone, and of the log of a right
        answer's length over ``tokens`` mean and standard deviation: ``[7, n, S]``."""
        knowledge = self._knowledge
        quality, tokens, right_log_tokens, right_log_sd = knowledge.prospect(observation.query)
        work_s = tokens * knowledge.token_s / knowledge.max_num_seqs
        log_tokens = np.log(tokens)
        of_actions = (2 * quality - 1, log_tokens / 2 - 3, np.log(work_s) / 2)
        return np.stack([quality, tokens, *of_actions, right_log_tokens - log_tokens, right_log_sd])


_AT = {name: index for names in (SCALARS, SERVER_FEATURES, ACTION_FEATURES) for index, name in enumerate(names)}
"""Column of each feature; no name is in two of them."""
_TO_GO = _AT["calls_to_go"]
_LOG_GAUGES = slice(_AT["log_waiting"], _AT["log_in_flight"] + 1)
_OF_SERVER = slice(_AT["log_slots"], None)
_NUM_SCALARS = 4


class _Rows:
    """Arrays of one shape, each made when its key is first met; looked up many at a time.

    Parameters
    ----------
    make
        What hangs on the key alone, from any observation that has it.
    """

    def __init__(self, make: Callable[[Observation], NDArray[np.float64]]) -> None:
        self._make = make
        self._rows: dict[Hashable, int] = {}
        self._table: NDArray[np.float64] = np.empty(0)

    def of(self, keys: Sequence[Hashable], observations: Sequence[Observation]) -> NDArray[np.float64]:
        """A copy of those of the keys, one for each observation: ``[B, ...]``."""
        rows = self._rows
        for key, observation in zip(keys, observations, strict=True):
            if key not in rows:
                self._add(key, self._make(observation))
        return self._table.take([rows[key] for key in keys], axis=0)

    def _add(self, key: Hashable, array: NDArray[np.float64]) -> None:
        row = self._rows[key] = len(self._rows)
        if row == len(self._table):
            larger = np.empty((2 * row + 16, *array.shape))
            larger[:row] = self._table if row else array
            self._table = larger
        self._table[row] = array


def _numbers(observation: Observation) -> tuple[float, ...]:
    query = observation.query
    return (
        query.budget_s,
        observation.remaining_s,
        observation.prompt_tokens,
        observation.t,
        *observation.waiting,
        *observation.running,
        *observation.in_flight,
        *observation.since_poll,
        *observation.ahead,
        *observation.kv_usage,
        *observation.polled_at,
        *observation.is_open,
    )


def _node_key(observation: Observation) -> tuple[str, str, str, int]:
    workflow, node, domain = observation.workflow, observation.node, observation.query.domain
    if workflow is None or node is None:
        return domain, "", "", 0
    return domain, workflow.topology.name, workflow.role_set, node.slot


def _of_node(observation: Observation) -> NDArray[np.float64]:
    """Role, then context as far as it hangs on the node alone: ``[1 + CONTEXT_SIZE]``."""
    workflow, node, domain = observation.workflow, observation.node, observation.query.domain
    context = np.zeros(CONTEXT_SIZE)
    at = len(SCALARS)
    context[at + DOMAIN_NAMES.index(domain)] = 1
    at += len(DOMAIN_NAMES)
    if workflow is None or node is None:
        role = PLANNER_ROLE
        context[_TO_GO] = 1
    else:
        role = ROLE_NAMES.index(node.role.name)
        context[_TO_GO] = node.calls_to_go
        context[SCALARS.index("predecessors")] = len(node.predecessors) / 3
        context[at + TOPOLOGY_NAMES.index(workflow.topology.name)] = 1
        context[at + len(TOPOLOGY_NAMES) + min(node.slot, NUM_SLOTS - 1)] = 1
    return np.concatenate([[role], context])


def _log_scaled(seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """From 1 s to an hour: about -1.5 to 1.5."""
    return (np.log(seconds + 1) - 4.0) / 2.5
