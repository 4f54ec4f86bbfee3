"""Whether a stopped process may still execute some bytes of its code: is their address anywhere in it?

A thread executes an address that is in its instruction pointer, or that it takes from memory or another
register: a return address, or the frame of a signal, wherever its stack is.  So all registers and all memory
that may be written are searched for words in the range, at any alignment.  A word that only looks like one
costs time, not safety.

Source: proc_pid_maps(5); Linux arch/x86/include/uapi/asm/sigcontext.h (a frame holds the registers).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from xtrace.probes.trial.target import TargetGoneError, TrialError

_CHUNK_BYTES = 4 << 20
_WORD_BYTES = 8
_MOST_MAPS_BYTES = 64 << 20


def writable_mappings(pid: int) -> list[range]:
    """Return the address ranges that a process may write.

    Raises:
        TargetGoneError: it is gone.
    """
    try:
        with open(f"/proc/{pid}/maps", "rb") as file:
            lines = file.read(_MOST_MAPS_BYTES).splitlines()
    except OSError:
        raise TargetGoneError(f"process {pid} ended") from None
    found = []
    for line in lines:
        span, rights = line.split(maxsplit=2)[:2]
        if b"w" in rights:
            start, _, end = span.partition(b"-")
            found.append(range(int(start, 16), int(end, 16)))
    return found


def refers(pid: int, memory: int, registers: Iterable[bytes], ranges: Sequence[range]) -> bool:
    """Return whether a word in the registers or the memory of a stopped process is in one of the ranges.

    Raises:
        TrialError: memory that is mapped cannot be read.
    """
    if any(holds(data, ranges) for data in registers):
        return True
    for mapping in writable_mappings(pid):
        for start in range(mapping.start, mapping.stop, _CHUNK_BYTES):
            # A word may begin in one chunk and end in the next.
            size = min(_CHUNK_BYTES + _WORD_BYTES - 1, mapping.stop - start)
            if holds(_read(pid, memory, start, size), ranges):
                return True
    return False


def _read(pid: int, memory: int, start: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        try:
            more = os.pread(memory, size - len(data), start + len(data))
        except OSError as error:
            raise TrialError(
                f"process {pid}: cannot search its memory at {start + len(data):#x}: {error.strerror}"
            ) from None
        if not more:
            raise TargetGoneError(f"process {pid} ended")
        data += more
    return data


def _patterns(addresses: range) -> list[tuple[bytes, int, int]]:
    """Return a word's upper seven bytes, and its lowest one's ends, for each 256 bytes of a range."""
    found = []
    for page in range(addresses.start >> 8, (addresses.stop - 1 >> 8) + 1):
        first = max(addresses.start, page << 8) & 0xFF
        last = min(addresses.stop - 1, (page << 8) + 0xFF) & 0xFF
        found.append((page.to_bytes(_WORD_BYTES - 1, "little"), first, last))
    return found


def holds(data: bytes, ranges: Sequence[range]) -> bool:
    """Return whether a word in the data, at any alignment, is in one of the ranges."""
    for upper, first, last in (item for one in ranges for item in _patterns(one)):
        at = data.find(upper, 1)
        while at >= 0:
            if first <= data[at - 1] <= last:
                return True
            at = data.find(upper, at + 1)
    return False
