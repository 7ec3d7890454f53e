"""The process that judges answers, kept away from everything else; `sandbox.Sandbox` starts it and talks to it.

It is run as a script, by its path, with the standard library alone: a package import would load pandas and HTTP
clients into the memory that hostile code gets to see, and their threads would not survive the fork. Line 1 of stdin
holds the limits, line 1 of stdout what is kept away here, found by trying it; then each line is a job, answered by
a line. Every job runs in a forked child of its own, which gives up, in this order: its file descriptors, resources
(``setrlimit``), root (if it was), capabilities, files (Landlock) and system calls (seccomp). The child can start
neither process nor thread, so killing it kills all of it.
"""

from __future__ import annotations

import builtins
import contextlib
import ctypes
import json
import os
import platform
import random
import resource
import secrets
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

Job: TypeAlias = dict[str, Any]
Judge: TypeAlias = Callable[[], tuple[bool, str]]

NOBODY = 65534
VERDICT_BYTES = 65536
REASON_CHARACTERS = 300
PR_SET_PDEATHSIG = 1
PR_SET_SECCOMP = 22
PR_SET_NO_NEW_PRIVS = 38
CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWNET = 0x00020000, 0x08000000, 0x10000000, 0x40000000
MS_NOSUID_NODEV = 2 | 4
MS_REC_PRIVATE = 0x4000 | (1 << 18)
MNT_DETACH = 2

LANDLOCK_CREATE, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT = 444, 445, 446
"""System call numbers, the same on every architecture (Linux 5.13)."""
LANDLOCK_RIGHTS = {1: 0x1FFF, 2: 0x3FFF, 3: 0x7FFF, 4: 0x7FFF, 5: 0xFFFF}
"""Rights over files that an ABI version knows; later versions know those of version 5."""
LANDLOCK_READ = 0x1 | 0x4 | 0x8
"""Execute (which shared libraries need), read a file, list a folder."""
LANDLOCK_FILE = 0x1 | 0x2 | 0x4 | 0x4000 | 0x8000
"""Rights that a rule for a file, not a folder, may name."""

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
X32_BIT = 0x40000000
"""Set in the numbers of x86_64's second table of system calls, which would go around the first."""

# name: (x86_64, aarch64) as in Linux's unistd_64.h and asm-generic/unistd.h; None where there is no such call.
DENIED_CALLS: dict[str, tuple[int | None, int | None]] = {
    # Processes and threads.
    "fork": (57, None),
    "vfork": (58, None),
    "clone": (56, 220),
    "clone3": (435, 435),
    "execve": (59, 221),
    "execveat": (322, 281),
    "setsid": (112, 157),
    "setpgid": (109, 154),
    # Network, and other ways to get at sockets.
    "socket": (41, 198),
    "socketpair": (53, 199),
    "io_uring_setup": (425, 425),
    # Other processes of the same user.
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "prlimit64": (302, 261),
    "setpriority": (141, 140),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "ioprio_set": (251, 30),
    # What Landlock leaves open on files (Linux, Documentation/userspace-api/landlock.rst, Current limitations).
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    # Memory that outlives the process, or that RLIMIT_AS does not see.
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    # The kernel's own doors.
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "unshare": (272, 97),
    "setns": (308, 268),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
}


def main() -> None:
    """Judge jobs until stdin ends."""
    limits = json.loads(sys.stdin.buffer.readline())
    # The system should take its time and its memory from here first.
    os.nice(5)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")
    worker = Worker(limits)
    _reply(worker.probe())
    for line in sys.stdin.buffer:
        _reply(worker.judge(json.loads(line)))
    # A driver that ends a worker removes its folder; this one was left alone.
    _remove(limits["folder"])


def _reply(answer: Job) -> None:
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
    sys.stdout.buffer.flush()


