import pandas as pd
import pyarrow as pa
import pytest

from inframind.traces.schema import CALLS, REQUESTS, SAMPLES, WORKFLOWS, to_table

SAMPLE = {"time_s": [0.0], "server": ["a"], "waiting": [3], "running": [2], "kv_usage": [0.5]}


def test_to_table_orders_and_types_the_columns_by_the_schema() -> None:
    table = to_table(pd.DataFrame(SAMPLE)[list(reversed(SAMPLE))], SAMPLES)

    assert table.column_names == SAMPLES.names
    assert table.schema.field("waiting").type == pa.int32()
    assert table.to_pylist() == [
        {"time_s": 0.0, "server": "a", "waiting": 3, "running": 2, "kv_usage": 0.5},
    ]


def test_to_table_writes_nan_of_an_optional_column_as_null() -> None:
    row = {name: "x" if CALLS.field(name).type == pa.string() else 1 for name in CALLS.names}
    frame = pd.DataFrame([row | {"tpot_s": float("nan"), "role": None}])

    table = to_table(frame, CALLS)

    assert table["tpot_s"].to_pylist() == [None]
    assert table["role"].to_pylist() == [None]


def test_to_table_refuses_missing_unknown_and_null_columns() -> None:
    with pytest.raises(ValueError, match=r"columns missing: \['kv_usage'\]; unknown: \['gpu'\]"):
        to_table(pd.DataFrame(SAMPLE).rename(columns={"kv_usage": "gpu"}), SAMPLES)
    with pytest.raises(ValueError, match="server: string not null"):
        to_table(pd.DataFrame(SAMPLE | {"server": [None]}), SAMPLES)
    with pytest.raises(ValueError, match="waiting"):
        to_table(pd.DataFrame(SAMPLE | {"waiting": [2.5]}), SAMPLES)


@pytest.mark.parametrize("schema", [REQUESTS, CALLS, WORKFLOWS, SAMPLES])
def test_every_column_says_what_it_means(schema: pa.Schema) -> None:
    assert all(field.metadata[b"description"] for field in schema)


def test_only_three_columns_of_requests_are_required() -> None:
    required = [field.name for field in REQUESTS if not field.nullable]

    assert required == ["arrival_s", "prompt_tokens", "output_tokens"]
