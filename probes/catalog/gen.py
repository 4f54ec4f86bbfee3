"""TRC_GEN: records of the tracing machinery; and TRC_GUEST: records that guests write themselves.

Source: xen/include/public/trace.h, xen/common/trace.c, tools/xentrace/xentrace.c,
xen/arch/x86/hvm/hvm.c (HVMOP_xentrace).
"""

from __future__ import annotations

from xtrace.probes import event_ids as ids
from xtrace.probes.catalog.table import define, lay
from xtrace.probes.format import CPU_CHANGE, GUEST_CLASS_BIT, LOST_RECORDS, WRAP_BUFFER, TraceClass

_gen = define(TraceClass.GEN, "xen/common/trace.c")
_guest = define(TraceClass.GUEST, "xen/arch/x86/hvm/hvm.c")

EVENTS = (
    _gen(LOST_RECORDS, "lost_records", "TRC_LOST_RECORDS",
         # dom low, vcpu high: the reverse of the scheduler's packing
         lay("4.0+", 4, "count:w0 dom:w1[15:0] vcpu:w1[31:16] first_tsc:w2-w3"),
         note="the blind interval lasts from first_tsc to the record's own TSC; dom and vcpu were "
              "current when it was written"),
    _gen(WRAP_BUFFER, "wrap_buffer", "TRC_TRACE_WRAP_BUFFER",
         lay("4.0+", (0, 1, 2, 3, 4, 5, 6, 7), timed=False),
         # if more than 7 words remain after the header, a TSC fills two of them
         lay("4.0+", (6, 7)),
         note="filler up to the end of the ring; its words are stale"),
    _gen(CPU_CHANGE, "cpu_change", "TRC_TRACE_CPU_CHANGE",
         lay("4.0+", 2, "pcpu:w0 window_bytes:w1", timed=False),
         source="tools/xentrace/xentrace.c"),
    # 4.2 replaced it by TRC_HW_IRQ_HANDLED.
    _gen(ids.TRACE_IRQ, "trace_irq", "TRC_TRACE_IRQ",
         lay("4.0-4.1", 3, "irq:w0 tsc_in:w1 tsc_out:w2"),
         source="xen/arch/x86/irq.c"),
    # The guest chooses the id's low bits (0x0800f000 is always set); this entry covers all such ids.
    _guest(GUEST_CLASS_BIT, "guest", "TRC_GUEST",
           lay("4.1+", (0, 1, 2, 3, 4, 5, 6, 7),
               "data0:w0:hex data1:w1:hex data2:w2:hex data3:w3:hex data4:w4:hex data5:w5:hex data6:w6:hex",
               timed=False)),
)  # fmt: skip
