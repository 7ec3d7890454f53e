"""The tables of docs/outcomes.md, from the shipped numbers; ``python tests/support/outcome_tables.py`` writes them.

They need the shipped files alone. What other sources say ("theirs") stands here, beside its source.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from inframind.sim.outcome_file import OUTCOMES, OutcomesSection
from inframind.sim.outcomes import MAX_TOKENS, OutcomeModel
from inframind.sim.question_bank import QuestionBank
from inframind.traces import load_json
from inframind.workflows import DECIDER, TOPOLOGIES, build_workflow
from inframind.workflows.roles import SEPARATOR

PAGE = Path(__file__).parents[2] / "docs" / "outcomes.md"
_BLOCK = re.compile(r"(<!-- table ([\w-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
R1, MISTRAL, CODER, LLAMA_8B, LLAMA_3B = range(5)
SOLVER = {"math": "MathSolver", "code": "ProgrammingExpert", "qa": "KnowledgeExpert"}
NEVER = 10**8
"""A cap that cuts nothing but what never ends."""
Choose: TypeAlias = Callable[[int, str, np.random.Generator], tuple[int, str]]
"""``choose(slot, role, random)`` picks LLM and strategy."""


class Call(NamedTuple):
    """A finished call."""

    slot: int
    role: str
    model: str
    strategy: str
    output_tokens: int


class Result(NamedTuple):
    """Averages over questions."""

    accuracy: float
    tokens: float
    """Of one call."""
    decision_tokens: float
    is_cut: float = 0.0


@cache
def parameters() -> OutcomesSection:
    """The shipped numbers."""
    return load_json(OUTCOMES, OutcomesSection)


@cache
def bank() -> QuestionBank:
    """The shipped questions."""
    return QuestionBank()


@cache
def model() -> OutcomeModel:
    """The shipped outcomes."""
    return OutcomeModel(parameters(), bank())


def changed(part: str, **values: Any) -> OutcomeModel:
    """The shipped outcomes with some numbers of one part replaced."""
    section = getattr(parameters(), part).model_copy(update=values)
    return OutcomeModel(parameters().model_copy(update={part: section}), bank())


def rows_of(*sources: str) -> Iterator[tuple[str, int]]:
    """Domain and number of each question of these sources or domains."""
    for domain in bank().domains:
        for question in range(bank().num[domain]):
            if bank().sources[bank().source[bank().row(domain, question)]] in sources or domain in sources:
                yield domain, question


def alone(llm: int, strategy: str, *sources: str, cap: int = MAX_TOKENS) -> Result:
    """One call, without other agents."""
    outcomes, right, tokens, is_cut = model(), [], [], []
    name, column = outcomes.models[llm], outcomes.strategies.index(strategy)
    for domain, question in rows_of(*sources):
        wanted = outcomes.output_tokens(domain, question, name, strategy, "", 0, 0)
        right.append(outcomes.right_calls(domain, question, 0, cap)[0, llm, column])
        is_cut.append(wanted > cap)
        tokens.append(min(wanted, cap))
    return Result(float(np.mean(right)), float(np.mean(tokens)), 0.0, float(np.mean(is_cut)))


def team(
    topology: str,
    role_set: str,
    choose: Choose,
    *sources: str,
    outcomes: OutcomeModel | None = None,
    every: int = 1,
) -> Result:
    """A workflow on each ``every``-th question; ``choose(slot, role, random)`` picks LLM and strategy."""
    outcomes = outcomes or model()
    right, tokens, decisions = [], [], []
    random = np.random.default_rng(0)
    for domain, question in list(rows_of(*sources))[::every]:
        calls = []
        for node in build_workflow(domain, topology, role_set).nodes:
            llm, strategy = choose(node.slot, node.role.name, random)
            name = outcomes.models[llm]
            wanted = outcomes.output_tokens(domain, question, name, strategy, node.role.name, node.slot, 0)
            calls.append(Call(node.slot, node.role.name, name, strategy, min(wanted, MAX_TOKENS)))
        right.append(outcomes.answer_correct(domain, question, topology, role_set, calls, 0))
        tokens += [call.output_tokens for call in calls]
        decisions += [call.output_tokens for call in calls if call.role == DECIDER.name]
    return Result(float(np.mean(right)), float(np.mean(tokens)), float(np.mean(decisions or [np.nan])))


def all_propose(slot: int, role: str, random: np.random.Generator) -> tuple[int, str]:
    """MoA: every LLM proposes, R1-Distill decides."""
    return (R1 if role == DECIDER.name else slot), "DeepThink"


def usual(slot: int, role: str, random: np.random.Generator) -> tuple[int, str]:
    """LLM and strategy about as often as the InfraMind authors' executor chose them on MATH at 100 queries/min."""
    llm = int(random.choice(5, p=[0.16, 0.14, 0.38, 0.16, 0.16]))
    return llm, str(random.choice(["Flash", "Concise", "DeepThink"], p=[0.30, 0.325, 0.375]))


