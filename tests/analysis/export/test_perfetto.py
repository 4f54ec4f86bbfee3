"""Perfetto's format, read back by the package's messages, against the reference machines."""

from __future__ import annotations

import functools
import io
import lzma
import random
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from builders import read_perfetto
from builders.damaged import damaged
from builders.hostile import NAMES
from builders.read_perfetto import Read
from oracle import machine as oracle
from oracle.machine import IDLE, STAND_IN, Interval, Result, Told
from oracle.reader import read as read_slowly
from oracle.reading import SAMPLES
from xtrace.analysis.export.names import Part
from xtrace.analysis.export.perfetto.threads import STRIDE, ProcessTree
from xtrace.analysis.export.perfetto.write import write
from xtrace.analysis.export.source import Exported, ExportRequest
from xtrace.analysis.state_machine.metrics import Detail, Metric
from xtrace.probes.catalog.names import HYPERCALLS
from xtrace.probes.errors import TraceError
from xtrace.probes.selection.times import Moment
from xtrace.probes.selection.vcpus import Vcpu

WHOLE = next(path for path in SAMPLES if "pv-all" in path.name)
LOSSY = next(path for path in SAMPLES if "pv-lost" in path.name)
#: Two times in whole ns, each rounded, are apart by at most this much more than the interval in cycles.
ROUNDED_NS = 1


def written(path: Path, *, parts: tuple[Part, ...] = tuple(Part), **request: object) -> Read:
    out = io.BytesIO()
    told: list[str] = []
    exported = Exported(ExportRequest(path=path, **request))  # type: ignore[arg-type]
    counts = write(exported, out, parts=parts, tell=told.append)
    found = read_perfetto.read(out.getvalue())
    assert counts.switches == sum(map(len, found.switches.values()))
    assert counts.wakes == len(found.wakings)
    assert counts.slices == len(found.slices)
    assert counts.instants == len(found.instants)
    assert counts.flows == sum(len(each.flows) for each in found.slices)
    assert not told
    return found


@functools.cache
def machines(path: Path) -> Result:
    return oracle.run(read_slowly(lzma.decompress(path.read_bytes())).records_and_holes)


@functools.cache
def exported(path: Path) -> Read:
    return written(path)


@functools.cache
def hz(path: Path) -> float:
    return Exported(ExportRequest(path=path)).hz


def tid(key: int) -> int:
    domain = key >> 16
    return 0 if domain == IDLE else (domain + 1) * STRIDE + 1 + (0 if domain == STAND_IN else key & 0xFFFF)


def intervals(path: Path, metric: Metric) -> list[Interval]:
    return [each for each in machines(path).intervals if each.metric is metric]


def details(path: Path, detail: Detail) -> list[Told]:
    return [each for each in machines(path).details if each.detail is detail]


def same_times(found: list[int], cycles: list[int], rate: float) -> bool:
    pairs = zip(sorted(found), sorted(cycles), strict=True)
    return all(abs(ns - each * 1e9 / rate) <= ROUNDED_NS for ns, each in pairs)


# --- the questions of docs/export.md, with the reference machines' answers ---------------------


@pytest.mark.parametrize("sample", [WHOLE, LOSSY], ids=lambda path: path.name.split(".")[0])
def test_how_often_each_thread_ran(sample: Path) -> None:
    expected = Counter(tid(each.a) for each in details(sample, Detail.RUN_BEGIN))
    found = Counter(run.tid for run in exported(sample).runs)
    assert {each: found[each] for each in expected} == expected
    # Besides, a pCPU without known work.
    assert set(found) - set(expected) <= {tid(STAND_IN << 16)}


@pytest.mark.parametrize("sample", [WHOLE, LOSSY], ids=lambda path: path.name.split(".")[0])
def test_who_was_woken_and_where_the_waker_ran(sample: Path) -> None:
    expected = Counter((tid(each.a), each.b >> 32) for each in details(sample, Detail.WAKE))
    assert Counter((thread, cpu) for _, thread, cpu in exported(sample).wakings) == expected


def test_how_long_each_thread_waited_after_a_wake() -> None:
    """The time from waking to running, as sched.latency computes it, is that of WAKE_TO_RUNNING."""
    expected = defaultdict(list)
    for each in intervals(WHOLE, Metric.WAKE_TO_RUNNING):
        expected[tid(each.a)].append(each.value)
    found = exported(WHOLE).wake_latencies()
    assert set(found) == set(expected)
    for thread, waits in found.items():
        assert same_times(waits, expected[thread], hz(WHOLE))


def test_cpu_time_of_each_thread() -> None:
    """It is that of the runs, and the time of Xen's switches after them."""
    lasted: Counter[int] = Counter()
    begins: dict[int, tuple[int, int]] = {}
    for each in details(WHOLE, Detail.RUN_BEGIN):
        if each.b in begins:
            key, since = begins[each.b]
            lasted[tid(key)] += each.tsc - since
        begins[each.b] = each.a, each.tsc
    last = max(each.tsc for each in machines(WHOLE).ends)
    for key, since in begins.values():
        lasted[tid(key)] += last - since
    found: Counter[int] = Counter()
    runs = exported(WHOLE).runs
    for run in runs:
        found[run.tid] += 0 if run.end is None else run.end - run.begin
    for thread, cycles in lasted.items():
        count = sum(run.tid == thread for run in runs)
        assert found[thread] == pytest.approx(cycles * 1e9 / hz(WHOLE), abs=ROUNDED_NS * count)
    assert sum(lasted.values()) > 10 * hz(WHOLE)


