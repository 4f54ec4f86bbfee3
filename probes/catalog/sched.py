"""TRC_SCHED: what all schedulers have in common.

Source: xen/include/public/trace.h, xen/common/sched/core.c (xen/common/schedule.c
before 4.14).

``unit`` is the scheduling unit since 4.13 and the vCPU before; without core
scheduling, the default, they have the same number.  Times are durations in nanoseconds
of Xen's system time, cut to 32 bits: they wrap at 4.29 s.
"""

from __future__ import annotations

from xtrace.probes import event_ids as ids
from xtrace.probes.catalog.names import RUNSTATES
from xtrace.probes.catalog.table import define, lay
from xtrace.probes.catalog.types import Event
from xtrace.probes.format import TraceClass

_sched = define(TraceClass.SCHED, "xen/common/sched/core.c")


def runstate_change_id(old: int, new: int) -> int:
    """Return the id of the transition between two runstates (format.Runstate)."""
    return ids.RUNSTATE_CHANGE | old << 8 | new << 4


def _runstate_change(old: int, new: int) -> Event:
    return _sched(
        runstate_change_id(old, new), "runstate_change", "TRC_SCHED_RUNSTATE_CHANGE",
        # vcpu low, dom high: in all versions
        lay("4.0+", 1, "vcpu:w0[15:0] dom:w0[31:16]"),
        constants=(("old", RUNSTATES[old]), ("new", RUNSTATES[new])),
        note="blocked to runnable is written on the waker's pCPU, runnable to running on the vCPU's pCPU",
    )  # fmt: skip


EVENTS = (
    *(_runstate_change(old, new) for old in RUNSTATES for new in RUNSTATES),
    _sched(ids.CONTINUE_RUNNING, "continue_running", "TRC_SCHED_CONTINUE_RUNNING",
           lay("4.0+", 1, "vcpu:w0[15:0] dom:w0[31:16]")),
    _sched(0x28001, "dom_add", "TRC_SCHED_DOM_ADD",
           # per vCPU before 4.7, per domain since then
           lay("4.0-4.6", 2, "dom:w0 vcpu:w1"),
           lay("4.7+", 1, "dom:w0")),
    _sched(0x28002, "dom_rem", "TRC_SCHED_DOM_REM",
           lay("4.0+", 1, "dom:w0")),
    _sched(0x28003, "sleep", "TRC_SCHED_SLEEP",
           lay("4.0+", 2, "dom:w0 vcpu:w1"),
           note="a pause, not a block"),
    _sched(ids.WAKE, "wake", "TRC_SCHED_WAKE",
           lay("4.0+", 2, "dom:w0 vcpu:w1"),
           note="on entry to vcpu_wake(), on the waker's pCPU; also for vCPUs that are already running"),
    _sched(0x28005, "yield", "TRC_SCHED_YIELD",
           lay("4.0+", 2, "dom:w0 vcpu:w1")),
    _sched(ids.BLOCK, "block", "TRC_SCHED_BLOCK",
           lay("4.0+", 2, "dom:w0 vcpu:w1"),
           note="only if the vCPU actually blocks; SCHEDOP_block and SCHEDOP_poll"),
    _sched(0x28007, "shutdown", "TRC_SCHED_SHUTDOWN",
           lay("4.0+", 3, "dom:w0 vcpu:w1 reason:w2:@shutdown")),
    _sched(0x28008, "ctl", "TRC_SCHED_CTL", note="reserved, never written"),
    _sched(0x28009, "adjdom", "TRC_SCHED_ADJDOM",
           lay("4.0+", 1, "dom:w0")),
    _sched(0x2800A, "switch", "TRC_SCHED_SWITCH",
           lay("4.0+", 4, "prev_dom:w0 prev_unit:w1 next_dom:w2 next_unit:w3")),
    _sched(0x2800B, "s_timer_fn", "TRC_SCHED_S_TIMER_FN", note="reserved, never written"),
    _sched(0x2800C, "t_timer_fn", "TRC_SCHED_T_TIMER_FN", note="reserved, never written"),
    _sched(0x2800D, "dom_timer_fn", "TRC_SCHED_DOM_TIMER_FN", note="reserved, never written"),
    # 4.8 added the vCPU to both.
    _sched(ids.SWITCH_INFPREV, "switch_infprev", "TRC_SCHED_SWITCH_INFPREV",
           lay("4.0-4.7", 2, "dom:w0 runtime_ns:w1"),
           lay("4.8+", 3, "dom:w0 unit:w1 runtime_ns:w2")),
    _sched(0x2800F, "switch_infnext", "TRC_SCHED_SWITCH_INFNEXT",
           lay("4.0-4.7", 3, "dom:w0 wait_ns:w1 slice_ns:w2:signed"),
           lay("4.8+", 4, "dom:w0 unit:w1 wait_ns:w2 slice_ns:w3:signed"),
           note="since 4.13 wait_ns counts from the last deschedule and includes blocked time"),
    _sched(0x28010, "shutdown_code", "TRC_SCHED_SHUTDOWN_CODE",
           lay("4.1+", 3, "dom:w0 vcpu:w1 reason:w2:@shutdown")),
    _sched(0x28011, "switch_infcont", "TRC_SCHED_SWITCH_INFCONT",
           lay("4.9+", 4, "dom:w0 unit:w1 runtime_ns:w2 slice_ns:w3:signed")),
)  # fmt: skip
