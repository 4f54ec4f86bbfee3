"""TRC_SCHED_CLASS, scheduler 4: rtds.

Source: xen/common/sched/rt.c (xen/common/sched_rt.c before 4.14), since 4.5.

4.7 changed {dom low, vcpu high} to {vcpu low, dom high}; 4.10 added the
priority level.  Before 4.13 ``unit`` is the vCPU.  Times are in nanoseconds.
"""

from __future__ import annotations

from xtrace.probes.catalog.table import define, lay
from xtrace.probes.format import TraceClass

_rtds = define(TraceClass.SCHED, "xen/common/sched/rt.c")

_UNIT = "unit:w0[15:0] dom:w0[31:16]"
# before 4.7
_SWAPPED = "dom:w0[15:0] unit:w0[31:16]"

EVENTS = (
    _rtds(0x22801, "rtds_tickle", "TRC_RTDS_TICKLE",
          lay("4.5-4.6", 1, "cpu:w0[15:0]", timed=False),
          lay("4.7+", 1, "cpu:w0[15:0]")),
    _rtds(0x22802, "rtds_runq_pick", "TRC_RTDS_RUNQ_PICK",
          # without words if nothing was picked
          lay("4.5-4.6", (0, 5), f"{_SWAPPED} deadline_ns:w1-w2 budget_ns:w3-w4"),
          lay("4.7+", 5, f"{_UNIT} deadline_ns:w1-w2 budget_ns:w3-w4")),
    _rtds(0x22803, "rtds_budget_burn", "TRC_RTDS_BUDGET_BURN",
          lay("4.5-4.6", 4, f"{_SWAPPED} budget_ns:w1-w2:signed delta_ns:w3:signed"),
          lay("4.7-4.9", 4, f"{_UNIT} budget_ns:w1-w2:signed delta_ns:w3:signed"),
          # before 4.18 has_extratime is one byte, followed by stale bytes
          lay("4.10+", 6, f"{_UNIT} budget_ns:w1-w2:signed delta_ns:w3:signed priority_level:w4 "
                          "has_extratime:w5[7:0]")),
    _rtds(0x22804, "rtds_budget_replenish", "TRC_RTDS_BUDGET_REPLENISH",
          lay("4.5-4.6", 5, f"{_SWAPPED} deadline_ns:w1-w2 budget_ns:w3-w4"),
          lay("4.7-4.9", 5, f"{_UNIT} deadline_ns:w1-w2 budget_ns:w3-w4"),
          lay("4.10+", 6, f"{_UNIT} priority_level:w1 deadline_ns:w2-w3 budget_ns:w4-w5")),
    _rtds(0x22805, "rtds_sched_tasklet", "TRC_RTDS_SCHED_TASKLET",
          lay("4.5-4.6", 5, f"{_SWAPPED} deadline_ns:w1-w2 budget_ns:w3-w4"),
          lay("4.7+", 0)),
    _rtds(0x22806, "rtds_schedule", "TRC_RTDS_SCHEDULE",
          lay("4.8+", 1, "cpu:w0[15:0] tasklet:w0[23:16] tickled:w0[27:24] idle:w0[31:28]")),
)  # fmt: skip
