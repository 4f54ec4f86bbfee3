"""Write captures: atomic writes, size limits, private modes, and no overwriting of other files."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from xtrace.probes.capture.stream import CaptureFullError
from xtrace.probes.capture.writer import CaptureWriter, SizeReachedError, make_way, named
from xtrace.probes.errors import TraceError


def test_files_are_private_and_grow(tmp_path: Path) -> None:
    capture = CaptureWriter(tmp_path / "a.xtrace", {"state": "recording"})
    stream = capture.stream("events/stream_0")
    stream.write(b"one")
    stream.write(b"two")
    tool = capture.path("tool.bin")
    Path(tool).write_bytes(b"12345")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [*capture.directory.rglob("*")]}
    assert modes == {"meta.json": 0o600, "events": 0o700, "stream_0": 0o600, "tool.bin": 0o600}
    assert stat.S_IMODE(capture.directory.stat().st_mode) == 0o700
    # The kernel has the data before the flush.
    assert (capture.directory / "events" / "stream_0").read_bytes() == b"onetwo"
    assert capture.byte_count == len(b"onetwo") + 5 + (capture.directory / "meta.json").stat().st_size
    capture.flush()
    capture.close()
    capture.close()
    assert json.loads((capture.directory / "meta.json").read_text()) == {"state": "recording"}
    assert [path.name for path in tmp_path.iterdir()] == ["a.xtrace"]


@pytest.mark.parametrize("name", ["", "../a", "/a", "a/../../b"])
def test_a_stream_stays_in_the_capture(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a valid file name"):
        CaptureWriter(tmp_path / "a.xtrace").stream(name)


def test_a_file_cannot_be_created_twice(tmp_path: Path) -> None:
    capture = CaptureWriter(tmp_path / "a.xtrace")
    capture.stream("a")
    with pytest.raises(TraceError, match="already being written"):
        capture.path("a")
    capture.close()


def test_a_write_beyond_the_maximum_size_has_no_effect(tmp_path: Path) -> None:
    capture = CaptureWriter(tmp_path / "a.xtrace", max_bytes=1000)
    stream = capture.stream("a")
    stream.write(b"x" * 900)
    with pytest.raises(SizeReachedError, match=r"--max-size of 1,000 bytes"):
        stream.write(b"x" * 100)
    Path(capture.path("tool")).write_bytes(b"x" * 200)
    with pytest.raises(SizeReachedError):
        capture.make_room()
    capture.close()
    assert (capture.directory / "a").stat().st_size == 900


def test_a_full_disk_keeps_complete_writes_and_the_old_meta(small_disk: Path) -> None:
    capture = CaptureWriter(small_disk / "a.xtrace", {"state": "recording"})
    stream = capture.stream("a")
    block = b"y" * 5000
    with pytest.raises(CaptureFullError, match="No space left on device") as caught:  # noqa: PT012
        while True:
            stream.write(block)
    assert not isinstance(caught.value, SizeReachedError)
    size = (capture.directory / "a").stat().st_size
    assert size == stream.byte_count > 100_000
    assert size % len(block) == 0
    with pytest.raises(CaptureFullError):
        capture.write_meta({"state": "ended", "much": "x" * 20_000})
    assert json.loads((capture.directory / "meta.json").read_text()) == {"state": "recording"}
    assert sorted(path.name for path in capture.directory.iterdir()) == ["a", "meta.json"]
    capture.close()


def test_the_disk_reserve_is_left_free(small_disk: Path) -> None:
    capture = CaptureWriter(small_disk / "a.xtrace", reserve_bytes=128 << 10)
    stream = capture.stream("a")
    with pytest.raises(CaptureFullError, match="reserve"):  # noqa: PT012
        while True:
            stream.write(b"y" * 4096)
    capture.close()
    disk = os.statvfs(small_disk)
    assert disk.f_bavail * disk.f_frsize >= 128 << 10


def test_the_previous_capture_is_kept_once_or_overwritten(tmp_path: Path) -> None:
    path = named(str(tmp_path / "a"))
    for number in range(3):
        make_way(path, overwrite=False)
        CaptureWriter(path, {"number": number}).close()
    old = tmp_path / "a.xtrace.old"
    assert json.loads((old / "meta.json").read_text()) == {"number": 1}
    make_way(path, overwrite=True)
    assert not path.exists()
    assert json.loads((old / "meta.json").read_text()) == {"number": 1}


def test_files_that_are_not_captures_are_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "a.xtrace"
    folder.mkdir()
    (folder / "thesis.txt").write_text("five years")
    link = tmp_path / "b.xtrace"
    other = tmp_path / "other.xtrace"
    CaptureWriter(other).close()
    link.symlink_to(other)
    for path in (folder, link):
        for overwrite in (False, True):
            with pytest.raises(TraceError, match="not an xtrace capture"):
                make_way(path, overwrite=overwrite)
    CaptureWriter(tmp_path / "c.xtrace").close()
    (tmp_path / "c.xtrace.old").write_text("mine")
    with pytest.raises(TraceError, match="not an xtrace capture"):
        make_way(tmp_path / "c.xtrace", overwrite=False)
    assert (folder / "thesis.txt").read_text() == "five years"
    assert (other / "meta.json").exists()
    assert (tmp_path / "c.xtrace" / "meta.json").exists()


@pytest.mark.parametrize(
    ("name", "path"), [("a", "a.xtrace"), ("a.xtrace", "a.xtrace"), ("b/a.xtrace/", "b/a.xtrace")]
)
def test_names(name: str, path: str) -> None:
    assert named(name) == Path(path)
