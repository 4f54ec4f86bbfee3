"""Define the metrics of the state machines and the layout of their state.

A metric has the keys ``a`` and ``b`` and either counts or has values in cycles.
``a`` is nearly always a vCPU, ``domain << 16 | vcpu``.
"""

from __future__ import annotations

from enum import IntEnum


class Metric(IntEnum):
    """Everything that the machines measure; the comments say what a, b and the value are."""

    # Runstates: a = vCPU, value = cycles in the state.
    RUNNING = 0
    RUNNABLE_WAKE = 1
    RUNNABLE_PREEMPT = 2
    RUNNABLE_OTHER = 3
    BLOCKED = 4
    OFFLINE = 5
    STATE_LOST = 6  # from lost records until the vCPU's state is known again
    # a = domain, b = DomainState.
    DOMAIN_STATE = 7
    RESIDENCE = 8  # a = vCPU, b = pCPU, value = cycles between two migrations
    PCPU_RUNNING = 9  # a = pCPU
    PCPU_IDLE = 10
    PCPU_LOST = 11
    CSTATE = 12  # a = pCPU, b = C-state
    # Delivery: a = the vCPU that gets the event.
    SEND_TO_WAKE = 13  # b = sending vCPU
    IRQ_TO_WAKE = 14  # b = irq
    WAKE_TO_RUNNABLE = 15
    WAKE_TO_RUNNING = 16  # b = flags of Woken
    RUNNING_TO_GUEST = 18  # upper bound of running to upcall entry, after a block
    # Upcalls: a = vCPU.
    UPCALL_MAX = 19  # running to iret
    UPCALL_MIN = 20  # first record of the guest to iret
    FORCED_CALLBACK = 21  # xen_version to the next iret, where that is an IRET_OPEN
    INJECTION_TO_ENTRY = 22  # b = vector
    INTR_WINDOW_WAIT = 23  # b = vector; exit before the window to the entry after the injection
    HVM_UPCALL = 24  # b = vector; entry after the injection to the next exit
    HVM_EXIT = 25  # b = exit reason; exit to entry
    IRQ_HANDLING = 26  # a = irq, b = pCPU
    HANDOFF = 27  # a = from pCPU << 16 | to pCPU of a move or a wake, value = TSC of the run less that before
    # a = pCPU << 16 | other pCPU: the other's TSC cannot be ahead by more than FROM and less than TO, because
    # a vCPU would have been on both at once; b = 1 where that excludes 0, and then there is no FROM.
    SKEW_NOT_FROM = 28
    SKEW_NOT_TO = 29
    # Time that no record explains: before a first record, between records that contradict each other, or
    # where windows are missing.
    STATE_UNKNOWN = 30  # a = vCPU
    DOMAIN_UNKNOWN = 31  # a = domain
    PCPU_UNKNOWN = 32  # a = pCPU
    # a = as in the metric in b (metric << 32 | its b); value = cycles of an interval of which one end was not
    # recorded, so it lasted at least this long.
    OPEN = 33
    # a = vCPU, b = metric: time counted there during which the vCPU may have run on a pCPU without records.
    UNPROVEN = 34
    # a = domain, value = cycles in which its state was taken from some of its vCPUs, because others had not
    # had a record.
    DOMAIN_PART = 35
    # Event delivery, of a Xen with records of it; a = target.
    EVENT_TO_UPCALL = 17  # b = channel kind << 32 | port; NOTIFY to UPCALL, or to the entry after an INJECT
    EVENT_FROM = 36  # the same time; b = what it came from, as in EVENT_SENT
    MARK_TO_UPCALL = 37  # b = flags of Waited; the first PENDING to the upcall
    UPCALL = 38  # b = flags of Returned; UPCALL to the iret with its frame
    MASKED_WAIT = 39  # b = flags of Waited; PENDING with the mask set to the upcall
    # a = vCPU, value = cycles: preempted because its budget was used up, until that was replenished (RTDS).
    RUNNABLE_BUDGET = 40
    # a = vCPU, b = VirtualTimer << 48 | its period in ns, 0 where that is not known; value = cycles from one
    # tick, as the guest gets it, to the next.
    TICK = 41
    # HVM guests: a = vCPU.
    # b = AccessKind << 56 | port, or guest-physical address; value = cycles from the exit to the next entry.
    ACCESS = 42
    # b = frame of the page table; value = cycles from the entry after cr3 got it to the entry after it got
    # another one, of these in the guest, and in Xen while it handled exits.
    ADDRESS_SPACE = 43
    ADDRESS_SPACE_GUEST = 44
    ADDRESS_SPACE_XEN = 45
    IPI_TO_ENTRY = (
        46  # a = target, b = vector << 32 | sender; the sender's exit to the entry after the injection
    )
    WAKE_TO_HALT = 47  # b = vector of the first interrupt after the wake; entry with it to the block
    # Counts: no value.
    CONTINUE_RUNNING = 48  # a = vCPU
    WAKE_CAUSE = 49  # a = woken vCPU, b = WakeCause << 32 | its argument
    WAKE_WITHOUT_EFFECT = 50  # a = vCPU
    HYPERCALL = 51  # a = vCPU, b = op
    SUBCALL = 52
    COMMAND = 53  # b = op << 32 | command
    TRAP = 54  # b = vector
    PV_EVENT = 55  # b = low 5 bits of the event id
    HVM_EVENT = 56  # b = event id
    VMMCALL = 57  # b = eax
    INJECTION = 58  # b = vector
    MEMORY = 59  # b = event id << 32 | domain of the pages
    RIP = 60  # a = vCPU | RipSource << 32, b = rip
    IRET_TRAP = 61  # a = vCPU: iret that returns from a trap
    IRET_UPCALL = 62  # iret that returns from the upcall after a block
    IRET_OPEN = 63  # iret from an upcall while running, or from a system call
    IRET_AMBIGUOUS = 64  # IRET_TRAP, but the guest switched stacks between the trap and the iret
    UPCALL_NESTED = 65  # upcall after a block, with a trap in it
    UPCALL_PREEMPTED = 66  # upcall after a block, left out because the vCPU was descheduled in it
    BLOCK_CALL = 67  # block hypercall
    BLOCK_WITHOUT_BLOCK = 68  # block hypercall that found an event pending
    SEND = 69  # a = vCPU: event_channel_op, of which only some send
    # a = sending vCPU: it woke none, and no other guest's vCPU ran, or one or more did.
    SEND_NOBODY_RAN = 70
    SEND_OTHERS_RAN = 71
    IRET_NO_EVENT = 72  # IRET_OPEN from a system call: no event can have been pending for an upcall
    IPI_SENT = 73  # a = target
    INTR_WINDOW = 74  # a = vCPU, b = 1 where an event waits for the window
    STATE_MISMATCH = 75  # a = vCPU: a runstate record that contradicts an earlier one
    CUT = 76  # a = vCPU, b = metric: an interval cut off by lost records or missing windows
    NEGATIVE = 77  # a = vCPU, b = metric: an interval left out because it ends before it begins
    LOST_RECORDS = 78  # a = pCPU, value = records
    EXIT_WITHOUT_TIME = 79  # a = vCPU, b = exit reason: an HVM exit of which no record shows the end
    IPI_LEFT_OUT = (
        80  # a = sender, or the target that has too many at a time: whom it reaches is not followed
    )
    KICK = 81  # a = vCPU: an HVM exit by the event-check interrupt
    UPCALL_FORCED = 82  # a = vCPU: upcall after a block, left out because of a forced callback in it
    # Event delivery, of a Xen with records of it (delivery_columns); a = target, b = kind << 32 | port.
    EVENT = 83  # NOTIFY
    EVENT_COALESCED = 84  # of these, those that found the port pending
    EVENT_PORT_MASKED = 85  # of these, those that made a masked port pending
    EVENT_SENT = 86  # b = what it came from: sending vCPU, or Source << 32 | NOBODY; value = 1 if coalesced
    EVENT_MARK = 87  # PENDING; b = flags of Mark
    UPCALL_ENTRY = 88  # UPCALL, or the entry after an INJECT; b = flags of Returned
    EVENT_WAKE = 89  # b = as in EVENT_SENT
    EVENT_TAKEN = 91  # the guest took it without a further upcall; value = cycles that it waited at most
    ACCESS_WITHOUT_TIME = (
        92  # a, b = as in ACCESS: another one of the same exit, or no record shows both ends
    )
    ADDRESS_SPACE_FLUSH = 93  # a, b = as in ADDRESS_SPACE: cr3 got what it had
    EVENTS_LEFT_OUT = 90  # b = 0 events, 1 waits, 2 upcalls that were more than are followed at a time


