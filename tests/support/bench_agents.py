"""What each part of the trained agents is worth, on pools that they were not trained on too, and beside others' agents.

    python tests/support/bench_agents.py ablations OUT [--iterations N] [--seeds N] [--rates R ...] [--set K=V ...]
    python tests/support/bench_agents.py transfer OUT [...]
    python tests/support/bench_agents.py paper OUT [...]

Every variant is trained anew and evaluated on the same queries. A variant that concerns the world (order of service,
what policies are told) is trained and evaluated in that world. OUT keeps trainings and evaluations; run again it goes
on with what is missing. Prints goodput and the difference to the first variant (transfer, paper: to the policy trained
on that pool), with 95 % intervals over seeds of the evaluation, and writes them to OUT/NAME.csv. There is one training
of each variant: a difference of a point may be its luck.
"""

import argparse
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import pandas as pd
import tomli_w

from inframind.agents import figures_table, over_tiers, read_cell, t_interval
from inframind.cli import main

Settings = Mapping[str, object]
SCHEDULER = "edf-late-last"
POOL = "l40s"


@dataclass(frozen=True)
class Variant:
    """One training and its evaluation."""

    training: Settings = field(default_factory=dict)
    evaluation: Settings = field(default_factory=dict)


def both(**settings: object) -> Variant:
    """Of the world in which a policy is trained and evaluated."""
    return Variant(settings, settings)


ABLATIONS = {
    "default": Variant(),
    "EDF off": Variant({"scheduler": "fcfs"}, {"schedulers": ["fcfs"]}),
    "planner fixed: one call": Variant({"planner.fixed": "single"}),
    "planner fixed: mixed": Variant({"planner.fixed": "mixed"}),
    "load hidden from planner": Variant({"planner.network.system": "none"}),
    "load hidden from executor": Variant({"executor.network.system": "none"}),
    "raw metrics for the latency map": Variant(
        {"planner.network.system": "raw-metrics", "executor.network.system": "raw-metrics"}
    ),
    "query's embedding read": Variant({"planner.network.query": 8, "executor.network.query": 8}),
    "one multiplier for all tiers": Variant({"constraint.per_tier": False}),
    "no dead reckoning": both(dead_reckoning=False),
    "metrics polled every 5 s": both(poll_s=5.0),
    "late workflows go on": both(answer_when_due=False),
    "no charge for congestion": Variant({"congestion.weight": 0}),
    "price in the reward": Variant({"reward.combine": "rewards"}),
    "planner by REINFORCE with a moving average, price in the reward": Variant(
        {
            "reward.combine": "rewards",
            "planner.learner.algorithm": "policy-gradient",
            "planner.learner.baseline": "ema",
            # It would subtract the batch's mean instead.
            "planner.learner.standardise": False,
            "planner.learner.entropy": 0.05,
            "planner.learner.last_entropy": 0.005,
        }
    ),
    "prior of the executor 12": Variant({"executor.network.prior": 12.0}),
}
REPLICAS = {
    "twice": dict.fromkeys(("deepseek-r1-32b", "mistral-24b", "qwen-coder-14b", "llama-8b", "llama-3b"), 2),
    "other mix": {"mistral-24b": 1, "qwen-coder-14b": 2, "llama-8b": 3},
}
"""Pools of the default one's servers."""


