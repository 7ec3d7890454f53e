"""``inframind evaluate``: what it writes, that it goes on where it stopped, and what it says of mistakes."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path

import doc_tables
import pandas as pd
import pytest
from html_page import Page, in_browser, shown

from inframind.agents import FIGURES, POLICIES, SCHEDULERS, Evaluation, World, load_evaluation, policies, t_interval
from inframind.cli import main
from inframind.cli.report_cells import FEW_SEEDS, UNROUNDED
from inframind.cli.report_evaluate import _finding, _title
from inframind.cli.report_evaluate_figures import shares_by_load
from inframind.sim.outcomes import OutcomeModel

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "evaluation.md"
SMALL = """
name = "small"
policies = ["jsq", "quality-in-time", "clairvoyant"]
schedulers = ["fcfs", "edf"]
rates_per_min = [20, 100]
seeds = [0, 1]
num_queries = 25
"""


def write(folder: Path, text: str = SMALL) -> Path:
    path = folder / "evaluation.toml"
    path.write_text(text)
    return path


def evaluate(path: Path, out: Path, *words: str, jobs: int = 1) -> int:
    return main(["evaluate", str(path), "-o", str(out), "--jobs", str(jobs), *words])


def problems(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished small evaluation."""
    folder = tmp_path_factory.mktemp("evaluate")
    assert evaluate(write(folder), folder / "out") == 0
    return folder / "out"


def test_the_summary_has_every_run_and_tier(small: Path) -> None:
    """3 policies, 2 schedulers, 2 rates, 2 seeds, 5 tiers and all of them together."""
    assert len(list((small / "cells").iterdir())) == 3 * 2 * 2 * 2
    summary = pd.read_csv(small / "summary.csv", dtype={"tier": str})
    assert len(summary) == 3 * 2 * 2 * 6
    assert list(summary.columns[:6]) == ["policy", "scheduler", "rate_per_min", "tier", "seeds", "n"]
    assert list(summary.columns[6::3]) == list(FIGURES)
    whole = summary[summary["tier"] == "all"]
    assert set(whole["n"]) == {50}
    assert (whole["goodput"] <= whole[["accuracy", "on_time"]].min(axis=1)).all()


def test_the_report_is_a_page_that_loads_nothing(small: Path) -> None:
    page = Page((small / "report.html").read_text(encoding="utf-8"))

    assert all(target.startswith("#") for target in page.targets)
    assert page.tags.count("figure") == 6
    for heading in ("Goodput against load", "On time against load", "Schedulers", "Queue depth over time"):
        assert shown(page, heading)
    assert not shown(page, "one load")


def test_two_seeds_have_no_intervals_and_a_line_says_why(small: Path) -> None:
    """Two that agree would have one of ± 0.0."""
    page = Page((small / "report.html").read_text(encoding="utf-8"))

    assert shown(page, FEW_SEEDS)
    assert "±" not in " ".join(page.text).replace(FEW_SEEDS, "")
    assert not shown(page, "95 % interval of")


def test_each_figure_is_explained_by_the_name_that_the_table_has(small: Path) -> None:
    """With that of the column in summary.csv behind it."""
    page = Page((small / "report.html").read_text(encoding="utf-8"))

    for line in ("On time on_time share answered", "Latency mean (s) latency_mean_s from", "Busy utilisation share of"):
        assert shown(page, line), line
    text = " ".join(page.text)
    assert all(f" {name} {meaning}" in text for name, meaning in FIGURES.items())


def test_a_report_says_what_becomes_of_late_workflows(small: Path) -> None:
    page = Page((small / "report.html").read_text(encoding="utf-8"))

    assert shown(page, "When due workflows answer with the last message they have")


def test_differences_are_said_to_be_unrounded(small: Path) -> None:
    assert shown(Page((small / "report.html").read_text(encoding="utf-8")), UNROUNDED)


@pytest.mark.parametrize("width", [1280, 420])
def test_the_report_fits_the_screen(small: Path, tmp_path: Path, width: int) -> None:
    seen = in_browser((small / "report.html").read_text(encoding="utf-8"), tmp_path, width=width)

    assert seen["errors"] == []
    assert seen["content_width"] <= seen["width"]
    assert len(seen["figures"]) == 6
    assert all(figure["marks"] > 20 for figure in seen["figures"])
    assert all(figure["smallest_letters"] > 10 for figure in seen["figures"])
    # None has to be scrolled, its legend neither.
    assert all(figure["content_width"] <= figure["width"] + 1 for figure in seen["figures"])


