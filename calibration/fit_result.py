"""What comes out of a fit: the server file with standard errors, how well the logs are reproduced, and remarks."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import tomli_w
from numpy.typing import NDArray

from inframind.sim import ServerSection, StepTimeSection
from inframind.sim.server_file import ClientSection, FittedOn, RequestsFittedOn, ServerToFit

from .fingerprint import fingerprints
from .fit_objective import CLIENT, OVERLAP, PARAMETERS, PREFILL, MeasuredLog, Simulated, step_time, weights_s
from .fit_options import Completed
from .fit_range import LoadRange, load_range
from .fit_solver import Run

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

LARGE_ERROR = 0.1
"""Error of a log's mean from which on a remark says so."""


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


def fit_of(
    asked: ServerToFit,
    *,
    logs: Sequence[MeasuredLog],
    used: Sequence[MeasuredLog],
    completed: Completed,
    is_continued: bool,
    best: Run,
    std_errors: Floats,
    is_identified: Bools,
    num_simulations: int,
) -> Fit:
    """Put together what a search has found.

    Parameters
    ----------
    logs, used
        Whole, and what the last search looked at of each.
    completed
        The scheduler's options.
    is_continued
        Whether logs have got a continuation.
    best
        Parameters, and the times of ``used`` that they lead to.
    std_errors, is_identified
        Of each parameter.
    """
    parameters, simulated = best.parameters, best.simulated
    quality = tuple(
        _quality(log, ours, len(whole.requests)) for log, ours, whole in zip(used, simulated, logs, strict=True)
    )
    names = _names(is_identified)
    own_errors = _std_errors(parameters, std_errors)
    errors = _pooled_errors(used, simulated)
    pairs = [_pairs(log, ours)["E2E"] for log, ours in zip(used, simulated, strict=True)]
    off = [np.abs(ours / measured - 1) for ours, measured in pairs]
    ranges = [load_range(log.requests, log.times.first_token_s, log.times.end_s) for log in used]
    fitted_on = _fitted_on(logs, used, ranges, np.concatenate(off), errors, completed, names)
    server = ServerSection(
        name=asked.name,
        model=asked.model,
        max_num_queued_reqs=asked.max_num_queued_reqs,
        data_parallel_size=completed.data_parallel_size,
        is_moe=completed.is_moe,
        scheduler=completed.scheduler,
        step_time=StepTimeSection(
            **asdict(step_time(parameters)),
            std_error={name: value for name, value in own_errors.items() if name != "client_overhead_s"},
            fitted_on=fitted_on,
        ),
        client=ClientSection(overhead_s=float(parameters[CLIENT]), std_error=own_errors.get("client_overhead_s")),
    )
    return Fit(
        server=server,
        std_errors=own_errors,
        not_identified=names,
        quality=quality,
        remarks=(
            *completed.remarks,
            *_remarks(names, logs, used, completed, is_continued=is_continued),
            *_large_errors(quality),
        ),
        num_simulations=num_simulations,
    )


def fitted_toml(server: ServerSection) -> str:
    """A server file, numbers to 6 significant digits."""
    of_server = server.model_dump(exclude_none=True)
    about = {name: of_server["step_time"][name] for name in ("std_error", "fitted_on")}
    of_server["step_time"] = server.step_time.terms | about
    return "# Written by `inframind calibrate fit`.\n" + tomli_w.dumps(_rounded(of_server))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _names(is_identified: Bools) -> tuple[str, ...]:
    """Of the parameters that are not, as the server file calls them."""
    names = []
    for index in np.flatnonzero(~is_identified):
        names.append({OVERLAP: "free_prefill_tokens", CLIENT: "client_overhead_s"}.get(int(index), PARAMETERS[index]))
    return tuple(names)


def _std_errors(parameters: Floats, std_errors: Floats) -> dict[str, float]:
    found = {}
    for index, value in enumerate(std_errors):
        if np.isnan(value):
            continue
        if index == OVERLAP:
            # The others' share is small: overlap is known to 10 % at best.
            found["free_prefill_tokens"] = float(value * weights_s(parameters) / max(parameters[PREFILL], 1e-12))
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
    "expert_s": "whether a step reads more weights the more tokens it holds, as a mixture of experts does",
    "expert_tokens": "how many tokens ask for all experts",
    "client_overhead_s": "the client's overhead: nothing tells it from the time of a step",
}
_INSTEAD = {
    "prefill_token_s": "fixed_s / 300, as on many GPUs",
    "decode_s": "0.003 of what reading all weights takes, as on many GPUs",
    "context_token_s": "5e-6 of fixed_s, as on many GPUs",
    "prefill_pair_s": "5e-5 of prefill_token_s, as on many GPUs",
    "free_prefill_tokens": "0.15 of what would be computed while all weights are read",
    "expert_s": "as much as fixed_s, as of a mixture of experts",
    "expert_tokens": "16, as of an LLM with 128 experts of which a token asks for 8",
    "client_overhead_s": "0",
}


def _remarks(
    not_identified: Sequence[str],
    logs: Sequence[MeasuredLog],
    used: Sequence[MeasuredLog],
    completed: Completed,
    *,
    is_continued: bool,
) -> list[str]:
    remarks = [
        f"{name} is not identified: the logs do not tell {_WHY[name]}. It is near what is usual: {_INSTEAD[name]}"
        for name in not_identified
    ]
    if is_continued:
        remarks.append(
            "many requests were open at the last arrival, and the times are explained best, or as well, if more "
            "came after it; how many, they do not tell: the same load is taken to have gone on for as long again"
        )
    if completed.estimated_blocks:
        blocks = completed.scheduler.num_blocks
        remarks.append(f"num_blocks is not given: {blocks}, estimated from waiting and preemptions")
    for log, taken in zip(logs, used, strict=True):
        if (num := len(log.requests) - log.num_measured) > 0:
            remarks.append(f"{log.name}: {num:,} requests without times load the server and are not compared")
        if len(taken.requests) < len(log.requests):
            remarks.append(
                f"{log.name}: {len(taken.requests):,} of {len(log.requests):,} requests are used, from all over the log"
            )
    return remarks
