"""Profile, fit, predict: a real vLLM server under loads that it was not profiled with. ``make test-live``.

The limits are wide, since a minute of profile on a machine of two cores says no more; docs/calibrating.md has what
eight minutes come to. They are narrow enough that a cost of prompt tokens which is off by 30 % does not pass.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from inframind.calibration import predict, record_loads
from inframind.calibration.profile import ProfileOptions
from inframind.calibration.profile_plan import Ask, Condition
from inframind.cli import main
from inframind.live import VllmServer
from inframind.sim import ServerSection, load_server
from inframind.traces import read_requests

LIMITS = {"TTFT p50": 0.45, "TPOT mean": 0.20, "E2E mean": 0.20}
SHARES = {"light": 0.3, "near saturation": 0.85}
"""Of the rate that the fitted server can serve."""
ARRIVALS_S = 35.0

pytestmark = [pytest.mark.live, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def fitted(profile_log: Path, tmp_path_factory: pytest.TempPathFactory) -> ServerSection:
    out = tmp_path_factory.mktemp("fit") / "fitted.toml"
    server = str(profile_log / "server.toml")
    assert main(["calibrate", "fit", str(profile_log / "requests.csv"), "--server", server, "-o", str(out)]) == 0
    return load_server(out)


@pytest.fixture(scope="module")
def observed(
    real_server: VllmServer, fitted: ServerSection, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, pd.DataFrame]:
    """Requests of each load, as they were served."""
    logs = {}
    for seed, (name, share) in enumerate(SHARES.items()):
        folder = tmp_path_factory.mktemp("loads") / "log"
        asks = _poisson(share * _capacity_per_s(fitted), seed)
        record_loads(ProfileOptions(real_server.url), folder, [Condition(name, asks)])
        logs[name] = read_requests(folder / "requests.csv")
    return logs


def test_loads_that_were_not_profiled_are_predicted(
    fitted: ServerSection, observed: Mapping[str, pd.DataFrame], capsys: pytest.CaptureFixture[str]
) -> None:
    errors = {load: _errors(fitted, requests) for load, requests in observed.items()}

    with capsys.disabled():
        for load, found in errors.items():
            print(f"\n{load}, {len(observed[load])} requests:", *(f"{name} {e:+.1%}" for name, e in found.items()))
    assert not [load for load, found in errors.items() if _is_beyond_limits(found)]


@pytest.mark.parametrize("factor", [0.7, 1.3])
def test_a_server_whose_prefill_is_off_by_30_percent_does_not_pass(
    fitted: ServerSection, observed: Mapping[str, pd.DataFrame], factor: float
) -> None:
    steps = fitted.step_time
    wrong = fitted.model_copy(
        update={"step_time": steps.model_copy(update={"prefill_token_s": factor * steps.prefill_token_s})}
    )

    assert [load for load, requests in observed.items() if _is_beyond_limits(_errors(wrong, requests))]


def _lengths(rng: np.random.Generator) -> tuple[int, int]:
    """Log-normal, where the profile has grids and log-uniform draws."""
    return int(np.clip(rng.lognormal(5.5, 0.6), 30, 900)), int(np.clip(rng.lognormal(3.6, 0.6), 5, 100))


def _poisson(rate_per_s: float, seed: int) -> list[Ask]:
    rng = np.random.default_rng(seed)
    num = max(int(rate_per_s * ARRIVALS_S), 5)
    times = rng.exponential(1 / rate_per_s, num).cumsum()
    return [Ask(*_lengths(rng), at_s=at_s) for at_s in times.tolist()]


def _capacity_per_s(server: ServerSection) -> float:
    """Requests of these lengths that it serves in a second when all are there at once."""
    rng = np.random.default_rng(99)
    lengths = [_lengths(rng) for _ in range(200)]
    requests = pd.DataFrame(lengths, columns=["prompt_tokens", "output_tokens"]).assign(arrival_s=0.0)
    return len(requests) / float(predict(requests, server)["sim_e2e_s"].max())


def _errors(server: ServerSection, requests: pd.DataFrame) -> dict[str, float]:
    replayed = predict(requests, server)
    simulated = _figures(replayed, "sim_ttft_s", "sim_e2e_s")
    measured = _figures(replayed, "ttft_s", "e2e_s")
    return {name: simulated[name] / measured[name] - 1 for name in LIMITS}


def _figures(requests: pd.DataFrame, ttft: str, e2e: str) -> dict[str, float]:
    tpot = (requests[e2e] - requests[ttft]) / (requests["output_tokens"] - 1)
    return {"TTFT p50": requests[ttft].median(), "TPOT mean": tpot.mean(), "E2E mean": requests[e2e].mean()}


def _is_beyond_limits(errors: Mapping[str, float]) -> bool:
    return any(abs(errors[name]) > limit for name, limit in LIMITS.items())
