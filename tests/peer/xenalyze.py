"""Call the peer tool xenalyze: the records that it reads, its dump, its summary.

Raw records come from ``--dump-no-processing``: one line for each record read, with the reading
pCPU, the file offset, event, number of words, the full TSC and all seven words in hex.  In this mode
nothing is processed, so xenalyze does not abort, its skew correction does not shift TSCs, and LOST_RECORDS
is read once (with processing it is handled twice: at its first_tsc and, as event 0x1f032, at its
own TSC).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from peer.xenalyze_dump import Dump, DumpLine, decode, dump_all
from peer.xenalyze_run import Printed, XenalyzeError, available, dumped_ns, needs_xenalyze, require, run
from peer.xenalyze_summary import Summary, parse_summary

__all__ = [
    "Dump",
    "DumpLine",
    "RawRecords",
    "Summary",
    "Windows",
    "XenalyzeError",
    "available",
    "decode",
    "dump_all",
    "dumped_ns",
    "needs_xenalyze",
    "parse_raw_reads",
    "parse_summary",
    "raw_records",
    "require",
    "summary",
    "svm_args",
]

CPU_CHANGE = 0x1F003
#: Events that every HVM exit had until Xen 4.18, on either vendor's CPUs.
VMX_EXITS = (0x81002, 0x81102)
#: VMEXIT_CPUID, HLT, MSR, VMMCALL: numbers above what 4.17's xenalyze accepts on VMX (0x38).
SVM_REASONS = (0x72, 0x78, 0x7C, 0x81)
U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]

# "R p" pcpu:2 " o" offset:16 "  " event:7 " " n " " tsc:14 " [" 7 x " %8x" " ] | " 8 x " %08x" " |\n":
# the words of the record, then the bytes from its header word on, which extend into the next record.
# Everything after the TSC has fixed columns from the end of the line, everything before it from the start.
_PAIR_BYTES = 9
_RAW_FROM_END = 2 + 8 * _PAIR_BYTES
_WORDS_FROM_END = _RAW_FROM_END + 5 + 7 * _PAIR_BYTES

_DIGIT = np.zeros(256, np.uint64)
_DIGIT[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows of the file, in file order.

    Attributes:
        offset: int64 [w], file offset of the CPU_CHANGE record.
        pcpu: uint16 [w].
        size_bytes: int64 [w], bytes after the CPU_CHANGE record.
    """

    offset: I64
    pcpu: npt.NDArray[np.uint16]
    size_bytes: I64


@dataclass(frozen=True, slots=True)
class RawRecords:
    """Every record that xenalyze reads except CPU_CHANGE, in file order.

    Attributes:
        pcpu: uint16 [n].
        offset: int64 [n], file offset of the header word in bytes.
        timed: bool [n].
        tsc: uint64 [n], cycles; 0 for an untimed record.
        event: uint32 [n].
        n_words: uint8 [n].
        words: uint32 [n, 7], zero beyond n_words.
        windows: the windows that they were read from.
    """

    pcpu: npt.NDArray[np.uint16]
    offset: I64
    timed: npt.NDArray[np.bool_]
    tsc: npt.NDArray[np.uint64]
    event: npt.NDArray[np.uint32]
    n_words: U8
    words: npt.NDArray[np.uint32]
    windows: Windows

    def __len__(self) -> int:
        return len(self.event)


def raw_records(path: Path) -> RawRecords:
    """Return every record that xenalyze reads from ``path``."""
    return parse_raw_reads(run(path, ["--dump-no-processing"]))


def summary(path: Path, cpu_hz: int, extra_args: Sequence[str] = ()) -> Summary:
    """Return xenalyze's summary of ``path``, including pCPU utilisation and the default domain."""
    options = ["--summary", "--report-pcpu", "--show-default-domain-summary", "--cpu-hz", str(cpu_hz)]
    return parse_summary(run(path, [*options, *extra_args]).stdout.decode("ascii", "replace"))


def svm_args(records: RawRecords) -> tuple[str, ...]:
    """Return the options that xenalyze needs for a trace of an AMD host before Xen 4.19."""
    exits = records.words[np.isin(records.event, VMX_EXITS), 0]
    return ("--svm-mode",) if np.isin(exits, SVM_REASONS).any() else ()


