"""However a recording was cut, joined, packed or written into: what is in it is read, and nothing else.

XTRACE_INTACT_CASES sets the number of cases, 2,000 by default.  A failing case reports its seed:
XTRACE_INTACT_SEED=N runs only that one.
"""

from __future__ import annotations

import io
import os
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import cast

import numpy as np
import pytest

from builders.damaged import Damaged, damaged, shows
from oracle.reader import RawRecord, Window
from oracle.reading import Rows, rows_of, without_fillers
from xtrace.probes.errors import TraceError
from xtrace.probes.format import WRAP_BUFFER
from xtrace.probes.intact.compressed import Damage as CompressedDamage
from xtrace.probes.intact.compressed import Streams, compression_in, cut_text
from xtrace.probes.intact.tsc_order import FAR_CYCLES
from xtrace.probes.intact.whole_windows import WholeWindows
from xtrace.probes.live.counters import Machine
from xtrace.probes.live.framer import Framer
from xtrace.probes.reader.ahead import Source
from xtrace.probes.reader.batches import RecordBatch
from xtrace.probes.reader.holes import is_hole
from xtrace.probes.reader.reader import TraceReader
from xtrace.probes.reader.whole_source import WholeSource

CASES = int(os.environ.get("XTRACE_INTACT_CASES", "2000"))
ONE_SEED = os.environ.get("XTRACE_INTACT_SEED")
#: The cases are split into this many tests, so that pytest-xdist can distribute them.
PARTS = 16

Key = tuple[int, ...]


#: Keys of the windows of the pool, which live as long as the process.
_keys: dict[int, list[Key]] = {}


def keys_of(windows: Iterable[Window]) -> Iterable[Key]:
    for window in windows:
        if id(window) not in _keys:
            _keys[id(window)] = [
                key_of(window.pcpu, raw) for raw in window.records if raw.event != WRAP_BUFFER
            ]
        yield from _keys[id(window)]


def key_of(pcpu: int, raw: RawRecord) -> Key:
    # A record without a TSC shows that of the one before it, which may be missing.
    return (pcpu, -1 if raw.tsc is None else raw.tsc, raw.event, *raw.words)


def keys_in(rows: Rows) -> Counter[Key]:
    return Counter((row[1], row[0] if row[3] else -1, row[2], *row[5 : 5 + row[4]]) for row in rows.tolist())


def read(case: Damaged, chunk_bytes: int, *, holes: bool) -> tuple[TraceReader, Counter[Key], list[int]]:
    """Return the reader, the records that it gives, and their TSCs."""
    source = cast(Source, io.BytesIO(case.data))
    if case.packed:
        found = compression_in(case.data[:6])
        assert found is not None
        source = Streams(source, found, "trace")
    reader = TraceReader(WholeSource(source, "trace"), chunk_bytes=chunk_bytes, holes=holes, keep=2)
    parts = [rows_of(_without_holes(batch) if holes else batch) for batch in reader]
    rows = without_fillers(np.concatenate(parts))
    return reader, keys_in(rows), [row[0] for row in rows.tolist() if row[3]]


def _without_holes(batch: RecordBatch) -> RecordBatch:
    kept = ~is_hole(batch.shape)
    return replace(
        batch, tsc=batch.tsc[kept], pcpu=batch.pcpu[kept], shape=batch.shape[kept], start=batch.start[kept]
    )


def frame(data: bytes, cut: str, random_: random.Random) -> tuple[Framer, WholeWindows]:
    """Return what `stat` makes of the bytes as they arrive."""
    machine = Machine()
    framer = Framer(machine.meaning, machine.pcpu_of, machine.on_other, machine.on_tick)
    whole = WholeWindows()
    at = 0
    while at < len(data):
        stop = at + random_.choice((1, 100, 4096, 1 << 20))
        whole.feed(data[at:stop])
        framer.feed(whole.take())
        for _ in framer.take():
            pass
        at = stop
    whole.end(cut)
    framer.feed(whole.take())
    framer.end()
    for _ in framer.take():
        pass
    return framer, whole


def plain_of(case: Damaged) -> tuple[bytes, str]:
    """Return the bytes of a case, of a compressed one those up to the cut, and what is wrong there."""
    if not case.packed:
        return case.data, ""
    found = compression_in(case.data[:6])
    assert found is not None
    streams = Streams(cast(Source, io.BytesIO(case.data)), found, "trace")
    plain = bytearray()
    buffer = bytearray(1 << 16)
    try:
        while count := streams.readinto(memoryview(buffer)):
            plain += buffer[:count]
    except CompressedDamage as error:
        return bytes(plain), cut_text(error)
    return bytes(plain), ""


def run_case(seed: int) -> None:
    random_ = random.Random(seed)
    case = damaged(random_)
    known = Counter(key for each in case.originals for key in keys_of(each.windows))
    must = Counter(keys_of(case.kept))
    try:
        reader, found, tscs = read(case, random_.choice((1 << 12, 1 << 16, 1 << 18)), holes=True)
    except TraceError:
        if must:
            raise
        return
    assert not found - known or not shows(case), f"{case.what}: records that are not in the original"
    assert not must - found, f"{case.what}: records are missing"
    known_tscs = [key[1] for key in known if key[1] >= 0]
    if tscs:
        assert min(known_tscs) <= min(tscs) or not shows(case)
        assert max(tscs) <= max(known_tscs) + (0 if shows(case) else FAR_CYCLES)
    facts = reader.facts
    plain, cut = plain_of(case)
    assert facts.bytes_read == len(plain)
    framer, whole = frame(plain, cut, random_)
    assert framer.record_count == found.total(), case.what
    assert framer.damage_count == 0
    assert whole.damages == facts.damages, case.what
    assert framer.restart_count == len(facts.restarts)


@pytest.mark.parametrize("part", range(PARTS))
def test_damaged_recordings(part: int) -> None:
    seeds = range(part, CASES, PARTS)
    if ONE_SEED is not None:
        seeds = range(int(ONE_SEED), int(ONE_SEED) + (int(ONE_SEED) % PARTS == part))
    for seed in seeds:
        try:
            run_case(seed)
        except Exception as error:
            raise AssertionError(f"XTRACE_INTACT_SEED={seed} reproduces it") from error
