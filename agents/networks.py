"""The networks of planner, executor and critic.

``set`` networks read any number of servers in any order: one encoder for all of them, means and maxima over what it
says, and a score for each action from its server's code and the context, as a pointer network's (SCALE). ``flat`` ones
read one vector and belong to one pool: those of the theory document and of the InfraMind authors' code.
"""

from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from inframind.traces import Section
from inframind.workflows import TOPOLOGIES
from inframind.workflows.roles import ROLE_NAMES

from .features import (
    ACTION_FEATURES,
    BUDGET_SCALARS,
    CONTEXT_SIZE,
    GOOD,
    RAW_METRICS,
    ROLE_SETS,
    SCALARS,
    SERVER_FEATURES,
    SLACK,
    STRATEGY_NAMES,
)
from .tensors import FeatureTensors

NUM_STRATEGIES = len(STRATEGY_NAMES)
NUM_TOPOLOGIES = len(TOPOLOGIES)
NUM_ROLE_SETS = len(ROLE_SETS)
LUCK_SIZE = 2
"""What a critic knows of each action besides: see `SetCritic`."""
NEVER = -1e9
"""Logit of what may not be chosen."""
Size = Annotated[int, Field(ge=1)]


class NetworkOptions(Section):
    """Of one network."""

    kind: Literal["set", "flat", "dual"] = "set"
    """``set`` serves any pool; ``flat`` and ``dual`` (query and state on ways of their own) only that of training."""
    system: Literal["latency-map", "raw-metrics", "none"] = "latency-map"
    """What it sees of the servers: predicted latencies with the gauges (theory, 3.3), the gauges alone (a ``set``
    network: and own calls), or nothing."""
    budget: Literal["seconds", "none"] = "seconds"
    """Whether it sees budget and remaining time."""
    heads: Literal["joint", "factored"] = "joint"
    """The executor's: one over all pairs of server and strategy, or one for each."""
    hidden: Size = 64
    """Units of its hidden layers."""
    query: Annotated[int, Field(ge=0)] = 8
    """Numbers that the embedding of the query is brought down to, by a ``set`` network; with 0 it sees of it what it
    tells of quality and length alone. The others read all of it."""
    prior: Annotated[float, Field(ge=0)] = 0.0
    """Of an executor: weight, before training, of P(right) P(in time) as known beforehand in the logits."""

    @property
    def reads_embedding(self) -> bool:
        """Whether it needs the query's embedding itself."""
        return self.kind != "set" or self.query > 0


def mlp(*sizes: int) -> nn.Sequential:
    """Linear layers with ReLU between them, in place: what a layer gives, its gradient does not need."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])


class SetEncoder(nn.Module):
    """Codes of the servers ``[B, n, hidden/2]`` and of the whole state ``[B, hidden]``.

    Parameters
    ----------
    num_extra
        Further numbers for each action: what a critic knows more.
    """

    ROLE = 8

    def __init__(self, options: NetworkOptions, embedding_size: int, num_extra: int = 0) -> None:
        super().__init__()
        self._options = options
        half = options.hidden // 2
        self._query = nn.Linear(embedding_size, options.query) if options.query else None
        self._role = nn.Embedding(len(ROLE_NAMES) + 1, self.ROLE)
        self._servers = mlp(
            len(SERVER_FEATURES) + NUM_STRATEGIES * (len(ACTION_FEATURES) + num_extra), options.hidden, half
        )
        self._state = mlp(options.query + self.ROLE + CONTEXT_SIZE + 2 * half, options.hidden, options.hidden)

    def forward(self, features: FeatureTensors, extra: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Codes of servers and state; ``extra``: ``[B, n, S, num_extra]``."""
        actions, servers, context = blinded(features, self._options)
        if extra is not None:
            actions = torch.cat([actions, extra], -1)
        codes = torch.relu_(self._servers(torch.cat([servers, actions.flatten(2)], -1)))
        is_open = features.is_open[:, :, None]
        # Codes are never below 0: those of closed servers are neither in the sum nor the highest.
        of_open = codes * is_open
        parts = [self._role(features.role), context, of_open.sum(1) / is_open.sum(1).clamp(min=1), of_open.amax(1)]
        if self._query is not None:
            parts.insert(0, torch.tanh(self._query(features.embedding * features.embedding.shape[-1] ** 0.5)))
        state = self._state(torch.cat(parts, -1))
        return codes, torch.relu_(state)


def _of_open(scores: Tensor, is_open: Tensor) -> Tensor:
    """Pairs of server and strategy in one row, those of closed servers ``NEVER``."""
    return scores.masked_fill(~is_open[:, :, None], NEVER).flatten(1)


