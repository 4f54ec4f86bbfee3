"""Write a table as JSON, CSV, Parquet or Arrow, a batch at a time."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np

from xtrace.analysis.columns import Columns
from xtrace.analysis.export.source import Exported
from xtrace.analysis.export.tables import Exporting
from xtrace.analysis.measures.table import Column
from xtrace.probes.errors import TraceError
from xtrace.symbols.errors import cell

SCHEMA_VERSION = 1
#: Rows of a group in a Parquet file.
_GROUP_ROWS = 1 << 20
#: Columns of text.
_TEXTS = (
    "name",
    "kind",
    "detail",
    "quality",
    "metric",
    "state",
    "next_state",
    "cause",
    "what",
    "after",
    "source",
    "access",
)


def write(exported: Exported, made: Exporting, file: BinaryIO, format_: str) -> int:
    """Write a table to a file and return the number of its rows.

    Raises:
        TraceError: pyarrow is not installed, for the formats that need it.
        OSError, TraceError: the trace cannot be read, or the file not be written.
    """
    writers = {"json": _write_json, "csv": _write_csv, "parquet": _write_parquet, "arrow": _write_arrow}
    return writers[format_](exported, made, file)


def unit_of(name: str) -> str:
    """Return the unit of a column, which its name ends in; "" for one without."""
    units = {"_cycles": "TSC cycles", "_tsc": "TSC", "tsc": "TSC", "count": "1", "_ratio": "1", "_s": "s"}
    return next((unit for ending, unit in units.items() if name.endswith(ending)), "")


def _described(made: Exporting, column: Column) -> dict[str, str]:
    return {
        "unit": unit_of(column.name),
        "quality": str(made.quality[column.name]),
        "meaning": column.meaning,
    }


def _facts(exported: Exported, made: Exporting) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "table": made.name,
        "trace": str(exported.request.path),
        "tsc_hz": exported.report.hz,
        "first_tsc": exported.first_tsc,
        "xen_versions": str(exported.versions),
        "domains": {str(domain): name for domain, name in sorted(exported.names.items())},
    }


def _write_json(exported: Exported, made: Exporting, file: BinaryIO) -> int:
    """Write one object, a row on each line."""
    names = [column.name for column in made.columns]
    head = _facts(exported, made) | {
        "columns": [{"name": column.name, **_described(made, column)} for column in made.columns]
    }
    file.write(json.dumps(head)[:-1].encode() + b', "rows": [')
    count = 0
    for rows in _rows(made):
        lines = (json.dumps(dict(zip(names, row, strict=True)), separators=(",", ":")) for row in rows)
        file.write((b",\n" if count else b"\n") + ",\n".join(lines).encode())
        count += len(rows)
    file.write(b"\n]}\n")
    return count


def _write_csv(exported: Exported, made: Exporting, file: BinaryIO) -> int:
    """Write a heading and a line for each row; what a spreadsheet would compute is text."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow([column.name for column in made.columns])
    count = 0
    for rows in _rows(made):
        lines.writerows([[_cell(value) for value in row] for row in rows])
        file.write(text.getvalue().encode())
        text.seek(0)
        text.truncate()
        count += len(rows)
    file.write(text.getvalue().encode())
    return count


def _cell(value: Any) -> Any:
    return cell(value) if isinstance(value, str) else value


def _rows(made: Exporting) -> Iterator[list[tuple[Any, ...]]]:
    for batch in made.batches:
        lists = [batch[column.name].tolist() for column in made.columns]
        yield list(zip(*lists, strict=True))


def _write_parquet(exported: Exported, made: Exporting, file: BinaryIO) -> int:
    pa = _pyarrow()
    from pyarrow import parquet

    schema, batches = _arrow(pa, exported, made)
    count = 0
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        waiting: list[Any] = []
        for batch in batches:
            waiting.append(batch)
            count += len(batch)
            if sum(map(len, waiting)) >= _GROUP_ROWS:
                writer.write_table(pa.Table.from_batches(waiting, schema))
                waiting = []
        if waiting:
            writer.write_table(pa.Table.from_batches(waiting, schema))
    return count


def _write_arrow(exported: Exported, made: Exporting, file: BinaryIO) -> int:
    pa = _pyarrow()
    schema, batches = _arrow(pa, exported, made)
    count = 0
    with pa.ipc.new_stream(file, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            count += len(batch)
    return count


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError:
        raise TraceError("this format needs pyarrow: pip install 'xtrace[parquet]'") from None
    return pyarrow


def _arrow(pa: Any, exported: Exported, made: Exporting) -> tuple[Any, Iterator[Any]]:
    """Return the schema, with unit and mark of each column, and the batches."""
    batches = iter(made.batches)
    first = next(batches, None)
    if first is None:
        first = Columns({column.name: np.empty(0, _type_without_rows(column)) for column in made.columns})
    schema = pa.schema(
        [
            pa.field(column.name, _type(pa, first, column), metadata=_described(made, column))
            for column in made.columns
        ],
        metadata={f"xtrace.{name}": json.dumps(value) for name, value in _facts(exported, made).items()},
    )

    def made_batches() -> Iterator[Any]:
        for batch in _and_rest(first, batches):
            arrays = [pa.array(_values(batch[field.name]), field.type) for field in schema]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)

    return schema, made_batches()


def _type_without_rows(column: Column) -> type:
    if column.name.startswith("is_"):
        return np.bool_
    if column.name.endswith(("_ratio", "_s")):
        return np.float64
    return object if column.name in _TEXTS else np.int64


def _and_rest(first: Columns, rest: Iterator[Columns]) -> Iterator[Columns]:
    if len(first):
        yield first
    yield from rest


def _type(pa: Any, first: Columns, column: Column) -> Any:
    dtype = first[column.name].dtype
    return pa.string() if dtype.kind in "OU" else pa.from_numpy_dtype(dtype)


def _values(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | Sequence[Any]:
    return array.astype(object) if array.dtype.kind == "U" else array
