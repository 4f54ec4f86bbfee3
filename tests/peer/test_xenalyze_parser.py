"""The parsers of xenalyze's output, on excerpts and real traces; crafted traces pin xenalyze's behaviour."""

from __future__ import annotations

import struct
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from peer import xenalyze_run
from peer.xenalyze import (
    Dump,
    RawRecords,
    XenalyzeError,
    decode,
    dump_all,
    dumped_ns,
    needs_xenalyze,
    parse_raw_reads,
    parse_summary,
    raw_records,
    summary,
    svm_args,
)
from peer.xenalyze_dump import INFERRED, LOST_RECORDS_END, NO_PAYLOAD, parse_dump
from peer.xenalyze_run import Printed, quantised_hz
from peer.xenalyze_summary import Cycles, ExitReason, GuestInterrupt

CPU_HZ = 2_600_000_000
CLASSES = {
    1 << i: name for i, name in enumerate(["gen", "sched", "dom0op", "hvm", "mem", "pv", "shadow", "hw"])
}
LOST_RECORDS, WRAP_BUFFER = 0x1F001, 0x1F002
HYPERCALL, MMU_UPDATE, IRET = 0x20100D, 1, 23
RUNNING, RUNNABLE, BLOCKED = 0, 1, 2
RUNSTATES = ["running", "runnable", "blocked", "offline"]

#: Without the last 12 bits: xenalyze skips this sub-class.
EVENT_DELIVERY = 0x804


# --- an independent decoder and a small writer ---------------------------------------------------


def records_of(data: bytes) -> Iterator[tuple[int, int, int | None, int, tuple[int, ...]]]:
    """Yield pCPU, offset, TSC, event and words of every record except CPU_CHANGE, window by window."""
    at = 0
    while at < len(data):
        header, pcpu, size = struct.unpack_from("<3I", data, at)
        assert header == 0x2001F003
        at += 12
        end = at + size
        while at < end:
            (header,) = struct.unpack_from("<I", data, at)
            start, n, tsc = at, header >> 28 & 7, None
            at += 4
            if header >> 31:
                (tsc,) = struct.unpack_from("<Q", data, at)
                at += 8
            yield pcpu, start, tsc, header & 0x0FFF_FFFF, struct.unpack_from(f"<{n}I", data, at)
            at += 4 * n
        assert at == end


def record(event: int, tsc: int | None, *words: int) -> bytes:
    """Return one record as Xen writes it."""
    header = event | len(words) << 28 | (tsc is not None) << 31
    stamp = b"" if tsc is None else struct.pack("<Q", tsc)
    return struct.pack("<I", header) + stamp + struct.pack(f"<{len(words)}I", *words)


def window(pcpu: int, records: Iterable[bytes]) -> bytes:
    """Return one window of one pCPU."""
    body = b"".join(records)
    return struct.pack("<3I", 0x2001F003, pcpu, len(body)) + body


def change(tsc: int, dom: int, vcpu: int, old: int, new: int) -> bytes:
    return record(0x21001 | old << 8 | new << 4, tsc, vcpu | dom << 16)


def hypercall(tsc: int, op: int) -> bytes:
    return record(HYPERCALL, tsc, op)


def lost(tsc: int, first_tsc: int, dom: int, vcpu: int, count: int = 5) -> bytes:
    return record(LOST_RECORDS, tsc, count, dom | vcpu << 16, first_tsc & 0xFFFF_FFFF, first_tsc >> 32)


# --- excerpts of its output ----------------------------------------------------------------------

RAW_READS = b"""\
R p 0 o0000000000000000    1f003 2              - [        0       38                                              ] |  2001f003 00000000 00000038 a0201106 07a80b00 000003a1 81022506 ffffffff |
R p 1 o0000000000000000    1f003 2              - [        1       10                                              ] |  2001f003 00000001 00000010 90028004 07bd2a3e 000003a1 00000003 00000000 |
R p 1 o0000000000000050    28004 1  3990154455614 [        3                                                       ] |  90028004 07bd2a3e 000003a1 00000003 00000000 90021211 07bd4694 000003a1 |
R p 0 o000000000000000c   201106 2  3990153071360 [ 81022506 ffffffff                                              ] |  a0201106 07a80b00 000003a1 81022506 ffffffff 9020100d 07a8ecfa 000003a1 |
R p 0 o0000000000000020  f0fffff 7  3990153129210 [        1        2        3        4        5        6 fffffff7 ] |  ff0fffff 07a8ecfa 000003a1 00000001 00000002 00000003 00000004 00000005 |
R p 0 o0000000000000044    82004 2              - [       f3        0                                              ] |  20082004 000000f3 00000000 80081001 eeda674b 000002fa b0081102 eedbc57b |
R p 0 o0000000000000044    1f003 2              - [        1       10                                              ] |  2001f003 00000001 00000010 90028004 07bd2a3e 000003a1 00000003 00000000 |
R p255 o0000000012345678    28004 0 399015307136000 [                                                                ] |  80028004 fda44c00 00016ae6 00000003 00000000 90021211 07bd4694 000003a1 |
"""  # noqa: E501


