"""Run records through the state machines, in compiled loops: records in, intervals out.

``run`` walks merged records through the state machines of pCPUs, vCPUs and domains and emits
intervals, each a row {metric << 48 | a, b, value, TSC of its end}.  The transitions come first, then
what each kind of record does to the machines, then the loop.  ``metrics`` says what the metrics mean;
``tests/oracle/machine.py`` is the slow reference implementation.
"""

from __future__ import annotations

import numpy as np

from xtrace.analysis.state_machine.metrics import (
    ADDRESS_MOST,
    C_HYPERCALL,
    C_PV_EVENT,
    C_SINGLE,
    C_SUBCALL,
    CR_WRITE,
    FIRST_COUNT,
    FRAME_MOST,
    IPIS_MOST,
    MAY_BE_AWAKE,
    METRIC_SHIFT,
    MOST_SUM,
    MSR_WRITE,
    MULTICALL_EVENTS,
    OFF_METRICS,
    PENDING_MAX,
    RECENT_MAX,
    S_EVENT,
    S_KIND,
    S_PARAM,
    S_WORDS,
    SET_BITS,
    STATE_INIT,
    STATE_LOST,
    TICK_PERIOD_MASK,
    VCPU_HVM,
    VCPU_PV,
    WAKE_CYCLES_MOST,
    AccessKind,
    D,
    Detail,
    DomainState,
    G,
    Kind,
    Metric,
    P,
    PcpuTime,
    RipSource,
    V,
    VirtualTimer,
    WakeCause,
    Woken,
)
from xtrace.probes import tsc_rate
from xtrace.probes.compiled.loop import I32, I64, I64_2D, U16, U32, inlined_part, loop, part
from xtrace.probes.format import MAX_PCPUS
from xtrace.probes.reader.batches import HOLE_BY_KEY, HOLE_BY_UNIT, HOLE_TO_END
from xtrace.probes.xen_abi import DEFAULT_DOMAIN, IDLE_DOMAIN

_RUNNING = 0
_RUNNABLE = 1
_BLOCKED = 2
_OFFLINE = 3

#: Metrics of the time between two runs, and the first of them that is no wait for a pCPU.
_OFF_METRICS = len(OFF_METRICS)
_OFF_BLOCKED = OFF_METRICS.index(Metric.BLOCKED)

_TIMERS = len(VirtualTimer)

_DENSE_OPS = 64
_DENSE_PV_EVENTS = 32

#: The most intervals that one record can emit, except a loss of records.
OUT_MARGIN = 80
#: The most intervals that a loss emits per vCPU: what was open, its state and its domain's state.
LOSS_MARGIN = 22

_NOBODY = DEFAULT_DOMAIN << 16 | 0xFFFF
_OP_MASK = 0xF_FFFF
_STACK_SWITCH = 3
_XEN_VERSION = 17
_IRET = 23
_SCHED_OP = 29
_SCHED_OP_COMPAT = 6
_EVENT_CHANNEL_OP = 32
_EVENT_CHANNEL_OP_COMPAT = 16
_VCPU_OP = 24
_GRANT_TABLE_OP = 20
_DOMCTL = 36
_MULTICALL = 13
_SET_TIMER_OP = 15
#: Hypercalls that set no event pending, a bit each: set_trap_table, mmu_update, set_gdt, stack_switch,
#: fpu_taskswitch, set_debugreg, get_debugreg, update_descriptor, update_va_mapping, xen_version,
#: grant_table_op, vm_assist, update_va_mapping_otherdomain, iret, set_segment_base, mmuext_op, callback_op.
_SILENT_OPS = sum(1 << op for op in (0, 1, 2, 3, 5, 8, 9, 10, 14, 17, 20, 21, 22, 23, 25, 26, 30))
#: Of sched_op: yield, block, poll.  Of vcpu_op: is_up, get_runstate_info, register_runstate_memory_area,
#: stop_singleshot_timer, get_physid, register_vcpu_time_memory_area.
_SILENT_SCHED_OPS = 1 << 0 | 1 << 1 | 1 << 3
_SILENT_VCPU_OPS = 1 << 3 | 1 << 4 | 1 << 5 | 1 << 9 | 1 << 11 | 1 << 13
_SET_PERIODIC_TIMER = 6
_STOP_PERIODIC_TIMER = 7
_SET_SINGLESHOT_TIMER = 8
_SCHEDOP_BLOCK = 1
_VCPUOP_UP = 1
_EVENT_CHECK_VECTOR = 0xFC
#: The last rows of the table of pairs: sums of the run times of 2^n to 2^(n + 1) cycles.
RUN_LENGTHS = tsc_rate.length_of(tsc_rate.BREAK_CYCLES)
_NS_NEGATIVE = tsc_rate.NS_NEGATIVE
_NEGATIVE_CYCLES = tsc_rate.NEGATIVE_CYCLES
_CHAIN_BREAK_CYCLES = tsc_rate.BREAK_CYCLES
_CHAIN_NS = tsc_rate.SUM_NS
_CHAIN_LEAST_NS = tsc_rate.LEAST_NS
_CHAIN_DIFFERENCE = tsc_rate.DIFFERENCE
#: Longer runs are not used to learn the rate on the way: at a rate of more than 1 GHz they may have wrapped.
_LEARN_CYCLES = 1 << 32
_SHORT_NS = float(tsc_rate.SHORT_NS)
_SHORT_SHARE = tsc_rate.SHORT_SHARE
_SHORT_KNOWN_NS = float(tsc_rate.SHORT_KNOWN_NS)
#: A slice that is as long or longer is none (-1), or may have wrapped.
_SLICE_MOST_NS = 1_000_000_000
#: When a vCPU last ran, by the scheduler's record, may be off by this share of the time since then, and by
#: the delay of a record: ns, of the record that it left its pCPU and of that it became runnable.
_PROOF_SHARE = 1024
_LEFT_DELAY_NS = 50_000
_RUNNABLE_DELAY_NS = 5_000
#: It was another pCPU that noted when the vCPU left that, and Xen's clocks there and here may be apart: up to
#: 0.5 ms were seen under emulation.
_CLOCKS_NS = 1_000_000
_NO_VECTOR = 0xFFFF_FFFF
#: The page of the local APIC, its ICR's halves in it, and the MSR of both.  Delivery modes up to the lowest
#: priority are of interrupts.  Xen gives vCPU n the APIC id 2n, and an HVM guest at most 128 vCPUs.
_APIC_PAGE, _ICR_LOW, _ICR_HIGH, _ICR_MSR = 0xFEE00, 0x300, 0x310, 0x830
_LOWEST_PRIORITY = 1
_TO_SELF, _TO_ALL = 1, 2
_HVM_VCPUS = 128
_FLAT_VCPUS = 8
#: With core scheduling, a pCPU with a lower number can be named before it has written a record.
_UNSEEN_PCPUS = 64


@inlined_part
def _put(glob, out, metric, a, b, value, tsc):
    row = glob[G.OUT]
    out[row, 0] = (metric << METRIC_SHIFT) | a
    out[row, 1] = b
    out[row, 2] = value
    out[row, 3] = tsc
    glob[G.OUT] = row + 1


@inlined_part
def _count(glob, counts, vcpu, metric):
    counts[vcpu, C_SINGLE + metric - FIRST_COUNT] += glob[G.INSIDE]


@inlined_part
def _put_open(glob, out, metric, a, b, value, tsc):
    """Emit an interval of which one end was not recorded."""
    _put(glob, out, Metric.OPEN, a, (np.int64(metric) << 32) | b, value, tsc)


@inlined_part
def _put_cut(glob, out, a, metric, value, tsc):
    """Count an interval as cut off; what the end of the trace cuts off does not count."""
    if glob[G.ENDED] == 0:
        _put(glob, out, Metric.CUT, a, metric, value, tsc)


@part
def _put_run(glob, pcpus, vcpus, out, pcpu, tsc):
    """Emit the run of the pCPU's current vCPU, which ends."""
    account = pcpus[pcpu, P.ACCOUNT]
    if account == PcpuTime.RUNNING or account == PcpuTime.IDLE:
        where = (pcpu << 1) | pcpus[pcpu, P.BEGUN]
        cycles = max(tsc - pcpus[pcpu, P.ACCOUNT_SINCE], 0)
        _put(glob, out, Detail.RUN, vcpus[pcpus[pcpu, P.CURRENT], V.KEY], where, cycles, tsc)


@part
def _account(glob, pcpus, out, pcpu, what, tsc):
    """Count the pCPU's time up to ``tsc`` as what it was so far, and from there as ``what``."""
    was = pcpus[pcpu, P.ACCOUNT]
    if what == was:
        return
    since = pcpus[pcpu, P.ACCOUNT_SINCE]
    if tsc > since:
        metric = np.int64(Metric.PCPU_UNKNOWN)
        if was == PcpuTime.RUNNING:
            metric = np.int64(Metric.PCPU_RUNNING)
        elif was == PcpuTime.IDLE:
            metric = np.int64(Metric.PCPU_IDLE)
        elif was == PcpuTime.LOST:
            metric = np.int64(Metric.PCPU_LOST)
        if since > 0:
            _put(glob, out, metric, pcpu, 0, tsc - since, tsc)
        elif not pcpus[pcpu, P.SEEN]:
            pcpus[pcpu, P.FIRST_TSC] = tsc  # a sibling's record about it is its first
        pcpus[pcpu, P.ACCOUNT_SINCE] = tsc
    pcpus[pcpu, P.ACCOUNT] = what


@inlined_part
def _slot_of(glob, vcpus, vcpu_slots, key):
    """Return the slot of a vCPU, or that in which it belongs."""
    mask = len(vcpu_slots) - 1
    slot = ((key * glob[G.SECRET]) >> 32) & mask
    while vcpu_slots[slot] >= 0 and vcpus[vcpu_slots[slot], V.KEY] != key:
        slot = (slot + 1) & mask
    return slot


@part
def _vcpu_of(glob, vcpus, domains, vcpu_slots, domain_slots, key):
    """Return the index of the vCPU with ``key``, added if new; all over the limit share the last one."""
    slot = _slot_of(glob, vcpus, vcpu_slots, key)
    if vcpu_slots[slot] >= 0:
        return np.int64(vcpu_slots[slot])
    index = glob[G.VCPUS]
    if index == len(vcpus) - 1:
        glob[G.VCPU_OVERFLOW] += 1
        return index
    glob[G.VCPUS] = index + 1
    vcpu_slots[slot] = index
    domain_id = key >> 16
    domain = np.int64(domain_slots[domain_id])
    if domain < 0:
        domain = glob[G.DOMAINS]
        glob[G.DOMAINS] = domain + 1
        domain_slots[domain_id] = domain
        domains[domain, D.ID] = domain_id
        domains[domain, D.STATE] = -1
    vcpus[index, V.KEY] = key
    vcpus[index, V.DOMAIN] = domain
    vcpus[index, V.STATE] = STATE_INIT
    vcpus[index, V.PCPU] = -1
    domains[domain, D.COUNTS + STATE_INIT] += 1
    return index


@part
def _update_domain(glob, domains, out, domain, is_change, tsc):
    """Give the domain the state of its vCPUs; without ``is_change``, one of them became known or lost."""
    running = domains[domain, D.COUNTS + _RUNNING]
    runnable = domains[domain, D.COUNTS + _RUNNABLE]
    blocked = domains[domain, D.COUNTS + _BLOCKED]
    waiting = blocked + domains[domain, D.COUNTS + _OFFLINE]
    state = -1
    if running > 0:
        if runnable > 0:
            state = DomainState.CONCURRENCY_HAZARD
        elif waiting > 0:
            state = DomainState.PARTIAL_RUN
        else:
            state = DomainState.FULL_RUN
    elif runnable > 0:
        if waiting > 0:
            state = DomainState.PARTIAL_CONTENTION
        else:
            state = DomainState.FULL_CONTENTION
    elif blocked > 0:
        state = DomainState.BLOCKED
    elif waiting > 0:
        state = DomainState.OFFLINE
    elif domains[domain, D.COUNTS + STATE_LOST] > 0:
        state = DomainState.LOST
    old = domains[domain, D.STATE]
    if state == old:
        return
    since = domains[domain, D.SINCE]
    if old < 0:
        domains[domain, D.FIRST_KNOWN] = tsc
    elif tsc > since and (domains[domain, D.OPENED] > 0 or not is_change):
        _put_open(glob, out, Metric.DOMAIN_STATE, domains[domain, D.ID], old, tsc - since, tsc)
    elif tsc > since:
        _put(glob, out, Metric.DOMAIN_STATE, domains[domain, D.ID], old, tsc - since, tsc)
    domains[domain, D.STATE] = state
    domains[domain, D.SINCE] = max(tsc, since)
    domains[domain, D.OPENED] = np.int64(not is_change)


@inlined_part
def _is_losable(state):
    """Return whether a loss of records makes the state of a vCPU unknown: it may run there unseen."""
    return state == _RUNNABLE or state == _BLOCKED or state == _OFFLINE


