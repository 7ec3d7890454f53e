"""What several agents gain: how errors repeat, and what a review with a test run at hand repairs."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import expit, ndtri

from .outcome_fit_data import BENCHMARKS, concise_cot, mapcoder, wide, zeroeval_answers
from .outcome_fit_irt import fit_rasch, shared_noise, tetrachoric

SAME_WEIGHTS = "405B"
"""Llama-3.1-405B was run by several hosts: the one LLM that ZeroEval has more than once."""
_NEAR = 0.06
"""LLMs of other families whose accuracy is within this much of it are what it is compared with."""

VOTE = 1.0
"""Log odds that each agent with the same answer adds to it, where an agent chooses between answers. Assumed."""
OWN = 2.0
"""Log odds that an agent adds to its own answer: three others have to agree against it for even odds. Assumed."""

_CHAINS = (("HumanEval", 11), ("APPS", 7), ("xCodeEval", 7))
"""MapCoder's calls before it writes a program: it retrieves once, then plans and rates k plans; k = 5, 3, 3."""
_NUM_TASKS = 20_000


@dataclass(frozen=True, slots=True)
class SharedNoise:
    """How much of what difficulty and ability leave open is the same when an LLM meets a question again."""

    share: float
    """With the prompt alike (hosts of one LLM); mean over benchmarks."""
    by_benchmark: dict[str, float]
    other_prompt: float
    """With another prompt. It comes out as high, so that prompts need no noise of their own."""


def fit_shared_noise(data: Path) -> SharedNoise:
    """From tetrachoric correlations: like pairs against pairs of different LLMs of like accuracy."""
    by_benchmark = {name: _same_weights(wide(zeroeval_answers(data, name), "qid")) for name in BENCHMARKS}
    return SharedNoise(float(np.mean(list(by_benchmark.values()))), by_benchmark, _other_prompt(data))


def _same_weights(answers: pd.DataFrame) -> float:
    hosts = [name for name in answers.columns if SAME_WEIGHTS in name]
    accuracy = answers.mean()
    others = [
        name
        for name in answers.columns
        if "llama" not in name.lower() and abs(accuracy[name] - accuracy[hosts].mean()) < _NEAR
    ]
    same = [_correlation(answers, *pair) for pair in combinations(hosts, 2)]
    other = [_correlation(answers, host, name) for host in hosts for name in others]
    return shared_noise(float(np.mean(same)), float(np.mean(other)))


def _other_prompt(data: Path) -> float:
    table = concise_cot(data)
    answers = wide(table.assign(model=table["model"] + "/" + table["prompt"]), "qid").dropna()
    pairs = list(combinations(answers.columns, 2))
    is_same = [first.split("/")[0] == second.split("/")[0] for first, second in pairs]
    found = [_correlation(answers, *pair) for pair in pairs]
    same = [each for each, like in zip(found, is_same, strict=True) if like]
    other = [each for each, like in zip(found, is_same, strict=True) if not like]
    return shared_noise(float(np.mean(same)), float(np.mean(other)))


def _correlation(answers: pd.DataFrame, first: str, second: str) -> float:
    both = answers[[first, second]].dropna()
    return tetrachoric(both[first].tolist(), both[second].tolist())


@dataclass(frozen=True, slots=True)
class Gain:
    """One published team: solved share alone, in the team, and in our model of the team."""

    dataset: str
    model: str
    attempts: int
    alone: float
    team: float
    ours: float


@dataclass(frozen=True, slots=True)
class Review:
    """Log odds that a review which runs tests adds to a right program over a wrong one."""

    log_odds: float
    mapcoder: list[Gain]
    """What it was fitted to."""
    reflexion: list[Gain]
    """What it was not fitted to."""


def fit_review(data: Path, noise: SharedNoise) -> Review:
    """Least squares on the solved shares of MapCoder with ChatGPT and GPT-4-Turbo on three datasets."""
    runs = mapcoder(data)
    cells = []
    for dataset, planning in _CHAINS:
        tasks = runs[runs["dataset"] == dataset]
        single = tasks[tasks["strategy"].isin(["Direct", "CoT", "SelfPlanning"])]
        single = single.assign(run=single["model"] + "/" + single["strategy"])
        spread = fit_rasch(single.pivot(index="task_id", columns="run", values="solved").to_numpy(float)).sigma
        for model in ("ChatGPT", "GPT4"):
            mine = tasks[tasks["model"] == model]
            alone = float(mine.loc[mine["strategy"].isin(["Direct", "CoT"]), "solved"].mean())
            team = mine[mine["strategy"] == "MapCoder"]
            programs = team["api_calls"] - planning
            attempts = max(2, round(float(programs[programs > 1].mean())))
            cells.append((spread, Gain(dataset, model, attempts, alone, float(team["solved"].mean()), 0.0)))

    def loss(log_odds: float) -> float:
        return sum((_chain(log_odds, spread, cell, noise) - cell.team) ** 2 for spread, cell in cells)

    log_odds = float(minimize_scalar(loss, bounds=(0.0, 10.0), method="bounded", options={"xatol": 1e-4}).x)
    fitted = [_with_ours(cell, _chain(log_odds, spread, cell, noise)) for spread, cell in cells]
    return Review(log_odds, fitted, _reflexion(runs, log_odds, cells[0][0], noise))


def _with_ours(cell: Gain, ours: float) -> Gain:
    return Gain(cell.dataset, cell.model, cell.attempts, cell.alone, cell.team, ours)


def _reflexion(runs: pd.DataFrame, log_odds: float, spread: float, noise: SharedNoise) -> list[Gain]:
    tasks = runs[runs["dataset"] == "HumanEval"]
    solved = tasks.groupby(["model", "strategy"])["solved"].mean()
    gains = []
    for model in ("ChatGPT", "GPT4"):
        alone = float(solved[model].reindex(["Direct", "CoT"]).mean())
        cell = Gain("HumanEval", model, 2, alone, float(solved[model]["Reflexion"]), 0.0)
        gains.append(_with_ours(cell, _chain(log_odds, spread, cell, noise)))
    return gains


def _chain(log_odds: float, spread: float, cell: Gain, noise: SharedNoise) -> float:
    """Solved share where each attempt sees the one before: it keeps that answer or puts its own in its place.

    The random numbers are always the same, and the choices are averaged: smooth in `log_odds`.
    """
    random = np.random.Generator(np.random.Philox(20240601))
    difficulty = spread * random.standard_normal(_NUM_TASKS)
    own_noise = random.standard_normal((cell.attempts, _NUM_TASKS))
    kept = random.standard_normal(_NUM_TASKS) * np.sqrt(noise.share)
    threshold = ndtri(np.clip(expit(_ability(cell.alone, spread) - difficulty), 1e-12, 1 - 1e-12))
    held = np.zeros(_NUM_TASKS)
    for attempt in range(cell.attempts):
        own = (kept + np.sqrt(1 - noise.share) * own_noise[attempt] < threshold).astype(float)
        if attempt == 0:
            held = own
            continue
        takes_right_own = expit(OWN + log_odds)
        keeps_right = expit(log_odds - OWN)
        held = own * held + own * (1 - held) * takes_right_own + (1 - own) * held * keeps_right
    return float(held.mean())


def _ability(accuracy: float, spread: float) -> float:
    nodes = np.linspace(-5, 5, 201)
    weights = np.exp(-(nodes**2) / 2) / np.exp(-(nodes**2) / 2).sum()
    low, high = -30.0, 30.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if weights @ expit(middle - spread * nodes) < accuracy else (low, middle)
    return low
