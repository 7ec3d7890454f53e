"""Compare our scheduler with the vLLM that a user has installed, on fresh random workloads."""

import json
import random
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .recording import EOS_SLACK_TOKENS, schedule_workload

RECORDER = Path(__file__).with_name("record_vllm.py")
TIME_TOLERANCE_S = 1e-9
STEP_FIELDS = (
    "t_schedule",
    "t_start",
    "t_end",
    "tokens by request",
    "preempted",
    "running",
    "waiting",
    "free blocks",
)


class RecorderError(Exception):
    """The other interpreter could not record; the message holds what it said last."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What a comparison of many workloads found."""

    vllm_version: str
    num_workloads: int
    num_steps: int
    num_preemptions: int
    differences: tuple[str, ...]
    """One line for each workload that differs: where it does so first."""


def random_workload(seed: int) -> dict[str, Any]:
    """A workload that is hard on a scheduler; eight seeds in a row cover both policies, both engines, and prefix
    caching on and off. No two requests arrive at the same instant, as on a real server."""
    rng = random.Random(seed)
    config = _random_config(rng, seed)
    requests = _random_requests(rng, config)
    block_size = config["block_size"]
    longest = max(
        min(row["prompt_tokens"] + row["output_tokens"], config["max_model_len"]) + EOS_SLACK_TOKENS for row in requests
    )
    scarce = -(-longest // block_size) + rng.choice([2, 8, 32, 100])
    config["num_blocks"] = scarce if rng.random() < 0.7 else 6000
    return {"seed": seed, "config": config, "requests": requests}


def _random_config(rng: random.Random, seed: int) -> dict[str, Any]:
    max_model_len = rng.choice([1024, 2048, 4096])
    is_chunked = rng.random() < 0.9
    max_num_seqs = rng.choice([1, 3, 8, 24, 128])
    return {
        "policy": ("fcfs", "priority")[seed % 2],
        "async_scheduling": bool(seed // 2 % 2),
        "prefix_caching": bool(seed // 4 % 2),
        "max_num_seqs": max_num_seqs,
        "max_num_batched_tokens": rng.choice([128, 256, 512, 2048]) if is_chunked else max_model_len,
        "block_size": rng.choice([8, 16, 16, 32]),
        "max_model_len": max_model_len,
        "long_prefill_token_threshold": rng.choice([0, 0, 0, 64, 200]),
        "chunked_prefill": is_chunked,
        "scheduler_reserve_full_isl": rng.random() < 0.8,
        "watermark": rng.choice([0.0, 0.0, 0.01, 0.05]),
        "c0": rng.choice([0.003, 0.01, 0.04]),
        "c1": rng.choice([1e-5, 2e-4]),
        "c2": rng.choice([0.0, 2e-7]),
    }


def _random_requests(rng: random.Random, config: Mapping[str, Any]) -> list[dict[str, Any]]:
    max_model_len = config["max_model_len"]
    rate_per_s = rng.choice([2, 10, 50, 500])
    num_groups = rng.randint(1, 4)
    shared_tokens = [rng.randint(10, max_model_len // 3) for _ in range(num_groups)]
    rows: list[dict[str, Any]] = []
    arrival = 0.0
    for uid in range(rng.randint(20, 90)):
        arrival = round(arrival + max(1e-6, rng.expovariate(rate_per_s)), 6)
        prompt = rng.randint(1, 500) if rng.random() < 0.85 else rng.randint(500, max_model_len - 1)
        prefix = None
        if config["prefix_caching"] and rng.random() < 0.7:
            group = rng.randrange(num_groups)
            prefix = [group, shared_tokens[group]]
            prompt = min(shared_tokens[group] + rng.randint(0, 300), max_model_len - 1)
        rows.append(
            {
                "id": f"r{uid:04d}",
                "uid": uid,
                "arrival": arrival,
                "prompt_tokens": prompt,
                "output_tokens": max(1, min(int(rng.lognormvariate(4.2, 1.1)), 600)),
                "priority": round(1000 * (arrival + rng.choice([1, 5, 30, 200])))
                if config["policy"] == "priority"
                else 0,
                "prefix": prefix,
                "stop": rng.choice(["length", "eos"]),
            }
        )
    return rows


def record(
    python: str, workloads: list[dict[str, Any]], *, jobs: int = 1, on_progress: Callable[[int], None] | None = None
) -> Iterator[dict[str, Any]]:
    """Have the vLLM of the interpreter ``python`` schedule each workload; yields the recordings in any order.

    Raises
    ------
    RecorderError
        The interpreter cannot be started, has no vLLM, or vLLM failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        running: list[tuple[subprocess.Popen[bytes], Path, Path]] = []
        try:
            for job in range(min(jobs, len(workloads))):
                asked, answered, errors = (Path(folder) / f"{name}{job}" for name in ("asked", "answered", "errors"))
                asked.write_text("".join(json.dumps(workload) + "\n" for workload in workloads[job::jobs]))
                answered.touch()
                with errors.open("w") as sink:
                    command = [python, str(RECORDER), str(asked), str(answered)]
                    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, cwd=folder)
                running.append((process, answered, errors))
            _wait(running, on_progress)
        except OSError as error:
            raise RecorderError(f"{python}: {error.strerror}") from None
        finally:
            for process, _, _ in running:
                process.kill()
                process.wait()
        num_recorded = 0
        for _, answered, _ in running:
            with answered.open() as lines:
                for line in lines:
                    num_recorded += 1
                    yield json.loads(line)
        if num_recorded < len(workloads):
            raise RecorderError(f"{python} recorded {num_recorded} of {len(workloads)} workloads")


def _wait(
    running: list[tuple["subprocess.Popen[bytes]", Path, Path]], on_progress: Callable[[int], None] | None
) -> None:
    while any(process.poll() is None for process, _, _ in running):
        time.sleep(0.3)
        if on_progress is not None:
            on_progress(sum(answered.read_bytes().count(b"\n") for _, answered, _ in running))
    for process, _, errors in running:
        if process.returncode != 0:
            said = errors.read_text(errors="replace").strip().splitlines()
            raise RecorderError(f"the recorder failed (exit {process.returncode}): {said[-1] if said else 'no output'}")


def first_difference(recording: Mapping[str, Any]) -> str | None:
    """Where our schedule of a recording's workload first differs from it, or None."""
    ours = schedule_workload(recording["config"], recording["requests"])
    for index, (mine, theirs) in enumerate(zip(ours["steps"], recording["steps"], strict=False)):
        for field, a, b in zip(STEP_FIELDS, mine, theirs, strict=True):
            is_time = field.startswith("t_")
            if abs(a - b) > TIME_TOLERANCE_S if is_time else a != b:
                return f"step {index}, {field}: ours {a}, vLLM's {b}"
    if len(ours["steps"]) != len(recording["steps"]):
        return f"ours has {len(ours['steps'])} steps, vLLM's {len(recording['steps'])}"
    if ours["finished"].keys() != recording["finished"].keys():
        return f"finished: only in one: {sorted(ours['finished'].keys() ^ recording['finished'].keys())}"
    for key, (first_token, end, preemptions) in recording["finished"].items():
        mine = ours["finished"][key]
        if max(abs(mine[0] - first_token), abs(mine[1] - end)) > TIME_TOLERANCE_S or mine[2] != preemptions:
            return f"finished {key}: ours {mine}, vLLM's {[first_token, end, preemptions]}"
    return None


def verify(
    python: str,
    count: int,
    *,
    seed: int,
    jobs: int = 1,
    on_progress: Callable[[int], None] | None = None,
    on_recording: Callable[[dict[str, Any]], None] | None = None,
) -> Verification:
    """Record ``count`` fresh workloads (seeds ``seed`` and on) with the vLLM of ``python`` and compare.

    ``on_progress`` gets the number of workloads recorded, ``on_recording`` each recording before it is compared.
    """
    workloads = [random_workload(s) for s in range(seed, seed + count)]
    differences: list[str] = []
    version, num_workloads, num_steps, num_preemptions = "", 0, 0, 0
    for recording in record(python, workloads, jobs=jobs, on_progress=on_progress):
        if on_recording is not None:
            on_recording(recording)
        version = recording["vllm_version"]
        num_workloads += 1
        num_steps += len(recording["steps"])
        num_preemptions += sum(len(step[4]) for step in recording["steps"])
        difference = first_difference(recording)
        if difference is not None:
            differences.append(f"seed {recording['seed']}: {difference}")
    return Verification(version, num_workloads, num_steps, num_preemptions, tuple(differences))
