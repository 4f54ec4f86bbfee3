"""Constants of Xen's guest interface that kernel code contains.

Sources: xen/include/public/{xen,sched}.h of Xen 4.22; Linux since 2024 for HYPERCALL_NAME.
"""

from __future__ import annotations

from enum import IntEnum

#: The size of the hypercall page, through which guests enter Xen, and of each hypercall's entry in it.
HYPERCALL_PAGE_BYTES, HYPERCALL_ROOM_BYTES = 4096, 32
#: Part of the names of Linux's hypercall functions: xen_hypercall_pv, __SCT__xen_hypercall.
HYPERCALL_NAME = "xen_hypercall"
SCHEDOP_BLOCK = 1


class Hypercall(IntEnum):
    """The __HYPERVISOR_* numbers that the finder uses."""

    SET_CALLBACKS = 4
    SCHED_OP_COMPAT = 6
    XEN_VERSION = 17  # guests call it to force their callback
    IRET = 23
    SCHED_OP = 29
