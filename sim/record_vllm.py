"""Record what the installed vLLM's own V1 scheduler decides. Runs in vLLM's interpreter, without this package.

    python record_vllm.py WORKLOADS.jsonl OUT.jsonl

Each line of WORKLOADS is an object with ``config`` and ``requests``; the same object with ``steps``, ``finished`` and
``vllm_version`` is appended to OUT as soon as it is known. No model runs: sampled tokens are made up, and the clock is
virtual. The schema and the clock are described in docs/scheduler.md.
"""

import json
import os
import sys
import tempfile
from collections import deque
from pathlib import Path
from typing import Any

EOS_TOKEN = 2
EOS_SLACK_TOKENS = 400
TINY_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1 << 20,
    "vocab_size": 32000,
    "torch_dtype": "bfloat16",
}


def main(workloads: str, out: str) -> None:
    """Record each workload of one file into another."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    import vllm

    with tempfile.TemporaryDirectory() as model, Path(workloads).open() as lines, Path(out).open("a") as sink:
        (Path(model) / "config.json").write_text(json.dumps(TINY_LLAMA))
        for line in lines:
            workload = json.loads(line)
            recorder = Recorder(model, workload["config"])
            recorder.run(workload["requests"])
            answer = {"vllm_version": vllm.__version__, "steps": recorder.steps, "finished": recorder.finished}
            sink.write(json.dumps(workload | answer, separators=(",", ":")) + "\n")
            sink.flush()


def build_scheduler(model: str, config: dict[str, Any]) -> Any:
    """The scheduler class that a server with these options runs, without the server."""
    import torch
    from vllm.config import CacheConfig, DeviceConfig, ModelConfig, SchedulerConfig, VllmConfig
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
    from vllm.v1.structured_output import StructuredOutputManager

    extra = {name: config[name] for name in ("watermark", "scheduler_reserve_full_isl") if name in config}
    vllm_config = VllmConfig(
        model_config=ModelConfig(
            model=model, skip_tokenizer_init=True, dtype="bfloat16", max_model_len=config["max_model_len"]
        ),
        scheduler_config=SchedulerConfig(
            policy=config["policy"],
            max_num_seqs=config["max_num_seqs"],
            max_num_batched_tokens=config["max_num_batched_tokens"],
            max_model_len=config["max_model_len"],
            long_prefill_token_threshold=config["long_prefill_token_threshold"],
            enable_chunked_prefill=config["chunked_prefill"],
            async_scheduling=config["async_scheduling"],
            is_encoder_decoder=False,
            **extra,
        ),
        cache_config=CacheConfig(block_size=config["block_size"], enable_prefix_caching=config["prefix_caching"]),
        device_config=DeviceConfig("cpu"),
    )
    vllm_config.cache_config.num_gpu_blocks = config["num_blocks"]
    spec = FullAttentionSpec(block_size=config["block_size"], num_kv_heads=1, head_size=1, dtype=torch.float32)
    scheduler_class = AsyncScheduler if config["async_scheduling"] else Scheduler
    return scheduler_class(
        vllm_config=vllm_config,
        kv_cache_config=KVCacheConfig(
            num_blocks=config["num_blocks"],
            kv_cache_tensors=[],
            kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)],
        ),
        structured_output_manager=StructuredOutputManager(vllm_config),
        block_size=config["block_size"],
        log_stats=True,
    )


def prompt_token_ids(row: dict[str, Any]) -> list[int]:
    """Token ids that two requests share exactly where ``prefix`` says so."""
    group, shared = row["prefix"] or (0, 0)
    start = 10_000 * (group + 1)
    own = 30_000_000 + row["uid"] * 10_000
    return [start + i for i in range(shared)] + [own + i for i in range(row["prompt_tokens"] - shared)]


class Recorder:
    """The engine core's loop on a virtual clock, around vLLM's scheduler."""

    def __init__(self, model: str, config: dict[str, Any]) -> None:
        from vllm.utils.hashing import sha256
        from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash

        self.config = config
        self.scheduler = build_scheduler(model, config)
        init_none_hash(sha256)
        self.block_hasher = get_request_block_hasher(config["block_size"], sha256) if config["prefix_caching"] else None
        self.steps: list[list[Any]] = []
        self.finished: dict[str, list[Any]] = {}
        self.now = self.device_free = 0.0
        self.live: dict[str, Any] = {}
        self.rows: dict[str, dict[str, Any]] = {}
        self.sampled: dict[str, int] = {}
        self.first_token: dict[str, float] = {}
        self.preemptions: dict[str, int] = {}
        self.in_flight: deque[tuple[Any, list[list[int]], float]] = deque()

    def run(self, rows: list[dict[str, Any]]) -> None:
        """Fill ``steps`` and ``finished``."""
        depth = 2 if self.config["async_scheduling"] else 1
        pending = deque(sorted(rows, key=lambda row: row["arrival"]))
        while pending or self.live or self.in_flight:
            if not self.live and not self.in_flight:
                self.now = max(self.now, pending[0]["arrival"])
            while pending and pending[0]["arrival"] <= self.now:
                self.add(pending.popleft())
            if self.scheduler.has_requests():
                num_tokens = self.schedule()
                if len(self.in_flight) < depth and (num_tokens or self.scheduler.has_requests()):
                    continue
            if self.in_flight:
                self.process()

    def add(self, row: dict[str, Any]) -> None:
        """A request arrives."""
        from vllm.sampling_params import SamplingParams
        from vllm.v1.request import Request

        slack = EOS_SLACK_TOKENS if row["stop"] == "eos" else 0
        request = Request(
            request_id=row["id"],
            prompt_token_ids=prompt_token_ids(row),
            sampling_params=SamplingParams(
                max_tokens=row["output_tokens"] + slack, ignore_eos=True, temperature=0.0, stop_token_ids=[EOS_TOKEN]
            ),
            pooling_params=None,
            arrival_time=row["arrival"],
            priority=row["priority"],
            block_hasher=self.block_hasher,
        )
        self.live[row["id"]] = request
        self.rows[row["id"]] = row
        self.sampled[row["id"]] = self.preemptions[row["id"]] = 0
        self.scheduler.add_request(request)

    def schedule(self) -> int:
        """Schedule and launch one step; returns its tokens."""
        output = self.scheduler.schedule()
        scheduled = dict(output.num_scheduled_tokens)
        preempted = [key for key, request in self.live.items() if request.num_preemptions > self.preemptions[key]]
        for key in preempted:
            self.preemptions[key] = self.live[key].num_preemptions
        num_tokens = sum(scheduled.values())
        start = end = self.now
        if num_tokens:
            context = sum(self.live[key].num_computed_tokens for key in scheduled)
            start = max(self.now, self.device_free)
            end = start + (self.config["c0"] + self.config["c1"] * num_tokens + self.config["c2"] * context)
            self.device_free = end
        if num_tokens or preempted:
            running, waiting = self.scheduler.get_request_counts()
            free = self.scheduler.kv_cache_manager.block_pool.get_num_free_blocks()
            self.steps.append([self.now, start, end, scheduled, preempted, running, waiting, free])
        self.in_flight.append((output, [self.sample(key) for key in scheduled], end))
        return num_tokens

    def sample(self, key: str) -> list[int]:
        """The tokens that the model would return for a request of the step just scheduled."""
        if self.live[key].is_prefill_chunk:
            return []
        row = self.rows[key]
        self.sampled[key] += 1
        if row["stop"] == "eos" and self.sampled[key] >= row["output_tokens"]:
            return [EOS_TOKEN]
        return [500_000_000 + row["uid"] * 10_000 + self.sampled[key]]

    def process(self) -> None:
        """The oldest step in flight has ended."""
        from vllm.v1.outputs import ModelRunnerOutput

        output, sampled, end = self.in_flight.popleft()
        self.now = max(self.now, end)
        keys = list(output.num_scheduled_tokens)
        self.scheduler.update_from_output(
            output,
            ModelRunnerOutput(
                req_ids=keys,
                req_id_to_index={key: index for index, key in enumerate(keys)},
                sampled_token_ids=sampled,
                logprobs=None,
                prompt_logprobs_dict={},
                pooler_output=[],
            ),
        )
        for key, tokens in zip(keys, sampled, strict=True):
            if tokens and key in self.live:
                self.first_token.setdefault(key, self.now)
        for key in [key for key, request in self.live.items() if request.is_finished()]:
            self.finished[key] = [self.first_token[key], self.now, self.preemptions[key]]
            del self.live[key]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
