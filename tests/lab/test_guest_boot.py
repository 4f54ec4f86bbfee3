"""The lab's own guest on real Xen, as the initial domain: it runs, follows its knobs and counts correctly."""

from __future__ import annotations

import gzip
import os
import shutil
from pathlib import Path

import pytest

from lab.guest.boot import QEMU, BootError, boot, reports, upcalls
from lab.guest.build import Variant, build
from peer.debian import unpacked
from peer.xenalyze_run import REQUIRE_VARIABLE

# The hypervisor may have to be downloaded.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(550)]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("guest")


@pytest.fixture(scope="session")
def xen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The hypervisor of Debian's package; skip if QEMU is missing."""
    if shutil.which(QEMU) is None:
        missing = f"{QEMU} is not installed: apt-get install qemu-system-x86"
        if os.environ.get(REQUIRE_VARIABLE) == "1":
            pytest.fail(f"{missing} ({REQUIRE_VARIABLE}=1 forbids skipping)", pytrace=False)
        pytest.skip(missing)
    packed = unpacked("xen-hypervisor-4.17-amd64") / "boot" / "xen-4.17-amd64.gz"
    plain = tmp_path_factory.mktemp("xen") / "xen"
    plain.write_bytes(gzip.decompress(packed.read_bytes()))
    return plain


def check_sums(count: dict[str, int]) -> None:
    """Check what holds at any moment with upcalls masked, as when the counters are copied."""
    assert count["mask"] == count["restore"] + count["unmask"] + count["block"]
    assert count["save"] - count["restore"] in (0, 1)
    assert count["pending_found"] == count["force_callback"]
    events = count["timer_event"] + count["ping_event"] + count["console_event"]
    assert count["upcall"] - count["empty_upcall"] <= events
    assert count["timer_set"] - count["timer_event"] in (0, 1)


def test_rounds_alone_are_counted_exactly(xen: Path, folder: Path) -> None:
    loops = 10_007
    output = boot(xen, build(folder, Variant("none", "inline")), f"loops={loops} work=10 yield=101")
    (count,) = reports(output)
    check_sums(count)
    named = {
        "round": loops,
        "mask": 3 * loops + 1,
        "save": 2 * loops,
        "restore": 2 * loops,
        "unmask": loops + 1,
        "yield": loops // 101,
    }
    assert count == dict.fromkeys(count, 0) | named
    assert "xtrace-guest: start fence=none place=inline" in output


@pytest.mark.parametrize("fence", ["lfence", "lockadd"])
def test_ticks_and_pings_are_counted_exactly(xen: Path, folder: Path, fence: str) -> None:
    pings, ticks = 1009, 2000
    output = boot(
        xen, build(folder, Variant(fence, "inline")), f"seconds=2 timer=1000 role=self pings={pings}"
    )
    (count,) = reports(output)
    check_sums(count)
    assert count["ping_sent"] == count["ping_event"] == 2 * pings
    assert count["timer_set"] == count["timer_event"] == ticks
    assert 0 < count["pending_found"] <= ticks
    assert count["save"] == count["restore"] == 2 * count["round"]


def test_it_answers_on_its_console(xen: Path, folder: Path) -> None:
    logged = 13
    answers = [
        ("xtrace-guest: start", "report\n"),
        ("xtrace-guest: counters", "role=self pings=11\n"),
        ("xtrace-guest: port", "report\n"),
        ("xtrace-guest: counters", "quit\n"),
    ]
    knobs = f"seconds=600 timer=50000 burst=5 log={logged}"
    output = boot(xen, build(folder, Variant("xchg", "outofline")), knobs, answers)
    first, second, last = reports(output)
    for count in (first, second, last):
        check_sums(count)
    assert first["ping_event"] == 0
    assert last["ping_event"] == 22
    assert all(first[name] <= second[name] <= last[name] for name in first)
    assert 0 < last["block"] <= last["upcall"]
    stamps = [stamp for pair in upcalls(output) for stamp in pair]
    assert len(stamps) == 2 * logged
    assert stamps == sorted(stamps)


def test_an_unknown_word_stops_it(xen: Path, folder: Path) -> None:
    # Then it crashes, and Xen with its initial domain.
    with pytest.raises(BootError, match="xtrace-guest: error: cannot understand the knob loop"):
        boot(xen, build(folder, Variant("none", "inline")), "loop=5")
