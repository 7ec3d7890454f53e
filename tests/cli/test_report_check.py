"""The report of a check, as text and in a browser."""

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from html_page import Page, in_browser, shown

from inframind.calibration import LogCheck, check_logs, predict
from inframind.cli import report_check
from inframind.cli.report_check import render_check
from inframind.cli.report_check_figures import MAX_DOTS
from inframind.sim import ServerSection
from inframind.traces import SAMPLES, RequestLog


def server() -> ServerSection:
    return ServerSection.model_validate(
        {
            "name": "a server",
            "model": "a model",
            "scheduler": {"max_num_seqs": 8, "num_blocks": 4000, "max_model_len": 4096},
            "step_time": {"fixed_s": 0.01, "prefill_token_s": 2e-5, "decode_s": 1e-4, "context_token_s": 1e-7},
        }
    )


def log(seed: int, *, num: int = 80, factor: float = 1.1, is_short: bool = False) -> pd.DataFrame:
    """Measured times that are the predicted ones times a factor and some noise."""
    rng = np.random.default_rng(seed)
    requests = pd.DataFrame(
        {
            "arrival_s": np.cumsum(rng.exponential(0.2, num)),
            "prompt_tokens": rng.integers(50, 1000, num),
            "output_tokens": 1 if is_short else rng.integers(1, 200, num),
        }
    )
    predicted = predict(requests, server())
    noise = factor * rng.lognormal(0, 0.05, num)
    return requests.assign(ttft_s=noise * predicted["sim_ttft_s"], e2e_s=noise * predicted["sim_e2e_s"])


def checks_of(**logs: pd.DataFrame) -> list[LogCheck]:
    return check_logs({Path(f"{name}.csv"): request_log(rows) for name, rows in logs.items()}, server())


def request_log(rows: pd.DataFrame) -> RequestLog:
    return RequestLog(rows, np.arange(1, 1 + len(rows)), "row", rows[:0], tuple(rows))


def page_of(checks: list[LogCheck]) -> str:
    return render_check(checks, title="A check", about={"Server file": "fitted.toml"})


def with_samples(check: LogCheck) -> LogCheck:
    samples = pd.DataFrame({"time_s": [0.0, 1.0, 2.0], "waiting": [0, 3, 1], "running": [1, 8, 8]})
    return replace(check, observed_samples=samples.reindex(columns=SAMPLES.names))


@cache
def near() -> LogCheck:
    return checks_of(near=log(0))[0]


@cache
def page_of_near() -> str:
    return page_of([near()])


@cache
def page_with_samples() -> str:
    return page_of([with_samples(near())])


def test_the_report_begins_with_what_came_out() -> None:
    checks = checks_of(near=log(0), far=log(1, factor=0.5))

    page = Page(page_of(checks))

    assert shown(page, "E2E mean predicted")
    assert shown(page, "high on far, the worst of 2 logs; the server's own run-to-run spread was not measured")
    assert shown(page, "near: errors of the means: TTFT")
    assert shown(page, "fitted.toml")


def test_each_figure_of_a_log_stands_in_its_table() -> None:
    page = Page(page_of_near())

    for one in near().whole.metrics.values():
        for name, error in one.comparison.relative_error.items():
            assert name in page.text
            assert f"{100 * error:+.1f} %".replace("-", "\N{MINUS SIGN}") in page.text
        assert f"{100 * one.comparison.mape:.1f} %" in page.text
        assert f"{one.comparison.rank_correlation:.3f}" in page.text
    assert "sampling error" in page.text
    assert shown(page, "so the server's own run-to-run spread is not known")


def test_a_measured_spread_is_not_called_a_sampling_error() -> None:
    paths = [Path("a.csv"), Path("b.csv")]
    logs = {paths[0]: log(0), paths[1]: log(0).assign(e2e_s=lambda rows: 1.1 * rows["e2e_s"])}

    checks = check_logs({path: request_log(rows) for path, rows in logs.items()}, server(), repeats=[paths])
    page = Page(page_of(checks))

    assert "own spread" in page.text
    assert "sampling error" not in page.text
    assert shown(page, "the server's own spread is 9.5 %.")  # 0.1 / 1.05
    assert shown(page, "the load was measured 2 times")


