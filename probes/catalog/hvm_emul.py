"""TRC_HVM_EMUL: timers and interrupt controllers that Xen emulates for hardware guests.

Source: xen/arch/x86/hvm/{hpet,rtc,vlapic,vpic}.c, xen/arch/x86/emul-i8254.c
(xen/arch/x86/hvm/i8254.c before 4.12), since 4.5.  Times are in nanoseconds.
"""

from __future__ import annotations

from xtrace.probes import event_ids as ids
from xtrace.probes.catalog.table import define, lay
from xtrace.probes.format import TraceClass

_hpet = define(TraceClass.HVM, "xen/arch/x86/hvm/hpet.c")
_pit = define(TraceClass.HVM, "xen/arch/x86/emul-i8254.c")
_rtc = define(TraceClass.HVM, "xen/arch/x86/hvm/rtc.c")
_lapic = define(TraceClass.HVM, "xen/arch/x86/hvm/vlapic.c")
_pic = define(TraceClass.HVM, "xen/arch/x86/hvm/vpic.c")

EVENTS = (
    _hpet(0x84001, "emul_hpet_start_timer", "TRC_HVM_EMUL_HPET_START_TIMER",
          lay("4.5+", 6, "timer:w0 irq:w1 delta_ns:w2-w3 period_ns:w4-w5")),
    _pit(ids.PIT_START_TIMER, "emul_pit_start_timer", "TRC_HVM_EMUL_PIT_START_TIMER",
         # low halves; period 0 is a one-shot timer
         lay("4.5+", 2, "delta_ns:w0 period_ns:w1")),
    _rtc(0x84003, "emul_rtc_start_timer", "TRC_HVM_EMUL_RTC_START_TIMER",
         lay("4.5+", 2, "delta_ns:w0 period_ns:w1")),
    _lapic(ids.LAPIC_START_TIMER, "emul_lapic_start_timer", "TRC_HVM_EMUL_LAPIC_START_TIMER",
           lay("4.5+", 5, "delta_ns:w0-w1 period_ns:w2-w3 vector:w4:hex")),
    _hpet(0x84005, "emul_hpet_stop_timer", "TRC_HVM_EMUL_HPET_STOP_TIMER",
          lay("4.5+", 1, "timer:w0")),
    _pit(ids.PIT_STOP_TIMER, "emul_pit_stop_timer", "TRC_HVM_EMUL_PIT_STOP_TIMER", lay("4.5+", 0)),
    _rtc(0x84007, "emul_rtc_stop_timer", "TRC_HVM_EMUL_RTC_STOP_TIMER", lay("4.5+", 0)),
    _lapic(ids.LAPIC_STOP_TIMER, "emul_lapic_stop_timer", "TRC_HVM_EMUL_LAPIC_STOP_TIMER", lay("4.5+", 0)),
    _pit(ids.PIT_TIMER_CB, "emul_pit_timer_cb", "TRC_HVM_EMUL_PIT_TIMER_CB", lay("4.5+", 0)),
    _lapic(ids.LAPIC_TIMER_CB, "emul_lapic_timer_cb", "TRC_HVM_EMUL_LAPIC_TIMER_CB", lay("4.5+", 0)),
    _pic(0x8400B, "emul_pic_int_output", "TRC_HVM_EMUL_PIC_INT_OUTPUT",
         lay("4.5+", 3, "int_output:w0 is_master:w1 irq:w2:signed")),
    _pic(0x8400C, "emul_pic_kick", "TRC_HVM_EMUL_PIC_KICK", lay("4.5+", 1, "irq:w0:signed")),
    _pic(0x8400D, "emul_pic_intack", "TRC_HVM_EMUL_PIC_INTACK",
         lay("4.5+", 2, "is_master:w0 irq:w1:signed")),
    _pic(0x8400E, "emul_pic_posedge", "TRC_HVM_EMUL_PIC_POSEDGE", lay("4.5+", 1, "irq:w0")),
    _pic(0x8400F, "emul_pic_negedge", "TRC_HVM_EMUL_PIC_NEGEDGE", lay("4.5+", 1, "irq:w0")),
    _pic(0x84010, "emul_pic_pend_irq_call", "TRC_HVM_EMUL_PIC_PEND_IRQ_CALL",
         lay("4.5+", 2, "accept:w0 int_output:w1")),
    _lapic(0x84011, "emul_lapic_pic_intr", "TRC_HVM_EMUL_LAPIC_PIC_INTR",
           # accept is -1 if there is no vCPU to take it
           lay("4.5+", 2, "target:w0 accept:w1:signed")),
)  # fmt: skip
