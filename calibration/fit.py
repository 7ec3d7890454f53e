"""Fit a server file to request logs: least squares through the simulator.

The way from logs to a server file: a start without the simulator (`step_estimates`), missing scheduler options
(`fit_options`), least squares (`fit_objective`, `fit_solver`) for each way of scheduling that is possible, standard
errors, and what the logs do not tell.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import tomli_w
from numpy.typing import NDArray

from inframind.sim import ServerOptions, ServerSection, StepTimeSection
from inframind.sim.server_file import ClientSection, FittedOn, RequestsFittedOn, SchedulerSection, ServerToFit
from inframind.traces import TraceError

from .fingerprint import fingerprints
from .fit_continuation import IMPROVEMENT, SHARES, continued, may_go_on
from .fit_objective import (
    CLIENT,
    CONTEXT,
    DECODE,
    FIXED,
    OVERLAP,
    PAIR,
    PARAMETERS,
    PREFILL,
    USUAL_CONTEXT_SHARE,
    USUAL_DECODE_SHARE,
    USUAL_OVERLAP,
    USUAL_PAIR_SHARE,
    USUAL_TOKENS_PER_FIXED,
    MeasuredLog,
    Objective,
    Simulated,
    step_time,
)
from .fit_options import DEFAULT_MAX_NUM_BATCHED_TOKENS, Completed, Search, assume, without_own_blocks
from .fit_parts import part
from .fit_range import LoadRange, load_range
from .fit_solver import Region, Solver, Uncertainty
from .step_estimates import StepEstimate, estimate_steps, measured_times

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

IMPUTATION_SCALES = (1.0, 0.7, 0.5)
"""Of a start, where the times of many requests are not known."""
WIDE = (Region(0.3, 2.5), Region(0.1, 2.5))
"""The first search, from a start without the simulator."""
CLOSE_RADIUS = 0.07
"""Of the last search."""
MIN_CLOSE_RUNS, MAX_CLOSE_RUNS = 3.0, 10.0
"""In its region, for each parameter: the shorter the logs, the more do the jumps of single requests matter."""
CLOSE_WORK = 25_000.0
"""Requests, or as much work, of all runs in that region."""
MIN_SHORT = 0.05
"""Share of the prompts that must be short to show how many of their tokens ride along."""
MIN_SPREAD = 1.5
"""Ratio of long prompts to short ones that shows what attention costs."""
NUM_LIKELY = 2
"""Continuations that are solved, of those with the best starts."""
WORTH_SOLVING = 1.5
"""How much worse than a solution a start may be, if its own solution could yet be better."""
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
NEVER_CUT = 500
"""So many requests in all are always used."""
USUAL_SIMULATIONS = 100
"""Of one stage."""
LARGE_ERROR = 0.1
"""Error of a log's mean from which on a remark says so."""
LOSS_SCALE = 0.05
"""Deviation from which on it counts less than its square, where candidates are compared."""
SHARED_BLOCK_WORK, PREEMPTED_BLOCK_WORK = 0.015, 0.1
"""Work of simulating one block that may be found again, relative to that of a request: where prompts share a start, and
where preempted requests come back."""
MAX_WORK = 10_000.0
"""The most that is used at all: about half a second for each simulation."""


@dataclass(frozen=True, slots=True)
class LogQuality:
    """How well one log is reproduced."""

    name: str
    num_requests: int
    num_measured: int
    errors: Mapping[str, float]
    """Simulated over measured mean, less 1, of ``TTFT``, ``E2E`` and ``TPOT``."""
    usual_errors: Mapping[str, float]
    """Median over the requests of |simulated - measured| / measured."""


@dataclass(frozen=True, slots=True)
class Fit:
    """What came out."""

    server: ServerSection
    std_errors: Mapping[str, float]
    """By parameter of ``[step_time]``, and ``client_overhead_s``; of those that the logs do not tell, what is usual of
    them says it, or they are left out."""
    not_identified: tuple[str, ...]
    quality: tuple[LogQuality, ...]
    remarks: tuple[str, ...]
    num_simulations: int


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
class _Found:
    """A close start."""

    logs: Sequence[MeasuredLog]
    completed: Completed
    parameters: Floats
    loss: float
    continuation: float
    """Length of the continuation of the logs, relative to them."""
    is_preempting: bool
    """Whether the simulated server preempts requests."""


