"""Define the keys of the metrics of event delivery, and the layout of its state.

They are of traces that have the records of docs/xen-records.md.  ``metrics`` has the metrics.
"""

from __future__ import annotations

from enum import IntEnum

#: The most events and masked waits of a vCPU that are followed at a time, and upcalls that are open.
EVENTS_MAX = 16
WAITS_MAX = 16
FRAMES_MAX = 8

#: What stands for a sender where no vCPU sent the event.
NOBODY = 0xFFFF_FFFF
#: Kinds of channels (ECS_*) on which vCPUs send.
INTERDOMAIN, IPI = 3, 6


class Source(IntEnum):
    """What an event came from, in the high half of a key; a vCPU that sent it has 0 there, too."""

    NONE = 0  # with NOBODY: a wake by no event
    PIRQ = 4
    VIRQ = 5
    UNMASK = 7  # the port was pending, and was unmasked by a hypercall


class Mark(IntEnum):
    """What a PENDING says, and what is known of its vCPU: flags."""

    ALREADY = 1  # evtchn_upcall_pending was set
    MASKED = 2  # evtchn_upcall_mask was set
    INSIDE = 4  # it was inside an upcall
    UNKNOWN = 8  # that is not known


class Waited(IntEnum):
    """Where a mark found its vCPU, and how its wait ended: flags."""

    INSIDE = 1  # inside an upcall
    UNKNOWN = 2  # it is not known whether it was inside one
    TAKEN = 4  # the guest took the event without a further upcall: it waited at most as long
    MASKED = 8  # the upcall mask was set


class Returned(IntEnum):
    """What is known of an upcall: flags."""

    INSIDE = 1  # it began inside another one
    HAS_INSIDE = 2  # another one began inside it
    SLEPT = 4  # another thread ran before its iret
    USER = 8  # it interrupted user mode
    HVM = 16  # it began with the entry after an injection
    UNKNOWN = 32  # it is not known whether it began inside another one


class E(IntEnum):
    """Columns of a vCPU's state."""

    KEY = 0
    STATE = 1  # runstate + 1; 0: not known
    IS_HVM = 2
    IS_KNOWN = 3  # whether it is inside an upcall
    MARK_TSC = 4  # of the first mark since the last upcall; 0: none
    MARK_FLAGS = 5
    SOURCE = 6  # of the last event
    SERIAL = 7  # of the last event
    DELIVERED = 8  # the last serial at its last entry into an upcall
    RETURNED_TSC = 9  # of an upcall's iret, until the guest acts; 0: none
    RETURNED_SERIAL = 10
    INJECTED = 11
    POLLS = 12  # its last hypercall was a poll
    EVENTS = 13  # numbers of entries in the lists below
    WAITS = 14
    FRAMES = 15
    EVENT_TSC = 16  # EVENTS_MAX each
    EVENT_PORT = 32
    EVENT_SOURCE = 48
    EVENT_SERIAL = 64
    EVENT_FLYING = 80  # 1 + the pCPU whose next record may be its mark
    WAIT_TSC = 96  # WAITS_MAX each
    WAIT_FLAGS = 112
    FRAME_ADDRESS = 128  # FRAMES_MAX each
    FRAME_TSC = 136
    FRAME_FLAGS = 144  # of Returned
    COLUMNS = 152


class N(IntEnum):
    """Columns of a pCPU's state."""

    CURRENT = 0  # index of the vCPU; -1: not known
    NOTE_VCPU = 1  # index of the target of the record before, a NOTIFY or PENDING; -1: none
    NOTE_TSC = 2
    NOTE_SOURCE = 3
    NOTE_SERIAL = 4  # of its event; 0: none
    BLIND = 5
    COLUMNS = 6


class Q(IntEnum):
    """Global state of event delivery."""

    OUT = 0
    VCPUS = 1
    BLIND = 2  # pCPUs in a loss
    CORES = 3  # a pCPU writes the switches of its siblings
    TSC_LIMIT = 4
    SECRET = 5  # of the hash table of vCPUs
    # What a loss has to forget: vCPUs that had a record since the one before, and pCPUs with a NOTE_VCPU.
    # The number of these vCPUs, and a bit of each, SET_BITS in a word.
    TOUCHED_COUNT = 6
    TOUCHED = 7
    NOTED = 7 + 128
    COLUMNS = 7 + 128 + 512
