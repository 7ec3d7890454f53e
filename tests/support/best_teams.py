"""How right the best fixed teams are in each tier of budgets when nothing waits: what is left to gain over one call.

    python tests/support/best_teams.py

For each source of questions, tier and plan it looks, by coordinate ascent on the training's questions, for the LLM and
strategy of each node with which most questions are answered rightly and in time by the idle servers of a pool, and says
how the best of them do on the test questions. A policy knows of a query little more than its source, and meets load:
what it can earn is about this, and less under load. `docs/evaluation.md` has the table.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from inframind.sim import load_pool
from inframind.sim.outcomes import MAX_TOKENS, REVIEWERS, Draws, OutcomeModel
from inframind.workflows import DECIDER, DOMAINS, STRATEGIES, TOPOLOGIES, build_workflow

POOL = "l40s"
TIERS = {10.0: 1, 50.0: 1, 200.0: 3}
"""Budgets, and how many of the five default tiers they stand for: with 200 s or more there is time for all."""
SEEDS = range(100, 106)
SLOTS = 8
"""Workflows of more calls are left out: `OutcomeModel` draws so many at once."""
PROMPT_TOKENS = 300
"""Of each call, and of each answer that it reads the answer's."""
RIGHT, COMMON_WRONG, LOST = -1, -2, -9
Floats = NDArray[np.float64]
Team = Mapping[int, tuple[int, int]]
"""LLM and strategy of each node."""


class Score(NamedTuple):
    """Shares of the questions."""

    goodput: float
    """Right and in time."""
    team: Team


