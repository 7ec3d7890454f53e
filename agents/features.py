"""What networks read of observations: arrays for a whole batch at once.

The same for training, simulation and live servers. Numbers are scaled so that most are in [-3, 3], whatever the pool.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from inframind.sim.knowledge import Knowledge, Map
from inframind.workflows import DOMAINS, STRATEGIES, TOPOLOGIES, Node, Observation
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
    *("log_waiting", "log_running", "log_in_flight", "since_poll", "kv_usage", "poll_age", "load", "log_slots"),
    "log_token_s",
)
RAW_METRICS = tuple(SERVER_FEATURES.index(name) for name in ("log_waiting", "log_running", "kv_usage"))
"""Those that a policy on raw metrics reads: what the server itself reports."""
ACTION_FEATURES = ("quality", "log_slack", "in_time", "good", "log_tokens", "log_work")
GOOD = ACTION_FEATURES.index("good")
SLACK = ACTION_FEATURES.index("log_slack")
LOG_ERROR_SD = 0.5
"""Of predicted latencies, taken as log-normal around the prediction: mostly of the output's length."""
MIN_SHARE_S = 1e-2

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Features:
    """Of a batch of B decisions on n servers; S strategies."""

    embedding: Floats
    """Of the queries: ``[B, dimensions]``."""
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
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def take(self, rows: NDArray[np.int64]) -> Self:
        """Some of the decisions."""
        return type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))


class FeatureBuilder:
    """Turns observations of one pool into `Features`.

    Parameters
    ----------
    knowledge
        Of the pool's LLMs and step times.
    """

    def __init__(self, knowledge: Knowledge) -> None:
        self._knowledge = knowledge
        self._log_token_s = np.log(knowledge.token_s[:, 0])
        self._roles = {name: index for index, name in enumerate(ROLE_NAMES)}
        self._nodes: dict[tuple[str, str, str, int], tuple[int, Floats]] = {}

    def build(self, observations: Sequence[Observation]) -> Features:
        """Observations of planner and executor alike, in any mixture."""
        num = len(observations)
        scalars = np.array([self._scalars(observation) for observation in observations])
        budget_s, remaining_s, prompt_tokens = scalars.T
        roles, of_nodes = zip(*[self._node(observation) for observation in observations], strict=True)
        context = np.stack(of_nodes)
        share_s = np.maximum(remaining_s / context[:, _TO_GO], MIN_SHARE_S)
        context[:, 0] = _log_scaled(budget_s)
        context[:, 1] = _log_scaled(np.maximum(remaining_s, 0.0))
        context[:, 2] = np.clip(remaining_s / budget_s, -1.0, 1.0)
        context[:, 3] = _log_scaled(share_s)
        context[:, 6] = np.log(prompt_tokens) / 3 - 1.5
        context[:, _TO_GO] /= 4

        gauges = np.array(
            [
                (
                    *observation.waiting,
                    *observation.running,
                    *observation.in_flight,
                    *observation.since_poll,
                    *observation.kv_usage,
                    *observation.polled_at,
                    *observation.is_open,
                )
                for observation in observations
            ],
            dtype=float,
        ).reshape(num, 7, -1)
        waiting, running, in_flight, since_poll, kv_usage, polled_at, is_open = gauges.swapaxes(0, 1)
        now = np.array([observation.t for observation in observations])
        slots = self._knowledge.max_num_seqs[:, 0]
        outstanding = np.maximum(waiting + running + since_poll, in_flight)
        load = outstanding / slots
        servers = np.stack(
            [
                np.log1p(waiting) / 2,
                np.log1p(running) / 2,
                np.log1p(in_flight) / 2,
                since_poll / slots,
                kv_usage,
                np.minimum(now[:, None] - polled_at, 10.0) / 5,
                np.minimum(load, 8.0) / 2,
                np.broadcast_to(np.log(slots) / 3, load.shape),
                np.broadcast_to(self._log_token_s / 2 + 2, load.shape),
            ],
            axis=-1,
        )
        latency_s, actions = self._actions(observations, prompt_tokens, outstanding, share_s)
        return Features(
            np.stack([observation.query_embedding for observation in observations]),
            context,
            np.array(roles),
            servers.astype(np.float32),
            actions,
            is_open.astype(bool),
            budget_s.astype(np.float32),
            remaining_s.astype(np.float32),
            latency_s.astype(np.float32),
        )

    def _actions(
        self,
        observations: Sequence[Observation],
        prompt_tokens: NDArray[np.float64],
        outstanding: NDArray[np.float64],
        share_s: NDArray[np.float64],
    ) -> tuple[Map, Floats]:
        knowledge = self._knowledge
        prospects = [knowledge.prospect(observation.query) for observation in observations]
        quality = np.stack([prospect.quality for prospect in prospects])
        tokens = np.stack([prospect.tokens for prospect in prospects])
        if observations[0].context.latency is not None:
            latency_s = np.stack([observation.latency_map for observation in observations])  # type: ignore[misc]
        else:
            latency_s = knowledge.latency_by_steps(
                prompt_tokens[:, None, None], tokens, np.ascontiguousarray(outstanding)[:, :, None]
            )
        log_slack = np.log(share_s[:, None, None] / latency_s)
        in_time = ndtr(log_slack / LOG_ERROR_SD)
        work_s = tokens * knowledge.token_s / knowledge.max_num_seqs
        return latency_s, np.stack(
            [
                2 * quality - 1,
                np.clip(log_slack / 2, -3.0, 3.0),
                in_time,
                quality * in_time,
                np.log(tokens) / 2 - 3,
                np.log(work_s) / 2,
            ],
            axis=-1,
        ).astype(np.float32)

    @staticmethod
    def _scalars(observation: Observation) -> tuple[float, float, float]:
        return observation.query.budget_s, observation.remaining_s, observation.prompt_tokens

    def _node(self, observation: Observation) -> tuple[int, Floats]:
        """Role, and context as far as it hangs on the node alone; looked up, since workflows come again and again."""
        workflow, node, domain = observation.workflow, observation.node, observation.query.domain
        if workflow is None or node is None:
            key = (domain, "", "", 0)
        else:
            key = (domain, workflow.topology.name, workflow.role_set, node.slot)
        if (known := self._nodes.get(key)) is None:
            role = PLANNER_ROLE if node is None else self._roles[node.role.name]
            known = self._nodes[key] = (role, _context_of(domain, key[1], node))
        return known


_TO_GO = SCALARS.index("calls_to_go")


def _context_of(domain: str, topology: str, node: Node | None) -> Floats:
    context = np.zeros(CONTEXT_SIZE, np.float32)
    context[_TO_GO] = 1 if node is None else node.calls_to_go
    context[SCALARS.index("predecessors")] = 0 if node is None else len(node.predecessors) / 3
    at = len(SCALARS)
    context[at + DOMAIN_NAMES.index(domain)] = 1
    at += len(DOMAIN_NAMES)
    if node is not None:
        context[at + TOPOLOGY_NAMES.index(topology)] = 1
        context[at + len(TOPOLOGY_NAMES) + min(node.slot, NUM_SLOTS - 1)] = 1
    return context


def _log_scaled(seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """From 1 s to an hour: about -1.5 to 1.5."""
    return (np.log(seconds + 1) - 4.0) / 2.5
