"""Logs against a server file: by hand, with a known truth, on public runs."""

import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from inframind.calibration import LogCheck, as_document, check_logs, headline, predict, read_logs
from inframind.calibration.check import in_flight
from inframind.calibration.fingerprint import fingerprints
from inframind.sim import ServerSection
from inframind.traces import TraceError, read_requests

STEP_TIME = {"fixed_s": 0.01, "prefill_token_s": 2e-5, "decode_s": 1e-4, "context_token_s": 1e-7}
FOUR = """arrival_s,prompt_tokens,output_tokens,ttft_s,e2e_s
0,10,2,1,2
0.5,10,3,2,4
10,10,1,1,1
10.25,10,5,2,6
"""


def server(step_time: Mapping[str, float] | None = None, **scheduler: object) -> ServerSection:
    """By default one request at a time, a token a second."""
    return ServerSection.model_validate(
        {
            "name": "slow",
            "model": "tiny",
            "scheduler": {"max_num_seqs": 1, "num_blocks": 100, "max_model_len": 1000, "async_scheduling": False}
            | scheduler,
            "step_time": step_time or {"fixed_s": 1.0, "prefill_token_s": 0.0, "decode_s": 0.0},
        }
    )


def batching(**step_time: float) -> ServerSection:
    """A server of some size, with the step times of a GPU."""
    return server({**STEP_TIME, **step_time}, max_num_seqs=32, num_blocks=4000, max_model_len=4096)


def a_load(seed: int, *, num: int = 300, rate_per_s: float = 4.0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "arrival_s": np.cumsum(rng.exponential(1 / rate_per_s, num)),
            "prompt_tokens": rng.integers(50, 1000, num),
            "output_tokens": rng.integers(1, 300, num),
        }
    )


def measured(requests: pd.DataFrame, of: ServerSection) -> pd.DataFrame:
    """A log that the simulator made."""
    predicted = predict(requests, of)
    return requests.assign(ttft_s=predicted["sim_ttft_s"], e2e_s=predicted["sim_e2e_s"])


def write(folder: Path, rows: "str | pd.DataFrame", name: str = "log.csv") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(rows if isinstance(rows, str) else rows.to_csv(index=False))
    return path


def with_column(name: str, *values: str) -> str:
    return pd.read_csv(io.StringIO(FOUR)).assign(**{name: list(values)}).to_csv(index=False)


def check(path: Path, of: ServerSection, *repeats: list[Path]) -> LogCheck:
    paths = [path, *(each for group in repeats for each in group)]
    return check_logs(read_logs(paths, of), of, repeats=repeats)[0]


def error(checked: LogCheck, metric: str, statistic: str = "mean") -> float:
    return checked.whole.metrics[metric].comparison.relative_error[statistic]


# By hand.


def test_four_requests_by_hand(tmp_path: Path) -> None:
    """Predicted TTFT 1, 2.5, 1, 1.75 and E2E 2, 4.5, 1, 5.75."""
    checked = check(write(tmp_path, FOUR), server())

    ttft, tpot, e2e = (checked.whole.metrics[metric].comparison for metric in ("ttft_s", "tpot_s", "e2e_s"))
    assert ttft.predicted["mean"] == pytest.approx(6.25 / 4)
    assert ttft.relative_error["mean"] == pytest.approx(6.25 / 6 - 1)
    assert e2e.relative_error["mean"] == pytest.approx(13.25 / 13 - 1)
    assert e2e.bias_s == pytest.approx(0.0625)
    # The third has one token, so no time per token.
    assert tpot.num_requests == 3
    assert (tpot.observed["mean"], tpot.predicted["mean"]) == (pytest.approx(1.0), pytest.approx(1.0))
    assert checked.rows["in_flight"].tolist() == [0, 1, 0, 1]


