"""Numbers of Xen's interface to guests: domain ids, hypercalls, the hypercall page.

Sources: xen/include/public/{xen,sched}.h of Xen 4.22.  The names of all hypercalls are in catalog/names.py.
"""

from __future__ import annotations

from enum import IntEnum

DOM0 = 0
IDLE_DOMAIN = 0x7FFF
#: The domain id that Xen's tools use for an unknown domain.
DEFAULT_DOMAIN = 0x8000

#: Hypercall numbers are below this.
HYPERCALL_COUNT = 64
#: The page through which guests enter Xen, and the size of each hypercall's stub in it.
HYPERCALL_PAGE_BYTES, HYPERCALL_ROOM_BYTES = 4096, 32


class Hypercall(IntEnum):
    """__HYPERVISOR_*: those with special handling; the compat ones are the forms before Xen 3.1 and 3.2."""

    STACK_SWITCH = 3
    SCHED_OP_COMPAT = 6
    EVENT_CHANNEL_OP_COMPAT = 16
    XEN_VERSION = 17  # guests use it to force an event callback
    GRANT_TABLE_OP = 20
    IRET = 23
    VCPU_OP = 24
    SCHED_OP = 29
    EVENT_CHANNEL_OP = 32
    DOMCTL = 36


class SchedOp(IntEnum):
    """SCHEDOP_*: the commands of sched_op with special handling."""

    YIELD = 0
    BLOCK = 1