class Worker:
    """Forks a child for each job, waits for its verdict, and kills it."""

    def __init__(self, limits: Job) -> None:
        self._limits = limits
        self._listener = socket.create_server(("127.0.0.1", 0))
        """For the probe: opened before the network is given up, so that it stands where the real servers stand."""
        self._own_mounts = _enter_namespaces()

    def probe(self) -> Job:
        """Try, in a child, what a job must not do; True stands for "could not"."""
        outside = Path(self._limits["folder"]) / "outside"
        outside.mkdir()
        outside.chmod(0o777)
        (outside / "file").write_text("readable by anyone")
        job = {"kind": "probe", "outside": str(outside), "port": self._listener.getsockname()[1]}
        found = self.judge(job)
        self._listener.close()
        if "failure" in found:
            return found
        return {"refused": {**json.loads(found["reason"]), "disk": self._own_mounts}}

    def judge(self, job: Job) -> Job:
        """Return ``{"passed": bool, "reason": str}``, or ``{"failure": str}`` where the fault is not the answer's."""
        try:
            judge = PREPARE[job["kind"]](job)
        except ImportError as error:
            return {"failure": f"{error}; install inframind-router[grading]"}
        except LookupError as error:
            return {"failure": str(error)}
        with self._throw_away_folder() as folder:
            return self._run(judge, folder)

    @contextlib.contextmanager
    def _throw_away_folder(self) -> Iterator[Path]:
        folder = tempfile.mkdtemp(dir=self._limits["folder"])
        options = f"size={self._limits['disk_bytes']},mode=0777"
        if self._own_mounts:
            _call("mount", b"tmpfs", folder.encode(), b"tmpfs", ctypes.c_ulong(MS_NOSUID_NODEV), options.encode())
        else:
            Path(folder).chmod(0o777)
        try:
            yield Path(folder)
        finally:
            if self._own_mounts:
                _call("umount2", folder.encode(), MNT_DETACH)
            _remove(folder)

    def _run(self, judge: Judge, folder: Path) -> Job:
        # New for each job: what one child has learnt forges nothing in the next.
        token = secrets.token_bytes(16)
        receive, send = os.pipe()
        child = os.fork()
        if child == 0:
            _child(judge, folder, self._limits, send, token)
        os.close(send)
        try:
            said = _read_all(receive, time.monotonic() + self._limits["wall_s"])
        finally:
            os.close(receive)
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
        if said is not None and said.startswith(token):
            with contextlib.suppress(ValueError):
                answer: Job = json.loads(said.removeprefix(token))
                return answer
        return {"passed": False, "reason": self._why_no_verdict(said, status)}

    def _why_no_verdict(self, said: bytes | None, status: int) -> str:
        if said is None:
            return f"took longer than {self._limits['wall_s']:g} s"
        # A child that ended by itself has its own status: the SIGKILL comes too late for it.
        ended_by = os.WTERMSIG(status)
        if ended_by == signal.SIGXCPU:
            return f"used more than {self._limits['cpu_s']:g} s of CPU time"
        how = f" ({signal.Signals(ended_by).name})" if ended_by and not said else ""
        return f"ended before its tests did{how}"


def _remove(folder: str) -> None:
    # Python's own rmtree recurses, and an answer may leave folders in folders without end.
    subprocess.run(["rm", "-rf", "--", folder], check=False)


def _read_all(pipe: int, deadline: float) -> bytes | None:
    """Everything up to the end, but no more than a verdict needs; None if the end does not come in time."""
    said = b""
    while len(said) <= VERDICT_BYTES:
        ready, _, _ = select.select([pipe], [], [], max(deadline - time.monotonic(), 0.0))
        if not ready:
            return None
        part = os.read(pipe, VERDICT_BYTES)
        if not part:
            break
        said += part
    return said


def _child(judge: Judge, folder: Path, limits: Job, send: int, token: bytes) -> NoReturn:
    # Kept here, so that an answer that replaces them in their modules stops nothing.
    write, leave, dumps = os.write, os._exit, json.dumps
    try:
        _give_up_descriptors(keep=send)
        os.chdir(folder)
        _give_up_resources(limits)
        _give_up_rights(folder)
    except BaseException as error:
        write(send, token + dumps({"failure": f"{type(error).__name__}: {error}"}).encode())
        leave(1)
    try:
        tempfile.tempdir = str(folder)
        random.seed(0)
        try:
            passed, reason = judge()
        except BaseException as error:
            passed, reason = False, _said(error)
        write(send, token + dumps({"passed": passed, "reason": reason[:REASON_CHARACTERS]}).encode())
    finally:
        # Whatever the answer has broken, its process must not go on as a worker.
        leave(0)


# What is given up


def _enter_namespaces() -> bool:
    """Leave the network, shared memory and mounts of the machine; return whether mounts of one's own are possible."""
    if sys.platform != "linux":
        return False
    wanted = CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWNET
    uid, gid = os.getuid(), os.getgid()
    try:
        _call("unshare", wanted)
    except OSError:
        try:
            _call("unshare", wanted | CLONE_NEWUSER)
        except OSError:
            return False
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    _call("mount", None, b"/", None, ctypes.c_ulong(MS_REC_PRIVATE), None)
    return True


