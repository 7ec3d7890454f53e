"""How long each LLM of the pool answers, by source: its own lengths where there are any, stated proxies elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from .outcome_fit_abilities import (
    CODE_STRATEGIES,
    CODER_14B,
    LLAMA_3B,
    LLAMA_8B,
    MATH_EXAMS,
    MISTRAL,
    PROMPTS,
    QUANTITATIVE,
    R1_32B,
    Scale,
)
from .outcome_fit_data import (
    BENCHMARKS,
    concise_cot,
    deepseek_r1_lengths,
    mapcoder,
    mmlu_pro_answers,
    mmlu_pro_categories,
    r1_distill_math,
    zeroeval_answers,
)
from .outcome_fit_lengths import LengthFit, fit_lengths, log_ratio

_ZEROEVAL_8B = "Meta-Llama-3.1-8B-Instruct"
_NEAR: dict[str, dict[str, tuple[str, ...]]] = {
    "gsm": {
        MISTRAL: ("Mistral-Nemo-Instruct-2407", "Mistral-Large-2"),
        CODER_14B: ("Qwen2-7B-Instruct", "Qwen2-72B-Instruct"),
    },
    "math_l5": {MISTRAL: ("Mistral-Large-2",), CODER_14B: ("Qwen2.5-7B-Instruct", "Qwen2.5-32B-Instruct")},
    "crux": {
        MISTRAL: ("Mixtral-8x7B-Instruct-v0.1", "Mistral-Large-2"),
        CODER_14B: ("Qwen2.5-7B-Instruct", "Qwen2.5-32B-Instruct"),
    },
}
"""The nearest LLMs of ZeroEval for those that it lacks; both Llamas are taken as Llama-3.1-8B."""


@dataclass(frozen=True, slots=True)
class ModelLengths:
    """Lengths of one LLM's answers to one source's questions under the prompt that strategies are compared with."""

    intercept: float
    """Mean log tokens of a right answer to a question of difficulty 0 on the source's own scale."""
    slope: float
    """Per logit of difficulty."""
    if_wrong: float
    """Log of wrong over right answers of one difficulty."""
    sd: float
    """Of the log, beyond difficulty and the question's own wordiness."""
    loops_if_wrong: float
    """Share of wrong answers that run into any cap."""
    basis: str


@dataclass(frozen=True, slots=True)
class Lengths:
    """All that the runtime needs about lengths, with what it rests on."""

    by_source: dict[str, dict[str, ModelLengths]]
    question_sd: dict[str, float]
    """Spread of the questions' own wordiness, by source."""
    wordiness: dict[str, pd.Series[float]]
    """Of each question of a source that many LLMs answered."""
    strategies: dict[str, dict[str, tuple[float, float]]]
    """Mean and spread of log(tokens under the strategy / tokens under the common prompt), by domain."""
    fits: dict[str, LengthFit]
    """Of ZeroEval."""
    reasoning_over_plain: float
    """R1-Distill-32B's mean tokens on MATH over those of Qwen2.5-32B (Qwen2-72B on GSM8K)."""


def place_lengths(data: Path, scales: Mapping[str, Scale], offset: float) -> Lengths:
    """Fit and place.

    Parameters
    ----------
    offset
        How much harder MATH level 5 is than GSM8K, in logits.
    """
    fits = {name: fit_lengths(zeroeval_answers(data, name), scales[name].difficulty) for name in BENCHMARKS}
    near = {name: _near(fit, _NEAR[name]) for name, fit in fits.items()}
    math_r1, mean_tokens = _reasoning(data, scales, offset)
    over_plain = mean_tokens / _plain_tokens(fits)
    code, code_question_sd = _code(data, scales, fits["crux"], near["crux"])
    qa, qa_question_sd = _qa(data, scales, near)
    math_r1_hard = replace(math_r1, intercept=math_r1.intercept + math_r1.slope * offset)
    by_source = {
        "gsm8k": near["gsm"] | {R1_32B: math_r1},
        "math-l5": near["math_l5"] | {R1_32B: math_r1_hard},
        "humaneval": code | {R1_32B: _transferred(math_r1, code[CODER_14B], over_plain, scales["humaneval"])},
        "mbpp": code | {R1_32B: _transferred(math_r1, code[CODER_14B], over_plain, scales["mbpp"])},
        "gpqa": qa | {R1_32B: _transferred(math_r1, qa[CODER_14B], over_plain, scales["mmlu_pro"])},
    }
    question_sd = {
        "gsm8k": fits["gsm"].question_sd,
        "math-l5": fits["math_l5"].question_sd,
        "humaneval": code_question_sd,
        "mbpp": code_question_sd,
        "gpqa": qa_question_sd,
    }
    wordiness = {"gsm8k": fits["gsm"].question, "math-l5": fits["math_l5"].question}
    return Lengths(by_source, question_sd, wordiness, _strategies(data), fits, over_plain)


