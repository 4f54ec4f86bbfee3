"""The Python side of abi.h: kinds of events, counters, and the layout of records and keys.

tests/probes/bpf/test_abi.py compares it with the header.
"""

from __future__ import annotations

from enum import IntEnum

#: Linux 5.8 is the first with BPF ring buffers; batched map look-ups came earlier.
LEAST_KERNEL = (5, 8)


class Kind(IntEnum):
    """What is counted or timed; abi.h gives the meaning of the id."""

    UPCALL = 1
    DISPATCH = 2
    PORT_HANDLER = 3
    IRQ_HANDLER = 4
    LATE_EOI = 5
    SEND = 6
    IPI = 7
    DEVICE_EVENT = 8
    PRIVCMD = 9
    SOFTIRQ = 10
    WAKE_TO_SWITCH = 11
    VECTOR = 12
    SAMPLE = 13


class Counter(IntEnum):
    """What the programs count about themselves, per CPU."""

    STREAMED = 0
    DROPPED = 1
    NO_TALLY = 2
    NO_BUCKET = 3
    UNPAIRED = 4


#: What the id of each kind is; "" if it has no meaning.
ID_OF = {
    Kind.UPCALL: "",
    Kind.DISPATCH: "port",
    Kind.PORT_HANDLER: "port",
    Kind.IRQ_HANDLER: "irq",
    Kind.LATE_EOI: "irq",
    Kind.SEND: "irq",
    Kind.IPI: "ipi",
    Kind.DEVICE_EVENT: "irq",
    Kind.PRIVCMD: "ioctl",
    Kind.SOFTIRQ: "softirq",
    Kind.WAKE_TO_SWITCH: "irq",
    Kind.VECTOR: "vector",
}
MEANINGS = {
    Kind.UPCALL: "entry to return of the upcall",
    Kind.DISPATCH: "entry of the upcall to entry of the port's handler",
    Kind.PORT_HANDLER: "entry to return of handle_irq_for_port",
    Kind.IRQ_HANDLER: "irq_handler_entry to irq_handler_exit of one action",
    Kind.LATE_EOI: "irq_handler_entry to xen_irq_lateeoi",
    Kind.SEND: "notify_remote_via_irq, counted",
    Kind.IPI: "xen_send_IPI_one, counted; id is vector << 16 | target vCPU",
    Kind.DEVICE_EVENT: "evtchn_interrupt, counted",
    Kind.PRIVCMD: "entry to return of privcmd_ioctl",
    Kind.SOFTIRQ: "softirq_entry to softirq_exit",
    Kind.WAKE_TO_SWITCH: "sched_wakeup to sched_switch of a thread that the irq's handler woke",
    Kind.VECTOR: "irq_vectors, entry to exit, of the local APIC",
}
#: Kinds that are only counted.
UNTIMED = frozenset((Kind.SEND, Kind.IPI, Kind.DEVICE_EVENT))

#: include/linux/interrupt.h, the order of softirqs since 2.6.36.
SOFTIRQS = (
    "hi", "timer", "net_tx", "net_rx", "block", "irq_poll", "tasklet", "sched", "hrtimer", "rcu",
)  # fmt: skip
#: include/xen/events.h and arch/x86/include/asm/xen/events.h.
IPIS = ("reschedule", "call_function", "call_function_single", "spin_unlock", "irq_work", "nmi")
#: include/uapi/xen/privcmd.h.
IOCTLS = {
    0: "hypercall", 2: "mmap", 3: "mmapbatch", 4: "mmapbatch_v2", 5: "dm_op", 6: "restrict",
    7: "mmap_resource", 8: "irqfd", 9: "ioeventfd",
}  # fmt: skip

#: arch/x86/include/asm/irq_vectors.h.
VECTORS = {
    246: "irq_work", 251: "call_function_single", 252: "call_function", 253: "reschedule", 236: "local_timer",
}  # fmt: skip

#: The parts of a u64 key of a tally or a bucket.
TALLY_KIND_SHIFT = 32
BUCKET_KIND_SHIFT = 44
BUCKET_ID_SHIFT = 12
ID_MASK = 0xFFFF_FFFF
BUCKET_MASK = 0xFFF

#: Length of struct tally in u64 words: count, sum, least (inverted), most, zero_count.
TALLY_WORDS = 5
U64_MASK = (1 << 64) - 1

#: Sizes of the ring's own header before each record, and of the two records including it.
RING_HEADER_BYTES = 8
EVENT_BYTES = RING_HEADER_BYTES + 24
SAMPLE_BYTES = RING_HEADER_BYTES + 56


def name_of_id(kind: Kind, number: int) -> str:
    """Return the name of an id; "" if only the host knows it, as for an irq."""
    if kind is Kind.SOFTIRQ:
        return SOFTIRQS[number] if number < len(SOFTIRQS) else f"softirq {number}"
    if kind is Kind.IPI:
        vector, target = number >> 16, number & 0xFFFF
        name = IPIS[vector] if vector < len(IPIS) else f"vector {vector}"
        return f"{name} to {target}"
    if kind is Kind.PRIVCMD:
        return IOCTLS.get(number, f"ioctl {number}")
    if kind is Kind.VECTOR:
        return VECTORS.get(number, f"vector {number}")
    return ""
