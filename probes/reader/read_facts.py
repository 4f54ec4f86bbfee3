"""Facts about a trace file that the reader collects besides its records."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from xtrace.probes.reader.batches import I64


@dataclass(frozen=True, slots=True)
class Damage:
    """A place where the bytes do not follow the format.

    Attributes:
        offset: byte offset in the (decompressed) file.
        reason: what is wrong there.
        skipped_bytes: bytes skipped up to the next valid window.
    """

    offset: int
    reason: str
    skipped_bytes: int


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
        backward_tsc_count: records whose TSC is below that of an earlier record on their pCPU.
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
    pcpu_bytes: I64 = field(default_factory=lambda: np.zeros(0, np.int64))
    ring_bytes: int | None = None
    ring_votes: int = 0
    half_full_windows: int = 0

    @property
    def pcpus(self) -> list[int]:
        """Return the pCPUs that have a window, ascending."""
        return [int(pcpu) for pcpu in np.flatnonzero(self.pcpu_bytes >= 0)]
