"""Fit a server file to request logs: least squares through the simulator.

The way from logs to a server file: a start without the simulator (`step_estimates`), missing scheduler options
(`fit_options`), least squares (`fit_objective`, `fit_solver`) for each way of scheduling that is possible, and what
comes out, with standard errors and what the logs do not tell (`fit_result`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from inframind.sim import ServerOptions, ServerSection, StepTimeSection
from inframind.sim.server_file import SchedulerSection, ServerToFit
from inframind.traces import TraceError

from .fit_continuation import AS_GOOD, continued, may_go_on
from .fit_evidence import Candidate
from .fit_objective import (
    CONTEXT,
    DECODE,
    EXPERT_TOKENS,
    EXPERTS,
    FIXED,
    OVERLAP,
    PAIR,
    PARAMETERS,
    PREFILL,
    USUAL_EXPERT_TOKENS,
    USUAL_OVERLAP,
    USUAL_TOKENS_PER_FIXED,
    MeasuredLog,
    Objective,
    step_time,
    usual,
    weights_s,
)
from .fit_options import DEFAULT_MAX_NUM_BATCHED_TOKENS, Completed, Search, assume, without_own_blocks
from .fit_parts import parts, work_of
from .fit_result import Fit, fit_of
from .fit_solver import Region, Run, Solver
from .step_estimates import StepEstimate, estimate_steps, measured_times

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

IMPUTATION_SCALES = (1.0, 0.7, 0.5)
"""Of a start, where the times of many requests are not known."""
WIDE = (Region(0.3, 2.5), Region(0.05, 4.0))
"""The first search, from a start without the simulator."""
CLOSE_RADII = 0.2, 0.07
"""Of the last search, which begins where the first, on parts of the logs, has ended."""
MIN_CLOSE_RUNS, MAX_CLOSE_RUNS = 3.0, 20.0
"""In its last region, for each parameter: the shorter the logs, the more do the jumps of single requests matter."""
CLOSE_WORK = 60_000.0
"""Requests, or as much work, of all runs in that region."""
MIN_SHORT = 0.05
"""Share of the prompts that must be short to show how many of their tokens ride along."""
MIN_SPREAD = 1.5
"""Ratio of long prompts to short ones that shows what attention costs."""
EXPLAINED = 0.3
"""Loss of requests that are off by 3 %: little is left to explain."""
EXPERTS_SHARE = 0.5
"""Of a step's fixed time, where a search for experts begins."""
CLEARLY = 0.97
"""Ratio of two losses from which on the difference says something."""
MOSTLY = 0.95
"""Share of measured requests from which on the others do not matter for a start."""
NUM_IMPUTATIONS = 6
"""Rounds of simulating the requests without times and estimating anew."""
MIN_MEASURED = 8
"""Fewer measured requests than parameters and one more cannot be fitted."""
COARSE_WORK = 2_000.0
"""Requests, or as much work, that the search for options and a close start look at; then the whole logs are used."""
USUAL_SIMULATIONS = 900
"""Of one stage."""
LOSS_SCALE = 0.05
"""Deviation from which on it counts less than its square, where candidates are compared."""
MAX_WORK = 10_000.0
"""The most that is used at all: about half a second for each simulation."""


def fit_server(
    logs: Mapping[str, pd.DataFrame],
    asked: ServerToFit,
    *,
    on_progress: Callable[[float], None] = lambda share: None,
) -> Fit:
    """Fit the step times and the client's overhead of one server.

    Parameters
    ----------
    logs
        Columns of ``traces.REQUESTS`` by name, each in order of arrival and of a server that was idle before. Rows
        without ``ttft_s`` or ``e2e_s`` load the server but are not compared.
    asked
        The scheduler's options, as far as they are known.
    on_progress
        Called now and then with the share of the work that is done.

    Raises
    ------
    TraceError
        If a log holds too little.
    ConfigError
        If the options do not go together.
    """
    return _Fitting(logs, asked, on_progress).run()


@dataclass(frozen=True, slots=True)
class _Close:
    """What the last search found for a candidate."""

    candidate: Candidate
    logs: Sequence[MeasuredLog]
    """What it looked at of each."""
    best: Run
    std_errors: Floats
    is_identified: Bools


