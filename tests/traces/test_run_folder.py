import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import inframind.traces.run_folder as run_folder
from inframind.traces import (
    CALLS,
    SAMPLES,
    WORKFLOWS,
    ConfigError,
    TraceError,
    begin_run,
    read_run,
    summarise,
    to_table,
    write_run,
)

CONFIG = {"seed": 7, "pool": {"servers": [{"name": "a", "models": ["m"]}]}, "workload": {"rate": 3e-4, "num": None}}


def a_frame(schema: pa.Schema) -> pd.DataFrame:
    """One row with the least that the schema allows: every optional column is null."""
    least = {pa.string(): "a", pa.bool_(): True, pa.float64(): 0.5}
    row = {field.name: None if field.nullable else least.get(field.type, 1) for field in schema}
    frame: pd.DataFrame = pa.Table.from_pylist([row], schema=schema).to_pandas()
    return frame


def write(folder: Path, **other: Any) -> None:
    calls, samples = a_frame(CALLS), a_frame(SAMPLES)
    tables = {"calls": calls, "samples": samples, "summary": summarise(calls, samples)}
    arguments: dict[str, Any] = {"config": CONFIG, "seed": 7, **tables, **other}
    write_run(folder, **arguments)


def problems(folder: Path) -> list[str]:
    with pytest.raises(TraceError) as caught:
        read_run(folder)
    assert caught.value.source == folder
    return list(caught.value.problems)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    calls, samples = a_frame(CALLS), a_frame(SAMPLES)
    summary = summarise(calls, samples, utilisation={"a": 1 / 3})

    write(tmp_path / "deep" / "run", summary=summary)
    run = read_run(tmp_path / "deep" / "run")

    assert run.name == "run"
    assert run.config == CONFIG | {"workload": {"rate": 3e-4}}
    pd.testing.assert_frame_equal(run.calls, calls)
    pd.testing.assert_frame_equal(run.samples, samples)
    pd.testing.assert_frame_equal(run.summary, summary)
    assert run.workflows is None
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["run"]


def test_workflows_are_kept_where_there_are_some(tmp_path: Path) -> None:
    write(tmp_path / "run", workflows=a_frame(WORKFLOWS))

    workflows = read_run(tmp_path / "run").workflows

    assert workflows is not None
    pd.testing.assert_frame_equal(workflows, a_frame(WORKFLOWS))


def test_the_log_is_kept_where_there_is_one(tmp_path: Path) -> None:
    """Line by line as it was made: the lines may come from a generator."""
    write(tmp_path / "run", workflows=a_frame(WORKFLOWS), events=(f"line {number} - ü" for number in range(3)))
    events = read_run(tmp_path / "run").events

    assert events is not None
    assert events.read_bytes() == "line 0 - ü\nline 1 - ü\nline 2 - ü\n".encode()
    write(tmp_path / "run")
    assert read_run(tmp_path / "run").events is None


def test_a_log_that_fails_leaves_no_folder(tmp_path: Path) -> None:
    def broken() -> Iterator[str]:
        yield "line 0"
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write(tmp_path / "run", events=broken())
    assert list(tmp_path.iterdir()) == []


def test_the_tables_say_what_their_columns_mean(tmp_path: Path) -> None:
    write(tmp_path / "run")

    schema = pa.parquet.read_schema(tmp_path / "run" / "calls.parquet")

    assert schema.equals(CALLS, check_metadata=False)
    described = schema.field("ttft_s").metadata[b"description"]
    assert described == CALLS.field("ttft_s").metadata[b"description"]


def test_the_versions_are_those_of_the_project_and_what_it_requires(tmp_path: Path) -> None:
    write(tmp_path / "run")

    versions = read_run(tmp_path / "run").versions

    assert set(versions) == {"python", "platform", "packages", "git_commit", "seed"}
    assert versions["seed"] == 7
    assert {"inframind-router", "numpy", "pyarrow"} <= set(versions["packages"])
    assert "pytest" not in versions["packages"]
    assert versions["packages"]["pandas"] == pd.__version__


def test_a_file_outside_of_git_has_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "__file__", str(tmp_path / "run_folder.py"))

    assert run_folder.versions()["git_commit"] is None


def test_a_machine_without_git_has_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")

    assert run_folder.versions()["git_commit"] is None


def test_an_older_run_is_replaced_with_all_that_was_made_of_it(tmp_path: Path) -> None:
    write(tmp_path / "run", workflows=a_frame(WORKFLOWS))
    (tmp_path / "run" / "report.html").write_text("of the older run")

    write(tmp_path / "run", config={"seed": 8})

    assert read_run(tmp_path / "run").config == {"seed": 8}
    held = {path.name for path in (tmp_path / "run").iterdir()}
    assert held == {"calls.parquet", "config.toml", "samples.parquet", "summary.csv", "versions.json"}
    assert len(list(tmp_path.iterdir())) == 1


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    write(tmp_path)

    assert read_run(tmp_path).config["seed"] == 7


