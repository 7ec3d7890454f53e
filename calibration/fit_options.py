"""Scheduler options that a server file leaves out: estimated from the logs where these show them, else assumed."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import ceil

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from inframind.sim import ServerOptions
from inframind.sim.server_file import SchedulerSection, ServerToFit
from inframind.traces import ConfigError

from .fit_objective import MIN_SCALE, MeasuredLog, Objective, may_share
from .step_estimates import StepEstimate

Floats = NDArray[np.float64]

DEFAULT_MAX_NUM_SEQS = 1024
DEFAULT_MAX_NUM_BATCHED_TOKENS = 8192
IMPROVEMENT = 0.9
"""A limit is taken for real if it brings the loss down to this share, or less."""
ENGINE_SLACK = 1.15
"""So many times its slots, and one more, an engine may seem to run, by the noise of measured times."""
SLOT_SHARES = (0.7, 0.8, 0.9, 1.0, 1.1)
"""Of the most that was seen to run."""
GRID = 9
"""Sizes of the KV cache in the coarse search."""
REFINEMENTS = 4
"""Halvings of the grid's distance around the best of them."""


@dataclass(frozen=True, slots=True)
class Completed:
    """All options, and what must be said about those that were not given."""

    data_parallel_size: int
    scheduler: SchedulerSection
    remarks: tuple[str, ...]
    estimated_blocks: bool = False
    """Whether ``num_blocks`` comes from the logs."""
    tries_async: bool = False
    """Whether ``async_scheduling`` is still open."""
    is_moe: bool | None = None
    """Whether the LLM is a mixture of experts, so that several engines step together; None where there is one and
    nothing was given."""
    tries_moe: bool = False
    """Whether that is still open."""

    def with_remark(self, remark: str) -> "Completed":
        """The same, and one thing more to say."""
        return replace(self, remarks=(*self.remarks, remark))


def assume(asked: ServerToFit, estimate: StepEstimate, longest: int) -> Completed:
    """Fill in whatever is missing so that nothing limits the server but what was given.

    Raises
    ------
    ConfigError
        If the options do not go together, as vLLM itself would say.
    """
    given = asked.scheduler
    remarks = []
    max_model_len = given.max_model_len
    if max_model_len is None:
        max_model_len = 1 << ceil(np.log2(max(longest + 1, 2)))
        remarks.append(f"max_model_len is not given: {max_model_len}, as the longest request has {longest} tokens")
    engines = asked.data_parallel_size
    seqs = given.max_num_seqs
    if engines is None:
        engines = 1 if seqs is None else max(1, ceil((estimate.peak_running - 1) / (seqs * ENGINE_SLACK)))
        if engines > 1:
            remarks.append(
                f"{estimate.peak_running} requests ran at a time, more than max_num_seqs ({seqs}): taken for "
                f"data_parallel_size = {engines}, that many engines behind one endpoint"
            )
    tokens = given.max_num_batched_tokens
    if tokens is None:
        tokens = max(DEFAULT_MAX_NUM_BATCHED_TOKENS, seqs or 0)
        if not given.enable_chunked_prefill:
            tokens = max(tokens, max_model_len)
        remarks.append(f"max_num_batched_tokens is not given: {tokens} (vLLM's default on a GPU of 70 GiB or more)")
    if seqs is None:
        seqs = min(DEFAULT_MAX_NUM_SEQS, tokens)
    blocks = given.num_blocks
    if blocks is None:
        blocks = ample_blocks(seqs, max_model_len, given.block_size)
    fields = given.model_dump(exclude={"max_num_seqs", "max_num_batched_tokens", "num_blocks", "max_model_len"})
    fields["async_scheduling"] = given.async_scheduling is not False
    try:
        scheduler = SchedulerSection(
            **fields, max_num_seqs=seqs, max_num_batched_tokens=tokens, num_blocks=blocks, max_model_len=max_model_len
        )
    except ValidationError as error:
        told = [each["msg"].removeprefix("Value error, ") for each in error.errors()]
        raise ConfigError(f"server {asked.name!r}", [f"scheduler: {each}" for each in told]) from None
    tries_moe = engines > 1 and asked.is_moe is None
    return Completed(
        engines,
        scheduler,
        tuple(remarks),
        tries_async=given.async_scheduling is None,
        is_moe=False if tries_moe else asked.is_moe,
        tries_moe=tries_moe,
    )