class _Fitting:
    """One fit on its way."""

    def __init__(
        self, logs: Mapping[str, pd.DataFrame], asked: ServerToFit, on_progress: Callable[[float], None]
    ) -> None:
        self.asked = asked
        self.logs = [_measured(name, requests, asked) for name, requests in logs.items()]
        self._on_progress = on_progress
        tokens = asked.scheduler.max_num_batched_tokens or DEFAULT_MAX_NUM_BATCHED_TOKENS
        self.estimate = estimate_steps([log.times for log in self.logs], tokens)
        self._budget = tokens
        self._num_simulations = 0
        self._progress, self._stage_end, self._pace = 0.0, 0.0, 1.0

    def run(self) -> Fit:
        self._enter(0.4)
        whole = max(int((log.times.prompt_tokens + log.times.output_tokens).max()) for log in self.logs)
        assumed = assume(self.asked, self.estimate, whole)
        times = [log.times for log in self.logs]
        self.estimate = estimate_steps(times, self._budget, num_engines=assumed.data_parallel_size)
        found = self._coarsely(assumed)
        self._enter(0.95)
        close = self._closely(found)
        fit = fit_of(
            self.asked,
            logs=self.logs,
            used=close.logs,
            completed=close.candidate.completed,
            is_continued=close.candidate.is_continued,
            best=close.best,
            std_errors=close.std_errors,
            is_identified=close.is_identified,
            num_simulations=self._num_simulations,
        )
        self._on_progress(1.0)
        return fit

    def _enter(self, stage_end: float) -> None:
        """A stage that leads to this share of the work."""
        self._progress = self._stage_end
        self._stage_end, self._pace = stage_end, 1.0
        self._on_progress(self._progress)

    def _on_simulation(self) -> None:
        """How many more a stage takes is not known: each comes nearer to its end by the same factor."""
        self._num_simulations += 1
        self._pace *= 1 - 1 / USUAL_SIMULATIONS
        self._on_progress(self._stage_end - (self._stage_end - self._progress) * self._pace)

    # Stages.

    def _coarsely(self, assumed: Completed) -> Candidate:
        """A close start, on parts of the logs, and all that is left open, from limits to experts.

        Each way has a search of its own.
        """
        found = self._engines_scheduled(self.logs, assumed, is_continued=False)
        if going_on := [i for i, log in enumerate(self.logs) if may_go_on(log)]:
            longer = [continued(log) if i in going_on else log for i, log in enumerate(self.logs)]
            other = self._engines_scheduled(longer, assumed, is_continued=True)
            found = other if other.loss_of(going_on) < AS_GOOD * found.loss_of(going_on) else found
        if assumed.tries_moe:
            told = "true, the logs speak" if found.completed.is_moe else "false, the logs do not speak"
            told = f"is_moe is not given: {told} for engines that step together"
            found = replace(found, completed=found.completed.with_remark(told))
        return self._with_experts(found)

    def _engines_scheduled(self, logs: Sequence[MeasuredLog], assumed: Completed, *, is_continued: bool) -> Candidate:
        """Engines at their own pace, or in lockstep where that is open and the logs speak for it; each scheduled as
        fits better, where that is open."""
        ways = (False, True) if assumed.tries_moe else (assumed.is_moe,)
        candidates = (self._try(logs, replace(assumed, is_moe=way), is_continued=is_continued) for way in ways)
        return reduce(self._if_clearly_better, map(self._better_scheduled, candidates))

    def _closely(self, found: Candidate) -> "_Close":
        """The minimum, on as much of the logs as there is time for; without experts that only the logs spoke for, if it
        does not tell them."""
        used = parts(found.logs, self.asked, MAX_WORK, is_preempting=found.is_preempting)
        has_experts = _has_experts(found.completed, found.parameters)
        objective = Objective(used, self.estimate, self._on_simulation, has_experts=has_experts)
        options = self._options(found.completed, found.completed.scheduler)
        close = self._close(objective, is_preempting=found.is_preempting)
        free = self._seen(found.parameters)
        solver = Solver(objective, options, _usual_where(~free, found.parameters), free)
        first = Region(CLOSE_RADII[0], max(MIN_CLOSE_RUNS, close.runs / 2))
        # The weights are those of where a search begins, so the last one is made once more from where it has ended.
        # Where experts only explain the logs better, the wide search finds other mixtures that do as well.
        solver.minimise([close, close] if found.plain else [first, close, close])
        unsure = solver.uncertainty(close)
        identified = unsure.is_identified.copy()
        if found.plain is not None and not identified[EXPERTS]:
            return self._closely(found.plain)
        identified[FIXED] = True
        identified[[EXPERTS, EXPERT_TOKENS]] |= not free[EXPERTS]
        return _Close(found, objective.logs, solver.best, unsure.std_errors, identified)

    def _try(self, logs: Sequence[MeasuredLog], assumed: Completed, *, is_continued: bool) -> Candidate:
        coarse = self._coarse(logs)
        start = _start(self.estimate)
        if any(log.num_measured < MOSTLY * len(log.requests) for log in coarse.logs):
            start = self._imputed(coarse, assumed, start)
        completed = assumed
        if self.asked.scheduler.max_num_seqs is None or self.asked.scheduler.num_blocks is None:
            search = Search(coarse, lambda s: self._options(assumed, s), start, assumed.data_parallel_size)
            completed = search.limits(assumed, self.asked, self.estimate)
        return self._solved(logs, coarse, completed, start, is_continued=is_continued)

    def _seen(self, parameters: Floats) -> Bools:
        """Which parameters show in the logs at all, by the sizes of the steps; experts if there are any.

        While a step's prefill takes less time than ``fixed_s``, what a token costs cannot be told from how many of them
        ride along: that takes steps beyond. How many ride along shows only in prompts that are about as short. And
        attention is what grows faster than a prompt, which takes long ones and short ones.
        """
        new = np.concatenate([log.times.prompt_tokens - log.times.cached_tokens for log in self.logs])
        ride_along = weights_s(parameters) / max(parameters[PREFILL], 1e-12)
        seen = np.ones(len(PARAMETERS), dtype=bool)
        seen[PAIR] = np.quantile(new, 0.9) >= MIN_SPREAD * np.quantile(new, 0.1)
        seen[PREFILL] = min(self._budget, new.max()) > ride_along
        seen[OVERLAP] = seen[PREFILL] and float(np.mean(new < ride_along)) >= MIN_SHORT
        seen[[EXPERTS, EXPERT_TOKENS]] = parameters[EXPERTS] > 0
        return seen

    def _coarse(self, logs: Sequence[MeasuredLog], *, has_experts: bool = False) -> Objective:
        work = parts(logs, self.asked, COARSE_WORK)
        return Objective(work, self.estimate, self._on_simulation, counts_busy_time=False, has_experts=has_experts)

    def _close(self, objective: Objective, *, is_preempting: bool) -> Region:
        work = sum(float(work_of(log, self.asked, is_preempting=is_preempting).sum()) for log in objective.logs)
        runs = np.clip(CLOSE_WORK / work / len(PARAMETERS), MIN_CLOSE_RUNS, MAX_CLOSE_RUNS)
        return Region(CLOSE_RADII[1], float(runs))

    def _imputed(self, coarse: Objective, assumed: Completed, start: Floats) -> Floats:
        """A start for logs of which some requests have no times: they get simulated ones, over and over.

        What the other requests alone tell makes steps look too long, as if these were not there; so several scales of
        it are begun with, and the best of all rounds is taken.
        """
        options = self._options(assumed, assumed.scheduler)
        times = [log.times for log in coarse.logs]
        best, best_loss = start, np.inf
        for scale in IMPUTATION_SCALES:
            parameters = start.copy()
            parameters[[FIXED, PREFILL, DECODE, CONTEXT, PAIR]] *= scale
            for _ in range(NUM_IMPUTATIONS):
                simulated = coarse.simulate(options, parameters)
                loss = coarse.robust_loss(simulated, LOSS_SCALE)
                if loss < best_loss:
                    best, best_loss = parameters, loss
                imputed = [
                    (log.arrival_s + ours.ttft_s, log.arrival_s + ours.e2e_s)
                    for log, ours in zip(times, simulated, strict=True)
                ]
                tokens, engines = assumed.scheduler.max_num_batched_tokens, assumed.data_parallel_size
                parameters = _start(estimate_steps(times, tokens, imputed, num_engines=engines))
        return best

    def _otherwise(self, found: Candidate, completed: Completed, start: Floats) -> Candidate:
        """The same logs with other options or from another start."""
        coarse = self._coarse(found.logs, has_experts=_has_experts(completed, start))
        return self._solved(found.logs, coarse, completed, start, is_continued=found.is_continued)

    def _if_clearly_better(self, found: Candidate, richer: Candidate) -> Candidate:
        """The richer model if the logs speak for it, even if what there is begins anew where that has ended: a search
        that got stuck is no evidence."""
        if not richer.is_clearly_better_than(found):
            return found
        again = self._otherwise(found, found.completed, self._without_experts(richer.parameters))
        found = min(found, again, key=lambda candidate: candidate.loss)
        return richer if richer.is_clearly_better_than(found) else found

    def _without_experts(self, parameters: Floats) -> Floats:
        """All that a usual step of decodes reads of the experts becomes fixed."""
        plain = parameters.copy()
        plain[FIXED] += step_time(parameters).experts_s(self.estimate.mean_decodes)
        plain[[EXPERTS, EXPERT_TOKENS]] = 0.0, USUAL_EXPERT_TOKENS
        return plain

    def _better_scheduled(self, found: Candidate) -> Candidate:
        """Asynchronous scheduling or not, where it is not given: vLLM's default, unless the logs speak against it."""
        if not found.completed.tries_async:
            return found
        scheduler = found.completed.scheduler.model_copy(update={"async_scheduling": False})
        other = self._otherwise(found, replace(found.completed, scheduler=scheduler), found.start)
        best, worse, word = (other, found, "false") if other.loss < CLEARLY * found.loss else (found, other, "true")
        told = f"{word} fits better (loss {best.loss:.3g} against {worse.loss:.3g})"
        if best.loss >= CLEARLY * worse.loss:
            told = "true, as by default on GPUs; the logs do not tell"
        remark = f"async_scheduling is not given: {told}"
        return replace(best, completed=best.completed.with_remark(remark))

    def _with_experts(self, found: Candidate) -> Candidate:
        """As a mixture of experts, if it is known to be one (but for a search that got stuck); or where something is
        left to explain and the logs speak for it."""
        is_moe = found.completed.is_moe
        if is_moe is False or (is_moe is None and found.loss < EXPLAINED):
            return found
        start = found.parameters.copy()
        start[EXPERTS] = EXPERTS_SHARE * start[FIXED]
        start[FIXED] -= start[EXPERTS]
        other = self._otherwise(found, found.completed, start)
        if is_moe:
            return found if found.is_clearly_better_than(other) else other
        best = self._if_clearly_better(found, other)
        if best is not other:
            return best
        told = (
            "a step is shorter the fewer tokens it holds, as of a mixture of experts, which reads those that these ask "
            f"for (loss {other.loss:.3g} against {found.loss:.3g} without)"
        )
        return replace(other, completed=other.completed.with_remark(told), plain=found)

    def _solved(
        self,
        logs: Sequence[MeasuredLog],
        coarse: Objective,
        completed: Completed,
        start: Floats,
        *,
        is_continued: bool,
    ) -> Candidate:
        free = self._seen(start)
        begin = _usual_where(~free, start)
        options = self._options(completed, without_own_blocks(completed.scheduler, logs))
        solver = Solver(coarse, options, begin, free)
        solver.minimise(WIDE)
        if completed.estimated_blocks:
            engines = completed.data_parallel_size
            search = Search(coarse, lambda s: self._options(completed, s), solver.best.parameters, engines)
            completed = replace(completed, scheduler=search.refined_blocks(completed.scheduler))
            solver = Solver(
                coarse,
                self._options(completed, without_own_blocks(completed.scheduler, logs)),
                solver.best.parameters,
                free,
            )
            solver.minimise(WIDE[1:])
        options = self._options(completed, without_own_blocks(completed.scheduler, logs))
        losses = coarse.robust_losses(coarse.averaged(options, solver.best.parameters), LOSS_SCALE)
        return Candidate(logs, completed, start, solver.best.parameters, losses, is_continued, coarse.is_preempting)

    def _options(self, completed: Completed, scheduler: SchedulerSection) -> ServerOptions:
        return ServerSection(
            name=self.asked.name,
            model=self.asked.model,
            data_parallel_size=completed.data_parallel_size,
            is_moe=completed.is_moe,
            scheduler=scheduler,
            step_time=StepTimeSection(fixed_s=1.0, prefill_token_s=0.0, decode_s=0.0),
        ).options()


