"""Anonymous copies: no name and no address is left, and a report has the same figures."""

from __future__ import annotations

import contextlib
import io
import json
import lzma
import re
import struct
from pathlib import Path
from typing import Any

import pytest

from builders.dom0_capture import bpf_capture, sampled_capture
from oracle.reader import read
from xtrace import samples
from xtrace.cli.main import main
from xtrace.probes.anonymous.addresses import Shift
from xtrace.probes.anonymous.capture import copy
from xtrace.probes.anonymous.names import Names
from xtrace.probes.bpf.abi import Kind
from xtrace.probes.capture import layout
from xtrace.probes.errors import TraceError
from xtrace.probes.reader.writer import pack_record

FOLDER = samples.path().parent
SAMPLES = sorted(FOLDER.glob("*.bin.xz"))
#: Of a Xen that records frames of upcalls; of PVH guests.
EACH_TIME = ("xen417-events-pv", "xen417-pvh-all")
#: Records of PV guests of 64 bits that begin with an address.
RIPS = {0x201103, 0x201104, 0x201106}


def printed(*arguments: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main([*arguments]) == 0
    return out.getvalue()


def report(path: Path) -> Any:
    return json.loads(printed("report", "--json", str(path)))


def without_names(value: Any, place: str = "") -> Any:
    """Leave out what a copy changes: names, the file, and addresses with what is found from them."""
    if isinstance(value, dict):
        return {
            key: without_names(inside, f"{place}.{key}")
            for key, inside in value.items()
            if key not in ("path", "file", "name", "domains", "rip", "function", "tsc_hz_source")
        }
    if isinstance(value, list):
        return [without_names(inside, place) for inside in value]
    return value


@pytest.mark.parametrize(
    "sample",
    [
        pytest.param(one, id=name, marks=() if name in EACH_TIME else pytest.mark.nightly)
        for one in SAMPLES
        for name in [one.name.partition(".")[0]]
    ],
)
def test_a_report_has_the_same_figures(sample: Path, tmp_path: Path) -> None:
    target = tmp_path / sample.name.removesuffix(".xz")
    done = copy(sample, target)
    assert target.stat().st_size == len(lzma.decompress(sample.read_bytes()))
    before, after = report(sample), report(target)
    assert done.counts.records >= before["trace"]["records"] > 10_000
    assert without_names(after) == without_names(before)


def test_no_name_and_no_address_is_left(tmp_path: Path) -> None:
    (sample,) = (path for path in SAMPLES if path.name.startswith("xen417-events-pv."))
    trace = tmp_path / "t.bin"
    trace.write_bytes(lzma.decompress(sample.read_bytes()))
    facts = json.loads(Path(f"{sample}.json").read_text())
    for row in facts["domains"][1:]:
        row["name"] = f"secret-{row['name']}"
    Path(f"{trace}.json").write_text(json.dumps(facts | {"host": "secret.example"}))
    target = tmp_path / "copy.bin"
    copy(trace, target)
    beside = Path(f"{target}.json").read_text()
    assert "secret" not in beside
    assert facts["boot_id"] not in beside
    assert facts["dom0_kernel"] not in beside
    assert json.loads(beside)["domains"][1] == {"id": 1, "name": "domain1", "vcpus": 1}
    pairs = [
        tuple(one.words[0] | one.words[1] << 32 for one in both)
        for both in zip(read(trace.read_bytes()).records, read(target.read_bytes()).records, strict=True)
        if both[0].event in RIPS
    ]
    assert len(pairs) > 20
    kernel = [(was, now) for was, now in pairs if was >= 0xFFFF_8000_0000_0000]
    assert len({was - now for was, now in kernel}) == 1
    assert all(was != now for was, now in pairs)
    assert all((was >> 63) == (now >> 63) for was, now in pairs)


def test_addresses_stay_apart_and_in_their_half() -> None:
    shift = Shift()
    assert Shift(shift.distance_bytes) == shift
    assert shift.distance_bytes % (2 << 20) == 0
    assert 2 << 20 <= shift.distance_bytes < 1 << 30
    addresses = [
        0, 4096, 0x40_0000, 0x5555_5555_4000, 0x7FFF_F7DD_0000, 0xFFFF_8000_0000_0000, 0xFFFF_82D0_4020_0000,
        0xFFFF_8880_0000_0000, 0xFFFF_FFFF_8100_0000, 0xFFFF_FFFF_8100_0001, 0xFFFF_FFFF_FFFF_FFFF,
    ]  # fmt: skip
    moved = [shift.wide(one) for one in addresses]
    assert sorted(set(moved)) == moved
    assert [one >> 47 for one in moved] == [one >> 47 for one in addresses]
    assert moved[:2] == [0, 4096]
    assert shift.narrow(0x8100_0000) == shift.wide(0xFFFF_FFFF_8100_0000) & 0xFFFF_FFFF


def window(*records: bytes) -> bytes:
    body = b"".join(records)
    return struct.pack("<III", 0x2001F003, 0, len(body)) + body


def test_contents_that_nobody_knows_are_emptied(tmp_path: Path) -> None:
    trace, target = tmp_path / "t.bin", tmp_path / "c.bin"
    secret = struct.unpack("<2I", b"password")
    guest, unknown, kept = 0x0800_0001, 0x0001_FABC, 0x28004
    records = [pack_record(event, 1 << 40, secret) for event in (guest, unknown)]
    trace.write_bytes(window(*records, pack_record(kept, 1 << 40, (1, 0))))
    assert copy(trace, target).counts.emptied == 2
    assert b"passw" not in target.read_bytes()
    assert [one.words for one in read(target.read_bytes()).records] == [(0, 0), (0, 0), (1, 0)]


def test_a_cut_last_record_keeps_its_header_only(tmp_path: Path) -> None:
    trace, target = tmp_path / "t.bin", tmp_path / "c.bin"
    whole = window(pack_record(0x201106, 1 << 40, (0x8100_0000, 0xFFFF_FFFF)))
    for cut in range(len(whole)):
        trace.write_bytes(whole[:cut])
        copy(trace, target)
        found = target.read_bytes()
        assert len(found) == cut
        assert found[:16] == whole[: min(cut, 16)]
        assert not any(found[16:])


@pytest.mark.parametrize(
    "damaged",
    [
        b"\0" * 64,
        window(pack_record(0x28004, 1, (1, 0)))[:-4] + window(b"\0" * 4) + b"\1" * 8,
        window(struct.pack("<I", 7 << 28 | 0x28004)) + window(b""),
    ],
)
def test_damage_is_refused_with_its_place_and_nothing_is_left(damaged: bytes, tmp_path: Path) -> None:
    trace, target = tmp_path / "t.bin", tmp_path / "c.bin"
    trace.write_bytes(damaged)
    with pytest.raises(TraceError, match=r"damaged at byte \d+: an address there could be missed"):
        copy(trace, target)
    assert [path.name for path in tmp_path.iterdir()] == ["t.bin"]


def test_texts_are_names_unless_they_are_known() -> None:
    names = Names()
    found = names.without(
        {
            "state": "ended", "domains": [{"name": "Domain-0"}, {"name": "shop", "kernel": "/boot/shop"}],
            "xen": {"info": {"host": "shop", "nr_cpus": "8", "cpu_mhz": "2100.000", "address": "10.0.0.1"}},
            "irqs": {"45": ["xen-dyn-lateeoi-event", "eth0-q0-tx"], "1": ["xen-percpu-virq", "timer0"]},
        }
    )  # fmt: skip
    assert found == {
        "state": "ended", "domains": [{"name": "Domain-0"}, {"name": "domain1", "kernel": "file1"}],
        # The same text is the same token.
        "xen": {"info": {"host": "domain1", "nr_cpus": "8", "cpu_mhz": "2100.000", "address": "text1"}},
        "irqs": {"45": ["xen-dyn-lateeoi-event", "interrupt1"], "1": ["xen-percpu-virq", "timer0"]},
    }  # fmt: skip


def test_a_capture_of_dom0(tmp_path: Path) -> None:
    source = tmp_path / "a.xtrace"
    source.mkdir()
    address = 0xFFFF_FFFF_8123_4560
    bpf_capture(source, {(Kind.IRQ_HANDLER, 45, 0): [100, 200, 300]}, "vif-shop-q0")
    (tmp_path / "b").mkdir()
    sampled_capture(tmp_path / "b" / "s.xtrace", "cycles", [(0, address, 0), (1, address + 16, 0)])
    (tmp_path / "b" / "s.xtrace" / "samples").rename(source / "samples")
    (source / "perf").mkdir()
    symbols = [
        {"schema_version": 1},
        {"symbols": [[hex(address), "shop_send", 0], [hex(address + 16), "", 0]]},
    ]
    (source / layout.SYMBOLS).write_text("".join(f"{json.dumps(line)}\n" for line in symbols))
    meta = {
        "schema_version": 1, "kind": "xtrace capture", "state": "ended", "command": ["shop", "--key", "shop"],
        "domains": [{"id": 0, "name": "Domain-0"}, {"id": 3, "name": "shop"}], "duration_s": 3.0,
        "backends": {"bpf": {"used": True, "counts": {"records": 3, "lost": 0, "lost_known": True}}},
    }  # fmt: skip
    (source / layout.META).write_text(json.dumps(meta))
    (source / "xentrace.log").write_text("shop")
    target = tmp_path / "c.xtrace"
    done = copy(source, target)
    assert done.left_out == ["xentrace.log"]
    everything = b"".join(path.read_bytes() for path in target.rglob("*") if path.is_file())
    assert b"shop" not in everything
    assert f"{address:x}".encode() not in everything
    assert struct.pack("<Q", address) not in everything
    found = report(target)
    assert without_names(found) == without_names(report(source))
    assert found["trace"]["domains"] == {"0": "Domain-0", "3": "domain1"}
    rows = json.loads((target / layout.SYMBOLS).read_text().splitlines()[1])["symbols"]
    assert [row[1:] for row in rows] == [["symbol1", 0], ["", 0]]
    assert int(rows[1][0], 16) - int(rows[0][0], 16) == 16
    assert f"{int(rows[0][0], 16):016x}" != f"{address:016x}"
    assert bytes.fromhex(f"{int(rows[0][0], 16):016x}")[::-1] in everything


def test_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "t.bin.xz"
    trace.write_bytes(SAMPLES[0].read_bytes())
    assert main(["anonymize", str(trace)]) == 0
    target = tmp_path / "t.anonymous.bin"
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert re.search(r"t\.anonymous\.bin: [\d,]+ records, [\d,]+ addresses shifted, ", err)
    assert target.exists()
    assert main(["anonymize", str(trace)]) == 1
    assert "exists; choose another name with -o or --force" in capfd.readouterr().err
    assert main(["anonymize", "--force", str(trace)]) == 0
    assert main(["anonymize", str(tmp_path / "none.bin")]) == 1
    assert main(["anonymize", str(tmp_path)]) == 1
    assert "Traceback" not in capfd.readouterr().err


def test_a_file_in_xentraces_command_line_is_a_name() -> None:
    command = "xentrace -D -e sched+hw_irq,0x28000 -S 8M -T 10 acme"
    assert Names().without({"command": command}) == {"command": command.replace("acme", "file1")}
