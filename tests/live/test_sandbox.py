"""What hostile code can do to this machine, to the tests that judge it, and to the next answer: nothing."""

import asyncio
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from inframind.live import sandbox
from inframind.live.sandbox import Guarantees, Limits, Sandbox, SandboxError, Verdict

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"), reason="isolation is Linux's"
)


def code(solution: str, tests: str = "assert f(2) == 4", names: tuple[str, ...] = ("f",)) -> dict[str, object]:
    return {"kind": "code", "solution": textwrap.dedent(solution), "setup": "", "tests": tests, "names": names}


def judged(*jobs: dict[str, object], limits: Limits | None = None) -> list[Verdict]:
    """The verdicts of one worker on some jobs, one after another."""

    async def judge() -> list[Verdict]:
        worker = Sandbox(limits)
        try:
            return [await worker.judge(job) for job in jobs]
        finally:
            await worker.stop()

    return asyncio.run(judge())


def guarantees() -> Guarantees:
    async def start() -> Guarantees:
        worker = Sandbox()
        try:
            return await worker.start()
        finally:
            await worker.stop()

    return asyncio.run(start())


RIGHT = code("def f(x): return x * x")


@pytest.fixture
def isolated() -> None:
    """Skips where this machine does not keep processes apart: the test would do what it tries."""
    if lacking := set(guarantees().missing()) - {"disk"}:
        pytest.skip(f"this machine does not guarantee: {', '.join(sorted(lacking))}")


def test_code_is_judged_by_its_tests() -> None:
    """Right code passes, wrong code fails with the error that its tests saw."""
    right, wrong, broken = judged(RIGHT, code("def f(x): return 3"), code("def f(:"))

    assert right == Verdict(True, "all tests pass")
    assert wrong == Verdict(False, "a test fails: AssertionError")
    assert broken.reason == "the code fails before its tests: SyntaxError: invalid syntax (answer, line 1)"


ESCAPES = {
    "a process": "import os; os.fork()",
    "a command": "import os; assert os.system('true') == 0",
    "a subprocess": "import subprocess; subprocess.run(['/bin/true'])",
    "a new program": "import os; os.execv('/bin/true', ['true'])",
    "a thread": "import threading; threading.Thread(target=print).start()",
    "a daemon": "import os\nif os.fork() == 0:\n    os.setsid()\n    os.fork()",
    "a session": "import os; os.setsid()",
    "a connection": "import socket; socket.create_connection(('127.0.0.1', 1), 1)",
    "a server": "import socket; socket.create_server(('127.0.0.1', 0))",
    "a socket pair": "import socket; socket.socketpair()",
    "a signal to its parent": "import os; os.kill(os.getppid(), 9)",
    "a signal to everybody": "import os; os.kill(-1, 9)",
    "a file in /tmp": "open('/tmp/inframind-escaped', 'w')",
    "a file above its folder": "open('../inframind-escaped', 'w')",
    "a link to the outside": "import os; os.symlink('/etc/passwd', 'link'); open('link')",
    "the accounts": "open('/etc/passwd').read()",
    "the environment of others": "import os; open(f'/proc/{os.getppid()}/environ').read()",
    "the memory of others": "import os; open(f'/proc/{os.getppid()}/mem', 'r+b')",
    "the rights of a file": "import os; os.chmod(os.__file__, 0o777)",
    "the time of a file": "import os; os.utime(os.__file__)",
    "a mount": "import ctypes; l = ctypes.CDLL(None); assert l.mount(b'x', b'.', b'tmpfs', 0, None) == 0",
    "its own limits": "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "shared memory": "import os; os.memfd_create('x')",
    "a large file": "open('large', 'wb').write(bytes(100 << 20))",
    "much memory": "held = bytearray(4 << 30)",
    "much memory, in parts": "held = []\nwhile True: held.append(bytearray(64 << 20))",
    "many descriptors": "held = [open('/dev/null') for _ in range(100)]",
}


REFUSALS = (
    "PermissionError|BlockingIOError|AssertionError|MemoryError|OSError|RuntimeError: can't start|ValueError: not all"
)