def only(llm: int, strategy: str) -> Choose:
    """One LLM for everything."""
    return lambda slot, role, random: (llm, strategy)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _llm(index: int) -> str:
    return parameters().models[index]


def _abilities() -> Iterator[Sequence[str]]:
    yield "source", "LLM", "ability", "sd", "accuracy %", "from"
    for name, source in parameters().sources.items():
        nodes = np.linspace(-5, 5, 201)
        weights = np.exp(-(nodes**2) / 2) / np.exp(-(nodes**2) / 2).sum()
        for llm, each in source.models.items():
            logit = each.ability - source.difficulty_mean - source.difficulty_sd * nodes
            chance = weights @ (source.guess + (1 - source.guess) / (1 + np.exp(-logit)))
            yield name, llm, f"{each.ability:.2f}", f"{each.ability_sd:.2f}", _percent(chance), each.ability_basis


def _lengths() -> Iterator[Sequence[str]]:
    yield "source", "LLM", "median tokens", "per logit", "if wrong", "sd of log", "endless if wrong %", "from"
    for name, source in parameters().sources.items():
        for llm, each in source.models.items():
            median = np.exp(each.log_tokens + each.log_tokens_per_logit * source.difficulty_mean)
            yield (
                *(name, llm, f"{median:.0f}", f"{each.log_tokens_per_logit:.2f}", f"{each.log_tokens_if_wrong:.2f}"),
                *(f"{each.log_tokens_sd:.2f}", _percent(each.loops_if_wrong), each.length_basis),
            )


def _strategies() -> Iterator[Sequence[str]]:
    yield "domain", "strategy", "ability, logits", "standard error", "tokens, times", "sd of log"
    for name, domain in parameters().domains.items():
        for strategy, each in domain.strategies.items():
            times = f"{np.exp(each.log_tokens):.2f}"
            yield name, strategy, f"{each.ability:+.2f}", f"{each.ability_se:.2f}", times, f"{each.log_tokens_sd:.2f}"


def _embeddings() -> Iterator[Sequence[str]]:
    yield "source", "questions", "reliability", "ridge R²", "boosting R²", "R² of difficulty itself", "in the bank"
    for name, each in parameters().evidence["embedding"].items():
        numbers = (each[key] for key in ("reliability", "ridge_r2", "gbm_r2", "r2", "shipped_r2"))
        yield name, str(each["num"]), *(f"{number:.2f}" for number in numbers)


def _alone() -> Iterator[Sequence[str]]:
    yield "source", "LLM", "strategy", "accuracy %", "mean tokens", "cut at 2048 %", "accuracy % uncut"
    for name in parameters().sources:
        for llm in range(5):
            for strategy in parameters().strategies:
                capped, free = alone(llm, strategy, name), alone(llm, strategy, name, cap=NEVER)
                yield (
                    *(name, _llm(llm), strategy, _percent(capped.accuracy), f"{capped.tokens:.0f}"),
                    *(_percent(capped.is_cut), _percent(free.accuracy)),
                )


