"""`xtrace dump` as users see it, and compared record by record with ``xenalyze --dump-all``."""

from __future__ import annotations

import gzip
import json
import os
import re
import struct
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from builders import ready
from peer.samples import UNPACK, decoded_files, sample_files
from peer.xenalyze import DumpLine, RawRecords, decode, dump_all, raw_records, require, svm_args
from peer.xenalyze_dump import LOST_RECORDS_END
from xtrace import samples
from xtrace.cli.main import main
from xtrace.probes.reader.writer import pack_record, pack_window

PROGRAM = "from xtrace.cli.start import main; main()"
WRAP_BUFFER = 0x1F002
Json = dict[str, Any]


def run(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    if not options:
        return ready.run(arguments)
    command = [sys.executable, "-P", "-c", PROGRAM, *map(str, arguments)]
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.run(command, **(streams | options), check=False)


def dumped(capfd: pytest.CaptureFixture[str], *arguments: str | Path) -> list[str]:
    assert main(["dump", *map(str, arguments)]) == 0
    return capfd.readouterr().out.splitlines()


@pytest.fixture(scope="module")
def pv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(next(path for path in sample_files() if "netbsd7" in path.name), tmp_path_factory)


def unpack(packed: Path, factory: pytest.TempPathFactory) -> Path:
    plain = factory.mktemp("sample") / f"{packed.name.split('.')[0]}.bin"
    plain.write_bytes(UNPACK[packed.suffix](packed.read_bytes()))
    return plain


def window(*words: int) -> bytes:
    return struct.pack(f"<{3 + len(words)}I", 0x2001F003, 0, 4 * len(words), *words)


WAKE = (0xA002_8004, 10, 0, 3, 0)

# --- golden -------------------------------------------------------------------------------------


def test_golden_text(pv: Path) -> None:
    done = run("dump", pv, "--from", "884820000c", "--to", "884860000c", "--pcpu", "1")
    assert (
        done.stdout
        == """\
   884831856 p1  idle  switch_infprev dom=32767 unit=1 runtime_ns=9695996
   884835184 p1  idle  switch_infnext dom=3 unit=0 wait_ns=9664339 slice_ns=5939577
   884837758 p1  idle  switch prev_dom=32767 prev_unit=1 next_dom=3 next_unit=0
   884845740 p1  idle  runstate_change old=running new=runnable vcpu=1 dom=32767
   884848548 p1  d3v0  runstate_change old=runnable new=running vcpu=0 dom=3
"""
    )
    assert re.fullmatch(r"xtrace: .* Xen 4\.11-4\.\d+, .* a sample .*\n", done.stderr)


def test_golden_text_of_an_hvm_guest_in_seconds() -> None:
    hvm = next(path for path in sample_files() if "pvh-all" in path.name)
    span = ["--cpu-hz", "2.4G", "--from", "0.4282", "--to", "0.4286", "--pcpu", "0"]
    assert (
        run("dump", hvm, *span, "--xen", "4.17").stdout
        == """\
 0.428361947 p0  d1v0  vmentry
 0.428482976 p0  d1v0  vmexit reason=msr rip=0xffffffff81075059
 0.428482976+p0  d1v0  msr_write msr=0x80b value=0x0
 0.428554372 p0  d1v0  vmentry
"""
    )


def test_golden_json(pv: Path) -> None:
    done = run("dump", pv, "--json", "--head", "1", "--xen", "4.17")
    assert done.stdout == (
        '{"tsc":3990153071360,"pcpu":0,"current":null,"event":2101510,"name":"pv_emulate_privop",'
        '"words":[2164401414,4294967295],"rip":18446744071578985734}\n'
    )
    assert done.stderr == ""


def test_an_emulated_host_is_reported() -> None:
    packed = sample_files()[0]
    assert "xtrace: emulated host" in run("dump", packed, "--head", "0").stderr


def test_most_lines_fit_80_columns(capfd: pytest.CaptureFixture[str]) -> None:
    lines = dumped(capfd, samples.path(), "--cpu-hz", "2.4G")
    assert sum(len(line) <= 80 for line in lines) > 0.75 * len(lines)


# --- options ------------------------------------------------------------------------------------


def test_compressed_and_piped_traces_give_the_same(pv: Path, tmp_path: Path) -> None:
    packed = tmp_path / "trace.gz"
    packed.write_bytes(gzip.compress(pv.read_bytes()))
    plain = run("dump", pv, "--head", "20000")
    assert run("dump", packed, "--head", "20000").stdout == plain.stdout
    with pv.open("rb") as stream:
        assert run("dump", "-", "--head", "20000", stdin=stream).stdout == plain.stdout


def test_tsc_prints_the_tsc_itself(pv: Path, capfd: pytest.CaptureFixture[str]) -> None:
    relative, raw = dumped(capfd, pv), dumped(capfd, pv, "--tsc")
    origin = 3_990_153_071_360
    assert [line.split()[0] for line in raw] == [
        str(int(line.split()[0].split("+")[0]) + origin) for line in relative
    ]


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--event", "wake"], {"wake"}),
        (["--event", "0x28004", "--event", "163846"], {"wake", "block"}),
        (["--event", "runstate_*"], {"runstate_change"}),
        (["--class", "mem"], {"mem_page_grant_map", "mem_page_grant_unmap"}),
        (["--class", "sched_min,0x202000"], {"runstate_change", "continue_running", "pv_hypercall_subcall"}),
        (["--class", "sched", "--event", "w*"], {"wake"}),
    ],
)
def test_selecting_events(
    pv: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], names: set[str]
) -> None:
    rows = [json.loads(line) for line in dumped(capfd, pv, "--json", *arguments)]
    assert {row["name"] for row in rows} == names


