"""Fit a server file to request logs. The oracle is the simulator itself: known parameters must come back."""

import functools
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from inframind.calibration import Fit, fit_server, fitted_toml, predict
from inframind.calibration.fit_continuation import MIN_OPEN
from inframind.calibration.fit_objective import MeasuredLog, Objective, run_log
from inframind.calibration.fit_options import assume
from inframind.calibration.pool_evidence import mean_errors
from inframind.calibration.step_estimates import estimate_steps, measured_times
from inframind.sim import SchedulerOptions, ServerOptions, ServerToFit, StepTime, load_pool, load_server
from inframind.sim.server_file import SchedulerToFit
from inframind.traces import ConfigError, TraceError

GPU = StepTime(
    fixed_s=0.012,
    prefill_token_s=5e-5,
    decode_s=4e-5,
    context_token_s=8e-8,
    prefill_pair_s=3e-9,
    free_prefill_tokens=40,
)
CPU = StepTime(
    fixed_s=0.035,
    prefill_token_s=1.2e-3,
    decode_s=1e-4,
    context_token_s=4e-6,
    prefill_pair_s=9e-7,
    free_prefill_tokens=5,
)
CLIENT_S = 0.015
LIVE_CPU = Path(__file__).parents[2] / "notebooks" / "data" / "live-cpu"
SCHEDULER = SchedulerOptions(
    max_num_seqs=128, max_num_batched_tokens=2048, num_blocks=20_000, max_model_len=8192, async_scheduling=False
)


def poisson(seed: int, num: int, rate_per_s: float, prompt: float = 500, output: float = 120) -> pd.DataFrame:
    """Lengths are lognormal around the given medians."""
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "arrival_s": np.cumsum(random.exponential(1 / rate_per_s, num)),
            "prompt_tokens": np.clip(random.lognormal(np.log(prompt), 0.8, num), 8, 6000).astype(np.int64),
            "output_tokens": np.clip(random.lognormal(np.log(output), 0.7, num), 1, 800).astype(np.int64),
        }
    )


def measured(
    requests: pd.DataFrame,
    steps: StepTime = GPU,
    scheduler: SchedulerOptions = SCHEDULER,
    *,
    noise: float = 0.02,
    client_s: float = CLIENT_S,
    **several: int,
) -> pd.DataFrame:
    """What a client would have measured of a server with these parameters."""
    calls = run_log(ServerOptions("server", "model", scheduler, steps, **several), requests).calls
    factor = 1 + noise * np.random.default_rng(0).standard_normal(len(requests))
    return requests.assign(ttft_s=calls["ttft_s"] * factor + client_s, e2e_s=calls["e2e_s"] * factor + client_s)


def to_fit(scheduler: SchedulerOptions = SCHEDULER, *unknown: str) -> ServerToFit:
    """A server file to be fitted, without the options that are unknown."""
    known = {name: value for name, value in asdict(scheduler).items() if name not in unknown}
    return ServerToFit(name="server", model="model", scheduler=SchedulerToFit(**known))


def dense(scheduler: SchedulerOptions = SCHEDULER, *unknown: str) -> ServerToFit:
    """The same of an LLM that is known to have no experts, which saves the search for them."""
    return to_fit(scheduler, *unknown).model_copy(update={"is_moe": False})


def fit(requests: pd.DataFrame, asked: ServerToFit | None = None) -> Fit:
    return fit_server({"log": requests}, asked or to_fit())


# Known parameters come back.


LOGS = {
    "gpu": (GPU, poisson(1, 300, 6)),
    "cpu": (CPU, poisson(1, 250, 0.3, prompt=250, output=40)),
}


@functools.cache
def known(name: str, noise: float = 0.0) -> tuple[pd.DataFrame, Fit]:
    """A log of a server with known parameters, and its fit."""
    steps, requests = LOGS[name]
    log = measured(requests, steps, noise=noise)
    return log, fit(log)


def parameters(steps: StepTime, client_s: float) -> dict[str, float]:
    return asdict(steps) | {"client_overhead_s": client_s}


