"""Rules that choose a server, or a server and a strategy: each a few lines.

They read nothing but the observation, and what is known of the LLMs beforehand.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from inframind.sim.knowledge import Knowledge, Map
from inframind.workflows import STRATEGIES, Choice, Observation

from .plans import drawn_below

Pick: TypeAlias = Callable[[Observation, list[int]], int]
"""Given the observation and the open servers, returns one of them."""

Score: TypeAlias = Callable[[Observation], Map]
"""Returns ``[server, strategy]``, higher is better."""

STRATEGY_NAMES = tuple(STRATEGIES)


def open_servers(observation: Observation) -> list[int]:
    """Those that may be chosen."""
    return [server for server, is_open in enumerate(observation.is_open) if is_open]


class LoadBalancer:
    """Picks a server; all calls have one strategy."""

    def __init__(self, pick: Pick, strategy: str) -> None:
        self._pick = pick
        self._strategy = strategy

    def choose(self, observation: Observation) -> Choice:
        """The picked server."""
        return Choice(self._pick(observation, open_servers(observation)), self._strategy)


class Router:
    """Takes the best score among the open servers and all strategies, the first of several."""

    def __init__(self, score: Score) -> None:
        self._score = score

    def choose(self, observation: Observation) -> Choice:
        """The best pair."""
        score = np.where(np.array(observation.is_open)[:, None], self._score(observation), -np.inf)
        server, strategy = divmod(int(np.argmax(score)), score.shape[1])
        return Choice(server, STRATEGY_NAMES[strategy])


class RandomChoice:
    """Any open server, any strategy."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def choose(self, observation: Observation) -> Choice:
        """A draw."""
        servers = open_servers(observation)
        server, strategy = self._rng.integers((len(servers), len(STRATEGY_NAMES)))
        return Choice(servers[server], STRATEGY_NAMES[strategy])


def round_robin() -> Pick:
    """Servers in turn; a closed one is passed over."""
    last = -1

    def pick(_: Observation, servers: list[int]) -> int:
        nonlocal last
        last = min(servers, key=lambda server: (server <= last, server))
        return last

    return pick


def shortest_queue(seed: int) -> Pick:
    """Fewest outstanding requests (JSQ); one of several at random, by a draw that hangs on the call alone."""

    def pick(observation: Observation, servers: list[int]) -> int:
        outstanding = [observation.outstanding(server) for server in servers]
        least = min(outstanding)
        shortest = [server for server, num in zip(servers, outstanding, strict=True) if num == least]
        if len(shortest) == 1:
            return shortest[0]
        slot = 0 if observation.node is None else observation.node.slot
        return shortest[drawn_below(len(shortest), observation.query.query_id, seed, slot)]

    return pick


def power_of_two(seed: int) -> Pick:
    """The shorter queue of two drawn servers (Mitzenmacher 2001, IEEE TPDS 12(10))."""
    rng = np.random.default_rng(seed)

    def pick(observation: Observation, servers: list[int]) -> int:
        drawn: list[int] = rng.permutation(servers)[:2].tolist()
        return min(drawn, key=observation.outstanding)

    return pick


def shortest_expected_delay(knowledge: Knowledge, strategy: str) -> Pick:
    """Smallest expected latency with the given strategy (SED)."""
    column = STRATEGY_NAMES.index(strategy)

    def pick(observation: Observation, servers: list[int]) -> int:
        latency_s = knowledge.latency_s(observation)[:, column]
        return min(servers, key=latency_s.__getitem__)

    return pick


def in_order(ranking: Sequence[int]) -> Pick:
    """The first open server of a ranking."""
    return lambda _, servers: min(servers, key=ranking.index)


def best_quality(knowledge: Knowledge) -> Score:
    """Quality alone."""
    return lambda observation: knowledge.prospect(observation.query).quality


def quality_in_time(knowledge: Knowledge, hedge: float) -> Score:
    """The best quality among those predicted to meet the deadline; the quickest if none is.

    Parameters
    ----------
    hedge
        A predicted latency counts so many times: above 1 leaves room for its error.
    """

    def score(observation: Observation) -> Map:
        latency_s = hedge * knowledge.latency_s(observation)
        in_time = latency_s <= _share_s(observation)
        return np.where(in_time, knowledge.prospect(observation.query).quality, -latency_s)

    return score


def hw_router(knowledge: Knowledge, weight: float) -> Score:
    """``(1 - w) Q - w C`` as HW-Router (DAC 2026) has it.

    C is the predicted latency over the time that the call may take, and counts up to 1: more than late is no worse.
    """

    def score(observation: Observation) -> Map:
        share_s = max(_share_s(observation), 1e-3)
        cost = np.minimum(knowledge.latency_s(observation) / share_s, 1.0)
        result: Map = (1 - weight) * knowledge.prospect(observation.query).quality - weight * cost
        return result

    return score


def route_balance(
    knowledge: Knowledge, weights: tuple[float, float, float], log_error_sd: float, least_probability: float
) -> Score:
    """Filter, then rank, as RouteBalance (arXiv 2606.17949) does.

    Kept is what is in time with at least ``least_probability``; if nothing is, that probability is halved until
    something is. The rest is ranked by quality, latency and cost, each scaled to [0, 1] among what is kept. Own calls
    since the last poll count at once (dead reckoning): `Observation.before` sees to it.

    Parameters
    ----------
    weights
        Of quality, latency and cost (output tokens times the server's seconds for each).
    log_error_sd
        Of predicted latencies, taken as log-normal around the prediction.
    least_probability
        Above 0, at most 1.
    """

    def score(observation: Observation) -> Map:
        latency_s = knowledge.latency_s(observation)
        quality, tokens, *_ = knowledge.prospect(observation.query)
        share_s = max(_share_s(observation), 1e-3)
        probability = ndtr(np.log(share_s / latency_s) / log_error_sd)
        probability[~np.array(observation.is_open)] = -1.0
        needed = min(least_probability, probability.max())
        halvings = np.ceil(np.log2(least_probability / max(needed, 1e-300)))
        kept = probability >= min(least_probability / 2**halvings, needed)
        figures = zip(weights, (quality, -latency_s, -tokens * knowledge.token_s), strict=True)
        rank = np.sum([weight * _scaled(values, kept) for weight, values in figures], axis=0)
        return np.where(kept, rank, -np.inf)

    return score


def _share_s(observation: Observation) -> float:
    """The part of the remaining budget that one call may take: equal ones for all calls still to come on its path."""
    node = observation.node
    return observation.remaining_s / (1 if node is None else node.calls_to_go)


def _scaled(values: Map, kept: NDArray[np.bool_]) -> Map:
    low, high = values[kept].min(), values[kept].max()
    scaled: Map = (values - low) / (high - low) if high > low else np.zeros_like(values)
    return scaled