def fitted_toml(server: ServerSection) -> str:
    """A server file, numbers to 6 significant digits."""
    return "# Written by `inframind calibrate fit`.\n" + tomli_w.dumps(_rounded(server.model_dump(exclude_none=True)))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return float(f"{value:.6g}") if isinstance(value, float) else value


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
        self._budget = tokens * (asked.data_parallel_size or 1)
        self._num_simulations = 0
        self._progress, self._stage_end, self._pace = 0.0, 0.0, 1.0

    def run(self) -> Fit:
        self._enter(0.4)
        whole = max(int((log.times.prompt_tokens + log.times.output_tokens).max()) for log in self.logs)
        found = self._coarsely(assume(self.asked, self.estimate, whole))
        self._enter(0.95)
        used = _parts(found.logs, self.asked, MAX_WORK, is_preempting=found.is_preempting)
        objective = Objective(used, self.estimate, self._on_simulation)
        options = self._options(found.completed, found.completed.scheduler)
        close = self._close(objective, is_preempting=found.is_preempting)
        free = self._seen(found.parameters)
        solver = Solver(objective, options, _usual_where(~free, found.parameters), free)
        solver.minimise([close])
        unsure = solver.uncertainty(close)
        identified = unsure.is_identified | (np.arange(len(PARAMETERS)) == FIXED)
        fit = self._result(found, objective, solver, unsure, identified)
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

    def _coarsely(self, assumed: Completed) -> "_Found":
        """A close start, on parts of the logs, and what is left open: limits, continuation, scheduling."""
        found = self._try(self.logs, assumed)
        going_on = [may_go_on(log) for log in self.logs]
        if any(going_on):
            longer = [
                (share, [continued(log, share) if goes else log for log, goes in zip(self.logs, going_on, strict=True)])
                for share in SHARES
            ]
            starts = [self._imputed(self._coarse(logs), assumed, _start(self.estimate)) for _, logs in longer]
            complete = found
            for index in np.argsort([loss for _, loss in starts])[:NUM_LIKELY].tolist():
                start, start_loss = starts[index]
                # Solving brings a start's loss down, but not by more.
                if start_loss < WORTH_SOLVING * complete.loss:
                    share, logs = longer[index]
                    other = self._try(logs, assumed, share, start)
                    found = other if other.loss < min(IMPROVEMENT * complete.loss, found.loss) else found
        return self._better_way(found) if assumed.tries_async else found

    def _try(
        self,
        logs: Sequence[MeasuredLog],
        assumed: Completed,
        continuation: float = 0.0,
        start: Floats | None = None,
    ) -> "_Found":
        coarse = self._coarse(logs)
        if start is None:
            start = _start(self.estimate)
            if any(log.num_measured < MOSTLY * len(log.requests) for log in coarse.logs):
                start, _ = self._imputed(coarse, assumed, start)
        completed = assumed
        if self.asked.scheduler.max_num_seqs is None or self.asked.scheduler.num_blocks is None:
            search = Search(coarse, lambda s: self._options(assumed, s), start, assumed.data_parallel_size)
            completed = search.limits(assumed, self.asked, self.estimate)
        return self._solved(logs, coarse, completed, start, continuation)

    def _seen(self, parameters: Floats) -> Bools:
        """Which parameters show in the logs at all, by the sizes of the steps.

        While a step's prefill takes less time than ``fixed_s``, what a token costs cannot be told from how many of them
        ride along: that takes steps beyond. How many ride along shows only in prompts that are about as short. And
        attention is what grows faster than a prompt, which takes long ones and short ones.
        """
        new = np.concatenate([log.times.prompt_tokens - log.times.cached_tokens for log in self.logs])
        ride_along = parameters[FIXED] / max(parameters[PREFILL], 1e-12)
        seen = np.ones(len(PARAMETERS), dtype=bool)
        seen[PAIR] = np.quantile(new, 0.9) >= MIN_SPREAD * np.quantile(new, 0.1)
        seen[PREFILL] = min(self._budget, new.max()) > ride_along
        seen[OVERLAP] = seen[PREFILL] and float(np.mean(new < ride_along)) >= MIN_SHORT
        return seen

    def _coarse(self, logs: Sequence[MeasuredLog]) -> Objective:
        return Objective(_parts(logs, self.asked, COARSE_WORK), self.estimate, self._on_simulation)

    def _close(self, objective: Objective, *, is_preempting: bool) -> Region:
        work = sum(float(_work(log, self.asked, is_preempting).sum()) for log in objective.logs)
        runs = np.clip(CLOSE_WORK / work / len(PARAMETERS), MIN_CLOSE_RUNS, MAX_CLOSE_RUNS)
        return Region(CLOSE_RADIUS, float(runs))

    def _imputed(self, coarse: Objective, assumed: Completed, start: Floats) -> tuple[Floats, float]:
        """A start, and its loss, for logs of which some requests have no times: they get simulated ones, over and over.

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
                parameters = _start(estimate_steps(times, assumed.scheduler.max_num_batched_tokens, imputed))
        return best, best_loss

    def _better_way(self, found: "_Found") -> "_Found":
        """Asynchronous scheduling or not, where it is not given: vLLM's default, unless the logs speak against it."""
        coarse = self._coarse(found.logs)
        scheduler = found.completed.scheduler.model_copy(update={"async_scheduling": False})
        completed = replace(found.completed, scheduler=scheduler)
        other = self._solved(found.logs, coarse, completed, found.parameters, found.continuation)
        best, worse, word = (other, found, "false") if other.loss < CLEARLY * found.loss else (found, other, "true")
        told = f"{word} fits better (loss {best.loss:.3g} against {worse.loss:.3g})"
        if best.loss >= CLEARLY * worse.loss:
            told = "true, as by default on GPUs; the logs do not tell"
        remark = f"async_scheduling is not given: {told}"
        return replace(best, completed=best.completed.with_remark(remark))

    def _solved(
        self, logs: Sequence[MeasuredLog], coarse: Objective, completed: Completed, start: Floats, continuation: float
    ) -> "_Found":
        free = self._seen(start)
        start = _usual_where(~free, start)
        options = self._options(completed, without_own_blocks(completed.scheduler, logs))
        solver = Solver(coarse, options, start, free)
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
            solver.minimise(WIDE[-1:])
        loss = coarse.robust_loss(solver.best.simulated, LOSS_SCALE)
        return _Found(logs, completed, solver.best.parameters, loss, continuation, coarse.is_preempting)

    # The result.

    def _result(self, found: _Found, objective: Objective, solver: Solver, unsure: Uncertainty, free: Bools) -> Fit:
        completed, parameters = found.completed, solver.best.parameters
        simulated = solver.best.simulated
        quality = tuple(
            _quality(log, ours, len(asked.requests))
            for log, ours, asked in zip(objective.logs, simulated, self.logs, strict=True)
        )
        names = _names(free)
        std_errors = _std_errors(parameters, unsure.std_errors)
        errors = _pooled_errors(objective.logs, simulated)
        pairs = [_pairs(log, ours)["E2E"] for log, ours in zip(objective.logs, simulated, strict=True)]
        off = [np.abs(ours / measured - 1) for ours, measured in pairs]
        ranges = [load_range(log.requests, log.times.first_token_s, log.times.end_s) for log in objective.logs]
        fitted_on = _fitted_on(self.logs, objective.logs, ranges, np.concatenate(off), errors, completed, names)
        steps = step_time(parameters)
        server = ServerSection(
            name=self.asked.name,
            model=self.asked.model,
            max_num_queued_reqs=self.asked.max_num_queued_reqs,
            data_parallel_size=completed.data_parallel_size,
            scheduler=completed.scheduler,
            step_time=StepTimeSection(
                fixed_s=steps.fixed_s,
                prefill_token_s=steps.prefill_token_s,
                decode_s=steps.decode_s,
                context_token_s=steps.context_token_s,
                prefill_pair_s=steps.prefill_pair_s,
                free_prefill_tokens=steps.free_prefill_tokens,
                std_error={name: value for name, value in std_errors.items() if name != "client_overhead_s"},
                fitted_on=fitted_on,
            ),
            client=ClientSection(overhead_s=float(parameters[CLIENT]), std_error=std_errors.get("client_overhead_s")),
        )
        return Fit(
            server=server,
            std_errors=std_errors,
            not_identified=names,
            quality=quality,
            remarks=(*completed.remarks, *_remarks(names, self.logs, objective.logs, found), *_large_errors(quality)),
            num_simulations=self._num_simulations,
        )

    def _options(self, completed: Completed, scheduler: SchedulerSection) -> ServerOptions:
        return ServerSection(
            name=self.asked.name,
            model=self.asked.model,
            data_parallel_size=completed.data_parallel_size,
            scheduler=scheduler,
            step_time=StepTimeSection(fixed_s=1.0, prefill_token_s=0.0, decode_s=0.0),
        ).options()