def _published() -> Iterator[Sequence[str]]:
    yield "what", "theirs", "ours", "used in the fit"
    for what, theirs, ours, used in PUBLISHED:
        yield what, theirs, ours(), used


PUBLISHED: Sequence[tuple[str, str, Callable[[], str], str]] = (
    ("Llama-3.1-8B, GSM8K, CoT, %", "84.0", lambda: _percent(alone(LLAMA_8B, "DeepThink", "gsm8k").accuracy), "yes"),
    (
        "Llama-3.1-8B, MATH level 5, %",
        "22.2",
        lambda: _percent(alone(LLAMA_8B, "DeepThink", "math-l5").accuracy),
        "yes",
    ),
    ("Llama-3.1-8B, MMLU-Pro, CoT, %", "44.2", lambda: _percent(alone(LLAMA_8B, "DeepThink", "gpqa").accuracy), "yes"),
    ("Llama-3.1-8B, HumanEval, %", "55.1", lambda: _percent(alone(LLAMA_8B, "Flash", "humaneval").accuracy), "yes"),
    ("Llama-3.1-8B, MBPP, %", "63.9", lambda: _percent(alone(LLAMA_8B, "Flash", "mbpp").accuracy), "yes"),
    ("Llama-3.1-8B, MATH, %", "51.9 (card)", lambda: _percent(alone(LLAMA_8B, "DeepThink", "math").accuracy), "no"),
    (
        "Mistral-Small, MATH, %",
        "70.6 (card)",
        lambda: _percent(alone(MISTRAL, "DeepThink", "math").accuracy),
        "as a guide",
    ),
    ("Mistral-Small, MMLU-Pro, %", "66.3 (card)", lambda: _percent(alone(MISTRAL, "DeepThink", "gpqa").accuracy), "no"),
    (
        "Mistral-Small, HumanEval, %",
        "84.8 (card)",
        lambda: _percent(alone(MISTRAL, "Flash", "humaneval").accuracy),
        "no",
    ),
    ("Coder-14B, HumanEval, %", "89.6 (card)", lambda: _percent(alone(CODER, "Flash", "humaneval").accuracy), "no"),
    ("Coder-14B, MBPP, %", "86.2 (card)", lambda: _percent(alone(CODER, "Flash", "mbpp").accuracy), "no"),
    (
        "R1-Distill-32B, MATH uncut, %",
        "88.4",
        lambda: _percent(alone(R1, "DeepThink", "math", cap=NEVER).accuracy),
        "yes",
    ),
    (
        "R1-Distill-32B, MATH uncut, mean tokens",
        "2700",
        lambda: f"{alone(R1, 'DeepThink', 'math', cap=NEVER).tokens:.0f} (DeepThink)",
        "yes",
    ),
)
"""``(card)``: a vendor's model card, which is not among the files and was not checked against one."""


def _teams() -> Iterator[Sequence[str]]:
    yield "system", "benchmark", "accuracy % theirs", "ours", "tokens a call theirs", "ours", "decision theirs", "ours"
    sets = (
        ("MATH", "math", "74.6", "66.3", "510 to 880", "1090 to 1480"),
        ("HumanEval", "humaneval", "88.4", "97.7", "420", ""),
        ("MBPP", "mbpp", "76.1", "73.4", "470", "550 to 740"),
        ("MMLU-Pro", "gpqa", "44.0", "52.1", "580", ""),
    )
    for name, source, moa, usually, tokens, decision in sets:
        solver = SOLVER[source if source == "math" else parameters().sources[source].domain]
        five, three = (SEPARATOR.join([solver] * num) for num in (5, 3))
        ours = team("IO", five, all_propose, source)
        yield (
            "MoA",
            name,
            moa,
            _percent(ours.accuracy),
            "",
            f"{ours.tokens:.0f}",
            decision,
            f"{ours.decision_tokens:.0f}",
        )
        ours = team("IO", three, usual, source)
        yield "InfraMind, 100/min", name, usually, _percent(ours.accuracy), tokens, f"{ours.tokens:.0f}", "", ""


