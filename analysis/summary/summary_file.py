"""Write and read stored summaries: the result of a trace in a file, so that the trace need not be read again.

A summary is a zip archive.  Its first member, ``xtrace-summary.json``, describes the others; each of
them is a column of a field of Partial, as ``field/column.npy`` (numbers), ``field/column.objects`` or
``.text`` (JSON), so unzip and numpy.load() can read it too.  Only the version of the tables that
wrote it can read it: when the fields or the metrics have changed, the trace must be read again.

Summaries may come from untrusted sources: nothing in them is executed or unpickled, sizes are checked
before memory is allocated, and so is everything that the tables rely on.
"""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np

from xtrace.analysis.columns import Array, Columns, joined
from xtrace.analysis.state_machine.collected import Collected, Segment, TallyColumns, Unaligned
from xtrace.analysis.state_machine.kept import SLOTS, Kept
from xtrace.analysis.state_machine.metrics import C_COLUMNS, FIRST_COUNT, OCTAVES, SUB_BUCKETS, T_COLUMNS
from xtrace.analysis.summary.clock import EVIDENCE
from xtrace.analysis.summary.kept_columns import hosts_of, most_slots
from xtrace.analysis.summary.partial import KEYS, Partial, of_keys, partial_of
from xtrace.analysis.summary.partial import merge as merge_partials
from xtrace.analysis.summary.summary_head import (
    BROKEN,
    HEAD,
    Origin,
    OtherVersionError,
    head_for,
    head_of,
    is_summary,
    origin_of,
)
from xtrace.probes.errors import TraceError
from xtrace.probes.format import MAX_PCPUS
from xtrace.probes.outputs import replacing
from xtrace.probes.reader.read_facts import ReadFacts

#: All members get this time, so that the same summary makes the same bytes.
_EPOCH = (1980, 1, 1, 0, 0, 0)
#: NumPy's kinds of numbers and booleans.
_NUMBERS = "iufb"
#: A .npy file of version 1.0 with such numbers.  NumPy reads any Python expression there, with Python's own
#: parser and all of its errors.
_NPY_START = 10
_NPY = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '(?P<type>\|[bui]1|<[iuf][248])', 'fortran_order': False, "
    rb"'shape': \((?P<rows>[0-9]{1,12}),\), \} *\n",
    re.DOTALL,
)

#: The ranges that the tables rely on; outside them a sum could overflow or a look-up fail.
_BOUNDS = {
    "metric": (0, 255),
    "a": (0, (1 << 48) - 1),
    "bucket": (0, OCTAVES * SUB_BUCKETS - 1),
    "count": (0, 1 << 48),
    "buckets.count": (1, 1 << 48),
    "most_count": (0, 1 << 48),
    "pcpu": (0, MAX_PCPUS),
    "group": (0, 0xFFFF),
    "header": (0, (1 << 32) - 1),
    "vcpu": (0, (1 << 32) - 1),
    "type": (0, 2),
    "files": (0, 1 << 32),
    "first_tsc": (0, 1 << 62),
    "last_tsc": (0, 1 << 62),
    "after_cycles": (0, 1 << 62),
    "begin_tsc": (0, 1 << 62),
    "end_tsc": (0, 1 << 62),
    "back_cycles": (0, 1 << 62),
    "low_cycles": (-(1 << 62), 1 << 62),
    "high_cycles": (-(1 << 62), 1 << 62),
    "least_cycles": (0, 1 << 62),
    "offset_cycles": (-(1 << 62), 1 << 62),
    "uncertain_cycles": (0, 1 << 62),
    "other_pcpu": (0, MAX_PCPUS),
    "evidence": (0, len(EVIDENCE) - 1),
    "unaligned": (0, len(Unaligned) - 1),
    "shift": (0, 62),
    "slot": (0, 1 << 62),
    "kind": (0, 255),
    "slots.total": (0, 1 << 62),
    "value_cycles": (0, 1 << 62),
}
_A_SUM = (0, 1 << 62)


@dataclass(frozen=True, slots=True)
class Summary:
    """A Partial and its origin."""

    partial: Partial
    origin: Origin


def merge(summaries: Sequence[Summary], *, hz: float | None = None, hz_source: str = "") -> Summary:
    """Return the summary of all traces together.

    Args:
        hz: TSC rate; by default that of the first summary with Xen's trace.
        hz_source: how ``hz`` is known.

    Raises:
        ValueError: ``summaries`` is empty.
    """
    partial = merge_partials(summary.partial for summary in summaries)
    first = summaries[0].origin
    if len(summaries) > 1:
        timed = next((summary.origin for summary in summaries if not summary.partial.is_dom0_only), first)
        first = replace(
            first,
            tsc_hz=timed.tsc_hz,
            tsc_hz_source=timed.tsc_hz_source,
            name=f"{first.name} and {len(summaries) - 1} more",
            emulated=any(summary.origin.emulated for summary in summaries),
            window="; ".join(dict.fromkeys(s.origin.window for s in summaries if s.origin.window)),
            domains={},
            files=(),
            costs={},
            weights={},
            recorder_cpu_s=None,
        )
    return Summary(partial, replace(first, tsc_hz=hz, tsc_hz_source=hz_source) if hz else first)