def _near(fit: LengthFit, members: Mapping[str, tuple[str, ...]]) -> dict[str, ModelLengths]:
    return {
        model: ModelLengths(
            intercept=float(fit.intercept[list(names)].mean()),
            slope=fit.slope,
            if_wrong=fit.if_wrong,
            sd=float(fit.sd[list(names)].mean()),
            loops_if_wrong=float(fit.loops_if_wrong[list(names)].mean()),
            basis="its own" if model == LLAMA_8B else f"as {' and '.join(names)}",
        )
        for model, names in {**members, LLAMA_8B: (_ZEROEVAL_8B,), LLAMA_3B: (_ZEROEVAL_8B,)}.items()
    }


def _reasoning(data: Path, scales: Mapping[str, Scale], offset: float) -> tuple[ModelLengths, float]:
    """R1-Distill-32B on GSM8K's scale, and its mean tokens on MATH.

    How lengths grow with difficulty is from the seven subjects of MATH in four sizes of R1-Distill (log tokens against
    the ability at which the subject's accuracy comes out); how much is left from DeepSeek-R1's lengths on MLPerf's
    mixture, less what difficulty explains if that mixture is as wide as GSM8K and level 5 together.
    """
    table = r1_distill_math(data)
    level_5 = scales["math_l5"].rasch
    ease = pd.Series([level_5.ability_of(accuracy / 100) for accuracy in table["accuracy_pct"]])
    log_tokens = np.log(table["avg_tokens"])
    x = -(ease - ease.groupby(table["model"]).transform("mean"))
    y = log_tokens - log_tokens.groupby(table["model"]).transform("mean")
    slope = float((x * y).sum() / (x**2).sum())
    mine = table[table["model"] == R1_32B]
    mean_tokens = float(np.average(mine["avg_tokens"], weights=mine["samples"]))
    spreads = np.array([scales["gsm"].rasch.sigma, level_5.sigma])
    of_difficulty = float((spreads**2).mean() + offset**2 / 4)
    sd = float(np.sqrt(np.log(deepseek_r1_lengths(data)).var() - slope**2 * of_difficulty))
    means = np.exp(slope * np.array([0.0, offset]) + (slope * spreads) ** 2 / 2 + sd**2 / 2)
    intercept = float(np.log(mean_tokens / means.mean()))
    basis = (
        f"mean {mean_tokens:.0f} on MATH and {slope:.2f} per logit by r1_distill_math_aggregate, spread of DeepSeek-R1"
    )
    return ModelLengths(intercept, slope, 0.0, sd, 0.0, basis), mean_tokens


def _plain_tokens(fits: Mapping[str, LengthFit]) -> float:
    """Mean tokens of a plain Qwen of the same size on the mixture that stands for MATH."""
    gsm = _mean_tokens(fits["gsm"], "Qwen2-72B-Instruct")
    return (gsm + _mean_tokens(fits["math_l5"], "Qwen2.5-32B-Instruct")) / 2


def _mean_tokens(fit: LengthFit, model: str) -> float:
    """Mean tokens of a log-normal with the LLM's intercept and spread, questions' wordiness included."""
    return float(np.exp(fit.intercept[model] + (fit.sd[model] ** 2 + fit.question_sd**2) / 2))


def _transferred(reasoning: ModelLengths, plain: ModelLengths, longer: float, scale: Scale) -> ModelLengths:
    """A reasoning LLM's lengths where there are none: a plain one's mean, so many times longer."""
    spread = scale.rasch.sigma
    log_mean = plain.intercept + ((plain.slope * spread) ** 2 + plain.sd**2) / 2 + np.log(longer)
    intercept = log_mean - ((reasoning.slope * spread) ** 2 + reasoning.sd**2) / 2
    basis = f"{longer:.1f} times Qwen2.5-Coder-14B's mean, as R1-Distill over Qwen on MATH"
    return replace(reasoning, intercept=float(intercept), basis=basis)


