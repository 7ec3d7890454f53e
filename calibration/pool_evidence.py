"""``python -m inframind.calibration.pool_evidence``: how far real runs of vLLM are from the table of kernel times.

Three real servers were logged whose GPU is in the table: Llama-3.1-8B, which is in it too, and CodeLlama-34b and
Llama-2-7b, whose kernel times are those of the LLM nearest in size, each parameter scaled by the work that it stands
for. Their logs are replayed through the simulator, and the corrections of `pool_recipes` are what makes each come out
right. The logs are not part of InfraMind; ``docs/pools.md`` names them.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import minimize

from inframind.sim.server_file import SchedulerSection, ServerSection, StepTimeSection
from inframind.traces import Mistakes, TraceError, read_requests

from .pool_models import MEMBERS, Architecture
from .pool_recipes import (
    DECODE_OVERHEAD_S,
    PREFILL_FACTOR,
    STEP_OVERHEAD_S,
    fit_members,
)
from .predict import predict
from .step_profiles import read_step_profiles

Floats = NDArray[np.float64]

CODELLAMA_34B = Architecture(48, 8192, 64, 8, 128, 22016, 32000)
LLAMA_2_7B = Architecture(32, 4096, 32, 32, 128, 11008, 32000)
LLAMA_8B = MEMBERS[3].architecture

CODELLAMA_BLOCKS = 2600
"""Not recorded; with fewer, requests wait too long in the run with long outputs, with more too short."""
SHARED_PREFIX_TOKENS = 1024
"""The load generator of one run was told to begin every prompt alike."""


@dataclass(frozen=True, slots=True)
class Correction:
    """What a server takes beyond kernel times."""

    step_s: float = 0.0
    """Each step."""
    decode_s: float = 0.0
    """Each decoding request of a step."""
    prefill_factor: float = 1.0
    """On the time of prompt tokens and their attention."""

    def apply(self, kernels: StepTimeSection) -> StepTimeSection:
        """The server's own step times."""
        return kernels.model_copy(
            update={
                "fixed_s": kernels.fixed_s + self.step_s,
                "decode_s": kernels.decode_s + self.decode_s,
                "prefill_token_s": self.prefill_factor * kernels.prefill_token_s,
                "prefill_pair_s": self.prefill_factor * kernels.prefill_pair_s,
            }
        )


NONE = Correction()
SHIPPED = Correction(STEP_OVERHEAD_S, DECODE_OVERHEAD_S, PREFILL_FACTOR)


@dataclass(frozen=True, slots=True)
class RealRun:
    """The log of one real server, and its kernel times."""

    name: str
    server: str
    """Runs of one server count as one."""
    requests: pd.DataFrame
    """Columns of ``traces.REQUESTS``, with ``ttft_s`` and ``e2e_s``."""
    kernels: StepTimeSection
    scheduler: SchedulerSection

    def replay(self, correction: Correction) -> pd.DataFrame:
        """The requests with ``sim_ttft_s`` and ``sim_e2e_s``."""
        step_time = correction.apply(self.kernels)
        return predict(self.requests, ServerSection(name="s", model="m", scheduler=self.scheduler, step_time=step_time))


def scaled(kernels: StepTimeSection, of: Architecture, to: Architecture) -> StepTimeSection:
    """Kernel times of one LLM from those of another: each parameter by the bytes or the products that it stands for."""
    layers = to.layer_parameters / of.layer_parameters
    return kernels.model_copy(
        update={
            "fixed_s": kernels.fixed_s * to.read_parameters / of.read_parameters,
            "prefill_token_s": kernels.prefill_token_s * layers,
            "decode_s": kernels.decode_s * layers,
            "context_token_s": kernels.context_token_s * to.kv_bytes_per_token / of.kv_bytes_per_token,
            "prefill_pair_s": kernels.prefill_pair_s * to.attention_width / of.attention_width,
        }
    )


