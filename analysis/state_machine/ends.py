"""What is open at the end of a trace, and the time before each state was known, as rows of intervals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from xtrace.analysis.state_machine.keys import domain_of, paired
from xtrace.analysis.state_machine.metrics import (
    METRIC_SHIFT,
    OFF_METRICS,
    STATE_INIT,
    STATE_LOST,
    D,
    Detail,
    Metric,
    P,
    PcpuTime,
    V,
    WakeCause,
)
from xtrace.probes.reader.batches import I64
from xtrace.probes.xen_abi import DEFAULT_DOMAIN

_RUNNABLE = 1
#: The metric of the time in a runstate, and of the time in it before a vCPU's first record.
_STATE_METRICS = {0: Metric.RUNNING, 2: Metric.BLOCKED, 3: Metric.OFFLINE}
_HEAD_METRICS = {_RUNNABLE: Metric.RUNNABLE_OTHER, 2: Metric.BLOCKED, 3: Metric.OFFLINE}
#: By PcpuTime.
_PCPU_METRICS = (Metric.PCPU_UNKNOWN, Metric.PCPU_RUNNING, Metric.PCPU_IDLE, Metric.PCPU_LOST)

#: metric << METRIC_SHIFT | a, b, value, TSC of the end.
Row = tuple[int, int, int, int]


class Ends(NamedTuple):
    """The first and the last TSC of a trace, and what else the ends of all vCPUs depend on.

    Attributes:
        all_recorded: TSC from which all pCPUs have records.
        first_loss: TSC of the first loss of records, or one after the last.
    """

    first: int
    last: int
    all_recorded: int
    first_loss: int

    def of_vcpu(self, vcpu: I64) -> Iterator[Row]:
        """Yield what is open of a vCPU, and its time before its first record; ``vcpu``: columns V."""
        key, state, since = int(vcpu[V.KEY]), int(vcpu[V.STATE]), int(vcpu[V.SINCE])
        if domain_of(key) == DEFAULT_DOMAIN:
            return
        yield from self._head(vcpu, key)
        for metric, cycles in zip(OFF_METRICS, vcpu[V.OFF : V.OFF + len(OFF_METRICS)].tolist(), strict=True):
            yield from _timed(Metric.UNPROVEN, key, metric, cycles, self.last)
        if state == STATE_LOST:
            metric = Metric.STATE_UNKNOWN if vcpu[V.HOLE] else Metric.STATE_LOST
            yield from _timed(metric, key, 0, self.last - since, self.last)
        elif state != STATE_INIT:
            metric = Metric(int(vcpu[V.REASON])) if state == _RUNNABLE else _STATE_METRICS[state]
            yield from self._open(metric, key, 0, since)
            if metric in OFF_METRICS:
                yield from _timed(Metric.UNPROVEN, key, metric, self.last - since, self.last)
        if vcpu[V.RESIDENT_SINCE] > 0:
            yield from self._open(Metric.RESIDENCE, key, int(vcpu[V.PCPU]), int(vcpu[V.RESIDENT_SINCE]))
        if vcpu[V.EXIT_TSC] > 0:
            yield _row(Metric.EXIT_WITHOUT_TIME, key, int(vcpu[V.EXIT_REASON]), 0, self.last)
        if vcpu[V.ACCESS] > 0:
            yield _row(Metric.ACCESS_WITHOUT_TIME, key, int(vcpu[V.ACCESS]), 0, self.last)
        if vcpu[V.SPACE] > 0:
            frame = int(vcpu[V.SPACE]) - 1
            yield from self._open(Metric.ADDRESS_SPACE, key, frame, int(vcpu[V.SPACE_TSC]))
            yield _row(Metric.ADDRESS_SPACE_GUEST, key, frame, int(vcpu[V.SPACE_GUEST]), self.last)
            yield _row(Metric.ADDRESS_SPACE_XEN, key, frame, int(vcpu[V.SPACE_XEN]), self.last)

    def _head(self, vcpu: I64, key: int) -> Iterator[Row]:
        known = begin = int(vcpu[V.FIRST_KNOWN]) or self.last
        if int(vcpu[V.FIRST_STATE]) in _HEAD_METRICS and known <= self.first_loss:
            # Once all pCPUs are recorded, the state is that before its first change.
            begin = min(max(self.all_recorded, self.first), known)
            metric = _HEAD_METRICS[int(vcpu[V.FIRST_STATE])]
            yield from _timed(Metric.OPEN, key, paired(metric, 0), known - begin, known)
            yield from _timed(Metric.UNPROVEN, key, metric, known - begin, known)
        yield from _timed(Metric.STATE_UNKNOWN, key, 0, begin - self.first, begin)

    def of_domain(self, domain: I64) -> Iterator[Row]:
        """Yield what is open of a domain, and its time before its first and its last vCPU; columns D."""
        number, state = int(domain[D.ID]), int(domain[D.STATE])
        if number == DEFAULT_DOMAIN:
            return
        known = int(domain[D.FIRST_KNOWN]) or self.last
        yield from _timed(Metric.DOMAIN_UNKNOWN, number, 0, known - self.first, known)
        if state >= 0:
            yield from self._open(Metric.DOMAIN_STATE, number, state, int(domain[D.SINCE]))
        until = int(domain[D.PART_UNTIL])
        yield from _timed(Metric.DOMAIN_PART, number, 0, until - known, until)

    def of_pcpu(self, number: int, pcpu: I64, keys: I64) -> Iterator[Row]:
        """Yield what is open of a pCPU, and its time before its first record.

        Args:
            pcpu: columns P.
            keys: of the vCPUs.
        """
        begin, since = int(pcpu[P.FIRST_TSC]), int(pcpu[P.ACCOUNT_SINCE])
        yield from _timed(Metric.PCPU_UNKNOWN, number, 0, begin - self.first, begin)
        yield from _timed(_PCPU_METRICS[int(pcpu[P.ACCOUNT])], number, 0, self.last - since, self.last)
        for i in range(int(pcpu[P.PENDING])):
            key = int(keys[int(pcpu[P.PENDING_VCPU + i])])
            yield _row(Metric.WAKE_CAUSE, key, paired(WakeCause.UNKNOWN, 0), 0, self.last)

    def of_run(self, number: int, pcpu: I64, keys: I64) -> Iterator[Row]:
        """Yield the run that is open on a pCPU, where single events are wanted; as of_pcpu()."""
        if int(pcpu[P.ACCOUNT]) in (PcpuTime.RUNNING, PcpuTime.IDLE):
            where = number << 1 | int(pcpu[P.BEGUN])
            yield from self._open(Detail.RUN, int(keys[pcpu[P.CURRENT]]), where, int(pcpu[P.ACCOUNT_SINCE]))

    def _open(self, metric: Metric | Detail, a: int, b: int, since: int) -> Iterator[Row]:
        yield from _timed(Metric.OPEN, a, paired(metric, b), self.last - since, self.last)


def _timed(metric: Metric, a: int, b: int, value: int, tsc: int) -> Iterator[Row]:
    if value > 0:
        yield _row(metric, a, b, value, tsc)


def _row(metric: Metric, a: int, b: int, value: int, tsc: int) -> Row:
    return int(metric) << METRIC_SHIFT | a, b, value, tsc
