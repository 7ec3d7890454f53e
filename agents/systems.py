"""Whole systems to compare with: they bring a plan of their own, and choose servers by it."""

from collections.abc import Mapping, Sequence
from heapq import heapreplace

import numpy as np

from inframind.sim import Outcomes, ServerOptions
from inframind.sim.knowledge import Knowledge
from inframind.workflows import DECIDER, DOMAINS, CallRecord, Choice, Observation, Plan
from inframind.workflows.roles import SEPARATOR

from .plans import draw_of, drawn_below
from .rules import STRATEGY_NAMES, in_order, open_servers

MASROUTER_AGENTS = 5
"""As in the InfraMind authors' port (``max_agent``); 5.2 to 5.4 calls in a workflow on MATH say that all are used."""
MASROUTER_TOPOLOGIES: Mapping[str, float] = {
    "CoT": 0.43,
    "IO": 0.42,
    "Chain": 0.0375,
    "FullConnected": 0.0375,
    "Debate": 0.0375,
    "Reflection": 0.0375,
}
"""How often each was taken on MATH, at every load, by the planner that the InfraMind authors began with MasRouter's."""
MASROUTER_MODELS: Mapping[str, float] = {
    "DeepSeek-R1-Distill-Qwen-32B": 0.18,
    "Mistral-Small-24B-Instruct-2501": 0.21,
    "Qwen2.5-Coder-14B-Instruct": 0.38,
    "Llama-3.1-8B-Instruct": 0.16,
    "Llama-3.2-3B-Instruct": 0.07,
}
"""How often each was taken on MATH with a cost rate of 10. Of the 32B the authors counted 0.96 calls of 5.3 in a
workflow. The others' shares are what Little's law makes of the requests that they saw running at 10 queries/min (2.1,
3.3, 1.1, 0.3) and the calls' mean times in the pool ``paper``, one call of a workflow at a time."""
MASROUTER_OTHER_MODEL = 0.2
"""For an LLM that is not among them."""


MASROUTER_STRATEGY = "DeepThink"
"""Its roles ask for reasoning at length. With a plain chain of thought, every server would have run 0.7 of the requests
that the authors saw at 10 queries/min."""
PLAIN = ("Concise", "DeepThink")
"""Who has no notion of strategies asks for a plain chain of thought. Such calls have one of these two, half of them
each: in math 0.65 and 1.48 times as long as one (docs/outcomes.md), in the mean 1.07."""


def plain_strategy(observation: Observation, seed: int) -> str:
    """Of ``PLAIN``; it hangs on the call alone."""
    assert observation.node is not None  # an executor is asked about calls only
    return PLAIN[drawn_below(len(PLAIN), observation.query.query_id, seed, observation.node.slot)]


class OneAgentPerServer:
    """MoA's plan: as many independent agents as there are servers, and a decision node."""

    def plan(self, observation: Observation) -> Plan:
        """The plan."""
        role = DOMAINS[observation.query.domain].roles[0].name
        return Plan("IO", SEPARATOR.join([role] * len(observation.servers)))


class MixtureOfAgents:
    """All LLMs propose, the largest joins (Wang et al. 2024, arXiv 2406.04692, with one layer).

    Parameters
    ----------
    largest_first
        All servers.
    """

    def __init__(self, largest_first: Sequence[int], seed: int) -> None:
        self._largest = in_order(largest_first)
        self._seed = seed

    def choose(self, observation: Observation) -> Choice:
        """The server with the agent's number; the largest for the decision node, and where that one is closed."""
        assert observation.node is not None  # an executor is asked about calls only
        server = observation.node.slot
        if observation.role == DECIDER.name or not observation.is_open[server]:
            server = self._largest(observation, open_servers(observation))
        return Choice(server, plain_strategy(observation, self._seed))


