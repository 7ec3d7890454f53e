"""The tables that travel between the folders: requests in; calls, workflows and queue samples out.

Each table is a `pyarrow.Schema`; the meaning of a column stands in its field's ``description``. Times are
seconds since the run began, lengths are tokens. A column that is not nullable has a value in every row.
Rows of the simulator and of the live driver have the same schema, so a comparison does not know which is
which.
"""

from __future__ import annotations

import pandas as pd
import pyarrow as pa


def _required(name: str, type_: pa.DataType, description: str) -> pa.Field:
    return pa.field(name, type_, nullable=False, metadata={"description": description})


def _optional(name: str, type_: pa.DataType, description: str) -> pa.Field:
    return pa.field(name, type_, nullable=True, metadata={"description": description})


REQUESTS = pa.schema(
    [
        _required("arrival_s", pa.float64(), "when the request reaches the pool"),
        _required("prompt_tokens", pa.int64(), "length of the prompt, at least 1"),
        _required("output_tokens", pa.int64(), "tokens to generate, at least 1"),
        _optional("priority", pa.int64(), "vLLM's priority, lower first; 0 where empty"),
        _optional("budget_s", pa.float64(), "deadline = arrival_s + budget_s"),
        _optional("model", pa.string(), "the model that must serve it; any where empty"),
        _optional("prefix_group", pa.string(), "requests of one group share the start of their prompts"),
        _optional("prefix_tokens", pa.int64(), "length of that shared start; 0 where empty"),
        _optional(
            "closed_loop", pa.int64(), "so many its client kept open at a time; 0 where empty: arrival_s says when"
        ),
        _optional("ttft_s", pa.float64(), "measured time to first token"),
        _optional("e2e_s", pa.float64(), "measured time to the last token"),
    ]
)
"""What was asked. The optional columns may be absent altogether; further columns are kept."""

CALLS = pa.schema(
    [
        _required("call_id", pa.string(), "unique in the run"),
        _optional("workflow_id", pa.string(), "the workflow it belongs to, if any"),
        _optional("slot", pa.int32(), "its node's number within the workflow"),
        _optional("role", pa.string(), "the agent role within the workflow"),
        _optional("strategy", pa.string(), "prompting strategy that the executor chose"),
        _required("server", pa.string(), "the vLLM instance that served it"),
        _required("model", pa.string(), "the model of that server"),
        _required("arrival_s", pa.float64(), "when the server received it"),
        _required("prompt_tokens", pa.int64(), "length of the prompt"),
        _required("output_tokens", pa.int64(), "tokens generated, fewer than asked for if it failed"),
        _required("priority", pa.int64(), "vLLM's priority, lower first"),
        _optional("budget_s", pa.float64(), "its latency budget, or that of its workflow"),
        _optional("deadline_s", pa.float64(), "when it had to be done; a workflow's calls share one"),
        _optional("scheduled_s", pa.float64(), "when it was first scheduled"),
        _optional("first_token_s", pa.float64(), "when its first token came out"),
        _optional("finish_s", pa.float64(), "when its last token came out, or it failed"),
        _required("num_preemptions", pa.int32(), "times it lost its KV blocks and went back to waiting"),
        _required("num_cached_tokens", pa.int64(), "prompt tokens found in the prefix cache when admitted"),
        _required("outcome", pa.string(), "'finished', or the name of the failure"),
        _optional("ttft_s", pa.float64(), "time to first token: first_token_s - arrival_s"),
        _optional("tpot_s", pa.float64(), "mean time per token after the first; null for one token"),
        _optional("e2e_s", pa.float64(), "end to end: finish_s - arrival_s"),
    ]
)
"""One LLM request as it was served."""

WORKFLOWS = pa.schema(
    [
        _required("workflow_id", pa.string(), "unique in the run"),
        _required("domain", pa.string(), "kind of query, such as math or code"),
        _required("question", pa.int64(), "which question of its domain; pairs the runs of a comparison"),
        _required("arrival_s", pa.float64(), "when the query arrived"),
        _required("budget_s", pa.float64(), "deadline = arrival_s + budget_s"),
        _required("topology", pa.string(), "collaboration topology that the planner chose"),
        _required("role_set", pa.string(), "roles that the planner chose"),
        _required("num_calls", pa.int32(), "calls that finished"),
        _optional("finish_s", pa.float64(), "when the answer was complete, decision node included"),
        _required("outcome", pa.string(), "'finished', or the name of the failure"),
        _optional("correct", pa.bool_(), "whether the answer was right; null where not graded"),
        _optional("latency_s", pa.float64(), "elapsed time: finish_s - arrival_s"),
        _required("on_time", pa.bool_(), "latency_s <= budget_s; false if it failed"),
    ]
)
"""One query and the multi-agent workflow that answered it."""

SAMPLES = pa.schema(
    [
        _required("time_s", pa.float64(), "when the server was looked at"),
        _required("server", pa.string(), "the vLLM instance"),
        _required("waiting", pa.int32(), "requests in the waiting queue (vllm:num_requests_waiting)"),
        _required("running", pa.int32(), "requests in the batch (vllm:num_requests_running)"),
        _required("kv_usage", pa.float64(), "share of KV blocks in use, 0 to 1 (vllm:kv_cache_usage_perc)"),
    ]
)
"""Queue state of each server over time."""


def to_table(frame: pd.DataFrame, schema: pa.Schema) -> pa.Table:
    """Put a frame into a schema's columns, order and types, ready for Parquet; NaN becomes null.

    Raises
    ------
    ValueError
        If columns are missing or unknown, a required one has nulls, or a value does not fit its type
        (`pyarrow.ArrowInvalid` is one). It is a bug in what made the frame, not a person's mistake.
    """
    missing = [name for name in schema.names if name not in frame]
    unknown = [name for name in frame if name not in schema.names]
    if missing or unknown:
        raise ValueError(f"columns missing: {missing}; unknown: {unknown}")
    return pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