@inlined_part
def _note_losable(glob, vcpus, vcpu, old, state):
    """Keep the set of vCPUs that a loss makes unknown; what is over the limit is in none."""
    change = np.int64(_is_losable(state)) - np.int64(_is_losable(old))
    if change != 0 and vcpu < len(vcpus) - 1:
        first = np.int64(G.LOSABLE)
        if vcpus[vcpu, V.KEY] >> 16 == IDLE_DOMAIN:
            first = np.int64(G.LOSABLE_IDLE)
        glob[first + vcpu // SET_BITS] ^= np.int64(1) << (vcpu % SET_BITS)
        glob[G.LOSABLE_COUNT] += change


@inlined_part
def _set_current(glob, pcpus, vcpus, pcpu, vcpu):
    """Let a pCPU run a vCPU, -1 for one that is not known, and keep the number of those that run guests."""
    if not pcpus[pcpu, P.LOST]:
        glob[G.GUESTS] -= _runs_guest(pcpus, vcpus, pcpu)
    pcpus[pcpu, P.CURRENT] = vcpu
    if not pcpus[pcpu, P.LOST]:
        glob[G.GUESTS] += _runs_guest(pcpus, vcpus, pcpu)


@inlined_part
def _runs_guest(pcpus, vcpus, pcpu):
    """Return 1 if a pCPU runs a vCPU of a guest, else 0."""
    current = pcpus[pcpu, P.CURRENT]
    if current < 0:
        return np.int64(0)
    domain = vcpus[current, V.KEY] >> 16
    return np.int64(domain != IDLE_DOMAIN and domain != DEFAULT_DOMAIN)


@part
def _set_state(glob, vcpus, domains, out, vcpu, state, tsc):
    """Close the vCPU's runstate interval at ``tsc`` and open the next one.

    Where no record shows that it changed at ``tsc``, the caller sets V.OPENED afterwards.
    """
    old = vcpus[vcpu, V.STATE]
    since = vcpus[vcpu, V.SINCE]
    key = vcpus[vcpu, V.KEY]
    metric = np.int64(-1)
    if old == _RUNNING:
        metric = np.int64(Metric.RUNNING)
    elif old == _RUNNABLE:
        metric = vcpus[vcpu, V.REASON]
    elif old == _BLOCKED:
        metric = np.int64(Metric.BLOCKED)
    elif old == _OFFLINE:
        metric = np.int64(Metric.OFFLINE)
    elif old == STATE_LOST:
        metric = np.int64(Metric.STATE_UNKNOWN if vcpus[vcpu, V.HOLE] else Metric.STATE_LOST)
    if old == STATE_INIT:
        vcpus[vcpu, V.FIRST_KNOWN] = tsc
        vcpus[vcpu, V.FIRST_STATE] = state
        domain = vcpus[vcpu, V.DOMAIN]
        if domains[domain, D.STATE] >= 0:
            domains[domain, D.PART_UNTIL] = max(tsc, glob[G.LAST_TSC])
    if since > 0 and metric >= 0:
        is_cut = state == STATE_LOST and old != STATE_LOST
        if tsc > since:
            if old != STATE_LOST and (is_cut or vcpus[vcpu, V.OPENED] > 0):
                _put_open(glob, out, metric, key, 0, tsc - since, tsc)
            else:
                _put(glob, out, metric, key, 0, tsc - since, tsc)
            if Metric.RUNNABLE_WAKE <= metric <= Metric.OFFLINE:
                vcpus[vcpu, V.OFF + metric - Metric.RUNNABLE_WAKE] += tsc - since
        elif tsc < since:
            _put(glob, out, Metric.NEGATIVE, key, metric, 0, tsc)
        if is_cut:
            _put_cut(glob, out, key, metric, 0, tsc)
    if state == _RUNNABLE:
        if old == _RUNNING and vcpus[vcpu, V.DEPLETED] > 0:
            vcpus[vcpu, V.REASON] = Metric.RUNNABLE_BUDGET
        elif old == _RUNNING:
            vcpus[vcpu, V.REASON] = Metric.RUNNABLE_PREEMPT
        elif old == _BLOCKED or old == _OFFLINE:
            vcpus[vcpu, V.REASON] = Metric.RUNNABLE_WAKE
        else:
            vcpus[vcpu, V.REASON] = Metric.RUNNABLE_OTHER
    if state == _OFFLINE and vcpus[vcpu, V.WAKE_TSC] > 0:
        vcpus[vcpu, V.PAUSED] = 1
    vcpus[vcpu, V.STATE] = state
    _note_losable(glob, vcpus, vcpu, old, state)
    vcpus[vcpu, V.OPENED] = 0
    # An interval that ends before it begins is skew: the next one starts at the later time.
    vcpus[vcpu, V.SINCE] = max(tsc, since)
    domain = vcpus[vcpu, V.DOMAIN]
    if old != state:
        if glob[G.DETAILED]:
            _put(glob, out, Detail.STATE, key, (old << 4) | state, 0, tsc)
        domains[domain, D.COUNTS + old] -= 1
        domains[domain, D.COUNTS + state] += 1
        is_change = old != STATE_INIT and old != STATE_LOST and state != STATE_LOST
        _update_domain(glob, domains, out, domain, is_change, tsc)


@part
def _doubt_state(glob, counts, vcpus, out, vcpu, tsc):
    """Count a contradiction; the time in the state that cannot be right becomes unknown time."""
    _count(glob, counts, vcpu, Metric.STATE_MISMATCH)
    since = vcpus[vcpu, V.SINCE]
    if since > 0 and tsc > since:
        _put(glob, out, Metric.STATE_UNKNOWN, vcpus[vcpu, V.KEY], 0, tsc - since, tsc)
    vcpus[vcpu, V.SINCE] = max(tsc, since)


@part
def _lose_vcpu(glob, vcpus, domains, out, vcpu, tsc):
    """Set a vCPU's state to unknown from ``tsc`` on, and cut off its open measurements."""
    key = vcpus[vcpu, V.KEY]
    resident = vcpus[vcpu, V.RESIDENT_SINCE]
    if resident > 0:
        if tsc > resident:
            _put_open(glob, out, Metric.RESIDENCE, key, vcpus[vcpu, V.PCPU], tsc - resident, tsc)
        _put_cut(glob, out, key, Metric.RESIDENCE, 0, tsc)
    if vcpus[vcpu, V.WAKE_TSC] > 0:
        _put_cut(glob, out, key, Metric.WAKE_TO_RUNNING, 0, tsc)
    if vcpus[vcpu, V.UPCALL] > 0:
        _put_cut(glob, out, key, Metric.UPCALL_MAX, 0, tsc)
    if vcpus[vcpu, V.EXIT_TSC] > 0:
        _cut_exit(glob, vcpus, out, vcpu, tsc)
    if vcpus[vcpu, V.INJECT_TSC] > 0:
        _put_cut(glob, out, key, Metric.INJECTION_TO_ENTRY, 0, tsc)
    if vcpus[vcpu, V.WINDOW_TSC] > 0 or vcpus[vcpu, V.WAITED_TSC] > 0:
        _put_cut(glob, out, key, Metric.INTR_WINDOW_WAIT, 0, tsc)
    _cut_hvm(glob, vcpus, out, vcpu, tsc)
    for timer in range(_TIMERS):
        if vcpus[vcpu, V.TICK_TSC + timer] > 0:
            _put_cut(glob, out, key, Metric.TICK, 0, tsc)
        vcpus[vcpu, V.TICK_TSC + timer] = 0
        vcpus[vcpu, V.TICK_PERIOD_NS + timer] = 0
    for column in range(V.RESIDENT_SINCE, V.TYPE):
        vcpus[vcpu, column] = 0
    vcpus[vcpu, V.SKEW_TSC] = 0
    vcpus[vcpu, V.PAUSED] = 0
    vcpus[vcpu, V.DEPLETED] = 0
    vcpus[vcpu, V.PASSED] = 0
    vcpus[vcpu, V.LEFT_PCPU] = -1
    _set_state(glob, vcpus, domains, out, vcpu, STATE_LOST, tsc)
    vcpus[vcpu, V.HOLE] = 0


@part
def _leave_pcpu(glob, pcpus, vcpus, out, pcpu, tsc):
    """End the run of the pCPU's current vCPU."""
    if glob[G.DETAILED]:
        _put_run(glob, pcpus, vcpus, out, pcpu, tsc)
    _account(glob, pcpus, out, pcpu, np.int64(PcpuTime.UNKNOWN), tsc)
    _set_current(glob, pcpus, vcpus, pcpu, -1)


@part
def _waits_since(glob, pcpus, vcpus, pcpu, vcpu, tsc):
    """Return since when the scheduler says that a vCPU has not run: 2 it left, 1 its state began, 0 unknown.

    Xen's record of the next vCPU has the time since it became runnable or, since 4.13, since it last ran: 32
    bits of ns.
    """
    noted = pcpus[pcpu, P.NEXT_TSC]
    # Where the clocks of two pCPUs differ, a short wait may be negative.
    if noted == 0 or glob[G.RATE_NS] == 0 or pcpus[pcpu, P.NEXT_WAIT_NS] >= _NS_NEGATIVE:
        return 0
    rate = glob[G.RATE_CYCLES] / glob[G.RATE_NS]
    waited = pcpus[pcpu, P.NEXT_WAIT_NS] * rate
    left = vcpus[vcpu, V.LEFT_TSC]
    if left > 0:
        turn = 4294967296.0 * rate
        turns = (noted - left - waited) / turn
        off = (tsc - left) / _PROOF_SHARE + _LEFT_DELAY_NS * rate
        if abs(turns - np.int64(turns + 0.5)) * turn <= off:
            return 2
        if noted - waited < left - off:
            return 0  # it was still running then, so the clocks of two pCPUs differ
    since = vcpus[vcpu, V.SINCE]
    off = (tsc - since) / _PROOF_SHARE + _RUNNABLE_DELAY_NS * rate
    before = since - (noted - waited)
    if abs(before) <= off or before >= _CLOCKS_NS * rate:
        return 1
    return 0


@part
def _settle_proof(glob, vcpus, out, vcpu, proof, tsc):
    """Say how much of the time since the vCPU last left a pCPU is not proven to be what it counts as."""
    for place in range(_OFF_METRICS):
        cycles = vcpus[vcpu, V.OFF + place]
        vcpus[vcpu, V.OFF + place] = 0
        if cycles > 0 and (proof == 0 or (proof == 1 and place >= _OFF_BLOCKED)):
            metric = Metric.RUNNABLE_WAKE + place
            _put(glob, out, Metric.UNPROVEN, vcpus[vcpu, V.KEY], metric, cycles, tsc)


@inlined_part
def _open_upcall(vcpus, vcpu, tsc):
    """Begin the upcall of a vCPU that blocked by its own call and goes on."""
    vcpus[vcpu, V.UPCALL] = 1
    vcpus[vcpu, V.UPCALL_LOW] = tsc
    vcpus[vcpu, V.UPCALL_HIGH] = 0
    vcpus[vcpu, V.UPCALL_TRAPS] = 0
    vcpus[vcpu, V.UPCALL_FORCED] = 0


@inlined_part
def _pass_events(glob, vcpus, vcpu):
    """Let a vCPU that begins to run take one upcall at most for all events that came while it did not run."""
    if vcpus[vcpu, V.LEFT_TSC] > 0:
        passed = glob[G.EVENTS] - vcpus[vcpu, V.KEPT] - 1
        if vcpus[vcpu, V.WAKE_TSC] > 0:
            vcpus[vcpu, V.PASSED] = passed
        else:
            vcpus[vcpu, V.PASSED] = max(passed, vcpus[vcpu, V.PASSED])


@part
def _enter_pcpu(glob, counts, pcpus, vcpus, domains, out, pcpu, vcpu, tsc, begins):
    """Start a run of ``vcpu`` on ``pcpu``; without ``begins``, no record shows when the run began."""
    key = vcpus[vcpu, V.KEY]
    current = pcpus[pcpu, P.CURRENT]
    if current >= 0 and current != vcpu:
        _leave_pcpu(glob, pcpus, vcpus, out, pcpu, tsc)
        if vcpus[current, V.STATE] == _RUNNING and vcpus[current, V.PCPU] == pcpu:
            _lose_vcpu(glob, vcpus, domains, out, current, tsc)
    old = vcpus[vcpu, V.STATE]
    left_pcpu = vcpus[vcpu, V.LEFT_PCPU]
    if old == _RUNNING:
        # It runs on two pCPUs: its deschedule elsewhere comes later in the stream, or was lost.
        _doubt_state(glob, counts, vcpus, out, vcpu, tsc)
        if vcpus[vcpu, V.PCPU] != pcpu:
            vcpus[vcpu, V.SKEW_TSC] = tsc
    elif vcpus[vcpu, V.LEFT_TSC] > 0 and left_pcpu >= 0 and left_pcpu != pcpu:
        _put(glob, out, Metric.HANDOFF, (left_pcpu << 16) | pcpu, 0, tsc - vcpus[vcpu, V.LEFT_TSC], tsc)
    if old != _RUNNING:
        _pass_events(glob, vcpus, vcpu)
    proof = np.int64(_waits_since(glob, pcpus, vcpus, pcpu, vcpu, tsc))
    wake = vcpus[vcpu, V.WAKE_TSC]
    if wake > 0:
        wake_pcpu = vcpus[vcpu, V.WAKE_PCPU]
        if old == _RUNNABLE and vcpus[vcpu, V.REASON] == Metric.RUNNABLE_WAKE:
            flags = np.int64(0)
            if wake_pcpu != pcpu:
                flags |= Woken.MOVED
            if vcpus[vcpu, V.PAUSED] > 0:
                flags |= Woken.PAUSED
            if proof == 0:
                flags |= Woken.UNPROVEN
            _put(glob, out, Metric.WAKE_TO_RUNNING, key, flags, tsc - wake, tsc)
            if glob[G.DETAILED]:
                who = (pcpu << 48) | (wake_pcpu << 32) | vcpus[vcpu, V.WAKER]
                _put(glob, out, Detail.WOKEN, key, who, tsc - wake, tsc)
            if wake_pcpu != pcpu:
                _put(glob, out, Metric.HANDOFF, (wake_pcpu << 16) | pcpu, 0, tsc - wake, tsc)
        vcpus[vcpu, V.WAKE_TSC] = 0
        vcpus[vcpu, V.PAUSED] = 0
    pcpus[pcpu, P.NEXT_TSC] = 0
    if vcpus[vcpu, V.PCPU] != pcpu or vcpus[vcpu, V.RESIDENT_SINCE] == 0:
        resident = vcpus[vcpu, V.RESIDENT_SINCE]
        if resident > 0 and tsc > resident:
            if vcpus[vcpu, V.RESIDENT_OPENED] > 0:
                _put_open(glob, out, Metric.RESIDENCE, key, vcpus[vcpu, V.PCPU], tsc - resident, tsc)
            else:
                _put(glob, out, Metric.RESIDENCE, key, vcpus[vcpu, V.PCPU], tsc - resident, tsc)
        vcpus[vcpu, V.RESIDENT_OPENED] = np.int64(resident == 0)
        vcpus[vcpu, V.RESIDENT_SINCE] = tsc
    vcpus[vcpu, V.PCPU] = pcpu
    vcpus[vcpu, V.RUN_TSC] = tsc
    vcpus[vcpu, V.DEPLETED] = 0
    vcpus[vcpu, V.FRESH] = 1
    if vcpus[vcpu, V.BLOCKED_BY_CALL] > 0 and old == _RUNNABLE:
        _open_upcall(vcpus, vcpu, tsc)
    vcpus[vcpu, V.BLOCKED_BY_CALL] = 0
    _set_state(glob, vcpus, domains, out, vcpu, _RUNNING, tsc)
    vcpus[vcpu, V.OPENED] = np.int64(not begins)
    _settle_proof(glob, vcpus, out, vcpu, proof, tsc)
    what = np.int64(PcpuTime.RUNNING)
    if key >> 16 == IDLE_DOMAIN:
        what = np.int64(PcpuTime.IDLE)
    _account(glob, pcpus, out, pcpu, what, tsc)
    _set_current(glob, pcpus, vcpus, pcpu, vcpu)
    pcpus[pcpu, P.INFERRED] = 0
    if current != vcpu:
        pcpus[pcpu, P.BEGUN] = np.int64(begins)
        if glob[G.DETAILED]:
            _put(glob, out, Detail.RUN_BEGIN, key, pcpu, np.int64(begins), tsc)


@part
def _close_exit(glob, vcpus, out, vcpu, tsc, entered):
    """End the handling of a VM exit, at the VM entry or when the vCPU leaves the pCPU."""
    exit_tsc = vcpus[vcpu, V.EXIT_TSC]
    key = vcpus[vcpu, V.KEY]
    if exit_tsc > 0:
        _put(glob, out, Metric.HVM_EXIT, key, vcpus[vcpu, V.EXIT_REASON], max(tsc - exit_tsc, 0), tsc)
        if glob[G.DETAILED]:
            _put(glob, out, Detail.EXIT, key, vcpus[vcpu, V.EXIT_RIP], vcpus[vcpu, V.EXIT_VECTOR] - 1, tsc)
        vcpus[vcpu, V.EXIT_TSC] = 0
        vcpus[vcpu, V.SPACE_XEN] = min(vcpus[vcpu, V.SPACE_XEN] + max(tsc - exit_tsc, 0), MOST_SUM)
    if entered:
        _end_handling(glob, vcpus, out, vcpu, tsc)
    if entered and vcpus[vcpu, V.INJECT_TSC] > 0:
        vector = vcpus[vcpu, V.INJECT_VECTOR]
        _take_ipi(glob, vcpus, out, vcpu, vector, tsc)
        _put(glob, out, Metric.INJECTION_TO_ENTRY, key, vector, tsc - vcpus[vcpu, V.INJECT_TSC], tsc)
        vcpus[vcpu, V.INJECT_TSC] = 0
        vcpus[vcpu, V.ENTRY_TSC] = tsc
        waited = vcpus[vcpu, V.WAITED_TSC]
        if waited > 0:
            _put(glob, out, Metric.INTR_WINDOW_WAIT, key, vector, tsc - waited, tsc)
            vcpus[vcpu, V.WAITED_TSC] = 0


@part
def _end_handling(glob, vcpus, out, vcpu, tsc):
    """Emit what the exit was for whose entry is at ``tsc``, also where the vCPU left the pCPU in between."""
    key = vcpus[vcpu, V.KEY]
    access = vcpus[vcpu, V.ACCESS]
    if access > 0:
        _put(glob, out, Metric.ACCESS, key, access, max(tsc - vcpus[vcpu, V.HANDLED_TSC], 0), tsc)
        vcpus[vcpu, V.ACCESS] = 0
    vcpus[vcpu, V.HANDLED_TSC] = 0
    following = vcpus[vcpu, V.SPACE_NEXT]
    if following > 0 and following == vcpus[vcpu, V.SPACE]:
        _put(glob, out, Metric.ADDRESS_SPACE_FLUSH, key, following - 1, 0, tsc)
    elif following > 0:
        _end_space(glob, vcpus, out, vcpu, tsc, True)
        vcpus[vcpu, V.SPACE] = following
        vcpus[vcpu, V.SPACE_TSC] = tsc
    vcpus[vcpu, V.SPACE_NEXT] = 0
    if key >> 16 != DEFAULT_DOMAIN:
        vcpus[vcpu, V.ENTERED_TSC] = tsc
    vcpus[vcpu, V.WAKING] = 0
    if vcpus[vcpu, V.WAKE_VECTOR] > 0 and vcpus[vcpu, V.WAKE_ENTRY] == 0:
        vcpus[vcpu, V.WAKE_ENTRY] = tsc


@part
def _end_space(glob, vcpus, out, vcpu, tsc, is_recorded):
    """Emit the time with a page table; without ``is_recorded``, no record shows its end."""
    key = vcpus[vcpu, V.KEY]
    frame = vcpus[vcpu, V.SPACE] - 1
    if frame >= 0:
        cycles = max(tsc - vcpus[vcpu, V.SPACE_TSC], 0)
        if is_recorded:
            _put(glob, out, Metric.ADDRESS_SPACE, key, frame, cycles, tsc)
        elif cycles > 0:
            _put_open(glob, out, Metric.ADDRESS_SPACE, key, frame, cycles, tsc)
        _put(glob, out, Metric.ADDRESS_SPACE_GUEST, key, frame, vcpus[vcpu, V.SPACE_GUEST], tsc)
        _put(glob, out, Metric.ADDRESS_SPACE_XEN, key, frame, vcpus[vcpu, V.SPACE_XEN], tsc)
    vcpus[vcpu, V.SPACE] = 0
    vcpus[vcpu, V.SPACE_GUEST] = 0
    vcpus[vcpu, V.SPACE_XEN] = 0


@part
def _take_ipi(glob, vcpus, out, vcpu, vector, tsc):
    """Emit the interrupt of a vCPU that an entry delivers, if one with this vector was sent."""
    for place in range(IPIS_MOST):
        sent = vcpus[vcpu, V.IPI_TSC + place]
        if sent > 0 and vcpus[vcpu, V.IPI + place] >> 32 == vector:
            what = vcpus[vcpu, V.IPI + place]
            if tsc >= sent:
                _put(glob, out, Metric.IPI_TO_ENTRY, vcpus[vcpu, V.KEY], what, tsc - sent, tsc)
            else:
                _put(glob, out, Metric.NEGATIVE, vcpus[vcpu, V.KEY], Metric.IPI_TO_ENTRY, 0, tsc)
            vcpus[vcpu, V.IPI_TSC + place] = 0


@part
def _drop_access(glob, vcpus, out, vcpu, tsc):
    """Give up the time of an access."""
    access = vcpus[vcpu, V.ACCESS]
    if access > 0:
        _put(glob, out, Metric.ACCESS_WITHOUT_TIME, vcpus[vcpu, V.KEY], access, 0, tsc)
        vcpus[vcpu, V.ACCESS] = 0


@part
def _cut_hvm(glob, vcpus, out, vcpu, tsc):
    """Give up what an HVM guest's vCPU has begun."""
    key = vcpus[vcpu, V.KEY]
    _drop_access(glob, vcpus, out, vcpu, tsc)
    if vcpus[vcpu, V.SPACE] > 0:
        _put_cut(glob, out, key, Metric.ADDRESS_SPACE, 0, tsc)
        _end_space(glob, vcpus, out, vcpu, tsc, False)
    if vcpus[vcpu, V.WAKE_ENTRY] > 0:
        _put_cut(glob, out, key, Metric.WAKE_TO_HALT, 0, tsc)
    for place in range(IPIS_MOST):
        if vcpus[vcpu, V.IPI_TSC + place] > 0:
            _put_cut(glob, out, key, Metric.IPI_TO_ENTRY, 0, tsc)
    for column in range(V.HVM, V.COLUMNS):
        vcpus[vcpu, column] = 0


@part
def _cut_exit(glob, vcpus, out, vcpu, tsc):
    """Give up an exit of which no record shows the end."""
    key = vcpus[vcpu, V.KEY]
    _put_cut(glob, out, key, Metric.HVM_EXIT, 0, tsc)
    _put(glob, out, Metric.EXIT_WITHOUT_TIME, key, vcpus[vcpu, V.EXIT_REASON], 0, tsc)
    vcpus[vcpu, V.EXIT_TSC] = 0


@part
def _settle_wakes(glob, pcpus, vcpus, out, pcpu, cause):
    """Emit the pCPU's pending wakes with ``cause``: no interrupt record explains them."""
    for i in range(pcpus[pcpu, P.PENDING]):
        vcpu = pcpus[pcpu, P.PENDING_VCPU + i]
        tsc = pcpus[pcpu, P.PENDING_TSC + i]
        _put(glob, out, Metric.WAKE_CAUSE, vcpus[vcpu, V.KEY], np.int64(cause) << 32, 0, tsc)
    pcpus[pcpu, P.PENDING] = 0


@part
def _note_unanswered(glob, pcpus, vcpus, out, pcpu, tsc):
    """Count an event_channel_op that woke no vCPU, by whether another guest's vCPU ran."""
    sender = pcpus[pcpu, P.CURRENT]
    if sender < 0:
        return
    metric = np.int64(Metric.SEND_NOBODY_RAN)
    own = np.int64(0) if pcpus[pcpu, P.LOST] else _runs_guest(pcpus, vcpus, pcpu)
    if glob[G.GUESTS] > own:
        metric = np.int64(Metric.SEND_OTHERS_RAN)
    _put(glob, out, metric, vcpus[sender, V.KEY], 0, 0, tsc)


@part
def _return_from_kernel(glob, counts, vcpus, out, vcpu, tsc):
    """Count a PV guest's iret by what it returns from: a trap, the upcall after a block, or unknown."""
    key = vcpus[vcpu, V.KEY]
    forced = vcpus[vcpu, V.FORCE_TSC]
    vcpus[vcpu, V.FORCE_TSC] = 0
    if vcpus[vcpu, V.TRAPS] > 0:
        vcpus[vcpu, V.TRAPS] -= 1
        _count(glob, counts, vcpu, Metric.IRET_TRAP)
        if vcpus[vcpu, V.SWITCHED] > 0:
            _count(glob, counts, vcpu, Metric.IRET_AMBIGUOUS)
        if vcpus[vcpu, V.TRAPS] == 0:
            vcpus[vcpu, V.SWITCHED] = 0
        return
    may_be_upcall = glob[G.EVENTS] > vcpus[vcpu, V.PASSED]
    if may_be_upcall:
        vcpus[vcpu, V.PASSED] += 1
    if vcpus[vcpu, V.UPCALL] > 0:
        vcpus[vcpu, V.UPCALL] = 0
        _count(glob, counts, vcpu, Metric.IRET_UPCALL)
        if vcpus[vcpu, V.UPCALL_FORCED] > 0:
            # The iret may be that of the upcall inside, which the callback began.
            _count(glob, counts, vcpu, Metric.UPCALL_FORCED)
        else:
            _put(glob, out, Metric.UPCALL_MAX, key, 0, tsc - vcpus[vcpu, V.UPCALL_LOW], tsc)
            _put(glob, out, Metric.UPCALL_MIN, key, 0, tsc - vcpus[vcpu, V.UPCALL_HIGH], tsc)
        if vcpus[vcpu, V.UPCALL_TRAPS] > 0:
            _count(glob, counts, vcpu, Metric.UPCALL_NESTED)
    else:
        _count(glob, counts, vcpu, Metric.IRET_OPEN)
        is_known = vcpus[vcpu, V.ONE_SHOT] > 0 and glob[G.PERIODIC] == 0 and glob[G.LOST_PCPUS] == 0
        if is_known and not may_be_upcall:
            _count(glob, counts, vcpu, Metric.IRET_NO_EVENT)
        if forced > 0:
            _put(glob, out, Metric.FORCED_CALLBACK, key, 0, tsc - forced, tsc)


@part
def _guest_acts(glob, counts, vcpus, out, vcpu, tsc):
    """Handle a record that shows that the PV guest itself runs."""
    if vcpus[vcpu, V.FRESH] > 0:
        vcpus[vcpu, V.FRESH] = 0
        if vcpus[vcpu, V.UPCALL] > 0 and vcpus[vcpu, V.UPCALL_HIGH] == 0:
            vcpus[vcpu, V.UPCALL_HIGH] = tsc
            _put(
                glob, out, Metric.RUNNING_TO_GUEST, vcpus[vcpu, V.KEY], 0,
                tsc - vcpus[vcpu, V.RUN_TSC], tsc,
            )  # fmt: skip
    if vcpus[vcpu, V.BLOCK_TSC] > 0:
        # It made a block hypercall, but runs again without a BLOCK record.
        _count(glob, counts, vcpu, Metric.BLOCK_WITHOUT_BLOCK)
    vcpus[vcpu, V.BLOCK_TSC] = 0
    vcpus[vcpu, V.BLOCKED_BY_CALL] = 0


@inlined_part
def _address(words, at, size):
    if size == 2:
        return np.int64(np.uint64(words[at]) | (np.uint64(words[at + 1]) << np.uint64(32)))
    return np.int64(words[at])


@part
def _note_pair(glob, pairs, nanoseconds, cycles, source):
    """Keep a pair for the TSC rate; when the table is full, every second pair is dropped."""
    if nanoseconds <= 0 or cycles <= 0:
        return
    if glob[G.PAIR_SKIP] > 0:
        glob[G.PAIR_SKIP] -= 1
        return
    glob[G.PAIR_SKIP] = glob[G.PAIR_STRIDE]
    count = glob[G.PAIRS]
    if count == len(pairs) - RUN_LENGTHS:
        for i in range(count // 2):
            for column in range(3):
                pairs[i, column] = pairs[2 * i, column]
        count //= 2
        glob[G.PAIR_STRIDE] = 2 * glob[G.PAIR_STRIDE] + 1
    pairs[count, 0] = nanoseconds
    pairs[count, 1] = cycles
    pairs[count, 2] = source
    glob[G.PAIRS] = count + 1


@part
def _end_chain(glob, pcpus, pairs, pcpu):
    _note_pair(glob, pairs, pcpus[pcpu, P.CHAIN_NS], pcpus[pcpu, P.CHAIN_CYCLES], 0)
    pcpus[pcpu, P.CHAIN_NS] = 0
    pcpus[pcpu, P.CHAIN_CYCLES] = 0


@part
def _exclude_skew(glob, vcpus, out, vcpu, pcpu, begin, end):
    """Emit the TSC differences at which a vCPU's stay on a pCPU would overlap its recent ones on others.

    A record of the vCPU that neither begins nor ends a run is a stay of length 0.  These ranges are only of
    use in a trace with skew, so they are collected only once a stay has proven it.
    """
    seen = vcpus[vcpu, V.RECENT]
    for age in range(RECENT_MAX):
        slot = (seen + age) % RECENT_MAX
        other = vcpus[vcpu, V.RECENT_PCPU + slot]
        other_begin = vcpus[vcpu, V.RECENT_BEGIN + slot]
        other_end = vcpus[vcpu, V.RECENT_END + slot]
        if other_end == 0 or other == pcpu or (begin == end and other_begin == other_end):
            continue
        ahead = (other << 16) | pcpu
        behind = (pcpu << 16) | other
        low = begin - other_end
        high = end - other_begin
        if low < 0 < high:
            glob[G.SKEWED] = 1
            _put(glob, out, Metric.SKEW_NOT_TO, ahead, 1, high, end)
            _put(glob, out, Metric.SKEW_NOT_TO, behind, 1, -low, end)
        elif glob[G.SKEWED] and low >= 0:
            _put(glob, out, Metric.SKEW_NOT_FROM, ahead, 0, low, end)
            _put(glob, out, Metric.SKEW_NOT_TO, ahead, 0, high, end)
        elif glob[G.SKEWED]:
            _put(glob, out, Metric.SKEW_NOT_FROM, behind, 0, -high, end)
            _put(glob, out, Metric.SKEW_NOT_TO, behind, 0, -low, end)
    slot = seen % RECENT_MAX
    vcpus[vcpu, V.RECENT_PCPU + slot] = pcpu
    vcpus[vcpu, V.RECENT_BEGIN + slot] = begin
    vcpus[vcpu, V.RECENT_END + slot] = end
    vcpus[vcpu, V.RECENT] = seen + 1


@part
def _note_stay(glob, pcpus, vcpus, out, pcpu, vcpu, old, new, tsc):
    """Track the runs on a pCPU from its own records only, whose order skew does not affect."""
    key = vcpus[vcpu, V.KEY]
    begin = tsc
    if old == _RUNNING or new == _RUNNING:
        is_same = pcpus[pcpu, P.STAY_KEY] == key
        if old == new and is_same:
            return
        begin = pcpus[pcpu, P.STAY_TSC] if is_same else np.int64(0)
        pcpus[pcpu, P.STAY_KEY] = key
        pcpus[pcpu, P.STAY_TSC] = tsc if old != _RUNNING else np.int64(0)
        if new == _RUNNING:
            return
    domain = key >> 16
    if domain == IDLE_DOMAIN or domain == DEFAULT_DOMAIN or vcpu == len(vcpus) - 1:
        return
    if begin > 0 and (begin < tsc or old != _RUNNING):
        _exclude_skew(glob, vcpus, out, vcpu, pcpu, begin, tsc)


@part
def _change_runstate(
    glob, counts, pcpus, vcpus, domains, out, vcpu_slots, domain_slots, pcpu, key, old, new, tsc
):
    vcpu = _vcpu_of(glob, vcpus, domains, vcpu_slots, domain_slots, key)
    _note_stay(glob, pcpus, vcpus, out, pcpu, vcpu, old, new, tsc)
    state = vcpus[vcpu, V.STATE]
    current = pcpus[pcpu, P.CURRENT]
    if state == STATE_INIT:
        if old != _RUNNING:
            _set_state(glob, vcpus, domains, out, vcpu, old, tsc)
        elif current < 0 or vcpus[current, V.KEY] >> 16 == DEFAULT_DOMAIN:
            # A run whose beginning was not seen began at the pCPU's first record or earlier.
            begin = pcpus[pcpu, P.FIRST_TSC] if current >= 0 else tsc
            _enter_pcpu(glob, counts, pcpus, vcpus, domains, out, pcpu, vcpu, begin, False)
            current = vcpu
        else:
            _count(glob, counts, vcpu, Metric.STATE_MISMATCH)
            return
        if new == old:
            return
        state = old
    if old == _RUNNING and new != _RUNNING and vcpus[vcpu, V.EXIT_TSC] > 0:
        _close_exit(glob, vcpus, out, vcpu, tsc, False)
    if state == STATE_LOST:
        if new == _RUNNING:
            _enter_pcpu(glob, counts, pcpus, vcpus, domains, out, pcpu, vcpu, tsc, old != _RUNNING)
        elif current == vcpu:
            _leave_pcpu(glob, pcpus, vcpus, out, pcpu, tsc)
        return
    if state == _RUNNING and old != _RUNNING and new != _RUNNING:
        # Only a "running to" record ends a run: this record comes late.
        _count(glob, counts, vcpu, Metric.STATE_MISMATCH)
        return
    if state != old and state != _RUNNING:
        _doubt_state(glob, counts, vcpus, out, vcpu, tsc)
    if new == _RUNNING:
        _enter_pcpu(glob, counts, pcpus, vcpus, domains, out, pcpu, vcpu, tsc, old != _RUNNING)
        return
    if old == _RUNNING and state == _RUNNING:
        if vcpus[vcpu, V.PCPU] != pcpu and vcpus[vcpu, V.SKEW_TSC] > 0:
            # The vCPU's next run came earlier in the stream than this deschedule.
            handoff = (pcpu << 16) | vcpus[vcpu, V.PCPU]
            _put(glob, out, Metric.HANDOFF, handoff, 0, vcpus[vcpu, V.SKEW_TSC] - tsc, tsc)
            vcpus[vcpu, V.SKEW_TSC] = 0
            return
        if current == vcpu:
            _leave_pcpu(glob, pcpus, vcpus, out, pcpu, tsc)
        else:
            _doubt_state(glob, counts, vcpus, out, vcpu, tsc)
        vcpus[vcpu, V.LEFT_TSC] = tsc
        vcpus[vcpu, V.LEFT_PCPU] = pcpu
        vcpus[vcpu, V.KEPT] = glob[G.EVENTS] - vcpus[vcpu, V.PASSED]
        vcpus[vcpu, V.SKEW_TSC] = 0
        if vcpus[vcpu, V.UPCALL] > 0:
            vcpus[vcpu, V.UPCALL] = 0
            _count(glob, counts, vcpu, Metric.UPCALL_PREEMPTED)
        vcpus[vcpu, V.FORCE_TSC] = 0
        if new == _BLOCKED and vcpus[vcpu, V.WAKE_ENTRY] > 0:
            vector = vcpus[vcpu, V.WAKE_VECTOR] - 1
            _put(glob, out, Metric.WAKE_TO_HALT, key, vector, max(tsc - vcpus[vcpu, V.WAKE_ENTRY], 0), tsc)
        if new == _BLOCKED:
            vcpus[vcpu, V.WAKE_VECTOR] = 0
            vcpus[vcpu, V.WAKE_ENTRY] = 0
        if new != _OFFLINE:
            vcpus[vcpu, V.WAKING] = 0
        if new == _BLOCKED:
            # The remaining traps belong to threads that sleep.
            vcpus[vcpu, V.TRAPS] = 0
            vcpus[vcpu, V.SWITCHED] = 0
        _set_state(glob, vcpus, domains, out, vcpu, new, tsc)
        if glob[G.LOST_PCPUS] > 0 and key >> 16 != IDLE_DOMAIN:
            # A pCPU in a gap of lost records may run it.
            _lose_vcpu(glob, vcpus, domains, out, vcpu, tsc)
            vcpus[vcpu, V.HOLE] = np.int64(glob[G.LOST_PCPUS] == glob[G.HOLE_PCPUS])
        return
    if old == _BLOCKED and new == _RUNNABLE:
        vcpus[vcpu, V.WAKING] = 1
    if old == _BLOCKED and new == _RUNNABLE and vcpus[vcpu, V.WAKE_TSC] > 0:
        _put(glob, out, Metric.WAKE_TO_RUNNABLE, key, 0, tsc - vcpus[vcpu, V.WAKE_TSC], tsc)
    _set_state(glob, vcpus, domains, out, vcpu, new, tsc)


@part
def _begin_loss(glob, pcpus, vcpus, domains, out, vcpu_slots, pcpu, first_tsc, is_hole):
    current = pcpus[pcpu, P.CURRENT]
    what = np.int64(PcpuTime.UNKNOWN if is_hole else PcpuTime.LOST)
    if glob[G.DETAILED]:
        _put_run(glob, pcpus, vcpus, out, pcpu, first_tsc)
    _account(glob, pcpus, out, pcpu, what, first_tsc)
    pcpus[pcpu, P.NEXT_TSC] = 0
    pcpus[pcpu, P.QUIET_MOST] = 0
    if current >= 0:
        _set_current(glob, pcpus, vcpus, pcpu, -1)
        if vcpus[current, V.KEY] >> 16 != DEFAULT_DOMAIN:
            _lose_vcpu(glob, vcpus, domains, out, current, first_tsc)
            vcpus[current, V.HOLE] = is_hole
    _settle_wakes(glob, pcpus, vcpus, out, pcpu, WakeCause.UNKNOWN)
    pcpus[pcpu, P.CAUSE] = 0
    pcpus[pcpu, P.IDLE_TSC] = 0
    pcpus[pcpu, P.CHAIN_TSC] = 0
    pcpus[pcpu, P.STAY_TSC] = 0
    if glob[G.FIRST_LOSS] == 0:
        glob[G.FIRST_LOSS] = first_tsc
    if not pcpus[pcpu, P.LOST]:
        glob[G.GUESTS] -= _runs_guest(pcpus, vcpus, pcpu)
        pcpus[pcpu, P.LOST] = 1
        pcpus[pcpu, P.LOST_FIRST] = first_tsc
        pcpus[pcpu, P.HOLE] = is_hole
        glob[G.LOST_PCPUS] += 1
        glob[G.HOLE_PCPUS] += is_hole
    # Any vCPU that does not run elsewhere may run here unseen.
    _lose_set(glob, vcpus, domains, out, np.int64(G.LOSABLE), first_tsc, is_hole)
    if not is_hole:
        _lose_set(glob, vcpus, domains, out, np.int64(G.LOSABLE_IDLE), first_tsc, is_hole)
        return
    # Each idle vCPU runs on its own pCPU only.
    own = np.int64(vcpu_slots[_slot_of(glob, vcpus, vcpu_slots, np.int64(IDLE_DOMAIN) << 16 | pcpu)])
    if own >= 0 and _is_losable(vcpus[own, V.STATE]):
        _lose_one(glob, vcpus, domains, out, own, first_tsc, is_hole)


@part
def _lose_set(glob, vcpus, domains, out, first, first_tsc, is_hole):
    """Set the state of the vCPUs of a set to unknown, in the order of their indices.

    A loss costs a look at each word of the set, however many vCPUs there are that are unknown already.
    """
    for word in range((glob[G.VCPUS] + SET_BITS - 1) // SET_BITS):
        left = glob[first + word]
        vcpu = np.int64(word) * SET_BITS
        while left != 0:
            if left & 1:
                _lose_one(glob, vcpus, domains, out, vcpu, first_tsc, is_hole)
            left >>= 1
            vcpu += 1


@inlined_part
def _lose_one(glob, vcpus, domains, out, vcpu, first_tsc, is_hole):
    tsc = first_tsc
    if is_hole:
        tsc = max(tsc, vcpus[vcpu, V.SINCE])  # a hole that is found late takes nothing back
    _lose_vcpu(glob, vcpus, domains, out, vcpu, tsc)
    vcpus[vcpu, V.HOLE] = is_hole


@part
def _end_loss(glob, counts, pcpus, vcpus, domains, out, vcpu_slots, domain_slots, pcpu):
    end = pcpus[pcpu, P.LOST_END]
    _account(glob, pcpus, out, pcpu, np.int64(PcpuTime.UNKNOWN), end)
    if not pcpus[pcpu, P.HOLE]:
        pcpus[pcpu, P.BLIND] += max(end - pcpus[pcpu, P.LOST_FIRST], 0)
    pcpus[pcpu, P.LOST] = 0
    glob[G.GUESTS] += _runs_guest(pcpus, vcpus, pcpu)
    glob[G.LOST_PCPUS] -= 1
    glob[G.HOLE_PCPUS] -= pcpus[pcpu, P.HOLE]
    pcpus[pcpu, P.HOLE] = 0
    vcpu = _vcpu_of(glob, vcpus, domains, vcpu_slots, domain_slots, pcpus[pcpu, P.LOST_VCPU])
    if vcpus[vcpu, V.KEY] >> 16 != DEFAULT_DOMAIN:
        _enter_pcpu(glob, counts, pcpus, vcpus, domains, out, pcpu, vcpu, end, False)
    pcpus[pcpu, P.INFERRED] = 1
    pcpus[pcpu, P.CAUSE] = WakeCause.UNKNOWN


# --- what each kind of record does to the machines -----------------------------------------


@part
def _meet_pcpu(glob, pcpus, vcpus, domains, vcpu_slots, domain_slots, pcpu, tsc):
    """Begin a pCPU's time at its first record with a TSC or the loss that this ends; what runs is unknown."""
    pcpus[pcpu, P.SEEN] = 1
    if pcpus[pcpu, P.FIRST_TSC] == 0:
        pcpus[pcpu, P.FIRST_TSC] = tsc
        pcpus[pcpu, P.ACCOUNT_SINCE] = tsc
    unknown = (np.int64(DEFAULT_DOMAIN) << 16) | pcpu
    placeholder = _vcpu_of(glob, vcpus, domains, vcpu_slots, domain_slots, unknown)
    if pcpus[pcpu, P.CURRENT] < 0:
        _set_current(glob, pcpus, vcpus, pcpu, placeholder)
    glob[G.PCPUS] = max(glob[G.PCPUS], pcpu + 1)
    if glob[G.FIRST_TSC] == 0 or tsc < glob[G.FIRST_TSC]:
        glob[G.FIRST_TSC] = tsc


@inlined_part
def _expect_wake(pcpus, pcpu, cause, op, tsc):
    """Remember that this record may wake a vCPU; the pCPU's next record shows whether it did."""
    pcpus[pcpu, P.CAUSE] = cause
    pcpus[pcpu, P.CAUSE_TSC] = tsc
    pcpus[pcpu, P.CAUSE_ARGUMENT] = op


@inlined_part
def _cause_of(glob, pcpus, vcpus, out, pcpu, kind, tsc):
    """Return the cause of a wake if this record is one, 0 where no cause is known.

    A send by the pCPU's previous record wakes its target at once or not at all.
    """
    cause = pcpus[pcpu, P.CAUSE]
    pcpus[pcpu, P.CAUSE] = 0
    is_loss = kind == Kind.LOST or kind == Kind.HOLE
    if (cause == WakeCause.EVENT_CHANNEL or cause == WakeCause.HYPERCALL) and not is_loss:
        if kind != Kind.WAKE or tsc - pcpus[pcpu, P.CAUSE_TSC] > WAKE_CYCLES_MOST:
            if cause == WakeCause.EVENT_CHANNEL:
                _note_unanswered(glob, pcpus, vcpus, out, pcpu, tsc)
            cause = np.int64(0)
    return cause


@inlined_part
def _current_key(pcpus, vcpus, pcpu):
    current = pcpus[pcpu, P.CURRENT]
    return vcpus[current, V.KEY] if current >= 0 else np.int64(_NOBODY)


@inlined_part
def _put_rip(glob, out, key, source, words, at, size, tsc):
    _put(glob, out, Metric.RIP, key | (source << 32), _address(words, at, size), 0, tsc)


@inlined_part
def _count_hypercall(glob, counts, out, vcpu, key, is_entry, op, tsc):
    """Count a hypercall or, with ``is_entry``, an entry of a multicall."""
    if glob[G.DETAILED]:
        _put(glob, out, Detail.HYPERCALL, key, (np.int64(is_entry) << 32) | op, 0, tsc)
    if op >= _DENSE_OPS:
        metric = np.int64(Metric.SUBCALL) if is_entry else np.int64(Metric.HYPERCALL)
        _put(glob, out, metric, key, op, 0, tsc)
    elif is_entry:
        counts[vcpu, C_SUBCALL + op] += glob[G.INSIDE]
    else:
        counts[vcpu, C_HYPERCALL + op] += glob[G.INSIDE]


@inlined_part
def _command_of(meaning, words, first):
    """Return a hypercall's first argument, -1 where its record has none by its two flag bits."""
    has_more = meaning[S_PARAM] & 1 and meaning[S_WORDS] > 1
    if has_more and (words[first] >> np.uint32(20)) & np.uint32(3):
        return np.int64(words[first + 1])
    return np.int64(-1)


@part
def _note_events(glob, vcpus, vcpu, op, command, is_entry):
    """Count a hypercall whose command is recorded as an event for any vCPU, unless it cannot set one pending.

    A timer is an event for the vCPU that sets it.
    """
    if is_entry:
        glob[G.SUBCALLS] = 1
    if op == _SET_TIMER_OP or (op == _VCPU_OP and command == _SET_SINGLESHOT_TIMER):
        vcpus[vcpu, V.PASSED] -= 1
        vcpus[vcpu, V.ARMED] = 1
        if op == _VCPU_OP:
            vcpus[vcpu, V.ONE_SHOT] = 1
    elif op == _VCPU_OP and command == _STOP_PERIODIC_TIMER:
        vcpus[vcpu, V.ONE_SHOT] = 1
    elif op == _VCPU_OP and command == _SET_PERIODIC_TIMER:
        glob[G.PERIODIC] = 1
    elif op == _MULTICALL:
        if glob[G.SUBCALLS] == 0:
            glob[G.EVENTS] += MULTICALL_EVENTS
    elif op == _SCHED_OP and 0 <= command < _DENSE_OPS and (_SILENT_SCHED_OPS >> command) & 1:
        pass
    elif op == _VCPU_OP and 0 <= command < _DENSE_OPS and (_SILENT_VCPU_OPS >> command) & 1:
        pass
    elif op >= _DENSE_OPS or not (_SILENT_OPS >> op) & 1:
        glob[G.EVENTS] += 1


@inlined_part
def _take_hypercall(glob, counts, pcpus, vcpus, out, pcpu, vcpu, key, kind, meaning, words, at, tsc):
    first = at + (meaning[S_PARAM] >> 8)
    op = np.int64(words[first]) & _OP_MASK
    _count_hypercall(glob, counts, out, vcpu, key, kind == Kind.SUBCALL, op, tsc)
    if meaning[S_PARAM] & 1 == 0:
        _put_rip(glob, out, key, RipSource.HYPERCALL, words, at, meaning[S_PARAM] >> 8, tsc)
    command = _command_of(meaning, words, first)
    if command >= 0 and (
        op == _SCHED_OP or op == _SCHED_OP_COMPAT or op == _VCPU_OP or op == _GRANT_TABLE_OP
    ):
        _put(glob, out, Metric.COMMAND, key, (op << 32) | command, 0, tsc)
    if op == _IRET:
        _return_from_kernel(glob, counts, vcpus, out, vcpu, tsc)
    elif meaning[S_PARAM] & 1:
        _note_events(glob, vcpus, vcpu, op, command, kind == Kind.SUBCALL)
    if op == _EVENT_CHANNEL_OP or op == _EVENT_CHANNEL_OP_COMPAT:
        _count(glob, counts, vcpu, Metric.SEND)
        _expect_wake(pcpus, pcpu, WakeCause.EVENT_CHANNEL, op, tsc)
    elif op == _XEN_VERSION:
        vcpus[vcpu, V.FORCE_TSC] = tsc
        vcpus[vcpu, V.UPCALL_FORCED] = 1
    elif op == _STACK_SWITCH:
        if vcpus[vcpu, V.TRAPS] > 0:
            vcpus[vcpu, V.SWITCHED] = 1
    elif op == _SCHED_OP or op == _SCHED_OP_COMPAT:
        if command == _SCHEDOP_BLOCK:
            _count(glob, counts, vcpu, Metric.BLOCK_CALL)
            vcpus[vcpu, V.BLOCK_TSC] = tsc
        elif op == _SCHED_OP_COMPAT and command < 0:
            # Its command is not recorded: a BLOCK record after it shows that it was a block, not a yield.
            vcpus[vcpu, V.BLOCK_TSC] = -tsc
        _expect_wake(pcpus, pcpu, WakeCause.HYPERCALL, op, tsc)
    elif op == _DOMCTL or (op == _VCPU_OP and command == _VCPUOP_UP):
        _expect_wake(pcpus, pcpu, WakeCause.HYPERCALL, op, tsc)


@inlined_part
def _take_pv_event(glob, counts, vcpus, out, vcpu, key, kind, meaning, words, at, tsc):
    """Handle a PV guest's trap, page fault or emulated instruction."""
    counts[vcpu, C_PV_EVENT + (meaning[S_EVENT] & (_DENSE_PV_EVENTS - 1))] += glob[G.INSIDE]
    param = meaning[S_PARAM]
    if kind == Kind.TRAP or kind == Kind.PAGE_FAULT:
        vcpus[vcpu, V.TRAPS] += 1
        vcpus[vcpu, V.UPCALL_TRAPS] += 1
    if kind == Kind.TRAP:
        _put(glob, out, Metric.TRAP, key, np.int64(words[at + param]) & 0x7FFF, 0, tsc)
        _put_rip(glob, out, key, RipSource.TRAP, words, at, param, tsc)
    elif kind == Kind.PAGE_FAULT:
        _put_rip(glob, out, key, RipSource.PAGE_FAULT, words, at, param, tsc)
    elif kind == Kind.PRIVOP:
        _put_rip(glob, out, key, RipSource.PRIVOP, words, at, param, tsc)
    elif kind == Kind.INVALID_OP:
        _put_rip(glob, out, key, RipSource.INVALID_OP, words, at, param, tsc)
    elif kind == Kind.PTWR:
        _put_rip(glob, out, key, RipSource.PTWR, words, at + (param >> 4), param & 15, tsc)


@inlined_part
def _take_pv(glob, counts, pcpus, vcpus, out, pcpu, kind, meaning, words, at, tsc):
    """Handle a record of a PV guest's entry into Xen."""
    if pcpus[pcpu, P.PENDING] > 0:
        _settle_wakes(glob, pcpus, vcpus, out, pcpu, WakeCause.TIMER_OR_OTHER)
    current = pcpus[pcpu, P.CURRENT]
    key = _current_key(pcpus, vcpus, pcpu)
    if current < 0 or key >> 16 == IDLE_DOMAIN:
        return
    if vcpus[current, V.TYPE] == VCPU_HVM and key >> 16 != DEFAULT_DOMAIN:
        return
    vcpus[current, V.TYPE] = VCPU_PV
    _guest_acts(glob, counts, vcpus, out, current, tsc)
    if kind == Kind.HYPERCALL or kind == Kind.SUBCALL:
        _take_hypercall(glob, counts, pcpus, vcpus, out, pcpu, current, key, kind, meaning, words, at, tsc)
    else:
        _take_pv_event(glob, counts, vcpus, out, current, key, kind, meaning, words, at, tsc)


@part
def _place_of(glob, pcpus, vcpus, domains, vcpu_slots, domain_slots, pcpu, key, old, new):
    """Return the pCPU that a runstate record is about; -1 where it is not known.

    With core scheduling (Xen 4.13) one pCPU writes the switches of all siblings of its core, in pairs: the
    vCPU that leaves, and the one that runs next on the same pCPU.  An idle vCPU has the number of its pCPU.
    """
    is_idle = key >> 16 == IDLE_DOMAIN
    number = key & 0xFFFF
    if is_idle and number != pcpu and (old == _RUNNING) != (new == _RUNNING):
        glob[G.CORE] = 1
    if glob[G.CORE] == 0 or (old != _RUNNING and new != _RUNNING):
        return pcpu
    pair = pcpus[pcpu, P.PAIR]
    pcpus[pcpu, P.PAIR] = 0
    place = np.int64(-1)
    if is_idle:
        place = number
    elif old == _RUNNING:
        vcpu = _vcpu_of(glob, vcpus, domains, vcpu_slots, domain_slots, key)
        if vcpus[vcpu, V.STATE] == _RUNNING:
            place = vcpus[vcpu, V.PCPU]
    elif pair > 0:
        place = pair - 1
    if place >= _UNSEEN_PCPUS and (place >= len(pcpus) or not pcpus[place, P.SEEN]):
        place = np.int64(-1)
    if old == _RUNNING and new != _RUNNING:
        pcpus[pcpu, P.PAIR] = place + 1
    return place


@part
def _change_unplaced(glob, counts, pcpus, vcpus, domains, out, vcpu_slots, domain_slots, key, old, new, tsc):
    """Handle a switch of a vCPU of which it is not known on which pCPU it is: only its state is known."""
    vcpu = _vcpu_of(glob, vcpus, domains, vcpu_slots, domain_slots, key)
    state = vcpus[vcpu, V.STATE]
    before = vcpus[vcpu, V.PCPU]
    if state == _RUNNING and before >= 0 and pcpus[before, P.CURRENT] == vcpu:
        _leave_pcpu(glob, pcpus, vcpus, out, before, tsc)
    if state != STATE_INIT and state != old:
        _doubt_state(glob, counts, vcpus, out, vcpu, tsc)
    if state == _RUNNING or new == _RUNNING:
        _lose_vcpu(glob, vcpus, domains, out, vcpu, tsc)
    if new == _RUNNING:
        vcpus[vcpu, V.PCPU] = -1
    _set_state(glob, vcpus, domains, out, vcpu, new, tsc)
    vcpus[vcpu, V.OPENED] = np.int64(new == _RUNNING and old == _RUNNING)


@inlined_part
def _take_runstate(
    glob, counts, pcpus, vcpus, domains, out, vcpu_slots, domain_slots, pcpu, kind, meaning, words, at, tsc
):
    """Handle a change of runstate, or a record that the vCPU continues to run."""
    word = np.int64(words[at])
    runner = ((word >> 16) & 0xFFFF) << 16 | (word & 0xFFFF)
    old = meaning[S_PARAM] >> 4
    new = meaning[S_PARAM] & 15
    if kind == Kind.CONTINUE:
        old = np.int64(_RUNNING)
        new = np.int64(_RUNNING)
        vcpu = _vcpu_of(glob, vcpus, domains, vcpu_slots, domain_slots, runner)
        _count(glob, counts, vcpu, Metric.CONTINUE_RUNNING)
        if vcpus[vcpu, V.STATE] == _RUNNING and vcpus[vcpu, V.PCPU] == pcpu:
            pcpus[pcpu, P.INFERRED] = 0
            if vcpus[vcpu, V.BLOCKED_BY_CALL] > 0:
                # It was woken before it left the pCPU: it takes its upcall now.
                vcpus[vcpu, V.BLOCKED_BY_CALL] = 0
                vcpus[vcpu, V.PASSED] = min(vcpus[vcpu, V.PASSED], glob[G.EVENTS] - 1)
                vcpus[vcpu, V.RUN_TSC] = tsc
                vcpus[vcpu, V.FRESH] = 1
                _open_upcall(vcpus, vcpu, tsc)
            return
    if new == _RUNNING and pcpus[pcpu, P.PENDING] > 0:
        _settle_wakes(glob, pcpus, vcpus, out, pcpu, WakeCause.TIMER_OR_OTHER)
    place = _place_of(glob, pcpus, vcpus, domains, vcpu_slots, domain_slots, pcpu, runner, old, new)
    if place < 0:
        _change_unplaced(
            glob, counts, pcpus, vcpus, domains, out, vcpu_slots, domain_slots, runner, old, new, tsc
        )
        return
    _change_runstate(
        glob, counts, pcpus, vcpus, domains, out, vcpu_slots, domain_slots, place, runner, old, new, tsc
    )


@inlined_part
def _take_wake(
    glob, counts, pcpus, vcpus, domains, out, vcpu_slots, domain_slots, pcpu, cause, words, at, tsc
):
    woken = (np.int64(words[at]) & 0xFFFF) << 16 | (np.int64(words[at + 1]) & 0xFFFF)
    vcpu = _vcpu_of(glob, vcpus, domains, vcpu_slots, domain_slots, woken)
    state = vcpus[vcpu, V.STATE]
    if state == _RUNNING or state == _RUNNABLE:
        _count(glob, counts, vcpu, Metric.WAKE_WITHOUT_EFFECT)
        return
    if state == _OFFLINE and vcpus[vcpu, V.WAKE_TSC] > 0:
        vcpus[vcpu, V.PAUSED] = 1  # the event woke it before, and it still has not run
    else:
        vcpus[vcpu, V.WAKE_TSC] = tsc
        vcpus[vcpu, V.WAKE_PCPU] = pcpu
        vcpus[vcpu, V.WAKER] = _current_key(pcpus, vcpus, pcpu)
        if glob[G.DETAILED]:
            _put(glob, out, Detail.WAKE, woken, (pcpu << 32) | vcpus[vcpu, V.WAKER], 0, tsc)
    key = _current_key(pcpus, vcpus, pcpu)
    if state == STATE_LOST:
        _put(glob, out, Metric.WAKE_CAUSE, woken, (WakeCause.UNKNOWN << 32) | MAY_BE_AWAKE, 0, tsc)
    elif key >> 16 == DEFAULT_DOMAIN or cause == WakeCause.UNKNOWN:
        _put(glob, out, Metric.WAKE_CAUSE, woken, WakeCause.UNKNOWN << 32, 0, tsc)
    elif cause == WakeCause.EVENT_CHANNEL:
        _put(glob, out, Metric.WAKE_CAUSE, woken, WakeCause.EVENT_CHANNEL << 32, 0, tsc)
        _put(glob, out, Metric.SEND_TO_WAKE, woken, key, tsc - pcpus[pcpu, P.CAUSE_TSC], tsc)
    elif cause == WakeCause.HYPERCALL:
        argument = pcpus[pcpu, P.CAUSE_ARGUMENT]
        _put(glob, out, Metric.WAKE_CAUSE, woken, (WakeCause.HYPERCALL << 32) | argument, 0, tsc)
    else:
        if pcpus[pcpu, P.PENDING] == PENDING_MAX:
            _settle_wakes(glob, pcpus, vcpus, out, pcpu, WakeCause.TIMER_OR_OTHER)
        i = pcpus[pcpu, P.PENDING]
        pcpus[pcpu, P.PENDING_VCPU + i] = vcpu
        pcpus[pcpu, P.PENDING_TSC + i] = tsc
        pcpus[pcpu, P.PENDING] = i + 1


@inlined_part
def _take_block(glob, counts, vcpus, domains, vcpu_slots, domain_slots, words, at):
    blocked = (np.int64(words[at]) & 0xFFFF) << 16 | (np.int64(words[at + 1]) & 0xFFFF)
    vcpu = _vcpu_of(glob, vcpus, domains, vcpu_slots, domain_slots, blocked)
    vcpus[vcpu, V.BLOCKED_BY_CALL] = np.int64(vcpus[vcpu, V.BLOCK_TSC] != 0)
    if vcpus[vcpu, V.BLOCK_TSC] != 0:
        # Xen blocks it only where no event is pending; its timer may still expire.
        vcpus[vcpu, V.PASSED] = glob[G.EVENTS] - vcpus[vcpu, V.ARMED]
    if vcpus[vcpu, V.BLOCK_TSC] < 0:
        _count(glob, counts, vcpu, Metric.BLOCK_CALL)
    vcpus[vcpu, V.BLOCK_TSC] = 0


@part
def _take_budget(glob, vcpus, domains, out, vcpu_slots, meaning, words, at, tsc):
    """Note that a vCPU has no budget left, or has one again; one without other records stays unknown."""
    key = np.int64(words[at])
    mask = len(vcpu_slots) - 1
    slot = ((key * glob[G.SECRET]) >> 32) & mask
    while vcpu_slots[slot] >= 0 and vcpus[vcpu_slots[slot], V.KEY] != key:
        slot = (slot + 1) & mask
    vcpu = np.int64(vcpu_slots[slot])
    if vcpu < 0:
        return
    if meaning[S_PARAM]:
        high = np.int64(words[at + 2])
        vcpus[vcpu, V.DEPLETED] = np.int64(high >> 31 != 0 or (high == 0 and words[at + 1] == 0))
        return
    vcpus[vcpu, V.DEPLETED] = 0
    if vcpus[vcpu, V.STATE] == _RUNNABLE and vcpus[vcpu, V.REASON] == Metric.RUNNABLE_BUDGET:
        # From here on it waits like any other that was preempted.
        _set_state(glob, vcpus, domains, out, vcpu, _RUNNABLE, tsc)
        vcpus[vcpu, V.REASON] = Metric.RUNNABLE_PREEMPT


@inlined_part
def _take_run_time(glob, pcpus, pairs, pcpu, last_word, words, at, tsc):
    """Add the previous vCPU's run time, in ns, to the pCPU's sum for the TSC rate (see probes/tsc_rate.py).

    One run ends where the next begins: run times on a pCPU add up to Xen's clock, and only the
    ends of the sum are off by the delay of a record.
    """
    domain = np.int64(words[at]) & 0xFFFF
    # Records of Xen before 4.5 do not have the vCPU.
    key = domain << 16 | (np.int64(words[at + 1]) & 0xFFFF) if last_word == 2 else np.int64(-1)
    before = pcpus[pcpu, P.CHAIN_TSC]
    key_before = pcpus[pcpu, P.CHAIN_KEY]
    cycles = tsc - before
    pcpus[pcpu, P.CHAIN_TSC] = tsc
    pcpus[pcpu, P.CHAIN_KEY] = key
    if before == 0 or cycles < 0 or cycles >= _CHAIN_BREAK_CYCLES:
        _end_chain(glob, pcpus, pairs, pcpu)
        return
    if key != key_before:
        pcpus[pcpu, P.CHAIN_KEYS] = 1
    elif pcpus[pcpu, P.CHAIN_KEYS] and key >= 0:
        return  # the end of another vCPU's run, in between, is missing
    if pcpus[pcpu, P.STAY_TSC] > before and pcpus[pcpu, P.STAY_KEY] >> 16 != domain:
        return  # the switch to this vCPU is missing; with core scheduling, another one of its domain is noted
    ran = np.int64(words[at + last_word])
    if ran >= _NS_NEGATIVE and cycles < _NEGATIVE_CYCLES:
        ran -= 1 << 32
    if cycles > 0:
        # A cycle count that the conversion to float could round up is left out above.
        length = len(pairs) - RUN_LENGTHS + (np.float64(cycles).view(np.int64) >> 52) - 1023
        pairs[length, 0] += ran
        pairs[length, 1] += cycles
    chain_ns = pcpus[pcpu, P.CHAIN_NS]
    if chain_ns >= _CHAIN_LEAST_NS:
        # A run that wrapped, or of which a part is missing, does not fit the sum so far.
        chain_cycles = np.float64(pcpus[pcpu, P.CHAIN_CYCLES])
        here = np.float64(cycles) * np.float64(chain_ns)
        there = np.float64(ran) * chain_cycles
        most = max(here, there, chain_cycles * np.float64(chain_ns))
        if abs(here - there) > _CHAIN_DIFFERENCE * most:
            _end_chain(glob, pcpus, pairs, pcpu)
            return
    pcpus[pcpu, P.CHAIN_NS] = chain_ns + ran
    pcpus[pcpu, P.CHAIN_CYCLES] += cycles
    if pcpus[pcpu, P.CHAIN_NS] >= _CHAIN_NS:
        _end_chain(glob, pcpus, pairs, pcpu)


@inlined_part
def _learn_rate(glob, pcpus, pcpu, ran, tsc):
    """Add a run of which both ends were recorded to the sums of run times.

    One that is shorter than that began later: the vCPU left the pCPU in between, without a record.
    """
    since = pcpus[pcpu, P.STAY_TSC]
    if not 0 < since < tsc or ran >= _NS_NEGATIVE:
        return
    known_ns = np.float64(glob[G.RATE_NS])
    if known_ns >= _SHORT_KNOWN_NS and glob[G.CORE] == 0:
        rate = glob[G.RATE_CYCLES] / known_ns
        lasted = (tsc - since) / rate
        off = _SHORT_NS + lasted * (_SHORT_SHARE + _SHORT_NS / known_ns)
        if lasted < _NS_NEGATIVE and lasted - ran > off:
            glob[G.SHORT_RUNS] += 1
            return
    if tsc - since < _LEARN_CYCLES:
        glob[G.RATE_NS] += ran
        glob[G.RATE_CYCLES] += tsc - since


@inlined_part
def _note_slice(glob, pcpus, pcpu, slice_ns):
    """Note for how long a pCPU can have no record while the next vCPU runs: the scheduler ends its slice."""
    pcpus[pcpu, P.QUIET_MOST] = 0
    known_ns = np.float64(glob[G.RATE_NS])
    if slice_ns < _SLICE_MOST_NS and known_ns >= _SHORT_KNOWN_NS:
        glob[G.SLICE_NS] = max(glob[G.SLICE_NS], slice_ns)
        quiet_ns = glob[G.SLICE_NS] * (1 + _SHORT_SHARE + _SHORT_NS / known_ns) + _SHORT_NS
        pcpus[pcpu, P.QUIET_MOST] = np.int64(quiet_ns * (glob[G.RATE_CYCLES] / known_ns))


@part
def _note_quiet(glob, pcpus, pcpu, cycles):
    """Note for how long a pCPU had no record while a vCPU with a slice ran."""
    glob[G.NEXT_QUIET] = min(max(glob[G.NEXT_QUIET], cycles), glob[G.QUIET])
    if cycles > glob[G.QUIET]:
        glob[G.NEXT_QUIET] = glob[G.QUIET]
        glob[G.QUIET] = cycles
        glob[G.OVERRUN] = np.int64(cycles > pcpus[pcpu, P.QUIET_MOST])


@inlined_part
def _is_hvm(pcpus, vcpus, pcpu):
    """Return whether the pCPU's current vCPU can be that of an HVM or PVH guest.

    Where it is not known what runs, that can be now a PV and now an HVM guest.
    """
    current = pcpus[pcpu, P.CURRENT]
    if current < 0:
        return False
    domain = vcpus[current, V.KEY] >> 16
    return domain == DEFAULT_DOMAIN or (vcpus[current, V.TYPE] != VCPU_PV and domain != IDLE_DOMAIN)


@inlined_part
def _take_vmexit(glob, pcpus, vcpus, out, pcpu, meaning, words, at, tsc):
    if pcpus[pcpu, P.PENDING] > 0:
        _settle_wakes(glob, pcpus, vcpus, out, pcpu, WakeCause.TIMER_OR_OTHER)
    vcpu = pcpus[pcpu, P.CURRENT]
    key = vcpus[vcpu, V.KEY]
    vcpus[vcpu, V.TYPE] = VCPU_HVM
    entry = vcpus[vcpu, V.ENTRY_TSC]
    if entry > 0:
        _put(glob, out, Metric.HVM_UPCALL, key, vcpus[vcpu, V.INJECT_VECTOR], tsc - entry, tsc)
        vcpus[vcpu, V.ENTRY_TSC] = 0
    if vcpus[vcpu, V.EXIT_TSC] > 0:
        _cut_exit(glob, vcpus, out, vcpu, tsc)
    _drop_access(glob, vcpus, out, vcpu, tsc)
    vcpus[vcpu, V.EXIT_REASON] = np.int64(words[at])
    vcpus[vcpu, V.EXIT_RIP] = _address(words, at + 1, meaning[S_PARAM])
    vcpus[vcpu, V.EXIT_VECTOR] = 0
    if vcpus[vcpu, V.ENTERED_TSC] > 0:
        cycles = max(tsc - vcpus[vcpu, V.ENTERED_TSC], 0)
        vcpus[vcpu, V.SPACE_GUEST] = min(vcpus[vcpu, V.SPACE_GUEST] + cycles, MOST_SUM)
        vcpus[vcpu, V.ENTERED_TSC] = 0
    if key >> 16 == DEFAULT_DOMAIN:
        # Whose exit it is, and so which entry ends it, is not known.
        _put(glob, out, Metric.EXIT_WITHOUT_TIME, key, vcpus[vcpu, V.EXIT_REASON], 0, tsc)
    else:
        vcpus[vcpu, V.EXIT_TSC] = tsc
        vcpus[vcpu, V.HANDLED_TSC] = tsc
    _put_rip(glob, out, key, RipSource.EXIT, words, at + 1, meaning[S_PARAM], tsc)


@inlined_part
def _take_injection(glob, vcpus, out, vcpu, vector, tsc):
    key = vcpus[vcpu, V.KEY]
    _put(glob, out, Metric.INJECTION, key, vector, 0, tsc)
    if vcpus[vcpu, V.WINDOW_TSC] > 0:
        vcpus[vcpu, V.WAITED_TSC] = vcpus[vcpu, V.WINDOW_TSC]
        vcpus[vcpu, V.WINDOW_TSC] = 0
    vcpus[vcpu, V.INJECT_TSC] = tsc
    vcpus[vcpu, V.INJECT_VECTOR] = vector
    if vcpus[vcpu, V.WAKING] > 0 and vcpus[vcpu, V.WAKE_VECTOR] == 0:
        vcpus[vcpu, V.WAKE_VECTOR] = 1 + vector


@inlined_part
def _take_vmmcall(glob, counts, pcpus, out, pcpu, vcpu, key, op, tsc):
    _put(glob, out, Metric.VMMCALL, key, op, 0, tsc)
    if op == _EVENT_CHANNEL_OP:
        _count(glob, counts, vcpu, Metric.SEND)
        _expect_wake(pcpus, pcpu, WakeCause.EVENT_CHANNEL, op, tsc)
    elif op == _SCHED_OP:
        _expect_wake(pcpus, pcpu, WakeCause.HYPERCALL, op, tsc)


@part
def _take_handled(glob, counts, vcpus, out, vcpu_slots, vcpu, meaning, words, at, tsc):
    """Handle a guest's access to what is emulated, or its write of cr3 or of its local APIC's ICR."""
    what = meaning[S_PARAM] >> 8
    size = meaning[S_PARAM] & 0xFF
    if what == CR_WRITE:
        if words[at] == np.uint32(3) and vcpus[vcpu, V.KEY] >> 16 != DEFAULT_DOMAIN:
            frame = _address(words, at + 1, size) >> 12 & ((np.int64(1) << 40) - 1)
            vcpus[vcpu, V.SPACE_NEXT] = 1 + min(frame, FRAME_MOST)
        return
    if what == MSR_WRITE:
        if words[at] == np.uint32(_ICR_MSR):
            target = np.int64(words[at + 2])
            _send_ipi(glob, counts, vcpus, vcpu_slots, vcpu, np.int64(words[at + 1]), target, True, tsc)
        return
    address = _address(words, at, size)
    if address < 0 or address > ADDRESS_MOST:
        address = np.int64(ADDRESS_MOST)
    _drop_access(glob, vcpus, out, vcpu, tsc)
    vcpus[vcpu, V.ACCESS] = (what << 56) | address
    if vcpus[vcpu, V.HANDLED_TSC] == 0:
        _drop_access(glob, vcpus, out, vcpu, tsc)
    if what == AccessKind.MEMORY_WRITE and address >> 12 == _APIC_PAGE and meaning[S_WORDS] > size:
        data = np.int64(words[at + size])
        if address & 0xFFF == _ICR_HIGH:
            vcpus[vcpu, V.ICR_TARGET] = 1 + (data >> 24)
        elif address & 0xFFF == _ICR_LOW:
            target = vcpus[vcpu, V.ICR_TARGET] - 1
            _send_ipi(glob, counts, vcpus, vcpu_slots, vcpu, data, target, False, tsc)


@part
def _send_ipi(glob, counts, vcpus, vcpu_slots, vcpu, low, target, is_x2apic, tsc):
    """Handle an interrupt that a vCPU sends to others of its domain.

    Args:
        low: lower half of the ICR.
        target: APIC id or logical destination; -1 where it is not known.
    """
    domain = vcpus[vcpu, V.KEY] >> 16
    own = vcpus[vcpu, V.KEY] & 0xFFFF
    shorthand = low >> 18 & 3
    if low >> 8 & 7 > _LOWEST_PRIORITY or domain == DEFAULT_DOMAIN:
        return
    what = (low & 0xFF) << 32 | vcpus[vcpu, V.KEY]
    everybody = np.int64(0xFF)
    if is_x2apic:
        everybody = np.int64(0xFFFF_FFFF)
    if shorthand == _TO_SELF:
        _expect_ipi(glob, counts, vcpus, vcpu_slots, domain << 16 | own, what, tsc)
    elif shorthand != 0 or target == everybody:
        for number in range(_HVM_VCPUS):
            if number != own or shorthand == _TO_ALL or shorthand == 0:
                _expect_ipi(glob, counts, vcpus, vcpu_slots, domain << 16 | number, what, tsc)
    elif target >= 0 and low >> 11 & 1 == 0 and target & 1 == 0 and target < 2 * _HVM_VCPUS:
        _expect_ipi(glob, counts, vcpus, vcpu_slots, domain << 16 | target >> 1, what, tsc)
    elif target >= 0 and low >> 11 & 1 and not is_x2apic:
        for number in range(_FLAT_VCPUS):
            if target >> number & 1:
                _expect_ipi(glob, counts, vcpus, vcpu_slots, domain << 16 | number, what, tsc)
    else:
        _count(glob, counts, vcpu, Metric.IPI_LEFT_OUT)


@part
def _expect_ipi(glob, counts, vcpus, vcpu_slots, key, what, tsc):
    """Note an interrupt that was sent to a vCPU, if it is known; with one of its vector it is one."""
    slot = _slot_of(glob, vcpus, vcpu_slots, key)
    if vcpu_slots[slot] < 0:
        return
    vcpu = np.int64(vcpu_slots[slot])
    if vcpus[vcpu, V.STATE] == STATE_LOST:
        return
    _count(glob, counts, vcpu, Metric.IPI_SENT)
    free = np.int64(-1)
    for place in range(IPIS_MOST):
        if vcpus[vcpu, V.IPI_TSC + place] == 0:
            free = np.int64(place)
        elif vcpus[vcpu, V.IPI + place] >> 32 == what >> 32:
            return
    if free < 0:
        _count(glob, counts, vcpu, Metric.IPI_LEFT_OUT)
    else:
        vcpus[vcpu, V.IPI_TSC + free] = tsc
        vcpus[vcpu, V.IPI + free] = what


@inlined_part
def _take_hvm(glob, counts, pcpus, vcpus, out, vcpu_slots, pcpu, kind, meaning, words, at, tsc):
    """Handle a record of Xen's work for an HVM or PVH guest between VM exit and entry, or the entry."""
    vcpu = pcpus[pcpu, P.CURRENT]
    key = vcpus[vcpu, V.KEY]
    vcpus[vcpu, V.TYPE] = VCPU_HVM
    if kind == Kind.VMENTRY:
        _close_exit(glob, vcpus, out, vcpu, tsc, True)
        return
    _put(glob, out, Metric.HVM_EVENT, key, meaning[S_EVENT], 0, tsc)
    if kind == Kind.INJ_VIRQ:
        _take_injection(glob, vcpus, out, vcpu, np.int64(words[at]), tsc)
    elif kind == Kind.INTR_WINDOW:
        waits = np.int64(words[at + 2] == np.uint32(_NO_VECTOR))
        _put(glob, out, Metric.INTR_WINDOW, key, waits, 0, tsc)
        if waits and vcpus[vcpu, V.WINDOW_TSC] == 0:
            vcpus[vcpu, V.WINDOW_TSC] = tsc
    elif kind == Kind.HVM_INTR:
        if meaning[S_WORDS] > 0:
            vcpus[vcpu, V.EXIT_VECTOR] = 1 + np.int64(words[at])
        if meaning[S_WORDS] > 0 and words[at] == np.uint32(_EVENT_CHECK_VECTOR):
            _count(glob, counts, vcpu, Metric.KICK)
    elif kind == Kind.VMMCALL:
        _take_vmmcall(glob, counts, pcpus, out, pcpu, vcpu, key, np.int64(words[at]), tsc)
    elif kind == Kind.HVM_OTHER and meaning[S_PARAM] > 0:
        _take_handled(glob, counts, vcpus, out, vcpu_slots, vcpu, meaning, words, at, tsc)


@inlined_part
def _take_timer(glob, pcpus, vcpus, out, pcpu, kind, meaning, words, at, tsc):
    """Handle a guest's setting or stopping of a periodic virtual timer, or a tick of it that Xen injects."""
    vcpu = pcpus[pcpu, P.CURRENT]
    key = vcpus[vcpu, V.KEY]
    vcpus[vcpu, V.TYPE] = VCPU_HVM
    if key >> 16 == DEFAULT_DOMAIN:
        return  # whose timer it is is not known
    param = meaning[S_PARAM]
    if kind == Kind.TIMER_SET:
        timer = param >> 16
        size = param & 0xFF
        period_ns = _address(words, at + (param >> 8 & 0xFF), size) if size > 0 else np.int64(0)
        if period_ns < 0 or period_ns > TICK_PERIOD_MASK:
            period_ns = np.int64(TICK_PERIOD_MASK)
        vcpus[vcpu, V.TICK_PERIOD_NS + timer] = period_ns
        vcpus[vcpu, V.TICK_TSC + timer] = 0
        return
    before = vcpus[vcpu, V.TICK_TSC + param]
    if tsc < before:
        _put(glob, out, Metric.NEGATIVE, key, Metric.TICK, 0, tsc)
    elif before > 0:
        b = (param << 48) | vcpus[vcpu, V.TICK_PERIOD_NS + param]
        _put(glob, out, Metric.TICK, key, b, tsc - before, tsc)
    vcpus[vcpu, V.TICK_TSC + param] = tsc


@part
def _take_irq(glob, pcpus, vcpus, out, pcpu, words, at, tsc):
    """Handle an interrupt that Xen has handled: it caused the pCPU's wakes in the meantime."""
    irq = np.int64(words[at])
    # The record has the low 32 bits of the TSC at entry and exit.
    own = tsc - pcpus[pcpu, P.OFFSET]
    begin = tsc - ((own - np.int64(words[at + 1])) & 0xFFFF_FFFF)
    end = begin + ((np.int64(words[at + 2]) - np.int64(words[at + 1])) & 0xFFFF_FFFF)
    _put(glob, out, Metric.IRQ_HANDLING, irq, pcpu, end - begin, tsc)
    kept = 0
    for i in range(pcpus[pcpu, P.PENDING]):
        vcpu = pcpus[pcpu, P.PENDING_VCPU + i]
        when = pcpus[pcpu, P.PENDING_TSC + i]
        woken = vcpus[vcpu, V.KEY]
        if begin <= when <= end:
            _put(glob, out, Metric.WAKE_CAUSE, woken, (WakeCause.IRQ << 32) | irq, 0, when)
            _put(glob, out, Metric.IRQ_TO_WAKE, woken, irq, when - begin, when)
        elif when < begin:
            cause_b = WakeCause.TIMER_OR_OTHER << 32
            _put(glob, out, Metric.WAKE_CAUSE, woken, cause_b, 0, when)
        else:
            pcpus[pcpu, P.PENDING_VCPU + kept] = vcpu
            pcpus[pcpu, P.PENDING_TSC + kept] = when
            kept += 1
    pcpus[pcpu, P.PENDING] = kept


@inlined_part
def _take_idle_exit(glob, pcpus, pairs, out, pcpu, words, at, tsc):
    if pcpus[pcpu, P.IDLE_TSC] > 0:
        cycles = tsc - pcpus[pcpu, P.IDLE_TSC]
        _put(glob, out, Metric.CSTATE, pcpu, np.int64(words[at]), cycles, tsc)
        ticks = (np.int64(words[at + 1]) - pcpus[pcpu, P.IDLE_TICK]) & 0xFFFF_FFFF
        _note_pair(glob, pairs, ticks, cycles, 1)
        pcpus[pcpu, P.IDLE_TSC] = 0


@inlined_part
def _loss_begin(glob, pcpus, pcpu, words, at, tsc):
    """Return when the loss began that a record at ``tsc`` ends."""
    first_tsc = _address(words, at + 2, 2)
    if 0 < first_tsc < glob[G.TSC_LIMIT]:
        first_tsc = max(first_tsc + pcpus[pcpu, P.OFFSET], 1)
    if 0 < first_tsc <= tsc:
        return first_tsc
    return tsc


@part
def _take_lost(glob, pcpus, vcpus, domains, out, vcpu_slots, pcpu, words, at, tsc):
    first_tsc = _loss_begin(glob, pcpus, pcpu, words, at, tsc)
    _put(glob, out, Metric.LOST_RECORDS, pcpu, 0, np.int64(words[at]), tsc)
    who = np.int64(words[at + 1])
    pcpus[pcpu, P.LOST_END] = tsc
    pcpus[pcpu, P.LOST_VCPU] = (who & 0xFFFF) << 16 | (who >> 16)
    _begin_loss(glob, pcpus, vcpus, domains, out, vcpu_slots, pcpu, first_tsc, 0)


@part
def _take_hole(glob, pcpus, vcpus, domains, out, vcpu_slots, pcpu, what, words, at, begin, tsc):
    """Handle a stretch of time of which the windows are missing: a loss without a record.

    It ends at ``tsc``, except where it begins there and nothing follows.
    """
    if what == HOLE_TO_END:
        begin = tsc
        glob[G.ENDED] = 1
    vcpu = (np.int64(DEFAULT_DOMAIN) << 16) | pcpu
    if what == HOLE_BY_KEY:
        vcpu = np.int64(words[at])
    elif what == HOLE_BY_UNIT:
        vcpu = (np.int64(words[at]) & 0xFFFF) << 16 | (np.int64(words[at + 1]) & 0xFFFF)
    pcpus[pcpu, P.LOST_END] = tsc
    pcpus[pcpu, P.LOST_VCPU] = vcpu
    _begin_loss(glob, pcpus, vcpus, domains, out, vcpu_slots, pcpu, begin, 1)


@part
def _settle_who(pcpus, vcpus, batch_pcpu, who, row):
    """Let a record that has been handled be of the vCPU that its pCPU runs after it, if that is known."""
    if row >= 0:
        current = pcpus[np.int64(batch_pcpu[row]), P.CURRENT]
        if current >= 0:
            who[row] = vcpus[current, V.KEY]


@loop
def run(
    batch_tsc: I64, batch_pcpu: U16, batch_shape: U16, batch_start: U32, words: U32, row: int,
    shapes: I64_2D,
    glob: I64, pcpus: I64_2D, vcpus: I64_2D, domains: I64_2D, vcpu_slots: I32, domain_slots: I32,
    counts: I64_2D, pairs: I64_2D, named: I64, out: I64_2D, who: I64,
) -> int:  # fmt: skip
    """Process a batch from ``row`` on, until it ends or ``out`` is nearly full.

    Args:
        shapes: a row per shape, columns S_*.
        named: a bit for each pCPU that a record names, 32 bits in each number.
        who: with G.DETAILED, gets the vCPU that its pCPU ran at each record; of a switch the next one.

    Returns:
        The row to continue with; ``glob[G.OUT]`` intervals are in ``out``.
    """
    tsc_limit = glob[G.TSC_LIMIT]
    from_tsc = glob[G.FROM_TSC]
    to_tsc = glob[G.TO_TSC]
    while row < len(batch_tsc):
        room = len(out) - glob[G.OUT] - OUT_MARGIN
        if room < 0:
            break
        meaning = shapes[batch_shape[row]]
        kind = meaning[S_KIND]
        tsc = batch_tsc[row]
        pcpu = np.int64(batch_pcpu[row])
        at = np.int64(batch_start[row])
        if tsc < 0 or tsc >= tsc_limit:
            kind = np.int64(Kind.COUNTED)  # its TSC is damaged
        is_loss = kind == Kind.LOST or kind == Kind.HOLE
        if is_loss and room < LOSS_MARGIN * (glob[G.LOSABLE_COUNT] + 1):
            break
        if glob[G.DETAILED]:
            _settle_who(pcpus, vcpus, batch_pcpu, who, row - 1)
            who[row] = _current_key(pcpus, vcpus, pcpu)
        row += 1
        if kind == Kind.COUNTED:
            continue
        if not pcpus[pcpu, P.SEEN] and kind == Kind.HOLE:
            continue
        if not pcpus[pcpu, P.SEEN] and tsc > 0:
            first_tsc = _loss_begin(glob, pcpus, pcpu, words, at, tsc) if kind == Kind.LOST else tsc
            _meet_pcpu(glob, pcpus, vcpus, domains, vcpu_slots, domain_slots, pcpu, first_tsc)
        glob[G.INSIDE] = np.int64(from_tsc <= tsc <= to_tsc)
        silence = tsc - glob[G.LAST_TSC]
        if (
            silence > glob[G.NEXT_SILENCE]
            and glob[G.LOST_PCPUS] == 0
            and glob[G.LAST_TSC] > 0
            and not is_loss
        ):
            glob[G.NEXT_SILENCE] = min(silence, glob[G.SILENCE])
            glob[G.SILENCE] = max(silence, glob[G.SILENCE])
        if pcpus[pcpu, P.LOST] and not is_loss:
            _end_loss(glob, counts, pcpus, vcpus, domains, out, vcpu_slots, domain_slots, pcpu)
        before = pcpus[pcpu, P.LAST_TSC]
        if tsc - before > glob[G.NEXT_QUIET] and pcpus[pcpu, P.QUIET_MOST] > 0 and not is_loss:
            _note_quiet(glob, pcpus, pcpu, tsc - before)
        if kind != Kind.HOLE:
            pcpus[pcpu, P.LAST_TSC] = max(tsc, before)
            glob[G.LAST_TSC] = max(tsc, glob[G.LAST_TSC])
        if kind == Kind.DELIVERY:
            continue  # what comes before and after it counts as neighbours, as without it
        cause = _cause_of(glob, pcpus, vcpus, out, pcpu, kind, tsc)

        if kind == Kind.OTHER:
            continue
        if Kind.HYPERCALL <= kind <= Kind.PV_OTHER:
            _take_pv(glob, counts, pcpus, vcpus, out, pcpu, kind, meaning, words, at, tsc)
        elif kind == Kind.RUNSTATE or kind == Kind.CONTINUE:
            _take_runstate(
                glob, counts, pcpus, vcpus, domains, out, vcpu_slots, domain_slots,
                pcpu, kind, meaning, words, at, tsc,
            )  # fmt: skip
        elif kind == Kind.WAKE:
            _take_wake(
                glob, counts, pcpus, vcpus, domains, out, vcpu_slots, domain_slots,
                pcpu, cause, words, at, tsc,
            )  # fmt: skip
        elif kind == Kind.BLOCK:
            _take_block(glob, counts, vcpus, domains, vcpu_slots, domain_slots, words, at)
        elif kind == Kind.INFPREV:
            _take_run_time(glob, pcpus, pairs, pcpu, meaning[S_PARAM], words, at, tsc)
            _learn_rate(glob, pcpus, pcpu, np.int64(words[at + meaning[S_PARAM]]), tsc)
        elif kind == Kind.INFNEXT:
            pcpus[pcpu, P.NEXT_TSC] = tsc
            pcpus[pcpu, P.NEXT_WAIT_NS] = np.int64(words[at + meaning[S_PARAM]])
            _note_slice(glob, pcpus, pcpu, np.int64(words[at + meaning[S_PARAM] + 1]))
        elif Kind.VMENTRY <= kind <= Kind.HVM_OTHER:
            glob[G.EVENTS] += np.int64(kind == Kind.VMEXIT)  # by a hypercall, or to what emulates devices
            if not _is_hvm(pcpus, vcpus, pcpu):
                continue
            if kind == Kind.VMEXIT:
                _take_vmexit(glob, pcpus, vcpus, out, pcpu, meaning, words, at, tsc)
            else:
                _take_hvm(
                    glob, counts, pcpus, vcpus, out, vcpu_slots, pcpu, kind, meaning, words, at, tsc
                )  # fmt: skip
        elif kind == Kind.TIMER_SET or kind == Kind.TICK:
            if _is_hvm(pcpus, vcpus, pcpu):
                _take_timer(glob, pcpus, vcpus, out, pcpu, kind, meaning, words, at, tsc)
        elif kind == Kind.NAMED:
            number = (np.int64(words[at + (meaning[S_PARAM] >> 8)]) >> (meaning[S_PARAM] & 31)) & 0xFFFF
            if number < MAX_PCPUS:
                named[number >> 5] |= np.int64(1) << (number & 31)
        elif kind == Kind.BUDGET:
            _take_budget(glob, vcpus, domains, out, vcpu_slots, meaning, words, at, tsc)
        elif kind == Kind.IRQ_HANDLED:
            glob[G.EVENTS] += 1
            _take_irq(glob, pcpus, vcpus, out, pcpu, words, at, tsc)
        elif kind == Kind.MEMORY:
            domain = np.int64(words[at + (meaning[S_PARAM] >> 16)]) & 0xFFFF
            key = _current_key(pcpus, vcpus, pcpu)
            _put(glob, out, Metric.MEMORY, key, (meaning[S_EVENT] << 32) | domain, 0, tsc)
        elif kind == Kind.IDLE_ENTRY:
            pcpus[pcpu, P.IDLE_TSC] = tsc
            pcpus[pcpu, P.IDLE_TICK] = np.int64(words[at + 1])
        elif kind == Kind.IDLE_EXIT:
            _take_idle_exit(glob, pcpus, pairs, out, pcpu, words, at, tsc)
        elif kind == Kind.LOST:
            _take_lost(glob, pcpus, vcpus, domains, out, vcpu_slots, pcpu, words, at, tsc)
        elif kind == Kind.HOLE:
            what = meaning[S_PARAM]
            _take_hole(glob, pcpus, vcpus, domains, out, vcpu_slots, pcpu, what, words, at, before, tsc)
    if glob[G.DETAILED]:
        _settle_who(pcpus, vcpus, batch_pcpu, who, row - 1)
    return row