def test_in_flight_is_who_came_before_and_is_not_done() -> None:
    rows = pd.DataFrame({"arrival_s": [0.0, 1.0, 1.0, 2.0, 5.0], "e2e_s": [2.0, 9.0, math.nan, 1.0, 1.0]})

    # The third has no end and counts for none; at 2 s the first is just done; at 5 s only the second is left.
    assert in_flight(rows).tolist() == [0, 1, 2, 1, 1]


# A known truth.


def test_the_server_that_made_the_log_is_predicted_without_error(tmp_path: Path) -> None:
    checked = check(write(tmp_path, measured(a_load(1), batching())), batching())

    for metric in ("ttft_s", "tpot_s", "e2e_s"):
        comparison = checked.whole.metrics[metric].comparison
        assert comparison.relative_error == pytest.approx(dict.fromkeys(comparison.observed, 0.0), abs=1e-9)
        assert comparison.rank_correlation == pytest.approx(1.0)
    assert headline([checked]).startswith("E2E mean predicted to within 0.05 % on log; ")


@pytest.mark.parametrize(("parameter", "metric"), [("fixed_s", "tpot_s"), ("prefill_token_s", "ttft_s")])
@pytest.mark.parametrize("factor", [0.7, 1.3])
def test_a_step_time_that_is_30_percent_off_is_seen(tmp_path: Path, parameter: str, metric: str, factor: float) -> None:
    """And with its sign; the error is far beyond what is not known of it."""
    log = write(tmp_path, measured(a_load(1), batching()))

    checked = check(log, batching(**{parameter: factor * STEP_TIME[parameter]}))

    found = checked.whole.metrics[metric]
    assert abs(error(checked, metric)) > 0.03
    assert (error(checked, metric) > 0) == (factor > 1)
    end = found.error_interval.low if factor > 1 else found.error_interval.high
    assert (end["mean"] > 0) == (factor > 1)


def test_a_client_that_waits_for_answers_waits_for_the_simulated_ones_too(tmp_path: Path) -> None:
    """A tenth too slow is a tenth too slow, although each request was sent when the measured one before it ended."""
    lengths = pd.DataFrame({"arrival_s": 0.0, "prompt_tokens": [100, 500] * 10, "output_tokens": [50, 1] * 10})
    log = measured(lengths.assign(closed_loop=1), batching())
    log["arrival_s"] = log["e2e_s"].cumsum() - log["e2e_s"]

    checked = check(write(tmp_path, log), batching(**{name: 1.1 * value for name, value in STEP_TIME.items()}))

    for metric in ("ttft_s", "tpot_s", "e2e_s"):
        assert error(checked, metric) == pytest.approx(0.1, abs=1e-3)


# Spread.


def test_a_load_that_was_measured_twice_shows_the_servers_own_spread(tmp_path: Path) -> None:
    first = write(tmp_path, FOUR, "first.csv")
    second = write(tmp_path, FOUR.replace("10,5,2,6", "10,5,2,7"), "second.csv")

    checks = check_logs(read_logs([first, second], server()), server(), repeats=[[first, second]])

    assert [checked.name for checked in checks] == ["first", "second"]
    for checked in checks:
        spread = checked.whole.metrics["e2e_s"].spread
        assert (spread.kind, spread.num_runs) == ("repeats", 2)
        assert spread.interval.high["mean"] == pytest.approx((14 - 13) / 13.5)
        assert checked.notes == ()
    # (14 - 13.25) / 14 is the larger of the two errors.
    assert headline(checks) == (
        "E2E mean predicted 5.4 % low on second, the worst of 2 logs; the server's own spread is 7.4 %."
    )


def test_a_load_that_was_measured_once_has_a_sampling_error_that_is_called_so(tmp_path: Path) -> None:
    checked = check(write(tmp_path, FOUR), server())

    assert checked.whole.metrics["e2e_s"].spread.kind == "sampling"
    assert "run-to-run spread was not measured (sampling error of the observed mean: " in headline([checked])


