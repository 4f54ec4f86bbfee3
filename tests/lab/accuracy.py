"""Compare what the analysis infers about event delivery with what a Xen recorded that writes it down.

usage, in the folder tests: python3 -m lab.accuracy [--write] TRACE...

The traces have the records of docs/xen-records.md.  They are analysed without these (``lab.stripped``), and
each figure is compared with the records.  --write puts the result into docs/accuracy-delivery.md and, for
docs/report-schema.md, into analysis/report/delivery_errors.py.
"""

from __future__ import annotations

import json
import lzma
import sys
import tempfile
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from builders.reported import rows as rows_of
from lab.stripped import stripped
from oracle import delivery, machine
from oracle.machine import Interval
from oracle.reader import LOST_RECORDS, Record, read
from xtrace.analysis.state_machine.delivery_columns import NOBODY, Returned, Source
from xtrace.analysis.state_machine.metrics import Metric, WakeCause

_ROOT = Path(__file__).parents[2]
_PAGE = _ROOT / "docs" / "accuracy-delivery.md"
_ERRORS = _ROOT / "analysis" / "report" / "delivery_errors.py"
_DOM0 = 0
EXACT, BOUNDED, INFERRED = "exact", "bounded", "inferred"


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure that the records can judge.

    Attributes:
        name: in words.
        columns: of the report, table and column.
        mark: how the report says it is known.
    """

    name: str
    columns: tuple[tuple[str, str], ...]
    mark: str


def _times(table: str, prefix: str) -> tuple[tuple[str, str], ...]:
    return tuple((table, f"{prefix}_{name}_cycles") for name in ("p50", "p95", "p99", "max"))


FIGURES = {
    "by send": Figure(
        "wake by a send of that vCPU",
        (("wakes", "event_channel_count"), ("wakes", "send_to_wake_count"), ("sends", "woke_count")),
        INFERRED,
    ),
    "by irq": Figure("wake by an interrupt", (("wakes", "irq_count"),), EXACT),
    "by call": Figure("wake by another hypercall", (("wakes", "hypercall_count"),), INFERRED),
    "by other": Figure("wake by a timer or something else", (("wakes", "other_count"),), INFERRED),
    "count": Figure("number of upcalls of a vCPU", (("upcalls", "upcall_most_count"),), BOUNDED),
    "after block": Figure(
        "iret that ends the upcall after a block", (("upcalls", "upcall_least_count"),), INFERRED
    ),
    "trap": Figure("iret that returns from a trap", (("upcalls", "iret_trap_count"),), INFERRED),
    "least": Figure("time of an upcall after a block, at least", _times("upcalls", "upcall_least"), INFERRED),
    "most": Figure("time of an upcall after a block, at most", _times("upcalls", "upcall_most"), BOUNDED),
    "entry": Figure(
        "running to the upcall after a block, at most",
        _times("upcalls", "running_to_entry_most"),
        BOUNDED,
    ),
    "no block": Figure(
        "block call that found an event pending", (("upcalls", "block_without_block_count"),), INFERRED
    ),
    "forced, guests": Figure(
        "xen_version that forced a callback, guests", (("upcalls", "xen_version_count"),), INFERRED
    ),
    "forced, dom0": Figure(
        "xen_version that forced a callback, dom0", (("upcalls", "xen_version_count"),), INFERRED
    ),
    "forced to iret": Figure(
        "forced callback whose upcall the iret ends",
        (("upcalls", "forced_callback_count"), *_times("upcalls", "forced_to_iret")),
        INFERRED,
    ),
    "inject": Figure("injection to VM entry, at most", _times("injections", "injection_to_entry"), BOUNDED),
    "window": Figure("wait for an interrupt window, at most", _times("injections", "window_wait"), BOUNDED),
}


@dataclass(slots=True)
class Found:
    """How often each figure was judged and wrong, and how wide bounds are, relative to the truth.

    Attributes:
        events, sends: NOTIFY records, and event_channel_op calls and how many of these notified.
        late: intervals with the next record of their pCPU, for the time that a record takes.
    """

    judged: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    widths: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    why: Counter[tuple[str, str]] = field(default_factory=Counter)
    traces: list[tuple[str, str]] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    record_cycles: list[int] = field(default_factory=list)
    hz: float = 0.0

    def judge(self, figure: str, right: bool, why: str = "") -> None:
        self.judged[figure] += 1
        if not right:
            self.wrong[figure] += 1
            self.why[figure, why] += 1

    def bound(self, figure: str, said: int, truth: int, *, most: bool) -> None:
        self.judge(figure, said >= truth if most else said <= truth, f"{said} said, {truth} true")
        if truth > 0:
            self.widths[figure].append(said / truth)


class _Logged(machine.Host):
    """The reference machines, which note when they count what."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.log: list[tuple[Metric, int, int]] = []

    def take(self, record: Record) -> None:
        self.now = record.tsc
        super().take(record)

    def count(self, metric: Metric, a: int, b: int = 0) -> None:
        super().count(metric, a, b)
        self.log.append((metric, a, self.now))


