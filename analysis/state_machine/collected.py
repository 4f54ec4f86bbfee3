"""The result of one pass over a trace: plain arrays, which can be pickled without numba or pandas."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xtrace.probes.reader.batches import I64, U32
from xtrace.probes.reader.read_facts import ReadFacts

PAIRS = ("ns", "cycles", "source")


@dataclass(slots=True)
class TallyColumns:
    """Tallies as plain columns.

    Attributes:
        table: int64 [n, 8], columns T_* of ``metrics``.
        histograms: int32 [h, octaves], the chunk of each octave, or -1; T_HISTOGRAM is the row.
        buckets: int64 [chunks, 64], counts.
        left_out: intervals not counted because there were too many distinct keys.
    """

    table: I64
    histograms: np.ndarray[tuple[int, int], np.dtype[np.int32]]
    buckets: I64
    left_out: int


@dataclass(slots=True)
class Collected:
    """The result of one pass over one trace.

    Attributes:
        facts: what the reader saw of the file.
        shape_headers: uint32 [shapes], header word of each shape.
        record_counts: int64 [pCPUs, shapes], records read.
        tallies: intervals by (metric, a, b).
        vcpu_keys: int64 [vCPUs], ``domain << 16 | vcpu``.
        vcpu_types: int64 [vCPUs], VCPU_PV, VCPU_HVM or 0.
        vcpu_counts: int64 [vCPUs, C_COLUMNS], the metrics that only count.
        vcpus_left_out: look-ups of vCPUs over the limit, which share one entry.
        pcpu_first_tsc, pcpu_last_tsc, pcpu_blind_cycles: int64 [pCPUs]; 0 where nothing was seen.
        named_pcpus: int64 [pCPUs / 32], a bit for each pCPU that a record names, 32 in each number.
        pairs: int64 [n, 3], columns PAIRS: nanoseconds or ticks, cycles, source; for the TSC rate.
        first_tsc, last_tsc: of the trace, or of the window in it; 0 without a record that has a TSC.
    """

    facts: ReadFacts
    shape_headers: U32
    record_counts: I64
    tallies: TallyColumns
    vcpu_keys: I64
    vcpu_types: I64
    vcpu_counts: I64
    vcpus_left_out: int
    pcpu_first_tsc: I64
    pcpu_last_tsc: I64
    pcpu_blind_cycles: I64
    named_pcpus: I64
    pairs: I64
    first_tsc: int
    last_tsc: int