def parse_raw_reads(printed: Printed) -> RawRecords:
    """Parse the output of ``--dump-no-processing``.

    Raises:
        XenalyzeError: a line does not have the known format.
    """
    text = np.frombuffer(printed.stdout, np.uint8)
    ends = np.flatnonzero(text == ord("\n"))
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1] + 1]) if len(ends) else ends
    lengths = ends - starts
    n = len(starts)
    pcpu, event, header = np.zeros((3, n), np.uint64)
    offset, tsc = np.zeros((2, n), np.uint64)
    n_words = np.zeros(n, np.uint8)
    words = np.zeros((n, 7), np.uint64)
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        line = text[starts[rows, None] + np.arange(length)]
        known = length > _WORDS_FROM_END + 40
        if not (known and _all_equal(line[:, :3], b"R p") and _all_equal(line[:, -2:], b" |")):
            raise XenalyzeError(f"not a raw record: {bytes(line[0])!r}", printed.stdout)
        for width in (2, 3):
            at = 3 + width
            fits = (line[:, at] == ord(" ")) & (line[:, at + 1] == ord("o"))
            if width == 3:
                fits &= line[:, 5] != ord(" ")
            part, row = line[fits], rows[fits]
            if not len(row):
                continue
            pcpu[row] = _number(part[:, 3:at], 10)
            offset[row] = _number(part[:, at + 2 : at + 18], 16)
            event[row] = _number(part[:, at + 20 : at + 27], 16)
            n_words[row] = _DIGIT[part[:, at + 28]]
            for i in range(7):
                column = length - _WORDS_FROM_END + i * _PAIR_BYTES + 1
                words[row, i] = _number(part[:, column : column + 8], 16)
            raw = [length - _RAW_FROM_END + i * _PAIR_BYTES + 1 for i in range(3)]
            header[row], low, high = (_number(part[:, c : c + 8], 16) for c in raw)
            tsc[row] = low | high << np.uint64(32)
    timed = header >> np.uint64(31) != 0
    expected = event | n_words.astype(np.uint64) << np.uint64(28) | timed.astype(np.uint64) << np.uint64(31)
    if not np.array_equal(header, expected):
        raise XenalyzeError("xenalyze prints an event that is not the one in its header word", printed.stdout)
    keep = np.flatnonzero(event != CPU_CHANGE)
    keep = keep[np.argsort(offset[keep], kind="stable")]
    change = event == CPU_CHANGE
    return RawRecords(
        pcpu=pcpu[keep].astype(np.uint16),
        offset=offset[keep].astype(np.int64),
        timed=timed[keep],
        tsc=np.where(timed[keep], tsc[keep], np.uint64(0)),
        event=event[keep].astype(np.uint32),
        n_words=n_words[keep],
        words=words[keep].astype(np.uint32),
        windows=_windows(printed.stderr, pcpu[change], offset[change], words[change]),
    )


def _windows(
    stderr: str, reader: npt.NDArray[np.uint64], offset: npt.NDArray[np.uint64], words: npt.NDArray[np.uint64]
) -> Windows:
    """Return the windows among the CPU_CHANGE lines.

    Each pCPU skips, and prints, the windows of the others.  The line of a pCPU's first window
    shows offset 0, because it is printed before the offset is set: stderr has the correct one.
    """
    activated = re.findall(r"Activating pcpu (\d+) at offset (\d+)", stderr)
    first = {int(pcpu): int(at) for pcpu, at in reversed(activated)}
    found = {}
    columns = zip(reader.tolist(), offset.tolist(), words[:, :2].tolist(), strict=True)
    for read_by, at, (pcpu, size) in columns:
        found[first[pcpu] if at == 0 and read_by == pcpu else at] = (pcpu, size)
    at_offsets = sorted(found)
    return Windows(
        offset=np.array(at_offsets, np.int64),
        pcpu=np.array([found[at][0] for at in at_offsets], np.uint16),
        size_bytes=np.array([found[at][1] for at in at_offsets], np.int64),
    )


def _number(columns: U8, base: int) -> npt.NDArray[np.uint64]:
    """Return the number in each row of characters; spaces count as leading zeros."""
    total = np.zeros(len(columns), np.uint64)
    for column in columns.T:
        total = total * np.uint64(base) + _DIGIT[column]
    return total


def _all_equal(columns: U8, expected: bytes) -> bool:
    return bool((columns == np.frombuffer(expected, np.uint8)).all())