def read_runs(table: Path, otel: Path, llmservingsim: Path) -> list[RealRun]:
    """Read the four runs.

    Parameters
    ----------
    table
        Of step latencies, see `read_step_profiles`.
    otel
        Folder of the OpenTelemetry logs of inference-sim: ``jan20-codellama-train-1.csv`` and so on.
    llmservingsim
        Folder of LLMServingSim's runs: ``RTXPRO6000__Llama-3.1-8B__requests.jsonl``.

    Raises
    ------
    TraceError
        If one cannot be read.
    """
    h100 = _kernels(table, "h100_sxm")
    codellama = scaled(h100["deepseek-r1-32b"], MEMBERS[0].architecture, CODELLAMA_34B)
    llama_2 = scaled(h100["llama-8b"], LLAMA_8B, LLAMA_2_7B)
    profiles = read_step_profiles(table, "rtx_pro_6000_server")
    pro = fit_members(profiles, "rtx_pro_6000_server")["llama-8b"]
    long_prompts = _otel(otel / "jan20-prefill-llama7b-tp1-1.csv").assign(
        prefix_group="all", prefix_tokens=SHARED_PREFIX_TOKENS
    )
    # The first request of this one found a cold server: its prompt took eight times as long as the next like it.
    warm = _otel(otel / "jan21-llama7b-train-1.csv").iloc[1:].reset_index(drop=True)
    return [
        RealRun(
            "Llama-2-7b, H100",
            "llama-2",
            warm,
            llama_2,
            _options(7000, max_num_batched_tokens=4096, max_model_len=4096),
        ),
        RealRun(
            "Llama-3.1-8B, RTX PRO 6000",
            "llama-3.1",
            read_requests(llmservingsim / "RTXPRO6000__Llama-3.1-8B__requests.jsonl"),
            pro,
            _options(35000, max_num_seqs=128, max_num_batched_tokens=2048, max_model_len=131072),
        ),
        RealRun(
            "CodeLlama-34b, H100, long outputs",
            "codellama",
            _otel(otel / "jan20-codellama-train-1.csv"),
            codellama,
            _options(CODELLAMA_BLOCKS, max_num_batched_tokens=4096, max_model_len=8192),
        ),
        RealRun(
            "CodeLlama-34b, H100, long prompts",
            "codellama",
            long_prompts,
            codellama,
            _options(CODELLAMA_BLOCKS, max_num_batched_tokens=4096, max_model_len=4096),
        ),
    ]


def _kernels(table: Path, system: str) -> dict[str, StepTimeSection]:
    return fit_members(read_step_profiles(table, system), system)


def _options(
    num_blocks: int, *, max_num_batched_tokens: int, max_model_len: int, max_num_seqs: int = 256
) -> SchedulerSection:
    return SchedulerSection(
        num_blocks=num_blocks,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        max_model_len=max_model_len,
    )


def _otel(path: Path) -> pd.DataFrame:
    """A log of server-side spans; its times begin when the server has the request."""
    columns = {"start_s": "arrival_s", "completion_tokens": "output_tokens"}
    try:
        frame = pd.read_csv(path).rename(columns=columns)
        wanted = ["arrival_s", "prompt_tokens", "output_tokens", "ttft_s", "e2e_s"]
        return frame[wanted].sort_values("arrival_s", ignore_index=True)
    except (OSError, ValueError, KeyError) as error:
        raise TraceError(path, [f"cannot be read: {error}"]) from None


def mean_errors(replayed: pd.DataFrame) -> dict[str, float]:
    """Simulated mean over measured mean, less 1, of TTFT, TPOT (outputs of more than a token) and E2E."""
    several = replayed[replayed["output_tokens"] > 1]
    pairs = {
        "ttft": (replayed["sim_ttft_s"], replayed["ttft_s"]),
        "tpot": (_tpot_s(several, "sim_"), _tpot_s(several)),
        "e2e": (replayed["sim_e2e_s"], replayed["e2e_s"]),
    }
    return {name: float(simulated.mean() / measured.mean() - 1) for name, (simulated, measured) in pairs.items()}


def _tpot_s(requests: pd.DataFrame, prefix: str = "") -> pd.Series[float]:
    return (requests[f"{prefix}e2e_s"] - requests[f"{prefix}ttft_s"]) / (requests["output_tokens"] - 1)


_UNITS = np.array([1e-3, 1e-5, 0.1])
"""Of what is searched for: a step, a decode, and what the factor is beyond 1."""
_GRID = ((0.0, 0.4, 0.8, 1.2, 1.6), (0.0, 1.5, 3.0), (-0.2, 0.2, 0.6, 1.0))
"""Where the search looks first, in these units."""


def fit_correction(run: RealRun) -> Correction:
    """Minimise, through the simulator, the logarithms of every request's TTFT, TPOT and E2E error; robust.

    What a request waits for changes by jumps: so the search goes without derivatives, from the best point of a grid,
    and once more from where it got stuck.
    """

    def loss(values: Floats) -> float:
        off = _log_errors(run.replay(_correction(values)))
        return float(np.sum(np.sqrt(1 + (off / _SOFT) ** 2) - 1))

    best = min((np.array(point) for point in itertools.product(*_GRID)), key=loss)
    for size in (1.0, -0.5):
        simplex = np.vstack([best, best + size * np.diag([0.2, 0.7, 0.2])])
        found = minimize(
            loss,
            best,
            method="Nelder-Mead",
            options={"initial_simplex": simplex, "xatol": 0.01, "fatol": 1e-3, "maxfev": 90},
        )
        best = np.asarray(found.x, dtype=np.float64)
    return _correction(best)