def write_summary(summary: Summary, path: Path) -> None:
    """Write a summary to ``path`` atomically, replacing an older summary.

    Raises:
        TraceError: ``path`` exists and is not a summary; it is left as it is.
        OSError: it cannot be written.
    """
    if os.path.lexists(path) and not is_summary(path):
        raise TraceError(f"{path}: exists and is not an xtrace summary; choose another name or remove it")
    with replacing(path) as new, open(new, "wb") as file:
        _write(summary, file)


def read_summary(path: str | os.PathLike[str]) -> Summary:
    """Return the summary at ``path``.

    Raises:
        TraceError: it is damaged, or another version of the tables wrote it.
        OSError: it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive)
    except OtherVersionError as error:
        raise TraceError(
            f"{os.fspath(path)}: written by another version of xtrace ({error}); "
            "remove it or make it again from the trace"
        ) from None
    except BROKEN as error:
        said = str(error).partition("\n")[0] or type(error).__name__
        raise TraceError(
            f"{os.fspath(path)}: damaged summary: {said:.200}; make it again from the trace"
        ) from None


# --- writing -----------------------------------------------------------------------------------


def _write(summary: Summary, file: IO[bytes]) -> None:
    members: dict[str, bytes] = {}
    frames: dict[str, dict[str, str]] = {}
    for part in fields(Partial):
        columns = getattr(summary.partial, part.name)
        frames[part.name] = {}
        for column in columns.names:
            kind, content = _packed(columns[column], f"{part.name}.{column}")
            frames[part.name][column] = kind
            members[f"{part.name}/{column}.{kind}"] = content
    head = head_for(summary.origin) | {
        "rows": {part.name: len(getattr(summary.partial, part.name)) for part in fields(Partial)},
        "frames": frames,
    }
    with zipfile.ZipFile(file, "w") as archive:
        _put(archive, HEAD, json.dumps(head, indent=1).encode())
        for name, content in members.items():
            _put(archive, name, content)


def _put(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    member = zipfile.ZipInfo(name, _EPOCH)
    member.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(member, content, compresslevel=2)


def _packed(values: Array, name: str) -> tuple[str, bytes]:
    """Return the kind and bytes of a column: numbers in NumPy's format, text and mixed values as JSON."""
    if values.dtype.kind in _NUMBERS:
        out = io.BytesIO()
        np.lib.format.write_array(out, values, allow_pickle=False)
        return "npy", out.getvalue()
    plain = [value.item() if isinstance(value, np.generic) else value for value in values.tolist()]
    if not all(isinstance(value, str | int) for value in plain):
        raise TypeError(f"{name}: contains neither numbers nor text")
    return "objects", json.dumps(plain).encode()


# --- reading -----------------------------------------------------------------------------------


def _read(archive: zipfile.ZipFile) -> Summary:
    head = head_of(archive)
    expected = _expected()
    frames, rows = head["frames"], head["rows"]
    if not isinstance(frames, dict) or not isinstance(rows, dict):
        raise ValueError("its head does not describe its frames")
    if set(frames) != set(expected):
        raise OtherVersionError("its frames differ")
    made: dict[str, Columns] = {}
    for name, dtypes in expected.items():
        if not set(dtypes) <= set(frames[name]):
            raise OtherVersionError(f"columns of {name} are missing")
        columns = {
            column: _unpacked(archive, f"{name}/{column}", kind, rows[name])
            for column, kind in frames[name].items()
        }
        made[name] = Columns(
            columns
            | {
                column: _checked(f"{name}.{column}", columns[column], dtype)
                for column, dtype in dtypes.items()
            }
        )
    _check_rows(made)
    _check_histograms(made["tallies"], made["buckets"])
    _check_slots(made["slots"])
    _check_keys(made["dom0_tallies"], made["dom0_buckets"])
    if not len(made["facts"]):
        raise ValueError("facts has no row")
    if not all(str(reason).isprintable() for reason in made["damages"]["reason"]):
        raise ValueError("damages.reason contains unprintable characters")
    return Summary(Partial(**made), origin_of(head))


def _unpacked(archive: zipfile.ZipFile, name: str, kind: str, rows: int) -> Array:
    """Return a column; the bounded size of the head bounds the length of ``name``."""
    if kind in ("text", "objects"):
        values = json.loads(archive.read(f"{name}.{kind}"))
        allowed = str if kind == "text" else str | int
        if not isinstance(values, list) or not all(isinstance(value, allowed) for value in values):
            raise ValueError(f"{name} is not a list of text")
        if len(values) != rows:
            raise ValueError(f"{name} does not have {rows} values")
        column = np.empty(rows, object)
        column[:] = values
        return column
    if kind != "npy":
        raise ValueError(f"{name} is of an unknown kind")
    content = archive.read(f"{name}.npy")
    header = _NPY.match(content)
    if header is None:
        raise ValueError(f"{name} is not a .npy array of version 1.0 with one row of numbers")
    dtype = np.dtype(header["type"].decode())
    begin = _NPY_START + int.from_bytes(content[8:_NPY_START], "little")
    if int(header["rows"]) != rows or header.end() > begin:
        raise ValueError(f"{name} is not an array of {rows} numbers")
    if len(content) - begin != rows * dtype.itemsize:
        raise ValueError(f"{name} is truncated or too long")
    return np.frombuffer(content, dtype, offset=begin).copy()


