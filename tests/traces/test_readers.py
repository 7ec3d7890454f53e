from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inframind.traces.mistakes import TraceError
from inframind.traces.readers import MOONCAKE_BLOCK_TOKENS, Format, read_log, read_requests
from inframind.traces.schema import REQUESTS

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
"""
MOONCAKE = """{"timestamp": 3000, "input_length": 600, "output_length": 5, "hash_ids": [0, 7]}
{"timestamp": 4500, "input_length": 512, "output_length": 1, "hash_ids": [0]}
"""
BURSTGPT = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,0,472,Conversation log
45,GPT-4,1087,230,1317,API log
118,ChatGPT,417,276,693,Conversation log
"""
LLMSERVINGSIM = (
    '{"request_id": "b-0", "input_toks": 9, "output_toks": 3, "arrival_time": 1700000000.0,'
    ' "queued_ts": 50.5, "scheduled_ts": 50.6, "first_token_ts": 51.0, "last_token_ts": 52.0}\n'
    '{"request_id": "b-1", "input_toks": 8, "output_toks": 2, "arrival_time": 1700000000.1,'
    ' "queued_ts": 50.25, "scheduled_ts": 50.3, "first_token_ts": 50.5, "last_token_ts": 50.75}\n'
)
PLAIN = "arrival_s,prompt_tokens,output_tokens\n2.5,10,1\n2.5,20,2\n"


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(text: str, **options: Any) -> pd.DataFrame:
    Path("trace").write_text(text)
    return read_requests("trace", **options)


def mistakes(text: str, **options: Any) -> str:
    with pytest.raises(TraceError) as caught:
        read(text, **options)
    return str(caught.value)


def test_azure_counts_from_its_first_request_with_all_seven_digits() -> None:
    frame = read(AZURE)

    assert list(frame) == ["arrival_s", "prompt_tokens", "output_tokens"]
    assert frame["arrival_s"].tolist() == pytest.approx([0, 4.314579], abs=1e-9)
    assert frame["prompt_tokens"].tolist() == [374, 396]
    assert frame["output_tokens"].tolist() == [44, 109]


def test_mooncake_is_in_milliseconds_and_keeps_its_block_hashes() -> None:
    frame = read(MOONCAKE)

    assert frame["arrival_s"].tolist() == [0, 1.5]
    assert frame["prompt_tokens"].tolist() == [600, 512]
    assert frame["prefix_hashes"].tolist() == [(0, 7), (0,)]


def test_burstgpt_drops_failed_requests_and_says_how_many() -> None:
    frame = read(BURSTGPT)

    assert frame.attrs == {"num_failed_dropped": 1}
    assert frame["arrival_s"].tolist() == [0, 73]
    assert frame["output_tokens"].tolist() == [230, 276]
    assert frame["source_model"].tolist() == ["GPT-4", "ChatGPT"]
    assert frame["Total tokens"].tolist() == [1317, 693]
    assert frame.index.tolist() == [0, 1]


def test_a_burstgpt_file_of_failures_only_is_a_mistake() -> None:
    failures = "".join(BURSTGPT.splitlines(keepends=True)[:2])

    assert mistakes(failures) == "trace: 1 problem\n  has only failed requests"


def test_llmservingsim_takes_the_engine_clock_and_sorts_by_it() -> None:
    frame = read(LLMSERVINGSIM)

    assert frame["request_id"].tolist() == ["b-1", "b-0"]
    assert frame["arrival_s"].tolist() == [0, 0.25]
    assert frame["ttft_s"].tolist() == [0.25, 0.5]
    assert frame["e2e_s"].tolist() == [0.5, 1.5]
    assert {"arrival_time", "queued_ts", "scheduled_ts", "first_token_ts", "last_token_ts"} <= set(frame)


def test_llmservingsim_times_must_be_in_order() -> None:
    broken = LLMSERVINGSIM.replace('"last_token_ts": 50.75', '"last_token_ts": 50.4')

    assert mistakes(broken) == (
        "trace: 1 problem\n  line 2, last_token_ts: must not be before first_token_ts, got 50.4"
    )


def test_a_plain_table_keeps_its_times_and_further_columns() -> None:
    frame = read("note,output_tokens,arrival_s,prompt_tokens,hits,half\na,1,2.5,10,3,0.5\nb,2,2.5,20,4,\n")

    assert list(frame) == ["arrival_s", "prompt_tokens", "output_tokens", "note", "hits", "half"]
    assert frame["arrival_s"].tolist() == [2.5, 2.5]
    assert frame["note"].tolist() == ["a", "b"]
    assert frame["hits"].tolist() == [3, 4]
    assert frame["half"].tolist() == pytest.approx([0.5, np.nan], nan_ok=True)