def test_raw_reads_of_any_width() -> None:
    stderr = "".join(f"scan_for_new_pcpu: Activating pcpu {p} at offset {68 * p}\n" for p in range(2))
    records = parse_raw_reads(Printed(RAW_READS, stderr))
    assert records.pcpu.tolist() == [0, 0, 0, 1, 255]
    assert records.offset.tolist() == [0xC, 0x20, 0x44, 0x50, 0x12345678]
    assert records.event.tolist() == [0x201106, 0xF0FFFFF, 0x82004, 0x28004, 0x28004]
    assert records.timed.tolist() == [True, True, False, True, True]
    assert records.tsc.tolist()[:4] == [3990153071360, 3990153129210, 0, 3990154455614]
    assert records.tsc[4] == 399015307136000
    assert records.n_words.tolist() == [2, 7, 2, 1, 0]
    assert records.words[1].tolist() == [1, 2, 3, 4, 5, 6, 0xFFFF_FFF7]
    assert records.words[3].tolist() == [3, 0, 0, 0, 0, 0, 0]
    windows = records.windows
    assert (windows.offset.tolist(), windows.pcpu.tolist(), windows.size_bytes.tolist()) == (
        [0, 68],
        [0, 1],
        [56, 16],
    )


def test_raw_reads_of_empty_output() -> None:
    assert len(parse_raw_reads(Printed(b"", ""))) == 0