class Detail(IntEnum):
    """What the machines emit besides the metrics where single events are wanted; nothing counts it.

    So it can name two vCPUs, and each is one event, also where its metric is only counted.
    """

    RUN_BEGIN = 128  # a = vCPU, b = pCPU, value = 1 if a record shows it
    RUN = 129  # a = vCPU, b = pCPU << 1 | 1 if a record shows when it began, value = cycles
    STATE = 130  # a = vCPU, b = old state << 4 | new state; emitted where it changes
    WAKE = 131  # a = woken vCPU, b = waker's pCPU << 32 | the vCPU that ran there
    WOKEN = 132  # a = vCPU, b = its pCPU << 48 | as in WAKE, value = cycles from the wake to the run
    HYPERCALL = 133  # a = vCPU, b = 1 for an entry of a multicall << 32 | op
    EXIT = 134  # right after HVM_EXIT: a = vCPU, b = rip, value = vector of the host's interrupt, -1 for none


#: Metrics below this have values in cycles and a histogram.
FIRST_COUNT = Metric.CONTINUE_RUNNING


class VirtualTimer(IntEnum):
    """A periodic timer that Xen emulates and of which it records the ticks that it injects."""

    LAPIC = 0
    PIT = 1


class AccessKind(IntEnum):
    """How an HVM guest used what Xen, or a device model, emulates."""

    PORT_READ = 1
    PORT_WRITE = 2
    MEMORY_READ = 3
    MEMORY_WRITE = 4