def _start(estimate: StepEstimate) -> Floats:
    start = np.array(
        [
            estimate.fixed_s,
            estimate.prefill_token_s,
            estimate.decode_s,
            estimate.context_token_s,
            estimate.prefill_pair_s,
            USUAL_OVERLAP,
            estimate.client_s,
        ]
    )
    # Equations that found no cost of prefills at all have none to tell: the usual one is nearer.
    if start[PREFILL] < 0.1 * start[FIXED] / USUAL_TOKENS_PER_FIXED:
        start[PREFILL] = start[FIXED] / USUAL_TOKENS_PER_FIXED
    return start


def _usual_where(is_tied: Bools, parameters: Floats) -> Floats:
    usual = np.zeros(len(PARAMETERS))
    usual[PREFILL] = parameters[FIXED] / USUAL_TOKENS_PER_FIXED
    usual[DECODE] = parameters[FIXED] * USUAL_DECODE_SHARE
    usual[CONTEXT] = parameters[FIXED] * USUAL_CONTEXT_SHARE
    usual[PAIR] = np.where(is_tied[PREFILL], usual[PREFILL], parameters[PREFILL]) * USUAL_PAIR_SHARE
    usual[OVERLAP] = USUAL_OVERLAP
    return np.where(is_tied, usual, parameters)