class _Truth:
    """What the records say, by vCPU."""

    def __init__(self, records: Sequence[Record]) -> None:
        found = delivery.run(records)
        self.upcalls: dict[tuple[int, int], int] = {}  # entry by (vCPU, TSC of the iret)
        self.entries: dict[int, list[int]] = defaultdict(list)
        self.wakes: dict[tuple[int, int], int] = {}
        #: The stretches in which no upcall is known to begin: before the first record, and in a loss.
        self.unknown = [(0, found[0].tsc if found else 1 << 62), *_losses(records)]
        for row in found:
            if row.metric is Metric.UPCALL:
                self.upcalls[row.a, row.tsc] = row.tsc - row.value
            elif row.metric is Metric.UPCALL_ENTRY and not row.b & Returned.HVM:
                self.entries[row.a].append(row.tsc)
            elif row.metric is Metric.EVENT_WAKE:
                self.wakes[row.a, row.tsc] = row.b
        self.injected = _injected(records)

    def is_known(self, begin: int, end: int) -> bool:
        """Return whether each upcall that begins in a stretch is known."""
        return all(end < low or high < begin for low, high in self.unknown)

    def entered(self, vcpu: int, begin: int, end: int) -> int | None:
        """Return the first entry into an upcall after ``begin``, up to ``end``."""
        entries = self.entries[vcpu]
        place = bisect_left(entries, begin)
        return entries[place] if place < len(entries) and entries[place] <= end else None


def _losses(records: Iterable[Record]) -> Iterator[tuple[int, int]]:
    for record in records:
        if record.event == LOST_RECORDS:
            yield record.words[2] | record.words[3] << 32, record.tsc


def _injected(records: Iterable[Record]) -> dict[tuple[int, int], tuple[int, int | None]]:
    """Return, by vCPU and TSC of the VM entry, when its vector was injected and a window for it was open.

    The window was asked for before the VM entry whose TSC stands for it.
    """
    found: dict[tuple[int, int], tuple[int, int | None]] = {}
    current: dict[int, int] = {}
    windows: dict[int, int] = {}
    asked: set[int] = set()
    injected: dict[int, int | None] = {}  # by vCPU, since its exit; None: another vector
    for record in records:
        vcpu = current.get(record.pcpu, 0)
        if record.event & ~0x330 == 0x21001 and record.event >> 4 & 3 == 0:
            current[record.pcpu] = record.words[0]
        elif record.event == 0x82020 and record.words[2:] == (NOBODY,):
            asked.add(vcpu)
        elif record.event == 0x82004:
            injected.setdefault(vcpu, None)
        elif record.event == 0x804004:
            injected[vcpu] = record.tsc
        elif record.event == 0x81001:
            tsc = injected.get(vcpu)
            if tsc is not None:
                found[vcpu, record.tsc] = (tsc, windows.get(vcpu))
            if vcpu in injected:
                windows.pop(vcpu, None)  # it was open for the vector that was injected
            elif vcpu in asked:
                windows.setdefault(vcpu, record.tsc)
            asked.discard(vcpu)
            injected.pop(vcpu, None)
    return found


