"""The result of one pass over a trace: plain arrays, which can be pickled without numba or pandas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from xtrace.analysis.state_machine.kept import KeptColumns
from xtrace.analysis.state_machine.metrics import MOST_SUM
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


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a trace without a restart of the TSC.

    Attributes:
        first_tsc, last_tsc: of its records; 0 without a record that has a TSC.
        begin_tsc, end_tsc: of the window in it that is counted; equal where that is outside.
    """

    first_tsc: int
    last_tsc: int
    begin_tsc: int
    end_tsc: int

    @property
    def cycles(self) -> int:
        """Length of the segment."""
        return self.last_tsc - self.first_tsc

    def limited(self, window: tuple[int, int]) -> Segment:
        """Return it with the part that is in a window of TSCs as what is counted."""
        begin = max(self.first_tsc, window[0])
        end = max(min(self.last_tsc, window[1]), begin)
        return replace(self, begin_tsc=begin, end_tsc=end)


class Unaligned(IntEnum):
    """Why the TSCs of two pCPUs that are apart were not aligned."""

    ALIGNED = 0
    READ_ONCE = 1  # what was read is not a file, so it could not be read again
    OPEN = 2  # the bounds are open, or so wide that a difference within them may be worse than none
    RESTARTS = 3  # the TSC restarts, so the difference may not be the same everywhere
    UNREAD = 4  # it was not tried


class SkewedPair(NamedTuple):
    """Two pCPUs whose TSCs differ, as the records show it without an alignment.

    Attributes:
        low_cycles, high_cycles: bounds of the TSC of other_pcpu minus that of pcpu; low > high where open.
        least_cycles: they differ by at least this much.
        evidence: place in summary.clock.EVIDENCE.
        unaligned: an Unaligned.
    """

    pcpu: int
    other_pcpu: int
    low_cycles: int
    high_cycles: int
    least_cycles: int
    evidence: int
    unaligned: int


class AlignedPcpu(NamedTuple):
    """A pCPU whose TSCs were moved.

    Attributes:
        offset_cycles: what was added.
        uncertain_cycles: how far they may still be from those of the other pCPUs.
    """

    pcpu: int
    offset_cycles: int
    uncertain_cycles: int


@dataclass(slots=True)
class Collected:
    """The result of one pass over one trace.

    Where the TSC restarts in the trace, each segment has had machines of its own, and this is the sum.

    Attributes:
        facts: what the reader saw of the file.
        shape_headers: uint32 [shapes], header word of each shape.
        record_counts: int64 [pCPUs, shapes], records read.
        tallies: intervals by (metric, a, b).
        kept: sums by slots of time, and single intervals.
        vcpu_keys: int64 [vCPUs], ``domain << 16 | vcpu``.
        vcpu_types: int64 [vCPUs], VCPU_PV, VCPU_HVM or 0.
        vcpu_counts: int64 [vCPUs, C_COLUMNS], the metrics that only count.
        vcpus_left_out: look-ups of vCPUs over the limit, which share one entry.
        pcpu_first_tsc, pcpu_last_tsc, pcpu_blind_cycles: int64 [pCPUs]; 0 where nothing was seen.  The
            least and the greatest TSC, whatever their segment.
        named_pcpus: int64 [pCPUs / 32], a bit for each pCPU that a record names, 32 in each number.
        has_cores: Xen schedules by core, so that a pCPU writes the switches of its siblings, too.
        silence_cycles: the longest time without a record of any pCPU, of each segment where it is at least
            four times as long as any other and one percent of the span: windows may be missing there.
        hidden_hole_count: signs that windows are missing where no switch shows it: runs that the scheduler's
            record says to be shorter than their two ends are apart, and pCPUs without a record for longer
            than the scheduler lets a vCPU run.
        pairs: int64 [n, 3], columns PAIRS: nanoseconds or ticks, cycles, source; for the TSC rate.
        segments: one more than the trace has restarts of the TSC.
        skewed, aligned: pCPUs whose TSCs are apart, and those whose TSCs were moved in this pass.
    """

    facts: ReadFacts
    shape_headers: U32
    record_counts: I64
    tallies: TallyColumns
    kept: KeptColumns
    vcpu_keys: I64
    vcpu_types: I64
    vcpu_counts: I64
    vcpus_left_out: int
    pcpu_first_tsc: I64
    pcpu_last_tsc: I64
    pcpu_blind_cycles: I64
    named_pcpus: I64
    has_cores: bool
    silence_cycles: int
    hidden_hole_count: int
    pairs: I64
    segments: tuple[Segment, ...]
    skewed: Sequence[SkewedPair] = ()
    aligned: Sequence[AlignedPcpu] = ()

    @property
    def span_cycles(self) -> int:
        """Length of what is counted, over all segments."""
        return min(sum(segment.end_tsc - segment.begin_tsc for segment in self.segments), MOST_SUM)