def test_optional_columns_may_have_empty_cells() -> None:
    frame = read(
        "arrival_s,prompt_tokens,output_tokens,priority,budget_s,model,prefix_group,prefix_tokens,closed_loop,"
        "ttft_s,e2e_s\n"
        "0,10,1,-3,50,m,g,8,4,0.5,0.5\n"
        "1,10,1,,,,,,,,\n"
    )

    assert list(frame) == REQUESTS.names
    assert frame["priority"].tolist() == [-3, 0]
    assert frame["prefix_tokens"].tolist() == [8, 0]
    assert frame["closed_loop"].tolist() == [4, 0]
    assert frame[["budget_s", "model", "prefix_group", "ttft_s", "e2e_s"]].isna().all(axis=1).tolist() == [
        False,
        True,
    ]


def test_a_public_format_may_carry_our_optional_columns_but_its_own_reading_wins() -> None:
    header, first, second = AZURE.splitlines()
    frame = read(f"{header},budget_s,priority,arrival_s\n{first},50,,7\n{second},,2,7\n")

    assert frame["budget_s"].tolist() == pytest.approx([50, np.nan], nan_ok=True)
    assert frame["priority"].tolist() == [0, 2]
    assert frame["arrival_s"].tolist() == pytest.approx([0, 4.314579], abs=1e-9)


@pytest.mark.parametrize(
    ("text", "fmt"),
    [
        (AZURE, "azure"),
        (MOONCAKE, "mooncake"),
        (BURSTGPT, "burstgpt"),
        (LLMSERVINGSIM, "llmservingsim"),
        (PLAIN, "csv"),
    ],
)
def test_auto_finds_the_format_that_could_be_named(text: str, fmt: Format) -> None:
    pd.testing.assert_frame_equal(read(text), read(text, fmt=fmt))


def test_an_unknown_format_is_the_callers_mistake() -> None:
    with pytest.raises(ValueError, match="fmt \\('xml'\\) must be one of auto, azure"):
        read(PLAIN, fmt="xml")


def test_a_trace_must_be_in_order_and_ask_for_tokens() -> None:
    assert mistakes("arrival_s,prompt_tokens,output_tokens\n3,10,5\n2,10,0\n4,10,\n") == (
        "trace: 3 problems\n"
        "  line 3, output_tokens: must be at least 1, got 0\n"
        "  line 3, arrival_s: time goes back, must not be before the row above, got 2\n"
        "  line 4, output_tokens: missing value"
    )


def test_a_log_may_be_in_order_of_completion_and_hold_failed_requests() -> None:
    """Clients write a row when a request ends, failed ones without tokens; programs write ``nan`` for no time."""
    log = "arrival_s,prompt_tokens,output_tokens,ttft_s,e2e_s\n3,10,5,0.1,0.2\n2,11,6,nan,NaN\n4,12,0,,\n1,13,,,\n"

    frame = read(log)

    assert frame["arrival_s"].tolist() == [2, 3]
    assert frame["prompt_tokens"].tolist() == [11, 10]
    assert frame["ttft_s"].isna().tolist() == [True, False]
    assert frame.attrs == {"num_failed_dropped": 2}


def test_only_a_plain_table_is_a_log_by_its_columns() -> None:
    """What other formats hold besides says nothing of how they write a failed request."""
    azure = "TIMESTAMP,ContextTokens,GeneratedTokens,arrival_s,ttft_s\n2023-11-16 18:15:46,374,,1,2\n"
    calls = pd.DataFrame({"call_id": [0], "outcome": ["finished"], "arrival_s": [1.0], "ttft_s": [2.0]})
    calls.assign(prompt_tokens=10, output_tokens=np.nan).to_parquet("calls.parquet")

    assert "line 2, GeneratedTokens: missing value" in mistakes(azure)
    with pytest.raises(TraceError, match="row 1, output_tokens: missing value"):
        read_requests("calls.parquet")


def test_a_log_knows_its_file() -> None:
    Path("trace").write_text("prompt_tokens,output_tokens,ttft_s,arrival_s\n10,5,1,3\n\n11,0,,1\n12,6,1,2\n")

    log = read_log("trace")

    assert log.requests["prompt_tokens"].tolist() == [12, 10]
    assert log.places.tolist() == [5, 2]
    assert log.unit == "line"
    assert log.failed["prompt_tokens"].tolist() == [11]
    assert log.columns == ("prompt_tokens", "output_tokens", "ttft_s", "arrival_s")