def measure(name: str, data: bytes, found: Found) -> None:
    """Compare the inference from a trace without its records of event delivery with these."""
    plain = stripped(data)
    records = list(read(data).records_and_holes)
    truth = _Truth(records)
    host = _Logged()
    for record in read(plain).records_and_holes:
        host.take(record)
    has_loss = any(record.event == LOST_RECORDS for record in records)
    _wakes(host.intervals, truth, found)
    _upcalls(host, truth, found)
    if not has_loss:
        _counts(name, plain, truth, found)
    _calls(records, truth, found)
    _cost(data, plain, records, found)
    entries = sum(map(len, truth.entries.values()))
    lost = sum(record.words[0] for record in records if record.event == LOST_RECORDS)
    found.traces.append((name, f"{len(records):,} | {entries:,} | {len(truth.wakes):,} | {lost:,}"))


def _wakes(intervals: Sequence[Interval], truth: _Truth, found: Found) -> None:
    senders = {(row.a, row.tsc): row.b for row in intervals if row.metric is Metric.SEND_TO_WAKE}
    for row in intervals:
        source = truth.wakes.get((row.a, row.tsc))
        if row.metric is not Metric.WAKE_CAUSE or source is None:
            continue
        cause = WakeCause(row.b >> 32)
        said = {Source.NONE: "no event", Source.UNMASK: "unmask", Source.PIRQ: "pirq", Source.VIRQ: "virq"}
        is_sent = source < NOBODY
        why = "another sender" if is_sent else said.get(Source(source >> 32), "")
        if cause is WakeCause.EVENT_CHANNEL:
            found.judge("by send", source == senders[row.a, row.tsc], why)
        elif cause is WakeCause.IRQ:
            found.judge("by irq", source >> 32 == Source.PIRQ, why)
        elif cause is WakeCause.HYPERCALL:
            found.judge("by call", source == NOBODY, f"op {row.b & 0xFF}: {why}")
        elif cause is WakeCause.TIMER_OR_OTHER:
            found.judge("by other", not is_sent, why)


def _upcalls(host: _Logged, truth: _Truth, found: Found) -> None:
    judges = {
        Metric.UPCALL_MAX: _most,
        Metric.UPCALL_MIN: _least,
        Metric.RUNNING_TO_GUEST: _entry,
        Metric.FORCED_CALLBACK: _forced,
        Metric.INJECTION_TO_ENTRY: _injection,
        Metric.INTR_WINDOW_WAIT: _injection,
    }
    for row in host.intervals:
        if row.metric in judges:
            judges[row.metric](row, truth, found)
    for metric, vcpu, tsc in host.log:
        if metric is Metric.UPCALL_FORCED and truth.is_known(tsc, tsc):
            found.judge("after block", (vcpu, tsc) in truth.upcalls, "no upcall ends there")
        elif metric is Metric.IRET_TRAP:
            found.judge("trap", (vcpu, tsc) not in truth.upcalls, "an upcall ends there")


def _most(row: Interval, truth: _Truth, found: Found) -> None:
    begin = truth.upcalls.get((row.a, row.tsc))
    if begin is not None or truth.is_known(row.tsc - row.value, row.tsc):
        found.judge("after block", begin is not None, "no upcall ends there")
    if begin is not None:
        found.bound("most", row.value, row.tsc - begin, most=True)


def _least(row: Interval, truth: _Truth, found: Found) -> None:
    begin = truth.upcalls.get((row.a, row.tsc))
    if begin is not None:
        found.judge("least", row.value <= row.tsc - begin, "an upcall inside ends first")
        found.widths["least"].append(row.value / max(row.tsc - begin, 1))


def _entry(row: Interval, truth: _Truth, found: Found) -> None:
    begin = row.tsc - row.value
    entry = truth.entered(row.a, begin, row.tsc)
    if entry is not None:
        found.bound("entry", row.value, entry - begin, most=True)
    elif truth.is_known(begin, row.tsc):
        found.judge("entry", False, "no upcall begins there")


def _forced(row: Interval, truth: _Truth, found: Found) -> None:
    begin, forced = truth.upcalls.get((row.a, row.tsc)), row.tsc - row.value
    if begin is not None or truth.is_known(forced, row.tsc):
        right = begin is not None and forced <= begin
        found.judge(
            "forced to iret", right, "no upcall ends there" if begin is None else "an earlier one does"
        )


