"""``inframind calibrate fit``, and the way on to ``inframind sim replay``."""

import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from inframind.cli import main
from inframind.sim import load_server, simulate_calls

TRUE_SERVER = """
name = "small"
model = "tiny"

[scheduler]
max_num_seqs = 16
max_num_batched_tokens = 512
num_blocks = 4000
max_model_len = 4096
async_scheduling = false

[step_time]
fixed_s = 0.01
prefill_token_s = 1e-4
decode_s = 1e-4
"""
TO_FIT = TRUE_SERVER[: TRUE_SERVER.index("[step_time]")]


def write_log(path: Path, num: int = 60, gap_s: float = 0.2) -> pd.DataFrame:
    """A log of the true server, a client 5 ms away from it; columns in an order of their own."""
    server = path.parent / "true.toml"
    server.write_text(TRUE_SERVER)
    log = pd.DataFrame(
        {
            "arrival_s": [gap_s * (row + 0.1 * (row % 7)) for row in range(num)],
            "prompt_tokens": [20 + 370 * (row % 5) for row in range(num)],
            "output_tokens": [1 + 17 * (row % 4) for row in range(num)],
        }
    )
    calls = simulate_calls([load_server(server).options()], log, sample_s=None).calls
    log = log.assign(ttft_s=calls["ttft_s"] + 0.005, e2e_s=calls["e2e_s"] + 0.005, team="a")
    log = log[["team", "e2e_s", "ttft_s", "output_tokens", "prompt_tokens", "arrival_s"]]
    log.to_csv(path, index=False)
    return log


def fit(folder: Path, *options: str, server: str = TO_FIT, logs: tuple[str, ...] = ("log.csv",)) -> int:
    (folder / "server.toml").write_text(server)
    paths = [str(folder / name) for name in logs]
    command = ["calibrate", "fit", *paths, "--server", str(folder / "server.toml"), "-o", str(folder / "fitted.toml")]
    return main([*command, *options])


def replay(folder: Path, log: str, *options: str) -> int:
    out = str(folder / "out.csv")
    return main(["sim", "replay", str(folder / log), "--server", str(folder / "fitted.toml"), "-o", out, *options])


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a fit to log.csv, and what was printed."""
    folder = tmp_path_factory.mktemp("fit")
    write_log(folder / "log.csv")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert fit(folder) == 0
    return folder, printed.getvalue()


@pytest.fixture
def fitted(command: tuple[Path, str], tmp_path: Path) -> Path:
    """A copy of that folder, to write into."""
    return Path(shutil.copytree(command[0], tmp_path / "fitted"))


def test_a_fit_says_what_it_found_and_where_it_is(command: tuple[Path, str]) -> None:
    folder, printed = command

    assert "fixed_s" in printed
    assert "±" in printed
    assert f"wrote {folder / 'fitted.toml'}" in printed


def test_two_commands_from_a_log_to_a_prediction(fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The predicted times stand beside the rows of the log, all their columns in their order."""
    log = pd.read_csv(fitted / "log.csv")

    assert replay(fitted, "log.csv") == 0
    assert capsys.readouterr().err == ""
    out = pd.read_csv(fitted / "out.csv")
    assert list(out) == [*log.columns, "sim_ttft_s", "sim_e2e_s"]
    assert out["sim_e2e_s"].mean() == pytest.approx(log["e2e_s"].mean(), rel=0.01)
    assert out["sim_ttft_s"].mean() == pytest.approx(log["ttft_s"].mean(), rel=0.02)


def test_a_fit_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = write_log(tmp_path / "log.csv")
    log = pd.concat([log, log.tail(1).assign(output_tokens=0)])  # the last request once more, failed
    log.to_csv(tmp_path / "log.csv", index=False)

    assert fit(tmp_path, "--json") == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert answer["parameters"]["fixed_s"] == pytest.approx(0.01, rel=0.03)
    (one,) = answer["logs"]
    assert (one["requests"], one["measured"], one["failed"]) == (60, 60, 1)
    assert set(answer["std_errors"]) | set(answer["not_identified"]) == set(answer["parameters"])
    assert answer["out"] == str(tmp_path / "fitted.toml")


def test_step_times_that_are_there_are_not_looked_at(command: tuple[Path, str], fitted: Path) -> None:
    """A fitted file can be the server file of the next fit."""
    first = (fitted / "fitted.toml").read_text()

    assert fit(fitted, server=first) == 0
    assert (fitted / "fitted.toml").read_text() == first.replace(str(command[0]), str(fitted))


