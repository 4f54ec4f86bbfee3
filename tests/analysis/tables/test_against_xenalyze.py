"""Compare the machines with xenalyze's summary of the same trace.

Figures must be equal where both mean the same; where xenalyze means something else, a function named
after the difference converts ours to its figure.  Percentiles of runstates and grant operations are not
compared, because xenalyze's are wrong.
"""

from __future__ import annotations

import lzma
import os
import struct
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from builders.cut_windows import in_one_round
from builders.host import simulate
from builders.hosts import DOMAINS
from oracle.machine import Interval
from oracle.reader import WINDOW_HEADER, Record, read
from oracle.reading import SAMPLES
from oracle.runs import Run, as_intervals, run
from peer.xenalyze import Summary, parse_summary, raw_records, require, svm_args
from peer.xenalyze_run import run as printed_by
from peer.xenalyze_summary import Cycles, VcpuSummary
from xtrace.analysis.state_machine.metrics import STATE_LOST, DomainState, G, Metric, P, PcpuTime, V
from xtrace.probes.format import LOST_RECORDS, Runstate
from xtrace.probes.xen_abi import DEFAULT_DOMAIN

CPU_HZ = 2_600_000_000
SIMULATED = (
    "calm host", "lossy host", "host of eight", "host from a loss on", "second half", "second half of one",
    "pcpu that ends",
)  # fmt: skip
#: Variable with the files to compare instead of the samples, separated like PATH; the lab's checks set it.
TRACES_VARIABLE = "XTRACE_COMPARED_TRACES"
CONTINUE_RUNNING = 0x21002
EVENT_DELIVERY = 0x804  # the id without its last 12 bits
VMENTRY = 0x81001
WANT_TO_RUN = (Runstate.RUNNING, Runstate.RUNNABLE)
#: Of VMX (before Xen 4.19 of SVM too) and of SVM, without the bit of 64-bit guests.
VMEXITS = (0x81002, 0x81003)
CLASS_NAMES = ("gen", "sched", "dom0op", "hvm", "mem", "pv", "shadow", "hw")
CLASSES = {1 << bit: name for bit, name in enumerate(CLASS_NAMES)}
PV_NAMES = {
    3: "trap", 4: "page_fault", 5: "forced_invalid_op", 6: "emulate privop", 7: "emulate 4g",
    8: "math state restore", 9: "paging fixup", 10: "gdt/ldt mapping fault", 11: "ptwr", 12: "ptwr(pae)",
}  # fmt: skip
STATE_OF = {
    Metric.RUNNING: "running", Metric.RUNNABLE_WAKE: "runnable", Metric.RUNNABLE_PREEMPT: "runnable",
    Metric.RUNNABLE_OTHER: "runnable", Metric.RUNNABLE_BUDGET: "runnable", Metric.BLOCKED: "blocked",
    Metric.OFFLINE: "offline", Metric.STATE_LOST: "lost", Metric.STATE_UNKNOWN: "unknown",
}  # fmt: skip
RUNNABLE_OF = {
    Metric.RUNNABLE_WAKE: "wake", Metric.RUNNABLE_PREEMPT: "preempt", Metric.RUNNABLE_OTHER: "other",
    Metric.RUNNABLE_BUDGET: "preempt",
}  # fmt: skip
STATE_NAMES = ("running", "runnable", "blocked", "offline", "lost")
DOMAIN_NAMES = {
    DomainState.BLOCKED: "blocked", DomainState.OFFLINE: "offline",
    DomainState.PARTIAL_RUN: "partial run", DomainState.FULL_RUN: "full run",
    DomainState.PARTIAL_CONTENTION: "partial contention",
    DomainState.CONCURRENCY_HAZARD: "concurrency_hazard",
    DomainState.FULL_CONTENTION: "full_contention", DomainState.LOST: "lost",
}  # fmt: skip


class Stretch(NamedTuple):
    """A stretch of time of a vCPU in a state; ``metric`` is that of the state."""

    begin: int
    end: int
    metric: Metric


@dataclass(slots=True)
class Sum:
    """Count and sum of intervals."""

    count: int = 0
    cycles: int = 0

    def add(self, cycles: int) -> None:
        self.count += cycles > 0
        self.cycles += cycles

    def agrees(self, row: Cycles | None) -> bool:
        """Return whether a row of xenalyze's agrees; its mean is rounded down."""
        if row is None or row.count == 0:
            return self.count == 0
        return self.count == row.count and 0 <= self.cycles - row.mean * row.count < row.count

    def agrees_in_cycles(self, row: Cycles | None) -> bool:
        if row is None or row.count == 0:
            return self.cycles == 0
        return 0 <= self.cycles - row.mean * row.count < row.count