def _has_experts(completed: Completed, parameters: Floats) -> bool:
    """Whether it is a known mixture of experts, and fitted as one."""
    return bool(completed.is_moe) and bool(parameters[EXPERTS] > 0)


def _start(estimate: StepEstimate) -> Floats:
    start = np.array(
        [
            estimate.fixed_s,
            estimate.prefill_token_s,
            estimate.decode_s,
            estimate.context_token_s,
            estimate.prefill_pair_s,
            USUAL_OVERLAP,
            0.0,
            USUAL_EXPERT_TOKENS,
            estimate.client_s,
        ]
    )
    # Equations that found no cost of prefills at all have none to tell: the usual one is nearer.
    if start[PREFILL] < 0.1 * start[FIXED] / USUAL_TOKENS_PER_FIXED:
        start[PREFILL] = start[FIXED] / USUAL_TOKENS_PER_FIXED
    return start


def _usual_where(is_tied: Bools, parameters: Floats) -> Floats:
    # Of one that hangs on a tied one, what is usual beside that.
    once = np.where(is_tied, usual(parameters), parameters)
    return np.where(is_tied, usual(once), parameters)


def _measured(name: str, requests: pd.DataFrame, asked: ServerToFit) -> MeasuredLog:
    if missing := [column for column in ("ttft_s", "e2e_s") if column not in requests]:
        found = ", ".join(map(str, requests.columns))
        raise TraceError(
            name, [f"{column}: missing column, a fit needs measured times; found: {found}" for column in missing]
        )
    scheduler = asked.scheduler
    times = measured_times(requests, scheduler.block_size, has_prefix_caching=scheduler.enable_prefix_caching)
    # By row, whatever a reader has numbered them by.
    log = MeasuredLog(name, requests.reset_index(drop=True), times)
    if log.num_measured < MIN_MEASURED:
        raise TraceError(
            name,
            [
                f"{log.num_measured} of {len(requests)} requests have ttft_s and e2e_s greater than 0, "
                f"a fit needs {MIN_MEASURED}"
            ],
        )
    return log
