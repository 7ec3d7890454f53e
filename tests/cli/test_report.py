import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from html_page import Page, in_browser, shown

from inframind.cli.report import RunView, render_report, write_report
from inframind.cli.report_figures import cumulative
from inframind.cli.report_svg import binned
from inframind.traces import CALLS, SAMPLES, ConfigError, summarise

BUDGETS_S = (10.0, 50.0, 200.0)


def calls(seed: int, *, num: int = 400, mean_s: float = 20.0, servers: Sequence[str] = ("a", "b")) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    arrival_s = np.sort(rng.uniform(0, 300, num))
    ttft_s = rng.exponential(mean_s / 2, num)
    e2e_s = ttft_s + rng.exponential(mean_s / 2, num)
    output_tokens = rng.integers(2, 200, num)
    budget_s = rng.choice(BUDGETS_S, num)
    server = rng.choice(list(servers), num)
    frame = {
        "server": server,
        "model": [f"model of {name}" for name in server],
        "arrival_s": arrival_s,
        "output_tokens": output_tokens,
        "budget_s": budget_s,
        "deadline_s": arrival_s + budget_s,
        "finish_s": arrival_s + e2e_s,
        "num_preemptions": np.zeros(num, dtype=np.int32),
        "outcome": "finished",
        "ttft_s": ttft_s,
        "tpot_s": (e2e_s - ttft_s) / (output_tokens - 1),
        "e2e_s": e2e_s,
    }
    return pd.DataFrame(frame).reindex(columns=CALLS.names)


def samples(seed: int, *, num: int = 400, servers: Sequence[str] = ("a", "b")) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = {
        "time_s": np.repeat(np.arange(num, dtype=np.float64), len(servers)),
        "server": list(servers) * num,
        "waiting": rng.integers(0, 50, num * len(servers)),
        "running": rng.integers(0, 16, num * len(servers)),
        "kv_usage": rng.uniform(0, 0.7, num * len(servers)),
    }
    return pd.DataFrame(frame)


def view(load: str, scheduler: str, of_calls: pd.DataFrame, of_samples: pd.DataFrame) -> RunView:
    utilisation = {"a": 0.875, "b": 0.5}
    return RunView(load, scheduler, of_calls, of_samples, summarise(of_calls, of_samples, utilisation=utilisation))


def failed(of_calls: pd.DataFrame) -> pd.DataFrame:
    return of_calls.assign(outcome="aborted", ttft_s=np.nan, tpot_s=np.nan, e2e_s=np.nan)


def a_comparison() -> list[RunView]:
    return [
        view(load, scheduler, calls(seed, mean_s=mean_s), samples(seed))
        for seed, (load, scheduler, mean_s) in enumerate(
            [("0.8 x", "FCFS", 20.0), ("0.8 x", "EDF", 12.0), ("1.2 x", "FCFS", 60.0), ("1.2 x", "EDF", 30.0)]
        )
    ]


def drawn_anew() -> str:
    return render_report(a_comparison(), title="A report", about={"Pool": "two servers", "Seed": "7"})


@cache
def html_of_a_comparison() -> str:
    return drawn_anew()


def page_of(runs: Sequence[RunView]) -> Page:
    return Page(render_report(runs, title="A report"))


def test_the_report_says_what_was_run_and_what_came_of_it() -> None:
    runs = a_comparison()

    page = Page(html_of_a_comparison())

    for text in ("A report", "two servers", "0.8 x", "1.2 x", "FCFS", "EDF", "model of b", "87.5 %"):
        assert shown(page, text), text
    for run in runs:
        assert shown(page, f"{100 * run.total['on_time']:.1f} %")
        assert shown(page, f"{run.total['e2e_mean_s']:.1f}")
        assert shown(page, f"at most {run.samples.loc[run.samples['server'] == 'a', 'waiting'].max()} waiting")


@pytest.mark.usefixtures("undrawn")
def test_the_better_scheduler_is_named_with_its_lead() -> None:
    fcfs = calls(0, num=4).assign(deadline_s=[0.0, 0.0, 0.0, 1e9])
    edf = calls(0, num=4).assign(deadline_s=[0.0, 1e9, 1e9, 1e9])
    runs = [view("1 x", "FCFS", fcfs, samples(0)), view("1 x", "EDF", edf, samples(0))]

    page = page_of(runs)

    assert shown(page, "At load 1 x, EDF 75.0 % on time, FCFS 25.0 %: 50.0 points more; p99 of E2E ")


@pytest.mark.usefixtures("undrawn")
def test_equal_schedulers_are_called_equal() -> None:
    runs = [view("1 x", scheduler, calls(0), samples(0)) for scheduler in ("FCFS", "EDF")]

    page = page_of(runs)

    assert any(text.startswith("At load 1 x the schedulers are equal: FCFS") for text in page.text)
    assert shown(page, "Load 1 x, from FCFS to EDF: no tier changes.")


