"""Make a sample from a scenario's results.

usage, in the folder tests: python3 -m lab.sample FOLDER NAME [FIRST END]

Compresses the scenario's trace to samples/NAME.bin.xz and writes its sidecar, which adds what dom0 and the
guests know about the traffic: ``known``, dom0's lines as lists of words, and ``counters`` by domain, the last
ones that our own guests printed.  The consoles of guests that logged their upcalls go to
NAME.dDOMAIN.log.xz, for ``lab.truth``.

With FIRST and END, the sample has only these windows of the trace, counted from 0; the sidecar says so.  What
dom0 and the guests know is then left out, because it is of the whole trace.
"""

from __future__ import annotations

import json
import lzma
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from builders.cut import packed as of_windows
from oracle.reader import Window, frame

_SAMPLES = Path(__file__).parents[2] / "samples"
_COUNTERS = re.compile(r"^xtrace-guest: counters (\{.*\})\r?$", re.MULTILINE)


def make(folder: Path, name: str) -> Path:
    """Compress ``folder``'s trace and write its sidecar; return the path of the compressed trace."""
    trace = folder / f"{folder.name}.bin"
    packed = _SAMPLES / f"{name}.bin.xz"
    packed.write_bytes(_packed(trace.read_bytes()))
    rows = [line.split() for line in (folder / "known").read_text().splitlines()]
    facts = json.loads(trace.with_suffix(".bin.json").read_text())
    counters = {}
    for _, guest, domain, *_ in (row for row in rows if row[0] == "created"):
        path = folder / f"guest-{guest}.log"
        log = path.read_text(errors="replace") if path.exists() else ""
        if found := _COUNTERS.findall(log):
            counters[domain] = json.loads(found[-1])
        if "xtrace-guest: upcall" in log:
            (_SAMPLES / f"{name}.d{domain}.log.xz").write_bytes(_packed(log.encode()))
    _write(packed, {**facts, "known": rows, "counters": counters})
    return packed


def cut(folder: Path, name: str, first: int, end: int) -> Path:
    """Compress some windows of a trace and write the sidecar; return the path of the compressed trace."""
    trace = folder / f"{folder.name}.bin"
    packed = _SAMPLES / f"{name}.bin.xz"
    windows = list(frame(trace.read_bytes()).windows)
    packed.write_bytes(_packed(of_windows(_ended(windows[first:end]))))
    facts = json.loads(trace.with_suffix(".bin.json").read_text())
    _write(packed, {**facts, "windows": [first, min(end, len(windows)), len(windows)]})
    return packed


def _ended(windows: Sequence[Window]) -> list[Window]:
    """Return windows without what is after the last record of a pCPU: xentrace reads all to one end."""
    lasts = {w.pcpu: max(raw.tsc for raw in w.records if raw.tsc is not None) for w in windows}
    end = min(lasts.values())
    return [
        replace(window, records=tuple(raw for raw in window.records if raw.tsc is None or raw.tsc <= end))
        for window in windows
    ]


def _write(packed: Path, content: Mapping[str, object]) -> None:
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in content.items()]
    packed.with_name(f"{packed.name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def _packed(content: bytes) -> bytes:
    return lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)


def main(arguments: Sequence[str]) -> int:
    """Execute the command line and return the exit code."""
    if len(arguments) not in (2, 4):
        sys.stderr.write(__doc__ or "")
        return 2
    folder, name = Path(arguments[0]).resolve(), arguments[1]
    packed = cut(folder, name, *map(int, arguments[2:])) if arguments[2:] else make(folder, name)
    sys.stdout.write(f"{packed.name}: {packed.stat().st_size:,} bytes\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
