"""Parse ``xenalyze --summary --report-pcpu`` into nested values.

Meaning of the figures (xenalyze.c of Xen 4.17):

* ``count``: intervals that ended; an interval of zero cycles counts only in ``exits``.  Means are
  cycles divided by the count, rounded down; seconds have two decimals.
* p5, p50, p95 of affinity and exits are plain order statistics: element count*p//100 of the sorted
  values.  Those of runstates, pCPUs and wake-to-halt are meant to be weighted by the values (half of
  the *cycles* are in shorter intervals), but the selection adds up the wrong weights: measured, p5
  is up to 23 times too large, p50 up to 4.7 times.  Do not compare them with an exact percentile.
* Volumes are bytes of records, without CPU_CHANGE and with LOST_RECORDS counted twice.
* ``hypercall`` includes sub-calls, in its count and in the numbers below it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from peer.xenalyze_run import XenalyzeError


@dataclass(frozen=True, slots=True)
class Cycles:
    """A row of cycles: number of intervals, their sum in seconds, mean and percentiles in cycles.

    ``seconds`` is None in affinity rows, ``percent`` (of the total time) only set in exit rows;
    the percentiles are None with ``--sample-size=0``.
    """

    count: int
    seconds: float | None
    mean: int
    p5: int | None = None
    p50: int | None = None
    p95: int | None = None
    percent: float | None = None


@dataclass(slots=True)
class Volume:
    """Bytes of records of one pCPU by class, and of some classes by kind."""

    classes: dict[str, int] = field(default_factory=dict)
    hvm: dict[str, int] = field(default_factory=dict)
    sched_verbose: int = 0


@dataclass(slots=True)
class ExitReason:
    """One VMEXIT reason: its row, the rows of its handlers, and the host vectors of external interrupts."""

    cycles: Cycles
    handlers: dict[str, Cycles] = field(default_factory=dict)
    vectors: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class GuestInterrupt:
    """Injections of one vector, and intervals by case (``wake to halt alone`` ...)."""

    count: int
    cases: dict[str, Cycles] = field(default_factory=dict)


@dataclass(slots=True)
class VcpuSummary:
    """One vCPU.

    Attributes:
        runstates: name to row.
        runnable: the runnable row split into wake, preempt and other.
        affinity: stays on one pCPU; affinity_pcpu: the same by the pCPU moved *to*.
        pv_events, hypercalls, traps: counts by name, hypercall number, trap number.
        exits, guest_interrupts: HVM, by reason and by vector.
    """

    runstates: dict[str, Cycles] = field(default_factory=dict)
    runnable: dict[str, Cycles] = field(default_factory=dict)
    affinity: Cycles | None = None
    affinity_pcpu: dict[int, Cycles] = field(default_factory=dict)
    pv_events: dict[str, int] = field(default_factory=dict)
    hypercalls: dict[int, int] = field(default_factory=dict)
    traps: dict[int, int] = field(default_factory=dict)
    exits: dict[str, ExitReason] = field(default_factory=dict)
    guest_interrupts: dict[int, GuestInterrupt] = field(default_factory=dict)


@dataclass(slots=True)
class DomainSummary:
    """One domain: runstates of the domain, grant and populate-on-demand counts, vCPUs by number."""

    runstates: dict[str, Cycles] = field(default_factory=dict)
    grants_done_by: dict[str, int] = field(default_factory=dict)
    grants_done_for: dict[str, int] = field(default_factory=dict)
    pod_populated: dict[int, int] = field(default_factory=dict)
    pod_reclaimed: dict[int, int] = field(default_factory=dict)
    pod_reclaim_contexts: dict[str, int] = field(default_factory=dict)
    vcpus: dict[int, VcpuSummary] = field(default_factory=dict)


@dataclass(slots=True)
class PcpuUse:
    """Utilisation of one pCPU; None for a state it was never in."""

    running: Cycles | None = None
    idle: Cycles | None = None
    lost: Cycles | None = None


@dataclass(slots=True)
class Summary:
    """A whole summary.

    Attributes:
        total_s: last TSC processed minus the first, in seconds at the given frequency.
        cpu_hz: the frequency as shown, e.g. "2.60 GHz".
        volumes, pcpus: by pCPU.
        domains: by domain id; 32767 is idle.
        default_domain: the placeholder vCPUs by pCPU, current before a pCPU's first scheduling record.
        active_pcpus: number of pCPUs that ran anything but idle.
        unparsed: lines that match no rule.
    """

    total_s: float = 0.0
    cpu_hz: str = ""
    volumes: dict[int, Volume] = field(default_factory=dict)
    domains: dict[int, DomainSummary] = field(default_factory=dict)
    default_domain: dict[int, VcpuSummary] = field(default_factory=dict)
    pcpus: dict[int, PcpuUse] = field(default_factory=dict)
    active_pcpus: int = 0
    unparsed: list[str] = field(default_factory=list)


_PERCENTILES = r"(?: \{ *(?P<p5>-?\d+)\| *(?P<p50>-?\d+)\| *(?P<p95>-?\d+)\})?"
_TIMES = re.compile(rf"(?P<name>.+?): +(?P<count>\d+) +(?P<seconds>-?[\d.]+)s +(?P<mean>-?\d+){_PERCENTILES}")
_STAY = re.compile(rf" (?:cpu affinity|  \[(?P<pcpu>\d+)\]): +(?P<count>\d+) +(?P<mean>-?\d+){_PERCENTILES}")
_EXIT = re.compile(
    r"(?P<indent> +)(?P<name>.*?\S) +(?P<count>\d+) +(?P<seconds>-?[\d.]+)s +(?P<percent>-?[\d.a-z]+)% +"
    rf"(?P<mean>-?\d+) cyc{_PERCENTILES}"
)
_VOLUME = re.compile(r" (?P<sub>\+-)?(?P<name>\w+) *: +(?P<bytes>\d+)")
_COUNT = re.compile(r" +(?:\* )?\[?(?P<name>[^\]:]+?)\]? *:? +(?P<count>\d+)")
_HYPERCALL = re.compile(r"    \S+ *\[ *(?P<number>\d+)\]: +(?P<count>\d+)")
_TRAP = re.compile(r"    \[(?P<number>\d+)\] (?P<count>\d+)")
_PV_EVENT = re.compile(r"  (?P<name>\S.*?)  (?P<count>\d+)")
_VECTOR = re.compile(r" +(?:\S+)?[\[(] *(?P<vector>\d+)[\])]: (?P<count>\d+)")
_INTERRUPT = re.compile(r"  \[ *(?P<vector>\d+)\+?\] (?P<count>\d+)")

_RUNNABLE = ("wake", "preempt", "other")


def parse_summary(text: str) -> Summary:
    """Parse the output of ``--summary``; lines that match no rule go to ``unparsed``.

    Raises:
        XenalyzeError: it does not start like a summary.
    """
    lines = text.splitlines()
    head = re.match(r"Total time: ([\d.]+) seconds \(using cpu speed (.*)\)", lines[0] if lines else "")
    if head is None:
        raise XenalyzeError("not a summary", text.encode())
    summary = Summary(total_s=float(head[1]), cpu_hz=head[2])
    reader = _Reader(summary)
    for line in lines[1:]:
        if not (reader.heading(line) or reader.row(line)):
            summary.unparsed.append(line)
    return summary


class _Reader:
    """The current place in a summary, which determines the meaning of a row."""

    def __init__(self, summary: Summary) -> None:
        self.summary = summary
        self.section = ""
        self.volume = Volume()
        self.domain = DomainSummary()
        self.vcpu: VcpuSummary | None = None
        self.in_default_domain = False
        self.exit: ExitReason | None = None
        self.interrupt: GuestInterrupt | None = None
        self.pcpu = PcpuUse()

    def heading(self, line: str) -> bool:
        """Process a line that opens a section; return whether it was one."""
        if match := re.fullmatch(r" - cpu (\d+) -", line):
            self.volume = self.summary.volumes.setdefault(int(match[1]), Volume())
            self.section = "volume"
        elif match := re.fullmatch(r"\|-- (Default domain|Domain (\d+)) --\|", line):
            self.in_default_domain = match[2] is None
            self.domain = DomainSummary()
            if match[2] is not None:
                self.summary.domains[int(match[2])] = self.domain
            self.vcpu = None
            self.section = "domain"
        elif match := re.fullmatch(r"-- v(\d+) --", line):
            self.vcpu = VcpuSummary()
            vcpus = self.summary.default_domain if self.in_default_domain else self.domain.vcpus
            vcpus[int(match[1])] = self.vcpu
            self.section = "vcpu"
        elif match := re.fullmatch(r"pcpu (\d+)", line):
            self.pcpu = self.summary.pcpus.setdefault(int(match[1]), PcpuUse())
            self.section = "pcpu"
        elif match := re.fullmatch(r"Total active cpus: (\d+)", line):
            self.summary.active_pcpus = int(match[1])
        elif line.strip(" :-") in _HEADINGS:
            self.section = _HEADINGS[line.strip(" :-")]
        else:
            return False
        return True

    def row(self, line: str) -> bool:
        """Process a row of the current section; return whether it was one."""
        section = self.section
        if section == "volume":
            return self._volume(line)
        if section == "pcpu":
            return self._pcpu(line)
        if section == "runstates":
            return self._runstate(line)
        if section == "emulate":
            return True
        if section in _COUNTERS and self.vcpu is None:
            return self._counter(line)
        if self.vcpu is None:
            return False
        if section == "pv":
            return _pv(self.vcpu, line)
        if section == "exits":
            return self._exit(self.vcpu, line)
        return section == "interrupts" and self._interrupt(self.vcpu, line)

    def _volume(self, line: str) -> bool:
        match = _VOLUME.fullmatch(line)
        if match is None:
            return False
        size = int(match["bytes"])
        if match["sub"] is None:
            self.volume.classes[match["name"]] = size
        elif match["name"] == "verbose":
            self.volume.sched_verbose = size
        else:
            self.volume.hvm[match["name"]] = size
        return True

    def _pcpu(self, line: str) -> bool:
        match = _TIMES.fullmatch(line)
        state = match["name"].strip() if match else ""
        if match is None or state not in ("running", "idle", "lost"):
            return False
        setattr(self.pcpu, state, _cycles(match))
        return True

    def _runstate(self, line: str) -> bool:
        if self.vcpu is not None and (match := _STAY.fullmatch(line)):
            if match["pcpu"] is None:
                self.vcpu.affinity = _cycles(match)
            else:
                self.vcpu.affinity_pcpu[int(match["pcpu"])] = _cycles(match)
            return True
        match = _TIMES.fullmatch(line)
        if match is None:
            return False
        name = match["name"].strip()
        if self.vcpu is None:
            self.domain.runstates[name] = _cycles(match)
        elif name in _RUNNABLE:
            self.vcpu.runnable[name] = _cycles(match)
        else:
            self.vcpu.runstates[name] = _cycles(match)
        return True

    def _counter(self, line: str) -> bool:
        match = _COUNT.fullmatch(line)
        if match is None:
            return False
        count = int(match["count"])
        if self.section == "done by":
            self.domain.grants_done_by[match["name"]] = count
        elif self.section == "done for":
            self.domain.grants_done_for[match["name"]] = count
        elif self.section == "populated":
            self.domain.pod_populated[int(match["name"])] = count
        elif self.section == "reclaim order":
            self.domain.pod_reclaimed[int(match["name"])] = count
        elif not match["name"].isdigit():
            self.domain.pod_reclaim_contexts[match["name"]] = count
        return True

    def _exit(self, vcpu: VcpuSummary, line: str) -> bool:
        if match := _EXIT.fullmatch(line):
            cycles = _cycles(match)
            name = match["name"].strip("[] ")
            if len(match["indent"]) == 1 or (len(match["indent"]) > 8 and name.isdigit()):
                self.exit = vcpu.exits[name] = ExitReason(cycles)
            elif self.exit is not None:
                self.exit.handlers[name] = cycles
            return True
        if (match := _VECTOR.fullmatch(line)) and self.exit is not None:
            self.exit.vectors[int(match["vector"])] = int(match["count"])
            return True
        return False

    def _interrupt(self, vcpu: VcpuSummary, line: str) -> bool:
        if match := _INTERRUPT.fullmatch(line):
            self.interrupt = vcpu.guest_interrupts[int(match["vector"])] = GuestInterrupt(int(match["count"]))
            return True
        match = _TIMES.fullmatch(line)
        if match is None or self.interrupt is None:
            return False
        self.interrupt.cases[match["name"].strip("* ")] = _cycles(match)
        return True


_HEADINGS = {
    "Log volume summary": "volume",
    "Runstates": "runstates",
    "Grant table ops": "done by",
    "Done by": "done by",
    "Done for": "done for",
    "Populate-on-demand": "populated",
    "Populated": "populated",
    "Reclaim order": "reclaim order",
    "Reclaim contexts": "reclaim contexts",
    "PV events": "pv",
    "Exit reasons": "exits",
    "Guest interrupt counts": "interrupts",
    "Emulate eip list": "emulate",
}
_COUNTERS = ("done by", "done for", "populated", "reclaim order", "reclaim contexts")


def _pv(vcpu: VcpuSummary, line: str) -> bool:
    """Process a row of a vCPU's PV events."""
    if match := _HYPERCALL.fullmatch(line):
        vcpu.hypercalls[int(match["number"])] = int(match["count"])
    elif match := _TRAP.fullmatch(line):
        vcpu.traps[int(match["number"])] = int(match["count"])
    elif match := _PV_EVENT.fullmatch(line):
        name = match["name"]
        vcpu.pv_events[name] = vcpu.pv_events.get(name, 0) + int(match["count"])
    else:
        return False
    return True


def _cycles(match: re.Match[str]) -> Cycles:
    shown = match.groupdict()

    def optional(name: str) -> int | None:
        return None if shown.get(name) is None else int(shown[name])

    return Cycles(
        count=int(shown["count"]),
        seconds=None if shown.get("seconds") is None else float(shown["seconds"]),
        mean=int(shown["mean"]),
        p5=optional("p5"),
        p50=optional("p50"),
        p95=optional("p95"),
        percent=None if shown.get("percent") is None else float(shown["percent"]),
    )
