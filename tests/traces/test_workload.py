from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from inframind.traces.arrivals import Client, Clients, Poisson
from inframind.traces.lengths import Constant, LogNormal
from inframind.traces.mistakes import ConfigError, TraceError
from inframind.traces.typed_files import Section, load_toml
from inframind.traces.workload import Budgets, SyntheticWorkload, TraceWorkload, Workload, build_requests

TRACE = "arrival_s,prompt_tokens,output_tokens,budget_s\n2,10,1,5\n4,20,2,\n8,30,3,7\n"


def synthetic(rate_per_min: float = 60, **fields: Any) -> SyntheticWorkload:
    defaults = {
        "arrivals": Poisson(rate_per_min=rate_per_min),
        "prompt_tokens": LogNormal(mean=200, max=1500),
        "output_tokens": LogNormal(mean=50, max=500),
    }
    extent = {} if "duration_s" in fields else {"num": 500}
    return SyntheticWorkload(**(defaults | extent | fields))


def build(workload: Any, seed: int = 0, base: Path = Path(), budgets: Budgets | None = None) -> pd.DataFrame:
    return build_requests(workload, budgets or Budgets(), seed, base)


def test_a_seed_fixes_the_whole_frame_and_another_changes_every_column() -> None:
    frame = build(synthetic())

    pd.testing.assert_frame_equal(frame, build(synthetic()))
    assert list(frame) == ["arrival_s", "prompt_tokens", "output_tokens", "budget_s"]
    assert not (frame == build(synthetic(), seed=1)).all().any()


def test_a_changed_rate_leaves_lengths_and_budgets_as_they_are() -> None:
    slow, fast = build(synthetic(60)), build(synthetic(120))

    np.testing.assert_allclose(fast["arrival_s"], slow["arrival_s"] / 2)
    pd.testing.assert_frame_equal(fast.drop(columns="arrival_s"), slow.drop(columns="arrival_s"))


def test_changed_prompts_leave_outputs_as_they_are() -> None:
    frame, longer = build(synthetic()), build(synthetic(prompt_tokens=LogNormal(mean=900, max=4000)))

    assert (longer["prompt_tokens"] >= frame["prompt_tokens"]).all()
    pd.testing.assert_frame_equal(longer.drop(columns="prompt_tokens"), frame.drop(columns="prompt_tokens"))


def test_a_longer_run_begins_as_the_shorter_one() -> None:
    short, long = build(synthetic(duration_s=100)), build(synthetic(duration_s=300))

    pd.testing.assert_frame_equal(short, long.head(len(short)))


def test_the_lengths_of_the_workload_have_their_means() -> None:
    frame = build(synthetic(num=100_000))

    assert frame["prompt_tokens"].mean() == pytest.approx(200, rel=0.02)
    assert frame["prompt_tokens"].max() == 1500
    assert frame["output_tokens"].mean() == pytest.approx(50, rel=0.02)


def test_budgets_are_drawn_by_their_weights() -> None:
    frame = build(synthetic(num=10_000), budgets=Budgets(tiers_s=(10, 50, 200), weights=(1, 3, 0)))

    assert set(frame["budget_s"]) == {10, 50}
    assert (frame["budget_s"] == 50).mean() == pytest.approx(0.75, abs=0.02)
    assert set(build(synthetic())["budget_s"]) == {10, 50, 200, 600, 1800}
    assert "budget_s" not in build_requests(synthetic(), None, 0, Path())


def test_clients_bring_their_lengths_and_the_workload_fills_in() -> None:
    clients = Clients(rate_per_min=60, clients=(Client(share=1, prompt_tokens=Constant(tokens=7)), Client(share=1)))
    nine, three = Constant(tokens=9), Constant(tokens=3)
    frame = build(synthetic(arrivals=clients, prompt_tokens=nine, output_tokens=three))

    assert set(frame["client"]) == {0, 1}
    assert (frame["prompt_tokens"] == np.where(frame["client"] == 0, 7, 9)).all()
    assert (frame["output_tokens"] == 3).all()


def test_a_trace_is_cut_sped_up_and_given_budgets_where_it_has_none(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(TRACE)
    workload = TraceWorkload(path=Path("t.csv"), num=2, rate_scale=2)

    frame = build(workload, base=tmp_path, budgets=Budgets(tiers_s=(99,)))

    assert frame["arrival_s"].tolist() == [1, 2]
    assert frame["budget_s"].tolist() == [5, 99]
    assert build_requests(workload, None, 0, tmp_path)["budget_s"].isna().tolist() == [False, True]


def test_an_absolute_trace_path_needs_no_base(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(TRACE)

    assert len(build(TraceWorkload(path=tmp_path / "t.csv"), base=Path("elsewhere"))) == 3
    with pytest.raises(TraceError, match=r"elsewhere/t.csv: 1 problem\n  no such file"):
        build(TraceWorkload(path=Path("t.csv")), base=Path("elsewhere"))


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"num": None}, "give either num or duration_s"),
        ({"num": 1, "duration_s": 2.0}, "give either num or duration_s"),
        ({"output_tokens": None}, "output_tokens is missing, and not every client has its own"),
    ],
)
def test_an_incomplete_workload_is_refused(fields: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        synthetic(**fields)


class Experiment(Section):
    workload: Workload
    budgets: Budgets = Budgets()


def test_a_workload_is_written_in_toml(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(
        """
        [workload]
        kind = "synthetic"
        num = 500
        arrivals = { kind = "poisson", rate_per_min = 60 }
        prompt_tokens = { kind = "lognormal", mean = 200, max = 1500 }
        output_tokens = { kind = "lognormal", mean = 50, max = 500 }
        [budgets]
        tiers_s = [10, 50]
        weights = [1, 1]
        """
    )

    loaded = load_toml(path, Experiment)

    assert loaded.workload == synthetic()
    assert loaded.budgets == Budgets(tiers_s=(10, 50), weights=(1, 1))


def test_mistakes_in_a_workload_name_their_place(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(
        """
        [workload]
        kind = "synthetic"
        arrivals = { kind = "microburst", rate_per_min = 60, burst = 3 }
        prompt_tokens = { kind = "lognorm" }
        output_tokens = { kind = "uniform", low = 9, high = 1 }
        [budgets]
        weights = [1, 1]
        """
    )

    with pytest.raises(ConfigError) as caught:
        load_toml(path, Experiment)

    assert caught.value.problems == (
        "workload.arrivals.burst: unknown key; did you mean 'burst_s'?",
        "workload.prompt_tokens.kind: 'lognorm' is not one of"
        " 'constant', 'uniform', 'lognormal', 'empirical'; did you mean 'lognormal'?",
        "workload.output_tokens: low (9) must be at most high (1)",
        "budgets: weights has 2 entries where tiers_s has 5",
    )
