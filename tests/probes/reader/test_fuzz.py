"""Damaged traces of every kind, through reader and machines: only TraceError, every byte accounted for.

XTRACE_FUZZ_CASES sets the total number of cases, 2,000 by default.
A failing case reports its seed: XTRACE_FUZZ_SEED=N runs only that one.
"""

from __future__ import annotations

import gzip
import io
import lzma
import os
import random
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builders.mutated import WORDS, case_of, delete, flip_bits, insert, put_random_word, truncate
from oracle import reader as oracle
from oracle.intact import reader_of, whole
from oracle.reading import (
    Rows,
    filler_count,
    holes_of,
    rows_of,
    shape_counts,
    slow,
    unaccounted_bytes,
    without_fillers,
)
from xtrace.analysis.state_machine import machine
from xtrace.analysis.state_machine.machine import Machine, Tallies
from xtrace.analysis.state_machine.metrics import T_COUNT
from xtrace.probes.errors import TraceError
from xtrace.probes.format import LOST_RECORDS, WINDOW_HEADER, WRAP_BUFFER
from xtrace.probes.intact.damage import MAX_DAMAGES_KEPT
from xtrace.probes.reader.batches import OVERFLOW_SHAPE
from xtrace.probes.reader.holes import MAX_HOLES_KEPT
from xtrace.probes.reader.reader import CHUNK_BYTES, TraceReader, open_trace
from xtrace.probes.reader.writer import TraceWriter, pack_window