@pytest.mark.parametrize("line", [b"Strange, something\n", RAW_READS[:100] + b"\n"])
def test_raw_reads_refuses_other_lines(line: bytes) -> None:
    with pytest.raises(XenalyzeError, match="not a raw record"):
        parse_raw_reads(Printed(line, ""))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "runstate_change d0v1 blocked->runnable",
            ("runstate_change", {"dom": 0, "vcpu": 1, "old": "blocked", "new": "runnable"}),
        ),
        ("vcpu_wake d32767v1", ("vcpu_wake", {"dom": 32767, "vcpu": 1})),
        (
            "sched_switch prev d0v1 next d32767v0",
            ("sched_switch", {"prev_dom": 0, "prev_vcpu": 1, "next_dom": 32767, "next_vcpu": 0}),
        ),
        # 9254.5us is 9,254,005 ns: the digits after the point are not padded.
        (
            "sched_switch prev d0v1, run for 9254.5us",
            ("sched_switch_prev", {"dom": 0, "vcpu": 1, "ran_ns": 9_254_005}),
        ),
        (
            "sched_switch next d3v0",
            ("sched_switch_next", {"dom": 3, "vcpu": 0, "waited_ns": 0, "slice_ns": None}),
        ),
        (
            "sched_switch next d3v0, was runnable for 0.700us, next slice 500.0us",
            ("sched_switch_next", {"dom": 3, "vcpu": 0, "waited_ns": 700, "slice_ns": 500_000}),
        ),
        (
            "sched_switch continue d3v0, run for 1.1us, next slice 2.22us",
            ("sched_switch_continue", {"dom": 3, "vcpu": 0, "ran_ns": 1001, "slice_ns": 2022}),
        ),
        ("hypercall 17 (iret)", ("hypercall", {"op": 23, "name": "iret"})),
        (" hypercall  e (update_va_mapping)", ("hypercall_subcall", {"op": 14, "name": "update_va_mapping"})),
        (
            "hypercall  1 (mmu_update) 32 updates (preempted)",
            ("hypercall", {"op": 1, "name": "mmu_update", "updates": 32, "preempted": 1}),
        ),
        (
            "hypercall 1a (mmuext_op) -2147483645 ops",
            ("hypercall", {"op": 26, "name": "mmuext_op", "ops": 0x8000_0003}),
        ),
        (
            "hypercall 14 (grant_table_op) copy 3 ops",
            ("hypercall", {"op": 20, "name": "grant_table_op", "cmd": "copy", "ops": 3}),
        ),
        (
            "hypercall 18 (vcpu_op) set_singleshot_timer vcpu 1",
            ("hypercall", {"op": 24, "name": "vcpu_op", "cmd": "set_singleshot_timer", "target_vcpu": 1}),
        ),
        (
            "hypercall  c (memory_op) 0000000a 0000000000000016 ??",
            ("hypercall", {"op": 12, "name": "memory_op", "arg0": 10, "arg1": 16, "arg2": None}),
        ),
        ("trap e eip ffffffff81000000 ec 2", ("trap", {"trapnr": 14, "eip": 0xFFFF_FFFF_8100_0000, "ec": 2})),
        ("trap 7 eip 1000", ("trap", {"trapnr": 7, "eip": 0x1000})),
        (
            "page_fault[ 8102a4d5 ffffffff 1 0 2 ]",
            ("page_fault", {"word0": 0x8102A4D5, "word1": 0xFFFFFFFF, "word2": 1, "word3": 0, "word4": 2}),
        ),
        (
            "emulate privop[ 81022506 ffffffff ]",
            ("emulate_privop", {"word0": 0x81022506, "word1": 0xFFFFFFFF}),
        ),
        ("math state restore", ("math_state_restore", {})),
        ("ptwr l1e 8010 eip ffff addr 1a", ("ptwr", {"l1e": 0x8010, "eip": 0xFFFF, "addr": 0x1A})),
        ("irq_handled irq 1a 5 (-7,-2)", ("irq_handled", {"irq": 26, "cycles": 5, "start": -7, "end": -2})),
        ("grant-map domain 3", ("grant_map", {"dom": 3})),
        (
            "vmexit exit_reason VMEXIT_HLT eip ffffffff81ea",
            ("vmexit", {"reason": "VMEXIT_HLT", "rip": 0xFFFF_FFFF_81EA}),
        ),
        ("vmentry cycles 46696 !", ("vmentry", {"cycles": 46696})),
        ("vmentry cycles 9 ", ("vmentry", {"cycles": 9})),
        ("vmentry", ("vmentry", {})),
        ("inj_virq vec 243  real", ("inj_virq", {"vector": 243, "fake": "real"})),
        (
            "intr_window vec 243 src 2(lapic) intr #",
            ("intr_window", {"vector": 243, "source": 2, "source_name": "lapic"}),
        ),
        (
            "intr_window vec 243 src 5(vector) intr f3",
            ("intr_window", {"vector": 243, "source": 5, "source_name": "vector", "intr": 0xF3}),
        ),
        ("intr vec 0", ("intr", {"vector": 0})),
        ("vmcall 18 (vcpu_op)", ("vmcall", {"op": 24, "name": "vcpu_op"})),
        ("msr_write addr c0000100 val 0", ("msr_write", {"msr": 0xC000_0100, "value": 0})),
        ("cpuid [ 1 0 ]", ("cpuid", {"word0": 1, "word1": 0})),
        ("hlt [ 0 ]", ("hlt", {"word0": 0})),
        (
            "  81102(8:1:102) 3 [ 60 810377d0 ffffffff ]",
            ("event_81102", {"word0": 0x60, "word1": 0x810377D0, "word2": 0xFFFFFFFF}),
        ),
        (
            "csched2:burn_credits d0v1, credit = -5, delta = -2",
            ("csched2:burn_credits", {"dom": 0, "vcpu": 1, "credit": -5, "budget": None, "delta": -2}),
        ),
        (
            "csched2:runq_candidate d0v1, credit = 5, no cpu was tickled",
            ("csched2:runq_candidate", {"dom": 0, "vcpu": 1, "credit": 5, "tickled_cpu": 0xFFFF_FFFF}),
        ),
        (
            "csched2:schedule cpu 1, rq# 0, idle, SMT busy, not tickled",
            ("csched2:schedule", {"cpu": 1, "rqi": 0, "tasklet": 0, "idle": 1, "smt_idle": 0, "tickled": 0}),
        ),
        (
            "csched2:update_rq_load rq# 0, load = 3, avgload = 350.957% (920013), b_avgload = 0.000% (0)",
            ("csched2:update_rq_load", {"rqi": 0, "load": 3, "avgload": 920013, "b_avgload": 0}),
        ),
        (
            "csched2:ratelimit, d3v0 run only 12.34us",
            ("csched2:ratelimit", {"dom": 3, "vcpu": 0, "ran_ns": 12034}),
        ),
        (
            "lost_records count 3119 d0v1 (cur X) first_tsc 2074817402744",
            ("lost_records", {"count": 3119, "dom": 0, "vcpu": 1, "first_tsc": 2074817402744}),
        ),
        ("lost_records end d0v1", ("lost_records_end", {"dom": 0, "vcpu": 1})),
        ("something else", None),
    ],
)
def test_decode(text: str, expected: tuple[str, dict[str, int | str | None]] | None) -> None:
    assert decode(text) == expected


DUMP = """\
scan_for_new_pcpu: Activating pcpu 0 at offset 0
R p 0 o000000000000000c    22205 3              9 [        0        1        2                                     ] |  b0022205 00000009 00000000 00000000 00000001 00000002 00000000 00000000 |
*    22205 3              9 [        0        1        2                                     ] |  b0022205 00000009 00000000 00000000 00000001 00000002 00000000 00000000 |
                x. d32768v0 csched2:tickle_check d0v0, credit = 1, score = 2

R p 0 o0000000000000024    21201 1             20 [        0                                                       ] |  90021201 00000014 00000000 00000000 00000000 00000000 00000000 00000000 |
*    21201 1             20 [        0                                                       ] |  90021201 00000014 00000000 00000000 00000000 00000000 00000000 00000000 |
   0.000000011 x  d?v? runstate_change d0v0 blocked->running
d0v0 RUNSTATE_RUNNING detected, leaving INITR p 0 o0000000000000034    22201 0             30 [                                                                ] |  80022201 0000001e 00000000 00000000 00000000 00000000 00000000 00000000 |
*    22201 0             30 [                                                                ] |  80022201 0000001e 00000000 00000000 00000000 00000000 00000000 00000000 |
"""  # noqa: E501


