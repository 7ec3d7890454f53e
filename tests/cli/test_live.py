"""``inframind live`` and the simulated twin: what they write, and what they say of mistakes."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import threading
import time
import tomllib
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from live_files import MODELS, experiment, pool, replay, write_pool
from rich.console import Console

from inframind import agents
from inframind.cli import live_run, main
from inframind.cli.live_dashboard import progress_table
from inframind.cli.live_pool import launch_of
from inframind.cli.live_queries import embedder
from inframind.live import RunView, ServerView
from inframind.sim import ServerSection
from inframind.traces import ConfigError, read_run
from inframind.workflows import Replay
from inframind.workflows import replay as replay_log
from inframind.workflows.embedding import MiniLM


def test_a_live_run_and_its_simulated_twin_have_the_same_queries_and_the_same_schema(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slower = ["--time-scale", "2"]
    with pool(tmp_path):
        assert replay(tmp_path, "--strict-lengths", *slower) == 0
    twin = ["simulate", str(tmp_path / "experiment.toml"), "--policy", "jsq", "-o", str(tmp_path / "twin")]
    assert main([*twin, *slower]) == 0

    live, simulated = read_run(tmp_path / "live"), read_run(tmp_path / "twin")
    assert live.workflows is not None
    assert simulated.workflows is not None
    same = ["workflow_id", "domain", "question", "budget_s", "topology", "role_set", "outcome"]
    assert live.workflows[same].equals(simulated.workflows[same])
    assert live.workflows["correct"].notna().all()
    assert len(live.workflows) == 12
    assert set(live.workflows["budget_s"]) == {10.0, 40.0}
    late_s = live.workflows["arrival_s"] - simulated.workflows["arrival_s"]
    assert late_s.min() > -1e-6
    first = ["workflow_id", "slot", "prompt_tokens"]
    begun = [run.calls[run.calls["slot"] == 0].sort_values(first)[first] for run in (live, simulated)]
    assert begun[0].to_numpy().tolist() == begun[1].to_numpy().tolist()
    kinds = [run.config["run"] for run in (live, simulated)]
    assert [kind.pop("kind") for kind in kinds] == ["live", "simulated"]
    assert kinds[0] == kinds[1]
    assert kinds[0]["scheduler"] == "edf"
    assert (kinds[0]["rate_per_min"], kinds[0]["seed"]) == (600.0, 4)
    report = json.loads((tmp_path / "live" / "client.json").read_text())
    assert report["replay"]["agrees"]
    assert report["replay"]["commands"] == len(live.calls) + 12
    assert report["parts"][0]["loop_late_mean_s"] >= 0
    assert report["parts"][0]["arrival_late_max_s"] == pytest.approx(late_s.max(), abs=1e-6)
    printed = capsys.readouterr().out
    assert f"all {report['replay']['commands']:,} commands came out again" in printed


def test_a_trained_policy_decides_on_real_servers_and_its_log_repeats_every_decision(tmp_path: Path) -> None:
    """Named by its folder; networks choose the plan, too."""
    folder = Path(agents.__file__).parent / "data" / "l40s"
    with pool(tmp_path):
        assert replay(tmp_path, "--strict-lengths", "--policy", str(folder)) == 0

    run = read_run(tmp_path / "live")
    assert run.workflows is not None
    assert list(run.workflows["outcome"]) == ["finished"] * 12
    report = json.loads((tmp_path / "live" / "client.json").read_text())["replay"]
    assert report["agrees"]
    assert report["commands"] == len(run.calls) + 12


def test_a_log_that_does_not_repeat_the_decisions_fails_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here it is read as if it had other strategies."""

    def misread(lines: Iterable[str], *args: Any, **kwargs: Any) -> Replay:
        return replay_log((line.replace('"strategy":"', '"strategy":"Not') for line in lines), *args, **kwargs)

    monkeypatch.setattr(live_run, "replay", misread)
    with pool(tmp_path):
        assert replay(tmp_path, "--strict-lengths") == 1

    assert "the log does not repeat the run's decisions: after {" in capsys.readouterr().err
    assert not json.loads((tmp_path / "live" / "client.json").read_text())["replay"]["agrees"]
    assert read_run(tmp_path / "live").workflows is not None


