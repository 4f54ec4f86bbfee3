"""What the reader saw of a trace file, apart from its records."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from xtrace.probes.reader.batches import I64


@dataclass(frozen=True, slots=True)
class Damage:
    """A place where the bytes are not what the format allows.

    Attributes:
        offset: byte offset in the (decompressed) file.
        reason: what is wrong there.
        skipped_bytes: bytes passed over before the next sound window.
    """

    offset: int
    reason: str
    skipped_bytes: int


@dataclass(slots=True)
class ReadFacts:
    """What the reader saw of the file itself; complete once the last batch was taken.

    Attributes:
        bytes_read: decompressed bytes.
        windows: windows decoded, the truncated last one included.
        skipped_bytes: bytes passed over because of damage.
        missing_bytes: bytes in whole words that the last window promises and the file does not have.
        tail_bytes: bytes of a record or a window header cut off at the end of the file.
        damages: the first MAX_DAMAGES_KEPT; damage_count counts all.
        late_records: records older than a batch that was already given out (skewed TSCs).
        backward_tsc_count: records whose TSC is below that of a record before them on their pCPU.
        pcpu_bytes: int64 [pCPUs], window bytes of each pCPU.
        ring_bytes: size of a pCPU's trace ring, told by the distance of its WRAP fillers, or None.
        ring_votes: how many distances said so.
        half_full_windows: windows of more than half a ring (or, where that is not known, than half the
            largest window): only these can have made Xen call the recorder by VIRQ_TBUF, once each.
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