def _give_up_descriptors(keep: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.closerange(3, keep)
    os.closerange(keep + 1, 4096)


def _give_up_resources(limits: Job) -> None:
    cpu_s = limits["cpu_s"]
    for what, soft, hard in (
        (resource.RLIMIT_CORE, 0, 0),
        # The soft limit's signal can be ignored, the hard one's cannot.
        (resource.RLIMIT_CPU, cpu_s, cpu_s + 1),
        (resource.RLIMIT_AS, limits["memory_bytes"], limits["memory_bytes"]),
        (resource.RLIMIT_FSIZE, limits["disk_bytes"], limits["disk_bytes"]),
        (resource.RLIMIT_NOFILE, 64, 64),
        # Nothing more than what runs; the kernel does not hold root to it, seccomp does.
        (resource.RLIMIT_NPROC, 0, 0),
    ):
        resource.setrlimit(what, (soft, hard))


def _give_up_rights(folder: Path) -> None:
    if sys.platform != "linux":
        return
    landlock, architecture = _landlock_version(), platform.machine()
    # With these two root is harmless; without, nobody owns nothing. Nobody may be unable to read the interpreter,
    # where that lies in root's home, hence not always.
    if os.geteuid() == 0 and not (landlock and architecture in AUDIT_ARCH):
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        if not os.access(os.__file__, os.R_OK):
            raise PermissionError(
                f"root becomes nobody where there is no Landlock, and nobody cannot read {Path(os.__file__).parent}"
            )
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    version_3, nothing = struct.pack("Ii", 0x20080522, 0), bytes(24)
    _call("capset", version_3, nothing)
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    if landlock:
        _give_up_files(folder, landlock)
    if architecture in AUDIT_ARCH:
        _give_up_system_calls(architecture)


def _landlock_version() -> int:
    """0 where the kernel has no Landlock, or a container forbids it."""
    version: int = _libc().syscall(LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1)
    return max(version, 0)


def _give_up_files(folder: Path, version: int) -> None:
    """Leave the child its folder, and to read what Python consists of."""
    rights = LANDLOCK_RIGHTS.get(version, LANDLOCK_RIGHTS[5])
    tcp = 3 if version >= 4 else 0
    sockets_and_signals = 3 if version >= 6 else 0
    attributes = struct.pack("QQQ", rights, tcp, sockets_and_signals)
    ruleset = _system_call(LANDLOCK_CREATE, attributes, ctypes.c_size_t(len(attributes)), 0)
    python = [Path(place).resolve() for place in (*sys.path, sys.prefix, sys.base_prefix)]
    readable = [Path(place) for place in ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/dev/urandom", "/dev/zero")]
    for path, allowed in [(folder, rights), (Path(os.devnull), 0x2 | LANDLOCK_READ)] + [
        (path, LANDLOCK_READ) for path in (*python, *readable) if path.exists()
    ]:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        allowed &= rights if path.is_dir() else rights & LANDLOCK_FILE
        rule = struct.pack("=Qi", allowed, handle)
        _system_call(LANDLOCK_ADD_RULE, ruleset, 1, rule, 0)
        os.close(handle)
    _system_call(LANDLOCK_RESTRICT, ruleset, 0)
    os.close(ruleset)


def _give_up_system_calls(architecture: str) -> None:
    """Refuse `DENIED_CALLS` with EPERM, by a seccomp filter in classic BPF (Linux, seccomp(2))."""
    column = list(AUDIT_ARCH).index(architecture)
    denied = [numbers[column] for numbers in DENIED_CALLS.values() if numbers[column] is not None]
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06
    allow, refuse, kill = 0x7FFF0000, 0x00050000 | 1, 0x80000000
    program = [
        (load, 0, 0, 4),
        (equal, 1, 0, AUDIT_ARCH[architecture]),
        (give, 0, 0, kill),
        (load, 0, 0, 0),
        (at_least, len(denied) + 1, 0, X32_BIT),
        # A jump counts the instructions between it and its target, the last but one of which allows.
        *((equal, len(denied) - place, 0, number) for place, number in enumerate(denied)),
        (give, 0, 0, allow),
        (give, 0, 0, refuse),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    header = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    _prctl(PR_SET_SECCOMP, 2, header)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: Any) -> None:
    if getattr(_libc(), name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


def _prctl(option: int, value: int, pointer: bytes | None = None) -> None:
    _call("prctl", option, ctypes.c_ulong(value), pointer, ctypes.c_ulong(0), ctypes.c_ulong(0))


def _system_call(number: int, *arguments: Any) -> int:
    result: int = _libc().syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"system call {number}: {os.strerror(ctypes.get_errno())}")
    return result


# Judges: what is trusted happens before the fork, and the function that it returns runs after


def _code(job: Job) -> Judge:
    return lambda: _run_tests(job["solution"], job["setup"], job["tests"], job["names"])


def _run_tests(solution: str, setup: str, tests: str, names: list[str]) -> tuple[bool, str]:
    """Run ``tests`` on what ``solution`` defines.

    The tests have a module of their own, which takes over from the answer only ``names``, and find the builtins as
    they were: an answer with an ``all`` or an ``abs`` of its own, or that replaces the real ones, changes no test.
    """
    in_use = vars(builtins)
    pristine = dict(in_use)
    answer: dict[str, Any] = {"__name__": "answer"}
    try:
        exec(compile(setup, "setup", "exec"), answer)
        exec(compile(solution, "answer", "exec"), answer)
    except BaseException as error:
        return False, f"the code fails before its tests: {_said(error)}"
    finally:
        sys.settrace(None)
        sys.setprofile(None)
        in_use.clear()
        in_use.update(pristine)
    checked: dict[str, Any] = {"__name__": "tests"}
    exec(compile(setup, "setup", "exec"), checked)
    checked |= {name: answer[name] for name in names if name in answer}
    try:
        exec(compile(tests, "tests", "exec"), checked)
    except BaseException as error:
        return False, f"a test fails: {_said(error)}"
    return True, "all tests pass"


def _said(error: BaseException) -> str:
    """The error in one line, whatever its class does with ``str``."""
    try:
        return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
    except BaseException:
        return "an error that cannot be printed"


def _math(job: Job) -> Judge:
    import logging

    from math_verify import parse, verify

    # Its own timeouts are alarms, and a child that is computing in C hears none; hence only the child's limits.
    logging.disable()
    answer = job["answer"]
    # Parsed before the fork, what the parser builds at its first use is there for every child.
    gold = parse(job["gold"])

    def judge() -> tuple[bool, str]:
        parsed = parse(answer, parsing_timeout=None)
        if not parsed:
            return False, "nothing mathematical in the answer"
        is_equal = verify(gold, parsed, timeout_seconds=None)
        return is_equal, "equal" if is_equal else "not equal"

    return judge


_DATASETS: dict[tuple[str, int, int], Any] = {}


def _reasoning_gym(job: Job) -> Judge:
    import reasoning_gym

    key = job["dataset"], job["seed"], job["size"]
    if key not in _DATASETS:
        _DATASETS[key] = reasoning_gym.create_dataset(job["dataset"], seed=job["seed"], size=job["size"])
    entry = _DATASETS[key][job["index"]]
    if entry["question"] != job["question"]:
        raise LookupError(f"{job['dataset']} with seed {job['seed']} is another one than when its tasks were made")

    def judge() -> tuple[bool, str]:
        score = float(_DATASETS[key].score_answer(job["answer"], entry))
        return score >= 1.0, f"score {score:g}"

    return judge


def _probe(job: Job) -> Judge:
    def judge() -> tuple[bool, str]:
        outside = Path(job["outside"])
        attempts: dict[str, Callable[[], object]] = {
            "network": lambda: socket.create_connection(("127.0.0.1", job["port"]), timeout=1.0),
            "processes": lambda: os.fork() or os._exit(0),
            "signals": lambda: os.kill(os.getppid(), 0),
            "reading": (outside / "file").read_text,
            "writing": lambda: (outside / "new").write_text(""),
        }
        return True, json.dumps({name: _is_refused(attempt) for name, attempt in attempts.items()})

    return judge


def _is_refused(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except OSError:
        return True
    return False


PREPARE: dict[str, Callable[[Job], Judge]] = {
    "code": _code,
    "math": _math,
    "reasoning_gym": _reasoning_gym,
    "probe": _probe,
}

if __name__ == "__main__":
    main()