class Questions:
    """Answers to all questions of one part of a source under all seeds, as arrays; the twin of `OutcomeModel`."""

    def __init__(self, outcomes: OutcomeModel, source: str, *, train: bool) -> None:
        bank = outcomes.bank
        number = bank.sources.index(source)
        self.domain = outcomes._parameters.sources[source].domain
        self.numbers = [
            question
            for question in bank.questions(self.domain, train=train)
            if bank.source[bank.row(self.domain, question)] == number
        ]
        draws = [outcomes._draws(self.domain, seed, 0) for seed in SEEDS]
        self._draws = Draws(
            *(np.concatenate([getattr(each, name)[self.numbers] for each in draws]) for name in Draws._fields)
        )
        self._parameters = outcomes._parameters
        servers = {server.model: server.step_time for server in load_pool(POOL, Path()).servers}
        steps = [servers[model] for model in outcomes.models]
        self._token_s = np.array([each.fixed_s + each.decode_s for each in steps])
        self._prompt_token_s = np.array([each.prefill_token_s for each in steps])

    def goodput(self, topology: str, role_set: str, team: Team, budget_s: float) -> float:
        """Share of answers that are right and in time, of a workflow whose nodes are given to these LLMs."""
        workflow = build_workflow(self.domain, topology, role_set)
        answers: dict[int, NDArray[np.int64]] = {}
        ends_s: dict[int, Floats] = {}
        written: dict[int, NDArray[np.int64]] = {}
        for node in workflow.nodes:
            llm, strategy = team[node.slot]
            own, is_lost, tokens = self._own(node.slot, llm, strategy, is_decision=node.role.name == DECIDER.name)
            read = [answers[slot] for slot in node.predecessors]
            is_review = node.role.name in REVIEWERS or TOPOLOGIES[topology].is_review
            chosen = self._choose(node.slot, own, read, is_review=is_review) if read else own
            answers[node.slot] = np.where(is_lost, LOST, chosen)
            prompt = PROMPT_TOKENS + sum(written[slot] for slot in node.predecessors)
            begins_s = np.max([np.zeros(len(own)), *(ends_s[slot] for slot in node.predecessors)], axis=0)
            written[node.slot] = tokens
            ends_s[node.slot] = begins_s + prompt * self._prompt_token_s[llm] + tokens * self._token_s[llm]
        last = workflow.nodes[-1].slot
        return float(((answers[last] == RIGHT) & (ends_s[last] <= budget_s)).mean())

    def _own(
        self, slot: int, llm: int, strategy: int, *, is_decision: bool
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
        draws = self._draws
        tokens = (draws.decision_tokens if is_decision else draws.tokens)[:, slot, llm, strategy]
        wrong = np.where(draws.is_common_wrong[:, slot], COMMON_WRONG, slot)
        is_lost = (tokens > MAX_TOKENS) & ~draws.is_readable[:, slot, llm, strategy]
        own = np.where(draws.is_right[:, slot, llm, strategy], RIGHT, wrong)
        return own, is_lost, np.minimum(tokens, MAX_TOKENS)

    def _choose(
        self, slot: int, own: NDArray[np.int64], read: list[NDArray[np.int64]], *, is_review: bool
    ) -> NDArray[np.int64]:
        teams = self._parameters.teams
        known = self._parameters.domains[self.domain].review_log_odds if is_review else 0.0
        candidates = np.stack([*read, own])
        noise = self._draws.choice[np.arange(len(own)), slot, np.maximum(candidates, COMMON_WRONG) + 2]
        votes = (candidates[:, None] == np.stack(read)[None]).sum(1) + (candidates == own)
        worth = teams.vote * votes + teams.own * (candidates == own) + known * (candidates == RIGHT) + noise
        best = np.where(candidates == LOST, -np.inf, worth).argmax(0)
        chosen: NDArray[np.int64] = np.take_along_axis(candidates, best[None], 0)[0]
        return chosen


def best_team(
    questions: Questions, topology: str, role_set: str, options: list[tuple[int, int]], budget_s: float
) -> Score:
    """By coordinate ascent from the best team of equals."""
    slots = [node.slot for node in build_workflow(questions.domain, topology, role_set).nodes]

    def score(team: Team) -> Score:
        return Score(questions.goodput(topology, role_set, team, budget_s), team)

    best = max((score(dict.fromkeys(slots, option)) for option in options), key=lambda each: each.goodput)
    before = -1.0
    while best.goodput > before:
        before = best.goodput
        for slot in slots:
            trials = [score(dict(best.team) | {slot: option}) for option in options]
            best = max([best, *trials], key=lambda each: each.goodput)
    return best


def main() -> None:
    """Print the table."""
    outcomes = OutcomeModel.shipped(cache_size=len(SEEDS) * 3)
    options = [(llm, outcomes.strategies.index(name)) for llm in range(len(outcomes.models)) for name in STRATEGIES]
    print("source, budget: best call alone, best team, on test questions")
    sums = {budget_s: np.zeros(3) for budget_s in TIERS}
    parts = [
        (source, *(Questions(outcomes, source, train=train) for train in (True, False)))
        for source in outcomes.bank.sources
    ]
    for source, train, test in parts:
        plans = [
            (topology, role_set, len(build_workflow(train.domain, topology, role_set).nodes))
            for topology in TOPOLOGIES
            for role_set in DOMAINS[train.domain].role_sets
        ]
        for budget_s in TIERS:
            found = [
                (best_team(train, topology, role_set, options, budget_s), topology, role_set, calls)
                for topology, role_set, calls in plans
                if calls <= SLOTS
            ]
            shares = []
            told = []
            for some in ([each for each in found if each[3] == 1], found):
                best, topology, role_set, calls = max(some, key=lambda each: each[0].goodput)
                shares.append(test.goodput(topology, role_set, best.team, budget_s))
                told.append(f"{shares[-1]:.1%} ({topology}/{role_set}, {calls})")
            # Domains are asked alike, and sources within them as often as they have questions.
            domain_num = sum(len(other.numbers) for _, _, other in parts if other.domain == test.domain)
            sums[budget_s] += np.array([*shares, 1.0]) * len(test.numbers) / domain_num / len(outcomes.domains)
            print(f"{source}, {budget_s:g} s: {told[0]}; {told[1]}", flush=True)
    for budget_s, (alone, together, weight) in sums.items():
        print(f"all, {budget_s:g} s: {alone / weight:.1%}; {together / weight:.1%}")
    shares = [total[:2] / total[2] for total in sums.values()]
    mean = np.average(shares, axis=0, weights=list(TIERS.values()))
    print(f"all tiers alike: {mean[0]:.1%}; {mean[1]:.1%}: {mean[1] / mean[0] - 1:+.1%}")


if __name__ == "__main__":
    main()
