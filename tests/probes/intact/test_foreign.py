"""Files of other formats are named; what only looks like one is searched for windows."""

from __future__ import annotations

import io
import tarfile
import zipfile

import pytest

from xtrace.probes.errors import TraceError
from xtrace.probes.intact.whole_windows import WholeWindows
from xtrace.probes.reader.writer import pack_record, pack_window

WINDOWS = b"".join(
    pack_window(0, pack_record(0x28004, tsc, (1, 0)) + pack_record(0x21011, tsc + 5, (1 << 16,)))
    for tsc in range(1000, 9000, 1000)
)


def tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        member = tarfile.TarInfo("trace.bin")
        member.size = len(WINDOWS)
        archive.addfile(member, io.BytesIO(WINDOWS))
    return out.getvalue()


def stored_zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("trace.bin", WINDOWS)
    return out.getvalue()


FOREIGN = {
    "perf.data": (b"PERFILE2" + bytes(100), "perf.data"),
    "ctf": (b"\xc1\x1f\xfc\xc1" + bytes(100), "CTF"),
    "ctf-text": (b"/* CTF 1.8 */\n", "CTF"),
    "pcap": (b"\xd4\xc3\xb2\xa1\x02\x00\x04\x00" + bytes(40), "pcap file"),
    "pcapng": (b"\x0a\x0d\x0d\x0a" + bytes(40), "pcapng"),
    "elf": (b"\x7fELF\x02\x01\x01" + bytes(60), "ELF"),
    "efi": (b"MZ" + bytes(60), "EFI"),
    "zip": (stored_zip(), "zip"),
    "tar": (tar(), "tar"),
    "big-endian": (b"\x20\x01\xf0\x03" + bytes(60), "big-endian"),
    "format": (b"CPU0  66066713510 (+       0)  running_to_runnable  [ dom:vcpu = 0x00000000 ]\n" * 3,
               "xentrace_format"),
    "xenalyze": (b"   0.000000000 -x d0v1 runstate_change d0v1 running->blocked\n" * 3, "xenalyze"),
    "html": (b"<!DOCTYPE html><html>404", "HTML"),
    "lzip": (b"LZIP\x01" + bytes(30), "lzip"),
}  # fmt: skip


def given(data: bytes, step: int = 1 << 20) -> WholeWindows:
    whole = WholeWindows("x")
    for at in range(0, len(data), step):
        whole.feed(data[at : at + step])
    whole.end()
    return whole


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("step", [1, 100, 1 << 20])
def test_other_formats_are_named(name: str, step: int) -> None:
    content, said = FOREIGN[name]
    with pytest.raises(TraceError, match=f"^x: not a xentrace file: it is .*{said}"):
        given(content, step)


@pytest.mark.parametrize("front", [b"MZ", b"\x5d\x00\x00", b"CPU0  1 (+ 0)  x\n", b'{"a": 1}\n', b"<html>\n"])
def test_a_trace_after_bytes_that_begin_like_another_format_is_read(front: bytes) -> None:
    whole = given(front + WINDOWS)
    assert whole.take() == WINDOWS
    assert (whole.damage_count, whole.skipped_bytes) == (1, len(front))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 12, 100])
def test_any_other_file_is_refused_in_one_line(size: int) -> None:
    with pytest.raises(TraceError, match=r"^x: not a xentrace file: [^\n]*$"):
        given(b"\xee" * size)