def test_every_bad_cell_is_named_with_line_column_rule_and_value() -> None:
    text = (
        "arrival_s,prompt_tokens,output_tokens,budget_s,prefix_tokens,ttft_s,e2e_s\n"
        "-1,10,5,1,1,0.1,0.2\n"
        "3,0,5,0,-1,0.1,0.2\n"
        "2,10,-1,1,11,0.1,0.2\n"
        "4,4096,ten,1,1,0.3,0.2\n"
        "nan,,2.5,1,1,0.1,0.2\n"
    )

    assert mistakes(text, max_model_len=4096) == (
        "trace: 12 problems\n"
        "  line 2, arrival_s: must be at least 0, got -1\n"
        "  line 3, prompt_tokens: must be at least 1, got 0\n"
        "  line 3, budget_s: must be greater than 0, got 0\n"
        "  line 3, prefix_tokens: must be at least 0, got -1\n"
        "  line 4, output_tokens: must be at least 0, got -1\n"
        "  line 4, prefix_tokens: must be at most prompt_tokens, got 11\n"
        "  line 5, prompt_tokens: must be less than max_model_len (4096), got 4096\n"
        "  line 5, output_tokens: must be a number, got ten\n"
        "  line 5, e2e_s: must be at least ttft_s, got 0.2\n"
        "  line 6, prompt_tokens: missing value\n"
        "  line 6, output_tokens: must be a whole number, got 2.5\n"
        "  line 6, arrival_s: must be a number, got nan"
    )


def test_a_closed_loop_has_a_size() -> None:
    wrong = "arrival_s,prompt_tokens,output_tokens,closed_loop\n0,10,5,-1\n1,10,5,1.5\n"

    assert mistakes(wrong) == (
        "trace: 2 problems\n"
        "  line 2, closed_loop: must be at least 0, got -1\n"
        "  line 3, closed_loop: must be a whole number, got 1.5"
    )


def test_missing_columns_are_named_with_what_is_there() -> None:
    assert mistakes("arrival,prompt_tokens,generated\n1,2,3\n") == (
        "trace: 2 problems\n"
        "  output_tokens: missing column; found: arrival, prompt_tokens, generated\n"
        "  arrival_s: missing column; did you mean 'arrival'?"
    )


def test_json_lines_of_no_known_format_are_refused_with_their_keys() -> None:
    assert mistakes('{"arrival_s": 1, "prompt_tokens": 2}\n') == (
        "trace: 1 problem\n  fits no known format (mooncake, llmservingsim); its keys: arrival_s, prompt_tokens"
    )


def test_a_truncated_last_line_is_named() -> None:
    assert mistakes(MOONCAKE[:-30]) == (
        "trace: 1 problem\n  line 2: not valid JSON at column 42: Unterminated string starting at"
    )


@st.composite
def request_tables(draw: st.DrawFn) -> pd.DataFrame:
    num = draw(st.integers(1, 20))

    def column(elements: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(elements, min_size=num, max_size=num))

    seconds = st.floats(0, 1e9)
    tokens = st.integers(1, 10**9)
    frame = pd.DataFrame(
        {
            "arrival_s": sorted(column(seconds)),
            "prompt_tokens": column(tokens),
            "output_tokens": column(tokens),
            "priority": column(st.integers(-(2**53), 2**53)),
            "budget_s": column(st.one_of(st.just(np.nan), st.floats(1e-3, 1e6))),
        }
    )
    return frame.assign(tag=[f"row {number}" for number in range(num)])


@settings(deadline=None, max_examples=50)
@given(frame=request_tables())
def test_csv_and_parquet_round_trips_change_nothing(frame: pd.DataFrame) -> None:
    frame.to_csv("round.csv", index=False)
    frame.to_parquet("round.parquet", index=False)

    for name in ("round.csv", "round.parquet"):
        pd.testing.assert_frame_equal(read_requests(name), frame, check_exact=True)


def test_the_azure_conversation_trace_reads_whole(shared_data: Path) -> None:
    frame = read_requests(shared_data / "azure_llm_2023" / "AzureLLMInferenceTrace_conv.csv")

    assert len(frame) == 19_366
    assert frame["arrival_s"].iloc[-1] == pytest.approx(3501.721937, abs=1e-6)
    assert frame["prompt_tokens"].mean() == pytest.approx(1154.697, abs=1e-3)
    assert frame["output_tokens"].min() == 7


@pytest.mark.parametrize(("name", "num"), [("conversation", 12_031), ("synthetic", 3_993)])
def test_the_mooncake_traces_read_whole(shared_data: Path, name: str, num: int) -> None:
    frame = read_requests(shared_data / "mooncake_fast25" / f"{name}_trace.jsonl")

    blocks = np.ceil(frame["prompt_tokens"] / MOONCAKE_BLOCK_TOKENS)
    assert len(frame) == num
    assert (frame["prefix_hashes"].map(len) == blocks).all()


def test_the_runs_of_llmservingsim_read_whole(shared_data: Path) -> None:
    files = sorted((shared_data / "llmservingsim_vllm_bench").glob("*requests.jsonl"))

    frames = {file.name.removesuffix("__requests.jsonl"): read_requests(file) for file in files}

    assert {name: len(frame) for name, frame in frames.items()} == {
        "RTX4090__Llama-3.1-8B": 300,
        "RTXPRO6000__Llama-3.1-8B": 300,
        "RTXPRO6000__Qwen3-30B-A3B-Instruct-2507": 300,
    }
    assert all(frame["arrival_s"].is_monotonic_increasing for frame in frames.values())
    assert all((frame["e2e_s"] >= frame["ttft_s"]).all() for frame in frames.values())
