"""Copy a trace with the file beside it, or a capture: only files of known kinds, each without names."""

from __future__ import annotations

import json
import re
import shutil
import struct
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from xtrace.probes import outputs
from xtrace.probes.anonymous import trace
from xtrace.probes.anonymous.addresses import Shift
from xtrace.probes.anonymous.names import Names
from xtrace.probes.bpf.abi import SAMPLE_BYTES
from xtrace.probes.capture import layout
from xtrace.probes.capture.inside import MAX_META_BYTES, check, files
from xtrace.probes.ctf import MAGIC, PACKET
from xtrace.probes.errors import TraceError
from xtrace.probes.reader.sources import open_source

#: In a packet of samples: the address, and the name of the thread.
_IP, _COMM = struct.Struct("<Q"), slice(40, 56)
_IP_AT = 24
_MOST_PACKET_BYTES = 64 << 20
_LINE_BYTES = 1 << 24
_UUID = re.compile(r'uuid = "[0-9a-f-]{36}"')
_LINES = (layout.CLOCKS, layout.PROGRESS, layout.BPF_TABLES, layout.SYMBOLS, layout.XENCTX_SAMPLES)


@dataclass(slots=True)
class Copied:
    """What was done.

    Attributes:
        counts: of the records of the trace.
        names: texts that became tokens.
        left_out: files that are not copied, because they may hold anything.
    """

    counts: trace.Counts = field(default_factory=trace.Counts)
    names: Names = field(default_factory=Names)
    left_out: list[str] = field(default_factory=list)


def copy(source: Path, target: Path) -> Copied:
    """Copy a trace file, with the ``.json`` beside it, or a capture.

    Raises:
        TraceError: it is damaged, or neither a trace nor a capture.
        OSError: it cannot be read, or the copy cannot be written.
    """
    done, shift = Copied(), Shift()
    if not source.is_dir():
        with outputs.replacing(target) as new, new.open("wb") as file:
            _copy_trace(source, file, shift, done)
        beside = Path(f"{source}.json")
        if beside.is_file():
            outputs.replace_text(Path(f"{target}.json"), _without_names(beside, done.names))
        return done
    layout.open_capture(source)
    check(source)
    target.mkdir(mode=0o700)
    try:
        for path in sorted(files(source)):
            name = str(path.relative_to(source))
            if way := _way(name):
                new = target / name
                new.parent.mkdir(parents=True, exist_ok=True)
                with outputs.create(new) as file:
                    way(path, file, shift, done)
            else:
                done.left_out.append(name)
    except BaseException:
        shutil.rmtree(target)
        raise
    return done


_Way = Callable[[Path, BinaryIO, Shift, Copied], None]


def _way(name: str) -> _Way | None:
    """Return how a file of a capture is copied, None if it is not."""
    if name == layout.META:
        return _copy_object
    if name in _LINES:
        return _copy_lines
    if name.startswith(layout.TRACE) and not name.endswith(".json"):
        return _copy_trace
    folder, _, inside = name.partition("/")
    if folder not in (layout.BPF_EVENTS, layout.SAMPLES):
        return None
    if inside == "metadata":
        return _copy_metadata
    if not re.fullmatch(r"stream_\d+", inside):
        return None
    return _copy_samples if folder == layout.SAMPLES else _copy_events


def _copy_trace(source: Path, target: BinaryIO, shift: Shift, done: Copied) -> None:
    with open_source(source) as stream:
        done.counts = trace.copy(stream, target, shift, str(source))


def _copy_object(source: Path, target: BinaryIO, _shift: Shift, done: Copied) -> None:
    target.write(_without_names(source, done.names).encode())


def _without_names(source: Path, names: Names) -> str:
    try:
        if source.stat().st_size > MAX_META_BYTES:
            raise ValueError(f"over {MAX_META_BYTES >> 20} MiB")
        content = json.loads(source.read_bytes())
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{source}: no JSON that can be read: {error!s:.100}") from None
    if isinstance(content, dict):
        # First: a domain is called domain1, also where its name is in other texts.
        names.without(content.get("domains"))
    return json.dumps(names.without(content), indent=1) + "\n"


def _copy_lines(source: Path, target: BinaryIO, shift: Shift, done: Copied) -> None:
    """Copy lines of JSON; the last one may be cut, and is left out then."""
    for line in _lines(source):
        content = done.names.without(_moved(line, shift, done.names))
        target.write(json.dumps(content, separators=(",", ":")).encode() + b"\n")


def _lines(source: Path) -> Iterator[Any]:
    with source.open("rb") as file:
        number = 0
        while line := file.readline(_LINE_BYTES):
            number += 1
            if not line.endswith(b"\n"):
                if len(line) == _LINE_BYTES:
                    raise TraceError(f"{source}, line {number}: longer than {_LINE_BYTES >> 20} MiB")
                return
            try:
                yield json.loads(line)
            except (ValueError, RecursionError):
                raise TraceError(f"{source}, line {number}: no JSON") from None


def _moved(line: Any, shift: Shift, names: Names) -> Any:
    """Return a line with its addresses shifted: perf's symbols, xenctx's registers."""
    if not isinstance(line, dict):
        return line
    found = dict(line)
    try:
        for key in ("rip", "rsp"):
            if key in found:
                found[key] = hex(shift.wide(int(found[key], 16)))
        if "symbols" in found:
            found["symbols"] = [
                [hex(shift.wide(int(address, 16))), names.token(name, "symbol") if name else "", offset]
                for address, name, offset in found["symbols"]
            ]
    except (TypeError, ValueError):
        raise TraceError("a line of addresses is damaged, so there is no copy") from None
    return found


def _copy_metadata(source: Path, target: BinaryIO, _shift: Shift, _done: Copied) -> None:
    """Copy CTF's description, which has nothing of the host but an identity of its boot."""
    text = source.read_text(errors="replace")
    target.write(_UUID.sub(f'uuid = "{uuid.uuid4()}"', text).encode())


def _copy_events(source: Path, target: BinaryIO, _shift: Shift, _done: Copied) -> None:
    """Copy events, which have numbers of interrupts, ports and processes only."""
    with source.open("rb") as file:
        shutil.copyfileobj(file, target)


def _copy_samples(source: Path, target: BinaryIO, shift: Shift, done: Copied) -> None:
    """Copy packets of samples; a cut last one is left out."""
    with source.open("rb") as file:
        while len(head := file.read(PACKET.size)) == PACKET.size:
            magic, *_, bits, _, _ = PACKET.unpack(head)
            length = bits // 8 - PACKET.size
            if magic != MAGIC or not 0 <= length <= _MOST_PACKET_BYTES:
                raise TraceError(f"{source}: damaged, so there is no copy")
            packet = bytearray(file.read(length))
            if len(packet) < length:
                return
            for at in range(0, length - SAMPLE_BYTES + 1, SAMPLE_BYTES):
                (address,) = _IP.unpack_from(packet, at + _IP_AT)
                _IP.pack_into(packet, at + _IP_AT, shift.wide(address))
                comm = packet[at + _COMM.start : at + _COMM.stop]
                text = bytes(comm).partition(b"\0")[0].decode(errors="replace")
                token = done.names.token(text, "task").encode() if text else b""
                packet[at + _COMM.start : at + _COMM.stop] = token[:15].ljust(16, b"\0")
            target.write(head + packet)
