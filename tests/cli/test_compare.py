"""``inframind compare``, as a newcomer types it; its page, as text and in a browser; and the loop that it closes."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from pathlib import Path

import pandas as pd
import pytest
from compare_world import EveryPlan, VariedOutcomes, pool, write
from html_page import Page, in_browser, shown

from inframind.calibration import compare_folders, of_server
from inframind.cli import main, report_compare
from inframind.cli.report_cells import FEW_SEEDS, UNROUNDED
from inframind.cli.report_compare import render_comparison
from inframind.sim import PoolSection, simulate_calls
from inframind.traces import read_log, read_requests, summarise, write_run

REAL_RUNS = Path(__file__).parents[2] / "notebooks" / "data" / "live-cpu" / "live"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two policies, two seeds, live twice; the live servers are slower than simulated."""
    folder = tmp_path_factory.mktemp("runs")
    for policy in ("jsq", "random"):
        for seed in (0, 1):
            for side, step_s in (("sim", 0.1), ("live", 0.11), ("live2", 0.112)):
                write(
                    folder / f"{side}/{policy}-{seed}",
                    policy=policy,
                    seed=seed,
                    num=12,
                    step_s=step_s,
                    live=side != "sim",
                    planner=EveryPlan(),
                    outcomes=VariedOutcomes(),
                )
    return folder


@pytest.fixture(scope="module")
def html(runs: Path) -> str:
    comparison = compare_folders(runs / "sim", [runs / "live", runs / "live2"])
    return render_comparison(comparison, title="A comparison", about={"Simulated": "runs/sim"})


def compare(runs: Path, out: Path, *arguments: str) -> int:
    words = [str(runs / word) if not word.startswith("-") else word for word in arguments]
    return main(["compare", *words, "-o", str(out)])


@pytest.mark.usefixtures("undrawn")
def test_folders_of_runs_become_a_page_and_its_numbers(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(runs, tmp_path / "out.html", "sim", "live", "live2") == 0

    printed = capsys.readouterr().out
    document = json.loads((tmp_path / "out.json").read_text())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.html", "out.json"]
    assert "jsq, FCFS, 24/min" in printed
    assert f"report: {tmp_path / 'out.html'}" in printed
    assert all(line in printed for line in document["headlines"])
    assert FEW_SEEDS in printed
    assert UNROUNDED in printed
    assert "±" not in printed.replace(FEW_SEEDS, "")
    assert re.search(
        r"Mean workflow latency: simulated .* too low \(\w+, FCFS, 24/min\), the worst of 2 conditions; ", printed
    )
    assert [each["name"] for each in document["conditions"]] == ["jsq, FCFS, 24/min", "random, FCFS, 24/min"]
    assert [len(each["runs"]) for each in document["conditions"]] == [2, 2]
    assert document["contests"][0]["contenders"] == ["jsq", "random"]
    latency = document["conditions"][0]["workflow_latency"]
    error = latency["simulated"]["mean"] / latency["live"]["mean"] - 1
    assert latency["relative_error"]["mean"] == pytest.approx(error)
    steps = document["conditions"][0]["sources"]["latency"]
    assert sum(steps["steps_s"].values()) == pytest.approx(steps["simulated_s"] - steps["live_s"])


@pytest.mark.usefixtures("undrawn")
def test_json_is_what_the_file_holds(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(runs, tmp_path / "out.html", "sim/jsq-0", "live/jsq-0", "--json") == 0

    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "out.json").read_text())