def _injection(row: Interval, truth: _Truth, found: Found) -> None:
    """Judge an injection's time; of the wait for a window, the truth is at least what is judged."""
    injected = truth.injected.get((row.a, row.tsc))
    if injected is not None and row.metric is Metric.INJECTION_TO_ENTRY:
        found.bound("inject", row.value, row.tsc - injected[0], most=True)
    elif injected is not None and injected[1] is not None:
        found.bound("window", row.value, injected[0] - injected[1], most=True)


def _counts(name: str, plain: bytes, truth: _Truth, found: Found) -> None:
    """Judge the report's bounds of the number of upcalls of each PV vCPU, and how wide they are."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.bin"
        path.write_bytes(plain)
        rows = {row["domain"] << 16 | row["vcpu"]: row for row in rows_of(path, "upcalls")}
    for vcpu, entries in truth.entries.items():
        least, most = rows[vcpu]["upcall_least_count"], rows[vcpu]["upcall_most_count"]
        # One that is open at the end has no iret, and one from before the trace no entry.
        count = len(entries)
        found.judge("count", least - 1 <= count <= most + 1, f"{least} {count} {most}")
        found.widths["count"].append(most / max(count, 1))


def _calls(records: Sequence[Record], truth: _Truth, found: Found) -> None:
    """Judge hypercalls by what follows: a forced callback, a block call with an event pending, a send."""
    current: dict[int, int] = {}
    before: dict[int, tuple[str, int]] = {}
    for record in records:
        pcpu = record.pcpu
        if record.event & ~0x330 == 0x21001 and record.event >> 4 & 3 == 0:
            current[pcpu] = record.words[0]
        if record.event >> 12 == 0x804:
            if record.event == 0x804001:
                found.calls["events"] += 1
                if before.get(pcpu, ("", 0))[0] == "event_channel_op" and record.words[0] == current.get(
                    pcpu
                ):
                    found.calls["event_channel_op that notified"] += 1
                    before.pop(pcpu)
            continue
        said, tsc = before.pop(pcpu, ("", 0))
        vcpu = current.get(pcpu)
        if said in ("xen_version", "block") and vcpu is not None and record.event >> 12 in (0x201, 0x202):
            name = "no block"
            if said == "xen_version":
                name = "forced, dom0" if vcpu >> 16 == _DOM0 else "forced, guests"
            found.judge(name, truth.entered(vcpu, tsc, record.tsc) is not None, "no upcall follows")
        if record.event in (0x20100D, 0x20200E) and record.words:
            op = record.words[0] & 0xFFFFF
            if op == 32:
                found.calls["event_channel_op"] += 1
                before[pcpu] = ("event_channel_op", record.tsc)
            elif op == 17:
                before[pcpu] = ("xen_version", record.tsc)
            elif op == 29 and record.words[1:] == (1,):
                before[pcpu] = ("block", record.tsc)


def _cost(data: bytes, plain: bytes, records: Sequence[Record], found: Found) -> None:
    """Measure what the records take: bytes, and the time from a NOTIFY to the mark right after it."""
    found.bytes["all"] += len(data)
    found.bytes["without"] += len(plain)
    before: dict[int, Record] = {}
    for record in records:
        last = before.get(record.pcpu)
        if record.event == 0x804002 and last is not None and last.event == 0x804001:
            found.record_cycles.append(record.tsc - last.tsc)
        before[record.pcpu] = record


def lines(found: Found) -> list[str]:
    """Return the page's tables as lines of text."""
    made = [
        "| trace | records | upcalls | wakes | lost |",
        "|---|---|---|---|---|",
        *(f"| {name} | {counts} |" for name, counts in found.traces),
        "",
        "| figure | known | judged | wrong | share | said / true: p5, p50, p95 |",
        "|---|---|---|---|---|---|",
    ]
    for key, figure in FIGURES.items():
        judged, wrong = found.judged[key], found.wrong[key]
        if not judged:
            continue
        width = ""
        if found.widths[key]:
            width = ", ".join(f"{value:.3g}" for value in np.percentile(found.widths[key], [5, 50, 95]))
        made.append(
            f"| {figure.name} | {figure.mark} | {judged:,} | {wrong:,} | {wrong / judged:.2%} | {width} |"
        )
    reasons = [
        f"- {FIGURES[key].name}: {count:,} x {why}"
        for (key, why), count in sorted(found.why.items(), key=lambda item: -item[1])
        if why and FIGURES[key].mark != BOUNDED
    ]
    called, notified = found.calls["event_channel_op"], found.calls["event_channel_op that notified"]
    added = 1 - found.bytes["without"] / max(found.bytes["all"], 1)
    cycles = np.percentile(found.record_cycles, [5, 50, 95]) / found.hz * 1e6
    return [
        *made,
        "",
        "Why the inferred ones were wrong, by what the records say:",
        "",
        *reasons,
        "",
        f"{notified:,} of {called:,} event_channel_ops ({notified / max(called, 1):.0%}) set a port pending;",
        "the others bind, unmask, close, or notify Xen.",
        "",
        f"The records of event delivery are {added:.1%} of the traces' bytes. From a NOTIFY to the PENDING",
        f"after it, it takes {cycles[1]:.2f} us (p5 {cycles[0]:.2f}, p95 {cycles[2]:.2f}; emulated), which",
        "includes writing one record.",
    ]