#: Of Kind.HVM_OTHER, as AccessKind: writes of a control register, and of an MSR.
CR_WRITE, MSR_WRITE = 5, 6
#: Addresses from here on count as this one: processors have 52 bits.
ADDRESS_MOST = (1 << 56) - 1
#: Frames of page tables from here on, 16 TiB, count as this one.
FRAME_MOST = (1 << 32) - 1
#: Interrupts between vCPUs that are followed at a time for each target, one for each vector.
IPIS_MOST = 4

#: Periods from here on, more than three days, count as this one.
TICK_PERIOD_MASK = (1 << 48) - 1


class WakeCause(IntEnum):
    """What made Xen wake a vCPU."""

    EVENT_CHANNEL = 1  # no argument: the sender is in SEND_TO_WAKE
    HYPERCALL = 2  # argument: op
    IRQ = 3  # argument: irq
    TIMER_OR_OTHER = 4
    UNKNOWN = 5  # around lost records


#: Argument of WakeCause.UNKNOWN where the state of the woken vCPU is lost, so that it may have been awake.
MAY_BE_AWAKE = 1


class Woken(IntEnum):
    """What is known about a wake that ended in a run: flags."""

    MOVED = 1  # it ran on another pCPU than the waker's
    PAUSED = 2  # it was offline between the wake and the run
    UNPROVEN = 4  # the scheduler does not confirm that it did not run and stop again in between


class DomainState(IntEnum):
    """State of a domain, computed from the states of its vCPUs."""

    BLOCKED = 0
    PARTIAL_RUN = 1
    FULL_RUN = 2
    PARTIAL_CONTENTION = 3
    CONCURRENCY_HAZARD = 4
    FULL_CONTENTION = 5
    LOST = 6
    OFFLINE = 7  # all its vCPUs are


class RipSource(IntEnum):
    """What recorded a guest's instruction pointer: a kind of Xen record, or a sampler."""

    TRAP = 1
    PAGE_FAULT = 2
    PRIVOP = 3
    INVALID_OP = 4
    HYPERCALL = 5
    EXIT = 6
    PTWR = 7
    XENCTX = 8  # not a record: xenctx sampled it, which pauses the domain
    PERF_CLOCK = 9  # not a record: dom0's own software clock sampled dom0


#: Sources whose samples are not records of the trace.
UNRECORDED_RIPS = (RipSource.XENCTX, RipSource.PERF_CLOCK)


