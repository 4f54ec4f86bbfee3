"""The xentrace file format as constants.

A file is a sequence of windows.  Each window is one ``CPU_CHANGE`` record
written by the xentrace tool, followed by an unmodified copy of bytes from that
pCPU's trace ring.  All words are 32-bit little endian.

Sources: xen/include/public/trace.h, xen/common/trace.c and
tools/xentrace/xentrace.c of Xen 4.0 to 4.22.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag

WORD_BYTES = 4

# The header word of a record.
EVENT_MASK = 0x0FFF_FFFF
EXTRA_SHIFT = 28
EXTRA_MASK = 0x7
TIMED_BIT = 0x8000_0000

# CPU_CHANGE: untimed, two extra words {pCPU, window bytes}.
WINDOW_HEADER = 0x2001_F003
WINDOW_HEADER_BYTES = 12

# Records of the tracing machinery itself.
LOST_RECORDS = 0x1F001
WRAP_BUFFER = 0x1F002
CPU_CHANGE = 0x1F003

#: Events that a guest writes itself (HVMOP_xentrace); it chooses the low bits.
GUEST_CLASS_BIT = 0x0800_0000

# Bounds on what a header may claim.  NR_CPUS is at most 16383 (since Xen
# 4.19); the ring's t_info table has 16-bit page counts, so no window is
# larger than 65535 pages.
MAX_PCPUS = 16384
MAX_WINDOW_BYTES = 65535 * 4096

#: A ring of N pages holds N * 4096 bytes minus sizeof(struct t_buf).
RING_PAGE_BYTES = 4096
RING_HEADER_BYTES = 8


class TraceClass(IntFlag):
    """Class bits of an event id (bits 16-27), which xentrace's -e selects."""

    GEN = 0x0001_0000
    SCHED = 0x0002_0000
    DOM0OP = 0x0004_0000
    HVM = 0x0008_0000
    MEM = 0x0010_0000
    PV = 0x0020_0000
    SHADOW = 0x0040_0000
    HW = 0x0080_0000
    GUEST = 0x0800_0000


class Runstate(IntEnum):
    """RUNSTATE_* of xen/include/public/vcpu.h."""

    RUNNING = 0
    RUNNABLE = 1
    BLOCKED = 2
    OFFLINE = 3
