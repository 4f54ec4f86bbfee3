"""Numbers of Xen's interface to guests, as their code uses them.

Sources: xen/include/public/{xen,sched}.h of Xen 4.22; Linux since 2024 for the name.
"""

from __future__ import annotations

from enum import IntEnum

#: The page through which guests enter Xen, and each hypercall's room in it.
HYPERCALL_PAGE_BYTES, HYPERCALL_ROOM_BYTES = 4096, 32
#: What the functions are called that Linux makes hypercalls by: xen_hypercall_pv, __SCT__xen_hypercall.
HYPERCALL_NAME = "xen_hypercall"
SCHEDOP_BLOCK = 1


class Hypercall(IntEnum):
    """__HYPERVISOR_*: those that the finder knows."""

    SET_CALLBACKS = 4
    SCHED_OP_COMPAT = 6
    XEN_VERSION = 17  # guests force their callback by it
    IRET = 23
    SCHED_OP = 29
