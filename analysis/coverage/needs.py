"""What a figure needs: kinds of records, and how far it reaches beyond the records of one pCPU.

Each column of the report declares its needs beside its meaning.  Where a trace does not meet them, the
figure is absent; where it meets them in part, the figure's mark falls.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum

from xtrace.probes.selection.event_masks import NAMES


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of records.

    Attributes:
        what: the records, in words.
        names: names of the sub-classes that contain them, as ``xtrace record --class`` takes them; one is
            enough.
        groups: the event ids without their last 12 bits.
        is_released: a release of Xen writes them; otherwise that a recorder selects them says nothing.
    """

    what: str
    names: tuple[str, ...]
    groups: frozenset[int]
    is_released: bool = True

    @property
    def masks(self) -> str:
        """The sub-classes as ``xentrace -e`` takes them."""
        return " or ".join(f"{NAMES[name]:#x}" for name in self.names)


class Records(Enum):
    """The kinds of records that figures need."""

    RUNSTATES = Kind("changes of runstates", ("sched_min",), frozenset({0x21}))
    SWITCHES = Kind("wakes and blocks", ("sched_verbose",), frozenset({0x28}))
    PV = Kind("entries of PV guests into Xen", ("pv_entry",), frozenset({0x201, 0x20F}))
    #: The entries of whatever guests ran: PV, HVM or both.
    ENTRIES = Kind("guests' hypercalls", ("pv_entry", "hvm_handler"), frozenset({0x201, 0x20F, 0x82}))
    EXITS = Kind("VM exits and entries", ("hvm_entryexit",), frozenset({0x81}))
    HANDLERS = Kind("work for HVM guests", ("hvm_handler",), frozenset({0x82}))
    TIMERS = Kind("emulated timers", ("hvm_emul",), frozenset({0x84}))
    IRQS = Kind("interrupts", ("hw_irq",), frozenset({0x802}))
    EVENTS = Kind("event delivery", ("hw_evtchn",), frozenset({0x804}), is_released=False)
    IDLE = Kind("C-states", ("hw_pm",), frozenset({0x801}))
    MEMORY = Kind("grants and memory", ("mem",), frozenset({0x10F}))


class Reach(StrEnum):
    """Which records a figure is made from, besides being of the kinds that it needs."""

    RECORDS = "records"  # it counts records: right for those in the trace
    PCPU = "pcpu"  # all from one pCPU
    VCPU = "vcpu"  # from whatever pCPUs the vCPU was on
    HOST = "host"  # from all pCPUs


RUNSTATES, SWITCHES, PV, ENTRIES = Records.RUNSTATES, Records.SWITCHES, Records.PV, Records.ENTRIES
EXITS, HANDLERS, TIMERS, IRQS, EVENTS, IDLE, MEMORY = (
    Records.EXITS,
    Records.HANDLERS,
    Records.TIMERS,
    Records.IRQS,
    Records.EVENTS,
    Records.IDLE,
    Records.MEMORY,
)