def _code(
    data: Path, scales: Mapping[str, Scale], crux: LengthFit, near: Mapping[str, ModelLengths]
) -> tuple[dict[str, ModelLengths], float]:
    runs = mapcoder(data)
    runs = runs[(runs["dataset"] == "HumanEval") & (runs["strategy"] == "CoT") & (runs["completion_tokens"] > 0)]
    answers = pd.DataFrame(
        {
            "qid": runs["task_id"],
            "model": runs["model"],
            "correct": runs["solved"],
            "out_tokens": runs["completion_tokens"],
            "is_loop": False,
            "has_length": True,
        }
    )
    fit = fit_lengths(answers, scales["humaneval"].difficulty)
    pairs = {"ChatGPT": "gpt-3.5-turbo-0125", "GPT4": "gpt-4-turbo-2024-04-09"}
    over_crux = float(np.mean([fit.intercept[here] - crux.intercept[there] for here, there in pairs.items()]))
    basis = f"on CRUX, times {np.exp(over_crux):.2f}, as GPT-3.5 and GPT-4 on HumanEval over CRUX"
    placed = {
        model: replace(
            each,
            intercept=each.intercept + over_crux,
            slope=fit.slope,
            if_wrong=fit.if_wrong,
            sd=float(fit.sd.mean()),
            loops_if_wrong=0.0,
            basis=f"{each.basis} {basis}",
        )
        for model, each in near.items()
    }
    return placed, fit.question_sd


def _qa(
    data: Path, scales: Mapping[str, Scale], near: Mapping[str, Mapping[str, ModelLengths]]
) -> tuple[dict[str, ModelLengths], float]:
    names = {LLAMA_8B: "Meta-Llama-3_1-8B-Instruct", "70B": "Meta-Llama-3_1-70B-Instruct"}
    answers = mmlu_pro_answers(data)
    fit = fit_lengths(answers[answers["model"].isin(names.values())], scales["mmlu_pro"].difficulty)
    own = ModelLengths(
        intercept=float(fit.intercept[names[LLAMA_8B]]),
        slope=fit.slope,
        if_wrong=fit.if_wrong,
        sd=float(fit.sd[names[LLAMA_8B]]),
        loops_if_wrong=float(fit.loops_if_wrong[names[LLAMA_8B]]),
        basis="its own on MMLU-Pro",
    )
    larger = replace(own, loops_if_wrong=float(fit.loops_if_wrong[names["70B"]]))
    over_8b = {
        model: float(
            np.mean([near[name][model].intercept - near[name][LLAMA_8B].intercept for name in ("gsm", "crux")])
        )
        for model in near["gsm"]
    }
    basis = "Llama-3.1-8B's on MMLU-Pro, times its ratio to it on GSM8K and CRUX"
    placed = {
        model: replace(
            own if model in (LLAMA_8B, LLAMA_3B) else larger,
            intercept=own.intercept + log,
            basis=own.basis if model == LLAMA_8B else basis,
        )
        for model, log in over_8b.items()
    }
    return placed, fit.question_sd


def _strategies(data: Path) -> dict[str, dict[str, tuple[float, float]]]:
    table = concise_cot(data)
    is_math = table["exam"].isin(MATH_EXAMS)
    math, verbal = _prompt_ratios(table[is_math]), _prompt_ratios(table[~is_math])
    share = float(mmlu_pro_categories(data).isin(QUANTITATIVE).mean())
    qa = {
        name: (
            share * math[name][0] + (1 - share) * verbal[name][0],
            float(np.sqrt(share * math[name][1] ** 2 + (1 - share) * verbal[name][1] ** 2)),
        )
        for name in PROMPTS
    }
    runs = mapcoder(data)
    runs = runs[runs["completion_tokens"] > 0]
    tokens = runs.pivot_table(index=["dataset", "model", "task_id"], columns="strategy", values="completion_tokens")
    code = {
        name: (0.0, 0.0) if strategy == "CoT" else log_ratio(tokens, strategy, "CoT")
        for name, strategy in CODE_STRATEGIES.items()
    }
    return {"math": math, "code": code, "qa": qa}


def _prompt_ratios(table: pd.DataFrame) -> dict[str, tuple[float, float]]:
    tokens = table.pivot(index=["qid", "model"], columns="prompt", values="tokens")
    return {name: log_ratio(tokens, prompt, "chain_of_thought") for name, prompt in PROMPTS.items()}
