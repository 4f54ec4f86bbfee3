"""What xenalyze enumerates of HVM guests, and its time slots, by one command of xtrace each.

No trace that can be had has ports, memory, cr3 or interrupts between vCPUs in it: xenalyze and xtrace read
the same made records (builders/emulated.py), and what they say is compared with values by hand, too.
"""

from __future__ import annotations

import json
import lzma
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from builders import emulated
from builders.export_page import options_of
from peer import xenalyze_run
from peer.samples import SAMPLES
from peer.xenalyze_run import needs_xenalyze
from xtrace.cli.main import main

pytestmark = needs_xenalyze
HZ = ("--cpu-hz", "1G")
_ACCESS = re.compile(r" *([0-9a-f]+):\[([rw])\] +(\d+) +\S+s +\S+% +(\d+) cyc \{ *(\d+)\| *(\d+)\| *(\d+)\}")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("emulated") / "t.bin"
    path.write_bytes(emulated.trace())
    return path


def rows(path: Path, tmp_path: Path, *options: str) -> list[dict[str, Any]]:
    """Return the rows that one command exports."""
    out = tmp_path / "o.json"
    assert main(["export", str(path), "-f", "json", "-o", str(out), "--force", *HZ, *options]) == 0
    found: list[dict[str, Any]] = json.loads(out.read_text())["rows"]
    return found


def lines(path: Path, *options: str) -> list[str]:
    return xenalyze_run.run(path, [*HZ, *options]).stdout.decode().splitlines()


def plot(path: Path, *options: str) -> list[tuple[int, int]]:
    """Return time, in cycles after the first record, and value of each point."""
    points = (
        line.split()[-2:] for line in lines(path, *options) if re.match(r"(d\d+v\d+ )?\d+\.\d{9} ", line)
    )
    return [(round(float(time) * 1e9), int(value)) for time, value in points]


def enumerated(path: Path, *options: str) -> dict[tuple[int, int, str], tuple[int, int, int]]:
    """Return count, mean and greatest cycles by vCPU, address and direction."""
    found = {}
    vcpu = -1
    for line in lines(path, "-s", *options):
        if head := re.match(r"-- v(\d+) --", line):
            vcpu = int(head[1])
        elif each := _ACCESS.match(line):
            found[vcpu, int(each[1], 16), each[2]] = int(each[3]), int(each[4]), int(each[7])
    return found


def test_ports_and_memory(made: Path, tmp_path: Path) -> None:
    theirs = enumerated(made, "--with-pio-enumeration", "--with-mmio-enumeration")
    ours = rows(
        made, tmp_path, "--what", "accesses", "--where", "is_open=no", "--sum-by", "vcpu,access,address"
    )
    found = {
        (row["vcpu"], row["address"], row["access"][row["access"].index("_") + 1]): (
            row["count"], row["sum_cycles"] // row["count"], row["most_cycles"]
        )
        for row in ours
    }  # fmt: skip
    # A port of a device model, which xenalyze leaves out: exit at 30000, entry at 35200.
    assert found.pop((0, 0x1F7, "r")) == (1, 5200, 5200)
    assert found == theirs
    assert theirs == {
        (0, 0x70, "w"): (1, 100, 100),
        (0, 0x81, "w"): (1, 400, 400),
        (0, 0x3F8, "r"): (2, 400, 500),
        (0, 0x3F8, "w"): (1, 200, 200),
        (0, 0xFED0_0000, "r"): (1, 700, 700),
        (0, 0xFED0_00F0, "w"): (1, 900, 900),
        (0, 0xFEE0_0300, "w"): (3, 133, 200),
        (0, 0xFEE0_0310, "w"): (1, 100, 100),
    }
    # xenalyze does not count the first of two accesses in one exit.
    assert [
        row["address"] for row in rows(made, tmp_path, "--what", "accesses", "--where", "is_open=yes")
    ] == [0x80]


def test_latency_of_a_port_over_time(made: Path, tmp_path: Path) -> None:
    theirs = plot(made, "--scatterplot-io=0x3f8")
    ours = rows(
        made, tmp_path, "--what", "accesses", "--where", "address=0x3f8", "--where", "access=port_read"
    )
    assert [(row["begin_tsc"] - emulated.BEGIN, row["access_cycles"]) for row in ours] == theirs
    assert theirs == [(1000, 300), (2000, 500)]