@pytest.mark.parametrize("name", LOGS)
def test_known_parameters_come_back(name: str) -> None:
    """What makes up most of the times to a few per cent, all of them within what their standard errors say: of 14
    normal deviates, three beyond 2 or one beyond 4 have a chance of 2 %."""
    steps = LOGS[name][0]
    _, result = known(name)
    found = result.server.step_time
    truth = parameters(steps, CLIENT_S)
    fitted = parameters(result.server.options().step_time, result.server.client.overhead_s)
    off = {each: (fitted[each] - truth[each]) / error for each, error in result.std_errors.items()}

    assert found.fixed_s == pytest.approx(steps.fixed_s, rel=0.05)
    assert found.prefill_token_s == pytest.approx(steps.prefill_token_s, rel=0.08)
    assert result.server.client.overhead_s == pytest.approx(CLIENT_S, abs=0.2 * steps.fixed_s)
    assert all(abs(error) < 0.02 for error in result.quality[0].errors.values())
    assert result.std_errors["fixed_s"] < 0.05 * steps.fixed_s
    assert result.std_errors["prefill_token_s"] < 0.1 * steps.prefill_token_s
    assert max(map(abs, off.values())) < 4, off
    assert sum(abs(z) > 2 for z in off.values()) <= 2, off


MOE = StepTime(
    fixed_s=0.008,
    prefill_token_s=2e-5,
    decode_s=7e-5,
    context_token_s=5e-8,
    prefill_pair_s=1e-9,
    free_prefill_tokens=40,
    expert_s=0.018,
    expert_tokens=16.0,
)


def one_load_after_the_other(steps: StepTime, *loads: pd.DataFrame) -> pd.DataFrame:
    """What was measured of each, on a server that was idle before."""
    parts, start_s = [], 0.0
    for load in loads:
        part = measured(load, steps)
        parts.append(part.assign(arrival_s=part["arrival_s"] + start_s))
        start_s += float((part["arrival_s"] + part["e2e_s"]).max()) + 1.0
    return pd.concat(parts, ignore_index=True)


@pytest.mark.timeout(300)
def test_a_mixture_of_experts_is_known_by_its_small_steps() -> None:
    """Fitted on batches of 1 to some 60, and told to the person. Without experts a moderate load is 20 % off."""
    log = one_load_after_the_other(MOE, poisson(10, 15, 0.2), poisson(11, 50, 2), poisson(12, 100, 15))
    moderate = measured(poisson(2, 150, 4), MOE)

    result = fit(log)

    found = result.server.step_time
    errors = mean_errors(predict(moderate, result.server))
    assert any("mixture of experts" in remark for remark in result.remarks), result.remarks
    assert found.expert_s == pytest.approx(MOE.expert_s, rel=0.3)
    assert 8 < found.expert_tokens < 32
    assert all(abs(error) < 0.05 for error in errors.values()), errors


def test_a_known_mixture_of_experts_is_fitted_as_one() -> None:
    """Its log has no small steps to show them. Without that knowledge a light load is predicted a third too slow."""
    result = fit(measured(poisson(1, 120, 10), MOE), to_fit().model_copy(update={"is_moe": True}))

    assert result.server.step_time.expert_s == pytest.approx(MOE.expert_s, rel=0.3)
    errors = mean_errors(predict(measured(poisson(2, 60, 0.5), MOE), result.server))
    assert all(abs(error) < 0.15 for error in errors.values()), errors


@pytest.mark.parametrize("name", LOGS)
def test_a_dense_model_has_no_experts(name: str) -> None:
    _, result = known(name)

    assert result.server.step_time.expert_s == 0
    assert "expert" not in fitted_toml(result.server)


def test_a_real_dense_model_has_none_either() -> None:
    """48 calls in an overload, of which nothing explains much: experts leave a third less of the error, but all by a
    few calls."""
    calls = pd.read_parquet(LIVE_CPU / "live" / "random.edf.180.mixed.0" / "calls.parquet")
    calls = calls[calls["server"] == "half"].sort_values("arrival_s")
    (known,) = (server for server in load_pool(LIVE_CPU / "pool.toml", Path()).servers if server.name == "half")
    scheduler = SchedulerToFit(**known.scheduler.model_dump())

    result = fit(calls, ServerToFit(name="half", model=known.model, scheduler=scheduler))

    assert result.server.step_time.expert_s == 0
    assert not any("expert" in remark for remark in result.remarks)