class LoadBlindMixture:
    """MasRouter's manner of choosing LLMs: drawn for each agent, whatever the load.

    An agent keeps its LLM from one round to the next; the decision node has the one that most agents have.

    Parameters
    ----------
    models
        How often each LLM is drawn, in any unit. Servers of one LLM share its draws.
    """

    def __init__(self, servers: Sequence[ServerOptions], models: Mapping[str, float], strategy: str, seed: int) -> None:
        names = [server.model for server in servers]
        shares = np.array([models.get(name, MASROUTER_OTHER_MODEL) / names.count(name) for name in names])
        self._cumulative = np.cumsum(shares / shares.sum())
        self._strategy = strategy
        self._seed = seed

    def choose(self, observation: Observation) -> Choice:
        """The agent's server; where it is closed, the next one."""
        assert observation.node is not None  # an executor is asked about calls only
        assert observation.workflow is not None
        num_agents = observation.workflow.role_set.count(SEPARATOR) + 1
        draws = draw_of(observation.query.query_id, self._seed).random(num_agents)
        drawn = np.minimum(np.searchsorted(self._cumulative, draws), len(self._cumulative) - 1)
        if observation.role == DECIDER.name:
            wanted = int(np.bincount(drawn).argmax())
        else:
            wanted = int(drawn[observation.node.slot % num_agents])
        servers = open_servers(observation)
        return Choice(min(servers, key=lambda server: (server - wanted) % len(observation.servers)), self._strategy)


class Clairvoyant:
    """Knows how long each call's output is and whether it is right, and when each server will have a free slot.

    Takes, of the calls that are right and in time, the one that needs the least of a server's time; if there is none,
    the one that needs the least of all: a lost query should cost the others little.

    In what sense it bounds: with a plan of one call, and where nothing has to wait, no policy answers more queries
    rightly and in time, because it answers every one that can be. Under load it is greedy, and takes queries for first
    come, first served; it is a strong reference then, not a proven bound. Nor does it bound workflows of several calls,
    which may answer what no call alone does.
    """

    def __init__(self, servers: Sequence[ServerOptions], knowledge: Knowledge, outcomes: Outcomes, seed: int) -> None:
        self._models = [server.model for server in servers]
        self._knowledge = knowledge
        self._outcomes = outcomes
        self._seed = seed
        self._slots = [[0.0] * server.num_slots for server in servers]
        """For each server, when each of its slots will be free: a heap."""

    def choose(self, observation: Observation) -> Choice:
        """The best call, by what will be."""
        tokens = np.array(
            [[self._tokens(observation, model, name) for name in STRATEGY_NAMES] for model in self._models]
        )
        busy = np.array([[1 + sum(end > observation.t for end in slots)] for slots in self._slots])
        num_running = np.minimum(busy, [[len(slots)] for slots in self._slots])
        call_s = self._knowledge.call_s(observation.prompt_tokens, tokens, num_running)
        start_s = np.array([[max(slots[0] - observation.t, 0.0)] for slots in self._slots])
        price = tokens * self._knowledge.token_s
        in_time = start_s + call_s <= observation.remaining_s
        order = np.argsort(np.where(np.array(observation.is_open)[:, None], price, np.inf), axis=None)
        pairs = [(int(pair) // len(STRATEGY_NAMES), int(pair) % len(STRATEGY_NAMES)) for pair in order]
        good = (
            pair
            for pair in pairs
            if observation.is_open[pair[0]] and in_time[pair] and self._is_right(observation, pair, int(tokens[pair]))
        )
        server, strategy = next(good, pairs[0])
        heapreplace(self._slots[server], observation.t + float(start_s[server, 0] + call_s[server, strategy]))
        return Choice(server, STRATEGY_NAMES[strategy])

    def _tokens(self, observation: Observation, model: str, strategy: str) -> int:
        query, node = observation.query, observation.node
        assert node is not None  # an executor is asked about calls only
        wanted = self._outcomes.output_tokens(
            query.domain, query.question, model, strategy, node.role.name, node.slot, self._seed
        )
        return min(wanted, self._knowledge.max_tokens)

    def _is_right(self, observation: Observation, pair: tuple[int, int], tokens: int) -> bool:
        """Whether the call alone would give the right answer."""
        query, node = observation.query, observation.node
        assert node is not None
        server, strategy = pair
        call = CallRecord(
            slot=0,
            role=node.role.name,
            server=server,
            model=self._models[server],
            strategy=STRATEGY_NAMES[strategy],
            prompt_tokens=observation.prompt_tokens,
            output_tokens=tokens,
        )
        return self._outcomes.answer_correct(query.domain, query.question, "IO", node.role.name, [call], self._seed)