@pytest.mark.usefixtures("undrawn")
def test_going_on_equals_never_stopping(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Half of the cells are taken away, then made again, by two processes. But how long decisions took is new."""
    out = tmp_path / "out"
    shutil.copytree(small, out)
    paths = sorted((out / "cells").iterdir())
    for path in paths[1::2]:
        path.unlink()
    kept = {path: path.stat().st_mtime_ns for path in paths[::2]}
    capsys.readouterr()
    assert evaluate(write(tmp_path), out, jobs=2) == 0

    printed = capsys.readouterr().out
    assert "FCFS, right and in time, %" in printed
    assert "EDF, in time, %" in printed
    assert FEW_SEEDS in printed
    assert "±" not in printed.replace(FEW_SEEDS, "")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    columns = [name for name in pd.read_csv(small / "summary.csv").columns if "decisions_per_s" not in name]
    again, unbroken = (pd.read_csv(folder / "summary.csv")[columns] for folder in (out, small))
    pd.testing.assert_frame_equal(again, unbroken)


def test_another_configuration_is_refused_by_key(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in small.rglob("*") if path.is_file()}
    words = ["--set", "num_queries=26", "--set", "budgets.tiers_s=[10]"]

    assert evaluate(write(tmp_path), small, *words) == 2
    told = problems(capsys)
    assert "experiment.num_queries: is now 26, and was 25" in told
    assert "experiment.budgets.tiers_s: is now [10.0], and was [10.0, 50.0, 200.0, 600.0, 1800.0]" in told
    assert {path: path.read_bytes() for path in small.rglob("*") if path.is_file()} == before


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.toml").write_text("mine")

    for words in ([], ["--overwrite"]):
        assert evaluate(write(tmp_path), tmp_path / "mine", *words) == 2
        assert "has config.toml of something else; name another folder" in problems(capsys)
    assert (tmp_path / "mine" / "config.toml").read_text() == "mine"


@pytest.mark.usefixtures("undrawn")
def test_overwriting_begins_anew(small: Path, tmp_path: Path) -> None:
    """Results of another evaluation go, what is a person's stays."""
    out = tmp_path / "out"
    shutil.copytree(small, out)
    (out / "notes.txt").write_text("mine")
    words = ["--set", "num_queries=3", "--set", "seeds=[7]", "--set", 'policies=["jsq"]']

    assert evaluate(write(tmp_path), out, *words) == 2
    assert evaluate(write(tmp_path), out, *words, "--overwrite") == 0
    assert len(list((out / "cells").iterdir())) == 2 * 2
    assert (out / "notes.txt").read_text() == "mine"


def test_all_mistakes_of_a_file_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(
        tmp_path,
        """
        policies = ["jsk"]
        schedulers = ["lifo"]
        num_queries = 0
        domains = ["maths"]
        strategy = "Fast"
        budgets.tiers_s = [10, -5]
        """,
    )

    assert evaluate(path, tmp_path / "out") == 2
    told = problems(capsys)
    assert "6 problems" in told
    assert "policies[0]: no policy has this name; did you mean 'jsq'?" in told
    assert "schedulers[0]: no scheduler has this name; known: fcfs, edf, edf-late-last, least-slack" in told
    assert "num_queries: must be greater than or equal to 1, got 0" in told
    assert "domains[0]: no domain has this name; did you mean 'math'?" in told
    assert "strategy: no strategy has this name" in told
    assert "budgets.tiers_s[1]: must be greater than 0, got -5" in told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ('planner="Ring/MathSolver"', "planner ('Ring/MathSolver'): unknown topology 'Ring'"),
        ('planner="IO/Poet"', "planner ('IO/Poet'): role set 'Poet': unknown role 'Poet' of math"),
        ('planner="best"', "planner ('best') must be single, mixed or TOPOLOGY/ROLE_SET"),
        ("seeds=[]", "seeds: must have at least one entry, got []"),
        ("budgets.tiers_s=[]", "budgets.tiers_s: must have at least one entry, got []"),
        ("budgets.tiers_s=[-5]", "1 problem\n  budgets.tiers_s[0]: must be greater than 0, got -5"),
        ("rates_per_min=[0]", "rates_per_min[0]: must be greater than 0, got 0"),
        ('policies=["jsq", "jsq"]', "policies: a value occurs twice"),
        ('policies=["mine"]', "one of your own is named by its folder, with a slash: ./mine"),
        ('policies=["runs/mine"]', "policies[0]: no trained policy is there:"),
        ('policies=["a/jsq", "jsq"]', "policies: two are called 'jsq' in tables"),
        ('predictors="nowhere"', "nowhere"),
        ("call_timeout_s=0", "call_timeout_s: must be greater than 0, got 0"),
        ("max_parallel_calls=0", "max_parallel_calls: must be greater than or equal to 1, got 0"),
    ],
)
def test_mistakes_have_a_line_each(setting: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(write(tmp_path), tmp_path / "out", "--set", setting, "--set", 'domains=["math"]') == 2
    assert line in problems(capsys)


def test_a_model_without_outcomes_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool = (ROOT / "docs" / "examples" / "pool.toml").read_text().replace("Llama-3.2-3B-Instruct", "Llama-9-3B")
    (tmp_path / "pool.toml").write_text(pool.replace("Llama-3.1-8B-Instruct", "Llama-9-8B"))

    assert evaluate(write(tmp_path), tmp_path / "out", "--set", "pool=pool.toml") == 2
    assert "no outcome data for model 'Llama-9-8B'" in problems(capsys)


def test_two_servers_of_one_name_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = (ROOT / "sim" / "data" / "h200.toml").read_text().split("[[servers]]")[1]
    (tmp_path / "pool.toml").write_text(f"[[servers]]{server}[[servers]]{server}")

    assert evaluate(write(tmp_path), tmp_path / "out", "--set", "pool=pool.toml") == 2
    assert "server names used more than once: deepseek-r1-32b" in problems(capsys)


def test_single_tiers_in_steady_state_with_one_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each tier has runs of its own, and there is no row of all; one seed has no interval; one load has rows."""
    values = [
        *("single_tier=true", "budgets.tiers_s=[10, 50]", 'protocol="steady-state"', "warm_up_queries=5"),
        *('policies=["jsq"]', "rates_per_min=[20]", "seeds=[0]"),
    ]
    words = [word for value in values for word in ("--set", value)]

    assert evaluate(write(tmp_path), tmp_path / "out", "--json", *words) == 0
    rows = json.loads(capsys.readouterr().out)["summary"]
    assert [(row["scheduler"], row["tier"], row["n"]) for row in rows] == [
        *(("fcfs", "10", 25), ("edf", "10", 25), ("fcfs", "50", 25), ("edf", "50", 25)),
    ]
    assert all(row["goodput_low"] is None and row["utilisation"] > 0 for row in rows)
    page = Page((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    assert shown(page, FEW_SEEDS)
    assert shown(page, "Goodput at one load")
    assert page.tags.count("figure") == 6


def test_at_one_load_the_policies_stand_below_each_other_with_their_shares() -> None:
    """A line over loads would be a dot."""
    rows = [
        (policy, scheduler, 20.0, *t_interval([share - 0.01, share, share + 0.01]))
        for policy, scheduler, share in (("jsq", "fcfs", 0.5), ("jsq", "edf", 0.512), ("clairvoyant", "edf", 0.9))
    ]
    columns = ["policy", "scheduler", "rate_per_min", "goodput", "goodput_low", "goodput_high"]
    summary = pd.DataFrame(rows, columns=columns)

    page = Page(shares_by_load(summary, "goodput", pd.Series({20.0: 0.512}), "goodput"))

    assert {"jsq", "clairvoyant", "50.0", "51.2", "90.0", "FCFS", "EDF"} <= set(page.text)


def test_a_report_without_a_name_says_what_is_compared() -> None:
    one = Evaluation(policies=("jsq",), rates_per_min=(20.0,))
    many = Evaluation(policies=("jsq", "random"), rates_per_min=(200.0, 20.0))

    assert _title(one) == "jsq on l40s at 20 queries a minute"
    assert _title(many) == "2 policies on l40s at 20 to 200 queries a minute"


def test_the_shipped_example_loads() -> None:
    evaluation, pool = load_evaluation(ROOT / "docs" / "examples" / "evaluate.toml", [], OutcomeModel.shipped())

    assert len(list(evaluation.cells())) == 9 * 2 * 3 * 3
    assert len(pool.servers) == 5


@pytest.mark.parametrize("name", ["paper-moa", "paper-masrouter"])
def test_the_authors_runs_load(name: str) -> None:
    evaluation, _ = load_evaluation(ROOT / "docs" / "examples" / f"{name}.toml", [], OutcomeModel.shipped())

    assert len(list(evaluation.cells())) == 5 * 5
    assert evaluation.controller_options("fcfs").call_timeout_s == 600


@pytest.mark.parametrize(
    ("name", "rate_per_min", "theirs_s"),
    [("moa", 10, 122), ("moa", 30, 1145), ("masrouter", 10, 50), ("masrouter", 200, 430)],
)
def test_the_authors_latencies_are_met_within_a_quarter(name: str, rate_per_min: int, theirs_s: float) -> None:
    """Their published means (docs/evaluation.md has all ten, with intervals); here one seed each."""
    sets = [f"rates_per_min=[{rate_per_min}]", "seeds=[0]"]
    outcomes = OutcomeModel.shipped()
    evaluation, pool = load_evaluation(ROOT / "docs" / "examples" / f"paper-{name}.toml", sets, outcomes)
    (cell,) = evaluation.cells()

    mean_s = World(evaluation, pool, outcomes).run(cell).workflows["path_s"].mean()

    assert mean_s == pytest.approx(theirs_s, rel=0.25)


def test_a_policy_trained_anew_is_another_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its cells are not gone on with when its weights have changed under the same name."""
    monkeypatch.setattr(policies, "load_trained", lambda folder, given: POLICIES["jsq"](given))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "policy.json").write_text("{}")
    words = ["--set", 'policies=["./mine", "jsq"]', "--set", "rates_per_min=[20]", "--set", "num_queries=3"]
    path = write(tmp_path)
    assert evaluate(path, tmp_path / "out", *words) == 0
    assert evaluate(path, tmp_path / "out", *words) == 0
    printed = capsys.readouterr().out
    assert "goodput less that of the best rule" in printed
    # It decides as its rival does.
    assert "mine: above the best rule in 0 of 2 comparisons, below it in 0\n" in printed
    assert UNROUNDED in printed

    (tmp_path / "mine" / "policy.json").write_text('{"new": 1}')
    assert evaluate(path, tmp_path / "out", *words) == 2
    assert "is now" in problems(capsys)
    assert set(pd.read_csv(tmp_path / "out" / "summary.csv")["policy"]) == {"mine", "jsq"}
    page = Page((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    assert shown(page, "Trained policies beside the best rule")
    assert shown(page, "+0.0 over jsq")


def test_who_is_level_with_the_best_is_named_too() -> None:
    rows = [("jsq", "edf", 0.5), ("random", "fcfs", 0.5), ("cheapest", "edf", 0.4), ("clairvoyant", "edf", 0.9)]
    table = pd.DataFrame(rows, columns=["policy", "scheduler", "goodput"])
    table = table.assign(rate_per_min=20.0, goodput_low=table["goodput"] - 0.1, goodput_high=table["goodput"] + 0.1)

    assert _finding(table, 20.0) == (
        "At 20/min jsq under EDF and random under FCFS each answer 50.0 % rightly and in time; clairvoyant 90.0 %."
    )
    assert _finding(table[1:], 20.0) == (
        "At 20/min random under FCFS answers 50.0 % rightly and in time (95 % interval 40.0 to 60.0); "
        "clairvoyant 90.0 %."
    )


def test_the_page_names_every_key_policy_scheduler_and_figure() -> None:
    """Its table of keys is that of the code."""
    page = PAGE.read_text(encoding="utf-8")
    rows = doc_tables._of_section(Evaluation)

    assert "".join("| " + " | ".join(row) + " |\n" for row in rows) in page
    assert [name for name in (*POLICIES, *SCHEDULERS, *FIGURES) if f"`{name}`" not in page] == []


def test_the_configuration_can_be_read_again(small: Path) -> None:
    config = tomllib.loads((small / "config.toml").read_text())

    assert config["experiment"]["num_queries"] == 25
    assert len(config["pool"]["servers"]) == 5