def blinded(features: FeatureTensors, options: NetworkOptions) -> tuple[Tensor, Tensor, Tensor]:
    """Features of actions, servers and context, zero where the network may not see them."""
    actions, servers, context = features.actions, features.servers, features.context
    if options.system != "latency-map":
        # What is known of the LLMs stays: quality, length and price do not depend on load.
        seen = torch.tensor([name not in ("log_slack", "in_time", "good") for name in ACTION_FEATURES])
        actions = actions * seen
    if options.system == "none":
        servers = servers * torch.tensor([name in ("log_slots", "log_token_s") for name in SERVER_FEATURES])
    if options.budget == "none":
        seen = torch.ones(CONTEXT_SIZE, dtype=torch.bool)
        seen[[SCALARS.index(name) for name in BUDGET_SCALARS]] = False
        context = context * seen
    return actions, servers, context


class SetExecutor(nn.Module):
    """Scores of all pairs of server and strategy: ``[B, n * S]``."""

    def __init__(self, options: NetworkOptions, embedding_size: int) -> None:
        super().__init__()
        self.options = options
        half = options.hidden // 2
        self._encoder = SetEncoder(options, embedding_size)
        # The first layer of a network on [code, state], in two halves: the state's is the same for all servers.
        self._of_code = nn.Linear(half, options.hidden)
        self._of_state = nn.Linear(options.hidden, options.hidden, bias=False)
        self._score = nn.Linear(options.hidden, NUM_STRATEGIES)
        self._common = nn.Linear(options.hidden, NUM_STRATEGIES)
        self._direct = nn.Linear(len(ACTION_FEATURES), 1, bias=False)
        with torch.no_grad():
            self._score.weight.mul_(0.1)
            self._direct.weight.zero_()
            self._direct.weight[0, GOOD] = options.prior
            # Where nothing is in time, the quickest is least bad.
            self._direct.weight[0, SLACK] = options.prior / 40

    def forward(self, features: FeatureTensors) -> Tensor:
        """Logits; that of a closed server is ``NEVER``."""
        codes, state = self._encoder(features)
        hidden = self._of_code(codes)
        hidden += self._of_state(state)[:, None, :]
        actions = blinded(features, self.options)[0]
        scores = self._score(torch.relu_(hidden)) + self._direct(actions).squeeze(-1)
        if self.options.heads == "factored":
            scores = scores.mean(-1, keepdim=True) + self._common(state)[:, None, :]
        return _of_open(scores, features.is_open)


class SetPlanner(nn.Module):
    """Logits of topologies ``[B, 6]`` and of role sets ``[B, all domains' menus]``."""

    def __init__(self, options: NetworkOptions, embedding_size: int) -> None:
        super().__init__()
        self.options = options
        self._encoder = SetEncoder(options, embedding_size)
        self._norm = nn.LayerNorm(options.hidden)
        self._topology = nn.Linear(options.hidden, NUM_TOPOLOGIES)
        self._role_set = nn.Linear(options.hidden, NUM_ROLE_SETS)

    def forward(self, features: FeatureTensors) -> tuple[Tensor, Tensor]:
        """Logits, before masks."""
        state = self._norm(self._encoder(features)[1])
        return self._topology(state), self._role_set(state)


class SetCritic(nn.Module):
    """Expected reward and cost of a decision's workflow: ``[B, 2]``.

    It may know what policies do not, since it is needed for training only: here whether each LLM would be right at
    this node, and the share of the workflow's nodes where it would. That depends on the query and not on decisions, so
    the policy's gradient stays unbiased, and most of its variance is gone (input-dependent baselines, Mao et al., ICLR
    2019).
    """

    def __init__(self, options: NetworkOptions, embedding_size: int) -> None:
        super().__init__()
        self._encoder = SetEncoder(options, embedding_size, num_extra=LUCK_SIZE)
        self._values = mlp(options.hidden, options.hidden, 2)

    def forward(self, features: FeatureTensors, luck: Tensor) -> Tensor:
        """Values; ``luck``: ``[B, n, S, 2]``, see `rollouts.Batch`; 0 where nothing is known."""
        values: Tensor = self._values(self._encoder(features, luck)[1])
        return values


