"""Name files that are no traces of Xen, by how they begin."""

from __future__ import annotations

import re

from xtrace.probes.errors import TraceError

#: How files begin, what they are, and what to do with them instead.
_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"PERFILE2", "a perf.data file", "perf report reads it"),
    (b"\xc1\x1f\xfc\xc1", "a packet stream of CTF", "babeltrace2 reads its folder"),
    (b"\xc1\xfc\x1f\xc1", "a packet stream of CTF", "babeltrace2 reads its folder"),
    (b"\x57\x1d\xd1\x75", "metadata of CTF", "babeltrace2 reads its folder"),
    (b"\x75\xd1\x1d\x57", "metadata of CTF", "babeltrace2 reads its folder"),
    (b"/* CTF ", "metadata of CTF", "babeltrace2 reads its folder"),
    (b"\xd4\xc3\xb2\xa1", "a pcap file", "tcpdump -r reads it"),
    (b"\xa1\xb2\xc3\xd4", "a pcap file", "tcpdump -r reads it"),
    (b"\x4d\x3c\xb2\xa1", "a pcap file", "tcpdump -r reads it"),
    (b"\xa1\xb2\x3c\x4d", "a pcap file", "tcpdump -r reads it"),
    (b"\x0a\x0d\x0d\x0a", "a pcapng file", "tcpdump -r reads it"),
    (b"\x17\x08\x44tracing", "a trace.dat file of trace-cmd", "trace-cmd report reads it"),
    (b"\x7fELF", "an ELF file", "xtrace sites reads kernel images"),
    (b"MZ", "a PE or EFI image", "xtrace sites reads kernel images"),
    (b"PK\x03\x04", "a zip archive", "unzip it first"),
    (b"PK\x05\x06", "an empty zip archive", "it has no trace"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first: 7z x FILE"),
    (b"Rar!\x1a\x07", "a rar archive", "unpack it first"),
    (b"!<arch>\n", "an ar archive", "unpack it first: ar x FILE"),
    (b"\x02\x21\x4c\x18", "compressed by lz4 in its legacy format", "pipe it: lz4 -dc FILE | xtrace ... -"),
    (b"\x1f\x9d", "compressed by compress", "pipe it: gzip -dc FILE | xtrace ... -"),
    (b"\x1f\xa0", "compressed by compress", "pipe it: gzip -dc FILE | xtrace ... -"),
    (b"\x89LZO\x00\x0d\x0a\x1a\x0a", "compressed by lzop", "pipe it: lzop -dc FILE | xtrace ... -"),
    (b"LZIP", "compressed by lzip", "pipe it: lzip -dc FILE | xtrace ... -"),
    (b"\x5d\x00\x00", "compressed in the .lzma format", "pipe it: xz -dc FILE | xtrace ... -"),
    (b"\xff\x06\x00\x00sNaPpY", "compressed by snappy", "unpack it first"),
    (b"SQLite format 3\x00", "an SQLite database", "perhaps the wrong file"),
    (b"%PDF-", "a PDF file", "perhaps the wrong file"),
    (b"\x89PNG", "a PNG image", "perhaps the wrong file"),
    (b"\x20\x01\xf0\x03", "a trace with its words in big-endian order", "Xen writes little-endian ones only"),
)
_TAR_AT, _TAR = 257, b"ustar"
_TEXTS: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"CPU\d+ +\d+ \(\+ *\d+\) "), "text that xentrace_format made of a trace"),
    (re.compile(rb"\s*\d+\.\d{6,} [-|x.]+ +d\d+v\d+ "), "text that xenalyze made of a trace"),
    (re.compile(rb"(?:Using VMX hardware tracing|Total time: +\d|-- Per-domain|\|-- |Using \S+ hardware)"),
     "text that xenalyze made of a trace"),
    (re.compile(rb"# tracer: "), "text of ftrace"),
    (re.compile(rb"\s*(?:<!DOCTYPE|<html)", re.IGNORECASE), "an HTML page"),
    (re.compile(rb"version https://git-lfs"), "a pointer of Git LFS, not the file"),
    (re.compile(rb'\s*\{\s*"'), "JSON"),
)  # fmt: skip


#: Bytes of a file that are looked at.
HEAD_BYTES = 4096
#: A shorter one also begins what is left of a trace whose beginning is lost.
_SURE_BYTES = 4


def format_of(head: bytes) -> tuple[str, str]:
    """Return what a file that begins with ``head`` is and what to do with it, "" and "" if not known."""
    for magic, what, instead in _MAGIC:
        if head.startswith(magic):
            return what, instead
    if head[_TAR_AT : _TAR_AT + len(_TAR)] == _TAR:
        return "a tar archive", "unpack it first: tar xf FILE"
    for pattern, what in _TEXTS:
        if pattern.match(head):
            return what, "give the trace itself"
    return "", ""


def refuse_foreign(head: bytes, name: str) -> None:
    """Raise TraceError if a file that begins with ``head`` is surely of another format."""
    is_sure = any(len(magic) >= _SURE_BYTES and head.startswith(magic) for magic, _, _ in _MAGIC)
    if is_sure or head[_TAR_AT : _TAR_AT + len(_TAR)] == _TAR:
        refuse_unlikely(head, name)


def refuse_unlikely(head: bytes, name: str) -> None:
    """Raise TraceError if a file in which there is no window begins like one of another format."""
    what, instead = format_of(head)
    if what:
        raise TraceError(f"{name}: not a xentrace file: it is {what}; {instead}")
