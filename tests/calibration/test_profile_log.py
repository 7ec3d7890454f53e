"""The folder of a profile: appended line by line, read back after a crash, and turned into tables."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from inframind.calibration.profile_log import COMPLETE, STOPPED, ProfileLog, Stay
from inframind.calibration.profile_plan import WARM_UP, Ask, Condition
from inframind.live import Call, Gauges, Outcome
from inframind.traces import ConfigError, read_requests

ORIGIN_S = 1000.0
"""The profile's begin on the monotonic clock."""


def finished(sent_s: float, ttft_s: float = 0.1, e2e_s: float = 0.3, tokens: tuple[int, int] = (5, 3)) -> Call:
    sent_s += ORIGIN_S
    return Call(
        [7] * tokens[0],
        tokens[1],
        sent_s=sent_s,
        first_token_s=sent_s + ttft_s,
        last_token_s=sent_s + e2e_s,
        num_chunks=tokens[1],
        usage=tokens,
        outcome=Outcome.FINISHED,
    )


def add(log: ProfileLog, condition: str, attempt: int, call: Call, ask: Ask | None = None) -> None:
    assert call.sent_s is not None
    log.add_request(Condition(condition, ()), attempt, ask or Ask(5, 3), call, ORIGIN_S, call.sent_s - 0.002)


def new_log(folder: Path) -> ProfileLog:
    return ProfileLog(folder, {"started_at": "2026-01-01T00:00:00+00:00"})


def complete(log: ProfileLog, condition: str, *calls: Call, outcome: str = COMPLETE) -> None:
    begin_s = min(call.sent_s or 0.0 for call in calls) - ORIGIN_S
    attempt = log.begin(condition, begin_s)
    for call in calls:
        add(log, condition, attempt, call)
    log.end(Stay(condition, attempt, begin_s, begin_s + 5.0, outcome, {}))


def test_what_was_appended_is_read_back(tmp_path: Path) -> None:
    with new_log(tmp_path / "log") as log:
        complete(log, "light", finished(2.0), finished(1.0, ttft_s=0.2))
        log.add_sample(1.5, "s", Gauges(waiting=3, running=2, kv_usage=0.25, process_start_s=0.0))
        log.add_sample(9.0, "s", Gauges(waiting=0, running=0, kv_usage=0.0, process_start_s=0.0))
    with ProfileLog(tmp_path / "log") as again:
        ended = again.ended()["light"]

    assert [answer.arrival_s for answer in ended.answers] == [1.0, 2.0]  # by arrival
    assert [answer.ttft_s for answer in ended.answers] == [0.2, 0.1]
    assert ended.queues == [(3, 2)]  # the second sample came after the condition
    assert ended.duration_s == 5.0
    assert again.last_s == 9.0
    assert again.requests[0]["late_s"] == 0.002
    assert (tmp_path / "log" / "samples.csv").read_text().splitlines()[:2] == [
        "time_s,server,waiting,running,kv_usage",
        "1.5,s,3,2,0.25",
    ]


def test_a_line_that_a_crash_tore_costs_only_itself(tmp_path: Path) -> None:
    with new_log(tmp_path / "log") as log:
        complete(log, "light", finished(1.0))
    for name in ("requests.jsonl", "conditions.jsonl", "samples.csv"):
        with (tmp_path / "log" / name).open("a") as sink:
            sink.write('{"condition": "li')
    with ProfileLog(tmp_path / "log") as log:
        complete(log, "other", finished(7.0))
        log.add_sample(7.0, "s", Gauges(0, 1, 0.0, 0.0))
    with ProfileLog(tmp_path / "log") as again:
        assert list(again.ended()) == ["light", "other"]
        assert [line["arrival_s"] for line in again.requests] == [1.0, 7.0]
        assert [sample["time_s"] for sample in again.samples] == [7.0]


def test_the_first_warm_up_is_the_one_that_counts(tmp_path: Path) -> None:
    """A sweep that goes on decides as it did before, however long the warm-up of a restarted server took."""
    with new_log(tmp_path / "log") as log:
        complete(log, WARM_UP, finished(1.0))
        complete(log, "light", finished(7.0))
        complete(log, WARM_UP, finished(20.0))

        assert [(name, ended.answers[0].arrival_s) for name, ended in log.ended().items()] == [
            (WARM_UP, 1.0),
            ("light", 7.0),
        ]


def test_each_try_at_a_condition_has_a_number(tmp_path: Path) -> None:
    """Also one of which a crash left only the begin."""
    with new_log(tmp_path / "log") as log:
        assert log.begin("light", 0.0) == 1
    with ProfileLog(tmp_path / "log") as log:
        assert log.begin("light", 5.0) == 2
        assert log.begin("other", 5.0) == 1


