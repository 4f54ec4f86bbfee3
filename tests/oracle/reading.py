"""Read a trace with the reader and with the reference reader, and return both results in the same form."""

from __future__ import annotations

import functools
import io
import lzma
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from oracle import reader as oracle
from xtrace.probes.format import TIMED_BIT, WINDOW_HEADER_BYTES, WRAP_BUFFER
from xtrace.probes.reader.batches import (
    HOLE_BY_KEY,
    HOLE_BY_UNIT,
    HOLE_SHAPES,
    HOLE_TO_END,
    I64,
    OVERFLOW_SHAPE,
    RecordBatch,
)
from xtrace.probes.reader.reader import TraceReader, Wanted

ALL_SAMPLES = sorted((Path(__file__).parents[2] / "samples").glob("*.bin.xz"))
#: One of each kind of guest, for tests that also read them with the slow reference implementations.
SAMPLES = [path for path in ALL_SAMPLES if not re.match("xen417-(own|sched|events)-", path.name)]

Rows = npt.NDArray[np.uint64]
_COLUMNS = 5  # followed by the extra words
_MOST_WORDS = 7
_NO_WORDS = (0,) * _MOST_WORDS


@dataclass(frozen=True, slots=True)
class Reading:
    """The reader's result for a trace.

    Attributes:
        rows: uint64 [n, 12], one record per row: TSC, pCPU, event, timed, number of words, the words.
        reader: the reader at the end of the trace.
    """

    rows: Rows
    reader: TraceReader


def rows_of(batch: RecordBatch) -> Rows:
    """Return a batch as rows."""
    count = batch.extra_count
    rows = np.zeros((len(batch), _COLUMNS + _MOST_WORDS), np.uint64)
    rows[:, 0] = batch.tsc.view(np.uint64)
    rows[:, 1] = batch.pcpu
    rows[:, 2] = batch.event
    rows[:, 3] = batch.shapes.timed[batch.shape]
    rows[:, 4] = count
    for word in range(_MOST_WORDS):
        there = count > word
        rows[there, _COLUMNS + word] = batch.words[batch.start[there] + np.uint32(word)]
    return rows


def fast(
    data: bytes,
    *,
    chunk_bytes: int = 1 << 20,
    keep: int = 0,
    wanted: Wanted | None = None,
) -> Reading:
    """Read whole windows with the reader."""
    return taken(TraceReader(io.BytesIO(data), chunk_bytes=chunk_bytes, keep=keep, wanted=wanted))


def same(rows: Rows, twins: Rows, late: int) -> bool:
    """Return whether both readers' rows are equal, in order, or only in order on each pCPU if some are late.

    A record is late if it sorts before records of an earlier batch, because of a damaged TSC or a loss
    that was reported rounds after it began.
    """
    if late:
        rows, twins = (each[np.argsort(each[:, 1], kind="stable")] for each in (rows, twins))
    return np.array_equal(rows, twins)


def holes_of(data: bytes, *, chunk_bytes: int = 1 << 20) -> list[oracle.Hole]:
    """Return the holes that the reader finds, at most MAX_HOLES_KEPT, and check that it counts their rows."""
    reader = TraceReader(io.BytesIO(data), chunk_bytes=chunk_bytes, holes=True)
    found: list[oracle.Hole] = []
    count = 0
    for batch in reader:
        is_hole = np.isin(batch.shape, HOLE_SHAPES) & (batch.shape != HOLE_TO_END)
        for row in np.flatnonzero(is_hole).tolist():
            count += 1
            words = batch.words[int(batch.start[row]) :].tolist()
            by_unit = (words[0] & 0xFFFF) << 16 | words[1] & 0xFFFF if len(words) > 1 else 0
            vcpu = {HOLE_BY_KEY: words[0], HOLE_BY_UNIT: by_unit}.get(int(batch.shape[row]))
            found.append(oracle.Hole(int(batch.pcpu[row]), 0, int(batch.tsc[row]), vcpu))
    facts = reader.facts
    assert facts.hole_count == count
    assert facts.hole_cycles >= sum(hole.end_tsc - hole.begin_tsc for hole in facts.holes)
    named = {(hole.pcpu, hole.end): hole.vcpu for hole in found}
    return [
        oracle.Hole(hole.pcpu, hole.begin_tsc, hole.end_tsc, named[hole.pcpu, hole.end_tsc])
        for hole in facts.holes
    ]


def taken(reader: TraceReader) -> Reading:
    """Read all records of ``reader``, and drop the fillers."""
    parts = [rows_of(batch) for batch in reader]
    rows = np.concatenate([np.empty((0, _COLUMNS + _MOST_WORDS), np.uint64), *parts])
    return Reading(without_fillers(rows), reader)


def without_fillers(rows: Rows) -> Rows:
    kept: Rows = rows[rows[:, 2] != WRAP_BUFFER]
    return kept


def slow(records: Iterable[oracle.Record]) -> Rows:
    """Return the reference reader's records as rows."""
    flat = [
        (record.tsc, record.pcpu, record.event, record.timed, len(record.words), *record.words, *_NO_WORDS)
        for record in records
    ]
    width = _COLUMNS + _MOST_WORDS
    return np.array([row[:width] for row in flat], np.uint64).reshape(-1, width)


def recorded_bytes(reader: TraceReader) -> int:
    """Return the size of all records read, fillers included, according to their shapes."""
    shapes, counts = reader.shapes, shape_counts(reader)
    assert counts[OVERFLOW_SHAPE] == 0, "too many shapes to know all sizes"
    header = shapes.header[: shapes.size].astype(np.int64)
    size = 4 + 8 * ((header & TIMED_BIT) != 0) + 4 * shapes.words.astype(np.int64)
    return int((size * counts).sum())


def shape_counts(reader: TraceReader) -> I64:
    """Return int64 [shapes]: how many records of each shape were read."""
    counts: I64 = reader.record_counts[reader.facts.pcpus, : reader.shapes.size].sum(axis=0)
    return counts


def unaccounted_bytes(reader: TraceReader) -> int:
    """Return the bytes read minus those of window headers, records, skipped parts and the tail."""
    facts = reader.facts
    headers = WINDOW_HEADER_BYTES * facts.windows
    return facts.bytes_read - headers - recorded_bytes(reader) - facts.skipped_bytes - facts.tail_bytes


def filler_count(reader: TraceReader) -> int:
    """Return how many WRAP fillers were read."""
    return int(shape_counts(reader)[reader.shapes.event == WRAP_BUFFER].sum())


@functools.cache
def sample_bytes(path: Path) -> bytes:
    """Return a sample's bytes, uncompressed."""
    return lzma.decompress(path.read_bytes())


@functools.cache
def sample_trace(path: Path) -> oracle.Trace:
    """Return the reference reader's result for a sample."""
    return oracle.read(sample_bytes(path))


@functools.cache
def sample_rows(path: Path) -> Rows:
    """Return a sample's records from the reference reader."""
    return slow(sample_trace(path).records)