@pytest.mark.usefixtures("undrawn")
def test_the_tiers_that_gain_and_lose_most_are_named() -> None:
    before = calls(0, num=4).assign(budget_s=[10.0, 10.0, 50.0, 50.0])
    fcfs = before.assign(deadline_s=[0.0, 0.0, 1e9, 1e9])
    edf = before.assign(deadline_s=[1e9, 1e9, 0.0, 1e9])

    page = page_of([view("1 x", "FCFS", fcfs, samples(0)), view("1 x", "EDF", edf, samples(0))])

    assert shown(
        page, "Load 1 x, from FCFS to EDF: the 10 s tier gains 100.0 points and the 50 s tier loses 50.0 points."
    )


def test_the_page_loads_nothing_and_its_references_lead_somewhere() -> None:
    html = html_of_a_comparison()

    page = Page(html)

    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert page.targets
    assert all(target.startswith("#") and target[1:] in page.ids for target in page.targets)
    assert all(target[1:] in page.ids for target in re.findall(r"url\(([^)]*)\)", html))
    assert len(set(page.ids)) == len(page.ids)
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", html)
    assert "@import" not in html


@pytest.mark.parametrize("width", [1280, 420])
def test_a_browser_shows_every_figure_and_no_error(tmp_path: Path, width: int) -> None:
    seen = in_browser(html_of_a_comparison(), tmp_path, width=width)

    assert seen["errors"] == []
    assert len(seen["figures"]) == 4
    for figure in seen["figures"]:
        assert figure["marks"] > 20
        assert figure["smallest_letters"] > 10
    # Wide tables and figures scroll by themselves: the page does not.
    assert seen["content_width"] <= seen["width"]


def test_the_same_runs_give_the_same_bytes() -> None:
    first = html_of_a_comparison()
    render_report(a_comparison()[:1], title="Another")

    assert drawn_anew() == first


def test_no_colour_is_fixed_where_the_page_has_a_variable() -> None:
    figures = re.findall(r"<figure>.*?</figure>", html_of_a_comparison(), flags=re.DOTALL)

    assert len(figures) == 4
    assert all("var(--ink)" in figure for figure in figures)
    assert set(re.findall(r"#[0-9a-f]{6}\b", " ".join(figures))) == set()


def test_one_run_is_shown_without_a_comparison() -> None:
    page = page_of([view("1 x", "FCFS", calls(0), samples(0))])

    assert page.tags.count("figure") == 3
    assert any(text.startswith("At load 1 x, FCFS finishes ") for text in page.text)
    assert not any("points" in text for text in page.text)


def test_without_deadlines_there_is_no_talk_of_being_on_time() -> None:
    of_calls = calls(0).assign(budget_s=np.nan, deadline_s=np.nan)

    page = page_of([view("1 x", scheduler, of_calls, samples(0)) for scheduler in ("FCFS", "EDF")])

    assert page.tags.count("figure") == 2
    assert not shown(page, "Who is on time")
    assert any(
        re.fullmatch(r"At load 1 x a call takes .* s under FCFS, .* s under EDF, in the mean\.", t) for t in page.text
    )


def test_too_many_budgets_for_a_figure_are_counted() -> None:
    of_calls = calls(0, num=30).assign(budget_s=np.arange(1.0, 31.0))

    page = page_of([view("1 x", "FCFS", of_calls, samples(0))])

    assert page.tags.count("figure") == 2
    assert shown(page, "The calls have 30 different budgets, too many for a figure of tiers.")


def test_without_samples_the_queues_are_left_out() -> None:
    page = page_of([view("1 x", "FCFS", calls(0), pd.DataFrame(columns=SAMPLES.names))])

    assert page.tags.count("figure") == 2
    assert shown(page, "The runs have no samples of their queues.")


def test_a_run_without_samples_stands_beside_one_that_has_them() -> None:
    nothing = pd.DataFrame(columns=SAMPLES.names)

    page = page_of([view("1 x", "FCFS", calls(0), nothing), view("1 x", "EDF", calls(0), samples(0))])

    assert shown(page, "FCFS: no samples")


def test_a_run_in_which_all_failed_has_no_latencies() -> None:
    page = page_of([view("1 x", "FCFS", failed(calls(0)), samples(0))])

    assert shown(page, "No call finished.")
    assert shown(page, "At load 1 x, FCFS finishes 0.0 % on time.")
    assert shown(page, "400")


def test_a_run_in_which_all_failed_stands_beside_one_that_went_well() -> None:
    runs = [view("1 x", "FCFS", failed(calls(0)), samples(0)), view("2 x", "FCFS", calls(1), samples(1))]

    page = page_of(runs)

    assert page.tags.count("figure") == 4
    assert shown(page, "median FCFS unknown")


