"""Starting and stopping a server process, with a stand-in for vLLM that has a child of its own, as vLLM does."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from inframind.live import Launch, LaunchError, VllmServer, running_pool, wait_until_healthy
from inframind.traces import ConfigError

STAND_IN = """
import http.server, os, pathlib, signal, subprocess, sys
port = int(sys.argv[sys.argv.index("--port") + 1])
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path(os.environ["PIDS"]).write_text(f"{os.getpid()} {child.pid}")
if "--stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "--broken" in sys.argv:
    print("no such model", flush=True)
    child.kill()
    sys.exit(3)
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503 if "--ill" in sys.argv else 200)
        self.end_headers()
    def log_message(self, *_):
        pass
http.server.HTTPServer(("127.0.0.1", port), Health).serve_forever()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def server(folder: Path, *arguments: str, cpus: tuple[int, ...] = ()) -> VllmServer:
    package = folder / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    for level in (package, package.parent, package.parent.parent):
        (level / "__init__.py").touch()
    (package / "api_server.py").write_text(STAND_IN)
    environment = {"PYTHONPATH": str(folder), "PIDS": str(folder / "pids")}
    return VllmServer(
        sys.executable,
        "a-model",
        port=free_port(),
        log=folder / "server.log",
        arguments=arguments,
        cpus=cpus,
        environment=environment,
    )


def is_alive(pid: int) -> bool:
    """Whether it runs: a zombie that nobody has waited for does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def pids(folder: Path) -> list[int]:
    return [int(pid) for pid in (folder / "pids").read_text().split()]


def test_a_server_runs_until_it_is_stopped_and_leaves_no_process(tmp_path: Path) -> None:
    with server(tmp_path) as vllm:
        wait_until_healthy([vllm], 20)
        assert all(is_alive(pid) for pid in pids(tmp_path))

    assert not any(is_alive(pid) for pid in pids(tmp_path))


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="only Linux ties processes to CPUs")
def test_a_server_and_what_it_starts_stay_on_its_cpus(tmp_path: Path) -> None:
    last = max(os.sched_getaffinity(0))
    with server(tmp_path, cpus=(last,)) as vllm:
        wait_until_healthy([vllm], 20)
        found = [os.sched_getaffinity(pid) for pid in pids(tmp_path)]

    assert found == [{last}, {last}]


def test_a_cpu_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"cpus: this process may not use 4096"):
        server(tmp_path, cpus=(0, 4096)).start()


def test_an_interpreter_that_is_not_there_is_told(tmp_path: Path) -> None:
    """So is one that may not be run."""
    (tmp_path / "python").touch()
    for name, why in (("pyhton", "No such file or directory"), ("python", "Permission denied")):
        vllm = VllmServer(tmp_path / name, "m", port=free_port(), log=tmp_path / "log")
        with pytest.raises(LaunchError, match=rf"{name}: cannot be run: {why}"):
            vllm.start()
        vllm.stop()


def test_a_server_that_has_the_port_already_is_not_taken_for_ours(tmp_path: Path) -> None:
    vllm = server(tmp_path)
    port = int(vllm.url.rpartition(":")[2])
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(LaunchError, match="something listens there already; name another port"),
    ):
        vllm.start()

    assert not (tmp_path / "pids").exists()


def test_no_two_servers_of_a_pool_have_one_port(tmp_path: Path) -> None:
    launches = [Launch(name, sys.executable, "m", (), port) for name, port in (("a", 8000), ("b", None), ("c", 8000))]

    with pytest.raises(ConfigError, match="port 8000: asked for by a and c"), running_pool(launches, tmp_path):
        pass


def test_one_that_ignores_the_polite_signal_is_killed(tmp_path: Path) -> None:
    vllm = server(tmp_path, "--stubborn")
    vllm.start()
    wait_until_healthy([vllm], 20)
    begin = time.monotonic()
    vllm.stop(grace_s=0.5)

    assert not any(is_alive(pid) for pid in pids(tmp_path))
    assert time.monotonic() - begin < 8


def test_one_that_ends_while_starting_is_told_with_its_last_words(tmp_path: Path) -> None:
    with server(tmp_path, "--broken") as vllm, pytest.raises(LaunchError) as error:
        wait_until_healthy([vllm], 20)

    assert "ended with exit code 3" in str(error.value)
    assert str(error.value).endswith("server.log ends: no such model")


def test_one_that_never_becomes_healthy_is_given_up(tmp_path: Path) -> None:
    with server(tmp_path, "--ill") as vllm, pytest.raises(LaunchError, match=r"not healthy after 1\.5 s"):
        wait_until_healthy([vllm], 1.5)

    assert not any(is_alive(pid) for pid in pids(tmp_path))


def test_stopping_twice_or_before_the_start_does_nothing(tmp_path: Path) -> None:
    vllm = server(tmp_path)
    vllm.stop()
    vllm.start()
    vllm.stop()
    vllm.stop()

    assert not (tmp_path / "pids").exists() or not any(is_alive(pid) for pid in pids(tmp_path))


def test_a_server_ends_when_the_program_that_started_it_is_killed(tmp_path: Path) -> None:
    """Killed outright, it can stop nothing itself."""
    server(tmp_path)
    code = (
        "import sys; from inframind.live import VllmServer, wait_until_healthy; from pathlib import Path\n"
        f"vllm = VllmServer(sys.executable, 'm', port={free_port()}, log=Path({str(tmp_path / 'log')!r}),\n"
        f"    environment={{'PYTHONPATH': {str(tmp_path)!r}, 'PIDS': {str(tmp_path / 'pids')!r}}})\n"
        "vllm.start(); wait_until_healthy([vllm], 20); sys.stdin.read()"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    while not (tmp_path / "pids").exists():
        time.sleep(0.05)
    (api_server, child) = pids(tmp_path)
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 10
    while is_alive(api_server) and time.monotonic() < deadline:
        time.sleep(0.05)

    assert not is_alive(api_server)
    os.kill(child, signal.SIGKILL)  # the stand-in's; vLLM stops its own