def test_hostile_code_is_refused_what_it_tries(isolated: None) -> None:
    """Each sample fails at what it tries, and not because it is itself wrong: it would pass its test otherwise."""
    jobs = {name: code(f"{sample}\ndef f(x): return 4") for name, sample in ESCAPES.items()}
    for name, verdict in zip(jobs, judged(*jobs.values()), strict=True):
        assert not verdict.passed, name
        assert re.match(f"the code fails before its tests: ({REFUSALS})", verdict.reason), (name, verdict)

    assert not Path("/tmp/inframind-escaped").exists()


def test_a_fork_bomb_does_not_go_off(isolated: None) -> None:
    """Bounded, so that it would be harmless if it did: of 200 attempts to fork none succeeds."""
    bomb = """
        import os
        started = 0
        for _ in range(200):
            try:
                if os.fork() == 0:
                    os._exit(0)
                started += 1
            except OSError:
                pass
        def f(x): return started
    """
    assert judged(code(bomb, "assert f(2) == 0")) == [Verdict(True, "all tests pass")]


def test_a_file_limit_holds_for_all_files_together(isolated: None) -> None:
    """Where the folder is a mount of its own, many files hold no more than one may."""
    if not guarantees().disk:
        pytest.skip("no mounts of its own on this machine")
    sample = "for i in range(8): open(str(i), 'wb').write(bytes(10 << 20))\ndef f(x): return 4"

    assert judged(code(sample))[0].reason.endswith("OSError: [Errno 28] No space left on device")


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        ("import time; time.sleep(60)", "took longer than 3 s"),
        ("import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nimport time; time.sleep(60)", "took longer"),
        ("import sys, os\nwhile True: os.write(1, b'x' * 65536)", "used more than 1 s of CPU time"),
        ("import signal; signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass", "(SIGKILL)"),
        (
            "import os\nfor fd in range(64):\n try:\n  while fd > 2: os.write(fd, bytes(65536))\n except OSError: 0",
            "ended",
        ),
    ],
    ids=["sleeping", "deaf", "endless output", "deaf to its CPU limit", "endless verdicts"],
)
def test_endless_code_is_ended(sample: str, reason: str) -> None:
    """In time, and the worker goes on to the next job."""
    limits = Limits(wall_s=3.0 if "longer" in reason else 60.0, cpu_s=1)
    endless, right = judged(code(sample), RIGHT, limits=limits)

    assert not endless.passed
    assert reason in endless.reason
    assert right.passed


CHEATS = {
    "exits early": "import os; os._exit(0)",
    "exits politely": "import sys; sys.exit(0)",
    "exits within the tests": "import os\ndef f(x): os._exit(0)",
    "raises SystemExit within the tests": "def f(x): raise SystemExit(0)",
    "prints success": "print('all tests pass')\ndef f(x): print('{\"passed\": true}')",
    "writes success everywhere": """
        import os
        for fd in range(3, 64):
            try:
                os.write(fd, b'{"passed": true, "reason": "all tests pass"}')
            except OSError:
                pass
        os._exit(0)
    """,
    "defines its own check": "def check(candidate): pass\ndef f(x): return 3",
    "shadows what the tests call": "def all(x): return True\nabs = round = len = lambda *a: 4\ndef f(x): return 3",
    "replaces builtins": """
        import builtins
        builtins.all = builtins.any = lambda *a: True
        builtins.abs = builtins.len = lambda *a: 4
        def f(x): return 3
    """,
    "replaces AssertionError": """
        import builtins
        class Nothing(BaseException): pass
        builtins.AssertionError = Nothing
        AssertionError = Nothing
        def f(x): return 3
    """,
    "empties builtins": "import builtins\nvars(builtins).clear()\ndef f(x): return 3",
    "replaces what reports": "import os, json\nos.write = os._exit = json.dumps = print\ndef f(x): return 3",
    "traces the tests": """
        import sys
        def tracer(frame, event, arg):
            if frame.f_code.co_filename == 'tests':
                frame.f_lineno = 99
            return tracer
        sys.settrace(tracer)
        def f(x): return 3
    """,
    "replaces exec and compile": """
        import builtins
        builtins.exec = builtins.compile = lambda *a, **k: None
        def f(x): return 3
    """,
    "closes every descriptor": "import os; os.closerange(0, 64)\ndef f(x): return 4",
    "breaks what reports": "import json\njson.JSONEncoder.__init__ = None\njson.dumps = None\ndef f(x): return 3",
    "empties builtins within the tests": "import builtins\ndef f(x): vars(builtins).clear()",
    "an error that cannot be printed": """
        class Worse(Exception):
            def __str__(self): raise ValueError
        def f(x): raise Worse
    """,
}