@pytest.mark.parametrize("name", LOGS)
def test_the_search_gets_to_the_minimum(name: str) -> None:
    """The cost where it ends is about that at the truth or less, both averaged over the jumps around them."""
    steps = LOGS[name][0]
    log, result = known(name)
    times = measured_times(log, SCHEDULER.block_size, has_prefix_caching=False)
    objective = Objective([MeasuredLog("log", log, times)], estimate_steps([times], SCHEDULER.max_num_batched_tokens))
    options = ServerOptions("server", "model", SCHEDULER, steps)
    random = np.random.default_rng(0)

    def in_order(steps: StepTime, client_s: float) -> NDArray[np.float64]:
        share = steps.free_prefill_tokens * steps.prefill_token_s / steps.fixed_s
        fields = (steps.fixed_s, steps.prefill_token_s, steps.decode_s, steps.context_token_s, steps.prefill_pair_s)
        return np.array([*fields, share, steps.expert_s, steps.expert_tokens, client_s])

    def cost(center: NDArray[np.float64]) -> float:
        around = center * (1 + 0.003 * random.standard_normal((20, len(center))))
        mean = np.mean([objective.residuals(objective.simulate(options, each), each) for each in around], axis=0)
        return float(mean @ mean)

    truth = in_order(steps, CLIENT_S)
    objective.reweigh(objective.simulate(options, truth))
    assert cost(in_order(result.server.options().step_time, result.server.client.overhead_s)) <= 1.5 * cost(truth)


def test_a_thousandth_more_or_less_changes_a_fit_little() -> None:
    """Other rounding, another machine: what is predicted stays the same within 1 %."""
    log, result = known("gpu")
    factor = 1 + 0.001 * np.random.default_rng(1).standard_normal((len(log), 2))

    other = fit(log.assign(ttft_s=log["ttft_s"] * factor[:, 0], e2e_s=log["e2e_s"] * factor[:, 1]))

    # So many that the means of one replay do not jump themselves.
    long = measured(poisson(2, 2000, 6), noise=0.0)
    now, then = (mean_errors(predict(long, each.server)) for each in (result, other))
    assert all(abs(now[name] - then[name]) < 0.01 for name in now), (now, then)


def test_a_fit_predicts_loads_that_it_has_not_seen() -> None:
    """Fitted at a moderate load, right at twice that load and with other lengths."""
    server = fit(measured(poisson(1, 300, 5))).server

    heavier = predict(measured(poisson(2, 300, 10, prompt=300), noise=0), server)

    assert all(abs(error) < 0.05 for error in mean_errors(heavier).values())


def test_five_per_cent_stragglers_change_little() -> None:
    """Of every twenty requests one took several times as long, for reasons of its own."""
    clean = measured(poisson(1, 300, 5))
    slow = np.random.default_rng(3).random(len(clean)) < 0.05
    delay = np.where(slow, 3 * clean["e2e_s"].mean(), 0.0)

    slowed = clean.assign(ttft_s=clean["ttft_s"] + delay, e2e_s=clean["e2e_s"] + delay)
    server = fit(slowed).server

    assert server.step_time.expert_s == 0
    assert all(abs(error) < 0.03 for error in mean_errors(predict(clean, server)).values())


@functools.cache
def short() -> tuple[pd.DataFrame, Fit]:
    """A log of few requests, and its fit."""
    log = measured(poisson(1, 40, 5))
    return log, fit(log)


def test_a_fit_is_the_same_each_time() -> None:
    log, result = short()

    assert fitted_toml(fit(log).server) == fitted_toml(result.server)


def test_several_logs_are_separate_runs_of_one_server() -> None:
    light, heavy = measured(poisson(1, 100, 1)), measured(poisson(2, 150, 8))

    result = fit_server({"light": light, "heavy": heavy}, dense())

    assert [(log.name, log.num_requests) for log in result.quality] == [("light", 100), ("heavy", 150)]
    assert result.server.step_time.fitted_on is not None
    assert result.server.step_time.fitted_on.requests is not None
    assert result.server.step_time.fitted_on.requests.logs == ("light", "heavy")
    for log in (light, heavy):
        assert all(abs(error) < 0.04 for error in mean_errors(predict(log, result.server)).values())


# What a log does not tell.


def test_one_request_length_does_not_tell_the_cost_of_a_prompt_token() -> None:
    """The remarks say so, and the parameters are physical all the same."""
    alike = poisson(1, 150, 2).assign(prompt_tokens=400, output_tokens=100)

    result = fit(measured(alike))

    assert {"prefill_pair_s", "free_prefill_tokens"} <= set(result.not_identified)
    assert any(remark.startswith("prefill_pair_s is not identified") for remark in result.remarks)
    assert result.server.step_time.prefill_pair_s == pytest.approx(
        5e-5 * result.server.step_time.prefill_token_s, rel=0.5
    )
    assert all(abs(error) < 0.02 for error in mean_errors(predict(measured(alike), result.server)).values())


def test_one_request_at_a_time_does_not_tell_the_cost_of_a_batch() -> None:
    alone = poisson(1, 60, 1).assign(arrival_s=np.arange(60) * 30.0)

    result = fit(measured(alone))

    assert "decode_s" in result.not_identified
    assert result.server.step_time.decode_s == pytest.approx(0.003 * result.server.step_time.fixed_s, rel=0.1)