class Taught(NamedTuple):
    """From when on xenalyze counts a vCPU, and the TSC at which it learns that."""

    since: int
    at: int


@dataclass
class Case:
    """A trace with xenalyze's results and ours."""

    name: str
    data: bytes
    theirs: Summary
    total_cycles: int
    ours: Run
    records: list[Record] = field(default_factory=list)

    @cached_property
    def rows(self) -> list[Interval]:
        return self.ours.intervals

    @cached_property
    def by_metric(self) -> dict[Metric, dict[int, list[Interval]]]:
        found: defaultdict[Metric, dict[int, list[Interval]]] = defaultdict(dict)
        for row in self.rows:
            found[row.metric].setdefault(row.a, []).append(row)
        return found

    @cached_property
    def losses(self) -> list[int]:
        """Return first_tsc of each loss, in order."""
        lost = (record for record in self.records if record.event == LOST_RECORDS)
        return [loss_begin(record) for record in lost]

    @cached_property
    def continues(self) -> dict[int, list[int]]:
        found: defaultdict[int, list[int]] = defaultdict(list)
        for record in self.records:
            if record.event == CONTINUE_RUNNING:
                found[record.words[0]].append(record.tsc)
        return found

    @cached_property
    def runstates(self) -> dict[int, list[Record]]:
        """Return the runstate records by vCPU."""
        found: defaultdict[int, list[Record]] = defaultdict(list)
        for record in self.records:
            if (key := names(record)) is not None:
                found[key].append(record)
        return found

    @cached_property
    def first_switches(self) -> dict[int, Record]:
        """Return the first record of each pCPU that says what runs there, or ran there up to then."""
        found: dict[int, Record] = {}
        for record in self.records:
            if names(record) is not None and Runstate.RUNNING in change_of(record):
                found.setdefault(record.pcpu, record)
        return found

    @cached_property
    def stretches(self) -> dict[int, list[Stretch]]:
        """Return where the time of each vCPU went up to its last change of state, in order."""
        found: defaultdict[int, list[Stretch]] = defaultdict(list)
        for row in self.rows:
            metric = Metric(row.b >> 32) if row.metric == Metric.OPEN else row.metric
            if metric in STATE_OF:
                found[row.a].append(Stretch(row.tsc - row.value, row.tsc, metric))
        return {key: sorted(stretches) for key, stretches in found.items()}

    @cached_property
    def taught(self) -> dict[int, Taught]:
        """Return how xenalyze learns of each vCPU's state: see ``known_when_it_runs``."""
        found: dict[int, Taught] = {}
        for key in self.runstates.keys() | self.named_by_losses.keys():
            ways = known_when_it_runs(self, key)
            if ways:
                found[key] = min(ways, key=lambda way: way.at)
        return found

    @cached_property
    def named_by_losses(self) -> dict[int, int]:
        """Return the vCPUs that a LOST_RECORDS record says ran, and the TSC of the first one."""
        found: dict[int, int] = {}
        for record in self.records:
            if record.event == LOST_RECORDS:
                domain, number = record.words[1] & 0xFFFF, record.words[1] >> 16
                key = domain << 16 | number
                found[key] = min(record.tsc, found.get(key, record.tsc))
        return found

    @cached_property
    def vcpus(self) -> dict[int, dict[V, int]]:
        """Return each vCPU's state at the end."""
        count = int(self.ours.machine.glob[G.VCPUS])
        table = self.ours.machine.vcpus[:count]
        columns = [column for column in V if column is not V.COLUMNS]
        return {int(row[V.KEY]): {column: int(row[column]) for column in columns} for row in table}

    @cached_property
    def known(self) -> dict[int, VcpuSummary]:
        """Return xenalyze's results by vCPU, with the placeholders that it has for pCPUs."""
        named = {
            domain << 16 | number: vcpu
            for domain, summed in self.theirs.domains.items()
            for number, vcpu in summed.vcpus.items()
        }
        stand_ins = self.theirs.default_domain
        return named | {DEFAULT_DOMAIN << 16 | pcpu: vcpu for pcpu, vcpu in stand_ins.items()}

    @cached_property
    def still_running(self) -> dict[int, tuple[int, int]]:
        """Return the vCPUs that run at the last record of their pCPU: start and end of that run."""
        keys = list(self.vcpus)
        found = {}
        for number, pcpu in enumerate(self.ours.machine.pcpus):
            if pcpu[P.SEEN] and pcpu[P.CURRENT] >= 0:
                key = keys[int(pcpu[P.CURRENT])]
                runs_here = self.vcpus[key][V.STATE] == Runstate.RUNNING and self.vcpus[key][V.PCPU] == number
                if runs_here and key >> 16 != DEFAULT_DOMAIN:
                    found[key] = (self.vcpus[key][V.SINCE], int(pcpu[P.LAST_TSC]))
        return found

    @property
    def last_tsc(self) -> int:
        return int(self.ours.machine.glob[G.LAST_TSC])


