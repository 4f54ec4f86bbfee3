"""Compare what the analysis infers about upcalls and sends with our own guests' logs.

usage, in the folder tests: python3 -m lab.truth [FOLDER...]

A folder has the results of a scenario with ``log=``, such as build/lab/own-lfence; without any, the samples
that have such logs are read.  The figures are totals over all of them.  Times are cycles of the emulated TSC.

Truth: a guest's i-th upcall is ended by its i-th iret, because the guest has no system calls; the begin and
end that it logs are between Xen's entry and that iret.
"""

from __future__ import annotations

import json
import lzma
import re
import sys
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lab.checks.made import EVENT_CHANNEL_OP, HYPERCALL, IDLE, IRET, RUNSTATE_CHANGE
from oracle.reader import read
from oracle.runs import run
from xtrace.analysis.state_machine.metrics import Metric

_UPCALL = re.compile(r"^xtrace-guest: upcall (\d+) (\d+) (\d+)\r?$", re.MULTILINE)
_SEND = re.compile(r"^xtrace-guest: send (\d+) (\d+)\r?$", re.MULTILINE)
_COUNTERS = re.compile(r"^xtrace-guest: counters (\{.*\})\r?$", re.MULTILINE)
_RUNSTATE_MASK = ~0x330
_SAMPLES = Path(__file__).parents[2] / "samples"
_DOM0 = 0


@dataclass(frozen=True, slots=True)
class Upcall:
    """One upcall as logged by the guest: TSCs at begin and end, and a bitmap of the ports handled."""

    begin: int
    end: int
    ports: int


@dataclass(slots=True)
class Guest:
    """A guest's log, and its records in the trace.

    Attributes:
        upcalls, sends: in order; a send is (TSC right before it, port).
        counters: the last counters that it printed.
        irets, send_records: TSCs of its iret and event_channel_op records.
    """

    upcalls: list[Upcall]
    sends: list[tuple[int, int]]
    counters: dict[str, int]
    irets: list[int] = field(default_factory=list)
    send_records: list[int] = field(default_factory=list)

    @property
    def ping_port(self) -> int:
        """The port on which it sends pings; the first send is always the console's."""
        return next(port for _, port in self.sends if port != self.sends[0][1])


@dataclass(slots=True)
class Found:
    """The result: how often each inference was right, and by how many cycles it was off.

    Attributes:
        counts: by name; an inference that is checked has the two counts "NAME" and "NAME right".
        off: samples by name; in cycles, or factors if the name says times.
    """

    counts: Counter[str] = field(default_factory=Counter)
    off: dict[str, list[float]] = field(default_factory=dict)

    def judge(self, name: str, right: bool) -> None:
        self.counts[name] += 1
        self.counts[f"{name} right"] += right

    def measure(self, name: str, value: float) -> None:
        self.off.setdefault(name, []).append(value)

    def lines(self) -> list[str]:
        """Return the figures as text, one line each."""
        shown = [
            f"{name}: {self.counts[f'{name} right']} of {count} right"
            if f"{name} right" in self.counts
            else f"{name}: {count}"
            for name, count in self.counts.items()
            if not name.endswith(" right")
        ]
        for name, values in self.off.items():
            p5, p50, p95 = np.percentile(values, [5, 50, 95])
            shown.append(f"{name}: p5 {p5:,.4g}, p50 {p50:,.4g}, p95 {p95:,.4g}, max {max(values):,.4g}")
        return shown


def guest_of(log: str) -> Guest:
    """Parse a guest's console log."""
    upcalls = [Upcall(*map(int, row)) for row in _UPCALL.findall(log)]
    sends = sorted((int(tsc), int(port)) for tsc, port in _SEND.findall(log))
    counters: dict[str, int] = json.loads(_COUNTERS.findall(log)[-1])
    return Guest(upcalls, sends, counters)


def of_folder(folder: Path) -> tuple[bytes, dict[int, str]]:
    """Return a scenario's trace, and the console log of each of our own guests by domain."""
    rows = [line.split() for line in (folder / "known").read_text().splitlines()]
    logs = {
        int(row[2]): (folder / f"guest-{row[1]}.log").read_text(errors="replace")
        for row in rows
        if row[0] == "created"
    }
    return (folder / f"{folder.name}.bin").read_bytes(), logs


def of_sample(trace: Path) -> tuple[bytes, dict[int, str]]:
    """Return a sample's trace, and the console logs by domain."""
    name = trace.name.removesuffix(".bin.xz")
    logs = {}
    for path in sorted(trace.parent.glob(f"{name}.d*.log.xz")):
        domain = path.name.removesuffix(".log.xz").rpartition(".d")[2]
        logs[int(domain)] = lzma.decompress(path.read_bytes()).decode()
    return lzma.decompress(trace.read_bytes()), logs


def samples() -> list[Path]:
    """Return the samples that have console logs."""
    names = {path.name.rpartition(".d")[0] for path in _SAMPLES.glob("*.log.xz")}
    return [_SAMPLES / f"{name}.bin.xz" for name in sorted(names)]