class Kind(IntEnum):
    """How the machines treat records of a shape."""

    OTHER = 0
    RUNSTATE = 1  # param = old << 4 | new
    CONTINUE = 2
    WAKE = 3
    BLOCK = 4
    INFPREV = 5  # param = word of the ns count: how long the previous vCPU ran
    HYPERCALL = 6  # param = word of the op << 8 | 1 where arguments follow
    SUBCALL = 7
    TRAP = 8  # param = words of the RIP
    PAGE_FAULT = 9  # param = words of the RIP
    PRIVOP = 10  # param = words of the RIP
    INVALID_OP = 11  # param = words of the RIP
    PTWR = 12  # param = word of the RIP << 4 | words of it
    PV_OTHER = 13
    VMENTRY = 14
    VMEXIT = 15  # param = words of the RIP
    INJ_VIRQ = 16
    INTR_WINDOW = 17
    HVM_INTR = 18
    VMMCALL = 19
    HLT = 20
    HVM_OTHER = 21  # param = AccessKind, CR_WRITE or MSR_WRITE << 8 | words of the address or value; 0 other
    IRQ_HANDLED = 22
    IDLE_ENTRY = 23
    IDLE_EXIT = 24
    MEMORY = 25  # param = word of the domain << 16 | mask
    LOST = 26
    COUNTED = 27  # only counted: unknown to the catalogue, filler, with a damaged TSC
    NAMED = 29  # param = word of a pCPU's number << 8 | its lowest bit
    INFNEXT = 28  # param = word of the ns count: how long the next vCPU has waited
    HOLE = 30  # param = one of HOLE_SHAPES: windows are missing before this
    BUDGET = 31  # param = 1 where a vCPU's budget is burnt, 0 where it is replenished
    DELIVERY = 32  # of event delivery: only shows that the pCPU is recorded then
    TIMER_SET = 33  # param = VirtualTimer << 16 | word of the period << 8 | words of it, 0 where it stops
    TICK = 34  # param = VirtualTimer


#: Runstates beyond Xen's four.
STATE_LOST = 4
STATE_INIT = 5
STATE_COUNT = 6


class P(IntEnum):
    """Columns of a pCPU's state."""

    SEEN = 0
    FIRST_TSC = 1
    LAST_TSC = 2
    CURRENT = 3  # vCPU index or -1
    LOST = 5  # 1 in a gap of lost records or missing windows
    LOST_FIRST = 6
    LOST_END = 7
    LOST_VCPU = 8  # domain << 16 | vcpu
    INFERRED = 9  # 1: CURRENT is known only from a LOST_RECORDS record
    CAUSE = 10  # WakeCause of a wake that is the pCPU's next record; 0: none known
    CAUSE_TSC = 11
    CAUSE_ARGUMENT = 12
    PENDING = 13  # number of wakes that wait for an interrupt record to explain them
    IDLE_TSC = 14
    IDLE_TICK = 19
    CHAIN_TSC = 15  # of the last run time in the sum
    CHAIN_NS = 16
    CHAIN_CYCLES = 17
    BLIND = 18  # cycles in gaps of lost records
    PENDING_VCPU = 20  # PENDING_MAX of them
    PENDING_TSC = 28
    STAY_KEY = 36  # vCPU that was seen to start running here
    STAY_TSC = 37  # when it did; 0: not seen
    ACCOUNT = 38  # what the pCPU's time counts as: a PcpuTime
    ACCOUNT_SINCE = 39
    NEXT_TSC = 40  # of the last record that says how long the next vCPU has waited; 0: none since its switch
    NEXT_WAIT_NS = 41
    # With core scheduling: 1 + the pCPU from which the last record took a vCPU; 0: none, or it is not known.
    PAIR = 42
    CHAIN_KEY = 43  # vCPU of the last run time: domain << 16 | vcpu
    CHAIN_KEYS = 44  # 1: run times of more than one vCPU were seen
    OFFSET = 45  # cycles that the reader added to the pCPU's TSCs
    HOLE = 46  # 1: the gap is of missing windows, not of records that Xen reports as lost
    QUIET_MOST = 47  # cycles after which the scheduler acts at the latest; 0: not known
    BEGUN = 48  # 1: a record shows when the current vCPU's run began
    COLUMNS = 49


class PcpuTime(IntEnum):
    """What a pCPU's time counts as."""

    UNKNOWN = 0
    RUNNING = 1
    IDLE = 2
    LOST = 3


PENDING_MAX = 8

#: How many recent stays on pCPUs are kept per vCPU; skew can be detected among these.
RECENT_MAX = 8

#: A hypercall wakes at once or not at all: a wake later than this, about half a millisecond, has
#: another cause, even if no record is in between.
WAKE_CYCLES_MOST = 1 << 20