def test_a_heavier_replay_is_said_to_extrapolate(fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_log(fitted / "heavy.csv", gap_s=0.02)

    assert replay(fitted, "heavy.csv", "--json") == 0
    captured = capsys.readouterr()
    assert "warning: " in captured.err
    assert "arrivals in a second, the fit has seen" in captured.err
    assert any("arrivals in a second" in what for what in json.loads(captured.out)["extrapolates"])


def test_a_server_without_step_times_cannot_be_replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_log(tmp_path / "log.csv")
    (tmp_path / "fitted.toml").write_text(TO_FIT)

    assert replay(tmp_path, "log.csv") == 2
    assert "step_time: missing" in capsys.readouterr().err


def test_a_wrong_option_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_log(tmp_path / "log.csv")

    assert fit(tmp_path, server=TO_FIT.replace("max_num_seqs", "max_num_seq")) == 2
    assert "scheduler.max_num_seq: unknown key; did you mean 'max_num_seqs'?" in capsys.readouterr().err


def test_an_option_outside_its_section_is_shown_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_log(tmp_path / "log.csv")

    assert fit(tmp_path, server='model = "tiny"\nmax_num_seqs = 16\n') == 2
    assert "max_num_seqs: unknown key; it belongs into [scheduler]" in capsys.readouterr().err


def test_bad_rows_of_a_log_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log.csv").write_text(
        "arrival_s,prompt_tokens,output_tokens,ttft_s,e2e_s\n0,10,5,0.2,0.1\n1,-3,5,0.1,0.2\n0.5,10,5,inf,0.2\n"
    )

    assert fit(tmp_path) == 2
    error = capsys.readouterr().err
    assert "3 problems" in error
    assert "line 2, e2e_s: must be at least ttft_s" in error
    assert "line 4, ttft_s: must be finite" in error


def test_a_log_in_order_of_completion_is_replayed_row_by_row(fitted: Path) -> None:
    log = pd.read_csv(fitted / "log.csv")
    shuffled = log.sort_values(["output_tokens", "prompt_tokens"], ignore_index=True)
    shuffled.to_csv(fitted / "shuffled.csv", index=False)

    assert replay(fitted, "log.csv") == 0
    expected = pd.read_csv(fitted / "out.csv").set_index("arrival_s")
    assert replay(fitted, "shuffled.csv") == 0
    replayed = pd.read_csv(fitted / "out.csv")

    pd.testing.assert_frame_equal(replayed[list(shuffled)], shuffled)
    pd.testing.assert_frame_equal(replayed.set_index("arrival_s").sort_index(), expected)


def test_failed_requests_are_left_out_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A fit counts those of its server; a replay serves the whole log."""
    log = write_log(tmp_path / "log.csv").astype({"output_tokens": object})
    log.loc[::10, ["ttft_s", "e2e_s"]] = None
    log.loc[::20, "output_tokens"] = None
    log = pd.concat([log.assign(server="small"), log.assign(server="other")])
    log.to_csv(tmp_path / "log.csv", index=False)

    assert fit(tmp_path) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "log.csv: 3 failed requests, without output tokens, are left out" in told
    assert "3 requests without times load the server" in told
    assert replay(tmp_path, "log.csv") == 0
    assert "left out: 6 failed requests" in capsys.readouterr().out
    assert len(pd.read_csv(tmp_path / "out.csv")) == 114

    assert replay(tmp_path, "log.csv", "--json") == 0
    whole = json.loads(capsys.readouterr().out)
    assert (whole["requests"], whole["failed"]) == (114, 6)


def test_the_same_log_twice_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_log(tmp_path / "log.csv")

    assert fit(tmp_path, logs=("log.csv", "log.csv")) == 2
    assert "named twice" in capsys.readouterr().err


def test_the_result_must_not_replace_what_it_was_made_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_log(tmp_path / "log.csv")
    (tmp_path / "server.toml").write_text(TO_FIT)
    log, server = str(tmp_path / "log.csv"), str(tmp_path / "server.toml")

    assert main(["calibrate", "fit", log, "--server", server, "-o", log]) == 2
    assert "name a file that ends in .toml" in capsys.readouterr().err
    assert main(["calibrate", "fit", log, "--server", server, "-o", server]) == 2
    assert "is the input itself" in capsys.readouterr().err
