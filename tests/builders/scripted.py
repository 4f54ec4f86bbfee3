"""Write the trace of a host on which what runs, and when, is given.

Times are microseconds since the start.  Between the runs that are given, a pCPU idles.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field

from xtrace.probes.format import LOST_RECORDS, Runstate
from xtrace.probes.reader.writer import TraceWriter
from xtrace.probes.xen_abi import IDLE_DOMAIN

TSC_HZ = 2_000_000_000
START_TSC = 1 << 40
_RUNSTATE, _WAKE, _BLOCK, _SWITCH = 0x21001, 0x28004, 0x28006, 0x2800A
_HYPERCALL, _IRQ = 0x20100D, 0x802008
SEND, IRET, FORCE = 32, 23, 17
_SCHED_OP = 29 | 1 << 20
RUNNING, RUNNABLE, BLOCKED, OFFLINE = (
    Runstate.RUNNING,
    Runstate.RUNNABLE,
    Runstate.BLOCKED,
    Runstate.OFFLINE,
)


@dataclass(frozen=True, slots=True)
class Vcpu:
    domain: int
    number: int

    @property
    def packed(self) -> int:
        return self.domain << 16 | self.number


@dataclass(frozen=True, slots=True)
class _Run:
    pcpu: int
    vcpu: Vcpu
    begin: int
    end: int
    then: Runstate


@dataclass(slots=True)
class Script:
    """A host; records are written in the order of their times, then in the order in which they were given.

    Attributes:
        pcpus: number of pCPUs.
        end_us: when the trace ends.
    """

    pcpus: int
    end_us: float
    _runs: list[_Run] = field(default_factory=list)
    _records: list[tuple[int, int, int, int, tuple[int, ...]]] = field(default_factory=list)
    _woken: dict[tuple[Vcpu, int], tuple[int, int, Runstate]] = field(default_factory=dict)

    def run(
        self,
        pcpu: int,
        vcpu: Vcpu,
        begin_us: float,
        end_us: float,
        *,
        then: Runstate = BLOCKED,
        woken_us: float | None = None,
        waker: int = 0,
        was: Runstate = BLOCKED,
    ) -> None:
        """Let a vCPU run.

        Args:
            then: its state afterwards.
            woken_us: when it was woken for this; None where it was runnable already.
            waker: the pCPU that woke it.
            was: its state before that.
        """
        begin = cycles(begin_us)
        self._runs.append(_Run(pcpu, vcpu, begin, cycles(end_us), then))
        if woken_us is not None:
            self._woken[vcpu, begin] = (cycles(woken_us), waker, was)

    def record(self, pcpu: int, at_us: float, event: int, *words: int) -> None:
        self._put(pcpu, cycles(at_us), event, *words)

    def hypercall(self, pcpu: int, at_us: float, op: int) -> None:
        self.record(pcpu, at_us, _HYPERCALL, op)

    def block(self, pcpu: int, at_us: float, vcpu: Vcpu) -> None:
        """Let a vCPU call Xen to block; its run must end later."""
        self.record(pcpu, at_us, _HYPERCALL, _SCHED_OP, 1)
        self.record(pcpu, at_us, _BLOCK, vcpu.domain, vcpu.number)

    def burn(self, pcpu: int, at_us: float, vcpu: Vcpu, left_ns: int) -> None:
        """Let RTDS note what is left of a vCPU's budget."""
        self.record(pcpu, at_us, 0x22803, vcpu.packed, left_ns, 0, 1000, 0, 0)

    def replenish(self, pcpu: int, at_us: float, vcpu: Vcpu) -> None:
        self.record(pcpu, at_us, 0x22804, vcpu.packed, 0, 0, 0, 4_000_000, 0)

    def wake_paused(self, pcpu: int, at_us: float, vcpu: Vcpu) -> None:
        """Wake a vCPU that is blocked and may not run."""
        self.record(pcpu, at_us, _WAKE, vcpu.domain, vcpu.number)
        self.record(pcpu, at_us, _RUNSTATE | BLOCKED << 8 | OFFLINE << 4, vcpu.packed)

    def irq(self, pcpu: int, irq: int, at_us: float, for_us: float = 1) -> None:
        end = START_TSC + cycles(at_us)
        begin = end - round(for_us * TSC_HZ / 1e6)
        self.record(pcpu, at_us, _IRQ, irq, begin & 0xFFFF_FFFF, end & 0xFFFF_FFFF)

    def lose(self, pcpu: int, from_us: float, to_us: float, count: int, vcpu: Vcpu) -> None:
        first = START_TSC + cycles(from_us)
        self.record(pcpu, to_us, LOST_RECORDS, count, vcpu.packed, first & 0xFFFF_FFFF, first >> 32)

    def data(self) -> bytes:
        """Return the trace."""
        for (vcpu, _), (at, waker, was) in self._woken.items():
            self._put(waker, at, _WAKE, vcpu.domain, vcpu.number)
            self._change(waker, at + 1, vcpu, was, RUNNABLE)
        for pcpu in range(self.pcpus):
            idle = Vcpu(IDLE_DOMAIN, pcpu)
            self._change(pcpu, 0, idle, RUNNABLE, RUNNING)
            current = idle
            runs = sorted((run for run in self._runs if run.pcpu == pcpu), key=lambda run: run.begin)
            for number, run in enumerate(runs):
                following = runs[number + 1] if number + 1 < len(runs) else None
                if current == idle:
                    self._switch(pcpu, run.begin, idle, run.vcpu, RUNNABLE)
                current = run.vcpu
                follows = following is not None and following.begin <= run.end
                new = following.vcpu if following is not None and follows else idle
                self._switch(pcpu, run.end, run.vcpu, new, run.then)
                current = new
        self.record(0, self.end_us, _SWITCH, 0, 0, 0, 0)
        out = io.BytesIO()
        with TraceWriter(out, self.pcpus) as writer:
            for number, (at, _, pcpu, event, words) in enumerate(sorted(self._records)):
                writer.write(pcpu, START_TSC + at, event, words)
                if number % 1000 == 999:
                    writer.poll()
        return out.getvalue()

    def _switch(self, pcpu: int, at: int, old: Vcpu, new: Vcpu, then: Runstate) -> None:
        self._change(pcpu, at, old, RUNNING, then)
        self._change(pcpu, at, new, RUNNABLE, RUNNING)

    def _change(self, pcpu: int, at: int, vcpu: Vcpu, old: Runstate, new: Runstate) -> None:
        self._put(pcpu, at, _RUNSTATE | old << 8 | new << 4, vcpu.packed)

    def _put(self, pcpu: int, at: int, event: int, *words: int) -> None:
        self._records.append((at, len(self._records), pcpu, event, words))


def cycles(us: float) -> int:
    return round(us * TSC_HZ / 1e6)