def test_repeats_that_are_another_load_are_told(tmp_path: Path) -> None:
    first = write(tmp_path, FOUR, "first.csv")
    second = write(tmp_path, FOUR.replace("0.5,10", "0.5,900"), "second.csv")

    checked = check(first, server(), [first, second])

    assert checked.notes == ("Its repeats are not the same load: they differ by more than 10 % in mean prompt.",)


@pytest.mark.parametrize("again", ["heavy-repeat", "heavy#2"])
def test_conditions_stand_by_themselves_and_their_repeats_together(tmp_path: Path, again: str) -> None:
    rows = pd.concat([a_load(1, num=20), a_load(1, num=20), a_load(2, num=20, rate_per_s=0.2)])
    rows["arrival_s"] += np.repeat([0.0, 100.0, 200.0], 20)
    log = measured(rows.reset_index(drop=True), batching())
    log["condition"] = np.repeat(["heavy#1" if "#" in again else "heavy", again, "light"], 20)
    log.loc[20:39, ["ttft_s", "e2e_s"]] *= 1.1

    checked = check(write(tmp_path, log), batching())

    heavy, light = checked.conditions
    assert (heavy.name, heavy.num_requests, light.name, light.num_requests) == ("heavy", 40, "light", 20)
    assert heavy.metrics["e2e_s"].spread.kind == "repeats"
    assert heavy.metrics["e2e_s"].spread.interval.high["mean"] == pytest.approx(0.1 / 1.05, rel=1e-3)
    assert light.metrics["e2e_s"].spread.kind == "sampling"
    assert light.metrics["e2e_s"].comparison.relative_error["mean"] == pytest.approx(0.0, abs=1e-6)
    assert heavy.metrics["e2e_s"].comparison.relative_error["mean"] == pytest.approx(1 / 1.05 - 1, rel=1e-3)
    assert checked.whole.metrics["e2e_s"].spread.kind == "sampling"


def test_a_log_of_one_repeated_condition_has_its_spread(tmp_path: Path) -> None:
    log = pd.read_csv(write(tmp_path, FOUR)).assign(condition=["a", "a", "a-repeat", "a-repeat"])

    checked = check(write(tmp_path, log), server())

    assert checked.conditions == ()
    assert checked.whole.metrics["ttft_s"].spread.kind == "repeats"


def test_warm_up_is_replayed_but_not_compared(tmp_path: Path) -> None:
    log = pd.read_csv(write(tmp_path, FOUR)).assign(condition=["warm-up", "a", "a", "a"])

    checked = check(write(tmp_path, log), server())

    comparison = checked.whole.metrics["ttft_s"].comparison
    assert comparison.num_requests == 3
    # 2.5: the second waits for the warm-up.
    assert comparison.predicted["mean"] == pytest.approx((2.5 + 1 + 1.75) / 3)
    assert checked.notes == ("1 requests of the warm-up are replayed, but not compared.",)


# What a reader must know.


def test_what_is_not_compared_is_counted(tmp_path: Path) -> None:
    log = pd.read_csv(write(tmp_path, FOUR)).assign(model="other")
    log.loc[1, "e2e_s"] = math.nan
    of = server().model_copy(update={"max_num_queued_reqs": 1})

    checked = check(write(tmp_path, log), of)

    assert checked.notes == (
        "The log is of the model other, the server file of tiny.",
        "1 of 4 requests lack a measured time; they are replayed, but not compared.",
        "The simulated server did not serve 2 of 4 requests: 2 rejected: max_num_queued_reqs.",
    )
    assert checked.whole.metrics["e2e_s"].comparison.num_requests == 2


def test_samples_beside_a_log_are_used(tmp_path: Path) -> None:
    write(tmp_path, "time_s,server,waiting,running,kv_usage\n0,x,1,1,0.5\n1,x,0,1,0.5\n", "samples.csv")

    checked = check(write(tmp_path, FOUR), server())

    assert checked.observed_samples["waiting"].tolist() == [1, 0]
    assert checked.predicted_samples["running"].max() == 1
    assert checked.notes == ()