def test_page_tables(made: Path, tmp_path: Path) -> None:
    """xenalyze counts what is open at the end nowhere."""
    theirs = _spaces("\n".join(lines(made, "-s", "--with-cr3-enumeration")))
    ours = rows(made, tmp_path, "--what", "address_spaces", "--where", "is_open=no", "--sum-by", "page_table")
    assert {row["page_table"]: row["sum_cycles"] for row in ours} == {
        table: cycles for table, (cycles, _, _) in theirs.items()
    }
    assert theirs == {0x1000: (1100, 2, 1), 0x2000: (1100, 1, 0)}
    times = rows(made, tmp_path, "--what", "address_spaces")
    assert [
        (row["page_table"], row["begin_tsc"] - emulated.BEGIN, row["space_cycles"], row["is_open"])
        for row in times
    ] == [(0x1000, 7200, 1100, False), (0x2000, 8300, 1100, False), (0x1000, 9400, 40_600, True)]
    # 7200-7500 and 7600-8000 in the guest; 8300-9000.
    assert [(row["guest_cycles"], row["xen_cycles"]) for row in times[:2]] == [(700, 400), (700, 400)]


def _spaces(text: str) -> dict[int, tuple[int, int, int]]:
    """Return cycles, switches and flushes of each page table in a summary."""
    found: dict[int, tuple[int, int, int]] = {}
    parts = re.split(r"\n +([0-9a-f]+) \(id \d+\):", text)[1:]
    for frame, part in zip(parts[::2], parts[1::2], strict=True):
        head = re.match(r" +(\d+) +\S+s +(\d+) ", part)
        seen = re.search(r"switch (\d+) flush (\d+)", part)
        assert head
        assert seen
        found[int(frame, 16) << 12] = int(head[1]) * int(head[2]), int(seen[1]), int(seen[2])
    return found


def test_switches_of_page_tables_over_time(made: Path, tmp_path: Path) -> None:
    """xenalyze prints the exit that loaded one, and the frame; xtrace the entry after it."""
    theirs = plot(made, "--scatterplot-cr3-switch")
    ours = rows(made, tmp_path, "--what", "address_spaces")
    assert [row["page_table"] >> 12 for row in ours] == [frame for _, frame in theirs] == [1, 2, 1]
    since = [row["begin_tsc"] - emulated.BEGIN for row in ours]
    assert [entry - time for entry, (time, _) in zip(since, theirs, strict=True)] == [200, 300, 400]


def test_interrupts_between_vcpus(made: Path, tmp_path: Path) -> None:
    """xenalyze follows only those to all others, and prints what no vCPU sent with times from TSC 0."""
    found = (
        re.match(r" \[vla\] d(\d+)v(\d+) vec (\d+) ipis (\d+), latency (\d+)", line)
        for line in lines(made, "--dump-ipi-latency")
    )
    theirs = [tuple(map(int, each.groups())) for each in found if each]
    ours = rows(made, tmp_path, "--what", "ipis")
    assert [
        (row["domain"], row["vcpu"], row["vector"], row["sender_vcpu"], row["send_to_entry_cycles"])
        for row in ours
    ] == [(1, 1, 0xD1, 0, 1000), (1, 1, 0xD2, 0, 500)]
    assert [(each[2], each[4]) for each in theirs if each[3]] == [(0xD1, 1000)]


def test_exits_by_an_interrupt_over_time(made: Path, tmp_path: Path) -> None:
    options = ("--what", "exits", "--where", "vector=0xfa")
    ours = rows(made, tmp_path, *options)
    assert Counter(plot(made, "--scatterplot-extint-cycles=0xfa")) == Counter(
        (row["end_tsc"] - emulated.BEGIN, row["exit_cycles"]) for row in ours
    )
    assert Counter(plot(made, "--scatterplot-interrupt-eip=0xfa")) == Counter(
        (row["begin_tsc"] - emulated.BEGIN, row["rip"]) for row in ours
    )
    counted = rows(made, tmp_path, *options, "--sum-by", "rip")
    assert {row["rip"]: row["count"] for row in counted} == {
        emulated.RIP + 100: 2, emulated.RIP + 40_000: 1
    }  # fmt: skip
    text = "\n".join(lines(made, "-s", "--with-interrupt-eip-enumeration=0xfa"))
    assert {int(each, 16) for each in re.findall(r"^ +([0-9a-f]{8}) +:", text, re.MULTILINE)} == {
        row["rip"] for row in counted
    }


