"""``python -m inframind.calibration.outcome_fit``: fit the outcome model to the public files, and write what ships.

``docs/outcomes.md`` has the model, every assumption, and the files with source and licence.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save

from inframind.sim.question_bank import QUESTIONS
from inframind.traces import Mistakes
from inframind.workflows import STRATEGIES
from inframind.workflows.embedding import MiniLM

from .outcome_fit_abilities import MODELS, R1_32B, Effect, Placed, Scale, fit_scales, place, strategy_effects
from .outcome_fit_data import BENCHMARKS, zeroeval_answers
from .outcome_fit_irt import Array
from .outcome_fit_length_places import Lengths, place_lengths
from .outcome_fit_lengths import retest_correlation
from .outcome_fit_questions import (
    DOMAIN_OF,
    DOMAINS,
    SOURCES,
    Bank,
    Estimator,
    category_r2,
    check_ids,
    difficulties,
    fit_estimator,
    model_specific_r2,
    questions_metadata,
    read_questions,
)
from .outcome_fit_teams import OWN, SAME_WEIGHTS, VOTE, Review, fit_review, fit_shared_noise

_SCALE_OF = {"gsm8k": "gsm", "math-l5": "math_l5", "humaneval": "humaneval", "mbpp": "mbpp", "gpqa": "mmlu_pro"}
"""Where a source's abilities are measured."""

REASONING_SHARE = 1 / 3
"""A reasoning LLM thinks whatever the prompt says: a strategy changes its length and ability by this much of what it
does to others. Assumed."""
SAME_WRONG = {"math": 0.3, "code": 0.0, "qa": 0.4}
"""Probability that a wrong answer is the one that most who are wrong give. Assumed: programs are wrong each in its way,
multiple choice has one tempting option."""
READ_IF_CUT = {"reasoning": 0.5, "plain": 0.0}
"""Probability that a right answer can be read off an output that was cut. Assumed: a long chain of thought has often
come to its result and checks it again; a plain answer has its result at the end."""
DECISION_LENGTH = float(np.prod([51.9 / 70.1, 26.0 / 41.8, 19.8 / 18.4]) ** (1 / 3))
"""Output of a decision node over that of the slowest agent: how long a call takes at 10 queries/min in the InfraMind
authors' tables (MATH, MBPP, GSM-Hard), geometric mean."""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the outcome model and, beside it, the question bank; 2 if the person's files or options are wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m inframind.calibration.outcome_fit",
        description="Fit the outcome model to public files; write it, and questions.safetensors beside it.",
    )
    parser.add_argument("data", type=Path, metavar="DATA_DIR", help="folder of the files that docs/outcomes.md lists")
    parser.add_argument("-o", dest="output", type=Path, required=True, metavar="OUTCOMES.json", help="file to write")
    parser.add_argument(
        "--encode",
        action="store_true",
        help="embed the questions anew (2 minutes; needs the extra 'embeddings') instead of taking what ships",
    )
    args = parser.parse_args(argv)
    try:
        table = read_questions(args.data)
        embedding = _encoded(table) if args.encode else _shipped(table)
        model, tensors = fit_outcomes(args.data, Bank(table, embedding))
    except Mistakes as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    text = json.dumps(rounded(model), indent=1, ensure_ascii=False) + "\n"
    try:
        args.output.write_text(text, encoding="utf-8")
        args.output.with_name(QUESTIONS.name).write_bytes(save(tensors, questions_metadata(list(table["id"]))))
    except OSError as error:
        print(f"error: {args.output}: cannot be written: {error.strerror}", file=sys.stderr)
        return 2
    return 0


def _encoded(table: pd.DataFrame) -> NDArray[np.float16]:
    return MiniLM.from_package().encode(list(table["question"])).astype(np.float16)


def _shipped(table: pd.DataFrame) -> NDArray[np.float16]:
    with safe_open(QUESTIONS, "numpy") as file:
        check_ids(QUESTIONS, file.metadata() or {}, list(table["id"]))
        embedding: NDArray[np.float16] = file.get_tensor("embedding")
    return embedding