def test_a_key_is_read_from_the_variable_that_the_file_names_and_written_nowhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INFRAMIND_API_KEY", "another")
    monkeypatch.delenv("MY_KEY", raising=False)
    with pool(tmp_path, api_key="secret-1") as servers:
        write_pool(tmp_path, [f'[servers.live]\nurl = "{server.url}"\napi_key_env = "MY_KEY"' for server in servers])
        assert replay(tmp_path, "--strict-lengths") == 2
        assert capsys.readouterr().err.count("it wants an API key") == 2
        monkeypatch.setenv("MY_KEY", "secret-1")
        assert replay(tmp_path, "--strict-lengths") == 0

    written = [path for path in (tmp_path / "live").rglob("*") if path.is_file()]
    assert len(written) >= 8
    assert not [path for path in written if b"secret-1" in path.read_bytes()]


def test_real_tasks_are_asked_as_chats_and_graded(tmp_path: Path) -> None:
    """A server that always writes the same answer is right where that is the answer."""
    pytest.importorskip("reasoning_gym")
    with pool(tmp_path, answer="so it is \\boxed{11}") as servers:
        assert replay(tmp_path, "--set", 'planner="single"') == 0

    bodies = [body for server in servers for body in server.seen if "messages" in body]
    assert len(bodies) == 12
    assert all("min_tokens" not in body for body in bodies)
    run = read_run(tmp_path / "live")
    assert run.workflows is not None
    assert run.workflows["correct"].notna().all()
    assert set(run.workflows["domain"]) == {"math"}
    assert set(run.calls["output_tokens"]) == {4}