def test_conditions_have_a_table() -> None:
    rows = log(0).assign(condition=["one"] * 40 + ["two"] * 40)

    page = Page(page_of(checks_of(near=rows)))

    assert {"Conditions", "one", "two"} <= set(page.text)


def test_a_log_of_the_fit_is_called_so_at_every_place() -> None:
    near, far = checks_of(near=log(0), far=log(1))

    page = Page(page_of([replace(near, in_sample=True, extrapolates=("12 ran at a time, at most 4 in the fit",)), far]))

    assert shown(page, "near (in sample, extrapolates): errors of the means")
    assert shown(page, "In sample: the server file was fitted on this log")
    assert shown(page, "Extrapolation, beyond what the server file was fitted on: 12 ran at a time")
    assert shown(page, "high on far;") or shown(page, "low on far;")


def test_the_page_loads_nothing_and_its_references_lead_somewhere() -> None:
    html = page_with_samples()

    page = Page(html)

    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert all(target.startswith("#") and target[1:] in page.ids for target in page.targets)
    assert len(set(page.ids)) == len(page.ids)
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", html)


def test_the_same_checks_give_the_same_bytes() -> None:
    assert page_of(checks_of(near=log(0))) == page_of_near()


def test_no_colour_is_fixed_where_the_page_has_a_variable() -> None:
    figures = re.findall(r"<figure>.*?</figure>", page_with_samples(), flags=re.DOTALL)

    assert len(figures) == 3
    assert set(re.findall(r"#[0-9a-f]{6}\b", " ".join(figures))) == set()


def test_running_and_waiting_are_shown_where_they_are_known() -> None:
    without, known = Page(page_of_near()), Page(page_with_samples())

    assert "Requests running" not in without.text
    assert shown(without, "no samples.csv lies beside the log")
    assert {"Requests in flight", "Requests running", "Requests waiting"} <= set(known.text)
    assert not shown(known, "no samples.csv")


def test_a_log_without_further_tokens_has_no_time_per_token() -> None:
    page = Page(page_of(checks_of(near=log(0, is_short=True))))

    assert page.tags.count("figure") == 3
    assert "mean unknown observed, unknown predicted" in page.text


def test_a_log_of_one_request_can_be_shown() -> None:
    page = Page(page_of(checks_of(near=log(0, num=1))))

    assert shown(page, "neither own spread nor sampling error is known")


def test_only_the_first_logs_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_check, "MAX_DRAWN", 1)

    page = Page(page_of(checks_of(a=log(0, num=3), b=log(1, num=3))))

    assert page.tags.count("figure") == 3
    assert shown(page, "Only the first 1 logs have figures.")


def test_names_are_text_wherever_they_stand() -> None:
    page = Page(page_of(checks_of(**{"<b>&$x$": log(0)})))

    assert "<b>&$x$" in page.text


def test_a_large_log_makes_no_large_page() -> None:
    html = page_of(checks_of(near=log(0, num=5000)))

    assert len(html) < 600_000
    assert f"{MAX_DOTS:,} of them, evenly chosen" in html


@pytest.mark.parametrize("width", [1280, 420])
def test_a_browser_shows_every_figure_and_no_error(tmp_path: Path, width: int) -> None:
    seen = in_browser(page_with_samples(), tmp_path, width=width)

    assert seen["errors"] == []
    assert len(seen["figures"]) == 3
    for figure in seen["figures"]:
        assert figure["width"] > 300
        assert figure["height"] >= 100
        assert figure["marks"] > 20
        assert figure["smallest_letters"] > 10
    # Wide tables and figures scroll by themselves: the page does not.
    assert seen["content_width"] <= seen["width"]