def test_of_several_servers_samples_those_of_this_one_are_used(tmp_path: Path) -> None:
    text = "time_s,server,waiting,running,kv_usage\n0,slow,1,1,0.5\n0,fast,7,7,0.5\n"
    write(tmp_path, text, "samples.csv")

    assert check(write(tmp_path, FOUR), server()).observed_samples["waiting"].tolist() == [1]


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("time_s,running\n0,1\n", "samples.csv beside the log cannot be used, so its queues are not shown"),
        ("time_s,server,waiting,running\n0,a,1,1\n0,b,1,1\n", "samples.csv has nothing on slow"),
        (
            "time_s;waiting;running\n0,5;1;1\n",
            "samples.csv beside the log cannot be used, so its queues are not shown: "
            "line 1: columns seem to be separated by semicolons; commas are expected",
        ),
    ],
)
def test_samples_that_cannot_be_used_are_told(tmp_path: Path, text: str, note: str) -> None:
    write(tmp_path, text, "samples.csv")

    checked = check(write(tmp_path, FOUR), server())

    assert checked.observed_samples.empty
    assert checked.notes[0].startswith(note)


@pytest.mark.parametrize("torn", ["1,slo\n", "1,slow,5,1\n", "1,slow,1,sl2,slow,0,1,0.5\n", "1,sl2,slow,0,1,0.5\n"])
def test_samples_that_a_crash_tore_are_left_out_and_told(tmp_path: Path, torn: str) -> None:
    """The last of a run, or with the first of the next one behind it."""
    text = f"time_s,server,waiting,running,kv_usage\n0,slow,1,1,0.5\n{torn}3,slow,0,1,0.5\n"
    write(tmp_path, text, "samples.csv")

    checked = check(write(tmp_path, FOUR), server())

    assert checked.observed_samples["time_s"].tolist() == [0.0, 3.0]
    assert checked.observed_samples["waiting"].tolist() == [1.0, 0.0]
    assert checked.notes == ("1 of 3 rows of samples.csv are not whole and left out.",)


def test_samples_beside_two_logs_are_nobodys(tmp_path: Path) -> None:
    write(tmp_path, "time_s,server,waiting,running,kv_usage\n0,x,1,1,0.5\n", "samples.csv")
    logs = [write(tmp_path, FOUR, name) for name in ("a.csv", "b.csv")]

    checks = check_logs(read_logs(logs, server()), server())

    assert all(checked.observed_samples.empty for checked in checks)
    assert checks[0].notes == ("samples.csv lies beside more than one log, so its queues are not shown.",)


def test_logs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    logs = [write(tmp_path, FOUR, name) for name in ("a/requests.csv", "b/requests.csv", "Llama-3.1-8B.csv")]

    names = [checked.name for checked in check_logs(read_logs(logs, server()), server())]

    assert names == ["a", "b", "Llama-3.1-8B"]


# Bad input.


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("arrival_s,prompt_tokens,output_tokens,e2e_s\n0,1,1,1\n", "ttft_s: no measured times to check against"),
        ("arrival_s,prompt_tokens,output_tokens,ttft_s,e2e_s\n0,1,1,1,\n", "e2e_s: no measured times to check against"),
        (FOUR.replace("0.5,10", "0.5,1000"), "line 3, prompt_tokens: must be less than max_model_len (1000), got 1000"),
        (
            FOUR.replace("0.5,10", "0.5,998"),
            "line 3: prompt_tokens (998) + output_tokens (3) must be at most max_model_len (1000) of slow",
        ),
        ("prompt_tokens,output_tokens,ttft_s,e2e_s\n1,1,1,1\n", "arrival_s: missing column"),
        (with_column("model", "a", "a", "b", "b"), "model: one server serves one model, the log has a, b"),
        (with_column("server", "a", "a", "b", "b"), "server: holds a, b, and the server file is of 'slow'"),
        # As of a run whose policy sent all calls to another server of the pool.
        (with_column("server", "a", "a", "a", "a"), "server: holds a, and the server file is of 'slow'"),
    ],
)
def test_a_log_that_does_not_fit_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(TraceError) as caught:
        read_logs([write(tmp_path, text)], server())

    assert problem in str(caught.value)


