"""A file that grows is followed, also where it is rotated or truncated; a pipe that pauses is shown."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from builders.mutated import real_offsets
from oracle.reader import frame
from oracle.reading import SAMPLES, sample_bytes

SAMPLE = next(path for path in SAMPLES if path.name.startswith("xen417-pvh-all"))
DATA, OFFSETS = sample_bytes(SAMPLE), real_offsets(SAMPLE)
HALF = OFFSETS[len(OFFSETS) // 2]
MOST_S = 60.0


class Stat:
    """`xtrace stat --json`, and the lines that it has printed."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.content = b""

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.content.splitlines(keepends=True) if line.endswith(b"\n")]

    def until(self, count: int) -> None:
        """Wait until it has shown ``count`` records."""
        assert self.process.stdout is not None
        until = time.monotonic() + MOST_S
        while sum(line["record_count"] for line in self.lines) < count:
            assert time.monotonic() < until, f"{count} records after {MOST_S} s: {self.lines}"
            if select.select([self.process.stdout], [], [], 0.1)[0]:
                self.content += os.read(self.process.stdout.fileno(), 1 << 16)

    def errors(self) -> bytes:
        self.process.kill()
        assert self.process.stderr is not None
        return self.process.stderr.read()


@contextmanager
def stat(*options: str) -> Iterator[Stat]:
    command = [sys.executable, "-m", "xtrace", "stat", "0.1", "--json", "--cpu-hz", "2.3e9", *options]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            yield Stat(process)
        finally:
            process.kill()


def shown(*parts: bytes) -> int:
    """Return how many records are shown before more arrives: those of the last round are held back."""
    windows = [window for part in parts for window in frame(part).windows]
    ends = [at for at in range(1, len(windows)) if windows[at].pcpu <= windows[at - 1].pcpu]
    return sum(not raw.is_wrap for window in windows[: ends[-1]] for raw in window.records)


def test_a_growing_file_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_bytes(DATA[:HALF])
    with stat("-F", "-i", str(path)) as found:
        found.until(shown(DATA[:HALF]))
        with path.open("ab") as file:
            for at in range(HALF, len(DATA), 50_001):
                file.write(DATA[at : at + 50_001])
                file.flush()
                time.sleep(0.01)
        found.until(shown(DATA))
    assert sum(line["damage_count"] for line in found.lines) == 0


def test_a_file_that_is_rotated_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_bytes(DATA[:HALF])
    with stat("-F", "-i", str(path)) as found:
        found.until(shown(DATA[:HALF]))
        path.rename(tmp_path / "trace.1")
        path.write_bytes(DATA[HALF:])
        found.until(shown(DATA))
        assert b"was rotated: goes on with the new file" in found.errors()


def test_a_file_that_is_truncated_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_bytes(DATA[:HALF])
    rest = DATA[HALF : OFFSETS[len(OFFSETS) // 2 + 6]]
    assert len(rest) < HALF
    with stat("-F", "-i", str(path)) as found:
        found.until(shown(DATA[:HALF]))
        path.write_bytes(rest)
        found.until(shown(DATA[:HALF], rest))
        assert b"was truncated: goes on from its beginning" in found.errors()


def test_a_pipe_that_pauses_shows_what_came() -> None:
    with stat("-i", "-") as found:
        stdin = found.process.stdin
        assert stdin is not None
        stdin.write(DATA[:HALF])
        stdin.flush()
        found.until(shown(DATA[:HALF]))
        assert found.process.poll() is None
        stdin.write(DATA[HALF:])
        stdin.close()
        count = sum(not raw.is_wrap for window in frame(DATA).windows for raw in window.records)
        found.until(count)
    assert sum(line["record_count"] for line in found.lines) == count


def test_a_pipe_is_shown_in_cycles_until_its_rate_is_known() -> None:
    long = next(path for path in SAMPLES if path.name.startswith("xen417-pv-all"))
    command = [sys.executable, "-m", "xtrace", "stat", "-i", "-"]
    done = subprocess.run(command, input=sample_bytes(long), capture_output=True, check=True, timeout=MOST_S)
    lines = done.stdout.decode().splitlines()
    assert lines[0].startswith("TSC      rate not known (yet): 10^9 cycles (Gc) stand for a second")
    assert sum(line.startswith("TSC      2") and "run times in its first " in line for line in lines) == 1
