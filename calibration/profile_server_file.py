"""The server file that a profile leaves behind: what the server told, what the load showed, and what is assumed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from inframind.live import ServerFacts

from .profile_log import COMPLETE, ProfileLog
from .profile_plan import BURST, PRIORITY, Ended

ASSUMED_MAX_NUM_SEQS = 1024
ASSUMED_MAX_NUM_BATCHED_TOKENS = 8192
KV_IS_FULL = 0.9
NEARLY_FULL = 0.7
"""Share of the slots taken while others wait: a step's ended requests have left when the server is polled."""
FEWEST_IN_QUEUE = 12
"""So many in random order look ordered, with a rank correlation above 0.7, less than once in 100 times."""


@dataclass(frozen=True, slots=True)
class Stated:
    """Options of the server that the person told; None: find out or assume."""

    policy: Literal["fcfs", "priority"] | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    async_scheduling: bool | None = None


@dataclass(frozen=True, slots=True)
class Option:
    """One line of ``[scheduler]``."""

    name: str
    value: str | int | bool
    origin: str
    """Where the value comes from, for the person."""
    is_assumed: bool = False


def scheduler_options(facts: ServerFacts, stated: Stated, log: ProfileLog) -> list[Option]:
    """Every scheduler option: stated, told by the server, shown by what it did, or assumed as vLLM's default."""
    seqs = _max_num_seqs(stated, log, facts.num_engines)
    return [
        _policy(stated, log),
        seqs,
        _max_num_batched_tokens(stated, log, at_least=int(seqs.value)),
        Option("block_size", facts.block_size, "told by the server"),
        Option("num_blocks", facts.num_gpu_blocks, "told by the server"),
        Option("max_model_len", facts.max_model_len, "told by the server"),
        Option("enable_prefix_caching", facts.enable_prefix_caching, "told by the server")
        if facts.enable_prefix_caching is not None
        else Option("enable_prefix_caching", True, "assumed: vLLM's default", is_assumed=True),
        Option("async_scheduling", stated.async_scheduling, "stated")
        if stated.async_scheduling is not None
        else Option(
            "async_scheduling",
            True,
            "assumed: vLLM's default on GPUs, on CPUs it is off; --no-async-scheduling says so",
            is_assumed=True,
        ),
    ]


def server_file(facts: ServerFacts, options: list[Option]) -> str:
    """A server file without ``[step_time]``."""
    lines = [
        f"# Written by `inframind calibrate profile` of {_one_line(facts.url)}.",
        "# The step times are missing: `inframind calibrate fit` finds them.",
        f"name = {json.dumps(server_name(facts))}",
        f"model = {json.dumps(facts.model)}",
        'semantics = "vllm-0.32"' + ("" if facts.version.startswith("0.32") else f"  # it is vLLM {facts.version}"),
        f"data_parallel_size = {facts.num_engines}  # told by the server",
        "",
        "[scheduler]",
        *(f"{option.name} = {json.dumps(option.value)}  # {_one_line(option.origin)}" for option in options),
    ]
    return "\n".join(lines) + "\n"


def server_name(facts: ServerFacts) -> str:
    """The model's name without its owner."""
    return facts.model.rstrip("/").rpartition("/")[2]


def _max_num_seqs(stated: Stated, log: ProfileLog, num_engines: int) -> Option:
    if stated.max_num_seqs is not None:
        return Option("max_num_seqs", stated.max_num_seqs, "stated")
    # Requests also wait for KV blocks, or, while the batch grows, for their share of max_num_batched_tokens.
    queued = [s["running"] for s in log.samples if s["waiting"] > 0 and s["kv_usage"] < KV_IS_FULL]
    most = max((s["running"] for s in log.samples), default=0)
    seen = -(-most // num_engines)
    if queued and max(queued) == most and median(queued) >= NEARLY_FULL * most:
        return Option("max_num_seqs", seen, f"shown: {most} ran while others waited")
    cap = min(ASSUMED_MAX_NUM_SEQS, stated.max_num_batched_tokens or ASSUMED_MAX_NUM_SEQS)
    return Option(
        "max_num_seqs",
        max(cap, seen),
        f"assumed: never reached, at most {most} ran; --max-num-seqs says otherwise",
        is_assumed=True,
    )


def _max_num_batched_tokens(stated: Stated, log: ProfileLog, at_least: int) -> Option:
    if stated.max_num_batched_tokens is not None:
        return Option("max_num_batched_tokens", stated.max_num_batched_tokens, "stated")
    stay = next((stay for stay in log.stays if stay.condition == BURST and stay.outcome == COMPLETE), None)
    largest = largest_step(stay.step_tokens) if stay else None
    if stay and largest is not None:
        asked = sum(answer.prompt_tokens for answer in log.shown(stay).answers)
        if 2 * largest <= asked:
            return Option(
                "max_num_batched_tokens",
                max(largest, at_least),
                f"shown: {asked} tokens at once were taken in steps of at most {largest}",
            )
    return Option(
        "max_num_batched_tokens",
        max(ASSUMED_MAX_NUM_BATCHED_TOKENS, at_least),
        "assumed: vLLM's default on a GPU of 70 GiB, it is 2048 on smaller ones and on CPUs; "
        "--max-num-batched-tokens says otherwise",
        is_assumed=True,
    )


def _policy(stated: Stated, log: ProfileLog) -> Option:
    stay = next((stay for stay in log.stays if stay.condition == PRIORITY and stay.outcome == COMPLETE), None)
    seen = observed_policy(log.shown(stay)) if stay else None
    if stated.policy is not None:
        contradicted = seen is not None and seen != stated.policy
        return Option("policy", stated.policy, "stated" + (f", but requests ran as under {seen}" * contradicted))
    if seen is not None:
        return Option("policy", seen, "shown: in a queue of requests with priorities")
    return Option("policy", "fcfs", "assumed: vLLM's default; --policy says otherwise", is_assumed=True)


def observed_policy(probe: Ended) -> Literal["fcfs", "priority"] | None:
    """Whether requests that waited had their first token in the order of their priorities; None if that is not clear.

    Priorities were dealt at random, so under fcfs both orders have nothing in common, even if requests that were sent
    at once overtook each other on their way. Those count that began when another had ended.
    """
    from scipy.stats import spearmanr  # takes a second to load

    first_end_s = min((answer.arrival_s + answer.e2e_s for answer in probe.answers), default=0.0)
    waited = [answer for answer in probe.answers if answer.arrival_s + answer.ttft_s > first_end_s]
    if len(waited) < FEWEST_IN_QUEUE:
        return None
    priorities = [answer.priority or 0 for answer in waited]
    starts = [answer.arrival_s + answer.ttft_s for answer in waited]
    order = float(spearmanr(priorities, starts).statistic)
    if order > 0.7:
        return "priority"
    # Of 16 that ran in no order, one probe in a hundred and forty has more than this by chance.
    return "fcfs" if order < 0.6 else None


def largest_step(step_tokens: Mapping[str, float]) -> int | None:
    """The bound under which all steps lie, from cumulative counts by upper bound; None where it has none."""
    counts = sorted((float(bound), count) for bound, count in step_tokens.items())
    if not counts or not counts[-1][1]:
        return None
    bound = next(bound for bound, count in counts if count == counts[-1][1])
    return None if bound == float("inf") else int(bound)


def _one_line(value: Any) -> str:
    return str(value).replace("\n", " ")