@pytest.mark.usefixtures("undrawn")
def test_real_tasks_are_compared_with_the_simulated_questions_that_stand_for_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Decisions about them too, and what comes of other output lengths: live ones are of four tokens."""
    questions = [{"question": f"Capital of {country}?", "answer": "Paris"} for country in ("France", "Gaul")]
    (tmp_path / "qa.jsonl").write_text("".join(json.dumps(each) + "\n" for each in questions))
    tasks = ["--set", 'tasks=["qa:qa.jsonl"]']
    with pool(tmp_path, answer="the answer is: Paris"):
        assert replay(tmp_path, *tasks) == 0
    command = ["simulate", str(tmp_path / "experiment.toml"), "--tasks", *tasks]
    assert main([*command, "--policy", "jsq", "-o", str(tmp_path / "twin")]) == 0
    capsys.readouterr()
    folders = [str(tmp_path / name) for name in ("twin", "live")]
    assert main(["compare", *folders, "-o", str(tmp_path / "report.html"), "--json"]) == 0

    (condition,) = json.loads(capsys.readouterr().out)["conditions"]
    assert condition["decisions"]["simulated"]["num_workflows"] == 12
    live, simulated = condition["sources"]["measures"]["output_tokens"]
    assert live == 4.0 < simulated
    assert condition["sources"]["latency"]["steps_s"]["lengths"] > 0.0
    assert main(command) == 2
    assert "--tasks: only with --policy or --all" in capsys.readouterr().err


def test_the_cell_and_the_time_scale_are_chosen_on_the_command_line(tmp_path: Path) -> None:
    experiment(tmp_path)
    write_pool(tmp_path, ["", ""])
    command = ["simulate", str(tmp_path / "experiment.toml"), "--policy", "random"]
    chosen = ["--scheduler", "fcfs", "--rate", "30", "--seed", "9"]
    assert main([*command, *chosen, "-o", str(tmp_path / "plain")]) == 0
    assert main([*command, *chosen, "--time-scale", "2.5", "-o", str(tmp_path / "slow")]) == 0

    plain, slow = (read_run(tmp_path / name) for name in ("plain", "slow"))
    assert plain.workflows is not None
    assert slow.workflows is not None
    for column in ("arrival_s", "budget_s"):
        assert slow.workflows[column].to_numpy() == pytest.approx(2.5 * plain.workflows[column].to_numpy())
    assert set(plain.calls["priority"]) == {0}
    run = slow.config["run"]
    assert (run["policy"], run["scheduler"], run["rate_per_min"], run["seed"]) == ("random", "fcfs", 30.0, 9)
    assert run["time_scale"] == 2.5


def test_a_run_is_never_written_over_and_another_one_is_not_gone_on_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pool(tmp_path):
        assert replay(tmp_path, "--strict-lengths") == 0
        before = (tmp_path / "live" / "events.jsonl").read_text()
        assert replay(tmp_path, "--strict-lengths") == 2
        assert "holds a run; --resume goes on with it" in capsys.readouterr().err
        assert replay(tmp_path, "--strict-lengths", "--resume", "--seed", "7") == 2
        assert "run.seed: is now 7, and was 4" in capsys.readouterr().err
        assert replay(tmp_path, "--strict-lengths", "--resume", out="nothing") == 2
        assert "holds no run to go on with" in capsys.readouterr().err
        assert replay(tmp_path, "--strict-lengths", "--resume") == 0
        assert (tmp_path / "live" / "events.jsonl").read_text().startswith(before)
    twin = ["simulate", str(tmp_path / "experiment.toml"), "--policy", "jsq", "-o", str(tmp_path / "live")]
    assert main(twin) == 2
    assert (tmp_path / "live" / "calls.jsonl").exists()


def test_ctrl_c_leaves_a_complete_run_folder_and_resume_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pool(tmp_path, step_s=0.01) as servers:

        def interrupt() -> None:
            while sum(len(server.seen) for server in servers) < 40:
                time.sleep(0.02)
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        assert replay(tmp_path, "--strict-lengths", "--no-checks", "--set", "num_queries=60") == 130
        thread.join()
        broken = read_run(tmp_path / "live")
        assert broken.workflows is not None
        assert "stopped" in set(broken.workflows["outcome"])
        assert len(broken.workflows) < 60
        assert "--resume goes on with the others" in capsys.readouterr().err
        assert replay(tmp_path, "--strict-lengths", "--no-checks", "--resume", "--set", "num_queries=60") == 0

    run = read_run(tmp_path / "live")
    assert run.workflows is not None
    assert list(run.workflows["workflow_id"]) == [f"q{number}" for number in range(60)]
    report = json.loads((tmp_path / "live" / "client.json").read_text())
    assert report["replay"]["agrees"]
    assert len(report["parts"]) == 2


def test_servers_that_are_not_what_the_file_says_are_told_all_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pool(tmp_path, policy="fcfs", num_gpu_blocks=400):
        assert replay(tmp_path, "--strict-lengths") == 2
        told = capsys.readouterr().err
        assert "live pool: 4 problems" in told
        for name in ("s0", "s1"):
            assert f"{name}: num_blocks: the pool file says 500, the server has 400" in told
            assert f"{name}: priority: is ignored" in told
        assert replay(tmp_path, "--strict-lengths", "--no-checks", out="unchecked") == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--policy", "jqs"], "did you mean 'jsq'"),
        (["--scheduler", "eddf"], "no scheduler has this name; did you mean 'edf'"),
        (["--set", "tasks=[]"], "the experiment file has none; without, a live run needs --strict-lengths"),
        (["--policy", "clairvoyant"], "clairvoyant knows simulated answers only"),
        (["--strict-lengths"], "s0: has no [servers.live] section"),
        (["--strict-lengths", "--urls", "no.toml"], "no.toml"),
    ],
)
def test_mistakes_of_the_command_line(
    words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment(tmp_path)
    write_pool(tmp_path, ["", ""])

    assert replay(tmp_path, *words) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("live", "says"),
    [
        ("port = 8000", "needs url, of a server that runs, or model_path, of one to start, and not both"),
        ('url = "http://h:1"\nport = 8000', "port: no effect beside url"),
        ('url = "http://me:secret@h:1"', "url: must not hold a password"),
        ('model_path = "x"\nextra_args = ["--api-key", "secret"]', "extra_args: must not hold an API key"),
        ('model_path = "x"\nextra_args = ["--api_key=secret"]', "extra_args: must not hold an API key"),
        ('modelpath = "x"', "did you mean 'model_path'"),
    ],
)
def test_mistakes_of_a_live_section(live: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    experiment(tmp_path)
    write_pool(tmp_path, [f"[servers.live]\n{live}", ""])

    assert replay(tmp_path, "--strict-lengths") == 2
    told = capsys.readouterr().err
    assert says in told
    assert "secret" not in told


STAND_IN = """
import json, os, pathlib, sys, threading
sys.path.insert(0, os.environ["SUPPORT"])
from fake_vllm import Behaviour, FakeVllm
argument = lambda name: sys.argv[sys.argv.index(name) + 1]
pathlib.Path(os.environ["SEEN"], argument("--port")).write_text(json.dumps([os.getpid(), *sys.argv[1:]]))
behaviour = Behaviour(
    model=argument("--served-model-name"), policy=argument("--scheduling-policy"),
    max_num_seqs=int(argument("--max-num-seqs")), num_gpu_blocks=int(argument("--num-gpu-blocks-override")),
)
with FakeVllm(behaviour, port=int(argument("--port"))):
    threading.Event().wait()
