"""``inframind calibrate profile``: what a person types, sees and gets wrong."""

import json
from pathlib import Path

import pytest
from fake_vllm import Behaviour, FakeVllm

from inframind.cli import main
from inframind.traces import read_requests

SHORT = ("--minutes", "0.05")


def profile(server: FakeVllm | str, folder: Path, *options: str) -> int:
    url = server if isinstance(server, str) else server.url
    return main(["calibrate", "profile", url, "-o", str(folder), *SHORT, *options])


def test_a_profile_ends_with_the_next_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "log"
    with FakeVllm() as server:
        assert profile(server, out, "--max-num-seqs", "4", "--no-async-scheduling") == 0

    printed = capsys.readouterr().out
    assert "open-1.2" in printed
    assert "max_num_seqs = 4: stated\n" in printed
    assert "async_scheduling = False: stated\n" in printed
    assert printed.endswith(
        f"next: inframind calibrate fit {out / 'requests.csv'} --server {out / 'server.toml'} -o FITTED.toml\n"
    )
    assert len(read_requests(out / "requests.csv")) > 20


def test_json_tells_what_was_found_and_what_is_assumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FakeVllm() as server:
        assert profile(server, tmp_path / "log", "--policy", "fcfs", "--json") == 0

    answer = json.loads(capsys.readouterr().out)
    assert answer["model"] == "owner/fake"
    assert answer["requests"] == answer["finished"] > 20
    assert answer["scheduler"]["num_blocks"] == 500
    assert "async_scheduling" in answer["assumed"]
    assert not {"policy", "num_blocks"} & set(answer["assumed"])


# Mistakes and failures: one line each.


def test_nothing_listens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FakeVllm() as server:
        pass

    assert profile(server, tmp_path / "log") == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {server.url}: nothing answers there (")
    assert said.count("\n") == 1
    assert not (tmp_path / "log").exists()


def test_a_model_that_is_not_served(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FakeVllm() as server:
        assert profile(server, tmp_path / "log", "--model", "llama") == 2

    assert capsys.readouterr().err == (f"error: {server.url}: model 'llama' is not served; it serves owner/fake\n")


@pytest.mark.parametrize(
    ("key", "told"),
    [("", "401 Unauthorized: it wants an API key"), ("wrong-key", "403 Forbidden: the API key is wrong")],
)
def test_a_key_that_the_server_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, key: str, told: str
) -> None:
    monkeypatch.setenv("MY_KEY", key)
    with FakeVllm(Behaviour(api_key="right-key")) as server:
        assert profile(server, tmp_path / "log", "--api-key-env", "MY_KEY") == 2

    said = capsys.readouterr().err
    assert said.endswith(f"{told}; the key is taken from the environment variable MY_KEY\n")
    assert "wrong-key" not in said


def test_the_key_comes_from_the_environment_and_goes_nowhere_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "right-key")
    with FakeVllm(Behaviour(api_key="right-key")) as server:
        with_password = server.url.replace("http://", "http://user:pass-word@")
        assert profile(with_password, tmp_path / "log", "--api-key-env", "MY_KEY") == 0

    captured = capsys.readouterr()
    written = b"".join(path.read_bytes() for path in (tmp_path / "log").iterdir())
    for secret in ("right-key", "pass-word"):
        assert secret not in captured.out + captured.err
        assert secret.encode() not in written
    assert server.keys_seen == {"Bearer right-key"}


def test_metrics_that_are_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FakeVllm(Behaviour(hidden_metrics=frozenset({"cache_config_info"}))) as server:
        assert profile(server, tmp_path / "log") == 1

    assert "error: /metrics lacks vllm:cache_config_info; is it a vLLM server" in capsys.readouterr().err


def test_a_dead_server_says_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FakeVllm(Behaviour(dies_after=20)) as server:
        assert profile(server, tmp_path / "log") == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {server.url}: ")
    assert f"requests are in {tmp_path / 'log'}; the same command with --resume goes on\n" in said

    with FakeVllm() as server:
        assert profile(server, tmp_path / "log") == 2
        assert "is there already: --resume goes on with the profile in it" in capsys.readouterr().err
        assert profile(server, tmp_path / "log", "--resume") == 0


@pytest.mark.parametrize(("words", "says"), [([], "is there already"), (["--resume"], "has no profile to resume")])
def test_the_folder_is_looked_at_before_the_server(
    words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing listens at port 9."""
    (tmp_path / "log").write_text("a file")

    assert main(["calibrate", "profile", "http://127.0.0.1:9", "-o", str(tmp_path / "log"), *words]) == 2
    assert says in capsys.readouterr().err


def test_nothing_to_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FakeVllm() as server:
        assert profile(server, tmp_path / "log", "--resume") == 2

    assert "has no profile to resume: server.json cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("minutes", ["0", "0.01", "many", "-1", "nan", "10000"])
def test_a_time_that_makes_no_sense(minutes: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["calibrate", "profile", "http://127.0.0.1:1", "-o", "log", "--minutes", minutes])

    assert exit_.value.code == 2
    assert f"argument --minutes: must be a number from 0.05 to 1440, got '{minutes}'" in capsys.readouterr().err


def test_a_url_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert profile("localhost:8000", tmp_path / "log") == 2
    assert capsys.readouterr().err == "error: the server's URL must look like http://HOST:PORT\n"


def test_options_that_no_server_can_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--max-num-seqs", "16", "--max-num-batched-tokens", "8")

    assert profile("http://127.0.0.1:1", tmp_path / "log", *options) == 2
    assert "--max-num-batched-tokens (8) must be at least --max-num-seqs (16)" in capsys.readouterr().err
