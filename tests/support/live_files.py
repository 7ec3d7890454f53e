"""Evaluation and pool files for `inframind live`, and fake servers that are as the files say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fake_vllm import Behaviour, FakeVllm
from live_world import fake_pool

from inframind.cli import main

MODELS = ("Llama-3.1-8B-Instruct", "Llama-3.2-3B-Instruct")
SERVER = """
[[servers]]
name = "{name}"
model = "{model}"
step_time = {{ fixed_s = 0.001, prefill_token_s = 2e-6, decode_s = 1e-5 }}
[servers.scheduler]
max_num_seqs = 4
max_num_batched_tokens = 2048
num_blocks = 500
max_model_len = 2048
{live}
"""
EXPERIMENT = """
pool = "pool.toml"
policies = ["jsq", "random"]
schedulers = ["edf", "fcfs"]
rates_per_min = [600, 60]
seeds = [4, 5]
num_queries = 12
max_tokens = 40
poll_s = 0.2
planner = "mixed"
tasks = ["reasoning-gym:chain_sum,1,30"]
[budgets]
tiers_s = [5, 20]
"""


def write_pool(folder: Path, lives: list[str]) -> Path:
    path = folder / "pool.toml"
    path.write_text(
        "".join(
            SERVER.format(name=f"s{index}", model=model, live=live)
            for index, (model, live) in enumerate(zip(MODELS, lives, strict=True))
        )
    )
    return path


def experiment(folder: Path) -> Path:
    path = folder / "experiment.toml"
    path.write_text(EXPERIMENT)
    return path


@contextmanager
def pool(folder: Path, **behaviour: object) -> Iterator[list[FakeVllm]]:
    """Fake servers, a pool file that names them, and an experiment on it."""
    given = {"policy": "priority"} | behaviour
    with fake_pool(*(Behaviour(model=model, **given) for model in MODELS)) as servers:  # type: ignore[arg-type]
        write_pool(folder, [f'[servers.live]\nurl = "{server.url}"' for server in servers])
        experiment(folder)
        yield servers


def replay(folder: Path, *words: str, out: str = "live") -> int:
    command = ["live", "replay", str(folder / "experiment.toml"), "--policy", "jsq", "-o", str(folder / out)]
    return main([*command, *words])