"""


def launched(folder: Path) -> Path:
    """A pool file whose servers are started, by an interpreter whose vLLM is a stand-in."""
    package = folder / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    for level in (package, package.parent, package.parent.parent):
        (level / "__init__.py").touch()
    (package / "api_server.py").write_text(STAND_IN)
    (folder / "seen").mkdir()
    support = Path(__file__).parents[1] / "support"
    live = f"""[servers.live]
model_path = "some/model"
vllm_python = "{sys.executable}"
device_ids = [1, 3]
extra_args = ["--enforce-eager"]
env = {{ PYTHONPATH = "{folder}", SUPPORT = "{support}", SEEN = "{folder / "seen"}" }}"""
    return write_pool(folder, [live, live])


def test_the_dashboard_says_how_far_the_run_is_and_what_each_server_does() -> None:
    view = RunView(
        [ServerView(waiting=2, running=4, polled_at=9.5, in_flight=6), ServerView(polled_at=3.0, is_open=False)],
        t=10.0,
        num_arrived=8,
        num_ended=4,
        num_on_time=3,
    )
    console = Console(file=io.StringIO(), width=100)
    console.print(progress_table(view, ["s0", "s1"], 40))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]

    assert lines[0].strip() == "10 s: 8 of 40 queries came, 4 done, 75% on time"
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines[4:6]]
    assert cells == [["s0", "4", "2", "6", "0.5 s"], ["s1 (closed)", "0", "0", "0", "7.0 s"]]


def pids(folder: Path) -> list[int]:
    """Of the servers that `launched` is about."""
    return [json.loads(file.read_text())[0] for file in (folder / "seen").iterdir()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_up_starts_the_pool_as_the_file_has_it_tells_where_it_is_and_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = launched(tmp_path), tmp_path / "up"
    urls: dict[str, str] = {}

    def use() -> None:
        while not (out / "urls.toml").exists():
            time.sleep(0.05)
        urls.update(tomllib.loads((out / "urls.toml").read_text()))
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=use)
    thread.start()
    assert main(["live", "up", str(path), "--scheduling-policy", "priority", "-o", str(out)]) == 0
    thread.join()

    assert list(urls) == ["s0", "s1"]
    assert not (out / "urls.toml").exists()
    assert sorted(file.name for file in (out / "logs").iterdir()) == ["s0.log", "s1.log"]
    assert urls["s0"] in capsys.readouterr().out
    seen = [json.loads(file.read_text()) for file in (tmp_path / "seen").iterdir()]
    assert not any(is_alive(pid) for pid, *_ in seen)
    for _, *arguments in seen:
        given = dict(pairwise(arguments))
        assert given["--model"] == "some/model"
        assert given["--scheduling-policy"] == "priority"
        assert (given["--max-num-seqs"], given["--max-num-batched-tokens"]) == ("4", "2048")
        assert (given["--num-gpu-blocks-override"], given["--max-model-len"]) == ("500", "2048")
        assert {"--enable-prefix-caching", "--async-scheduling", "--enforce-eager"} <= set(arguments)


def test_replay_starts_a_pool_of_its_own_and_stops_it(tmp_path: Path) -> None:
    launched(tmp_path)
    experiment(tmp_path)

    assert replay(tmp_path, "--strict-lengths") == 0
    seen = [json.loads(file.read_text()) for file in (tmp_path / "seen").iterdir()]
    assert len(seen) == 2
    assert not any(is_alive(pid) for pid, *_ in seen)
    assert sorted(file.name for file in (tmp_path / "live" / "logs").iterdir()) == ["s0.log", "s1.log"]
    assert "PYTHONPATH" not in (tmp_path / "live" / "config.toml").read_text()


def test_a_server_that_cannot_start_ends_it_with_its_last_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the other one, which could."""
    path = launched(tmp_path)
    second_fails = f"""
import os, sys, time
if {MODELS[1]!r} in sys.argv:
    while not os.listdir(os.environ["SEEN"]):
        time.sleep(0.05)
    raise SystemExit("no such model")
"""
    (tmp_path / "vllm" / "entrypoints" / "openai" / "api_server.py").write_text(second_fails + STAND_IN)

    assert main(["live", "up", str(path), "-o", str(tmp_path / "up")]) == 1
    told = capsys.readouterr().err
    assert "the server ended with exit code 1" in told
    assert "s1.log ends: no such model" in told
    assert pids(tmp_path)
    assert not any(map(is_alive, pids(tmp_path)))


