"""A finished cell as one file, so that an evaluation that was broken off goes on where it stopped."""

import io
import json
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from .evaluation import CellResult
from .evaluation_file import Cell

_KEY = b"inframind.cell"


def cell_to_bytes(result: CellResult) -> bytes:
    """Parquet: the table of workflows, and all else in its metadata."""
    table = pa.Table.from_pandas(result.workflows, preserve_index=False)
    rest = {
        "cell": asdict(result.cell),
        "servers": result.servers.to_dict("list"),
        "choices": result.choices.to_dict("list"),
        "queues": result.queues.to_dict("list"),
        "decisions_per_s": result.decisions_per_s,
    }
    sink = io.BytesIO()
    metadata = (table.schema.metadata or {}) | {_KEY: json.dumps(rest).encode()}
    pa.parquet.write_table(table.replace_schema_metadata(metadata), sink)
    return sink.getvalue()


def read_cell(path: Path) -> CellResult:
    """What `cell_to_bytes` made."""
    table = pa.parquet.read_table(path)
    rest = json.loads(table.schema.metadata[_KEY])
    return CellResult(
        Cell(**rest["cell"]),
        table.to_pandas(),
        pd.DataFrame(rest["servers"]),
        pd.DataFrame(rest["choices"]),
        pd.DataFrame(rest["queues"]),
        rest["decisions_per_s"],
    )
