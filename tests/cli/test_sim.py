"""``inframind sim``: replay, schedule, verify."""

import gzip
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from inframind.cli import main
from inframind.sim import SHIPPED_POOLS

RECORDINGS = sorted((Path(__file__).parents[1] / "sim" / "recordings").glob("*.json.gz"))
PLAIN = "arrival_s,prompt_tokens,output_tokens,team\n0,10,5,a\n1,300,1,b\n1.5,20,8,a\n"
MEASURED = "arrival_s,prompt_tokens,output_tokens,ttft_s,e2e_s\n0,10,5,0.01,0.05\n1,300,1,0.02,0.02\n2,20,8,,\n"
SERVER = """
name = "one-at-a-time"
model = "tiny"
max_num_queued_reqs = 1

[scheduler]
max_num_seqs = 1
num_blocks = 100
max_model_len = 1000

[step_time]
fixed_s = 1.0
prefill_token_s = 0.0
decode_s = 0.0
"""


def replay(folder: Path, log: str, *options: str, out: str = "out.csv", server: str = "h200/llama-8b") -> int:
    (folder / "log.csv").write_text(log)
    command = ["sim", "replay", str(folder / "log.csv"), "--server", server, "-o", str(folder / out)]
    return main([*command, *options])


def load(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
    return document


# Replay.


def test_replay_adds_two_columns_to_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay(tmp_path, PLAIN) == 0

    rows = pd.read_csv(tmp_path / "out.csv")
    assert list(rows) == ["arrival_s", "prompt_tokens", "output_tokens", "team", "sim_ttft_s", "sim_e2e_s"]
    assert rows["team"].tolist() == ["a", "b", "a"]
    assert (rows["sim_ttft_s"] > 0).all()
    assert rows["sim_e2e_s"][1] == rows["sim_ttft_s"][1]  # one token: the first is the last
    printed = capsys.readouterr().out
    assert "TTFT simulated" in printed
    assert "observed" not in printed
    assert f"wrote {tmp_path / 'out.csv'}" in printed


def test_replay_writes_rows_as_they_stand_in_the_log(tmp_path: Path) -> None:
    """In order of completion, here with failed requests among them."""
    log = "output_tokens,ttft_s,e2e_s,prompt_tokens,arrival_s\n,,,10,7\n5,1,2,11,6\n0,,,12,2\n5,1,3,13,4\n5,1,9,14,5\n"

    assert replay(tmp_path, log) == 0
    rows = pd.read_csv(tmp_path / "out.csv")
    assert list(rows) == ["output_tokens", "ttft_s", "e2e_s", "prompt_tokens", "arrival_s", "sim_ttft_s", "sim_e2e_s"]
    assert rows["prompt_tokens"].tolist() == [11, 13, 14]
    assert rows["arrival_s"].tolist() == [6, 4, 5]


def test_replay_compares_with_what_was_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only requests that were measured are compared."""
    assert replay(tmp_path, MEASURED, "--json") == 0

    answer = json.loads(capsys.readouterr().out)
    ttft = answer["seconds"]["TTFT"]
    assert (answer["requests"], answer["not_served"]) == (3, 0)
    assert ttft["observed"]["mean"] == pytest.approx(0.015)
    simulated = pd.read_csv(tmp_path / "out.csv")["sim_ttft_s"][:2].mean()
    assert ttft["simulated"]["mean"] == pytest.approx(simulated)
    assert ttft["relative_error"]["mean"] == pytest.approx(simulated / 0.015 - 1)


def test_replay_prints_the_error_where_it_can(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay(tmp_path, MEASURED) == 0

    assert capsys.readouterr().out.count("  error") == 3


def test_replay_writes_parquet_where_the_name_says_so(tmp_path: Path) -> None:
    assert replay(tmp_path, PLAIN, out="out.parquet") == 0

    assert pd.read_parquet(tmp_path / "out.parquet")["output_tokens"].tolist() == [5, 1, 8]


def test_replay_refuses_a_file_that_it_cannot_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before it reads anything: there is neither a log nor a server."""
    command = ["sim", "replay", str(tmp_path / "none.csv"), "--server", "none.toml", "-o", str(tmp_path / "out.txt")]

    assert main(command) == 2
    told = f"error: {tmp_path / 'out.txt'}: 1 problem\n  name a file that ends in .csv or .parquet\n"
    assert capsys.readouterr().err == told


def test_replay_says_what_was_not_served(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second request finds the queue full; its row stays, without times."""
    (tmp_path / "server.toml").write_text(SERVER)

    assert replay(tmp_path, PLAIN, server=str(tmp_path / "server.toml")) == 0
    assert "not served: 2 rejected: max_num_queued_reqs" in capsys.readouterr().out
    assert pd.read_csv(tmp_path / "out.csv")["sim_e2e_s"].isna().tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("server", "says"),
    [
        ("h200/llama-9b", "pool h200 has no server 'llama-9b'; did you mean 'llama-8b'?"),
        (
            "h200/nothing",
            "pool h200 has no server 'nothing'; "
            "it has deepseek-r1-32b, mistral-24b, qwen-coder-14b, llama-8b, llama-3b",
        ),
        ("h201/llama-8b", "no such file, and no shipped pool 'h201'; did you mean 'h200'?"),
        ("x/llama-8b", f"no such file, and no shipped pool 'x'; shipped pools: {', '.join(SHIPPED_POOLS)}"),
    ],
)
def test_replay_helps_with_the_name_of_a_server(
    server: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay(tmp_path, PLAIN, server=server) == 2
    assert capsys.readouterr().err == f"error: {server}: 1 problem\n  {says}\n"


def test_replay_names_the_mistakes_of_a_server_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "server.toml").write_text(SERVER.replace("max_num_seqs", "max_num_seq"))

    assert replay(tmp_path, PLAIN, server=str(tmp_path / "server.toml")) == 2
    assert "scheduler.max_num_seq: unknown key; did you mean 'max_num_seqs'?" in capsys.readouterr().err


def test_replay_into_a_folder_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay(tmp_path, PLAIN, out="absent/out.csv") == 2
    assert "absent/out.csv: 1 problem\n  there is no folder" in capsys.readouterr().err


# Schedule.


@pytest.mark.parametrize("recording", RECORDINGS[:2], ids=lambda path: path.name)
def test_a_recording_comes_back_as_it_was_recorded(recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json.gz"

    assert main(["sim", "schedule", str(recording), "-o", str(out)]) == 0
    theirs, ours = load(recording), load(out)
    assert [step[3:] for step in ours["steps"]] == [step[3:] for step in theirs["steps"]]
    assert {key: ours[key] for key in ("config", "requests")} == {key: theirs[key] for key in ("config", "requests")}
    assert ours["finished"].keys() == theirs["finished"].keys()
    assert "vllm_version" not in ours  # vLLM had no part in it


def test_scheduling_reads_only_the_question(tmp_path: Path) -> None:
    """Without ``steps`` and ``finished``, or with wrong ones, the answer is the same."""
    document = load(RECORDINGS[0])
    asked = {key: document[key] for key in ("config", "requests")}
    (tmp_path / "bare.json").write_text(json.dumps(asked))
    (tmp_path / "wrong.json").write_text(json.dumps(asked | {"steps": [[1]], "finished": {"r": []}}))
    for name in ("bare", "wrong"):
        assert main(["sim", "schedule", str(tmp_path / f"{name}.json"), "-o", str(tmp_path / f"{name}-out.json")]) == 0

    bare = json.loads((tmp_path / "bare-out.json").read_text())
    assert bare == json.loads((tmp_path / "wrong-out.json").read_text())
    assert [step[3:] for step in bare["steps"]] == [step[3:] for step in document["steps"]]


def test_a_wrong_key_of_a_workload_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "workload.json"
    path.write_text(gzip.decompress(RECORDINGS[0].read_bytes()).decode().replace('"max_num_seqs"', '"max_num_seq"'))

    assert main(["sim", "schedule", str(path), "-o", str(tmp_path / "out.json")]) == 2
    assert capsys.readouterr().err == (
        f"error: {path}: 2 problems\n"
        "  config.max_num_seqs: missing\n"
        "  config.max_num_seq: unknown key; did you mean 'max_num_seqs'?\n"
    )


def test_a_request_that_never_fits_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = load(RECORDINGS[0])
    document["requests"][3]["prompt_tokens"] = 10**6
    path = tmp_path / "workload.json"
    path.write_text(json.dumps(document))

    assert main(["sim", "schedule", str(path), "-o", str(tmp_path / "out.json")]) == 2
    assert f"request {document['requests'][3]['id']}: " in capsys.readouterr().err


# Verify, without a vLLM: tests/live does it with one.


def test_verify_without_that_interpreter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    python = str(tmp_path / "python")

    assert main(["sim", "verify", "--vllm-python", python, "--count", "1"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {python}: No such file or directory"


def test_verify_with_an_interpreter_that_has_no_vllm(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sim", "verify", "--vllm-python", sys.executable, "--count", "1"]) == 1

    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "error: the recorder failed (exit 1): ModuleNotFoundError: No module named 'vllm'"


def test_verify_of_nothing_is_no_proof(capsys: pytest.CaptureFixture[str]) -> None:
    """Something that ends well but records nothing must not count as 0 differences."""
    does_nothing = shutil.which("true")
    assert does_nothing is not None

    assert main(["sim", "verify", "--vllm-python", does_nothing, "--count", "2"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {does_nothing} recorded 0 of 2 workloads"