# The document.


def keys(value: Any, path: str = "") -> set[str]:
    """Every key of a JSON document, with where it stands."""
    if isinstance(value, dict):
        return {f"{path}{key}" for key in value} | {k for key in value for k in keys(value[key], f"{path}{key}.")}
    return {key for item in value for key in keys(item, path)} if isinstance(value, list) else set()


def test_readers_of_the_document_find_the_same_keys_in_each_release(tmp_path: Path) -> None:
    """Adding keys is fine; a key that goes or changes its meaning needs another schema_version."""
    of_statistics = ("mean", "p50", "p90", "p99")
    of_metric = {
        *("requests", "bias_s", "mean_abs_error_s", "mape", "median_ape", "rank_correlation", "spread.kind"),
        "spread.runs",
        *(f"{name}.{each}" for name in ("observed_s", "predicted_s", "relative_error") for each in of_statistics),
        *(
            f"{name}.{end}.{each}"
            for name in ("relative_error_95", "spread")
            for end in ("low", "high")
            for each in of_statistics
        ),
    }
    expected = {
        *("schema_version", "headline", "server.name", "server.model", "logs.log", "logs.in_sample"),
        *("logs.extrapolates", "logs.notes", "logs.name", "logs.requests", "logs.conditions.name"),
        "logs.conditions.requests",
        *(
            f"logs.{of}metrics.{m}.{k}"
            for of in ("", "conditions.")
            for m in ("ttft_s", "tpot_s", "e2e_s")
            for k in of_metric
        ),
    }
    log = pd.read_csv(write(tmp_path, FOUR)).assign(condition=["a", "a", "b", "b"])

    document = as_document([check(write(tmp_path, log), server())], server())

    assert document["schema_version"] == 1
    assert expected <= keys(document)


def test_the_document_is_plain_json(tmp_path: Path) -> None:
    """A figure that does not exist is null: NaN is no JSON."""
    one = "arrival_s,prompt_tokens,output_tokens,ttft_s,e2e_s\n0,10,1,1,1\n"
    document = as_document([check(write(tmp_path, one), server())], server())

    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["logs"][0]["metrics"]["tpot_s"]["observed_s"]["mean"] is None
    assert document["logs"][0]["metrics"]["e2e_s"]["spread"]["kind"] == "unknown"


def test_progress_counts_the_requests_of_all_logs(tmp_path: Path) -> None:
    logs = read_logs([write(tmp_path, FOUR, name) for name in ("a.csv", "b.csv")], server())
    told: list[int] = []

    check_logs(logs, server(), on_progress=told.append)

    assert told == sorted(told)
    assert 4 <= max(told) <= 8


# Public runs.


def test_a_public_run_is_checked_as_it_is(shared_data: Path) -> None:
    """Llama-3.1-8B on an RTX 4090 under overload, with step times by hand: the format is read without conversion."""
    log = shared_data / "llmservingsim_vllm_bench" / "RTX4090__Llama-3.1-8B__requests.jsonl"
    step_time = {"fixed_s": 0.018, "prefill_token_s": 1e-4, "decode_s": 2e-5, "context_token_s": 1.3e-7}
    by_hand = server(
        step_time,
        max_num_seqs=256,
        max_num_batched_tokens=2048,
        num_blocks=2588,
        max_model_len=32768,
        async_scheduling=True,
    )

    checked = check(log, by_hand)

    assert checked.whole.num_requests == 300
    assert abs(error(checked, "e2e_s")) < 0.05
    assert checked.whole.metrics["e2e_s"].comparison.rank_correlation > 0.99


