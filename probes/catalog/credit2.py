"""TRC_SCHED_CLASS, scheduler 1: credit2.

Source: xen/common/sched/credit2.c (xen/common/sched_credit2.c before 4.14).

4.1 and 4.2 write them at 0x22000 + n, which credit uses since 4.3; 4.3 added the
scheduler's number to the ids and moved credit2 to 0x22200 + n.  4.7 changed {dom low, vcpu
high} to {vcpu low, dom high} and made all of them timed.  Before 4.13 ``unit`` is
the vCPU.  Event number 18 (0x22212) does not exist.
"""

from __future__ import annotations

from xtrace.probes.catalog.table import define, lay
from xtrace.probes.format import TraceClass

_credit2 = define(TraceClass.SCHED, "xen/common/sched/credit2.c")

_UNIT = "unit:w0[15:0] dom:w0[31:16]"
# before 4.7
_SWAPPED = "dom:w0[15:0] unit:w0[31:16]"

_LOADS_4_1 = "rq_load:w0[3:0] rq_avgload:w0[31:4] rq_id:w1[3:0] b_avgload:w1[31:4]"

EVENTS = (
    _credit2(0x22002, "credit2_runq_pos", "TRC_CSCHED2_RUNQ_POS",
             lay("4.1-4.2", 2, f"{_SWAPPED} pos:w1", timed=False)),
    _credit2(0x22003, "credit2_credit_burn", "TRC_CSCHED2_CREDIT_BURN",
             lay("4.1-4.2", 3, f"{_SWAPPED} credit:w1:signed delta:w2:signed")),
    _credit2(0x22005, "credit2_tickle_check", "TRC_CSCHED2_TICKLE_CHECK",
             lay("4.1-4.2", 2, f"{_SWAPPED} credit:w1:signed")),
    _credit2(0x22006, "credit2_tickle", "TRC_CSCHED2_TICKLE",
             lay("4.1-4.2", 1, "cpu:w0[7:0]", timed=False)),
    _credit2(0x22007, "credit2_credit_reset", "TRC_CSCHED2_CREDIT_RESET",
             lay("4.1-4.2", 3, f"{_SWAPPED} credit_start:w1:signed credit_end:w2:signed")),
    _credit2(0x22008, "credit2_sched_tasklet", "TRC_CSCHED2_SCHED_TASKLET",
             lay("4.1-4.2", 0, timed=False)),
    _credit2(0x2200A, "credit2_runq_assign", "TRC_CSCHED2_RUNQ_ASSIGN",
             lay("4.1-4.2", 2, f"{_SWAPPED} rq_id:w1[15:0]")),
    _credit2(0x2200B, "credit2_update_unit_load", "TRC_CSCHED2_UPDATE_UNIT_LOAD",
             lay("4.1-4.2", 2, f"{_SWAPPED} avgload:w1"),
             note="TRC_CSCHED2_UPDATE_VCPU_LOAD before 4.13"),
    _credit2(0x2200C, "credit2_update_runq_load", "TRC_CSCHED2_UPDATE_RUNQ_LOAD",
             lay("4.1-4.2", 2, _LOADS_4_1)),

    _credit2(0x22201, "credit2_tick", "TRC_CSCHED2_TICK", note="reserved, never written"),
    _credit2(0x22202, "credit2_runq_pos", "TRC_CSCHED2_RUNQ_POS",
             lay("4.3-4.6", 2, f"{_SWAPPED} pos:w1", timed=False),
             lay("4.7+", 2, f"{_UNIT} pos:w1")),
    _credit2(0x22203, "credit2_credit_burn", "TRC_CSCHED2_CREDIT_BURN",
             lay("4.3-4.6", 3, f"{_SWAPPED} credit:w1:signed delta:w2:signed"),
             lay("4.7-4.9", 3, f"{_UNIT} credit:w1:signed delta:w2:signed"),
             # 4.10 added caps: budget is INT_MIN without a cap
             lay("4.10+", 4, f"{_UNIT} credit:w1:signed budget:w2:signed delta:w3:signed")),
    _credit2(0x22204, "credit2_credit_add", "TRC_CSCHED2_CREDIT_ADD", note="reserved, never written"),
    _credit2(0x22205, "credit2_tickle_check", "TRC_CSCHED2_TICKLE_CHECK",
             lay("4.3-4.6", 2, f"{_SWAPPED} credit:w1:signed"),
             lay("4.7-4.9", 2, f"{_UNIT} credit:w1:signed"),
             lay("4.10+", 3, f"{_UNIT} credit:w1:signed score:w2:signed")),
    _credit2(0x22206, "credit2_tickle", "TRC_CSCHED2_TICKLE",
             # the rest of the word is stale before 4.7
             lay("4.3-4.6", 1, "cpu:w0[7:0]", timed=False),
             lay("4.7+", 1, "cpu:w0[15:0]")),
    _credit2(0x22207, "credit2_credit_reset", "TRC_CSCHED2_CREDIT_RESET",
             lay("4.3-4.6", 4, f"{_SWAPPED} credit_start:w1:signed credit_end:w2:signed multiplier:w3"),
             lay("4.7-4.10", 4, f"{_UNIT} credit_start:w1:signed credit_end:w2:signed multiplier:w3"),
             lay("4.11+", 3, f"{_UNIT} credit_start:w1:signed credit_end:w2:signed")),
    _credit2(0x22208, "credit2_sched_tasklet", "TRC_CSCHED2_SCHED_TASKLET",
             lay("4.3-4.6", 0, timed=False),
             lay("4.7+", 0)),
    # the id is older than its first record
    _credit2(0x22209, "credit2_update_load", "TRC_CSCHED2_UPDATE_LOAD",
             lay("4.8+", 0)),
    _credit2(0x2220A, "credit2_runq_assign", "TRC_CSCHED2_RUNQ_ASSIGN",
             lay("4.3-4.6", 2, f"{_SWAPPED} rq_id:w1[15:0]"),
             # the upper half of word 1 is stale before 4.18
             lay("4.7+", 2, f"{_UNIT} rq_id:w1[15:0]")),
    # Since 4.8 loads have 64 bits and the record includes the shift of the fixed-point format.
    _credit2(0x2220B, "credit2_update_unit_load", "TRC_CSCHED2_UPDATE_UNIT_LOAD",
             lay("4.3-4.6", 2, f"{_SWAPPED} avgload:w1"),
             lay("4.7", 2, f"{_UNIT} avgload:w1"),
             lay("4.8+", 4, "avgload:w0-w1 unit:w2[15:0] dom:w2[31:16] shift:w3"),
             note="TRC_CSCHED2_UPDATE_VCPU_LOAD before 4.13"),
    _credit2(0x2220C, "credit2_update_runq_load", "TRC_CSCHED2_UPDATE_RUNQ_LOAD",
             lay("4.3-4.7", 2, _LOADS_4_1),
             # word 5 is padding, stale before 4.18
             lay("4.8+", 6,
                 "rq_avgload:w0-w1 b_avgload:w2-w3 rq_load:w4[15:0] rq_id:w4[23:16] shift:w4[31:24]")),
    _credit2(0x2220D, "credit2_tickle_new", "TRC_CSCHED2_TICKLE_NEW",
             lay("4.8+", 3, f"{_UNIT} cpu:w1 credit:w2:signed")),
    _credit2(0x2220E, "credit2_runq_max_weight", "TRC_CSCHED2_RUNQ_MAX_WEIGHT",
             lay("4.8+", 1, "rq_id:w0[15:0] max_weight:w0[31:16]")),
    _credit2(0x2220F, "credit2_migrate", "TRC_CSCHED2_MIGRATE",
             lay("4.8+", 2, f"{_UNIT} from_rq:w1[15:0] to_rq:w1[31:16]")),
    _credit2(0x22210, "credit2_load_check", "TRC_CSCHED2_LOAD_CHECK",
             lay("4.8+", 2, "local_rq:w0[15:0] other_rq:w0[31:16] load_delta:w1")),
    _credit2(0x22211, "credit2_load_balance", "TRC_CSCHED2_LOAD_BALANCE",
             # word 5 is padding, stale before 4.18
             lay("4.8+", 6,
                 "local_avgload:w0-w1 other_avgload:w2-w3 local_rq:w4[15:0] other_rq:w4[31:16]")),
    _credit2(0x22213, "credit2_picked_cpu", "TRC_CSCHED2_PICKED_CPU",
             lay("4.8+", 4,
                 "b_avgload:w0-w1 unit:w2[15:0] dom:w2[31:16] rq_id:w3[15:0] cpu:w3[31:16]")),
    _credit2(0x22214, "credit2_runq_candidate", "TRC_CSCHED2_RUNQ_CANDIDATE",
             # 4.8 and 4.11 have the same length, but word 2 differs; tickled_cpu is -1 for none
             lay("4.8", 3, f"{_UNIT} tickled_cpu:w1:signed skipped:w2"),
             lay("4.9-4.10", 4, f"{_UNIT} tickled_cpu:w1:signed skipped:w2 credit:w3:signed"),
             lay("4.11+", 3, f"{_UNIT} tickled_cpu:w1:signed credit:w2:signed")),
    _credit2(0x22215, "credit2_schedule", "TRC_CSCHED2_SCHEDULE",
             lay("4.8+", 2, "cpu:w0[15:0] rq_id:w0[31:16] "
                            "tasklet:w1[7:0] idle:w1[15:8] smt_idle:w1[23:16] tickled:w1[31:24]")),
    _credit2(0x22216, "credit2_ratelimit", "TRC_CSCHED2_RATELIMIT",
             lay("4.8+", 2, f"{_UNIT} runtime:w1")),
    _credit2(0x22217, "credit2_runq_cand_check", "TRC_CSCHED2_RUNQ_CAND_CHECK",
             lay("4.9+", 1, _UNIT)),
)  # fmt: skip