CASES = int(os.environ.get("XTRACE_FUZZ_CASES", "2000"))
ONE_SEED = os.environ.get("XTRACE_FUZZ_SEED")
#: Numbers of cases of each kind; the mutation loop gets the rest.
CONTAINER_CASES = CASES // 20
HYPOTHESIS_CASES = max(CASES // 100, 20)
MUTATED_CASES = CASES - CONTAINER_CASES - 2 * HYPOTHESIS_CASES
#: The loop is split into this many tests, so that pytest-xdist can distribute them.
PARTS = 32

ORACLE_EVERY = 20
FULL_SIZE_EVERY = 200
SMALL_CHUNK_BYTES = 1 << 16
MOST_S = 5.0
HANGS_S = 60.0
MOST_GROWTH_BYTES = 256 << 20

# --- invariants --------------------------------------------------------------------------------


@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limit the machines to 64 vCPUs: large ones take longer to set up than a case, and 64 are exceeded."""
    monkeypatch.setattr(machine, "MAX_VCPUS", 64)
    monkeypatch.setattr(machine, "MAX_PAIRS", 64)


def digest(
    data: bytes, chunk_bytes: int, *, keep_rows: bool = False, holes: bool = False, is_whole: bool = False
) -> tuple[TraceReader, list[Rows]]:
    """Run ``data`` through reader, machines and tallies and check the totals.

    Raises:
        TraceError: it is not a trace.
    """
    if is_whole:
        reader = TraceReader(io.BytesIO(data), chunk_bytes=chunk_bytes, holes=holes)
    else:
        reader = reader_of(data, chunk_bytes=chunk_bytes, holes=holes)
    machines, tallies = Machine(), Tallies()
    records = intervals = 0
    kept: list[Rows] = []
    for batch in reader:
        records += len(batch)
        if keep_rows:
            kept.append(rows_of(batch))
        for piece in machines.feed(batch):
            intervals += len(piece)
            tallies.add(piece)
    ends = machines.finish()
    tallies.add(ends)
    intervals += len(ends)
    facts = reader.facts
    assert shape_counts(reader).sum() == records - facts.hole_count - facts.end_count
    assert facts.bytes_read == len(data)
    assert unaccounted_bytes(reader) == 0
    assert len(facts.damages) == min(facts.damage_count, MAX_DAMAGES_KEPT)
    assert sum(damage.skipped_bytes for damage in facts.damages) == facts.skipped_bytes
    assert min(facts.missing_bytes, facts.tail_bytes, facts.late_records) >= 0
    columns = tallies.columns()
    assert columns.table[:, T_COUNT].sum() + columns.left_out == intervals
    return reader, kept


def compare(data: bytes, reader: TraceReader, kept: list[Rows], *, is_whole: bool = False) -> None:
    """Compare the reader's output with what the slow reference reader makes of the whole windows."""
    content, windows = (data, None) if is_whole else whole(data)
    trace = oracle.read(content)
    facts = reader.facts
    rows, twins = without_fillers(np.concatenate(kept)), slow(trace.records)
    if facts.late_records:
        # Out of order across batches, but still in order on each pCPU.
        rows, twins = by_pcpu(rows), by_pcpu(twins)
    assert np.array_equal(rows, twins)
    assert filler_count(reader) == trace.wrap_count
    assert holes_of(content) == trace.holes[:MAX_HOLES_KEPT]
    restarts = [(r.offset, r.pcpu, r.before_tsc, r.after_tsc) for r in facts.restarts]
    place = windows.offset_of if windows else int
    assert restarts == [(place(r.offset), r.pcpu, r.before, r.after) for r in trace.restarts]
    assert facts.damages == (windows.damages if windows else [])


def by_pcpu(rows: Rows) -> Rows:
    ordered: Rows = rows[np.argsort(rows[:, 1], kind="stable")]
    return ordered


def run_case(seed: int) -> None:
    random_ = random.Random(seed)
    data = case_of(random_)
    small = max(len(data) // random_.choice((1, 2, 5)), 64)
    chunk_bytes = random_.choice((small, small, SMALL_CHUNK_BYTES, CHUNK_BYTES))
    is_compared = seed % ORACLE_EVERY == 0
    try:
        reader, kept = digest(data, chunk_bytes, keep_rows=is_compared, holes=not is_compared)
    except TraceError:
        with pytest.raises(TraceError):
            whole(data)
        return
    if is_compared:
        compare(data, reader, kept)


class Watch:
    """Abort the process if a case hangs, and print its seed; this works because the loops release the GIL."""

    def __init__(self) -> None:
        self.seed = -1
        self.since = time.monotonic()
        self.is_over = threading.Event()
        threading.Thread(target=self._look, daemon=True).start()

    def begin(self, seed: int) -> None:
        self.seed, self.since = seed, time.monotonic()

    def _look(self) -> None:
        while not self.is_over.wait(1.0):
            if time.monotonic() - self.since > HANGS_S:
                print(f"fuzz case hangs: XTRACE_FUZZ_SEED={self.seed}", file=sys.__stderr__, flush=True)
                os.abort()


@contextmanager
def watching() -> Iterator[Watch]:
    watch = Watch()
    try:
        yield watch
    finally:
        watch.is_over.set()


def run_cases(seeds: range | list[int], case: Callable[[int], None]) -> None:
    """Run the cases; a failure reports the seed that reproduces it."""
    grown = resident_bytes()
    with watching() as watch:
        for seed in seeds:
            watch.begin(seed)
            began = time.process_time()
            try:
                case(seed)
            except Exception as error:
                raise AssertionError(f"XTRACE_FUZZ_SEED={seed} reproduces it") from error
            took_s = time.process_time() - began
            assert took_s < MOST_S, f"XTRACE_FUZZ_SEED={seed} took {took_s:.1f} s"
    assert resident_bytes() - grown < MOST_GROWTH_BYTES


def resident_bytes() -> int:
    """Return the resident memory of this process in bytes, or 0 if the system does not report it."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def seeds_of(part: int, cases: int) -> range | list[int]:
    if ONE_SEED is not None:
        return [int(ONE_SEED)] if int(ONE_SEED) % PARTS == part else []
    return range(part, cases, PARTS)


# --- the tests ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_machine")
@pytest.mark.parametrize("part", range(PARTS))
def test_mutated_traces(part: int) -> None:
    run_cases(seeds_of(part, MUTATED_CASES), run_case)


@pytest.mark.parametrize("part", range(8))
def test_mutated_traces_with_full_size_machines(part: int) -> None:
    run_cases(range(part * 1_000_000, part * 1_000_000 + MUTATED_CASES // FULL_SIZE_EVERY // 8 + 1), run_case)


def pack_zstd(data: bytes) -> bytes:
    return bytes(pytest.importorskip("zstandard").ZstdCompressor().compress(data))


PACK: dict[str, Callable[[bytes], bytes]] = {
    "gz": lambda data: gzip.compress(data, 1),
    "xz": lambda data: lzma.compress(data, preset=0),
    "zst": pack_zstd,
}


@pytest.mark.parametrize("form", PACK)
def test_mutated_compressed_files(form: str, tmp_path: Path) -> None:
    path = tmp_path / "trace"

    def case(seed: int) -> None:
        random_ = random.Random(seed)
        data = bytearray(PACK[form](case_of(random_)))
        for _ in range(random_.randrange(3)):
            random_.choice((flip_bits, flip_bits, truncate, delete, insert, put_random_word))(random_, data)
            data = data or bytearray(b"\0")
        path.write_bytes(data)
        try:
            with open_trace(path, chunk_bytes=random_.choice((500, SMALL_CHUNK_BYTES))) as reader:
                for _ in reader:
                    pass
        except TraceError as error:
            assert str(path) in str(error)  # noqa: PT017 - an error is optional
        else:
            assert shape_counts(reader)[OVERFLOW_SHAPE] == 0
            assert unaccounted_bytes(reader) == 0

    run_cases([int(ONE_SEED)] if ONE_SEED else range(CONTAINER_CASES // len(PACK)), case)


hypothesis_cases = settings(
    max_examples=HYPOTHESIS_CASES,
    derandomize=True,
    database=None,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.function_scoped_fixture,
    ],
)

_WORD = st.one_of(st.sampled_from(WORDS), st.integers(0, 0xFFFF_FFFF))
_PIECES = st.one_of(
    st.binary(max_size=40),
    st.lists(_WORD, max_size=12).map(lambda words: struct.pack(f"<{len(words)}I", *words)),
    st.builds(
        lambda pcpu, words: pack_window(pcpu, struct.pack(f"<{len(words)}I", *words)),
        st.integers(0, 5),
        st.lists(_WORD, max_size=20),
    ),
)


@pytest.mark.usefixtures("small_machine")
@hypothesis_cases
@given(st.lists(_PIECES, max_size=12).map(b"".join), st.integers(64, 4096))
def test_arbitrary_bytes(data: bytes, chunk_bytes: int) -> None:
    try:
        reader, kept = digest(data, chunk_bytes, keep_rows=True)
    except TraceError:
        with pytest.raises(TraceError):
            whole(data)
    else:
        compare(data, reader, kept)


_TSC = st.one_of(st.integers(0, 100_000), st.integers(0, (1 << 64) - 1))
_EVENT = st.one_of(
    st.sampled_from(
        [0x21011, 0x21101, 0x21021, 0x28004, 0x28006, 0x20100D, 0x81001, 0x81102, 0x802008, 0x2800E]
    ),
    st.integers(1 << 16, (1 << 28) - 1),
).filter(lambda event: event not in (WRAP_BUFFER, WINDOW_HEADER & 0x0FFF_FFFF) and event & 0x0FFF_0000)
_RECORD = st.tuples(
    st.integers(0, 3), st.one_of(st.none(), _TSC, _TSC), _EVENT, st.lists(_WORD, max_size=7).map(tuple)
)


@pytest.mark.usefixtures("small_machine")
@hypothesis_cases
@given(st.lists(_RECORD, max_size=60), st.integers(1, 30), st.sampled_from([80, 256, 4088]))
def test_arbitrary_records_through_the_writer(
    records: list[tuple[int, int | None, int, tuple[int, ...]]], poll_every: int, ring_bytes: int
) -> None:
    """Stored records come back, on each pCPU in the order of writing."""
    out = io.BytesIO()
    stored: dict[int, list[tuple[int, tuple[int, ...]]]] = {}
    with TraceWriter(out, 4, ring_bytes) as writer:
        for number, (pcpu, tsc, event, words) in enumerate(records):
            if writer.write(pcpu, tsc, event, words):
                stored.setdefault(pcpu, []).append((event, words))
            if number % poll_every == 0:
                writer.poll()
    data = out.getvalue()
    reader, kept = digest(data, SMALL_CHUNK_BYTES, keep_rows=True, is_whole=True)
    compare(data, reader, kept, is_whole=True)
    found: dict[int, list[tuple[int, tuple[int, ...]]]] = {}
    for _, pcpu, event, _, count, *words in np.concatenate(kept).tolist():
        if event not in (WRAP_BUFFER, LOST_RECORDS):
            found.setdefault(pcpu, []).append((event, tuple(words[:count])))
    kept_back = {
        pcpu: [entry for entry in entries if entry[0] != LOST_RECORDS] for pcpu, entries in stored.items()
    }
    assert found == {pcpu: entries for pcpu, entries in kept_back.items() if entries}