class Bench:
    """Trainings and evaluations in one folder."""

    def __init__(self, out: Path, options: argparse.Namespace) -> None:
        self._out = out
        self._options = options

    def train(self, name: str, settings: Settings) -> Path:
        """The folder of a policy, made if it is not there."""
        run = self._out / "train" / slug(name)
        values = {
            "name": slug(name),
            "pool": POOL,
            "scheduler": SCHEDULER,
            "batch.iterations": self._options.iterations,
        }
        sets = [f"{key}={json.dumps(value)}" for key, value in (values | dict(settings)).items()]
        sets += self._options.set
        file = self._write("train", {})
        log = run / "metrics.jsonl"
        if not log.is_file() or len(log.read_text().splitlines()) < self._options.iterations:
            words = ["--jobs", str(self._options.jobs), *(word for each in sets for word in ("--set", each))]
            if run.is_dir():
                words.append("--resume" if (run / "checkpoint").is_dir() else "--overwrite")
            assert main(["train", str(file), "-o", str(run), *words]) == 0
        return run / "policy"

    def evaluate(self, name: str, policies: list[Path | str], settings: Settings) -> pd.DataFrame:
        """Figures of each policy, rate and seed."""
        values = {
            "pool": POOL,
            "policies": [str(policy) for policy in policies],
            "schedulers": [SCHEDULER],
            "rates_per_min": self._options.rates,
            "seeds": list(range(100, 100 + self._options.seeds)),
        } | dict(settings)
        run = self._out / "evaluate" / slug(name)
        file = self._write(slug(name), values)
        assert main(["evaluate", str(file), "-o", str(run), "--jobs", str(self._options.jobs)]) == 0
        return over_tiers(figures_table(read_cell(path) for path in sorted((run / "cells").iterdir())))

    def pool(self, name: str) -> Path:
        """A pool file with replicas of the default pool's servers."""
        servers = tomllib.loads((files("inframind.sim") / "data" / f"{POOL}.toml").read_text())["servers"]
        return self._write(
            f"pool {name}",
            {
                "servers": [
                    server | {"name": f"{server['name']}-{number}"}
                    for server in servers
                    for number in range(REPLICAS[name].get(server["name"], 0))
                ]
            },
        )

    def _write(self, name: str, values: Settings) -> Path:
        path = self._out / f"{slug(name)}.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(tomli_w.dumps(values), encoding="utf-8")
        return path


def slug(name: str) -> str:
    """A folder's name."""
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def ablations(bench: Bench) -> pd.DataFrame:
    """Each variant against the default."""
    figures = [
        bench.evaluate(name, [bench.train(name, variant.training)], variant.evaluation).assign(variant=name)
        for name, variant in ABLATIONS.items()
    ]
    return compared(pd.concat(figures), "default")


def transfer(bench: Bench) -> pd.DataFrame:
    """On each other pool: the policy trained there, the default pool's, and the best rule."""
    tables = []
    home = bench.train("default", {})
    for name in REPLICAS:
        pool = {"pool": str(bench.pool(name))}
        there = bench.train(name, pool)
        policies: dict[str, Path | str] = {
            "trained there": there,
            "trained on the default pool": home,
            "best rule": "quality-in-time@single",
        }
        figures = [
            bench.evaluate(f"{name} {label}", [policy], pool).assign(variant=label)
            for label, policy in policies.items()
        ]
        tables.append(compared(pd.concat(figures), "trained there").assign(pool=name))
    return pd.concat(tables)


def paper(bench: Bench) -> pd.DataFrame:
    """On the InfraMind authors' pool: trained there by our preset and by theirs, and what does not learn."""
    pool = {"pool": "paper"}
    policies: dict[str, Path | str] = {
        "default": bench.train("paper", pool),
        "reference": bench.train("paper reference", pool | {"preset": "reference"}),
        **{rule: rule for rule in ("quality-in-time@single", "quality-in-time", "masrouter", "moa")},
    }
    figures = [
        bench.evaluate(f"paper {label}", [policy], pool).assign(variant=label) for label, policy in policies.items()
    ]
    return compared(pd.concat(figures), "default")


def compared(figures: pd.DataFrame, base: str) -> pd.DataFrame:
    """A row for each variant and rate, differences in goodput paired by seed."""
    keys = ["rate_per_min", "seed"]
    of_base = figures[figures["variant"] == base].set_index(keys)["goodput"]
    rows = []
    for (name, rate), group in figures.groupby(["variant", "rate_per_min"], sort=False):
        goodput = group.set_index(keys)["goodput"]
        own, difference = t_interval(goodput.to_numpy()), t_interval((goodput - of_base.loc[goodput.index]).to_numpy())
        rows.append((name, rate, *own, *difference, group["on_time"].mean()))
    names = [f"{figure}{end}" for figure in ("goodput", "difference") for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=["variant", "rate_per_min", *names, "on_time"])


def build_parser() -> argparse.ArgumentParser:
    """What stands above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=["ablations", "transfer", "paper"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--rates", type=float, nargs="+", default=[20.0, 100.0, 200.0])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of every training")
    return parser


if __name__ == "__main__":
    chosen = build_parser().parse_args()
    work = Bench(chosen.out.absolute(), chosen)
    table = {"ablations": ablations, "transfer": transfer, "paper": paper}[chosen.table](work)
    table.to_csv(chosen.out / f"{chosen.table}.csv", index=False)
    print(table.set_index(["variant", "rate_per_min"]).to_string(float_format=lambda value: f"{100 * value:.1f}"))
