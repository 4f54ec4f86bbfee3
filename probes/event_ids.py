"""Ids of the events that the state machines follow, as in xen/include/public/trace.h.

Only constants, because the catalogue takes too long to import for `xtrace top`.  The catalogue's tables,
the report's state machines and the counters of `xtrace top` all take these ids from here.
"""

from __future__ import annotations

#: Flag of a record that a 64-bit guest caused (TRC_64_FLAG and TRC_PV_64_FLAG).
WIDE = 0x100
#: A PV or HVM event's class and sub-class, and its number within the sub-class.
GROUP_MASK = 0x0FFF_F000
MINOR_MASK = 0xFF

# The scheduler.  The id of a runstate change is RUNSTATE_CHANGE | old << 8 | new << 4.
RUNSTATE_CHANGE = 0x21001
RUNSTATE_BITS = 0x330
CONTINUE_RUNNING = 0x21002
WAKE = 0x28004
BLOCK = 0x28006
SWITCH_INFPREV = 0x2800E
SWITCH_INFNEXT = 0x2800F

CREDIT_PICKED_CPU = 0x22005
CREDIT_TICKLE = 0x22006
CREDIT2_TICKLE = 0x22206
CREDIT2_PICKED_CPU = 0x22213
RTDS_TICKLE = 0x22801
RTDS_BUDGET_BURN = 0x22803
RTDS_BUDGET_REPLENISH = 0x22804
NULL_PICKED_CPU = 0x22A01

# How PV guests enter Xen: base + flag + number.  4.3 moved the base.
PV_BASE_4_0 = 0x20F000
PV_BASE = 0x201000
PV_HYPERCALL = 0x01
PV_TRAP = 0x03
PV_PAGE_FAULT = 0x04
PV_FORCED_INVALID_OP = 0x05
PV_EMULATE_PRIVOP = 0x06
PV_PTWR_EMULATION = 0x0B
PV_PTWR_EMULATION_PAE = 0x0C
PV_HYPERCALL_V2 = 0x0D
PV_HYPERCALL_SUBCALL = 0x20200E

# Hardware guests.
HVM_VMENTRY = 0x81001
HVM_VMX_EXIT = 0x81002
HVM_SVM_EXIT = 0x81003
HVM_HANDLER = 0x82000
HVM_INJ_VIRQ = 0x82004
HVM_CR_WRITE = 0x82009
HVM_MSR_WRITE = 0x8200D
HVM_INTR = 0x8200F
HVM_VMMCALL = 0x82012
HVM_HLT = 0x82013
HVM_IOPORT = 0x82016
HVM_IOMEM = 0x82017
#: Flag of a record of a write to a port or to memory; one of a read has none.
HVM_IO_WRITE = 0x200
HVM_INTR_WINDOW = 0x82020
PIT_START_TIMER = 0x84002
LAPIC_START_TIMER = 0x84004
PIT_STOP_TIMER = 0x84006
LAPIC_STOP_TIMER = 0x84008
PIT_TIMER_CB = 0x84009
LAPIC_TIMER_CB = 0x8400A

# Delivery of event channels: not written by any release, but by a Xen with the patch of docs/xen-records.md.
EVTCHN = 0x804000
EVTCHN_NOTIFY = 0x804001
EVTCHN_PENDING = 0x804002
EVTCHN_UPCALL = 0x804003
EVTCHN_INJECT = 0x804004

MEM_PAGE_GRANT_MAP = 0x10F001
MEM_PAGE_GRANT_UNMAP = 0x10F002
MEM_PAGE_GRANT_TRANSFER = 0x10F003
MEM_SET_P2M_ENTRY = 0x10F004
MEM_DECREASE_RESERVATION = 0x10F005
MEM_POD_POPULATE = 0x10F010
MEM_POD_ZERO_RECLAIM = 0x10F011
MEM_POD_SUPERPAGE_SPLINTER = 0x10F012

# Interrupts and idle.  4.0 and 4.1 write idle at two ids that belong to interrupts since 4.2.
TRACE_IRQ = 0x1F004
PM_IDLE_ENTRY = 0x801002
PM_IDLE_EXIT = 0x801003
PM_IDLE_ENTRY_4_0 = 0x802001
PM_IDLE_EXIT_4_0 = 0x802002
HW_IRQ_HANDLED = 0x802008