@pytest.mark.parametrize(
    ("arguments", "keeps"),
    [
        (["--domain", "3"], lambda current: current.startswith("d3v")),
        (["--domain", "idle"], lambda current: current.startswith("d32767v")),
        (["--vcpu", "d0v1"], lambda current: current == "d0v1"),
        (["--vcpu", "1", "--domain", "0"], lambda current: current == "d0v1"),
        (["--pcpu", "0-1,5"], lambda _: True),
    ],
)
def test_selecting_vcpus_and_pcpus(
    pv: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], keeps: Callable[[str], bool]
) -> None:
    every = dumped(capfd, pv, "--json")
    kept = [line for line in every if keeps(json.loads(line)["current"] or "")]
    assert dumped(capfd, pv, "--json", *arguments) == kept


def test_from_and_to_select_a_time_span(pv: Path, capfd: pytest.CaptureFixture[str]) -> None:
    every = dumped(capfd, pv, "--json")
    low, high = 3_991_000_000_000, 3_991_500_000_000
    kept = [line for line in every if low <= json.loads(line)["tsc"] < high]
    assert dumped(capfd, pv, "--json", "--from", f"tsc:{low}", "--to", f"tsc:{high:#x}") == kept
    origin = json.loads(every[0])["tsc"]
    cycles = ["--from", f"{low - origin}c", "--to", f"{high - origin}c"]
    assert dumped(capfd, pv, "--json", *cycles) == kept
    # At 2.5 GHz both ends are whole nanoseconds.
    seconds = [
        "--cpu-hz",
        "2.5G",
        "--from",
        f"{(low - origin) / 2.5:.1f}ns",
        "--to",
        f"{(high - origin) / 2.5e9:.10f}",
    ]
    assert dumped(capfd, pv, "--json", *seconds) == kept


def test_seconds_with_the_rate_from_the_trace(pv: Path) -> None:
    done = run("dump", pv, "--from", "1s", "--to", "1.001")
    assert "run times in its first" in done.stderr
    times = [int(line.split()[0].split("+")[0]) for line in done.stdout.splitlines()]
    assert times
    assert all(2.59e9 < time < 2.61e9 for time in times)