def ample_blocks(max_num_seqs: int, max_model_len: int, block_size: int) -> int:
    """A KV cache that never limits: each slot could hold a sequence of full length."""
    return 1 + max_num_seqs * -(-max_model_len // block_size)


def without_own_blocks(scheduler: SchedulerSection, logs: Sequence[MeasuredLog]) -> SchedulerSection:
    """The same for a first search: what preempted requests find again of themselves costs time and changes little."""
    if any(may_share(log.requests) for log in logs):
        return scheduler
    return scheduler.model_copy(update={"enable_prefix_caching": False})


@dataclass(frozen=True, slots=True)
class Search:
    """Find the limits that were not given, with the parameters as they are.

    Parameters
    ----------
    options
        A server with these options, on which `Objective.simulate` runs.
    """

    objective: Objective
    options: Callable[[SchedulerSection], ServerOptions]
    parameters: Floats
    engines: int

    def loss(self, scheduler: SchedulerSection) -> float:
        """How far the simulation is off, without weights."""
        options = self.options(without_own_blocks(scheduler, self.objective.logs))
        simulated = self.objective.simulate(options, self.parameters)
        return self.objective.robust_loss(simulated, 5 * MIN_SCALE)

    def limits(self, completed: Completed, asked: ServerToFit, estimate: StepEstimate) -> Completed:
        """``max_num_seqs`` and ``num_blocks``: the one that explains the log better if both are open."""
        scheduler = completed.scheduler
        unlimited = self.loss(scheduler)
        remarks = list(completed.remarks)
        best, best_loss, estimated_blocks = scheduler, unlimited, False
        if asked.scheduler.max_num_seqs is None:
            slots, loss = self._best_slots(scheduler, estimate.peak_running)
            if loss < IMPROVEMENT * best_loss:
                best, best_loss = slots, loss
        if asked.scheduler.num_blocks is None:
            blocks, loss = self._best_blocks(scheduler, estimate)
            if loss < IMPROVEMENT * best_loss:
                best, best_loss, estimated_blocks = blocks, loss, True
        if asked.scheduler.max_num_seqs is None:
            remarks.append(
                f"max_num_seqs is not given: {best.max_num_seqs}, estimated from a queue while so many ran"
                if best.max_num_seqs < scheduler.max_num_seqs
                else f"max_num_seqs is not given: {best.max_num_seqs} (vLLM's default on large GPUs); the logs show no "
                f"such limit, at most {estimate.peak_running} ran"
            )
        if asked.scheduler.num_blocks is None and not estimated_blocks:
            remarks.append(
                "num_blocks is not given, and the logs show no limit by the KV cache: it is set so large that it never "
                "limits; take it from vllm:cache_config_info before you predict heavier loads"
            )
        return replace(completed, scheduler=best, remarks=tuple(remarks), estimated_blocks=estimated_blocks)

    def _best_slots(self, scheduler: SchedulerSection, peak: int) -> tuple[SchedulerSection, float]:
        """Around the most that ran at a time for a while: both ends of a measured time are a little off."""
        losses: dict[int, float] = {}

        def try_all(sizes: Iterable[int]) -> int:
            for size in sizes:
                if size not in losses and 0 < size <= scheduler.max_num_batched_tokens:
                    losses[size] = self.loss(scheduler.model_copy(update={"max_num_seqs": size}))
            return min(losses, key=losses.__getitem__)

        best = try_all(ceil(peak * share / self.engines) for share in SLOT_SHARES)
        best = try_all((best - 1, best + 1))
        return scheduler.model_copy(update={"max_num_seqs": best}), losses[best]

    def _best_blocks(self, scheduler: SchedulerSection, estimate: StepEstimate) -> tuple[SchedulerSection, float]:
        """Around what the requests that ran held at most; a finer and finer grid around the best."""
        seen = estimate.peak_context_tokens / scheduler.block_size / self.engines
        sizes = np.geomspace(0.5 * seen, 2.5 * seen, GRID)
        return self._best_of(scheduler, sizes, REFINEMENTS)

    def refined_blocks(self, scheduler: SchedulerSection) -> SchedulerSection:
        """The same search close to the present size."""
        sizes = scheduler.num_blocks * np.array([0.94, 0.97, 1.0, 1.03, 1.06])
        return self._best_of(scheduler, sizes, 2)[0]

    def _best_of(self, scheduler: SchedulerSection, sizes: Floats, halvings: int) -> tuple[SchedulerSection, float]:
        least = 1 + -(-scheduler.max_model_len // scheduler.block_size)
        losses: dict[int, float] = {}

        def loss(size: float) -> float:
            blocks = max(least, round(size))
            if blocks not in losses:
                losses[blocks] = self.loss(scheduler.model_copy(update={"num_blocks": blocks}))
            return losses[blocks]

        for size in sizes:
            loss(size)
        ratio = float(sizes[1] / sizes[0])
        for _ in range(halvings):
            ratio = ratio**0.5
            best = min(losses, key=losses.__getitem__)
            loss(best * ratio)
            loss(best / ratio)
        best = min(losses, key=losses.__getitem__)
        return scheduler.model_copy(update={"num_blocks": best}), losses[best]