def measure(data: bytes, logs: dict[int, str], found: Found) -> None:
    """Compare a trace with its guests' logs by domain, and add the results to ``found``."""
    guests = {domain: guest_of(log) for domain, log in logs.items()}
    _add_records(data, guests)
    ran = run(data)
    counts = ran.counts
    for domain, guest in guests.items():
        _upcall_ends(guest, found)
        for metric, name in (
            (Metric.IRET_UPCALL, "irets taken as the end of the upcall after a block"),
            (Metric.IRET_OPEN, "irets left open: an upcall while running, or a system call"),
            (Metric.IRET_TRAP, "irets taken as the end of a trap, wrongly"),
        ):
            found.counts[name] += sum(
                number
                for count, number in counts.items()
                if count.metric == metric and count.a >> 16 == domain
            )
    for interval in ran.intervals:
        target, sender = interval.a >> 16, interval.b >> 16
        if interval.metric in (Metric.UPCALL_MAX, Metric.UPCALL_MIN) and target in guests:
            _bound(guests[target], interval.metric, interval.tsc, interval.value, found)
        elif interval.metric is Metric.FORCED_CALLBACK and target in guests:
            _forced(guests[target], interval.tsc, interval.value, found)
        elif interval.metric is Metric.SEND_TO_WAKE and sender in guests:
            _send(guests, sender, target, interval.tsc - interval.value, found)


def _add_records(data: bytes, guests: dict[int, Guest]) -> None:
    current: dict[int, int] = {}
    for record in read(data).records:
        if record.event & _RUNSTATE_MASK == RUNSTATE_CHANGE and record.event >> 4 & 3 == 0:
            current[record.pcpu] = record.words[0] >> 16
        elif record.event == HYPERCALL and (guest := guests.get(current.get(record.pcpu, IDLE))) is not None:
            number = record.words[0] & 0xFFFFF
            if number == IRET:
                guest.irets.append(record.tsc)
            elif number == EVENT_CHANNEL_OP:
                guest.send_records.append(record.tsc)


def _upcall_ends(guest: Guest, found: Found) -> None:
    """Check the truth itself: each logged upcall ends before its own iret, and after the one before."""
    found.judge("guests with an iret for each upcall", len(guest.irets) == guest.counters["upcall"])
    after = [upcall.begin for upcall in guest.upcalls[1:]] + [guest.irets[-1] + 1]
    for upcall, iret, following in zip(guest.upcalls, guest.irets, after, strict=False):
        found.judge("upcalls that their own iret ends", upcall.begin < upcall.end < iret < following)
        found.measure("iret record after the handler's end", iret - upcall.end)


def _bound(guest: Guest, metric: Metric, tsc: int, value: int, found: Found) -> None:
    number = bisect_left(guest.irets, tsc)
    if number >= len(guest.upcalls):
        return
    upcall = guest.upcalls[number]
    found.judge("upcall ends that are an upcall's iret", guest.irets[number] == tsc)
    begin = tsc - value
    if metric is Metric.UPCALL_MAX:
        found.judge("upcalls that begin after the upper bound does", begin <= upcall.begin)
        found.measure("upper bound begins before the handler", upcall.begin - begin)
        found.measure("upper bound, times the handler's own", value / (upcall.end - upcall.begin))
    else:
        found.judge("upcalls that begin before the lower bound does", upcall.begin <= begin)
        found.measure("lower bound begins after the handler", begin - upcall.begin)
        found.measure("lower bound, times the handler's own", value / (upcall.end - upcall.begin))


def _forced(guest: Guest, tsc: int, value: int, found: Found) -> None:
    """Measure how soon after its hypercall a forced upcall began: a late one had another cause."""
    number = bisect_left(guest.irets, tsc)
    if number < len(guest.upcalls):
        upcall = guest.upcalls[number]
        found.judge("forced upcalls that begin after their hypercall", tsc - value < upcall.begin)
        found.measure("forced upcall begins after its hypercall", upcall.begin - (tsc - value))
        found.measure("forced callback to iret, times the handler's own", value / (upcall.end - upcall.begin))


def _send(guests: dict[int, Guest], sender: int, target: int, sent: int, found: Found) -> None:
    """Check one send that the analysis takes as the cause of a wake."""
    guest = guests[sender]
    logged = bisect_left([before for before, _ in guest.sends], sent) - 1
    following = guest.sends[logged + 1][0] if logged + 1 < len(guest.sends) else sent + 1
    first = bisect_right(guest.send_records, guest.sends[logged][0]) if logged >= 0 else -1
    if logged < 0 or following <= sent or guest.send_records[first] != sent:
        found.counts["sends after the end of the log"] += 1
        return
    peer = next(domain for domain in guests if domain != sender)
    is_ping = guest.sends[logged][1] == guest.ping_port
    found.judge("woken vCPUs that are the send's target", target == (peer if is_ping else _DOM0))


def main(folders: Sequence[str]) -> int:
    """Print the totals and return the exit code."""
    found = Found()
    left = [of_folder(Path(folder).resolve()) for folder in folders] or map(of_sample, samples())
    for data, logs in left:
        measure(data, logs, found)
    sys.stdout.write("".join(f"{line}\n" for line in found.lines()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