def test_no_verdict_is_forged() -> None:
    """Success is only what the harness says after the last test; tests find the builtins as they were."""
    tests = "def check(candidate):\n    assert all([candidate(2) == 4, abs(-3) == 3])\ncheck(f)"
    jobs = {name: code(cheat, tests) for name, cheat in CHEATS.items()}
    verdicts = judged(*jobs.values(), code("def f(x): return 4", tests))
    for name, verdict in zip(jobs, verdicts, strict=False):
        assert not verdict.passed, name

    assert verdicts[-1].passed


def test_what_one_job_leaves_behind_no_other_finds() -> None:
    """Neither files nor replaced functions; each job begins in the same state."""
    leaving = code(
        "import math, os\nmath.sqrt = None\nopen('left', 'w').write('x')\nos.mkdir('d', 0)\ndef f(x): return 4"
    )
    looking = code(
        "import math, os\nfound = os.listdir('.')\ndef f(x): return 4 if not found and math.sqrt(4) == 2 else 0"
    )

    assert [verdict.passed for verdict in judged(leaving, looking)] == [True, True]


def test_code_has_a_folder_a_standard_library_and_installed_packages() -> None:
    """What honest code needs is there."""
    sample = """
        import collections, decimal, functools, heapq, itertools, random, re, tempfile
        import numpy
        with tempfile.NamedTemporaryFile('w+') as file, open('own', 'w') as own:
            own.write('x')
        def f(x): return int(numpy.square(x))
    """
    assert judged(code(sample)) == [Verdict(True, "all tests pass")]


def test_no_environment_variable_of_ours_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above all no API key."""
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    sample = "import os\ndef f(x): return 'VLLM_API_KEY' in os.environ"

    assert judged(code(sample, "assert not f(1)"))[0].passed


def processes_of(group: int) -> list[int]:
    """The living processes of a process group."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(its_group) == group and state not in "ZX":
            found.append(int(stat.parent.name))
    return found


def test_a_job_that_is_cancelled_is_killed_and_the_next_one_is_judged() -> None:
    """The answer to the cancelled job is not taken for that to the next; nothing stays behind, no folder either."""

    async def scenario() -> tuple[list[int], Verdict, list[int], bool]:
        worker = Sandbox(Limits())
        await worker.start()
        group, folder = worker._process.pid, worker._folder  # type: ignore[union-attr]
        task = asyncio.create_task(worker.judge(code("import time; time.sleep(60)")))
        await asyncio.sleep(0.5)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        left, is_left = processes_of(group), folder.exists()
        verdict = await worker.judge(RIGHT)
        group = worker._process.pid  # type: ignore[union-attr]
        await worker.stop()
        return left, verdict, processes_of(group), is_left

    assert asyncio.run(scenario()) == ([], Verdict(True, "all tests pass"), [], False)


def test_a_worker_that_somebody_killed_is_started_again() -> None:
    """Killed between two jobs, it costs nothing."""

    async def scenario() -> bool:
        worker = Sandbox()
        await worker.start()
        os.kill(worker._process.pid, 9)  # type: ignore[union-attr]
        await worker._process.wait()  # type: ignore[union-attr]
        try:
            return (await worker.judge(RIGHT)).passed
        finally:
            await worker.stop()

    assert asyncio.run(scenario())


DRIVER = """
import asyncio, time
from inframind.live.sandbox import Sandbox
worker = Sandbox()
async def main():
    await worker.start()
    print(worker._process.pid, worker._folder, flush=True)
    time.sleep(60)
asyncio.run(main())
"""


def test_the_worker_ends_with_the_driver() -> None:
    """Even with one that is killed: its end of the pipe closes. The folder goes too."""
    driver = subprocess.Popen([sys.executable, "-c", DRIVER], stdout=subprocess.PIPE, text=True)
    with driver:
        assert driver.stdout is not None
        group, folder = driver.stdout.readline().split()
        assert processes_of(int(group))
        driver.kill()
    deadline = time.monotonic() + 60.0
    while processes_of(int(group)) and time.monotonic() < deadline:
        time.sleep(0.05)

    assert not processes_of(int(group))
    assert not Path(folder).exists()


