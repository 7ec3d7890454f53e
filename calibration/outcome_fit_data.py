"""Readers of the public files that the outcome model is fitted to; each knows the traps of its file.

``docs/outcomes.md`` lists the files with source and licence.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from inframind.traces import TraceError

BENCHMARKS = ("gsm", "math_l5", "crux")
"""Of ZeroEval: GSM8K, MATH level 5, CRUX (what a program puts out)."""
_PARTIAL = {"gsm": ["gemini-1.5-flash-exp-0827"], "math_l5": ["Meta-Llama-3.1-70B-Instruct@hyperbolic"], "crux": []}
"""Runs that broke off."""
_MMLU_PRO_CAP = 2048
"""Of the Llamas there: 8 % of Llama-3.1-8B's answers stop at just this length, right in one of ten, which is chance."""
_HIDDEN = ["o1-mini-2024-09-12", "o1-preview-2024-09-12"]
"""Their reasoning is not in the token counts."""
_LOOP_TOKENS = 4000
"""ZeroEval let answers run to 4096 tokens; one of this length without a result went round in circles."""

BROKEN_CELLS = {
    "human_eval": ["gemma-2-9b-it", "mistral-7b-instruct-v0.3"],
    "mbpp": ["mistral-7b-instruct-v0.3"],
    "gpqa": ["llama3-chatqa-1.5-8b", "llama3-chatqa-1.5-70b"],
}
"""LLMRouter: LLMs whose answers its harness could not read there (2 to 9 % where they otherwise reach 40 to 60 %; none
at all)."""


def read_csv(data: Path, name: str, **options: Any) -> pd.DataFrame:
    """One table of the folder.

    Raises
    ------
    TraceError
        If it is absent or cannot be read.
    """
    path = data / name
    try:
        table: pd.DataFrame = pd.read_csv(path, **options)
    except FileNotFoundError:
        raise TraceError(path, ["no such file"]) from None
    except (OSError, ValueError) as error:
        raise TraceError(path, [f"cannot be read: {error}"]) from None
    return table


def read_json_lines(data: Path, name: str) -> list[dict[str, Any]]:
    """One file of JSON lines, gzipped if it is called ``.gz``.

    Raises
    ------
    TraceError
        If it is absent or cannot be read.
    """
    path = data / name
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if name.endswith(".gz") else raw).decode()
        # Not splitlines(): the questions hold line separators of Unicode.
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    except FileNotFoundError:
        raise TraceError(path, ["no such file"]) from None
    except (OSError, ValueError) as error:
        raise TraceError(path, [f"cannot be read: {error}"]) from None


def zeroeval_questions(data: Path, benchmark: str) -> pd.DataFrame:
    """``qid, question, prompt_tokens`` (of the question itself, Llama 3's tokenizer), in the file's order."""
    rows = read_json_lines(data, f"zeroeval_perquestion/{benchmark}_questions.jsonl.gz")
    table = pd.DataFrame(rows).astype({"qid": str})
    # The template around a question: GSM8K's first question is 65 tokens bare (RouteLLM) and 144 with it.
    table["prompt_tokens"] = (table["prompt_tokens_qwen"] - 79).clip(lower=1)
    return table[["qid", "question", "prompt_tokens"]]


def zeroeval_answers(data: Path, benchmark: str) -> pd.DataFrame:
    """``qid, model, correct, out_tokens, is_loop, has_length``: one row for each answer of a complete run."""
    table = read_csv(data, f"zeroeval_perquestion/{benchmark}_results.csv.gz", dtype={"qid": str})
    table = table[~table["model"].isin(_PARTIAL[benchmark])]
    return table.assign(
        is_loop=(table["no_answer"] == 1) & (table["out_tokens"] >= _LOOP_TOKENS),
        has_length=~table["model"].isin(_HIDDEN) & (table["out_tokens"] > 0),
    )


def mmlu_pro_answers(data: Path) -> pd.DataFrame:
    """``qid, model, correct, out_tokens, is_loop, has_length`` of chat models, without what was not readable.

    Base models run into its cap of 256 tokens.
    """
    table = read_csv(data, "mmlu_pro_perquestion/mmlu_pro_results.csv.gz")
    chat = table["model"].str.contains("Instruct|Chat|gemini|command|Coder-V2|jamba|mathstral", case=False)
    table = table[chat & (table["no_answer"] == 0)].rename(columns={"question_id": "qid"})
    return table.assign(is_loop=table["out_tokens"] == _MMLU_PRO_CAP, has_length=table["out_tokens"] > 0)


def mmlu_pro_categories(data: Path) -> pd.Series[str]:
    """The subject of each question."""
    return read_csv(data, "mmlu_pro_perquestion/mmlu_pro_questions.csv.gz").set_index("question_id")["category"]


def llmrouter(data: Path, task: str) -> pd.DataFrame:
    """``question`` and a column 0/1 for each LLM with readable answers; each question once."""
    scores = read_csv(data, "llmrouter_9models/scores.csv")
    scores["question"] = [row["question"] for row in read_json_lines(data, "llmrouter_9models/questions.jsonl.gz")]
    table = scores[scores["task"] == task].drop_duplicates("question").reset_index(drop=True)
    broken = BROKEN_CELLS.get(task, [])
    models = [name for name in scores.columns[4:-1] if name not in broken]
    table[models] = (table[models] > 0.5).astype(float)
    return table[["question", "question_tokens", *models]].rename(columns={"question_tokens": "prompt_tokens"})


def mapcoder(data: Path) -> pd.DataFrame:
    """``dataset, model, strategy, run, task_id, solved, completion_tokens, api_calls``, without failed API calls."""
    table = read_csv(data, "mapcoder_strategies/per_task.csv.gz")
    return table[table["valid"]]


def concise_cot(data: Path) -> pd.DataFrame:
    """``model, prompt, exam, qid, correct, tokens``: tokens of one response; the file has the sum over ten."""
    table = read_csv(data, "concise_cot_mcqa/per_question.csv.gz")
    # comprehensive-100 is drawn from the other exams.
    table = table[table["Exam"] != "comprehensive-100"]
    return pd.DataFrame(
        {
            "model": table["Model"],
            "prompt": table["Prompt"],
            "exam": table["Exam"],
            "qid": table["Exam"] + "/" + table["Problem Id"].astype(str),
            "correct": table["Score"],
            "tokens": (table["Output Tokens"] / 10).where(table["Output Tokens"] > 0),
        }
    )


def r1_distill_math(data: Path) -> pd.DataFrame:
    """``model, task, accuracy_pct, samples, avg_tokens``: aggregates over MATH by subject."""
    return read_csv(data, "r1_distill_math_aggregate/r1_distill_qwen_math.csv")


def deepseek_r1_lengths(data: Path) -> pd.Series[int]:
    """Output tokens of DeepSeek-R1 on MLPerf's mixture of math, code and QA."""
    return read_csv(data, "length_datasets_openshift/deepseek-r1.csv")["output_length"]


def wide(answers: pd.DataFrame, index: str, value: str = "correct", order: Sequence[Any] | None = None) -> pd.DataFrame:
    """Questions x LLMs."""
    table = answers.pivot(index=index, columns="model", values=value)
    return table if order is None else table.reindex(list(order))
