"""Which columns of each table say when a row began and ended, and for how long it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from xtrace.analysis.export.names import What


class Times(NamedTuple):
    """Names of columns.

    Attributes:
        begin, end: TSCs, the same where it was a moment.
        cycles: the duration; "" for a moment.
        detail: what distinguishes the intervals of this kind; "" for none.
    """

    begin: str
    end: str
    cycles: str = ""
    detail: str = ""


#: The kinds with a beginning, an end and a duration.
INTERVALS: Mapping[str, Times] = {
    What.RUNS: Times("begin_tsc", "end_tsc", "run_cycles", "next_state"),
    What.RUNSTATES: Times("begin_tsc", "end_tsc", "state_cycles", "state"),
    What.WAKES: Times("wake_tsc", "running_tsc", "wake_to_running_cycles"),
    What.SENDS: Times("send_tsc", "wake_tsc", "send_to_wake_cycles"),
    What.UPCALLS: Times("begin_earliest_tsc", "end_tsc", "upcall_most_cycles", "after"),
    What.FORCED_CALLBACKS: Times("begin_tsc", "end_tsc", "callback_cycles"),
    What.EXITS: Times("begin_tsc", "end_tsc", "exit_cycles", "reason"),
    What.ACCESSES: Times("begin_tsc", "end_tsc", "access_cycles", "access"),
    What.ADDRESS_SPACES: Times("begin_tsc", "end_tsc", "space_cycles", "page_table"),
    What.IPIS: Times("send_tsc", "entry_tsc", "send_to_entry_cycles", "vector"),
    What.WAKE_TO_HALTS: Times("begin_tsc", "end_tsc", "awake_cycles", "vector"),
    What.INJECTIONS: Times("begin_tsc", "end_tsc", "injection_cycles", "vector"),
    What.IRQS: Times("begin_tsc", "end_tsc", "irq_cycles", "irq"),
    What.LOSSES: Times("begin_tsc", "end_tsc", "loss_cycles", "what"),
    What.DELIVERIES: Times("notify_tsc", "upcall_tsc", "notify_to_upcall_cycles", "port"),
}
#: All tables but the histograms, which have no times.
TIMES: Mapping[str, Times] = {
    **INTERVALS,
    What.INTERVALS: Times("begin_tsc", "end_tsc", "duration_cycles"),
    What.RECORDS: Times("tsc", "tsc"),
    What.WAKE_CAUSES: Times("wake_tsc", "wake_tsc"),
    What.HYPERCALLS: Times("tsc", "tsc"),
    What.MEMORY: Times("tsc", "tsc"),
    What.RIPS: Times("tsc", "tsc"),
}