def test_spans_of_opentelemetry_are_checked_after_renaming_two_columns(shared_data: Path, tmp_path: Path) -> None:
    """Llama-2-7b on an H100, step times by hand."""
    spans = pd.read_csv(shared_data / "blis_vllm_otel_jan2026" / "jan21-llama7b-train-1.csv")
    log = spans.rename(columns={"completion_tokens": "output_tokens", "start_s": "arrival_s"}).sort_values("arrival_s")
    step_time = {"fixed_s": 0.0062, "prefill_token_s": 2.18e-5, "decode_s": 4e-5, "context_token_s": 1.5e-7}
    by_hand = server(
        step_time,
        max_num_seqs=256,
        max_num_batched_tokens=2048,
        num_blocks=7000,
        max_model_len=4096,
        async_scheduling=True,
    )

    checked = check(write(tmp_path, log), by_hand)

    assert checked.whole.num_requests == len(spans) == 282
    assert abs(error(checked, "e2e_s")) < 0.05
    assert checked.whole.metrics["e2e_s"].comparison.rank_correlation > 0.95


def test_of_a_pools_log_the_requests_of_this_server_are_checked(tmp_path: Path) -> None:
    checked = check(write(tmp_path, with_column("server", "slow", "x", "x", "y")), server())

    assert checked.whole.num_requests == 1


# What the fit has seen.


def fitted_on(*logs: pd.DataFrame, max_num_running: int = 1) -> ServerSection:
    requests = {
        "logs": ["log.csv"] * len(logs),
        "fingerprints": [each for log in logs for each in fingerprints(log)],
        **{"max_rate_per_s": 100.0, "max_prompt_tokens": 5000, "max_output_tokens": 5000},
        "max_num_running": max_num_running,
        "errors": {},
    }
    source = {
        **{"source": "logs", "licence": "none", "num_points": 4, "error_p50": 0.0, "error_p95": 0.0},
        **{"max_prefill_tokens": 5000, "max_num_decodes": 5000, "max_context_tokens": 50_000, "requests": requests},
    }
    step_time = {"fixed_s": 1.0, "prefill_token_s": 0.0, "decode_s": 0.0, "fitted_on": source}
    return server(step_time, max_num_seqs=2)


def test_a_log_of_the_fit_is_in_sample_whatever_its_name(tmp_path: Path) -> None:
    """And the headline speaks of the others."""
    seen = write(tmp_path, FOUR, "seen.csv")
    new = write(tmp_path, FOUR.replace("10,5,2,6", "10,5,2,7"), "log.csv")
    of = fitted_on(read_requests(seen), max_num_running=2)

    checks = check_logs(read_logs([new, seen], of), of)

    assert [checked.in_sample for checked in checks] == [False, True]
    assert " on log; " in headline(checks)
    assert " on seen, in sample: the server file was fitted on it; " in headline(checks[1:])


def test_a_condition_of_a_log_of_the_fit_is_in_sample(tmp_path: Path) -> None:
    """Cut out of the profile's folder into a file of its own."""
    whole = pd.read_csv(write(tmp_path, FOUR)).assign(condition=["a", "a", "b", "b"])
    of = fitted_on(whole)
    logs = [
        write(tmp_path, whole[whole["condition"] == "b"].drop(columns="condition"), "b.csv"),
        write(tmp_path, whole[1:3], "both.csv"),
    ]

    assert [checked.in_sample for checked in check_logs(read_logs(logs, of), of)] == [True, False]


def test_a_replay_beyond_the_fit_is_an_extrapolation(tmp_path: Path) -> None:
    checked = check(write(tmp_path, FOUR), fitted_on(max_num_running=1))

    assert [text for text in checked.extrapolates if "running" in text] == [
        "up to 2 requests running at a time, the fit has seen 1"
    ]
    assert not checked.in_sample