def test_the_longest_upcalls() -> None:
    for metric, name in ((Metric.UPCALL_MAX, "upcall after a block, at most"),):
        found = [each for each in exported(WHOLE).slices if each.name == name]
        expected = intervals(WHOLE, metric)
        assert same_times(
            [each.end - each.begin for each in found], [each.value for each in expected], hz(WHOLE)
        )
        assert Counter(each.thread for each in found) == Counter(tid(each.a) for each in expected)
        assert {each.category for each in found} == {"at most"}


def test_who_sent_to_whom() -> None:
    """A flow goes from the sender's slice to the slice of the wake that it caused."""
    slices = exported(WHOLE).slices
    targets = {flow: each.thread for each in slices for flow in each.ending}
    assert len(targets) == len([each for each in slices if each.ending])
    found = Counter((each.thread, targets[flow]) for each in slices for flow in each.flows if flow in targets)
    assert found == Counter((tid(each.b), tid(each.a)) for each in intervals(WHOLE, Metric.SEND_TO_WAKE))


def test_which_hypercalls_each_thread_made() -> None:
    expected: Counter[tuple[int, str]] = Counter()
    for count, number in machines(WHOLE).counts.items():
        if count.metric is Metric.HYPERCALL:
            expected[tid(count.a), HYPERCALLS[count.b]] += number
    found = Counter(
        (thread, name) for track, thread, name, _ in exported(WHOLE).instants
        if track == "hypercalls" and "multicall)" not in name and thread is not None
    )  # fmt: skip
    assert found == Counter(
        {key: number for key, number in expected.items() if key[0] != tid(STAND_IN << 16)}
    )


def test_how_long_each_vcpu_was_in_each_state() -> None:
    names = {
        Metric.RUNNING: "running",
        Metric.BLOCKED: "blocked",
        Metric.RUNNABLE_PREEMPT: "runnable, preempted",
    }
    slices = [
        each for each in exported(WHOLE).slices if each.track == "runstates" and each.category == "exact"
    ]
    for metric, name in names.items():
        expected = [each for each in intervals(WHOLE, metric) if each.a >> 16 != IDLE]
        found = [each.end - each.begin for each in slices if each.name == name]
        assert same_times(found, [each.value for each in expected], hz(WHOLE))


# --- what is lost ------------------------------------------------------------------------------


def test_losses_are_slices_of_their_pcpu() -> None:
    expected = intervals(LOSSY, Metric.PCPU_LOST)
    found = [each for each in exported(LOSSY).slices if each.name == "records lost"]
    assert same_times([each.end - each.begin for each in found], [each.value for each in expected], hz(LOSSY))
    assert Counter(each.track for each in found) == Counter(
        f"pCPU {each.a}: without records" for each in expected
    )


@pytest.mark.parametrize("seed", range(6))
def test_damaged_traces(tmp_path: Path, seed: int) -> None:
    """Whatever can be read is exported, in a form that can be read back."""
    case = damaged(random.Random(seed))
    path = tmp_path / "t.bin"
    path.write_bytes(case.data)
    try:
        found = written(path, cpu_hz=2.3e9)
    except TraceError:
        return  # nothing can be read of it
    assert found.switches or found.slices or found.instants or not found.threads


# --- names, filters ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_hostile_name_of_a_domain_is_text(name: str) -> None:
    import numpy as np
    from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import TracePacket

    content = ProcessTree({1: name}).new(np.array([1 << 16 | 3]))
    process = TracePacket.FromString(content).process_tree.processes[0]
    assert process.cmdline[0].startswith("d1")
    assert process.cmdline[0].isprintable()
    assert len(process.cmdline[0].encode()) < 1000


def test_a_window_has_what_ends_in_it() -> None:
    part = written(WHOLE, begin=Moment.parse("1s"), end=Moment.parse("2s"))
    whole = exported(WHOLE)
    second = 10**9
    assert Counter(part.wakings) == Counter(each for each in whole.wakings if second <= each[0] < 2 * second)
    kept = {each for each in whole.slices if second <= each.end < 2 * second}
    assert {each for each in part.slices if each.track == "wakes"} == {
        each for each in kept if each.track == "wakes"
    }


def test_a_domain_alone() -> None:
    part = written(WHOLE, domains=[1], parts=(Part.SCHED, Part.RUNSTATES, Part.WAKES))
    whole = exported(WHOLE)
    mine = {tid(1 << 16)}
    assert {each[1] for each in part.wakings} == mine
    assert [run.begin for run in part.runs if run.tid in mine] == [
        run.begin for run in whole.runs if run.tid in mine
    ]
    assert {run.tid for run in part.runs} == mine | {tid(STAND_IN << 16)}
    assert {each.thread for each in part.slices if each.track in ("runstates", "wakes")} == mine


def test_a_vcpu_alone() -> None:
    part = written(WHOLE, vcpus=[Vcpu.parse("d0v1")], parts=(Part.WAKES,))
    expected = [each for each in intervals(WHOLE, Metric.WAKE_TO_RUNNING) if each.a == 1]
    assert len([each for each in part.slices if each.track == "wakes"]) == len(expected)


@pytest.mark.parametrize(("path", "why"), [("-", "only once"), ("/dev/null", "not a file")])
def test_what_cannot_be_read_twice_is_refused(path: str, why: str) -> None:
    with pytest.raises(TraceError, match=why):
        Exported(ExportRequest(path=Path(path)))
