from pathlib import Path

import pytest

from inframind.calibration import decode_step, prefill_step, read_step_profiles
from inframind.traces import TraceError

HEADER = (
    "model,system,backend,backend_db_version,tp_size,dtype,phase,batch_size,context_len,"
    "prefill_latency_ms,decode_tpot_ms,memory_gib,fits_90pct\n"
)


def table(tmp_path: Path, *rows: str) -> Path:
    path = tmp_path / "profiles.csv"
    path.write_text(HEADER + "".join(f"{row}\n" for row in rows))
    return path


def test_rows_become_steps_and_what_does_not_fit_is_left_out(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        "B,h200,vllm,0.24.0,1,bf16,prefill,4,256,20.5,,9.1,1",
        "A,h200,vllm,0.24.0,2,bf16,decode,8,1024,,5.0,9.1,1",
        "A,h200,vllm,0.24.0,2,bf16,decode,256,8192,,99.0,900,0",
        "A,l40s,vllm,0.24.0,1,bf16,decode,8,1024,,50.0,9.1,1",
    )

    profiles = read_step_profiles(path, "h200")

    assert list(profiles) == ["A", "B"]
    assert profiles["A"].steps == (decode_step(0.005, 8, 1024 + 8.5),)
    assert profiles["B"].steps == (prefill_step(0.0205, 4, 256),)
    assert (profiles["A"].tp_size, profiles["A"].system, profiles["A"].backend_version) == (2, "h200", "0.24.0")


def test_all_bad_cells_are_named_with_their_line(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        "A,h200,vllm,0.24.0,1,bf16,decode,8,1024,,,9.1,1",
        "A,l40s,of another system, is not looked at,,,,,,,,,",
        "A,h200,vllm,0.24.0,1,bf16,warmup,0,1e3,1,1,9.1,yes",
    )

    with pytest.raises(TraceError) as error:
        read_step_profiles(path, "h200")

    assert error.value.problems == (
        "line 2: decode_tpot_ms must be a number greater than 0, got ''",
        "line 4: batch_size must be a whole number of at least 1, got '0'",
        "line 4: context_len must be a whole number of at least 1, got '1e3'",
        "line 4: fits_90pct must be 0 or 1, got 'yes'",
        "line 4: phase must be prefill or decode, got 'warmup'",
    )


def test_a_system_that_is_not_there_is_told_those_that_are(tmp_path: Path) -> None:
    path = table(tmp_path, *(f"A,{system},vllm,0.24.0,1,bf16,decode,8,1024,,1,1,1" for system in ("l40s", "h200_sxm")))

    with pytest.raises(TraceError, match="unknown system 'h200'; known: h200_sxm, l40s"):
        read_step_profiles(path, "h200")


def test_two_servers_in_one_table_are_refused(tmp_path: Path) -> None:
    path = table(tmp_path, *(f"A,h200,vllm,0.24.0,{tp},bf16,decode,8,1024,,1,1,1" for tp in (1, 2)))

    with pytest.raises(TraceError, match="A on h200: has more than one tp_size"):
        read_step_profiles(path, "h200")


def test_a_file_that_is_no_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("model,system\nA,h200\n")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")

    with pytest.raises(TraceError, match=r"missing column\(s\): backend_db_version, phase, .*; found: model, system"):
        read_step_profiles(tmp_path / "other.csv", "h200")
    with pytest.raises(TraceError, match="cannot be read"):
        read_step_profiles(tmp_path / "empty.csv", "h200")
    with pytest.raises(TraceError, match="cannot be read"):
        read_step_profiles(tmp_path / "binary.csv", "h200")
    with pytest.raises(TraceError, match="has no rows"):
        read_step_profiles(table(tmp_path), "h200")
    with pytest.raises(TraceError, match="no such file"):
        read_step_profiles(tmp_path / "absent.csv", "h200")


def test_a_table_with_other_separators_is_told_so(tmp_path: Path) -> None:
    path = tmp_path / "profiles.csv"
    path.write_text(HEADER.replace(",", ";") + "A;h200;vllm;0.24.0;1;bf16;decode;8;1024;;5,0;9,1;1\n")

    with pytest.raises(TraceError, match="columns seem to be separated by semicolons; commas are expected"):
        read_step_profiles(path, "h200")