def errors(found: Found) -> dict[tuple[str, str], str]:
    """Return how often each inferred figure was right, by table and column."""
    said: dict[tuple[str, str], str] = {}
    for key, figure in FIGURES.items():
        judged, wrong = found.judged[key], found.wrong[key]
        if judged and figure.mark is not EXACT:
            verb = "right" if figure.mark is INFERRED else "contained"
            text = f"{verb} {judged - wrong:,} of {judged:,}"
            group = f" ({figure.name.rpartition(', ')[2]})" if ", " in figure.name and "forced" in key else ""
            for column in figure.columns:
                said[column] = "; ".join(filter(None, (said.get(column), text + group)))
    return said


def part_of(page: str, name: str) -> str:
    """Return the part of a page that is measured."""
    return page.partition(f"<!-- {name}:begin -->\n")[2].partition(f"<!-- {name}:end -->")[0]


def write(found: Found, of_samples: Found) -> None:
    """Put the tables into the page, and the errors into the package."""
    page = _PAGE.read_text()
    for name, what in (("measured", found), ("samples", of_samples)):
        body = "\n".join(lines(what)) + "\n"
        head, _, rest = page.partition(f"<!-- {name}:begin -->\n")
        tail = rest.partition(f"<!-- {name}:end -->")[2]
        page = f"{head}<!-- {name}:begin -->\n{body}<!-- {name}:end -->{tail}"
    _PAGE.write_text(page)
    rows = "".join(f"    {place!r}: {text!r},\n".replace("'", '"') for place, text in errors(found).items())
    _ERRORS.write_text(
        '"""How often figures were right, held against a Xen that records event delivery.\n\n'
        "Written by `make accuracy-delivery` (tests/lab/accuracy.py); docs/accuracy-delivery.md says how.\n"
        '"""\n\nfrom __future__ import annotations\n\n'
        "from collections.abc import Mapping\n\n"
        "#: By table and column.\n"
        f"ERRORS: Mapping[tuple[str, str], str] = {{\n{rows}}}\n"
    )


def read_trace(path: Path) -> bytes:
    """Return a trace's bytes, decompressed."""
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data


def tsc_hz(path: Path) -> float:
    """Return the TSC rate in the trace's sidecar."""
    facts: Mapping[str, float] = json.loads(path.with_name(f"{path.name}.json").read_text())
    return float(facts["tsc_hz"])


def main(arguments: Sequence[str]) -> int:
    """Execute the command line and return the exit code."""
    paths = [Path(name).resolve() for name in arguments if name != "--write"]
    if not paths:
        sys.stderr.write(__doc__ or "")
        return 2
    found = compared(paths)
    sys.stdout.write("".join(f"{line}\n" for line in lines(found)))
    if "--write" in arguments:
        write(found, compared(sorted((_ROOT / "samples").glob("xen417-events-*.bin.xz"))))
    return 0


def compared(paths: Iterable[Path]) -> Found:
    """Compare traces."""
    found = Found()
    for path in paths:
        measure(path.name.partition(".")[0], read_trace(path), found)
        found.hz = tsc_hz(path)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