def test_outputs_of_one_token_fit_too() -> None:
    log = measured(poisson(1, 150, 2).assign(output_tokens=1))

    result = fit(log)

    assert "TPOT" not in result.quality[0].errors
    assert abs(result.quality[0].errors["TTFT"]) < 0.02


# Options that are not given.


def test_the_size_of_a_kv_cache_that_limits_is_found() -> None:
    scheduler = replace(SCHEDULER, num_blocks=1500)
    log = measured(poisson(1, 150, 12), scheduler=scheduler)

    result = fit(log, dense(scheduler, "num_blocks"))

    assert result.server.scheduler.num_blocks == pytest.approx(1500, rel=0.08)
    assert any(remark.startswith("num_blocks is not given") for remark in result.remarks)


def test_a_kv_cache_that_does_not_limit_is_said_to_be_unknown() -> None:
    result = fit(measured(poisson(1, 100, 2)), to_fit(SCHEDULER, "num_blocks"))

    assert result.server.scheduler.num_blocks == 1 + 128 * 8192 // 16
    assert any("no limit by the KV cache" in remark for remark in result.remarks)


def test_a_limit_of_slots_is_found() -> None:
    scheduler = replace(SCHEDULER, max_num_seqs=8)
    log = measured(poisson(1, 200, 5), scheduler=scheduler)

    result = fit(log, dense(scheduler, "max_num_seqs"))

    assert result.server.scheduler.max_num_seqs == 8


@pytest.mark.parametrize("is_async", [True, False])
def test_asynchronous_scheduling_is_found(is_async: bool) -> None:
    """Without it, a request waits for one step less."""
    scheduler = replace(SCHEDULER, async_scheduling=is_async)
    log = measured(poisson(1, 250, 6), scheduler=scheduler)

    result = fit(log, dense(scheduler, "async_scheduling"))

    assert result.server.scheduler.async_scheduling is is_async
    assert any(remark.startswith("async_scheduling is not given") for remark in result.remarks)


def test_asynchronous_scheduling_is_the_default_where_the_logs_do_not_tell() -> None:
    """One request at a time, of one token each: when the next step is scheduled makes no difference."""
    log = measured(pd.DataFrame({"arrival_s": np.arange(40.0), "prompt_tokens": 100, "output_tokens": 1}))

    result = fit(log, to_fit(SCHEDULER, "async_scheduling"))

    assert result.server.scheduler.async_scheduling is True
    assert any("as by default on GPUs; the logs do not tell" in remark for remark in result.remarks)


def test_vllms_defaults_stand_in_with_a_statement() -> None:
    result = fit(measured(poisson(1, 60, 2)), to_fit(SCHEDULER, "max_num_batched_tokens", "max_model_len"))

    assert result.server.scheduler.max_num_batched_tokens == 8192
    assert result.server.scheduler.max_model_len >= 1024
    said = " ".join(result.remarks)
    assert "max_num_batched_tokens is not given: 8192" in said
    assert "max_model_len is not given" in said


@pytest.mark.parametrize("is_moe", [True, False])
def test_more_at_a_time_than_one_engine_may_run_are_several_engines(is_moe: bool) -> None:
    """In lockstep or not: the times tell which."""
    scheduler = replace(SCHEDULER, max_num_seqs=10)
    log = measured(poisson(1, 120, 12), scheduler=scheduler, data_parallel_size=2, is_moe=is_moe)

    result = fit(log, to_fit(scheduler))

    assert (result.server.data_parallel_size, result.server.is_moe) == (2, is_moe)
    assert any("data_parallel_size = 2" in remark for remark in result.remarks)
    assert all(abs(error) < 0.03 for error in mean_errors(predict(log, result.server)).values())


def test_a_request_that_was_held_up_outside_the_server_makes_no_second_engine() -> None:
    """Its client read late: it seems to run for half of the log, beside as many others as there are slots."""
    scheduler = replace(SCHEDULER, max_num_seqs=4)
    log = measured(poisson(1, 60, 8), scheduler=scheduler)
    log.loc[5, "e2e_s"] += log["arrival_s"].max() / 2
    estimate = estimate_steps([measured_times(log, 16, has_prefix_caching=False)], 2048)

    assert assume(to_fit(scheduler), estimate, 8000).data_parallel_size == 1