def test_the_table_is_one_that_the_readers_know(tmp_path: Path) -> None:
    with new_log(tmp_path / "log") as log:
        attempt = log.begin("prefix", 0.0)
        add(log, "prefix", attempt, finished(2.0, tokens=(50, 4)), Ask(50, 4, prefix_group="group-1", prefix_tokens=32))
        add(log, "prefix", attempt, finished(1.0), Ask(5, 3, priority=-7))
        log.end(Stay("prefix", attempt, 0.0, 5.0, COMPLETE, {}))
        log.write_tables("name = 1\n")
    frame = read_requests(tmp_path / "log" / "requests.csv")

    assert frame["arrival_s"].tolist() == [1.0, 2.0]
    assert frame["prompt_tokens"].tolist() == [5, 50]
    assert frame["output_tokens"].tolist() == [3, 4]
    assert frame["priority"].tolist() == [-7, 0]
    assert frame["prefix_tokens"].tolist() == [0, 32]
    assert frame["prefix_group"].isna().tolist() == [True, False]
    assert frame["prefix_group"][1] == "prefix-1-group-1"
    assert frame["ttft_s"].tolist() == [0.1, 0.1]
    assert frame["e2e_s"].tolist() == [0.3, 0.3]
    assert frame["condition"].tolist() == ["prefix", "prefix"]
    assert (tmp_path / "log" / "server.toml").read_text() == "name = 1\n"


def table(folder: Path) -> pd.DataFrame:
    with ProfileLog(folder) as log:
        return log.requests_table()


def test_the_warm_up_is_not_in_the_table(tmp_path: Path) -> None:
    with new_log(tmp_path / "log") as log:
        complete(log, WARM_UP, finished(1.0))
        complete(log, "light", finished(2.0))

    assert table(tmp_path / "log")["arrival_s"].tolist() == [2.0]
    assert len((tmp_path / "log" / "requests.jsonl").read_text().splitlines()) == 2


def test_a_request_that_was_cut_off_is_a_load_without_times(tmp_path: Path) -> None:
    """The server worked on the tokens that came. One that it never began put no load on it."""
    cut = finished(2.0)
    cut.usage, cut.num_chunks, cut.outcome = None, 2, Outcome.CUT
    rejected = Call([7] * 5, 3, sent_s=ORIGIN_S + 3.0, outcome=Outcome.REJECTED, detail="503: full")
    with new_log(tmp_path / "log") as log:
        complete(log, "light", finished(1.0), cut, rejected)
    rows = table(tmp_path / "log")
    lines = [json.loads(line) for line in (tmp_path / "log" / "requests.jsonl").read_text().splitlines()]

    assert rows["outcome"].tolist() == ["finished", "stream cut"]
    assert rows["output_tokens"].tolist() == [3, 2]
    assert rows["ttft_s"].isna().tolist() == [False, True]
    assert [(line["outcome"], line["detail"]) for line in lines][2] == ("rejected", "503: full")


def test_what_was_stopped_in_order_is_in_the_table_and_what_a_crash_cut_off_is_not(tmp_path: Path) -> None:
    """After a crash of the client nobody knows which further requests were open."""
    with new_log(tmp_path / "log") as log:
        complete(log, "light", finished(1.0), outcome=STOPPED)
        attempt = log.begin("light", 5.0)
        add(log, "light", attempt, finished(5.0))  # no end: a crash
        complete(log, "light", finished(9.0))

    assert table(tmp_path / "log")["arrival_s"].tolist() == [1.0, 9.0]


def test_a_profile_is_not_written_over(tmp_path: Path) -> None:
    with new_log(tmp_path / "log"):
        pass
    with pytest.raises(ConfigError, match="--resume goes on with the profile in it"):
        new_log(tmp_path / "log")


def test_a_folder_of_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is there already: name another folder"):
        new_log(tmp_path)
    with pytest.raises(ConfigError, match=r"no profile to resume: server.json cannot be read"):
        ProfileLog(tmp_path)
    with pytest.raises(ConfigError, match="is there already"):
        new_log(tmp_path / "notes.txt")

    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_profile_can_be_gone_on_with_from_its_first_file_on(tmp_path: Path) -> None:
    """A crash may come before the logs are there."""
    with new_log(tmp_path / "log"):
        pass
    for name in ("requests.jsonl", "conditions.jsonl", "samples.csv"):
        (tmp_path / "log" / name).unlink()

    with ProfileLog(tmp_path / "log") as again:
        complete(again, "light", finished(1.0))

    assert table(tmp_path / "log")["arrival_s"].tolist() == [1.0]


def test_facts_are_replaced_as_a_whole(tmp_path: Path) -> None:
    facts: dict[str, Any] = {"started_at": "then", "server": {"model": "m"}}
    with new_log(tmp_path / "log") as log:
        log.write_facts(facts)

    assert json.loads((tmp_path / "log" / "server.json").read_text()) == facts
    assert {path.name for path in (tmp_path / "log").iterdir()} == {
        *("requests.jsonl", "conditions.jsonl", "samples.csv", "server.json")
    }
