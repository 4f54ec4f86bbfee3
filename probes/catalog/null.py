"""TRC_SCHED_CLASS, scheduler 5: null.

Source: xen/common/sched/null.c (xen/common/sched_null.c before 4.14), since 4.10.
Before 4.13 ``unit`` is the vCPU.
"""

from __future__ import annotations

from xtrace.probes.catalog.table import define, lay
from xtrace.probes.format import TraceClass

_null = define(TraceClass.SCHED, "xen/common/sched/null.c")

_UNIT = "unit:w0[15:0] dom:w0[31:16]"

EVENTS = (
    _null(0x22A01, "null_picked_cpu", "TRC_SNULL_PICKED_CPU",
          lay("4.10+", 2, f"{_UNIT} cpu:w1")),
    _null(0x22A02, "null_unit_assign", "TRC_SNULL_UNIT_ASSIGN",
          lay("4.10+", 2, f"{_UNIT} cpu:w1"),
          note="TRC_SNULL_VCPU_ASSIGN before 4.13"),
    _null(0x22A03, "null_unit_deassign", "TRC_SNULL_UNIT_DEASSIGN",
          lay("4.10+", 2, f"{_UNIT} cpu:w1"),
          note="TRC_SNULL_VCPU_DEASSIGN before 4.13"),
    _null(0x22A04, "null_migrate", "TRC_SNULL_MIGRATE",
          lay("4.10+", 2, f"{_UNIT} cpu:w1[15:0] new_cpu:w1[31:16]")),
    _null(0x22A05, "null_schedule", "TRC_SNULL_SCHEDULE",
          # unit and dom are -1 for an idle pCPU
          lay("4.10+", 2, "tasklet:w0[15:0] cpu:w0[31:16] unit:w1[15:0]:signed dom:w1[31:16]:signed")),
    _null(0x22A06, "null_tasklet", "TRC_SNULL_TASKLET",
          lay("4.10+", 0)),
)  # fmt: skip
