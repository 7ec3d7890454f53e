"""What is asked in a live run: the simulated questions at exact lengths, or real tasks that are graded."""

import asyncio
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inframind.agents import BOUND
from inframind.live import Ask, Call, ExactLengths, ask_text
from inframind.live.grading import Grader
from inframind.live.tasks import Task, load_tasks
from inframind.sim import ServerOptions
from inframind.sim.question_bank import QuestionBank
from inframind.traces import ConfigError
from inframind.workflows import Arrived, CallRecord, Submit
from inframind.workflows.embedding import MiniLM
from inframind.workflows.tokens import estimate_tokens

from .workflow_cell import WorkflowCell

TASK_STREAM = 3
"""Of a seed; arrivals, questions and budgets have the ones before it."""
TOKENS_PER_ESTIMATED = 1.5
"""A prompt whose length is estimated may be so much longer in the server's tokenizer."""


@dataclass(frozen=True, slots=True)
class LiveQueries:
    """The questions of a run, and how they are asked and judged."""

    arrivals: list[Arrived]
    embeddings: NDArray[np.float32]
    """Of the queries."""
    ask: Ask
    judge: Callable[[Mapping[str, Any]], Mapping[str, bool]]
    """Given the ends of the workflows that finished, by query: which answers are right."""


def simulated_queries(cell: WorkflowCell) -> LiveQueries:
    """The simulation's own: prompts and outputs of its lengths, answers as right as its outcome model says."""
    arrivals, servers, outcomes, seed = cell.arrivals, cell.servers, cell.outcomes, cell.cell.seed
    queries = {arrived.query.query_id: arrived.query for arrived in arrivals}

    def output_tokens(submit: Submit) -> int:
        query = queries[submit.workflow_id]
        server = servers[submit.server]
        wanted = outcomes.output_tokens(
            query.domain, query.question, server.model, submit.strategy, submit.role, submit.slot, seed
        )
        return min(wanted, _room(submit, server, submit.prompt.tokens))

    # The first question of a domain takes some 50 ms, and the event loop is not to be late for it.
    first = {query.domain: query for query in queries.values()}
    for domain, query in first.items():
        outcomes.output_tokens(domain, query.question, servers[0].model, "Flash", "", 0, seed)

    def judge(ends: Mapping[str, Any]) -> Mapping[str, bool]:
        right = {}
        for query_id, end in ends.items():
            query, calls = queries[query_id], [CallRecord(**call) for call in end["calls"]]
            right[query_id] = outcomes.answer_correct(
                query.domain, query.question, end["topology"], end["role_set"], calls, seed
            )
        return right

    return LiveQueries(arrivals, outcomes.bank.embedding, ExactLengths(output_tokens, secrets.randbits(64)), judge)


def task_queries(cell: WorkflowCell, base: Path) -> LiveQueries:
    """Real tasks, at the simulation's times and with its budgets; models write what they want.

    What policies know beforehand of a question (quality, length) is fitted to the questions of the bank. A task takes
    that of the question of its domain with the nearest embedding, or, where no embeddings are installed, of that with
    the median difficulty.

    Parameters
    ----------
    base
        Where relative paths of the tasks start.

    Raises
    ------
    ConfigError, TraceError
        No tasks, or such as cannot be used.
    """
    if not cell.evaluation.tasks:
        raise ConfigError("tasks", ["the experiment file has none; without, a live run needs --strict-lengths"])
    if cell.cell.policy == BOUND:  # real answers do not follow the outcomes that it looks at
        told = f"{cell.cell.policy} knows simulated answers only: a live run of it needs --strict-lengths"
        raise ConfigError("tasks", [told])
    tasks = [task for spec in cell.evaluation.tasks for task in load_tasks(_from(spec, base))]
    embeddings, questions = _known_as(tasks, cell.outcomes.bank)
    order = np.random.default_rng([cell.cell.seed, TASK_STREAM]).permutation(len(tasks))
    arrivals = []
    of_query: dict[str, Task] = {}
    for number, arrived in enumerate(cell.arrivals):
        index = int(order[number % len(tasks)])
        task = tasks[index]
        of_query[arrived.query.query_id] = task
        query = replace(
            arrived.query,
            domain=task.domain,
            question=questions[index],
            prompt_tokens=estimate_tokens(task.text),
            text=task.text,
            embedding=index,
        )
        arrivals.append(Arrived(arrived.t, query))
    servers = cell.servers

    def ask(submit: Submit) -> Call:
        tokens = round(TOKENS_PER_ESTIMATED * submit.prompt.tokens)
        return ask_text(replace(submit, max_tokens=_room(submit, servers[submit.server], tokens)))

    def judge(ends: Mapping[str, Any]) -> Mapping[str, bool]:
        return asyncio.run(_graded({name: (of_query[name], end["answer"] or "") for name, end in ends.items()}))

    return LiveQueries(arrivals, embeddings, ask, judge)


def _room(submit: Submit, server: ServerOptions, prompt_tokens: int) -> int:
    """Most tokens that a call may have; vLLM refuses one that could get longer than its context."""
    return min(submit.max_tokens, max(server.scheduler.max_model_len - prompt_tokens, 1))


def _from(spec: str, base: Path) -> str:
    kind, _, where = spec.partition(":")
    return f"{kind}:{base / where}" if (base / where).is_file() else spec


@cache
def embedder() -> MiniLM | None:
    """What embeds tasks; None where it is not installed, which is told once."""
    try:
        return MiniLM.from_package()
    except ConfigError as error:
        told = "; ".join(error.problems)
        print(f"note: {error.source} {told}; without, tasks count as their domain's median question", file=sys.stderr)
        return None


def _known_as(tasks: Sequence[Task], bank: QuestionBank) -> tuple[NDArray[np.float32], list[int]]:
    """An embedding for each task, and the question of the bank whose expectations it takes."""
    model = embedder()
    if model is None:
        questions = [_median_question(bank, task.domain) for task in tasks]
        rows = [bank.row(task.domain, question) for task, question in zip(tasks, questions, strict=True)]
        return bank.embedding[rows], questions
    embeddings = model.encode([task.text for task in tasks])
    nearest = []
    for task, embedding in zip(tasks, embeddings, strict=True):
        start = bank.start[task.domain]
        nearest.append(int(np.argmax(bank.embedding[start : start + bank.num[task.domain]] @ embedding)))
    return embeddings, nearest


def _median_question(bank: QuestionBank, domain: str) -> int:
    start = bank.start[domain]
    order = np.argsort(bank.estimate[start : start + bank.num[domain]])
    return int(order[len(order) // 2])


async def _graded(answers: Mapping[str, tuple[Task, str]]) -> Mapping[str, bool]:
    async with Grader() as grader:
        if grader.guarantees is not None and (missing := grader.guarantees.missing()):
            print(f"note: answers run on this machine without protection of: {', '.join(missing)}", file=sys.stderr)
        grades = await asyncio.gather(*(grader.grade(task.check, answer) for task, answer in answers.values()))
    return {name: grade.correct for name, grade in zip(answers, grades, strict=True)}
