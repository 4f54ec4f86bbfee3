"""What is not a file inside of a capture is refused, before anything is read from it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from oracle.reading import SAMPLES, sample_bytes
from xtrace.probes.capture import inside
from xtrace.probes.capture.layout import open_capture, trace_in
from xtrace.probes.capture.sidecar import sidecar_of
from xtrace.probes.errors import TraceError


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    folder = tmp_path / "a.xtrace"
    (folder / "bpf").mkdir(parents=True)
    (folder / "meta.json").write_text(json.dumps({"schema_version": 1}))
    (folder / "xentrace.bin").write_bytes(sample_bytes(SAMPLES[0])[:5000])
    (folder / "bpf" / "tables.jsonl").write_text("")
    return folder


def test_files_and_folders(capture: Path) -> None:
    assert {path.name for path in inside.files(capture)} == {"meta.json", "xentrace.bin", "tables.jsonl"}
    assert open_capture(capture).has_trace


PUT: dict[str, Callable[[Path], None]] = {
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to a file": lambda path: path.symlink_to("/etc/hostname"),
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "a link to a folder": lambda path: path.symlink_to("/etc", target_is_directory=True),
    "a pipe": os.mkfifo,
}


@pytest.mark.parametrize("name", ["meta.json", "xentrace.bin", "bpf/tables.jsonl", "events", "more"])
@pytest.mark.parametrize("what", PUT)
def test_what_is_not_a_file_is_refused(capture: Path, name: str, what: str) -> None:
    path = capture / name
    path.unlink(missing_ok=True)
    PUT[what](path)
    for read in (inside.check, sidecar_of):
        with pytest.raises(TraceError, match="which a capture never contains") as raised:
            read(capture)
        assert str(path) in str(raised.value)
    if name != "meta.json":
        with pytest.raises(TraceError, match="which a capture never contains"):
            open_capture(capture)
    if name not in ("meta.json", "xentrace.bin"):
        with pytest.raises(TraceError, match="which a capture never contains"):
            trace_in(capture)


def test_a_line_file_of_a_terabyte(capture: Path) -> None:
    with (capture / "clocks.jsonl").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(TraceError, match="larger than 1 GiB"):
        inside.check(capture)


def test_folders_without_end(capture: Path) -> None:
    deep = capture
    for _ in range(12):
        deep = deep / "deep"
        deep.mkdir()
    with pytest.raises(TraceError, match="folders 8 deep"):
        inside.check(capture)