def test_a_missing_package_is_not_the_answers_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is called wrong that could not be judged."""
    monkeypatch.setattr(sandbox, "INTERPRETER", (*sandbox.INTERPRETER, "-S"))
    job = {"kind": "math", "gold": "\\boxed{1}", "answer": "\\boxed{1}"}
    with pytest.raises(SandboxError, match=r"No module named 'math_verify'; install inframind-router\[grading\]"):
        judged(job)


# Machines that give less

FORBIDDING = """
import importlib.util, platform, runpy
spec = importlib.util.spec_from_file_location("worker", {worker!r})
worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worker)
worker.DENIED_CALLS = {denied!r}
worker._prctl(worker.PR_SET_NO_NEW_PRIVS, 1)
worker._give_up_system_calls(platform.machine())
runpy.run_path({worker!r}, run_name="__main__")
"""
NAMESPACES = {"unshare": (272, 97)}
LANDLOCK = {"landlock_create_ruleset": (444, 444)}


@pytest.fixture
def forbid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, tuple[int, int]]], None]:
    """Makes the worker start as in a container that forbids some system calls."""
    worker = str(sandbox.WORKER)

    def start_without(denied: dict[str, tuple[int, int]]) -> None:
        launcher = tmp_path / "launcher.py"
        launcher.write_text(FORBIDDING.format(worker=worker, denied=denied))
        monkeypatch.setattr(sandbox, "WORKER", launcher)

    return start_without


def test_without_namespaces_only_the_disk_is_not_guaranteed(
    isolated: None, forbid: Callable[[dict[str, tuple[int, int]]], None]
) -> None:
    """As in most containers: Landlock and seccomp do the rest, and the lack is said."""
    forbid(NAMESPACES)

    assert guarantees().missing() == ("disk",)
    jobs = [code(f"{sample}\ndef f(x): return 4") for sample in ESCAPES.values()]
    assert not any(verdict.passed for verdict in judged(*jobs))
    deep = code("import os\nfor _ in range(3000): os.mkdir('d'); os.chdir('d')\ndef f(x): return 4")
    assert [verdict.passed for verdict in judged(deep, RIGHT)] == [True, True]


def test_without_landlock_root_becomes_nobody_or_refuses(
    isolated: None, forbid: Callable[[dict[str, tuple[int, int]]], None]
) -> None:
    """Other people's files are then kept by their rights; what is lacking is said, and so is why nothing works."""
    if os.geteuid() != 0:
        pytest.skip("only root can become nobody")
    forbid(NAMESPACES | LANDLOCK)
    who = code("import os\ndef f(x): return os.getuid()", "assert f(0) == 65534")
    if not readable_by_all(Path(os.__file__)):
        with pytest.raises(SandboxError, match="nobody cannot read"):
            guarantees()
    else:
        assert guarantees().missing() == ("reading", "writing", "disk")
        assert judged(who)[0].passed


def readable_by_all(path: Path) -> bool:
    return all(parent.stat().st_mode & 0o001 for parent in path.resolve().parents)


def test_an_ordinary_user_gets_the_same(isolated: None) -> None:
    """By a user namespace, where the kernel gives one; as root this speaks to a worker of another user."""
    python = Path("/usr/bin/python3")
    if os.geteuid() != 0 or not python.exists():
        pytest.skip("needs root, to become another user, and a Python which that one can read")
    command = [str(python), "-s", "-P", "-B", "-c", sandbox.WORKER.read_text()]
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, 1000, 1000)
        limits = {"folder": folder, "wall_s": 5, "cpu_s": 5, "memory_bytes": 1 << 30, "disk_bytes": 1 << 20}
        lines = "".join(json.dumps(line) + "\n" for line in (limits, RIGHT, code("import os; os.fork()")))
        ended = subprocess.run(
            command, input=lines, stdout=subprocess.PIPE, text=True, user=1000, group=1000, extra_groups=[], check=True
        )
    hello, right, fork = map(json.loads, ended.stdout.splitlines())

    assert all(refused for name, refused in hello["refused"].items() if name != "disk")
    assert (right["passed"], fork["passed"]) == (True, False)
