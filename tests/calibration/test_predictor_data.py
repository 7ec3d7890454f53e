"""What the predictors learn from: gauges as they were seen, and the split."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from inframind.calibration.predictor_data import (
    load_embeddings,
    polled,
    read_observed,
    reckoned,
    reconstructed,
    time_blocks,
)
from inframind.traces import ConfigError, Mistakes, TraceError
from inframind.workflows import Query, ServerInfo, ServerTable, observe
from inframind.workflows.observation import Context

NAN = float("nan")


def calls_of(rows: list[tuple[str, float, float, float]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["server", "arrival_s", "scheduled_s", "finish_s"])


def polls_of(rows: list[tuple[float, str, float, float]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["time_s", "server", "running", "waiting"])


def test_a_call_sees_the_last_poll_of_its_server_before_it_came() -> None:
    polls = polls_of([(0, "a", 1, 10), (0, "b", 2, 20), (1, "a", 3, 30), (1, "b", 4, 40), (2, "a", 5, 50)])
    calls = calls_of([("a", 1.5, 0, 0), ("b", 2.25, 0, 0), ("a", 0.0, 0, 0), ("a", 1.0, 0, 0), ("a", 9.0, 0, 0)])

    seen = polled(calls, polls)

    assert seen["running"].tolist() == pytest.approx([3, 4, NAN, 1, 5], nan_ok=True)
    assert seen["waiting"].tolist() == pytest.approx([30, 40, NAN, 10, 50], nan_ok=True)
    assert seen["gauge_age_s"].tolist() == pytest.approx([0.5, 1.25, NAN, 1.0, 7.0], nan_ok=True)


def test_dead_reckoning_adds_what_was_sent_and_takes_off_what_ended() -> None:
    """Polled at 1 s: two run, none waits, two may run. At 1.5 s one of them has ended and two more were sent."""
    calls = calls_of([("a", 0.1, 0.1, 1.2), ("a", 0.2, 0.2, 9), ("a", 1.1, 0, 9), ("a", 1.3, 0, 9), ("a", 1.5, 0, 9)])
    polls = polls_of([(0, "a", 0, 0), (1, "a", 2, 0)])

    seen = reckoned(calls, polls, {"a": 2})

    assert seen["running"].tolist() == [0, 1, 2, 2, 2]
    assert seen["waiting"].tolist() == [0, 0, 0, 0, 1]


def test_dead_reckoning_is_that_of_the_controller() -> None:
    """A random history, told to `ServerTable`, and asked of `observe` at each arrival."""
    rng = np.random.default_rng(5)
    arrival = np.sort(rng.uniform(0, 60, 300)).round(6)
    finish = (arrival + rng.exponential(3, 300)).round(6)
    limit = 8
    polls = []
    for t in range(60):
        outstanding = int((arrival < t).sum() - (finish < t).sum())
        polls.append((float(t), "a", min(outstanding, limit), max(outstanding - limit, 0)))

    seen = reckoned(
        calls_of([("a", a, a, f) for a, f in zip(arrival, finish, strict=True)]), polls_of(polls), {"a": limit}
    )

    table = ServerTable([ServerInfo("a", "m", limit)])
    query = Query("q", "math", 0, 10, 5.0)
    events = [(t, 0, i) for i, (t, *_) in enumerate(polls)]
    events += [(f, 1, i) for i, f in enumerate(finish)] + [(a, 2, i) for i, a in enumerate(arrival)]
    for t, kind, i in sorted(events):
        if kind == 0:
            table.polled(t, 0, polls[i][3], polls[i][2], 0.0)
        elif kind == 1:
            table.ended(0, 0)
        else:
            observation = observe(t, t, query, table, Context(None, None, dead_reckoning=True), 0)
            expected = (observation.running_now(0), observation.waiting_now(0))
            assert (seen["running"][i], seen["waiting"][i]) == expected
            table.submitted(0, 0)


def test_without_polls_the_state_comes_from_the_log() -> None:
    calls = calls_of(
        [
            ("a", 0, 0, 10),
            ("a", 1, 4, 12),  # sees the first one running
            ("b", 2, 2, 3),  # another server
            ("a", 3, 10, 20),  # one runs, one waits
            ("a", 5, NAN, 6),  # two run, one waits; refused at 6
            ("a", 7, 13, 30),  # the refused one is gone
        ]
    )

    seen = reconstructed(calls)

    assert seen["running"].tolist() == [0, 1, 0, 1, 2, 2]
    assert seen["waiting"].tolist() == [0, 0, 0, 1, 1, 1]
    in_flight = reconstructed(calls.assign(scheduled_s=NAN))
    assert in_flight["running"].tolist() == [0, 1, 0, 2, 3, 3]
    assert in_flight["waiting"].tolist() == [0] * 6


def test_blocks_of_time_are_held_out_not_single_calls() -> None:
    parts = time_blocks(1000, seed=4)

    blocks = parts.reshape(10, 100)
    assert (blocks == blocks[:, :1]).all()
    for half in (blocks[:5, 0], blocks[5:, 0]):
        assert sorted(half) == ["test", "train", "train", "train", "validation"]
    assert (time_blocks(1000, seed=4) == parts).all()
    assert len({tuple(time_blocks(10, seed)) for seed in range(9)}) > 1


LOG = "arrival_s,prompt_tokens,output_tokens,ttft_s,e2e_s{}\n0,10,5,0.1,0.5{}\n2.5,20,1,0.2,0.2{}\n3,30,9,,{}\n"


def log_in(folder: Path, *extra: str, samples: str | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "requests.csv").write_text(LOG.format(*([f",{value}" for value in extra] or [""] * 4)))
    if samples is not None:
        (folder / "samples.csv").write_text(samples)
    return folder


def test_a_log_with_polled_gauges(tmp_path: Path) -> None:
    """The third call has not finished; the first came before the first poll."""
    folder = log_in(tmp_path / "log", samples="time_s,server,waiting,running,kv_usage\n1,s,3,16,\n2,s,4,15,0.5\n")

    log = read_observed(f"llama={folder}", "polled")

    assert (log.gauges, log.num_unusable) == ("polled", 2)
    (row,) = log.frame.to_dict("records")
    assert (row["model"], row["server"], row["strategy"]) == ("llama", "s", "none")
    assert (row["running"], row["waiting"], row["gauge_age_s"]) == (15, 4, 0.5)
    assert (row["ttft_s"], row["e2e_s"]) == (0.2, 0.2)
    assert np.isnan(row["tpot_s"])


def test_failed_requests_of_a_log_are_unusable_calls(tmp_path: Path) -> None:
    folder = log_in(tmp_path / "log")
    log = folder / "requests.csv"
    num_columns = len(log.read_text().splitlines()[0].split(","))
    log.write_text(log.read_text() + ",".join(["9", "10", "0", *[""] * (num_columns - 3)]) + "\n")

    assert read_observed(f"llama={log}").num_unusable == 2


def test_a_log_alone_has_its_state_from_its_own_times(tmp_path: Path) -> None:
    folder = log_in(tmp_path / "log")
    log = read_observed(f"llama={folder / 'requests.csv'}")

    assert (log.gauges, log.num_unusable) == ("in flight", 1)
    assert log.frame["tpot_s"][0] == pytest.approx(0.1)

    scheduled = log_in(tmp_path / "scheduled", "scheduled_s", "0.01", "2.6", "")
    assert read_observed(f"llama={scheduled}").gauges == "engine log"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{log}/requests.csv", "model: missing column; or name the model: MODEL="),
        ("m={log}/nothing.csv", "no such file"),
        ("m={log}/empty", "neither a run folder"),
        ("m={log}/plain.csv", "ttft_s: missing column"),
        ("m={log}/gauges", "waiting: missing column"),
        ("m={log}/semicolons", "columns seem to be separated by semicolons; commas are expected"),
    ],
)
def test_logs_that_cannot_be_used(tmp_path: Path, source: str, message: str) -> None:
    log_in(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "plain.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,1,1\n")
    log_in(tmp_path / "gauges", samples="time_s,server,running\n0,s,1\n")
    log_in(tmp_path / "semicolons", samples="time_s;server;waiting;running\n0,5;s;1;1\n1;s;1;1\n")

    with pytest.raises(Mistakes, match="problem") as error:
        read_observed(source.format(log=tmp_path))

    assert message in str(error.value)


def test_gauges_must_be_those_of_the_log(tmp_path: Path) -> None:
    folder = log_in(tmp_path / "log", "server", "a", "a", "a", samples="time_s,server,waiting,running\n0,b,0,0\n")

    with pytest.raises(TraceError, match=r"no row for 'a', which requests\.csv names"):
        read_observed(f"m={folder}")


def test_a_workflow_run_names_the_embeddings_of_its_queries(tmp_path: Path) -> None:
    calls = pd.DataFrame(
        {
            "server": "s",
            "model": "m",
            "arrival_s": [1.0, 2.0],
            "prompt_tokens": 5,
            "output_tokens": 2,
            "outcome": "finished",
            "workflow_id": ["q7", "q8"],
            "strategy": ["Flash", None],
            **{"scheduled_s": 1.0, "finish_s": 3.0, "ttft_s": 0.5, "tpot_s": 0.5, "e2e_s": 1.0},
        }
    )
    calls.to_parquet(tmp_path / "calls.parquet")
    polls_of([(0, "s", 1, 0)]).to_parquet(tmp_path / "samples.parquet")
    (tmp_path / "config.toml").write_text("")
    arrivals = [
        {"kind": "Arrived", "t": 0.0, "query": {"query_id": f"q{i}", "embedding": row}}
        for i, row in ((7, 3), (8, None))
    ]
    lines = [{"kind": "Header"}, *arrivals]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))

    frame = read_observed(str(tmp_path)).frame

    assert frame["embedding"].tolist() == [3, -1]
    assert frame["strategy"].tolist() == ["Flash", "none"]


def test_embeddings_are_one_table(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"queries": np.ones((4, 3), np.float32)}, tmp_path / "good")
    save_file({"a": np.ones(3, np.float32)}, tmp_path / "flat")

    assert load_embeddings(tmp_path / "good").shape == (4, 3)
    for name in ("flat", "absent"):
        with pytest.raises(ConfigError):
            load_embeddings(tmp_path / name)
