"""Write what the programs counted as JSON lines, once a second: ``bpf/tables.jsonl``.

The first line describes the file; each further line is one object, and only the last can be cut
off.  Counts, sums and buckets are increments since the line before, to be added up; min and max
are since the beginning.  Nothing is removed from the kernel's tables: the increments are
differences from what was read before, so nothing is lost in between.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Mapping
from typing import Any

from xtrace.probes.bpf.abi import (
    BUCKET_ID_SHIFT,
    BUCKET_KIND_SHIFT,
    BUCKET_MASK,
    ID_MASK,
    ID_OF,
    IPIS,
    MEANINGS,
    SOFTIRQS,
    TALLY_KIND_SHIFT,
    TALLY_WORDS,
    U64_MASK,
    UNTIMED,
    Counter,
)
from xtrace.probes.bpf.interrupts import Interrupt
from xtrace.probes.bpf.loader import Program, possible_cpus

SCHEMA_VERSION = 1
TALLY_COLUMNS = ("kind", "id", "vcpu", "count", "sum_ns", "min_ns", "max_ns", "zero_count")
BUCKET_COLUMNS = ("kind", "id", "vcpu", "bucket", "count")


def heading() -> dict[str, Any]:
    """Return the file's first object, which describes the others."""
    return {
        "schema_version": SCHEMA_VERSION,
        "what": "counts by BPF programs in dom0's kernel, exact except for what the 'counters' lines report",
        "clock": "CLOCK_MONOTONIC, nanoseconds, as t_ns",
        "rows": TALLY_COLUMNS,
        "rows_are": "since the line before: count, sum_ns, zero_count; since the beginning: min_ns, max_ns. "
        "zero_count: durations that read 0 because the clock was held back; they are in no other figure",
        "buckets": BUCKET_COLUMNS,
        "buckets_are": "below 64 ns bucket b holds the value b; above, bucket 64*o+p holds "
        "[(64+p)<<(o-1), (65+p)<<(o-1)); counts since the line before",
        "kinds": {
            int(kind): {
                "name": kind.name.lower(), "id": ID_OF[kind], "meaning": MEANINGS[kind],
                "timed": kind not in UNTIMED,
            }
            for kind in MEANINGS
        },
        "softirqs": SOFTIRQS,
        "ipi_vectors": IPIS,
        "counters": [counter.name.lower() for counter in Counter],
    }  # fmt: skip


class Drain:
    """Reads the tables of a program and returns what was added since the last time."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._cpus = possible_cpus()
        self._tallies: dict[bytes, bytes] = {}
        self._buckets: dict[bytes, bytes] = {}
        self._ports: dict[int, int] = {}
        self._irqs: dict[int, tuple[str, str]] = {}
        self.totals: dict[tuple[int, int], int] = {}

    def difference(self) -> dict[str, Any]:
        """Return ``rows`` and ``buckets`` since the last call, each only if not empty."""
        rows: list[tuple[int, ...]] = []
        tally_bytes = 8 * TALLY_WORDS
        for key, value in self._changed("tallies", tally_bytes * self._cpus, self._tallies):
            number = int.from_bytes(key, "little")
            kind, ident = number >> TALLY_KIND_SHIFT, number & ID_MASK
            old = _words(self._tallies.get(key) or bytes(len(value)))
            new = _words(value)
            for cpu in range(self._cpus):
                at = cpu * TALLY_WORDS
                count, zeros = new[at] - old[at], new[at + 4] - old[at + 4]
                if count or zeros:
                    least = U64_MASK - new[at + 2] if new[at + 2] else 0
                    added = new[at + 1] - old[at + 1]
                    rows.append((kind, ident, cpu, count, added, least, new[at + 3], zeros))
                    self.totals[kind, ident] = self.totals.get((kind, ident), 0) + count + zeros
            self._tallies[key] = value
        buckets: list[tuple[int, ...]] = []
        for key, value in self._changed("buckets", 8 * self._cpus, self._buckets):
            number = int.from_bytes(key, "little")
            kind, ident = number >> BUCKET_KIND_SHIFT, number >> BUCKET_ID_SHIFT & ID_MASK
            old = _words(self._buckets.get(key) or bytes(len(value)))
            for cpu, (now, before) in enumerate(zip(_words(value), old, strict=True)):
                if now != before:
                    buckets.append((kind, ident, cpu, number & BUCKET_MASK, now - before))
            self._buckets[key] = value
        return {name: found for name, found in (("rows", rows), ("buckets", buckets)) if found}

    def names(self, interrupts: Mapping[int, Interrupt]) -> dict[str, Any]:
        """Return new or renamed ``irqs`` and new or changed irqs of ``ports``, each only if not empty."""
        irqs = {
            irq: (found.chip, found.name)
            for irq, found in interrupts.items()
            if self._irqs.get(irq) != (found.chip, found.name)
        }
        self._irqs |= irqs
        ports = {}
        for key, value in self._program.elements("irq_of_port", 4, 4):
            port, irq = int.from_bytes(key, "little"), int.from_bytes(value, "little")
            if self._ports.get(port) != irq:
                ports[port] = self._ports[port] = irq
        return {name: found for name, found in (("irqs", irqs), ("ports", ports)) if found}

    def counters(self) -> dict[Counter, int]:
        """Return the programs' own counters since the start, summed over all CPUs."""
        return {counter: sum(self.by_cpu(counter)) for counter in Counter}

    def by_cpu(self, counter: Counter) -> tuple[int, ...]:
        """Return one of the programs' own counters, per CPU."""
        key = struct.pack("<I", counter)
        return tuple(_words(self._program.element("counters", key, 8 * self._cpus)))

    def _changed(
        self, name: str, value_bytes: int, before: Mapping[bytes, bytes]
    ) -> Iterable[tuple[bytes, bytes]]:
        for key, value in self._program.elements(name, 8, value_bytes):
            if before.get(key) != value:
                yield key, value


def _words(value: bytes) -> array[int]:
    words = array("Q")
    words.frombytes(value)
    return words
