"""How able each LLM of the pool is, by benchmark: its own answers where there are any, stated proxies elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from .outcome_fit_data import (
    BENCHMARKS,
    concise_cot,
    llmrouter,
    mapcoder,
    mmlu_pro_answers,
    mmlu_pro_categories,
    r1_distill_math,
    read_json_lines,
    wide,
    zeroeval_answers,
)
from .outcome_fit_irt import Rasch, fit_rasch

R1_32B = "DeepSeek-R1-Distill-Qwen-32B"
MISTRAL = "Mistral-Small-24B-Instruct-2501"
CODER_14B = "Qwen2.5-Coder-14B-Instruct"
LLAMA_8B = "Llama-3.1-8B-Instruct"
LLAMA_3B = "Llama-3.2-3B-Instruct"
MODELS = (R1_32B, MISTRAL, CODER_14B, LLAMA_8B, LLAMA_3B)

_ZEROEVAL_8B = "Meta-Llama-3.1-8B-Instruct"
_NEMO, _LARGE_2 = "Mistral-Nemo-Instruct-2407", "Mistral-Large-2"
_NEMO_TO_LARGE = 0.85
"""Where Mistral-Small-24B stands between Nemo-12B (0) and Large-2-123B (1): log size says 0.30, its model card's MATH
score (70.6; Large-2's: 71.5) 0.95. Half a year younger than Large-2, it is taken nearer the card."""
_CARD_3B_OVER_8B = {"gsm": 77.7 / 84.5, "math_l5": 48.0 / 51.9, "mmlu_pro": 63.4 / 69.4}
"""Accuracy of Llama-3.2-3B over that of Llama-3.1-8B, both from Meta's model card (GSM8K, MATH, MMLU)."""
_CRUX_3B_UNDER_8B = 0.5
"""Logits; no code benchmark of both is in the files. Qwen2.5-3B is 1.4 under Qwen2.5-7B there, the card's ratios above
make 0.2 to 0.7."""

QUANTITATIVE = ("business", "chemistry", "engineering", "math", "physics")
"""Subjects of MMLU-Pro that ask for a calculation."""
MATH_EXAMS = ("aqua-rat-100", "sat-math-100")
PROMPTS = {"Flash": "baseline", "Concise": "concise", "DeepThink": "composite"}
"""Which prompt of concise_cot stands for a strategy; all are compared with its chain_of_thought."""
CODE_STRATEGIES = {"Flash": "Direct", "Concise": "CoT", "DeepThink": "SelfPlanning"}
"""Which of mapcoder stands for a strategy."""


@dataclass(frozen=True, slots=True)
class Placed:
    """An ability, how sure it is, and where it comes from."""

    value: float
    sd: float
    basis: str


@dataclass(frozen=True, slots=True)
class Scale:
    """One benchmark, the LLMs that answered it, and its questions' answers."""

    rasch: Rasch
    abilities: pd.Series[float]
    index: pd.Index[str]
    """Question identifiers, in the order of the fit."""

    @classmethod
    def of(cls, answers: pd.DataFrame, guess: float = 0.0) -> Scale:
        """Fit a table of questions x LLMs."""
        rasch = fit_rasch(answers.to_numpy(float), guess)
        return cls(rasch, pd.Series(rasch.abilities, answers.columns), answers.index)

    @property
    def difficulty(self) -> pd.Series[float]:
        """Posterior means by question."""
        return pd.Series(self.rasch.difficulties, self.index)


def fit_scales(data: Path) -> dict[str, Scale]:
    """One for each benchmark that questions or abilities are taken from."""
    scales = {name: Scale.of(wide(zeroeval_answers(data, name), "qid")) for name in BENCHMARKS}
    mbpp, gpqa = (
        llmrouter(data, task).drop(columns="prompt_tokens").set_index("question") for task in ("mbpp", "gpqa")
    )
    return scales | {
        "mmlu_pro": Scale.of(wide(mmlu_pro_answers(data), "qid"), guess=0.1),
        "humaneval": Scale.of(humaneval_answers(data)),
        "mbpp": Scale.of(mbpp),
        "gpqa": Scale.of(gpqa),
    }


def humaneval_answers(data: Path) -> pd.DataFrame:
    """Tasks x (runs of mapcoder with one agent, LLMs of LLMRouter)."""
    prompts = {
        row["prompt"].strip(): row["task_id"] for row in read_json_lines(data, "task_questions/humaneval_164.jsonl")
    }
    runs = mapcoder(data)
    runs = runs[(runs["dataset"] == "HumanEval") & runs["strategy"].isin(CODE_STRATEGIES.values())]
    runs = runs.assign(run=runs["model"] + " " + runs["strategy"])
    single = runs.pivot(index="task_id", columns="run", values="solved").reindex(list(prompts.values()))
    routed = llmrouter(data, "human_eval").drop(columns="prompt_tokens")
    routed.index = pd.Index([prompts[text.strip()] for text in routed.pop("question")])
    return pd.concat([single, routed.reindex(single.index)], axis=1)


def place(data: Path, scales: Mapping[str, Scale]) -> dict[str, dict[str, Placed]]:
    """The five LLMs on each source of questions: ``{source: {model: ability}}``."""
    gsm, level_5 = _place_gsm(data, scales), _place_level_5(data, scales)
    humaneval = _place_humaneval(scales)
    return {
        "gsm8k": gsm,
        "math-l5": level_5,
        "humaneval": humaneval,
        "mbpp": _place_mbpp(scales, humaneval),
        "gpqa": _place_mmlu_pro(scales, gsm),
    }


@dataclass(frozen=True, slots=True)
class Line:
    """Abilities on one benchmark as a straight line of those on another, over the LLMs that both have."""

    slope: float
    intercept: float
    residual_sd: float
    num: int

    @classmethod
    def through(cls, known: pd.Series[float], wanted: pd.Series[float]) -> Line:
        """Least squares over the common index."""
        common = known.index.intersection(wanted.index)
        slope, intercept = np.polyfit(known[common], wanted[common], 1)
        rest = wanted[common] - slope * known[common] - intercept
        return cls(float(slope), float(intercept), float(rest.std(ddof=2)), len(common))

    def __call__(self, ability: float) -> float:
        """The ability on the other benchmark."""
        return self.slope * ability + self.intercept


def _own(scale: Scale, name: str) -> Placed:
    return Placed(float(scale.abilities[name]), 0.1, "its own answers")


def _scaled(scale: Scale, of: Placed, ratio: float) -> Placed:
    value = scale.rasch.ability_of(scale.rasch.accuracy(of.value) * ratio)
    return Placed(value, 0.3, f"Llama-3.1-8B's accuracy times {ratio:.2f}, the ratio on the vendor's model card")


def _between(low: float, high: float, more: float = 0.0) -> Placed:
    value = low + _NEMO_TO_LARGE * (high - low)
    sd = float(np.hypot(0.3 * (high - low), more))
    return Placed(value, sd, f"{_NEMO_TO_LARGE:.0%} of the way from Mistral-Nemo to Mistral-Large-2")


def _place_gsm(data: Path, scales: Mapping[str, Scale]) -> dict[str, Placed]:
    gsm, level_5 = scales["gsm"].abilities, scales["math_l5"].abilities
    line = Line.through(level_5, gsm)
    own = _own(scales["gsm"], _ZEROEVAL_8B)
    return {
        R1_32B: Placed(float(gsm["o1-mini-2024-09-12"]), 0.4, "o1-mini's; the line from MATH would lie above all LLMs"),
        MISTRAL: _between(float(gsm[_NEMO]), float(gsm[_LARGE_2])),
        CODER_14B: Placed(
            line(float(level_5["Qwen2.5-7B-Instruct"])),
            line.residual_sd,
            f"Qwen2.5-7B's on MATH level 5, by the line through {line.num} LLMs with both",
        ),
        LLAMA_8B: own,
        LLAMA_3B: _scaled(scales["gsm"], own, _CARD_3B_OVER_8B["gsm"]),
    }


def _place_level_5(data: Path, scales: Mapping[str, Scale]) -> dict[str, Placed]:
    gsm, level_5 = scales["gsm"], scales["math_l5"]
    line = Line.through(gsm.abilities, level_5.abilities)
    own = _own(level_5, _ZEROEVAL_8B)
    distilled = r1_distill_math(data)
    distilled = distilled[distilled["model"] == R1_32B]
    on_math = float(np.average(distilled["accuracy_pct"], weights=distilled["samples"])) / 100
    # GSM8K and level 5 in equal parts are about as hard as MATH: the same Llama-3.1-8B has 52.9 and 51.9 % there.
    on_level_5 = 2 * on_math - gsm.rasch.accuracy(float(gsm.abilities["o1-mini-2024-09-12"]))
    return {
        R1_32B: Placed(
            level_5.rasch.ability_of(on_level_5),
            0.5,
            f"r1_distill_math_aggregate: {on_math:.1%} on MATH uncut; GSM8K and level 5 in equal parts stand for MATH",
        ),
        MISTRAL: _between(line(float(gsm.abilities[_NEMO])), float(level_5.abilities[_LARGE_2]), line.residual_sd / 2),
        CODER_14B: Placed(
            float(level_5.abilities["Qwen2.5-7B-Instruct"]),
            0.4,
            "Qwen2.5-7B's: training on code costs a 14B some of its mathematics; at most Qwen2.5-32B's, 0.58 higher",
        ),
        LLAMA_8B: own,
        LLAMA_3B: _scaled(level_5, own, _CARD_3B_OVER_8B["math_l5"]),
    }


def crux_to_humaneval(scales: Mapping[str, Scale]) -> Line:
    """CRUX is in ZeroEval for fifty LLMs, HumanEval for few; four have both."""
    both = {
        _ZEROEVAL_8B: "llama-3.1-8b-instruct",
        "Qwen2.5-7B-Instruct": "qwen2.5-7b-instruct",
        "gpt-3.5-turbo-0125": "ChatGPT CoT",
        "gpt-4-turbo-2024-04-09": "GPT4 CoT",
    }
    humaneval = scales["humaneval"].abilities
    return Line.through(scales["crux"].abilities, pd.Series({crux: humaneval[name] for crux, name in both.items()}))


def _place_humaneval(scales: Mapping[str, Scale]) -> dict[str, Placed]:
    crux, line = scales["crux"].abilities, crux_to_humaneval(scales)
    by_line = f"by the line from CRUX to HumanEval through {line.num} LLMs with both"
    own = _own(scales["humaneval"], "llama-3.1-8b-instruct")
    qwen_32b = float(crux["Qwen2.5-32B-Instruct"])
    small = float(crux["Mixtral-8x7B-Instruct-v0.1"])
    mistral = _between(small, float(crux[_LARGE_2]))
    return {
        R1_32B: Placed(
            line((qwen_32b + float(crux["o1-mini-2024-09-12"])) / 2),
            0.8,
            f"half way from Qwen2.5-32B, which it was made of, to o1-mini, {by_line}",
        ),
        MISTRAL: Placed(
            line(mistral.value),
            line.slope * mistral.sd,
            f"{_NEMO_TO_LARGE:.0%} of the way from Mixtral-8x7B to Mistral-Large-2, {by_line}",
        ),
        CODER_14B: Placed(line(qwen_32b), 0.5, f"Qwen2.5-32B's: a coder of half the size, {by_line}"),
        LLAMA_8B: own,
        LLAMA_3B: Placed(
            own.value - line.slope * _CRUX_3B_UNDER_8B, 0.4, f"{_CRUX_3B_UNDER_8B} logits of CRUX under Llama-3.1-8B"
        ),
    }


def _place_mbpp(scales: Mapping[str, Scale], humaneval: Mapping[str, Placed]) -> dict[str, Placed]:
    line = Line.through(scales["humaneval"].abilities, scales["mbpp"].abilities)
    own = _own(scales["mbpp"], "llama-3.1-8b-instruct")
    basis = (
        f"its place on HumanEval, by the slope {line.slope:.2f} of {line.num} LLMs with both, from Llama-3.1-8B's own"
    )
    return {
        name: own
        if name == LLAMA_8B
        else Placed(
            own.value + line.slope * (placed.value - humaneval[LLAMA_8B].value),
            float(np.hypot(line.slope * placed.sd, line.residual_sd / 2)),
            basis,
        )
        for name, placed in humaneval.items()
    }


def _place_mmlu_pro(scales: Mapping[str, Scale], gsm: Mapping[str, Placed]) -> dict[str, Placed]:
    mmlu_pro = scales["mmlu_pro"]
    both = {
        _ZEROEVAL_8B: "Meta-Llama-3_1-8B-Instruct",
        "Meta-Llama-3.1-70B-Instruct": "Meta-Llama-3_1-70B-Instruct",
        "Mixtral-8x7B-Instruct-v0.1": "Mixtral-8x7B-Instruct-v0.1",
        "command-r": "c4ai-command-r-v01",
        "DeepSeek-Coder-V2-0724": "DeepSeek-Coder-V2",
        "gemini-1.5-flash": "gemini-1.5-flash-002",
        "gemini-1.5-pro": "gemini-1.5-pro-002",
    }
    known = pd.Series({name: mmlu_pro.abilities[there] for name, there in both.items()})
    line = Line.through(scales["gsm"].abilities, known)
    own = _own(mmlu_pro, "Meta-Llama-3_1-8B-Instruct")
    by_line = f"its place on GSM8K, by the line to MMLU-Pro through {line.num} LLMs with both"
    lined = {
        name: Placed(line(gsm[name].value), float(np.hypot(line.slope * gsm[name].sd, line.residual_sd)), by_line)
        for name in (R1_32B, MISTRAL)
    }
    # GSM8K flatters the Qwen2.5 family's knowledge, a coder's all the more.
    coder = Placed(
        (own.value + line(gsm[CODER_14B].value)) / 2,
        0.6,
        "half way from Llama-3.1-8B to the line from GSM8K to MMLU-Pro",
    )
    return lined | {CODER_14B: coder, LLAMA_8B: own, LLAMA_3B: _scaled(mmlu_pro, own, _CARD_3B_OVER_8B["mmlu_pro"])}


@dataclass(frozen=True, slots=True)
class Effect:
    """A difference of abilities in logits, averaged over LLMs, with the standard error over them."""

    value: float
    se: float


def strategy_effects(data: Path, scales: Mapping[str, Scale]) -> dict[str, dict[str, Effect]]:
    """``{domain: {strategy: effect}}``, each against the strategy that the abilities are from.

    Math and QA against chain of thought (ZeroEval, MMLU-Pro), code against Direct (LLMRouter's harness).
    """
    table = concise_cot(data)
    is_math = table["exam"].isin(MATH_EXAMS)
    math = _prompt_effects(table[is_math], (scales["gsm"].rasch.sigma + scales["math_l5"].rasch.sigma) / 2)
    verbal = _prompt_effects(table[~is_math], scales["mmlu_pro"].rasch.sigma)
    share = float(mmlu_pro_categories(data).isin(QUANTITATIVE).mean())
    mixed = {
        name: Effect(
            share * math[name].value + (1 - share) * verbal[name].value,
            float(np.hypot(share * math[name].se, (1 - share) * verbal[name].se)),
        )
        for name in math
    }
    return {"math": math, "code": _code_effects(data, scales["humaneval"].rasch.sigma), "qa": mixed}


def _prompt_effects(table: pd.DataFrame, sigma: float) -> dict[str, Effect]:
    runs = table.assign(model=table["model"] + "/" + table["prompt"])
    scale = Scale.of(wide(runs, "qid"))
    # A logit weighs by how far the questions of its test are apart.
    stretch = sigma / scale.rasch.sigma
    models = sorted(table["model"].unique())
    return {
        strategy: _mean_effect(
            [
                stretch * float(scale.abilities[f"{model}/{prompt}"] - scale.abilities[f"{model}/chain_of_thought"])
                for model in models
            ]
        )
        for strategy, prompt in PROMPTS.items()
    }


def _code_effects(data: Path, sigma: float) -> dict[str, Effect]:
    runs = mapcoder(data)
    runs = runs[runs["strategy"].isin(CODE_STRATEGIES.values())].assign(run=runs["model"] + "/" + runs["strategy"])
    differences: dict[str, list[float]] = {"Concise": [], "DeepThink": []}
    for _, tasks in runs.groupby("dataset"):
        scale = Scale.of(tasks.pivot(index="task_id", columns="run", values="solved"))
        for model in sorted(tasks["model"].unique()):
            for strategy, found in differences.items():
                pair = f"{model}/{CODE_STRATEGIES[strategy]}", f"{model}/Direct"
                if scale.abilities.index.isin(pair).sum() == 2:
                    gap = float(scale.abilities[pair[0]] - scale.abilities[pair[1]])
                    found.append(sigma / scale.rasch.sigma * gap)
    return {"Flash": Effect(0.0, 0.0)} | {name: _mean_effect(found) for name, found in differences.items()}


def _mean_effect(differences: list[float]) -> Effect:
    return Effect(float(np.mean(differences)), float(np.std(differences, ddof=1) / np.sqrt(len(differences))))