class V(IntEnum):
    """Columns of a vCPU's state."""

    KEY = 0  # domain << 16 | vcpu
    DOMAIN = 1  # domain index
    STATE = 2
    SINCE = 3
    REASON = 4  # metric for the time in the runnable state
    PCPU = 5
    RESIDENT_SINCE = 6
    WAKE_TSC = 7
    WAKE_PCPU = 8
    LEFT_TSC = 9  # when it was last descheduled, on LEFT_PCPU
    LEFT_PCPU = 10
    RUN_TSC = 11
    FRESH = 12  # 1: no record of the guest yet in this run
    BLOCKED_BY_CALL = 13
    BLOCK_TSC = 14  # block hypercall without a BLOCK record yet; negative if it may have been a yield
    UPCALL = 15  # 1: in an upcall after a block
    UPCALL_LOW = 16  # it began at or after this TSC
    UPCALL_HIGH = 17  # and at or before this one; 0 not known yet
    UPCALL_TRAPS = 18
    TRAPS = 19  # traps without an iret yet
    SWITCHED = 20  # 1: the guest switched stacks while TRAPS was not 0
    FORCE_TSC = 21
    UPCALL_FORCED = 22  # 1: it forced a callback in the upcall
    WAITED_TSC = 23  # WINDOW_TSC of the interrupt that was injected last, until the VM entry; 0 none
    EXIT_TSC = 24
    EXIT_REASON = 25
    INJECT_TSC = 26  # 0 none
    INJECT_VECTOR = 27
    WINDOW_TSC = 28
    ENTRY_TSC = 29  # VM entry after an injection: an upcall runs
    TYPE = 30  # 0 unknown, 1 PV, 2 HVM
    FIRST_KNOWN = 31
    SKEW_TSC = 32  # when it began to run on PCPU while its deschedule elsewhere was not yet seen
    RECENT = 33  # number of stays seen
    RECENT_PCPU = 34  # ring of RECENT_MAX stays
    RECENT_BEGIN = 42
    RECENT_END = 50  # 0: none
    OPENED = 58  # 1: the beginning of the state since SINCE was not recorded
    PAUSED = 59  # 1: offline since WAKE_TSC
    FIRST_STATE = 60  # what its first record says that it was before
    OFF = 61  # cycles counted since it left a pCPU, by OFF_METRICS
    RESIDENT_OPENED = 66  # 1: it may have been resident there before RESIDENT_SINCE
    HOLE = 67  # 1: STATE_LOST because of missing windows, so the time is unknown
    DEPLETED = 68  # 1: its budget is used up, and not replenished
    PASSED = 69  # events (G.EVENTS) that cannot be pending any more for an upcall of its own
    KEPT = 70  # events that may have been pending when it last stopped
    ARMED = 71  # 1: it has set its timer, which may not have expired
    ONE_SHOT = 72  # 1: its ticks come from timers that it sets
    TICK_TSC = 73  # of each VirtualTimer's last tick; 0: none since it was set
    TICK_PERIOD_NS = 75  # of each; 0: not known
    WAKER = 77  # vCPU that ran where it was woken, at WAKE_TSC
    HVM = 78  # the first of what an HVM guest has begun; all are 0 for none
    HANDLED_TSC = 78  # its exit before the next entry, also where it left the pCPU in between
    ACCESS = 79  # in that exit, as in Metric.ACCESS
    ENTERED_TSC = 80  # its last entry, until the exit
    SPACE = 81  # 1 + frame of its page table
    SPACE_TSC = 82
    SPACE_GUEST = 83  # cycles in the guest, and in exits, since SPACE_TSC
    SPACE_XEN = 84
    SPACE_NEXT = 85  # 1 + frame that cr3 gets with the next entry
    ICR_TARGET = 86  # 1 + what it wrote into the upper half of its local APIC's ICR
    WAKING = 87  # 1: woken, and no entry since
    WAKE_VECTOR = 88  # 1 + vector of the first interrupt since
    WAKE_ENTRY = 89  # the entry with it
    IPI_TSC = 90  # of each of IPIS_MOST: the sender's exit
    IPI = 94  # vector << 32 | sender
    EXIT_RIP = 98  # of the exit at HANDLED_TSC
    EXIT_VECTOR = 99  # 1 + vector of the host's interrupt that caused it; 0 none, or not recorded
    COLUMNS = 100


#: The metrics of the times between two runs of a vCPU; the order is that of V.OFF.
OFF_METRICS = (
    Metric.RUNNABLE_WAKE,
    Metric.RUNNABLE_PREEMPT,
    Metric.RUNNABLE_OTHER,
    Metric.BLOCKED,
    Metric.OFFLINE,
)