def _gains() -> Iterator[Sequence[str]]:
    yield "team", "dataset", "LLM", "attempts", "alone %", "team % theirs", "ours", "used in the fit"
    for team_, key, used in (("MapCoder", "mapcoder", "yes"), ("Reflexion", "reflexion", "no")):
        for each in parameters().evidence[key]:
            shares = (_percent(each[name]) for name in ("alone", "team", "ours"))
            yield team_, each["dataset"], each["model"], str(each["attempts"]), *shares, used


def _topologies() -> Iterator[Sequence[str]]:
    yield "topology", "role set", "Llama-3.1-8B, DeepThink", "Coder-14B, DeepThink", "LLMs and strategies mixed"
    sets = {
        "math": ("MathSolver", "MathSolver+Mathematician+MathTeacher"),
        "code": ("ProgrammingExpert", "ProgrammingExpert+TestAnalyst"),
    }
    for domain, (one, several) in sets.items():
        plans = [("IO", one), *((topology, several) for topology in TOPOLOGIES), ("Reflection", one)]
        for topology, role_set in plans:
            policies = (only(LLAMA_8B, "DeepThink"), only(CODER, "DeepThink"), usual)
            yield topology, role_set, *(_percent(team(topology, role_set, each, domain).accuracy) for each in policies)


def _assumed() -> Iterator[Sequence[str]]:
    yield "assumption", "value", "MoA on MATH %", "mixed team of 3 on MATH %", "R1-Distill alone on MATH %"
    p = parameters()
    reads = p.read_if_cut.reasoning
    tried: list[tuple[str, str, OutcomeModel]] = [("as shipped", "", model())]
    tried += [("vote", f"{x:g}", changed("teams", vote=x)) for x in (0.5, 2.0)]
    tried += [("own", f"{x:g}", changed("teams", own=x)) for x in (0.0, 4.0)]
    tried += [
        ("read_if_cut.reasoning", f"{x:g} for {reads:g}", changed("read_if_cut", reasoning=x)) for x in (0.0, 1.0)
    ]
    tried += [("reasoning.strategy_share", f"{x:g}", changed("reasoning", strategy_share=x)) for x in (0.0, 1.0)]
    tried += [("noise.shared", f"{x:g}", changed("noise", shared=x)) for x in (0.4, 0.8)]
    five, three = (SEPARATOR.join(["MathSolver"] * num) for num in (5, 3))
    for name, value, outcomes in tried:
        shares = (
            team("IO", five, all_propose, "math", outcomes=outcomes),
            team("IO", three, usual, "math", outcomes=outcomes),
            team("IO", "MathSolver", only(R1, "DeepThink"), "math", outcomes=outcomes),
        )
        yield name, value, *(_percent(each.accuracy) for each in shares)


TABLES: dict[str, Callable[[], Iterator[Sequence[str]]]] = {
    "abilities": _abilities,
    "lengths": _lengths,
    "strategies": _strategies,
    "embeddings": _embeddings,
    "published": _published,
    "teams": _teams,
    "gains": _gains,
    "topologies": _topologies,
    "assumed": _assumed,
    "alone": _alone,
}


def table(name: str) -> str:
    """One table as Markdown."""
    header, *rows = TABLES[name]()
    lines = [header, ["---"] * len(header), *rows]
    return "\n" + "".join("| " + " | ".join(line) + " |\n" for line in lines) + "\n"


def filled(page: str) -> str:
    """The page with every table as the shipped numbers have it."""
    return _BLOCK.sub(lambda match: match[1] + table(match[2]) + match[4], page)


def named(page: str) -> set[str]:
    """Which tables stand in the page."""
    return {match[2] for match in _BLOCK.finditer(page)}


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