@pytest.mark.usefixtures("undrawn")
def test_a_run_beside_itself(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(runs, tmp_path / "out.html", "sim", "sim") == 0

    printed = capsys.readouterr().out
    assert "Mean workflow latency: simulated to within 0.05 %" in printed
    assert "the real system's own run-to-run spread was not measured (name a second live run of the same)" in printed
    assert "Ranking by mean latency: Kendall's tau 1.00" in printed


@pytest.mark.usefixtures("undrawn")
def test_a_pair_of_different_runs_is_compared_with_a_warning(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(runs, tmp_path / "out.html", "sim/jsq-0", "live/random-0") == 0

    warning = (
        "Not the same experiment (random, FCFS, 24/min): policy: random in the live run, jsq in the simulated one."
    )
    assert warning in capsys.readouterr().out
    assert shown(Page((tmp_path / "out.html").read_text()), warning)


@pytest.mark.parametrize(
    ("arguments", "out", "problem"),
    [
        (["sim", "none"], "out.html", "none: 1 problem\n  no such folder"),
        (["sim", "live"], "out.pdf", "out.pdf: 1 problem\n  name a file that ends in .html"),
        (["sim", "live"], "no/out.html", "there is no folder"),
        (["sim/jsq-0", "live"], "../sim/jsq-0/report.html", "no run matches"),
    ],
)
def test_a_mistake_is_told_and_nothing_is_written(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], out: str, problem: str
) -> None:
    if out.startswith(".."):
        problem, target = "lies in a run folder", runs / out[3:]
    else:
        target = tmp_path / out
    assert compare(runs, target, *arguments) == 2

    assert problem in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert not (runs / "sim/jsq-0/report.html").exists()


def test_runs_of_single_calls_can_be_compared_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same requests on servers whose steps take 0.1 and 0.2 s, one at a time: half the time."""
    requests = pd.DataFrame({"arrival_s": [0.0, 100.0, 200.0], "prompt_tokens": 10, "output_tokens": [1, 20, 50]})
    for name, step_s in (("sim", 0.1), ("live", 0.2)):
        section = PoolSection.model_validate(pool(step_s))
        run = simulate_calls([server.options() for server in section.servers], requests)
        write_run(
            tmp_path / name,
            config={"run": {"load": 1.0, "scheduler": "fcfs"}},
            calls=run.calls,
            samples=run.samples,
            summary=summarise(run.calls, run.samples),
            seed=0,
        )

    assert compare(tmp_path, tmp_path / "out.html", "sim", "live") == 0

    assert "Mean E2E of calls: simulated 50.0 % too low (FCFS, load 1)" in capsys.readouterr().out
    (each,) = json.loads((tmp_path / "out.json").read_text())["conditions"]
    assert (each["workflow_latency"], each["tiers"], each["decisions"], each["sources"]) == (None, [], None, None)
    assert [one["relative_error"]["tpot_s"] for one in each["errors_by_load"]] == [pytest.approx(-0.5)]
    assert Page((tmp_path / "out.html").read_text()).tags.count("figure") == 3


def test_the_page_says_what_the_numbers_say(runs: Path, html: str) -> None:
    page = Page(html)

    assert {"A comparison", "All conditions", "Rankings of policies", "jsq, FCFS, 24/min"} <= set(page.text)
    assert page.tags.count("figure") == 1 + 2 * 3
    assert shown(page, "+ simulated servers in place of the real ones")
    assert shown(page, "Decisions about the same query")
    assert shown(page, "live again, all calls")
    for titles in ("Workflow latency, median", "a: running", "b: waiting", "calls at the same server at arrival, live"):
        assert shown(page, titles), titles
    assert shown(page, "Budget latency live latency simulated error goodput live")
    assert shown(page, "Age of a server's gauges when a call was sent there")
    assert shown(page, "The four changes add up to the whole difference")


def test_the_page_has_no_interval_of_two_seeds_and_says_why(html: str) -> None:
    text = " ".join(Page(html).text)

    assert FEW_SEEDS in text
    assert UNROUNDED in text
    assert re.findall(r"± ?[\d.]+", text) == []


@pytest.mark.usefixtures("undrawn")
def test_three_seeds_have_intervals(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        write(tmp_path / f"sim/{seed}", seed=seed, num=12)
        write(tmp_path / f"live/{seed}", seed=seed, num=12, step_s=0.15, live=True)

    html = render_comparison(compare_folders(tmp_path / "sim", [tmp_path / "live"]), title="", about={})

    text = " ".join(Page(html).text)
    assert FEW_SEEDS not in text
    assert re.findall(r"± ?[\d.]+", text)


def test_the_page_loads_nothing_and_its_references_lead_somewhere(html: str) -> None:
    page = Page(html)

    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert all(target.startswith("#") and target[1:] in page.ids for target in page.targets)
    assert len(set(page.ids)) == len(page.ids)
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", html)
    figures = " ".join(re.findall(r"<figure>.*?</figure>", html, flags=re.DOTALL))
    assert set(re.findall(r"#[0-9a-f]{6}\b", figures)) == set()


def test_only_the_first_conditions_are_drawn(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_compare, "MAX_DRAWN", 1)

    page = Page(render_comparison(compare_folders(runs / "sim", [runs / "live"]), title="", about={}))

    assert page.tags.count("figure") == 1 + 3
    assert shown(page, "Only the first 1 conditions have figures.")


@pytest.mark.parametrize("width", [1280, 420])
def test_a_browser_shows_every_figure_and_no_error(html: str, tmp_path: Path, width: int) -> None:
    seen = in_browser(html, tmp_path, width=width)

    assert seen["errors"] == []
    assert len(seen["figures"]) == 7
    for figure in seen["figures"]:
        assert figure["width"] > 300
        assert figure["height"] >= 100
        assert figure["marks"] > 20
        assert figure["smallest_letters"] > 10
    # Wide tables and figures scroll by themselves: the page does not.
    assert seen["content_width"] <= seen["width"]


def test_a_fit_reads_the_calls_of_a_live_run(runs: Path, tmp_path: Path) -> None:
    """The loop closes: from the folder of a live pool the fit takes one server's calls, and finds its step time."""
    scheduler = pool()["servers"][0]["scheduler"]
    lines = [f"{name} = {str(value).lower()}" for name, value in scheduler.items()]
    (tmp_path / "a.toml").write_text("\n".join(['name = "a"', 'model = "model-a"', "[scheduler]", *lines]))
    logs = [str(runs / "live/jsq-0"), str(runs / "live/jsq-1/calls.parquet")]

    assert main(["calibrate", "fit", *logs, "--server", str(tmp_path / "a.toml"), "-o", str(tmp_path / "b.toml")]) == 0

    step_time = tomllib.loads((tmp_path / "b.toml").read_text())["step_time"]
    assert step_time["fitted_on"]["requests"]["logs"] == logs
    one_decode_s = step_time["fixed_s"] + step_time["decode_s"]
    assert one_decode_s == pytest.approx(0.11, rel=0.03)


def test_a_fit_of_a_pool_s_calls_must_know_the_server(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.toml").write_text('name = "c"\n')

    words = [str(runs / "live/jsq-0"), "--server", str(tmp_path / "c.toml"), "-o", str(tmp_path / "d.toml")]
    assert main(["calibrate", "fit", *words]) == 2

    assert "server: holds a, b, and the server file is of 'c'" in capsys.readouterr().err


def test_calls_of_a_run_folder_are_requests(runs: Path, tmp_path: Path) -> None:
    """In order of arrival, those that failed before a token left out, those cut off without a time."""
    shutil.copytree(runs / "live/jsq-0", tmp_path / "run")
    calls = pd.read_parquet(tmp_path / "run/calls.parquet")
    calls.loc[0, ["output_tokens", "outcome"]] = [0, "503"]
    calls.loc[1, ["outcome", "e2e_s"]] = ["cut off", float("nan")]
    calls.iloc[::-1].to_parquet(tmp_path / "run/calls.parquet")

    requests = read_requests(tmp_path / "run")

    assert requests.attrs["num_failed_dropped"] == 1
    assert len(requests) == len(calls) - 1
    assert requests["arrival_s"].is_monotonic_increasing
    assert requests["e2e_s"].isna().sum() == 1
    pd.testing.assert_frame_equal(requests, read_requests(tmp_path / "run/calls.parquet"))


@pytest.mark.parametrize("run", sorted(REAL_RUNS.iterdir()), ids=lambda path: path.name)
def test_calls_of_real_servers_are_what_a_fit_needs(run: Path) -> None:
    """Those of the notebook's runs, server by server: `inframind live` leaves empty what no server tells."""
    calls = pd.read_parquet(run / "calls.parquet")
    logs = [of_server(run, read_log(run), name).requests for name in sorted(calls["server"].unique())]

    assert sum(map(len, logs)) == len(calls)
    for log in logs:
        times = log[["ttft_s", "e2e_s"]]
        assert times.notna().all(axis=None)
        assert (times["ttft_s"] > 0).all()
        assert (times["ttft_s"] <= times["e2e_s"]).all()