def packed_traces() -> dict[str, Path | None]:
    """Return the traces to compare: those named in the variable, or the samples and simulated hosts."""
    if TRACES_VARIABLE in os.environ:
        return {Path(name).stem: Path(name) for name in os.environ[TRACES_VARIABLE].split(os.pathsep) if name}
    samples: dict[str, Path | None] = {path.name.split(".")[0]: path for path in SAMPLES}
    return samples | dict.fromkeys(SIMULATED)


def content_of(path: Path) -> bytes:
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data


def ended_together(data: bytes) -> bytes:
    """Return a trace without what follows the last record of the pCPU that ends first.

    If a pCPU's records end early, its last vCPU may be seen to run elsewhere afterwards: xenalyze knows
    the end of each pCPU's records in advance, and a stream does not.  Recorded traces end at an arbitrary
    point, and the samples are compared whole.  A loss of which only the beginning would be left is left
    out too, because LOST_RECORDS is written at its end.  Neither do a pCPU's records begin or end with
    event delivery, which xenalyze counts in its time and our state machine does not.
    """
    records = read(data).records
    others = [record for record in records if record.event >> 12 != EVENT_DELIVERY]
    end = min({record.pcpu: record.tsc for record in others}.values())
    losses = [(loss_begin(record), record.tsc) for record in others if record.event == LOST_RECORDS]
    while cut_off := [begin for begin, loss_end in losses if begin <= end < loss_end]:
        end = min(cut_off) - 1
    lasts = {record.pcpu: record.tsc for record in others if record.tsc <= end}
    firsts = {record.pcpu: record.tsc for record in reversed(others)}
    return only(data, [one for one in records if firsts[one.pcpu] <= one.tsc <= lasts.get(one.pcpu, -1)])


def loss_begin(record: Record) -> int:
    return min(record.words[2] | record.words[3] << 32, record.tsc)


