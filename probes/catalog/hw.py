"""TRC_HW: power management, interrupts, and the delivery of event channels.

Source: xen/arch/x86/acpi/cpu_idle.c, xen/arch/x86/cpu/mwait-idle.c,
xen/drivers/cpufreq/utility.c, xen/arch/x86/irq.c.

4.0 and 4.1 write idle at 0x802001 and 0x802002.  4.2 moved it to 0x801002 and 0x801003
and reused the old ids for interrupts; the lengths differ: 4 and 6 words for idle, 3 for interrupts.

No release writes the records of event delivery: docs/xen-records.md proposes them, and has the patch.
"""

from __future__ import annotations

from xtrace.probes import event_ids as ids
from xtrace.probes.catalog.table import define, lay
from xtrace.probes.format import TraceClass

_pm = define(TraceClass.HW, "xen/arch/x86/acpi/cpu_idle.c")
_irq = define(TraceClass.HW, "xen/arch/x86/irq.c")
_evtchn = define(TraceClass.HW, "xen/common/event_channel.h")
_PATCH = "written only by a Xen with the patch of docs/xen-records.md"

# tick: nanoseconds of system time if the TSC does not stop in idle, otherwise ticks of the ACPI PM
# timer (3.579545 MHz); the low 32 bits.  cx: index of the C-state, or its type with mwait.
_ENTRY = "cx:w0 tick:w1 expected_us:w2 predicted_us:w3"
# irq0 to irq3: vectors pending in the local APIC, which ended idle; 0 for none.
_EXIT_4_0 = "cx:w0 tick:w1 irq0:w2:hex irq1:w3:hex irq2:w4:hex irq3:w5:hex"
_EXIT = "cx:w0 tick:w1 irq0:w2:hex:@vector irq1:w3:hex:@vector irq2:w4:hex:@vector irq3:w5:hex:@vector"

# pCPUs above 191 are not recorded.
_MASK = "irq:w0[15:0] vector:w0[31:16]:hex cpus_0:w1-w2:hex cpus_64:w3-w4:hex cpus_128:w5-w6:hex"

EVENTS = (
    _pm(0x801001, "pm_freq_change", "TRC_PM_FREQ_CHANGE",
        lay("4.0+", 2, "old_mhz:w0 new_mhz:w1"),
        source="xen/drivers/cpufreq/utility.c"),
    _pm(ids.PM_IDLE_ENTRY, "pm_idle_entry", "TRC_PM_IDLE_ENTRY", lay("4.2+", 4, _ENTRY)),
    _pm(ids.PM_IDLE_EXIT, "pm_idle_exit", "TRC_PM_IDLE_EXIT", lay("4.2+", 6, _EXIT)),
    _pm(ids.PM_IDLE_ENTRY_4_0, "pm_idle_entry", "TRC_PM_IDLE_ENTRY", lay("4.0-4.1", 4, _ENTRY)),
    _pm(ids.PM_IDLE_EXIT_4_0, "pm_idle_exit", "TRC_PM_IDLE_EXIT", lay("4.0-4.1", 6, _EXIT_4_0)),

    _irq(0x802001, "irq_move_cleanup_delay", "TRC_HW_IRQ_MOVE_CLEANUP_DELAY",
         lay("4.2+", 3, "irq:w0 vector:w1:hex cpu:w2")),
    _irq(0x802002, "irq_move_cleanup", "TRC_HW_IRQ_MOVE_CLEANUP",
         lay("4.2+", 3, "irq:w0 vector:w1:hex cpu:w2")),
    _irq(0x802003, "irq_bind_vector", "TRC_HW_IRQ_BIND_VECTOR", lay("4.2+", 7, _MASK)),
    _irq(0x802004, "irq_clear_vector", "TRC_HW_IRQ_CLEAR_VECTOR", lay("4.2+", 7, _MASK)),
    _irq(0x802005, "irq_move_finish", "TRC_HW_IRQ_MOVE_FINISH",
         lay("4.2+", 3, "irq:w0 old_vector:w1:hex cpu:w2")),
    _irq(0x802006, "irq_assign_vector", "TRC_HW_IRQ_ASSIGN_VECTOR", lay("4.2+", 7, _MASK)),
    _irq(0x802007, "irq_unmapped_vector", "TRC_HW_IRQ_UNMAPPED_VECTOR",
         lay("4.2+", 1, "vector:w0:hex")),
    _irq(ids.HW_IRQ_HANDLED, "irq_handled", "TRC_HW_IRQ_HANDLED",
         # low halves of the TSC before and after the handler; tsc_in is 0 if tracing started in between
         lay("4.2+", 3, "irq:w0 tsc_in:w1 tsc_out:w2"),
         note="not written for direct APIC vectors (IPIs, the local APIC timer)"),

    _evtchn(ids.EVTCHN_NOTIFY, "evtchn_notify", "TRC_HW_EVTCHN_NOTIFY",
            # The sender is 0xffff of domain 0xffff where no vCPU sent the event: an interrupt, a timer.
            lay("4.17+", 3, "sender_vcpu:w0[15:0] sender_dom:w0[31:16] vcpu:w1[15:0] dom:w1[31:16] "
                "port:w2[19:0] channel:w2[23:20]:@channel masked:w2[30] already:w2[31]"),
            note=f"{_PATCH}: a port's pending bit was set; already: it was so before; masked: the port is"),
    _evtchn(ids.EVTCHN_PENDING, "evtchn_pending", "TRC_HW_EVTCHN_PENDING",
            lay("4.17+", 2, "vcpu:w0[15:0] dom:w0[31:16] already:w1[0] masked:w1[1]"),
            note=f"{_PATCH}: evtchn_upcall_pending was set; masked: a PV guest's mask was",
            source="xen/arch/x86/domain.c"),
    _evtchn(ids.EVTCHN_UPCALL, "evtchn_upcall", "TRC_HW_EVTCHN_UPCALL",
            lay("4.17+", 4, "vcpu:w0[15:0] dom:w0[31:16] frame:w1:hex rip:w2-w3:hex"),
            note=f"{_PATCH}: a PV upcall's frame is about to be built; frame: low word of the address of "
            "its saved RIP, plus 1 if user mode was interrupted",
            source="xen/arch/x86/pv/trace.c"),
    _evtchn(ids.EVTCHN_INJECT, "evtchn_inject", "TRC_HW_EVTCHN_INJECT",
            lay("4.17+", 2, "vcpu:w0[15:0] dom:w0[31:16] vector:w1:hex"),
            note=f"{_PATCH}: the vector of event channels is injected into an HVM vCPU",
            source="xen/arch/x86/hvm/svm/intr.c"),
)  # fmt: skip