class D(IntEnum):
    """Columns of a domain's state."""

    ID = 0
    COUNTS = 1  # vCPUs in each of STATE_COUNT states
    STATE = 8  # -1 none yet
    SINCE = 9
    OPENED = 10  # 1: the beginning of the state was not recorded
    FIRST_KNOWN = 11
    PART_UNTIL = 12  # TSC of the record that made the last vCPU known, where others were known before it
    COLUMNS = 13


#: Of sets of vCPUs: there are up to 32,768.
SET_BITS = 32
SET_WORDS = 1024


class G(IntEnum):
    """Global state."""

    OUT = 0  # intervals written to ``out``
    VCPUS = 1
    DOMAINS = 2
    LOST_PCPUS = 3  # in gaps of lost records or missing windows
    FIRST_TSC = 4
    LAST_TSC = 5
    PAIRS = 6
    PAIR_STRIDE = 7
    PAIR_SKIP = 8
    PCPUS = 9  # greatest pCPU seen + 1
    VCPU_OVERFLOW = 10
    TSC_LIMIT = 11  # a TSC at or above this is damage
    FROM_TSC = 12  # the window: what ends outside it is not counted
    TO_TSC = 13
    INSIDE = 14  # 1: the current record is in the window
    SKEWED = 15  # 1: a vCPU was seen on two pCPUs at once
    RATE_NS = 16  # sums of run times whose two ends were recorded: ns, and cycles
    RATE_CYCLES = 17
    FIRST_LOSS = 18  # beginning of the first loss of records
    CORE = 19  # 1: core scheduling, where a pCPU writes the switches of its siblings, too
    HOLE_PCPUS = 20  # those of LOST_PCPUS of which windows are missing
    SILENCE = 21  # the longest time without a record of any pCPU, outside losses, and the longest but that
    NEXT_SILENCE = 22
    ENDED = 23  # 1: a pCPU is not covered any more
    SHORT_RUNS = 24  # runs that the scheduler's record says to be shorter than their two ends are apart
    SLICE_NS = 25  # the longest that the scheduler let a vCPU run before it acted again
    QUIET = 26  # the longest time without a record of a pCPU that runs a vCPU with a slice
    NEXT_QUIET = 27  # the longest but that
    OVERRUN = 28  # 1: the first of these is longer than the scheduler allows
    EVENTS = 29  # EVENTS_UNKNOWN + records that may have set an event pending for any vCPU
    SUBCALLS = 30  # 1: the entries of multicalls are recorded
    PERIODIC = 31  # 1: a guest uses Xen's periodic timer
    SECRET = 32  # of the hash table of vCPUs
    GUESTS = 33  # pCPUs that run a guest's vCPU, outside losses
    DETAILED = 34  # 1: emit what Detail lists, too
    # The vCPUs that a loss makes unknown, because they neither run nor are unknown: their number, and a bit
    # of each by index, SET_BITS in a word.  Idle vCPUs have bits of their own.
    LOSABLE_COUNT = 35
    LOSABLE = 36
    LOSABLE_IDLE = 36 + SET_WORDS
    COLUMNS = 36 + 2 * SET_WORDS


#: G.EVENTS begins with this, so that of a vCPU of which nothing is known any number may be pending.
EVENTS_UNKNOWN = 1 << 40
#: As many events at most come from a multicall whose entries are not recorded.
MULTICALL_EVENTS = 1 << 20


VCPU_PV = 1
VCPU_HVM = 2

#: A sum of times that would be greater is this: some thousand years.  It is then at least so much.
MOST_SUM = 1 << 62
#: Intervals are rows {metric << METRIC_SHIFT | a, b, value, TSC of the end}.
METRIC_SHIFT = 48

#: Columns of what the machines know about a shape.
S_KIND, S_PARAM, S_EVENT, S_WORDS = range(4)
S_COLUMNS = 4

#: Columns of a vCPU's counters: hypercalls and multicall entries by op, PV records by the low bits of
#: their id, and the metrics that only count and have no key ``b``.
C_HYPERCALL = 0
C_SUBCALL = 64
C_PV_EVENT = 128
C_SINGLE = 160
C_COLUMNS = 200

#: Columns of a tally row.
T_KEY, T_B, T_COUNT, T_SUM, T_MIN, T_MAX, T_HISTOGRAM, T_KEPT = range(8)
T_COLUMNS = 8  # one cache line

#: Histograms: buckets per octave, and octaves.
SUB_BUCKETS = 64
OCTAVES = 58
