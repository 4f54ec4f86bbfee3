"""The recorder's own files after kill -9 and on a full disk: all commands read the same of them."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from oracle.intact import whole
from oracle.reader import frame
from oracle.reading import SAMPLES, sample_bytes
from xtrace.cli.main import main

#: Writes a trace to a file in pieces, as xentrace does, and prints where it is from time to time.
WRITER = """
import sys, time
data, size, path = open(sys.argv[1], "rb").read(), int(sys.argv[2]), sys.argv[3]
with open(path, "ab", buffering=0) as file:
    for at in range(0, len(data), size):
        file.write(data[at : at + size])
        print(at, flush=True)
        time.sleep(0.001)
print("end", flush=True)
sys.stdin.read()
"""
PIECE_BYTES = 1000


@pytest.fixture
def data() -> bytes:
    return sample_bytes(SAMPLES[0])[:600_000]


def _writer(data: bytes, folder: Path, *, limit_bytes: int | None = None) -> subprocess.Popen[bytes]:
    (folder.parent / "data").write_bytes(data)
    folder.mkdir()

    def limit() -> None:
        if limit_bytes is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

    trace = folder / "xentrace.bin"
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder.parent / "data"), str(PIECE_BYTES), str(trace)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, preexec_fn=limit,
    )  # fmt: skip


def killed(data: bytes, folder: Path) -> None:
    """Write a capture and kill the writer in the middle."""
    with _writer(data, folder) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            if int(line) > len(data) // 3:
                writer.kill()
                break
        writer.wait()


def full(data: bytes, folder: Path) -> None:
    """Write a capture to a file that cannot grow any more at some size."""
    with _writer(data, folder, limit_bytes=len(data) // 2 + 3) as writer:
        writer.communicate()


def full_disk(data: bytes, folder: Path) -> None:
    """Write a capture to a small file system of its own."""
    if os.geteuid():
        pytest.skip("needs root to mount a file system")
    trace = folder / "xentrace.bin"
    script = (
        f'mount -t tmpfs -o size=256k none "{folder.parent}" && mkdir "{folder}" && '
        f'{{ cat > "{trace}" || cat "{trace}"; }}'
    )
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], input=data, capture_output=True, check=False)
    if b"unshare" in done.stderr or b"mount" in done.stderr:
        pytest.skip("no mounts of one's own here")
    assert b"No space left on device" in done.stderr
    folder.mkdir()
    trace.write_bytes(done.stdout)


@pytest.mark.parametrize("write", [killed, full, full_disk])
def test_all_commands_read_the_same(
    write: Callable[[bytes, Path], None], data: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    folder = place / "a.xtrace"
    write(data, folder)
    left = (folder / "xentrace.bin").read_bytes()
    assert 0 < len(left) < len(data)
    assert left == data[: len(left)]
    count = _count(left)
    content, windows = whole(left)
    last = frame(content).windows[-1]
    missing = last.offset + 12 + last.size - len(content) // 4 * 4
    counts = {}
    assert main(["report", "--json", str(folder)]) == 0
    trace = json.loads(capsys.readouterr().out)["trace"]
    counts["report"] = trace["records"]
    assert (trace["damage_count"], trace["missing_bytes"]) == (windows.damage_count, missing)
    assert main(["dump", str(folder)]) == 0
    counts["dump"] = len(capsys.readouterr().out.splitlines())
    assert main(["info", str(folder)]) == 0
    (records,) = re.findall(r"records +([0-9,]+) +exact", capsys.readouterr().out)
    counts["info"] = int(records.replace(",", ""))
    assert main(["stat", "--json", "-i", str(folder), "3600"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    counts["stat"] = sum(row["record_count"] for row in rows)
    assert counts == dict.fromkeys(counts, count)
    # A recorder that is started again may append.
    with (folder / "xentrace.bin").open("ab") as file:
        file.write(data)
    assert main(["report", "--json", str(folder)]) == 0
    trace = json.loads(capsys.readouterr().out)["trace"]
    assert trace["records"] == _count(left + data) > count


def _count(data: bytes) -> int:
    return sum(not raw.is_wrap for window in frame(whole(data)[0]).windows for raw in window.records)