def begun_in_a_loss(data: bytes) -> bytes:
    """Return a trace from its middle loss on: LOST_RECORDS is its pCPU's first record, and others run on."""
    losses = [record.tsc for record in read(data).records if record.event == LOST_RECORDS]
    return cut(data, losses[len(losses) // 2], 1 << 62)


def ended_at_a_move(data: bytes) -> bytes:
    """Return a trace up to a move of a vCPU in its second half; the pCPU that it leaves ends before that."""
    records = read(data).records
    left: dict[int, Record] = {}
    moves = []
    for record in records[len(records) // 2 :]:
        if (key := names(record)) is None:
            continue
        old, new = change_of(record)
        if old == Runstate.RUNNING != new:
            left[key] = record
        elif new == Runstate.RUNNING and key in left and left[key].pcpu != record.pcpu:
            moves.append((record.tsc - left[key].tsc, left[key], record))
    _, off, on = min(moves, key=lambda move: move[0])
    return only(
        data, [one for one in records if one.tsc <= on.tsc and (one.pcpu != off.pcpu or one.tsc < off.tsc)]
    )


def cut(data: bytes, first: int, last: int) -> bytes:
    """Return a trace with the records that have TSCs from ``first`` to ``last``."""
    return only(data, [record for record in read(data).records if first <= record.tsc <= last])


def only(data: bytes, records: Iterable[Record]) -> bytes:
    """Return a trace with some of its records."""
    kept = sorted(records, key=lambda record: record.offset)
    parts = []
    for pcpu, window in groupby(kept, key=lambda record: record.pcpu):
        sizes = ((record.offset, 4 + 8 * record.timed + 4 * len(record.words)) for record in window)
        content = b"".join(data[offset : offset + size] for offset, size in sizes)
        parts.append(struct.pack("<3I", WINDOW_HEADER, pcpu, len(content)) + content)
    return b"".join(parts)


def simulated(name: str) -> bytes:
    if name == "lossy host":
        return lossy(2, 60_000_000)
    if name == "host from a loss on":
        return begun_in_a_loss(lossy(4, 200_000_000))
    if name.startswith("second half"):
        whole = simulate(1, 1 if name.endswith("one") else 6, DOMAINS, 150_000_000).data
        tscs = [record.tsc for record in read(whole).records]
        return cut(whole, (min(tscs) + max(tscs)) // 2, max(tscs))
    if name == "pcpu that ends":
        return ended_at_a_move(simulate(6, 3, DOMAINS, 60_000_000).data)
    return simulate(1, 8 if name == "host of eight" else 3, DOMAINS, 60_000_000).data


def lossy(seed: int, duration_cycles: int) -> bytes:
    return simulate(seed, 3, DOMAINS, duration_cycles, loss=0.4, ring_bytes=4088, poll_cycles=2_000_000).data


@pytest.fixture(scope="module", params=packed_traces())
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    require()
    packed = packed_traces()[request.param]
    data = simulated(request.param) if packed is None else content_of(packed)
    if TRACES_VARIABLE in os.environ:
        data = ended_together(data)
    path = tmp_path_factory.mktemp("trace") / "trace.bin"
    path.write_bytes(data)
    options = svm_args(raw_records(path))
    # At 100 Hz, a hundredth of a second is one cycle.
    total = round(100 * summarised(path, 100, options).total_s)
    theirs = summarised(path, CPU_HZ, options)
    # What a pCPU does at its last record, xenalyze continues to the end of the trace.
    return Case(request.param, data, theirs, total, run(in_one_round(data)), read(data).records)


def summarised(path: Path, cpu_hz: int, extra_args: Sequence[str]) -> Summary:
    """Return the summary without the warning about an idle exit without an entry, which is on stdout."""
    options = ["--summary", "--report-pcpu", "--show-default-domain-summary", "--cpu-hz", str(cpu_hz)]
    lines = printed_by(path, [*options, *extra_args]).stdout.decode("ascii", "replace").splitlines()
    return parse_summary("\n".join(line for line in lines if not line.startswith("Strange, ")))


# --- the named differences ---------------------------------------------------------------------


def known_when_it_runs(case: Case, key: int) -> list[Taught]:
    """Xenalyze does not count a vCPU before it is seen to run; for us its first record has its state.

    Return the ways in which xenalyze learns of it: a switch to it; a CONTINUE_RUNNING as the first switch
    of its pCPU, where it has run since that pCPU's first TSC; the end of a loss that names it.  A loss makes
    all vCPUs that a runstate record has named lost, also those that it does not count yet.
    """
    ways = []
    for record in case.runstates.get(key, []):
        if record.event == CONTINUE_RUNNING:
            if record is case.first_switches[record.pcpu]:
                ways.append(Taught(case.ours.pcpu(record.pcpu, P.FIRST_TSC), record.tsc))
        elif change_of(record)[1] == Runstate.RUNNING:
            ways.append(Taught(record.tsc, record.tsc))
    named = next((record.tsc for record in case.runstates.get(key, [])), 1 << 62)
    ways += [Taught(loss, loss) for loss in case.losses if loss > named]
    if key in case.named_by_losses:
        ways.append(Taught(case.named_by_losses[key], case.named_by_losses[key]))
    return ways


def counted(case: Case, key: int) -> list[Stretch]:
    """Return a vCPU's stretches of time from when xenalyze counts it; see ``known_when_it_runs``.

    Xenalyze also counts a state that a loss cuts off, or of which it did not see the beginning, like any
    other; ours are OPEN, and are among them.
    """
    if key not in case.taught:
        return []
    since = case.taught[key].since
    return [
        Stretch(max(begin, since), end, metric)
        for begin, end, metric in case.stretches.get(key, [])
        if end > since
    ]


def split_at_continue(case: Case, key: int) -> int:
    """Xenalyze ends a running interval at CONTINUE_RUNNING and begins another; we continue it.

    It does not do so at the record that makes the vCPU known, which has run since its pCPU's first TSC.
    """
    is_known_by_one = key in case.taught and case.taught[key].since < case.taught[key].at
    stretches = [(begin, end) for begin, end, metric in counted(case, key) if metric == Metric.RUNNING]
    if key in case.still_running:
        stretches.append(case.still_running[key])
    splits = sum(begin < tsc < end for tsc in case.continues.get(key, []) for begin, end in stretches)
    return splits - is_known_by_one


def closed_at_the_end_of_its_pcpu(case: Case, key: int) -> int:
    """Xenalyze ends the interval of a running vCPU at its pCPU's last TSC; ours does at the last."""
    begin, end = case.still_running.get(key, (0, 0))
    return end - begin if begin else 0


def lost_until_the_last_loss(case: Case, key: int) -> int:
    """Each loss ends xenalyze's interval of a vCPU that is already lost; ours is one, open at the end."""
    vcpu = case.vcpus[key]
    if not case.losses or vcpu[V.STATE] != STATE_LOST or key not in case.taught:
        return 0
    return max(case.losses[-1] - max(vcpu[V.SINCE], case.taught[key].since), 0)


def ran_until_its_pcpu_ended(case: Case, key: int) -> list[tuple[int, int, int]]:
    """Return TSCs of the start of a running interval, its pCPU's last record and the vCPU's next record.

    Xenalyze knows the end of a pCPU's records and counts the vCPU there as lost from then on.  A stream
    does not know it: when the vCPU is seen to run elsewhere, that is a mismatch, and the whole interval
    becomes unknown time.
    """
    found = []
    for begin, end, metric in counted(case, key):
        if metric == Metric.STATE_UNKNOWN:
            switches = [one for one in case.runstates[key] if Runstate.RUNNING in change_of(one)]
            last = next(
                case.ours.pcpu(one.pcpu, P.LAST_TSC) for one in reversed(switches) if one.tsc <= begin
            )
            if begin < last < end:
                found.append((begin, last, end))
    return found


def names(record: Record) -> int | None:
    """Return the vCPU of a runstate record."""
    is_runstate = record.event & ~0x330 == 0x21001 or record.event == CONTINUE_RUNNING
    return record.words[0] if is_runstate else None


def change_of(record: Record) -> tuple[int, int]:
    """Return the old and the new state of a runstate record."""
    if record.event == CONTINUE_RUNNING:
        return Runstate.RUNNING, Runstate.RUNNING
    return record.event >> 8 & 3, record.event >> 4 & 3


def stays_by_pcpu_moved_to(case: Case, key: int) -> tuple[Sum, dict[int, Sum]]:
    """Xenalyze credits a stay to the pCPU moved *to*, and closes the last one at the end of the trace.

    Its first stay begins at the second switch to the vCPU, on any pCPU; the first switch only creates the
    vCPU.  A loss does not cut off its stays, as it does ours.
    """
    switches = switches_to(case, key)[1:]
    every = Sum()
    each: defaultdict[int, Sum] = defaultdict(Sum)
    if not switches:
        return every, each
    since, where = switches[0]
    for tsc, pcpu in switches:
        if pcpu != where:
            every.add(tsc - since)
            each[pcpu].add(tsc - since)
            since, where = tsc, pcpu
    every.add(case.last_tsc - since)
    each[where].add(case.last_tsc - since)
    return every, each


def switches_to(case: Case, key: int) -> list[tuple[int, int]]:
    """Return when and where a vCPU began to run, from our RESIDENCE intervals and the starts of its runs."""
    residences = case.by_metric[Metric.RESIDENCE].get(key, [])
    stays = [(row.tsc - row.value, row.tsc, row.b) for row in residences]
    # The stay in which it was first seen is open at its beginning.
    opened = [row for row in case.by_metric[Metric.OPEN].get(key, []) if row.b >> 32 == Metric.RESIDENCE]
    stays += [(row.tsc - row.value, row.tsc, row.b & 0xFFFF_FFFF) for row in opened]
    stays.sort()
    begins = [begin for begin, _, metric in counted(case, key) if metric == Metric.RUNNING]
    begins += [begin for begin, _, _ in ran_until_its_pcpu_ended(case, key)]
    vcpu = case.vcpus[key]
    if vcpu[V.RESIDENT_SINCE]:
        stays.append((vcpu[V.RESIDENT_SINCE], 1 << 62, vcpu[V.PCPU]))
    if key in case.still_running:
        begins.append(case.still_running[key][0])
    return [(tsc, pcpu) for tsc in sorted(begins) for begin, end, pcpu in stays if begin <= tsc < end]


def split_at_every_record(case: Case, domain: int) -> Counter[str]:
    """Return cycles by state of the domain.

    Xenalyze ends a domain's interval at each record that touches one of its vCPUs, so only
    cycles compare.  The last interval ends at the last such record, and a vCPU that runs at its pCPU's
    end is lost from there on.
    """
    changes: list[tuple[int, int, str]] = []
    ends = []
    for key, vcpu in case.vcpus.items():
        if key >> 16 != domain or key not in case.taught:
            continue
        stretches = counted(case, key)
        changes += [(begin, key, STATE_OF[metric]) for begin, _, metric in stretches]
        ends += [end for _, end, _ in stretches]
        since = max(vcpu[V.SINCE], case.taught[key].since)
        changes.append((since, key, STATE_NAMES[vcpu[V.STATE]]))
        ends += [tsc for tsc in case.continues.get(key, []) if tsc >= case.taught[key].since]
        for begin, ended, _ in ran_until_its_pcpu_ended(case, key):
            changes += [(begin, key, "running"), (ended, key, "lost")]
        if key in case.still_running:
            changes.append((case.still_running[key][1], key, "lost"))
            ends.append(case.still_running[key][1])
        ends += [*case.losses[-1:]]
    changes, twice = known_too_late(case, changes)
    cycles: Counter[str] = Counter()
    states: dict[int, str] = {}
    # At the same TSC the last change counts: lost after a run of length 0, and delayed changes after all.
    changes.sort(key=lambda change: (change[0], change[:2] in twice, change[1]))
    last = max(ends, default=0)
    for (tsc, key, name), following in zip(changes, [*changes[1:], (last, 0, "")], strict=True):
        states[key] = name
        state = blocked_while_offline(state_of_domain(states.values()))
        cycles[state] += max(min(following[0], last) - tsc, 0) + twice.pop((tsc, key), 0)
    return cycles


def known_too_late(
    case: Case, changes: Sequence[tuple[int, int, str]]
) -> tuple[list[tuple[int, int, str]], dict[tuple[int, int], int]]:
    """Xenalyze learns of a vCPU from a record and assumes that it has run since its pCPU's first TSC.

    Records of the domain's other vCPUs have already ended the domain's intervals up to that record, without
    this vCPU, and the interval that it begins counts the time from the pCPU's first TSC once more.  Return
    the changes with the first one of such vCPUs delayed, and the time that counts twice there.
    """
    learned = {key: case.taught[key].at for _, key, _ in changes}
    put_off, twice = [], {}
    for tsc, key, name in changes:
        at = tsc
        if tsc == case.taught[key].since < learned[key]:
            others = [other for other in learned if other != key and learned[other] <= learned[key]]
            touched = [then for then, other, _ in changes if other in others]
            touched += [
                then for other in others for then in case.continues.get(other, []) if then > learned[other]
            ]
            at = max((then for then in touched if tsc < then <= learned[key]), default=tsc)
        put_off.append((at, key, name))
        if at > tsc:
            twice[at, key] = at - tsc
    return put_off, twice


def state_of_domain(states: Iterable[str]) -> str:
    """Return a domain's state by those of its vCPUs that are known."""
    found = set(states)
    waits = bool(found & {"blocked", "offline"})
    if "running" in found and "runnable" in found:
        return "concurrency_hazard"
    if "running" in found:
        return "partial run" if waits else "full run"
    if "runnable" in found:
        return "partial contention" if waits else "full_contention"
    return next((state for state in ("blocked", "offline", "lost") if state in found), "unknown")


def blocked_while_offline(state: str) -> str:
    """To xenalyze a domain is blocked where all its vCPUs are offline."""
    return "blocked" if state == "offline" else state


def exit_lasts_until_runnable(case: Case, key: int, row: Interval) -> int | None:
    """Return the cycles that xenalyze counts for an exit, None if it does not count it.

    It ends the exit in which a vCPU stops to run when the vCPU becomes runnable again; for us it ends where
    the vCPU leaves the pCPU.  What a loss cuts off or the trace's end leaves open does not count.
    """
    changes = [record for record in case.runstates.get(key, []) if record.tsc >= row.tsc]
    stop = next((record for record in changes if record.tsc == row.tsc), None)
    if stop is None or change_of(stop)[0] != Runstate.RUNNING or change_of(stop)[1] in WANT_TO_RUN:
        return row.value
    wakes = [record.tsc for record in changes if change_of(record)[1] == Runstate.RUNNABLE]
    if not wakes:
        return None
    lost = [begin for begin, _, metric in case.stretches.get(key, []) if metric == Metric.STATE_LOST]
    if any(row.tsc <= begin <= wakes[0] for begin in lost):
        return None
    return row.value + wakes[0] - row.tsc


def exits_of_stand_ins(case: Case, pcpu: int) -> dict[int, Sum]:
    """Xenalyze measures exits before a pCPU's first switch as those of a stand-in; ours have no time."""
    ours: defaultdict[int, Sum] = defaultdict(Sum)
    begun: Record | None = None
    for record in case.records:
        if record.pcpu != pcpu:
            continue
        if record is case.first_switches.get(pcpu) or record.event == LOST_RECORDS:
            break
        if record.event & ~0x100 in VMEXITS:
            begun = record
        elif record.event & ~0x100 == VMENTRY and begun:
            ours[begun.words[0]].count += 1
            ours[begun.words[0]].cycles += record.tsc - begun.tsc
            begun = None
    return ours


def used_from_its_first_switch(case: Case, pcpu: int) -> int:
    """Xenalyze counts a pCPU's use from the first switch to a vCPU that it sees there, or from its first TSC.

    We know what ran before it from "running to ..." as the pCPU's first switch.
    """
    first = case.first_switches.get(pcpu)
    if first is None or change_of(first)[1] == Runstate.RUNNING:
        return 0
    switches = (
        record.tsc
        for record in case.records
        if record.pcpu == pcpu and names(record) is not None and change_of(record)[1] == Runstate.RUNNING
    )
    losses = (record.tsc for record in case.records if record.pcpu == pcpu and record.event == LOST_RECORDS)
    return min(next(switches, 1 << 62), next(losses, 1 << 62))


def lost_records_twice(sizes: Counter[str], lost_records: int) -> Counter[str]:
    """Xenalyze counts LOST_RECORDS in the volume at its first_tsc and again at its own TSC."""
    return sizes + Counter(gen=28 * lost_records)


def with_subcalls(events: Counter[str]) -> Counter[str]:
    """Xenalyze also counts multicall entries as hypercalls."""
    return events + Counter(hypercall=events["hypercall (subcall)"])


# --- the comparisons ---------------------------------------------------------------------------


def test_total_time(case: Case) -> None:
    glob = case.ours.machine.glob
    assert case.total_cycles == glob[G.LAST_TSC] - glob[G.FIRST_TSC]


def test_volume_by_class(case: Case) -> None:
    reader = case.ours.reader
    shapes = reader.shapes
    sizes = 4 + 8 * shapes.timed.astype(np.int64) + 4 * shapes.words.astype(np.int64)
    for pcpu, volume in case.theirs.volumes.items():
        ours: Counter[str] = Counter()
        lost = 0
        for shape, count in enumerate(reader.record_counts[pcpu, : shapes.size].tolist()):
            event = int(shapes.event[shape])
            if count:
                ours[CLASSES[(event >> 16) & -(event >> 16)]] += count * int(sizes[shape])
            lost += count * (event == LOST_RECORDS)
        assert lost_records_twice(ours, lost) == Counter(volume.classes)


def test_pv_events(case: Case) -> None:
    hypercalls: defaultdict[int, Counter[int]] = defaultdict(Counter)
    events: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for (metric, a, b), count in case.ours.counts.items():
        if metric in (Metric.HYPERCALL, Metric.SUBCALL):
            hypercalls[a][b] += count
            events[a]["hypercall" if metric == Metric.HYPERCALL else "hypercall (subcall)"] += count
        elif metric == Metric.PV_EVENT:
            events[a][PV_NAMES[b]] += count
    traps = {key: Counter(row.b for row in rows) for key, rows in case.by_metric[Metric.TRAP].items()}
    for key, vcpu in case.known.items():
        assert hypercalls.pop(key, Counter()) == Counter(vcpu.hypercalls), hex(key)
        ours = with_subcalls(events.pop(key, Counter()))
        assert ours == Counter(vcpu.pv_events), hex(key)
        assert traps.pop(key, Counter()) == Counter(vcpu.traps), hex(key)
    assert (hypercalls, events, traps) == ({}, {}, {})


def test_runstates(case: Case) -> None:
    compared = 0
    for key, vcpu in case.known.items():
        if key >> 16 == DEFAULT_DOMAIN:
            continue
        ours: defaultdict[str, Sum] = defaultdict(Sum)
        for begin, end, metric in counted(case, key):
            ours[STATE_OF[metric]].add(end - begin)
            if metric in RUNNABLE_OF:
                ours[RUNNABLE_OF[metric]].add(end - begin)
        ours["running"].count += split_at_continue(case, key)
        ours["running"].add(closed_at_the_end_of_its_pcpu(case, key))
        for begin, ended, end in ran_until_its_pcpu_ended(case, key):
            ours["running"].add(ended - begin)
            ours["lost"].add(end - ended)
            ours["unknown"].cycles -= end - begin
        ours["lost"].add(lost_until_the_last_loss(case, key))
        for name in ("running", "runnable", "blocked", "offline"):
            assert ours[name].agrees(vcpu.runstates.get(name)), (hex(key), name)
        for name in RUNNABLE_OF.values():
            assert ours[name].agrees(vcpu.runnable.get(name)), (hex(key), name)
        assert ours["lost"].agrees_in_cycles(vcpu.runstates.get("lost")), hex(key)
        assert ours["unknown"].cycles == 0, hex(key)
        compared += ours["running"].count
    assert compared > 100


def test_domain_runstates(case: Case) -> None:
    for domain, summed in case.theirs.domains.items():
        ours = split_at_every_record(case, domain)
        for name in DOMAIN_NAMES.values():
            row = summed.runstates.get(name)
            assert Sum(0, ours[name]).agrees_in_cycles(row), (domain, name, ours[name], row)


def test_domain_states_agree_with_those_of_the_vcpus(case: Case) -> None:
    """To the cycle, except for what is known too late to count: that a vCPU has run since its pCPU's first
    record, and that the vCPU's state was not what the records said until one contradicts them.
    """
    ends = as_intervals(case.ours.ends)
    for domain in case.theirs.domains:
        changes = []
        late = 0
        for key, vcpu in case.vcpus.items():
            if key >> 16 == domain and vcpu[V.FIRST_KNOWN]:
                changes += [
                    (begin, key, STATE_OF[metric]) for begin, _, metric in case.stretches.get(key, [])
                ]
                changes.append((vcpu[V.SINCE], key, STATE_NAMES[vcpu[V.STATE]]))
                late += case.runstates[key][0].tsc - vcpu[V.FIRST_KNOWN] if key in case.runstates else 0
                late += sum(
                    end - begin
                    for begin, end, metric in case.stretches[key]
                    if metric == Metric.STATE_UNKNOWN
                )
        changes.sort(key=lambda change: change[:1])
        expected: Counter[str] = Counter()
        states: dict[int, str] = {}
        for (tsc, key, name), following in zip(changes, [*changes[1:], (case.last_tsc, 0, "")], strict=True):
            states[key] = name
            expected[state_of_domain(states.values())] += following[0] - tsc
        ours: Counter[str] = Counter()
        for row in [*case.rows, *ends]:
            of = Metric(row.b >> 32) if row.metric == Metric.OPEN else row.metric
            if of == Metric.DOMAIN_STATE and row.a == domain:
                ours[DOMAIN_NAMES[DomainState(row.b & 0xFFFF_FFFF)]] += row.value
        assert (expected - ours).total() <= late, domain
        assert (ours - expected).total() <= late, domain


def test_affinity(case: Case) -> None:
    if case.losses:
        pytest.skip("a loss cuts off our stays but not xenalyze's")
    for key, vcpu in case.known.items():
        if key >> 16 == DEFAULT_DOMAIN or vcpu.affinity is None:
            continue
        every, each = stays_by_pcpu_moved_to(case, key)
        assert every.agrees(vcpu.affinity), (hex(key), every, vcpu.affinity)
        for pcpu in each.keys() | vcpu.affinity_pcpu.keys():
            assert each[pcpu].agrees(vcpu.affinity_pcpu.get(pcpu)), (hex(key), pcpu)


def test_pcpu_use(case: Case) -> None:
    for number, use in case.theirs.pcpus.items():
        ours = {}
        first = used_from_its_first_switch(case, number)
        for name, metric in (
            ("running", Metric.PCPU_RUNNING), ("idle", Metric.PCPU_IDLE), ("lost", Metric.PCPU_LOST)
        ):  # fmt: skip
            ours[name] = Sum()
            for row in case.by_metric[metric].get(number, []):
                if row.tsc > first or metric == Metric.PCPU_LOST:
                    ours[name].add(row.value)
        since, last = case.ours.pcpu(number, P.ACCOUNT_SINCE), case.ours.pcpu(number, P.LAST_TSC)
        at_the_end = PcpuTime(case.ours.pcpu(number, P.ACCOUNT))
        if at_the_end in (PcpuTime.RUNNING, PcpuTime.IDLE):
            ours[at_the_end.name.lower()].add(last - since)
        assert ours["running"].agrees(use.running), number
        assert ours["idle"].agrees(use.idle), number
        assert ours["lost"].agrees(use.lost), number


def test_exits(case: Case) -> None:
    """Compared by count and cycles, because xenalyze has its own names for reasons on AMD."""
    for key, vcpu in case.known.items():
        ours: defaultdict[int, Sum] = defaultdict(Sum)
        for row in case.by_metric[Metric.HVM_EXIT].get(key, []):
            if (cycles := exit_lasts_until_runnable(case, key, row)) is not None:
                ours[row.b].count += 1
                ours[row.b].cycles += cycles
        if key >> 16 == DEFAULT_DOMAIN:
            ours.update(exits_of_stand_ins(case, key & 0xFFFF))
        means = sorted((total.count, total.cycles // total.count) for total in ours.values())
        assert means == sorted((row.cycles.count, row.cycles.mean) for row in vcpu.exits.values()), hex(key)


def test_guest_interrupts(case: Case) -> None:
    for key, vcpu in case.known.items():
        ours = Counter(row.b for row in case.by_metric[Metric.INJECTION].get(key, []))
        assert ours == Counter({vector: row.count for vector, row in vcpu.guest_interrupts.items()}), hex(key)


def test_open_ends_are_those_of_the_intervals(case: Case) -> None:
    """What runs at the end is OPEN up to the last record; xenalyze closes it at the end of its pCPU."""
    running = int(Metric.RUNNING) << 32
    ends = {
        row.a: row for row in as_intervals(case.ours.ends) if row.metric == Metric.OPEN and row.b == running
    }
    assert ends.keys() == {key for key, (begin, _) in case.still_running.items() if begin < case.last_tsc}
    for key, row in ends.items():
        begin, end = case.still_running[key]
        assert row.tsc == case.last_tsc
        assert row.value == case.last_tsc - begin >= end - begin