def test_a_folder_that_is_no_run_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")

    with pytest.raises(ConfigError, match="is not empty and not a run folder; name another"):
        write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_persons_file_in_a_run_folder_is_not_removed(tmp_path: Path) -> None:
    write(tmp_path / "run")
    (tmp_path / "run" / "notes.md").write_text("the one with the odd peak")

    with pytest.raises(ConfigError, match=r"notes\.md: no part of a run; move it away"):
        write(tmp_path / "run", config={})
    assert read_run(tmp_path / "run").config["seed"] == 7


def test_a_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("x")

    with pytest.raises(ConfigError, match="is a file; a run needs a folder"):
        write(tmp_path / "run")


def test_a_place_that_cannot_hold_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")

    with pytest.raises(ConfigError, match="cannot be written: "):
        write(tmp_path / "file" / "run")


def test_a_failure_half_way_leaves_the_older_run(tmp_path: Path) -> None:
    write(tmp_path / "run")

    with pytest.raises(ValueError, match="columns missing"):
        write(tmp_path / "run", config={"seed": 8}, samples=pd.DataFrame())

    assert read_run(tmp_path / "run").config["seed"] == 7
    assert len(list(tmp_path.iterdir())) == 1


def test_a_failure_at_the_last_moment_brings_the_older_run_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "run")
    rename = Path.rename

    def refuse_new(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise PermissionError("in use")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse_new)
    with pytest.raises(PermissionError):
        write(tmp_path / "run", config={"seed": 8})

    assert read_run(tmp_path / "run").config["seed"] == 7


def test_everything_wrong_with_a_folder_is_said_at_once(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "samples.parquet").unlink()
    (tmp_path / "calls.parquet").write_bytes(b"no parquet")
    (tmp_path / "config.toml").write_text("seed = ")
    (tmp_path / "versions.json").write_text("[]")
    (tmp_path / "summary.csv").write_text("server,model\na,b\n")

    config, versions, calls, samples, summary = problems(tmp_path)

    assert config.startswith("config.toml: cannot be read: Invalid value")
    assert versions == "versions.json: cannot be read: must be a JSON object"
    assert calls.startswith("calls.parquet: cannot be read: ")
    assert samples == "samples.parquet: no such file"
    assert summary.startswith("summary.csv: cannot be read: columns missing: requests, finished, failed, ttft_mean_s")


def test_a_table_of_another_shape_is_named(tmp_path: Path) -> None:
    write(tmp_path, workflows=a_frame(WORKFLOWS))
    words = to_table(a_frame(SAMPLES), SAMPLES).to_pandas().assign(waiting="many")
    words.to_parquet(tmp_path / "samples.parquet")
    pa.parquet.write_table(pa.table({"workflow_id": ["w"]}), tmp_path / "workflows.parquet")

    samples, workflows = problems(tmp_path)

    assert samples.startswith("samples.parquet: cannot be read: ")
    assert "many" in samples
    assert workflows.startswith("workflows.parquet: cannot be read: columns missing: domain, question, arrival_s")


def test_an_empty_cell_of_a_required_column_is_broken(tmp_path: Path) -> None:
    write(tmp_path)
    a_frame(SAMPLES).assign(server=None).to_parquet(tmp_path / "samples.parquet")

    (samples,) = problems(tmp_path)

    assert samples.startswith("samples.parquet: cannot be read: ")
    assert "'server' with null values" in samples


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert problems(tmp_path / "none") == ["no such folder"]


def test_a_server_may_be_called_na(tmp_path: Path) -> None:
    calls = a_frame(CALLS).assign(server="NA", model="007")
    write(tmp_path, summary=summarise(calls, a_frame(SAMPLES)))

    summary = read_run(tmp_path).summary

    assert summary["server"].tolist() == ["NA", "a", "total"]
    assert summary["model"].tolist()[0] == "007"


KEYS = st.text(min_size=1, max_size=5)
VALUES = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=30)
@given(config=st.dictionaries(KEYS, VALUES, max_size=4))
def test_any_config_survives(tmp_path_factory: pytest.TempPathFactory, config: dict[str, Any]) -> None:
    folder = tmp_path_factory.mktemp("runs") / "run"

    write(folder, config=config)

    assert read_run(folder).config == config


def test_the_versions_file_is_plain_json(tmp_path: Path) -> None:
    write(tmp_path)

    assert json.loads((tmp_path / "versions.json").read_text())["seed"] == 7


def test_a_run_is_begun_again_as_long_as_nothing_has_happened(tmp_path: Path) -> None:
    """Its servers may have left their logs."""
    begin_run(tmp_path / "run", CONFIG)
    (tmp_path / "run" / "logs").mkdir()
    begin_run(tmp_path / "run", CONFIG | {"seed": 8})
    assert tomllib.loads((tmp_path / "run" / "config.toml").read_text())["seed"] == 8

    (tmp_path / "run" / "events.jsonl").touch()
    with pytest.raises(ConfigError, match="holds a run; --resume goes on with it"):
        begin_run(tmp_path / "run", CONFIG)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").touch()
    with pytest.raises(ConfigError, match="is there, and no run; name another folder"):
        begin_run(tmp_path / "other", CONFIG)
