"""Facts about a trace file that the reader collects besides its records."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from xtrace.probes.intact.damage import Damage
from xtrace.probes.reader.batches import I64


@dataclass(frozen=True, slots=True)
class Restart:
    """A place where the TSC went back for good on all pCPUs: suspend to RAM, or an appended trace.

    Attributes:
        offset: byte offset in the (decompressed) file of the first window, or record in a window, after it.
        pcpu: the pCPU of that window.
        before_tsc: greatest TSC before, as the pCPUs' last windows end.
        after_tsc: least TSC after, as the pCPUs' first windows begin.
    """

    offset: int
    pcpu: int
    before_tsc: int
    after_tsc: int

    @property
    def back_cycles(self) -> int:
        """How far the TSC went back."""
        return self.before_tsc - self.after_tsc


@dataclass(frozen=True, slots=True)
class Hole:
    """A stretch of a pCPU's time of which the windows are missing.

    Attributes:
        begin_tsc: of the last record before it.
        end_tsc: of the first record after it.
    """

    pcpu: int
    begin_tsc: int
    end_tsc: int


@dataclass(slots=True)
class ReadFacts:
    """Facts about the file itself; complete after the last batch.

    Attributes:
        bytes_read: decompressed bytes.
        windows: windows decoded, including a truncated last one.
        skipped_bytes: bytes skipped because of damage.
        missing_bytes: bytes, in whole words, that the last window announces and the file lacks.
        tail_bytes: bytes of a record or window header cut off at the end of the file.
        damages: the first MAX_DAMAGES_KEPT; damage_count counts all.
        late_records: records that sort before a record of an earlier batch (skewed TSCs).
        backward_tsc_count: records whose TSC is below an earlier one of their segment on their pCPU.
        restarts: of the TSC, at most MAX_RESTARTS; each begins a segment.
        hole_count, hole_cycles: stretches of pCPUs' time of which the windows are missing in the middle, and
            their sum; only if the reader looks for them.
        holes: the first MAX_HOLES_KEPT.
        end_count: pCPUs that the trace covers up to some time before the end of its segment, each once a
            segment; only if the reader looks for them.
        quiet_end_count: pCPUs of which it is not known whether they were read in the last round of their
            segment, because they had nothing in the round before (rounds.py); likewise.
        pcpu_bytes: int64 [MAX_PCPUS], window bytes of each pCPU, -1 for pCPUs without a window.
        ring_bytes: size of a pCPU's trace ring, from the distances between its WRAP fillers, or None.
        ring_votes: number of distances equal to ``ring_bytes``.
        half_full_windows: windows of at least half a ring, in whole pages (of half the largest window if
            the ring size is unknown).  Only these can have made Xen raise VIRQ_TBUF, once each.
    """

    bytes_read: int = 0
    windows: int = 0
    skipped_bytes: int = 0
    missing_bytes: int = 0
    tail_bytes: int = 0
    damages: list[Damage] = field(default_factory=list)
    damage_count: int = 0
    late_records: int = 0
    backward_tsc_count: int = 0
    restarts: list[Restart] = field(default_factory=list)
    hole_count: int = 0
    hole_cycles: int = 0
    holes: list[Hole] = field(default_factory=list)
    end_count: int = 0
    quiet_end_count: int = 0
    pcpu_bytes: I64 = field(default_factory=lambda: np.zeros(0, np.int64))
    ring_bytes: int | None = None
    ring_votes: int = 0
    half_full_windows: int = 0

    @property
    def pcpus(self) -> list[int]:
        """Return the pCPUs that have a window, ascending."""
        return [int(pcpu) for pcpu in np.flatnonzero(self.pcpu_bytes >= 0)]