def test_a_server_that_ends_while_they_are_kept_ends_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = launched(tmp_path), tmp_path / "up"

    def kill_one() -> None:
        while not (out / "urls.toml").exists():
            time.sleep(0.05)
        os.kill(pids(tmp_path)[0], signal.SIGKILL)

    thread = threading.Thread(target=kill_one)
    thread.start()
    assert main(["live", "up", str(path), "-o", str(out)]) == 1
    thread.join()

    assert "the server ended with exit code -9" in capsys.readouterr().err
    assert len(pids(tmp_path)) == 2
    assert not any(map(is_alive, pids(tmp_path)))
    assert not (out / "urls.toml").exists()


def test_what_failed_its_checks_is_no_run_and_the_same_command_begins_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pool(tmp_path, num_gpu_blocks=400) as servers:
        assert replay(tmp_path, "--strict-lengths") == 2
        for server in servers:
            server.behaviour.num_gpu_blocks = 500
        assert replay(tmp_path, "--strict-lengths") == 0
        capsys.readouterr()
        assert replay(tmp_path, "--strict-lengths") == 2
    assert "holds a run; --resume goes on with it" in capsys.readouterr().err


def test_every_scheduler_option_of_a_pool_file_becomes_one_of_vllms() -> None:
    """Here none has vLLM's default."""
    scheduler = {
        "policy": "priority",
        "max_num_seqs": 4,
        "max_num_batched_tokens": 4096,
        "block_size": 32,
        "num_blocks": 500,
        "max_model_len": 2048,
        "enable_prefix_caching": False,
        "async_scheduling": False,
        "enable_chunked_prefill": False,
        "long_prefill_token_threshold": 7,
        "scheduler_reserve_full_isl": False,
        "watermark": 0.1,
    }
    server = ServerSection.model_validate(
        {
            "name": "s",
            "model": "m",
            "scheduler": scheduler,
            "live": {"model_path": "some/model"},
            "step_time": {"fixed_s": 1, "prefill_token_s": 0, "decode_s": 0},
        }
    )
    arguments = launch_of(server, Path(), None).arguments
    given = dict(pairwise(arguments))
    vllms = {"policy": "scheduling-policy", "num_blocks": "num-gpu-blocks-override"}

    assert scheduler.keys() == type(server.scheduler).model_fields.keys()
    for name, value in scheduler.items():
        option = vllms.get(name, name.replace("_", "-"))
        assert f"--no-{option}" in arguments if value is False else given[f"--{option}"] == str(value)


def test_without_embeddings_a_note_says_once_how_tasks_are_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> MiniLM:
        raise ConfigError("query embeddings", ["need the package 'x'"])

    monkeypatch.setattr(MiniLM, "from_package", missing)
    embedder.cache_clear()
    (tmp_path / "qa.jsonl").write_text('{"question": "Capital of France?", "answer": "Paris"}\n')
    words = ["--set", 'tasks=["qa:qa.jsonl"]', "--set", "num_queries=2", "--set", 'planner="single"', "--no-checks"]
    with pool(tmp_path, answer="Answer: Paris"):
        for out in ("one", "two"):
            assert replay(tmp_path, *words, out=out) == 0
    embedder.cache_clear()

    told = capsys.readouterr().err
    assert told.count("note: query embeddings need the package 'x'; without, tasks count as their domain's median") == 1
    workflows = read_run(tmp_path / "one").workflows
    assert workflows is not None
    assert workflows["correct"].all()