def test_dump_joins_lines_to_records() -> None:
    dump = parse_dump(DUMP)
    first, second, third = dump.lines
    assert dump.preamble == ("scan_for_new_pcpu: Activating pcpu 0 at offset 0",)
    assert (first.offset, first.tsc, first.time, first.pcpus, first.vcpu) == (12, 9, 0, "x.", "d32768v0")
    assert first.remarks == ()
    assert (second.time, second.pcpus, second.vcpu) == (11, "x ", "d?v?")
    assert second.remarks == ("d0v0 RUNSTATE_RUNNING detected, leaving INIT",)
    assert (third.event, third.text, third.time, third.time_s) == (0x22201, None, None, None)


SUMMARY = """\
Total time: 5.12 seconds (using cpu speed 2.60 GHz)
--- Log volume summary ---
 - cpu 0 -
 gen   :         36
 sched :     381776
 +-verbose:         12
 hvm   :      37972
 +-vmentry:       8700
|-- Default domain --|
-- v0 --
 Runstates:
PV events:
  emulate privop  4
|-- Domain 6 --|
 Runstates:
   blocked:      24  0.12s 13050930 {8665046|194996256|194996256}
  partial contention:     364  2.12s 15093641 {6537986|41434510|93410824}
 Grant table ops:
  Done by:
   grant-map     : 7
  Done for:
 Populate-on-demand:
  Populated:
   [1] 3
  Reclaim order:
  Reclaim contexts:
   * [balloon] 2
    [0] 2
-- v0 --
 Runstates:
   running:     506  2.86s 14651083 {4771130|34357700|78529802}
  runnable:     364  2.12s 15093641 {6537986|41434510|93410824}
        wake:      24  0.03s 3131976 {2038504|12318956|14250860}
     preempt:     340  2.09s 15937994 {4340414|41441764|93410824}
 cpu affinity:     170 77494763 {7268898|34416120|278403814}
   [0]:      86 99932299 {6878560|45190990|291787340}
PV events:
  trap  3
    [14] 3
  math state restore  157
  hypercall  8334
    mmu_update                   [ 1]:   2666
    update_va_mapping_otherdomain[22]:      1
  hypercall (subcall)  223
Exit reasons:
 VMEXIT_INTR               296  0.14s  2.75% 1232807 cyc {83044|286936|7352592}
            [  0]: 296
      EVTCHECK(252): 3
   (no handler)      287  0.01s  0.25% 113641 cyc {28366|64142|118170}
    [ evtchn_op]      174  0.17s  3.26% 2487221 cyc {108550|368056|17469556}
                  71        1  0.00s  0.00%     5 cyc {    5|    5|    5}
Guest interrupt counts:
  [243] 248
   * wake to halt any  :      23  0.48s 54359315 {80679430|303687124|455075738}
Emulate eip list
  ffffffff81000000 whatever
|-- Domain 32767 --|
 Runstates:
-- v0 --
 Runstates:
   running:      83  0.40s 12369245
pcpu 0
 running:     781  4.71s 15691025 {7774624|41500056|104089440}
    lost:       1  1.36s 3545677486 {3545677486|3545677486|3545677486}
Total active cpus: 1
"""


def test_summary() -> None:
    got = parse_summary(SUMMARY)
    assert got.unparsed == []
    assert (got.total_s, got.cpu_hz, got.active_pcpus) == (5.12, "2.60 GHz", 1)
    assert got.volumes[0].classes == {"gen": 36, "sched": 381776, "hvm": 37972}
    assert (got.volumes[0].hvm, got.volumes[0].sched_verbose) == ({"vmentry": 8700}, 12)
    assert got.default_domain[0].pv_events == {"emulate privop": 4}
    domain = got.domains[6]
    assert domain.runstates["blocked"] == Cycles(24, 0.12, 13050930, 8665046, 194996256, 194996256)
    assert domain.runstates["partial contention"].count == 364
    assert (domain.grants_done_by, domain.grants_done_for) == ({"grant-map": 7}, {})
    assert (domain.pod_populated, domain.pod_reclaim_contexts) == ({1: 3}, {"balloon": 2})
    vcpu = domain.vcpus[0]
    assert set(vcpu.runstates) == {"running", "runnable"}
    assert {name: row.count for name, row in vcpu.runnable.items()} == {"wake": 24, "preempt": 340}
    assert vcpu.affinity == Cycles(170, None, 77494763, 7268898, 34416120, 278403814)
    assert vcpu.affinity_pcpu[0].mean == 99932299
    events = {"trap": 3, "math state restore": 157, "hypercall": 8334, "hypercall (subcall)": 223}
    assert vcpu.pv_events == events
    assert (vcpu.hypercalls, vcpu.traps) == ({1: 2666, 22: 1}, {14: 3})
    assert vcpu.exits == {
        "VMEXIT_INTR": ExitReason(
            Cycles(296, 0.14, 1232807, 83044, 286936, 7352592, percent=2.75),
            {
                "(no handler)": Cycles(287, 0.01, 113641, 28366, 64142, 118170, percent=0.25),
                "evtchn_op": Cycles(174, 0.17, 2487221, 108550, 368056, 17469556, percent=3.26),
            },
            {0: 296, 252: 3},
        ),
        "71": ExitReason(Cycles(1, 0.0, 5, 5, 5, 5, percent=0.0)),
    }
    assert vcpu.guest_interrupts == {
        243: GuestInterrupt(
            248, {"wake to halt any": Cycles(23, 0.48, 54359315, 80679430, 303687124, 455075738)}
        )
    }
    assert got.domains[32767].vcpus[0].runstates == {"running": Cycles(83, 0.4, 12369245)}
    assert (got.pcpus[0].idle, got.pcpus[0].lost) == (None, Cycles(1, 1.36, *[3545677486] * 4))