def _measured(name: str, requests: pd.DataFrame, asked: ServerToFit) -> MeasuredLog:
    if missing := [column for column in ("ttft_s", "e2e_s") if column not in requests]:
        found = ", ".join(map(str, requests.columns))
        raise TraceError(
            name, [f"{column}: missing column, a fit needs measured times; found: {found}" for column in missing]
        )
    scheduler = asked.scheduler
    times = measured_times(requests, scheduler.block_size, has_prefix_caching=scheduler.enable_prefix_caching)
    log = MeasuredLog(name, requests, times)
    if log.num_measured < MIN_MEASURED:
        raise TraceError(
            name,
            [
                f"{log.num_measured} of {len(requests)} requests have ttft_s and e2e_s greater than 0, "
                f"a fit needs {MIN_MEASURED}"
            ],
        )
    return log


def _parts(
    logs: Sequence[MeasuredLog], asked: ServerToFit, work: float, *, is_preempting: bool = False
) -> list[MeasuredLog]:
    """Of each log the same share, so that all is so much work together."""
    costs = [_work(log, asked, is_preempting) for log in logs]
    total = float(sum(cost.sum() for cost in costs))
    if total <= work or sum(len(log.requests) for log in logs) <= NEVER_CUT:
        return list(logs)
    return [part(log, cost, work / total) for log, cost in zip(logs, costs, strict=True)]


def _work(log: MeasuredLog, asked: ServerToFit, is_preempting: bool) -> Floats:
    """What it costs to simulate each request; blocks count only where they are found again, see `run_log`."""
    if not (asked.scheduler.enable_prefix_caching and (is_preempting or log.times.cached_tokens.any())):
        return np.ones(len(log.requests))
    blocks = (log.times.prompt_tokens + log.times.output_tokens) / asked.scheduler.block_size
    return np.asarray(1 + (PREEMPTED_BLOCK_WORK if is_preempting else SHARED_BLOCK_WORK) * blocks)


def _names(free: Bools) -> tuple[str, ...]:
    """Of the parameters that are not free, as the server file calls them."""
    names = []
    for index in np.flatnonzero(~free):
        names.append({OVERLAP: "free_prefill_tokens", CLIENT: "client_overhead_s"}.get(int(index), PARAMETERS[index]))
    return tuple(names)


def _std_errors(parameters: Floats, std_errors: Floats) -> dict[str, float]:
    found = {}
    for index, value in enumerate(std_errors):
        if np.isnan(value):
            continue
        if index == OVERLAP:
            # The others' share is small: overlap is known to 10 % at best.
            found["free_prefill_tokens"] = float(value * parameters[FIXED] / max(parameters[PREFILL], 1e-12))
        else:
            found["client_overhead_s" if index == CLIENT else PARAMETERS[index]] = float(value)
    return found


def _pairs(log: MeasuredLog, ours: Simulated) -> dict[str, tuple[Floats, Floats]]:
    """Simulated and measured TTFT, E2E and TPOT of the requests that have both."""
    times = log.times
    rows = np.isfinite(times.ttft_s) & np.isfinite(ours.ttft_s)
    decoded = rows & (times.output_tokens > 1)
    return {
        "TTFT": (ours.ttft_s[rows], times.ttft_s[rows]),
        "E2E": (ours.e2e_s[rows], times.e2e_s[rows]),
        "TPOT": (ours.tpot_s(times.output_tokens)[decoded], times.tpot_s[decoded]),
    }


def _error(simulated: Floats, measured: Floats) -> float:
    total = float(measured.sum())
    return float(simulated.sum()) / total - 1 if total > 0 else 0.0