def test_a_run_of_nothing_can_be_shown() -> None:
    page = page_of([view("1 x", "FCFS", pd.DataFrame(columns=CALLS.names), pd.DataFrame(columns=SAMPLES.names))])

    assert page.tags.count("figure") == 0


def test_calls_of_one_token_have_no_time_per_token() -> None:
    page = page_of([view("1 x", "FCFS", calls(0).assign(output_tokens=1, tpot_s=np.nan), samples(0))])

    assert shown(page, "median FCFS unknown")


def test_a_combination_that_was_not_run_stays_empty() -> None:
    page = page_of(a_comparison()[:3])

    assert shown(page, "\N{EN DASH}")


def test_names_are_text_wherever_they_stand() -> None:
    servers = ("<b>&$x$", "a-server-with-a-very-long-name")

    page = page_of([view("<i>1</i>", "F&C", calls(0, servers=servers), samples(0, servers=servers))])

    assert "b" not in page.tags
    assert "i" not in page.tags
    assert page.text.count("<b>&$x$") == 2
    assert shown(page, "a-server-with-a-v…")


def test_only_the_busiest_servers_are_drawn() -> None:
    servers = [f"s{number:02}" for number in range(12)]
    of_calls = calls(0, num=600, servers=servers)
    of_calls = of_calls[~of_calls["server"].isin(["s03", "s07"])]

    page = page_of([view("1 x", "FCFS", of_calls, samples(0, num=5, servers=servers))])

    assert shown(page, "2 servers with fewer calls are left out")
    assert page.text.count("s02") == 2
    assert page.text.count("s03") == 1


def test_a_scheduler_that_the_first_load_lacks_is_in_the_legend() -> None:
    fcfs, edf, *_, last = a_comparison()

    page = page_of([fcfs, last])

    assert edf.scheduler == last.scheduler == "EDF"
    assert page.text.count("EDF") >= 4  # two tables, two legends


def test_four_schedulers_stand_beside_each_other() -> None:
    page = page_of([view("1 x", f"rule {number}", calls(number), samples(0)) for number in range(4)])

    assert shown(page, "rule 3: 49")


def test_what_cannot_be_arranged_is_refused() -> None:
    run = a_comparison()[0]
    with pytest.raises(ValueError, match="runs must be some, each of another load and scheduler, got 0"):
        render_report([], title="x")
    with pytest.raises(ValueError, match="each of another load and scheduler, got 2"):
        render_report([run, run], title="x")
    many = [view("1 x", name, run.calls, run.samples) for name in "abcde"]
    with pytest.raises(ValueError, match="at most 4 schedulers"):
        render_report(many, title="x")


def test_a_large_report_stays_small(tmp_path: Path) -> None:
    servers = list("abcde")
    runs = [
        view(load, scheduler, calls(0, num=20_000, servers=servers), samples(0, num=2_000, servers=servers))
        for load in ("0.8 x", "1 x", "1.2 x")
        for scheduler in ("FCFS", "EDF")
    ]

    write_report(tmp_path / "report.html", runs, title="A report")

    assert (tmp_path / "report.html").stat().st_size < 2_000_000


def test_a_report_that_cannot_be_written_is_the_persons_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        write_report(tmp_path / "none" / "report.html", a_comparison()[:1], title="x")


def test_a_curve_counts_failed_calls_as_never_done() -> None:
    of_calls = pd.DataFrame(
        {"outcome": ["finished", "finished", "finished", "aborted"], "tpot_s": [0.2, 0.1, np.nan, np.nan]}
    )

    known, share = cumulative(of_calls, "tpot_s")

    # The third has one token, so no time per token: it does not count.
    assert known.tolist() == [0.1, 0.2]
    assert share.tolist() == pytest.approx([1 / 3, 2 / 3])


def test_a_long_curve_keeps_its_ends() -> None:
    of_calls = pd.DataFrame({"outcome": "finished", "e2e_s": np.arange(1.0, 10_001.0)})

    known, share = cumulative(of_calls, "e2e_s")

    assert len(known) <= 240
    assert (known[0], known[-1], share[-1]) == (1.0, 10_000.0, 1.0)
    assert share == pytest.approx(known / 10_000)


def test_a_long_series_becomes_means_over_equal_stretches() -> None:
    at, means = binned(np.arange(320.0), np.tile([0.0, 2.0], 160))

    assert len(at) == 160
    assert np.diff(at) == pytest.approx(319 / 160)
    assert means == pytest.approx(1.0)


def test_a_short_series_stays_as_it_is() -> None:
    at, values = binned(np.array([0.0, 5.0]), np.array([1.0, 2.0]))

    assert (at.tolist(), values.tolist()) == ([0.0, 5.0], [1.0, 2.0])