def test_summary_keeps_unknown_lines() -> None:
    assert parse_summary(SUMMARY + "what is this\n").unparsed == ["what is this"]


def test_summary_refuses_other_text() -> None:
    with pytest.raises(XenalyzeError, match="not a summary"):
        parse_summary("")


# --- if it is missing or fails -------------------------------------------------------------------


def test_missing_is_skipped_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv(xenalyze_run.REQUIRE_VARIABLE, raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt-get install xen-utils-common"):
        xenalyze_run.require()


def test_missing_is_a_failure_if_peers_are_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv(xenalyze_run.REQUIRE_VARIABLE, "1")
    with pytest.raises(pytest.fail.Exception, match="apt-get install xen-utils-common"):
        xenalyze_run.require()


@needs_xenalyze
def test_abort_is_an_error_with_the_reason(tmp_path: Path) -> None:
    trace = tmp_path / "svm.bin"
    exit_ = record(0x81102, 2000, 0x72, 0x1000, 0)
    trace.write_bytes(window(0, [change(1000, 1, 0, RUNNABLE, RUNNING), exit_, hypercall(3000, IRET)]))
    with pytest.raises(XenalyzeError, match=r"status 1: .*exit_reason 72 > exit_reason_max") as caught:
        dump_all(trace)
    assert b"runstate_change d1v0" in caught.value.stdout
    assert svm_args(raw_records(trace)) == ("--svm-mode",)


@needs_xenalyze
def test_a_file_that_is_not_a_trace_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no trace at all, but long enough to be one, one would think\n")
    with pytest.raises(XenalyzeError, match="Unexpected record event"):
        raw_records(tmp_path / "text")


# --- its behaviour, pinned by crafted traces -----------------------------------------------------


@dataclass(frozen=True)
class Crafted:
    """Run xenalyze on windows written to a file."""

    path: Path

    def dump(self, *windows: bytes) -> Dump:
        self.path.write_bytes(b"".join(windows))
        return dump_all(self.path)


@pytest.fixture
def crafted(xenalyze: None, tmp_path: Path) -> Crafted:
    return Crafted(tmp_path / "crafted.bin")


def order(dump: Dump) -> list[tuple[int, int | None, int]]:
    return [(line.pcpu, line.tsc, line.words[0]) for line in dump.lines]


def labels(dump: Dump) -> list[tuple[int, int | None, str]]:
    """Return pCPU, op and vCPU label of the hypercalls."""
    return [(line.pcpu, line.words[0], line.vcpu) for line in dump.lines if line.event == HYPERCALL]


def test_of_equal_tscs_the_pcpu_processed_last_continues(crafted: Crafted) -> None:
    dump = crafted.dump(
        window(0, [hypercall(100, 1), hypercall(200, 2), hypercall(200, 3), hypercall(300, 4)]),
        window(1, [hypercall(150, 11), hypercall(200, 12), hypercall(300, 13)]),
        window(2, [hypercall(160, 21), hypercall(200, 22), hypercall(300, 23)]),
    )
    # They reach 200 in the order 0, 1, 2, and the last to arrive goes first; pCPU 0 keeps its place for two
    # records.  So they reach 300 in the order 2, 1, 0, and leave it in the reverse order.
    assert order(dump) == [
        *[(0, 100, 1), (1, 150, 11), (2, 160, 21)],
        *[(2, 200, 22), (1, 200, 12), (0, 200, 2), (0, 200, 3)],
        *[(0, 300, 4), (1, 300, 13), (2, 300, 23)],
    ]


def test_equal_first_tscs_go_by_ascending_pcpu(crafted: Crafted) -> None:
    dump = crafted.dump(*(window(pcpu, [hypercall(100, pcpu)]) for pcpu in range(3)))
    assert [pcpu for pcpu, _, _ in order(dump)] == [0, 1, 2]


def test_untimed_records_follow_their_pcpu_and_show_its_last_tsc(crafted: Crafted) -> None:
    dump = crafted.dump(
        window(0, [hypercall(90, 1), change(100, 1, 0, RUNNABLE, RUNNING), record(0x82004, None, 0xF3, 0)]),
        window(1, [hypercall(100, 11), hypercall(200, 12)]),
    )
    assert [(line.pcpu, line.event, line.tsc, line.time) for line in dump.lines] == [
        (0, HYPERCALL, 90, 0),
        (0, 0x21101, 100, 10),
        (0, 0x82004, None, 10),
        (1, HYPERCALL, 100, 10),
        (1, HYPERCALL, 200, 110),
    ]


def test_lost_records_are_at_first_tsc_and_again_at_their_own(crafted: Crafted) -> None:
    dump = crafted.dump(
        window(0, [hypercall(100, 1), lost(500, 200, 3, 1), hypercall(500, 2)]),
        window(1, [hypercall(tsc, 11) for tsc in (150, 200, 300, 500, 600)]),
    )
    assert [(line.pcpu, line.event, line.tsc, line.time) for line in dump.lines] == [
        (0, HYPERCALL, 100, 0),
        (1, HYPERCALL, 150, 50),
        (1, HYPERCALL, 200, 100),
        (0, LOST_RECORDS, 500, 400),
        (1, HYPERCALL, 300, 200),
        (1, HYPERCALL, 500, 400),
        (0, LOST_RECORDS_END, 500, None),
        (0, HYPERCALL, 500, 400),
        (1, HYPERCALL, 600, 500),
    ]
    assert [vcpu for pcpu, _, vcpu in labels(dump) if pcpu == 0] == ["d32768v0", "d3v1"]


def test_a_loss_of_zero_length_makes_it_abort(crafted: Crafted) -> None:
    with pytest.raises(XenalyzeError, match="Strange, lost_record"):
        crafted.dump(window(0, [hypercall(100, 1), lost(200, 200, 3, 1), hypercall(500, 2)]))


def test_pv_events_belong_to_the_default_domain_until_the_first_runstate_record(crafted: Crafted) -> None:
    dump = crafted.dump(
        window(
            0, [hypercall(100, 1), change(200, 3, 0, RUNNING, BLOCKED), change(300, 2, 0, RUNNABLE, RUNNING)]
        ),
        window(1, [hypercall(110, 11), record(0x21002, 210, 4 << 16), hypercall(310, 12)]),
        window(0, [hypercall(350, 2), change(400, 3, 0, BLOCKED, RUNNABLE), hypercall(450, 3)]),
    )
    assert labels(dump) == [
        *[(0, 1, "d32768v0"), (1, 11, "d32768v1"), (1, 12, "d4v0")],
        *[(0, 2, "d2v0"), (0, 3, "d2v0")],
    ]
    got = summary(crafted.path, CPU_HZ)
    assert {pcpu: vcpu.hypercalls for pcpu, vcpu in got.default_domain.items()} == {0: {1: 1}, 1: {11: 1}}
    assert got.domains[2].vcpus[0].hypercalls == {2: 1, 3: 1}


def test_pv_events_between_two_vcpus_count_nowhere(crafted: Crafted) -> None:
    dump = crafted.dump(
        window(0, [hypercall(100, 1), change(200, 3, 0, RUNNING, BLOCKED), hypercall(300, 2)]),
    )
    assert labels(dump) == [(0, 1, "d32768v0"), (0, 2, "d?v?")]
    assert any("p->current null!  Not processing" in remark for remark in dump.lines[2].remarks)
    got = summary(crafted.path, CPU_HZ)
    assert got.default_domain[0].hypercalls == {1: 1}
    assert sum(len(domain.vcpus[0].hypercalls) for domain in got.domains.values()) == 0
    assert got.volumes[0].classes["pv"] == 2 * len(hypercall(0, 0))


# --- real traces ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def raw(xenalyze: None, trace: Path) -> RawRecords:
    return raw_records(trace)


@pytest.fixture(scope="module")
def dump(trace: Path, raw: RawRecords) -> Dump:
    return dump_all(trace, extra_args=svm_args(raw))


def test_raw_records_are_those_of_the_file(trace: Path, raw: RawRecords) -> None:
    mine = list(records_of(trace.read_bytes()))
    assert raw.pcpu.tolist() == [pcpu for pcpu, *_ in mine]
    assert raw.offset.tolist() == [offset for _, offset, *_ in mine]
    assert raw.tsc.tolist() == [tsc or 0 for _, _, tsc, *_ in mine]
    assert raw.timed.tolist() == [tsc is not None for _, _, tsc, *_ in mine]
    assert raw.event.tolist() == [event for *_, event, _ in mine]
    assert raw.n_words.tolist() == [len(words) for *_, words in mine]
    assert raw.words.tolist() == [[*words, *[0] * (7 - len(words))] for *_, words in mine]
    windows = raw.windows
    assert int(windows.size_bytes.sum()) + 12 * len(windows.offset) == trace.stat().st_size
    assert np.array_equal(windows.offset[1:], (windows.offset + 12 + windows.size_bytes)[:-1])


def test_every_record_is_dumped_and_every_text_is_known(raw: RawRecords, dump: Dump) -> None:
    once = [line for line in dump.lines if line.event != LOST_RECORDS_END]
    by_offset = sorted(once, key=lambda line: line.offset)
    assert [line.offset for line in by_offset] == raw.offset.tolist()
    assert [line.event for line in by_offset] == raw.event.tolist()
    silent = {line.event for line in dump.lines if line.text is None and line.event >> 12 != EVENT_DELIVERY}
    assert silent <= {WRAP_BUFFER}
    texts = {line.text for line in dump.lines if line.text is not None}
    assert {text for text in texts if decode(text) is None} == set()


def test_the_order_is_a_merge_by_tsc_in_which_the_last_goes_first(raw: RawRecords, dump: Dump) -> None:
    """Merge as xenalyze does; a LOST_RECORDS occurs twice, at its first_tsc and at its own TSC."""
    queues: dict[int, list[tuple[int, int]]] = {int(pcpu): [] for pcpu in np.unique(raw.pcpu)}
    tsc_of = dict.fromkeys(queues, 0)
    rows = zip(raw.pcpu.tolist(), raw.offset.tolist(), raw.event.tolist(), raw.tsc.tolist(), strict=True)
    first_tscs = (raw.words[:, 3].astype(np.int64) << 32 | raw.words[:, 2]).tolist()
    for (pcpu, offset, event, tsc), first_tsc in zip(rows, first_tscs, strict=True):
        if event == LOST_RECORDS:
            queues[pcpu].append((first_tsc, offset))
        tsc_of[pcpu] = tsc or tsc_of[pcpu]
        queues[pcpu].append((tsc_of[pcpu], offset))
    standing: list[tuple[int, Iterator[tuple[int, int]], int]] = []

    def place(queue: Iterator[tuple[int, int]]) -> None:
        tsc, offset = next(queue, (0, -1))
        if offset >= 0:
            at = sum(stands < tsc for stands, _, _ in standing)
            standing.insert(at, (tsc, queue, offset))

    for pcpu in reversed(queues):
        place(iter(queues[pcpu]))
    merged = []
    while standing:
        _, queue, offset = standing.pop(0)
        merged.append(offset)
        place(queue)
    assert [line.offset for line in dump.lines] == merged


def test_only_records_without_words_lack_fields(dump: Dump) -> None:
    bare = set()
    for line in dump.lines:
        decoded = decode(line.text) if line.text is not None else None
        if decoded is not None and not decoded[1]:
            bare.add(decoded[0])
            assert line.words == ()
    assert bare <= NO_PAYLOAD | INFERRED


def signed(word: int) -> int:
    return word - (word >> 31 << 32)


def wide(words: tuple[int, ...], at: int) -> int:
    return words[at] | words[at + 1] << 32


def packed(words: tuple[int, ...], at: int = 0) -> list[int]:
    return [words[at] >> 16, words[at] & 0xFFFF]


#: How the fields shown in a text are computed from the record's words.
EXPECTED: dict[str, Callable[[tuple[int, ...]], Sequence[int | None]]] = {
    "vcpu_wake": lambda w: [*w],
    "vcpu_block": lambda w: [*w],
    "sched_switch": lambda w: [*w],
    "sched_switch_prev": lambda w: [*w],
    "sched_switch_next": lambda w: [*w[:3], w[3] if signed(w[3]) > 0 else None],
    "sched_switch_continue": lambda w: [*w[:3], w[3] if signed(w[3]) > 0 else None],
    "page_fault": lambda w: [*w],
    "emulate_privop": lambda w: [*w],
    "math_state_restore": lambda w: [],
    "trap": lambda w: [w[2] & 0x7FFF, wide(w, 0), w[2] >> 16][: 2 + (w[2] >> 15 & 1)],
    "ptwr": lambda w: [wide(w, 0), wide(w, 4), wide(w, 2)],
    "irq_handled": lambda w: [w[0], signed((w[2] - w[1]) & 0xFFFF_FFFF), signed(w[1]), signed(w[2])],
    "grant_map": lambda w: [*w],
    "grant_unmap": lambda w: [*w],
    "lost_records": lambda w: [w[0], w[1] & 0xFFFF, w[1] >> 16, wide(w, 2)],
    "msr_write": lambda w: [w[0], wide(w, 1)],
    "cpuid": lambda w: [*w],
    "hlt": lambda w: [*w],
    "csched2:update_load": lambda w: [],
    "csched2:update_rq_load": lambda w: [w[4] >> 16 & 0xFF, w[4] & 0xFFFF, wide(w, 0), wide(w, 2)],
    "csched2:update_vcpu_load": lambda w: [*packed(w, 2), wide(w, 0)],
    "csched2:burn_credits": lambda w: [
        *packed(w),
        signed(w[1]),
        None if w[2] == 0x8000_0000 else signed(w[2]),
        signed(w[3]),
    ],
    "csched2:runq_cand_check": lambda w: packed(w),
    "csched2:runq_candidate": lambda w: [*packed(w), signed(w[2]), w[1]],
    "csched2:runq_insert": lambda w: [*packed(w), w[1]],
    "csched2:runq_tickle_new": lambda w: [*packed(w), w[1], signed(w[2])],
    "csched2:runq_tickle": lambda w: [w[0] & 0xFFFF],
    "csched2:tickle_check": lambda w: [*packed(w), signed(w[1]), signed(w[2])],
    "csched2:reset_credits": lambda w: [*packed(w), signed(w[1]), signed(w[2])],
    "csched2:ratelimit": lambda w: [*packed(w), w[1]],
}


def test_fields_are_the_words_of_the_record(dump: Dump) -> None:
    wrong = []
    for line in dump.lines:
        name, fields = (decode(line.text) if line.text is not None else None) or ("", {})
        words = EXPECTED.get(name)
        if words is not None:
            # Leave out names such as "inj_virq real", and the vCPU that lost_records shows as current.
            shown = [v for k, v in fields.items() if not isinstance(v, str) and not k.startswith("cur_")]
            if shown != list(words(line.words)):
                wrong.append((line.text, line.words))
        if name in ("hypercall", "hypercall_subcall"):
            assert fields["op"] == line.words[0] & 0xFFFFF
        if name in ("runstate_change", "runstate_continue"):
            assert [fields["dom"], fields["vcpu"]] == packed(line.words)
            if name == "runstate_change":
                states = RUNSTATES[line.event >> 8 & 0xF], RUNSTATES[line.event >> 4 & 0xF]
                assert (fields["old"], fields["new"]) == states
    assert wrong[:5] == []


def test_times_are_cycles_at_1_ghz_and_rounded_otherwise(trace: Path, raw: RawRecords, dump: Dump) -> None:
    rounded = dump_all(trace, CPU_HZ, svm_args(raw))
    assert quantised_hz(CPU_HZ) == 2662
    start = dump.lines[0].tsc
    assert start is not None
    last: dict[int, int] = {}
    for exact, line in zip(dump.lines, rounded.lines, strict=True):
        last[line.pcpu] = last.get(line.pcpu, 0) if line.tsc is None else line.tsc
        cycles = max(last[line.pcpu] - start, 0)
        if line.time is not None:
            assert exact.time == cycles
            assert line.time == dumped_ns(cycles, CPU_HZ)


def test_summary_parses_and_its_volumes_are_sums_of_record_sizes(trace: Path, raw: RawRecords) -> None:
    got = summary(trace, CPU_HZ, svm_args(raw))
    assert got.unparsed == []
    sizes = 4 + 8 * raw.timed + 4 * raw.n_words.astype(np.int64)
    sizes[raw.event == LOST_RECORDS] *= 2
    for pcpu, volume in got.volumes.items():
        mine: Counter[str] = Counter()
        for event_class, name in CLASSES.items():
            chosen = (raw.pcpu == pcpu) & (raw.event >> 16 == event_class)
            if chosen.any():
                mine[name] = int(sizes[chosen].sum())
        assert mine == volume.classes
    assert sorted(got.volumes) == sorted(got.pcpus) == np.unique(raw.pcpu).tolist()


def test_pv_events_follow_three_rules(trace: Path, raw: RawRecords, dump: Dump) -> None:
    """Attribute PV events only by runstate records and lost records, as xenalyze does."""
    current: dict[int, tuple[int, int] | None] = {}
    hypercalls: dict[tuple[int, int] | None, Counter[int]] = defaultdict(Counter)
    before_any: Counter[int] = Counter()
    for line in dump.lines:
        if line.event & 0xFFFF000 == 0x21000:
            # CONTINUE_RUNNING has both states' bits clear, which means running to running.
            if line.event >> 4 & 0xF == RUNNING:
                current[line.pcpu] = (line.words[0] >> 16, line.words[0] & 0xFFFF)
            elif line.event >> 8 & 0xF == RUNNING:
                current[line.pcpu] = None
        elif line.event == LOST_RECORDS:
            current[line.pcpu] = None
        elif line.event == LOST_RECORDS_END:
            current[line.pcpu] = (line.words[1] & 0xFFFF, line.words[1] >> 16)
        elif line.event in (HYPERCALL, 0x20200E):
            counts = hypercalls[current[line.pcpu]] if line.pcpu in current else before_any
            counts[line.words[0] & 0xFFFFF] += 1
    got = summary(trace, CPU_HZ, svm_args(raw))
    theirs = {
        (domain_id, vcpu_id): vcpu.hypercalls
        for domain_id, domain in got.domains.items()
        for vcpu_id, vcpu in domain.vcpus.items()
        if vcpu.hypercalls
    }
    assert theirs == {vcpu: dict(counts) for vcpu, counts in hypercalls.items()}
    by_default = Counter[int]()
    for vcpu in got.default_domain.values():
        by_default.update(vcpu.hypercalls)
    assert by_default == before_any