_SOFT = 0.1
"""Logarithmic errors beyond this count linearly."""


def _correction(values: Floats) -> Correction:
    step_s, decode_s, beyond = (values * _UNITS).tolist()
    return Correction(step_s, decode_s, 1 + beyond)


def _log_errors(replayed: pd.DataFrame) -> Floats:
    several = replayed[replayed["output_tokens"] > 1]
    pairs = (
        (replayed["sim_ttft_s"], replayed["ttft_s"]),
        (_tpot_s(several, "sim_"), _tpot_s(several)),
        (replayed["sim_e2e_s"], replayed["e2e_s"]),
    )
    ratios = [(simulated / measured).to_numpy(dtype="float64") for simulated, measured in pairs]
    return np.asarray(np.log(np.concatenate(ratios)))


def average(corrections: Mapping[str, Sequence[Correction]]) -> tuple[Correction, Correction]:
    """Mean and standard deviation over servers, of whose runs the mean is taken first."""
    servers = np.array(
        [np.mean([(c.step_s, c.decode_s, c.prefill_factor) for c in runs], axis=0) for runs in corrections.values()]
    )
    return Correction(*servers.mean(axis=0).tolist()), Correction(*servers.std(axis=0, ddof=1).tolist())


def error_table(runs: Sequence[RealRun], corrections: Mapping[str, Sequence[Correction]]) -> Iterator[str]:
    """Markdown: errors of the means in percent, under each named correction (one for each run)."""
    yield f"| run | requests | mean of | {' | '.join(corrections)} |"
    yield f"| --- | --: | --- | {' | '.join('--:' for _ in corrections)} |"
    for place, run in enumerate(runs):
        errors = [mean_errors(run.replay(each[place])) for each in corrections.values()]
        for name in ("ttft", "tpot", "e2e"):
            cells = [f"{100 * error[name]:+.1f}" for error in errors]
            yield f"| {run.name} | {len(run.requests)} | {name.upper()} | {' | '.join(cells)} |"


def correction_table(runs: Sequence[RealRun], fitted: Sequence[Correction]) -> Iterator[str]:
    """Markdown: what makes each run come out right, the mean over servers, and their spread."""
    yield "| run | each step, ms | each decode, ms | prefill factor |"
    yield "| --- | --: | --: | --: |"
    mean, spread = average(_by_server(runs, fitted))
    names = [*(run.name for run in runs), "mean of the three servers", "standard deviation"]
    for name, each in zip(names, (*fitted, mean, spread), strict=True):
        yield f"| {name} | {1000 * each.step_s:.2f} | {1000 * each.decode_s:.4f} | {each.prefill_factor:.3f} |"


def _by_server(runs: Sequence[RealRun], fitted: Sequence[Correction]) -> dict[str, list[Correction]]:
    servers: dict[str, list[Correction]] = {}
    for run, correction in zip(runs, fitted, strict=True):
        servers.setdefault(run.server, []).append(correction)
    return servers


def from_the_others(runs: Sequence[RealRun], fitted: Sequence[Correction]) -> list[Correction]:
    """For each run the mean correction of the other servers."""
    servers = _by_server(runs, fitted)
    return [average({name: own for name, own in servers.items() if name != run.server})[0] for run in runs]


def main(argv: Sequence[str] | None = None) -> int:
    """Print both tables; 2 if the person's files are wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m inframind.calibration.pool_evidence",
        description="Replay logs of real servers with kernel times from the table, and fit what these lack.",
    )
    parser.add_argument("profiles", type=Path, metavar="PROFILES.csv", help="the table of step latencies")
    parser.add_argument("otel", type=Path, metavar="OTEL_DIR", help="logs of inference-sim")
    parser.add_argument("llmservingsim", type=Path, metavar="LLMSERVINGSIM_DIR", help="logs of LLMServingSim")
    args = parser.parse_args(argv)
    try:
        runs = read_runs(args.profiles, args.otel, args.llmservingsim)
    except Mistakes as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    fitted = [fit_correction(run) for run in runs]
    print(*correction_table(runs, fitted), sep="\n")
    print()
    ways = {
        "kernels alone, %": [NONE] * len(runs),
        "as shipped, %": [SHIPPED] * len(runs),
        "from the other two, %": from_the_others(runs, fitted),
    }
    print(*error_table(runs, ways), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