@pytest.mark.parametrize("name", ["made", "pvh"])
def test_wake_to_halt(name: str, made: Path, tmp_path: Path) -> None:
    path = made
    if name == "pvh":
        path = tmp_path / "t.bin"
        path.write_bytes(lzma.decompress((SAMPLES / "xen417-pvh-all.bin.xz").read_bytes()))
    # xenalyze leaves out the first one: no record before that wake shows it that the guest is HVM.
    theirs = plot(path, *(("--svm-mode",) if name == "pvh" else ()), "--scatterplot-wake-to-halt")
    ours = rows(path, tmp_path, "--what", "wake_to_halts")
    first = min(row["tsc"] for row in rows(path, tmp_path, "--what", "records", "--to", "1000000c"))
    found = [(row["end_tsc"] - first, row["awake_cycles"]) for row in ours]
    assert len(theirs) == {"made": 1, "pvh": 28}[name]
    assert not Counter(theirs) - Counter(found)
    assert len(found) == {"made": 1, "pvh": 29}[name]


def test_time_of_each_domain_by_slot(tmp_path: Path) -> None:
    """Sums are those of the runs.  xenalyze counts a run across the end of an interval in one of the two."""
    path = tmp_path / "t.bin"
    path.write_bytes(lzma.decompress((SAMPLES / "xen417-pv-all.bin.xz").read_bytes()))
    options = ["--cpu-hz", "2.3G", "-i", "1", "--interval-domain-total-time-all"]
    printed = xenalyze_run.run(path, options).stdout.decode().splitlines()
    (heading,) = (line.split()[1:] for line in printed if line.startswith("time "))
    theirs = [list(map(float, line.split()[1:])) for line in printed if line and line[0].isdigit()]
    out = tmp_path / "o.json"
    command = ["export", str(path), "-f", "json", "--what", "runs", "--sum-by", "domain", "--slot", "1s"]
    assert main([*command, "--cpu-hz", "2.3G", "-o", str(out)]) == 0
    ours = {
        (round(row["slot_s"]), row["domain"]): row["share_ratio"]
        for row in json.loads(out.read_text())["rows"]
    }
    sums: Counter[int] = Counter()
    for slot, shares in enumerate(theirs):
        for domain, share in zip(map(int, heading), shares, strict=True):
            if domain < 32767:
                own = 100 * ours.get((slot, domain), 0)
                assert own == pytest.approx(share, abs=1.0)
                sums[domain] += own - share
    assert set(sums) == {0, 1, 2}
    assert all(abs(difference) < 0.2 for difference in sums.values())


def test_interrupts_of_a_guest_by_slot(tmp_path: Path) -> None:
    """xenalyze prints no interval that the trace ends in."""
    path = tmp_path / "t.bin"
    path.write_bytes(lzma.decompress((SAMPLES / "xen417-pvh-all.bin.xz").read_bytes()))
    options = ["--cpu-hz", "2.3G", "--svm-mode", "-i", "0.1", "--interval-domain-guest-interrupt=1"]
    printed = xenalyze_run.run(path, options).stdout.decode().splitlines()
    theirs = [int(count) for _, count in map(str.split, printed[:-1])]
    assert printed[-1] == "time running 243"
    out = tmp_path / "o.json"
    command = [
        "export",
        str(path),
        "-f",
        "json",
        "--what",
        "injections",
        "--sum-by",
        "vector",
        "--slot",
        "100ms",
    ]
    assert main([*command, "--domain", "1", "--cpu-hz", "2.3G", "-o", str(out)]) == 0
    ours = {round(row["slot_s"] * 10): row["count"] for row in json.loads(out.read_text())["rows"]}
    assert [ours.pop(slot, 0) for slot in range(len(theirs))] == theirs
    assert ours == {21: 7}
    assert sum(theirs) == 84


def test_the_page_names_all_options() -> None:
    help_ = xenalyze_run.run(Path("--help"), []).stdout.decode()
    options = set(re.findall(r"--([a-z][a-z0-9-]+)", help_)) - {"help", "usage", "interval"}
    assert len(options) > 40
    assert options == options_of("xenalyze")