def test_options_that_do_not_go_together_are_a_mistake() -> None:
    """One line for each, and nothing of how it was found."""
    with pytest.raises(ConfigError) as caught:
        fit(measured(poisson(1, 60, 2)), to_fit(replace(SCHEDULER, max_num_batched_tokens=64)))

    assert str(caught.value).splitlines() == [
        "server 'server': 1 problem",
        "  scheduler: max_num_batched_tokens (64) < max_num_seqs (128)",
    ]


# Logs that are not whole.


def test_requests_without_times_load_the_server() -> None:
    """Every third one was measured; the others were there all the same."""
    log = measured(poisson(1, 210, 8))
    partly = log.assign(ttft_s=log["ttft_s"].where(log.index % 3 == 0), e2e_s=log["e2e_s"].where(log.index % 3 == 0))

    result = fit(partly, dense())

    assert any("140 requests without times" in remark for remark in result.remarks)
    assert all(abs(error) < 0.03 for error in mean_errors(predict(log, result.server)).values())


@pytest.mark.parametrize(("seed", "rate_per_s"), [(3, 15), (5, 25)])
def test_a_log_may_end_before_the_load_did(seed: int, rate_per_s: float) -> None:
    """The first half of an overload: the second half slowed it down, and is in no log."""
    log = measured(poisson(seed, 300, rate_per_s))

    result = fit(log[:150], dense())

    assert any("came after" in remark for remark in result.remarks)
    rest = predict(log, result.server)[150:]
    assert all(abs(error) < 0.06 for error in mean_errors(rest).values()), mean_errors(rest)


@pytest.mark.parametrize("span_s", [13, 1])
def test_of_a_whole_load_that_left_many_open_nothing_is_missing(span_s: float) -> None:
    """Such a log, whole, and all at once: what follows the last arrival is quicker and quicker."""
    requests = poisson(3, 200, 15)
    log = measured(requests.assign(arrival_s=requests["arrival_s"] * span_s / requests["arrival_s"].max()))
    assert float(((log["arrival_s"] + log["e2e_s"]) > log["arrival_s"].max()).mean()) > MIN_OPEN

    result = fit(log, dense())

    assert not any("came after" in remark for remark in result.remarks)
    assert all(abs(error) < 0.02 for error in mean_errors(predict(log, result.server)).values())


@pytest.mark.parametrize("noise", [0.02, 0.1])
def test_nor_beside_another_log(noise: float) -> None:
    """Each log is judged by its own times, whatever the others are."""
    burst = measured(poisson(3, 100, 300), noise=noise)

    result = fit_server({"load": measured(poisson(1, 150, 6), noise=noise), "burst": burst}, dense())

    assert not any("came after" in remark for remark in result.remarks)


def test_too_few_measured_requests_are_a_mistake() -> None:
    log = measured(poisson(1, 30, 2))
    few = log.assign(ttft_s=log["ttft_s"].where(log.index < 5))

    with pytest.raises(TraceError, match="5 of 30 requests have ttft_s and e2e_s"):
        fit(few)


def test_times_of_0_were_not_measured() -> None:
    with pytest.raises(TraceError, match="0 of 30 requests have ttft_s and e2e_s greater than 0"):
        fit(poisson(1, 30, 2).assign(ttft_s=0.0, e2e_s=0.0))


def test_what_a_fit_cannot_explain_is_said() -> None:
    """First tokens that came ten times as late as the server gave them, with nobody else there."""
    log = measured(poisson(1, 60, 1).assign(arrival_s=np.arange(60) * 30.0))
    late = log.assign(ttft_s=log["ttft_s"] + 20 * (log.index % 3 == 0))

    result = fit(late.assign(e2e_s=late["ttft_s"] + log["e2e_s"] - log["ttft_s"]))

    assert any("mean TTFT is off by" in remark for remark in result.remarks)


def test_a_log_without_measured_columns_is_a_mistake() -> None:
    with pytest.raises(TraceError, match="ttft_s: missing column"):
        fit(poisson(1, 30, 2))


# The file.


def test_a_fitted_server_reads_back(tmp_path: Path) -> None:
    _, result = short()
    path = tmp_path / "fitted.toml"
    path.write_text(fitted_toml(result.server))

    server = load_server(path)

    assert server.step_time.fixed_s == pytest.approx(result.server.step_time.fixed_s, rel=1e-5)
    assert server.client.overhead_s == pytest.approx(result.server.client.overhead_s, rel=1e-5)
    assert set(server.step_time.std_error) <= {
        "fixed_s",
        "prefill_token_s",
        "decode_s",
        "context_token_s",
        "prefill_pair_s",
        "free_prefill_tokens",
    }