class FlatState(nn.Module):
    """A planner's state ``[e_q | beta]`` (theory, 3.1) or an executor's ``[e_q | e_role | b_rem | z_sys]`` (3.2, 3.3).

    They go through a layer with LayerNorm and one more: ``[B, hidden]``. Seconds and counts go in as they are, as the
    theory has it: LayerNorm is what copes with their scale. ``dual``: query and role on one way, budget and system on
    another, so that 384 numbers do not drown a few.

    Parameters
    ----------
    num_servers
        Of the pool; None for a planner, which sees nothing of the servers and has no role.
    """

    ROLE = 16

    def __init__(self, options: NetworkOptions, embedding_size: int, num_servers: int | None) -> None:
        super().__init__()
        self._options = options
        self._role = None if num_servers is None else nn.Embedding(len(ROLE_NAMES) + 1, self.ROLE)
        of_server = {"latency-map": NUM_STRATEGIES + 2, "raw-metrics": len(RAW_METRICS), "none": 0}[options.system]
        num_query = embedding_size + (0 if self._role is None else self.ROLE)
        num_state = (num_servers or 0) * of_server + (options.budget == "seconds")
        self._is_dual = options.kind == "dual" and num_state > 0
        if self._is_dual:
            half = options.hidden // 2
            self._first = nn.ModuleList(
                nn.Sequential(nn.Linear(size, half), nn.LayerNorm(half), nn.ReLU()) for size in (num_query, num_state)
            )
        else:
            self._first = nn.ModuleList(
                [
                    nn.Sequential(
                        nn.Linear(num_query + num_state, options.hidden), nn.LayerNorm(options.hidden), nn.ReLU()
                    )
                ]
            )
        self._second = nn.Sequential(nn.Linear(options.hidden, options.hidden), nn.ReLU())

    def forward(self, features: FeatureTensors) -> Tensor:
        """The state's code."""
        query, seconds = features.embedding, features.budget_s
        if self._role is not None:
            query, seconds = torch.cat([query, self._role(features.role)], -1), features.remaining_s
        state = [seconds[:, None]] if self._options.budget == "seconds" else []
        waiting_at, running_at, usage_at = RAW_METRICS
        waiting, running = (torch.expm1(2 * features.servers[:, :, index]) for index in (waiting_at, running_at))
        if self._options.system == "latency-map":
            state += [torch.cat([features.latency_s, running[..., None], waiting[..., None]], -1).flatten(1)]
        elif self._options.system == "raw-metrics":
            state += [torch.stack([waiting, running, features.servers[:, :, usage_at]], -1).flatten(1)]
        if self._is_dual:
            parts = [self._first[0](query), self._first[1](torch.cat(state, -1))]
        else:
            parts = [self._first[0](torch.cat([query, *state], -1))]
        code: Tensor = self._second(torch.cat(parts, -1))
        return code


class FlatExecutor(nn.Module):
    """As `SetExecutor`, for ``num_servers`` servers in a fixed order; with a value on the same state (theory, 8.3)."""

    def __init__(self, options: NetworkOptions, embedding_size: int, num_servers: int) -> None:
        super().__init__()
        self._state = FlatState(options, embedding_size, num_servers)
        self._value = nn.Linear(options.hidden, 1)
        self._is_factored = options.heads == "factored"
        if self._is_factored:
            self._server = nn.Linear(options.hidden, num_servers)
            self._strategy = nn.Linear(options.hidden, NUM_STRATEGIES)
        else:
            self._joint = nn.Linear(options.hidden, num_servers * NUM_STRATEGIES)

    def forward(self, features: FeatureTensors) -> Tensor:
        """Logits; that of a closed server is ``NEVER``."""
        return self.with_value(features)[0]

    def with_value(self, features: FeatureTensors) -> tuple[Tensor, Tensor]:
        """Logits, and what is expected of the state: ``[B]``; learnt with ``critic.shared``."""
        state = self._state(features)
        if self._is_factored:
            scores = self._server(state)[:, :, None] + self._strategy(state)[:, None, :]
        else:
            scores = self._joint(state).unflatten(1, (-1, NUM_STRATEGIES))
        return _of_open(scores, features.is_open), self._value(state).squeeze(-1)


class FlatPlanner(nn.Module):
    """As `SetPlanner`; it sees the query, and beta where ``budget`` says so (theory, 3.1)."""

    def __init__(self, options: NetworkOptions, embedding_size: int) -> None:
        super().__init__()
        self._state = FlatState(options, embedding_size, None)
        self._topology = nn.Linear(options.hidden, NUM_TOPOLOGIES)
        self._role_set = nn.Linear(options.hidden, NUM_ROLE_SETS)

    def forward(self, features: FeatureTensors) -> tuple[Tensor, Tensor]:
        """Logits, before masks."""
        state = self._state(features)
        return self._topology(state), self._role_set(state)


class FlatCritic(nn.Module):
    """As `SetCritic`, knowing what the policy knows."""

    def __init__(self, options: NetworkOptions, embedding_size: int, num_servers: int) -> None:
        super().__init__()
        self._state = FlatState(options, embedding_size, num_servers)
        self._values = nn.Linear(options.hidden, 2)

    def forward(self, features: FeatureTensors, luck: Tensor) -> Tensor:
        """Values."""
        values: Tensor = self._values(self._state(features))
        return values


def planner_network(options: NetworkOptions, embedding_size: int) -> nn.Module:
    """As the options say."""
    return SetPlanner(options, embedding_size) if options.kind == "set" else FlatPlanner(options, embedding_size)


def executor_network(options: NetworkOptions, embedding_size: int, num_servers: int) -> nn.Module:
    """As the options say."""
    if options.kind == "set":
        return SetExecutor(options, embedding_size)
    return FlatExecutor(options, embedding_size, num_servers)


def critic_network(options: NetworkOptions, embedding_size: int, num_servers: int) -> nn.Module:
    """As the options say."""
    if options.kind == "set":
        return SetCritic(options, embedding_size)
    return FlatCritic(options, embedding_size, num_servers)