def fit_outcomes(data: Path, bank: Bank) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """All numbers of ``outcomes.json``, and the tensors of the question bank.

    Raises
    ------
    TraceError
        If a public file is absent or not what it should be.
    """
    scales = fit_scales(data)
    offsets = _offsets(scales)
    abilities, effects = place(data, scales), strategy_effects(data, scales)
    lengths = place_lengths(data, scales, offsets["math-l5"])
    noise = fit_shared_noise(data)
    review = fit_review(data, noise)
    own_scale, telling = difficulties(bank, scales)
    difficulty = own_scale + bank.table["source"].map(offsets).to_numpy()
    estimator = fit_estimator(bank, difficulty)
    repeats = [
        retest_correlation(zeroeval_answers(data, name), lengths.fits[name], scales[name].difficulty, SAME_WEIGHTS)
        for name in BENCHMARKS
    ]
    model = {
        "version": 1,
        "models": list(MODELS),
        "strategies": list(STRATEGIES),
        "sources": {
            source: _source(source, scales[_SCALE_OF[source]], offsets[source], abilities[source], lengths)
            for source in SOURCES
        },
        "domains": {domain: _domain(domain, effects[domain], lengths, review, estimator) for domain in DOMAINS},
        "reasoning": {"models": [R1_32B], "strategy_share": REASONING_SHARE},
        "read_if_cut": READ_IF_CUT,
        "noise": {"shared": noise.share, "length_shared": float(np.mean(repeats))},
        "teams": {"vote": VOTE, "own": OWN, "decision_length": DECISION_LENGTH},
        "evidence": {
            "embedding": {source: asdict(each) for source, each in telling.items()},
            "mmlu_pro_subject_r2": category_r2(data, scales["mmlu_pro"]),
            "model_specific_r2": {
                source: model_specific_r2(data, bank, scales, source) for source in ("gsm8k", "math-l5")
            },
            "estimator_test_r2": estimator.test_r2,
            "shared_noise": asdict(noise),
            "mapcoder": [asdict(gain) for gain in review.mapcoder],
            "reflexion": [asdict(gain) for gain in review.reflexion],
            "length_ks": {
                name: {
                    "median": fit.ks.median(),
                    "max": fit.ks.max(),
                    "Llama-3.1-8B": fit.ks["Meta-Llama-3.1-8B-Instruct"],
                }
                for name, fit in lengths.fits.items()
            },
            "reasoning_over_plain": lengths.reasoning_over_plain,
        },
    }
    return model, _tensors(bank, difficulty, estimator, lengths)


def _offsets(scales: Mapping[str, Scale]) -> dict[str, float]:
    """How much harder a source is than the first of its domain: how much less able the same LLMs look on it."""
    harder = scales["gsm"].abilities - scales["math_l5"].abilities
    easier = scales["humaneval"].abilities - scales["mbpp"].abilities
    return {"gsm8k": 0.0, "math-l5": float(harder.mean()), "humaneval": 0.0, "mbpp": float(easier.mean()), "gpqa": 0.0}


def _source(
    source: str, scale: Scale, offset: float, abilities: Mapping[str, Placed], lengths: Lengths
) -> dict[str, Any]:
    """Abilities and lengths on the scale of the domain."""
    models = {}
    for name in MODELS:
        placed, length = abilities[name], lengths.by_source[source][name]
        models[name] = {
            "ability": placed.value + offset,
            "ability_sd": placed.sd,
            "ability_basis": placed.basis,
            "log_tokens": length.intercept - length.slope * offset,
            "log_tokens_per_logit": length.slope,
            "log_tokens_if_wrong": length.if_wrong,
            "log_tokens_sd": length.sd,
            "loops_if_wrong": length.loops_if_wrong,
            "length_basis": length.basis,
        }
    return {
        "domain": DOMAIN_OF[source],
        "guess": scale.rasch.guess,
        "difficulty_mean": offset,
        "difficulty_sd": scale.rasch.sigma,
        "wordiness_sd": lengths.question_sd[source],
        "models": models,
    }


def _domain(
    domain: str, effects: Mapping[str, Effect], lengths: Lengths, review: Review, estimator: Estimator
) -> dict[str, Any]:
    return {
        "strategies": {
            name: {
                "ability": effects[name].value,
                "ability_se": effects[name].se,
                "log_tokens": lengths.strategies[domain][name][0],
                "log_tokens_sd": lengths.strategies[domain][name][1],
            }
            for name in STRATEGIES
        },
        # Nothing in the files tells of a review without tests to run: it is taken to see no more than the votes.
        "review_log_odds": review.log_odds if domain == "code" else 0.0,
        "same_wrong": SAME_WRONG[domain],
        "estimate_sd": estimator.residual_sd[domain],
    }


def _tensors(bank: Bank, difficulty: Array, estimator: Estimator, lengths: Lengths) -> dict[str, NDArray[Any]]:
    source = bank.table["source"]
    random = np.random.Generator(np.random.Philox(11))
    wordiness = np.array([lengths.question_sd[each] for each in source]) * random.standard_normal(len(source))
    for name, measured in lengths.wordiness.items():
        rows = (source == name).to_numpy()
        wordiness[rows] = measured.reindex(bank.table.loc[rows, "key"]).to_numpy()
    return {
        "embedding": bank.embedding,
        "difficulty": difficulty.round(3).astype(np.float32),
        "estimate": estimator.estimate.round(3).astype(np.float32),
        "wordiness": wordiness.round(3).astype(np.float32),
        "prompt_tokens": bank.table["prompt_tokens"].to_numpy(np.int32),
        "source": source.map(SOURCES.index).to_numpy(np.uint8),
        "is_train": bank.table["is_train"].to_numpy(np.uint8),
    }


def rounded(value: Any) -> Any:
    """Numbers to four decimals: the last bits of a fit differ between machines."""
    match value:
        case bool() | int() | str():
            return value
        case dict():
            return {key: rounded(item) for key, item in value.items()}
        case list() | tuple():
            return [rounded(item) for item in value]
        case _:
            return round(float(value), 4)


if __name__ == "__main__":
    sys.exit(main())