def test_seconds_without_a_known_rate(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_bytes(window(*WAKE))
    done = run("dump", path, "--from", "1.5")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "--cpu-hz" in done.stderr
    assert run("dump", path, "--from", "0c").returncode == 0


def test_a_domain_by_name(pv: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "busy.xtrace"
    folder.mkdir()
    (folder / "xentrace.bin").write_bytes(pv.read_bytes())
    meta = {"schema_version": 1, "domains": [{"id": 0, "name": "Domain-0"}, {"id": 3, "name": "web"}]}
    (folder / "meta.json").write_text(json.dumps(meta))
    assert dumped(capfd, folder, "--domain", "web") == dumped(capfd, folder, "--domain", "d3") != []
    assert main(["dump", str(folder), "--domain", "db"]) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "web (d3)" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--event", "wakee"],
        ["--class", "foo"],
        ["--class", "0x20000"],
        ["--pcpu", "1-x"],
        ["--domain", "-1"],
        ["--domain", "web"],
        ["--domain", "65536"],
        ["--vcpu", "v3"],
        ["--from", "-1.5"],
        ["--from", "0x20c"],
        ["--to", "soon", "--cpu-hz", "2G"],
        ["--to", "tsc:soon"],
        ["--pcpu", "0x0"],
        ["--cpu-hz", "12"],
        ["--cpu-hz", "1/0"],
        ["--cpu-hz", "2G", "--tsc"],
        ["--xen", "3.4"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_one_line(pv: Path, capfd: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert main(["dump", str(pv), *arguments]) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "No such file"), (b"not a trace, but long enough", "not a xentrace file")],
)
def test_a_file_that_is_not_a_trace_fails_with_one_line(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    path = tmp_path / "x"
    if content is not None:
        path.write_bytes(content)
    done = run("dump", path, "--xen", "4.17")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert said in done.stderr


def test_a_folder_fails_with_one_line(tmp_path: Path) -> None:
    done = run("dump", tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


def test_a_trace_cut_short_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "cut"
    path.write_bytes(window(*WAKE, *WAKE)[:-4])
    done = run("dump", path, "--xen", "4.17")
    assert (done.returncode, done.stdout.count("\n")) == (0, 1)
    assert done.stderr.count("\n") == 1
    assert "the last window lacks 4 bytes" in done.stderr


def test_damage_is_reported_and_strict_stops(tmp_path: Path) -> None:
    path = tmp_path / "bad"
    path.write_bytes(window(*WAKE) + b"\0" * 16 + window(*WAKE))
    done = run("dump", path, "--xen", "4.17")
    assert (done.returncode, done.stdout.count("\n")) == (0, 2)
    total, place = done.stderr.splitlines()
    assert "1 damaged place, 16 bytes skipped" in total
    assert "offset 32: " in place
    assert "0x00000000" in place
    strict = run("dump", path, "--xen", "4.17", "--strict")
    assert (strict.returncode, strict.stderr.count("\n")) == (1, 1)


def test_restarts_and_tscs_that_go_back_are_reported(tmp_path: Path) -> None:
    def at(*tscs: int) -> bytes:
        return pack_window(0, b"".join(pack_record(0x28004, tsc, (1, 2)) for tsc in tscs))

    path = tmp_path / "restarted"
    path.write_bytes(at(1000, 1100) + at(1200, 1150, 1300) + at(10, 20) + at(30, 40))
    done = run("dump", path, "--xen", "4.17")
    times = [line.split()[0] for line in done.stdout.splitlines()]
    assert (done.returncode, times) == (0, ["0", "100", "200", "150", "300", "300", "310", "320", "330"])
    restart, order = done.stderr.splitlines()
    assert restart == "xtrace: offset 124: the TSC restarted: it went back by 1,290 cycles"
    assert order.startswith("xtrace: 1 record has a TSC below an earlier one on its pCPU")


def test_a_closed_pipe_is_not_a_failure(pv: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = run("dump", pv, "--xen", "4.17", stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_a_failure(pv: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = run("dump", pv, "--xen", "4.17", stdout=full)
    assert (done.returncode, done.stderr) == (1, "xtrace: standard output: No space left on device\n")


# --- against xenalyze ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Compared:
    """A sample as read by both tools; rows and lines are in file order."""

    rows: list[Json]
    raw: RawRecords
    lines: list[DumpLine]
    start: int


@pytest.fixture(scope="module", params=decoded_files(), ids=lambda path: path.name.split(".")[0])
def compared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Compared:
    require()
    path = unpack(request.param, tmp_path_factory)
    raw = raw_records(path)
    dump = dump_all(path, extra_args=svm_args(raw))
    lines = {line.offset: line for line in dump.lines if line.event != LOST_RECORDS_END}
    of_pcpu: dict[int, list[Json]] = defaultdict(list)
    for line in run("dump", path, "--json").stdout.splitlines():
        row = json.loads(line)
        of_pcpu[row["pcpu"]].append(row)
    # Within a pCPU the merged order is that of the file.
    queues = {pcpu: iter(rows) for pcpu, rows in of_pcpu.items()}
    shown = [index for index, event in enumerate(raw.event.tolist()) if event != WRAP_BUFFER]
    rows = [next(queues[int(raw.pcpu[index])]) for index in shown]
    assert all(next(queue, None) is None for queue in queues.values())
    start = dump.lines[0].tsc
    assert start is not None
    return Compared(rows, raw, [lines[int(raw.offset[index])] for index in shown], start)


def test_events_times_and_words_match_the_raw_records(compared: Compared) -> None:
    raw = compared.raw
    keep = raw.event != WRAP_BUFFER
    assert [row["event"] for row in compared.rows] == raw.event[keep].tolist()
    assert [row.get("timed", True) for row in compared.rows] == raw.timed[keep].tolist()
    assert [row["tsc"] if row.get("timed", True) else 0 for row in compared.rows] == raw.tsc[keep].tolist()
    expected = [
        words[:count]
        for words, count in zip(raw.words[keep].tolist(), raw.n_words[keep].tolist(), strict=True)
    ]
    assert [row["words"] for row in compared.rows] == expected


def test_times_match_dump_all(compared: Compared) -> None:
    for row, line in zip(compared.rows, compared.lines, strict=True):
        if line.time is not None:
            assert line.time == max(row["tsc"] - compared.start, 0), line


def test_running_vcpus_match_dump_all(compared: Compared) -> None:
    """xenalyze prints d?v? where a vCPU starts to run, and does not use the vCPU in lost_records."""
    differ = 0
    for row, line in zip(compared.rows, compared.lines, strict=True):
        if line.vcpu not in ("", "d?v?") and row["current"] is not None and row["current"] != line.vcpu:
            differ += 1
    assert differ <= 0.0005 * len(compared.rows)


#: Our name of each event: xenalyze's name, and the fields that it prints as "our name=its name", or one name
#: if both are the same; a+b are the low and the high half of a value.  Fields in xenalyze_dump.NOT_SHOWN are
#: left out.
NAMES: Mapping[str, tuple[str, str]] = {
    "adjdom": ("sched_adjust", "dom"),
    "block": ("vcpu_block", "dom vcpu"),
    "continue_running": ("runstate_continue", "dom vcpu"),
    "cpuid": ("cpuid", "leaf=word0 subleaf=word1 eax=word2 ebx=word3 ecx=word4 edx=word5"),
    "credit2_credit_burn": ("csched2:burn_credits", "dom unit=vcpu credit delta"),
    "credit2_credit_reset": ("csched2:reset_credits", "dom unit=vcpu credit_start=start credit_end=end"),
    "credit2_picked_cpu": ("csched2:picked_cpu", "dom unit=vcpu rq_id=rqi cpu"),
    "credit2_ratelimit": ("csched2:ratelimit", "dom unit=vcpu runtime=ran_ns"),
    "credit2_runq_assign": ("csched2:runq_assign", "dom unit=vcpu rq_id=rqi"),
    "credit2_runq_cand_check": ("csched2:runq_cand_check", "dom unit=vcpu"),
    "credit2_runq_candidate": ("csched2:runq_candidate", "dom unit=vcpu tickled_cpu credit"),
    "credit2_runq_max_weight": ("csched2:update_max_weight", "rq_id=rqi max_weight"),
    "credit2_runq_pos": ("csched2:runq_insert", "dom unit=vcpu pos=position"),
    "credit2_schedule": ("csched2:schedule", "cpu rq_id=rqi"),
    "credit2_tickle": ("csched2:runq_tickle", "cpu"),
    "credit2_tickle_check": ("csched2:tickle_check", "dom unit=vcpu credit score"),
    "credit2_tickle_new": ("csched2:runq_tickle_new", "dom unit=vcpu cpu credit"),
    "credit2_update_load": ("csched2:update_load", ""),
    "credit2_update_runq_load": (
        "csched2:update_rq_load",
        "rq_id=rqi rq_load=load rq_avgload=avgload b_avgload",
    ),
    "credit2_update_unit_load": ("csched2:update_vcpu_load", "dom unit=vcpu avgload=load"),
    "credit_account_start": ("csched:acct_start", "dom unit=vcpu active"),
    "credit_account_stop": ("csched:acct_stop", "dom unit=vcpu active"),
    "credit_boost_end": ("csched:unboosted", "dom unit=vcpu"),
    "credit_boost_start": ("csched:boosted", "dom unit=vcpu"),
    "credit_picked_cpu": ("csched:pick_cpu", "cpu dom unit=vcpu"),
    "credit_ratelimit": ("csched:ratelimit", "dom unit=vcpu runtime=ran_ns"),
    "credit_schedule": ("csched:schedule", "cpu tasklet idle"),
    "credit_tickle": ("csched:runq_tickle", "cpu"),
    "dom0_dom_add": ("domain_create", "dom"),
    "dom0_dom_rem": ("domain_destroy", "dom"),
    "dom_add": ("sched_init_domain", "dom"),
    "dom_rem": ("sched_destroy_domain", "dom"),
    "hlt": ("hlt", "runnable=word0"),
    "inj_virq": ("inj_virq", "vector"),
    "intr": ("intr", ""),
    "intr_window": ("intr_window", "vector source source_name=source_name"),
    "irq_handled": ("irq_handled", "irq tsc_in=start tsc_out=end"),
    "lost_records": ("lost_records", "count dom vcpu first_tsc"),
    "mem_page_grant_map": ("grant_map", "dom"),
    "mem_page_grant_unmap": ("grant_unmap", "dom"),
    "msr_write": ("msr_write", "msr value"),
    "pv_emulate_privop": ("emulate_privop", "rip=word0+word1"),
    "pv_hypercall": ("hypercall", "op op_name=name"),
    "pv_hypercall_subcall": ("hypercall_subcall", "op op_name=name"),
    "pv_math_state_restore": ("math_state_restore", ""),
    "pv_page_fault": ("page_fault", "rip=word0+word1 addr=word2+word3 error_code=word4"),
    "pv_ptwr_emulation": ("ptwr", "pte=l1e rip=eip addr"),
    "pv_trap": ("trap", "trapnr rip=eip"),
    "runstate_change": ("runstate_change", "dom vcpu old new"),
    "shutdown": ("sched_shutdown", "dom vcpu reason"),
    "sleep": ("vcpu_sleep", "dom vcpu"),
    "switch": ("sched_switch", "prev_dom prev_unit=prev_vcpu next_dom next_unit=next_vcpu"),
    "switch_infcont": ("sched_switch_continue", "dom unit=vcpu runtime_ns=ran_ns"),
    "switch_infnext": ("sched_switch_next", "dom unit=vcpu wait_ns=waited_ns"),
    "switch_infprev": ("sched_switch_prev", "dom unit=vcpu runtime_ns=ran_ns"),
    "vmentry": ("vmentry", ""),
    "vmexit": ("vmexit", "rip"),
    "vmmcall": ("vmcall", "op op_name=name"),
    "wake": ("vcpu_wake", "dom vcpu"),
    "yield": ("vcpu_yield", "dom vcpu"),
}


def test_names_and_fields_match_dump_all(compared: Compared) -> None:
    wrong = []
    for row, line in zip(compared.rows, compared.lines, strict=True):
        if line.event >> 12 == EVENT_DELIVERY:
            continue  # xenalyze skips this sub-class
        assert line.text is not None
        decoded = decode(line.text)
        assert decoded is not None
        name, fields = decoded
        theirs, pairs = NAMES[row["name"]]
        same = name == theirs and all(_agrees(row, dict(fields), pair) for pair in pairs.split())
        if not same or not _special(row, dict(fields)):
            wrong.append((row, line.text))
    assert wrong[:3] == []


#: The id of a record without its last 12 bits.
EVENT_DELIVERY = 0x804
#: Hypercalls with different names in xenalyze (key) and in Xen's headers.
HYPERCALLS = {
    "acm_op": "xsm_op",
    "evtchn_op": "event_channel_op",
    "evtchn_op(compat)": "event_channel_op_compat",
    "physdev_op(compat)": "physdev_op_compat",
    "sched_op(compat)": "sched_op_compat",
}


def _agrees(row: Json, fields: Json, pair: str) -> bool:
    ours, _, theirs = pair.partition("=")
    mine: Any = row.get(ours)
    shown: list[Any] = [fields.get(name) for name in (theirs or ours).split("+")]
    if isinstance(mine, str) or any(value is None or isinstance(value, str) for value in shown):
        return [mine] == [HYPERCALLS.get(value, value) for value in shown]
    value = sum(part << 32 * number for number, part in enumerate(shown))
    # Either tool may read a word as signed or unsigned.
    return mine is not None and abs(mine - value) in (0, 1 << 32)


def _special(row: Json, fields: Json) -> bool:
    """Compare fields that xenalyze prints in another form."""
    checks: dict[str, Callable[[], bool]] = {
        "credit2_credit_burn": lambda: (
            fields["budget"] in (row["budget"], None)
            and (fields["budget"] is None) == (row["budget"] == -(1 << 31))
        ),
        "credit2_schedule": lambda: all(
            bool(fields.get(name, False)) == bool(row[name]) for name in ("tasklet", "idle", "tickled")
        ),
        "inj_virq": lambda: (fields["fake"] == "fake") == bool(row["fake"]),
        "intr_window": lambda: fields.get("intr") == (row["queued"] if 0 < row["queued"] < 1 << 31 else None),
        "irq_handled": lambda: fields["cycles"] % (1 << 32) == (row["tsc_out"] - row["tsc_in"]) % (1 << 32),
        "switch_infcont": lambda: fields["slice_ns"] == _positive(row["slice_ns"]),
        "switch_infnext": lambda: fields["slice_ns"] == _positive(row["slice_ns"]),
        "vmexit": lambda: fields["reason"].lower().removeprefix("vmexit_") == row["reason_name"],
        "pv_hypercall": lambda: _same_arguments(row, fields),
        "pv_hypercall_subcall": lambda: _same_arguments(row, fields),
    }
    return checks.get(row["name"], lambda: True)()


def _positive(word: int) -> int | None:
    return word if 0 < word < 1 << 31 else None


def _same_arguments(row: Json, fields: Json) -> bool:
    """Compare the arguments of a hypercall that xenalyze prints; it splits preempted from the count."""
    counts = [fields[name] for name in ("updates", "calls", "ops") if name in fields]
    preempted = fields.get("preempted", 0)
    return (
        ("cmd" not in fields or fields["cmd"] == row["cmd_name"])
        and fields.get("target_vcpu") in (None, row.get("vcpu"))
        and all(count == row["count"] & ~(preempted << 31) for count in counts)
    )
