"""TRC_SCHED_CLASS, scheduler 0: credit.

Source: xen/common/sched/credit.c (xen/common/sched_credit.c before 4.14).

Since 4.3; 4.1 and 4.2 use the same ids for credit2 (credit2.py).
Before 4.13 ``unit`` is the vCPU.
"""

from __future__ import annotations

from xtrace.probes.catalog.table import define, lay
from xtrace.probes.format import TraceClass

_credit = define(TraceClass.SCHED, "xen/common/sched/credit.c")

EVENTS = (
    _credit(0x22001, "credit_sched_tasklet", "TRC_CSCHED_SCHED_TASKLET",
            lay("4.3+", 0)),
    _credit(0x22002, "credit_account_start", "TRC_CSCHED_ACCOUNT_START",
            lay("4.3+", 3, "dom:w0 unit:w1 active:w2")),
    _credit(0x22003, "credit_account_stop", "TRC_CSCHED_ACCOUNT_STOP",
            lay("4.3+", 3, "dom:w0 unit:w1 active:w2")),
    _credit(0x22004, "credit_stolen_unit", "TRC_CSCHED_STOLEN_UNIT",
            lay("4.3+", 3, "peer_cpu:w0 dom:w1 unit:w2"),
            note="TRC_CSCHED_STOLEN_VCPU before 4.13"),
    _credit(0x22005, "credit_picked_cpu", "TRC_CSCHED_PICKED_CPU",
            lay("4.3+", 3, "dom:w0 unit:w1 cpu:w2")),
    _credit(0x22006, "credit_tickle", "TRC_CSCHED_TICKLE",
            # timed since 4.7
            lay("4.3-4.6", 1, "cpu:w0", timed=False),
            lay("4.7+", 1, "cpu:w0")),
    _credit(0x22007, "credit_boost_start", "TRC_CSCHED_BOOST_START",
            lay("4.7+", 2, "dom:w0 unit:w1")),
    _credit(0x22008, "credit_boost_end", "TRC_CSCHED_BOOST_END",
            lay("4.7+", 2, "dom:w0 unit:w1")),
    _credit(0x22009, "credit_schedule", "TRC_CSCHED_SCHEDULE",
            lay("4.8+", 1, "cpu:w0[15:0] tasklet:w0[23:16] idle:w0[31:24]")),
    _credit(0x2200A, "credit_ratelimit", "TRC_CSCHED_RATELIMIT",
            lay("4.8+", 2, "unit:w0[15:0] dom:w0[31:16] runtime:w1")),
    _credit(0x2200B, "credit_steal_check", "TRC_CSCHED_STEAL_CHECK",
            lay("4.9+", 2, "peer_cpu:w0 checked:w1")),
)  # fmt: skip