def _quality(log: MeasuredLog, ours: Simulated, num_requests: int) -> LogQuality:
    pairs = _pairs(log, ours)
    return LogQuality(
        name=log.name,
        num_requests=num_requests,
        num_measured=log.num_measured,
        errors={name: _error(*pair) for name, pair in pairs.items() if pair[0].size},
        usual_errors={
            name: float(np.median(np.abs(simulated / np.maximum(measured, 1e-9) - 1)))
            for name, (simulated, measured) in pairs.items()
            if simulated.size
        },
    )


def _pooled_errors(logs: Sequence[MeasuredLog], simulated: Sequence[Simulated]) -> dict[str, float]:
    pairs = [_pairs(log, ours) for log, ours in zip(logs, simulated, strict=True)]
    return {
        name: _error(*(np.concatenate([pair[name][side] for pair in pairs]) for side in (0, 1)))
        for name in ("TTFT", "E2E", "TPOT")
    }


def _fitted_on(
    logs: Sequence[MeasuredLog],
    used: Sequence[MeasuredLog],
    ranges: Sequence[LoadRange],
    off: Floats,
    errors: Mapping[str, float],
    completed: Completed,
    not_identified: tuple[str, ...],
) -> FittedOn:
    scheduler = completed.scheduler
    max_prompt = max(r.max_prompt_tokens for r in ranges)
    budget = scheduler.max_num_batched_tokens * completed.data_parallel_size
    num_running = max(r.max_num_running for r in ranges)
    return FittedOn(
        source="request logs, fitted through the simulator",
        licence="as the logs",
        num_points=sum(log.num_measured for log in used),
        error_p50=float(np.quantile(off, 0.5)),
        error_p95=float(np.quantile(off, 0.95)),
        max_prefill_tokens=min(budget, max(r.max_prefill_tokens for r in ranges)),
        max_num_decodes=max(1, num_running),
        max_context_tokens=max(1, int(max(r.max_context_tokens for r in ranges))),
        requests=RequestsFittedOn(
            logs=tuple(log.name for log in logs),
            fingerprints=tuple(each for log in logs for each in fingerprints(log.requests)),
            max_rate_per_s=max(r.max_rate_per_s for r in ranges),
            max_prompt_tokens=max_prompt,
            max_output_tokens=max(r.max_output_tokens for r in ranges),
            max_num_running=max(1, num_running),
            errors=dict(errors),
            not_identified=not_identified,
        ),
    )


def _large_errors(quality: Sequence[LogQuality]) -> list[str]:
    return [
        f"{log.name}: mean {name} is off by {error:+.0%}: the model does not explain these times. Do the server file's "
        "options hold for this log, was the server idle before it, and did nobody else use it?"
        for log in quality
        for name, error in log.errors.items()
        if abs(error) > LARGE_ERROR
    ]


_WHY = {
    "prefill_token_s": "the cost of a prompt token: the prompts are too alike, or too short to matter",
    "decode_s": "the cost of a decoding request: the batch was of about one size",
    "context_token_s": "the cost of context: the sequences are too alike in length",
    "prefill_pair_s": "the cost of attention in a prefill: the prompts are too alike in length, or too short",
    "free_prefill_tokens": "how many prompt tokens ride along with reading the weights: too few short prompts",
    "client_overhead_s": "the client's overhead: nothing tells it from the time of a step",
}
_INSTEAD = {
    "prefill_token_s": "fixed_s / 300, as on many GPUs",
    "decode_s": "0.003 of fixed_s, as on many GPUs",
    "context_token_s": "5e-6 of fixed_s, as on many GPUs",
    "prefill_pair_s": "5e-5 of prefill_token_s, as on many GPUs",
    "free_prefill_tokens": "0.15 of what fixed_s would compute",
    "client_overhead_s": "0",
}


def _remarks(
    not_identified: Sequence[str], logs: Sequence[MeasuredLog], used: Sequence[MeasuredLog], found: _Found
) -> list[str]:
    remarks = [
        f"{name} is not identified: the logs do not tell {_WHY[name]}. It is near what is usual: {_INSTEAD[name]}"
        for name in not_identified
    ]
    if found.continuation:
        remarks.append(
            "the times of the logs show that more requests came after their last ones: as if the same load had gone on "
            f"for {found.continuation:g} times as long"
        )
    if found.completed.estimated_blocks:
        blocks = found.completed.scheduler.num_blocks
        remarks.append(f"num_blocks is not given: {blocks}, estimated from waiting and preemptions")
    for log, taken in zip(logs, used, strict=True):
        if (num := len(log.requests) - log.num_measured) > 0:
            remarks.append(f"{log.name}: {num:,} requests without times load the server and are not compared")
        if len(taken.requests) < len(log.requests):
            remarks.append(
                f"{log.name}: {len(taken.requests):,} of {len(log.requests):,} requests are used, from all over the log"
            )
    return remarks