def _checked(name: str, column: Array, dtype: np.dtype[Any]) -> Array:
    """Return a required column in its dtype.

    Raises:
        ValueError: it has another dtype, or values that the tables do not expect.
    """
    if not len(column):
        return column.astype(dtype)  # older versions stored numbers as objects where there were none
    if column.dtype != dtype:
        raise ValueError(f"{name} is {column.dtype}, not {dtype}")
    if dtype.kind == "O" and not all(isinstance(value, str) for value in column.tolist()):
        raise ValueError(f"{name} is not text")
    field, _, key = name.partition(".")
    bounds = _BOUNDS.get(name) or _BOUNDS.get(key) or (_A_SUM if field in ("facts", "dom0_facts") else None)
    if bounds:
        low, high = bounds
        if column.min() < low or column.max() > high:
            raise ValueError(f"{name} is {column.min()} to {column.max()}, allowed is {low} to {high}")
    return column


def _check_rows(made: Mapping[str, Columns]) -> None:
    """Raise ValueError where two rows are of the same pCPU, vCPU or key: their number is not bounded then.

    _check_histograms() adds such rows of tallies up.
    """
    for name, keys in KEYS.items():
        if not keys or name in ("tallies", "buckets"):
            continue
        if len(of_keys(made[name], keys).keys) < len(made[name]):
            raise ValueError(f"{name} has several rows of one {' and '.join(keys)}")


def _check_slots(slots: Columns) -> None:
    """Raise ValueError where slots of time differ in length, or end after any TSC."""
    if not len(slots):
        return
    shift = int(slots["shift"].max())
    if int(slots["shift"].min()) != shift:
        raise ValueError("slots of several lengths")
    if int(slots["slot"].max()) > (1 << 62) - 1 >> shift:
        raise ValueError("a slot is after all times")
    if most_slots(hosts_of(slots), slots["slot"]) > SLOTS:
        raise ValueError(f"more than {SLOTS} slots of time")


def _check_keys(tallies: Columns, buckets: Columns) -> None:
    """Raise ValueError where a histogram has no tally."""
    keys = [name for name in buckets.names if name not in ("bucket", "count", "host")]
    both = joined([tallies.only(keys), buckets.only(keys)])
    if len(both.grouped(keys).keys) > len(tallies.grouped(keys).keys):
        raise ValueError("a histogram without a tally")


def _check_histograms(tallies: Columns, buckets: Columns) -> None:
    """Raise ValueError where tallies of times and their histograms do not count the same intervals."""
    keys = ["metric", "a", "b"]
    timed = tallies.where(tallies["metric"] < int(FIRST_COUNT)).having(placed=0)
    found = buckets.having(placed=buckets["count"], count=0, min_cycles=0)
    columns = [*keys, "count", "placed", "min_cycles"]
    groups = joined([timed.only(columns), found.only(columns)]).grouped(keys)
    counts, placed = groups.sum("count"), groups.sum("placed")
    if (placed > counts).any():
        raise ValueError("a histogram without a tally")
    # Negative values are in no bucket.
    if (placed != counts)[groups.min("min_cycles") >= 0].any():
        raise ValueError("a tally without a matching histogram")


@cache
def _expected() -> dict[str, dict[str, np.dtype[Any]]]:
    """Return the dtype of each column of each field of Partial."""
    partial = partial_of(_nothing())
    columns = {part.name: getattr(partial, part.name) for part in fields(Partial)}
    return {name: {column: found[column].dtype for column in found.names} for name, found in columns.items()}


def _nothing() -> Collected:
    """Return the result of a pass over a trace without records."""
    none = np.zeros(0, np.int64)
    tallies = TallyColumns(
        np.zeros((0, T_COLUMNS), np.int64),
        np.zeros((0, OCTAVES), np.int32),
        np.zeros((0, SUB_BUCKETS), np.int64),
        0,
    )
    return Collected(
        facts=ReadFacts(),
        shape_headers=np.zeros(0, np.uint32),
        record_counts=np.zeros((0, 0), np.int64),
        tallies=tallies,
        kept=Kept().columns(),
        vcpu_keys=none,
        vcpu_types=none,
        vcpu_counts=np.zeros((0, C_COLUMNS), np.int64),
        vcpus_left_out=0,
        pcpu_first_tsc=none,
        pcpu_last_tsc=none,
        pcpu_blind_cycles=none,
        named_pcpus=none,
        has_cores=False,
        silence_cycles=0,
        hidden_hole_count=0,
        pairs=np.zeros((0, 3), np.int64),
        segments=(Segment(0, 0, 0, 0),),
    )
