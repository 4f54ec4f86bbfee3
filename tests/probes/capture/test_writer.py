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
    tool = capture.file("tool.bin")
    Path(f"/proc/self/fd/{tool}").write_bytes(b"12345")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [*capture.directory.rglob("*")]}
    assert modes == {
        "meta.json": 0o600,
        "meta.json.new": 0o600,
        "events": 0o700,
        "stream_0": 0o600,
        "tool.bin": 0o600,
    }
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
        capture.file("a")
    capture.close()


def test_a_write_beyond_the_maximum_size_has_no_effect(tmp_path: Path) -> None:
    capture = CaptureWriter(tmp_path / "a.xtrace", max_bytes=1000)
    stream = capture.stream("a")
    stream.write(b"x" * 900)
    with pytest.raises(SizeReachedError, match=r"--max-size of 1,000 bytes"):
        stream.write(b"x" * 100)
    os.write(capture.file("tool"), b"x" * 200)
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
        capture.write_meta({"state": "ended", "much": "x" * 200_000})
    assert json.loads((capture.directory / "meta.json").read_text()) == {"state": "recording"}
    # The room for the last version was taken at the start, and is still there.
    last = {"state": "ended", "much": "x" * 40_000}
    capture.write_meta(last)
    assert json.loads((capture.directory / "meta.json").read_text()) == last
    capture.close()
    assert sorted(path.name for path in capture.directory.iterdir()) == ["a", "meta.json"]


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


def test_a_parent_of_another_user_cannot_swap_the_capture(tmp_path: Path) -> None:
    """What is written stays in the folder that was made, even if its name leads elsewhere now."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "meta.json").write_text("theirs")
    capture = CaptureWriter(tmp_path / "a.xtrace", {"state": "recording"})
    moved = (tmp_path / "a.xtrace").rename(tmp_path / "moved")
    (tmp_path / "a.xtrace").symlink_to(elsewhere)
    capture.stream("events/stream_0").write(b"one")
    capture.file("tool")
    capture.write_meta({"state": "ended"})
    capture.give_to(os.getuid(), os.getgid())
    capture.close()
    assert [path.name for path in elsewhere.iterdir()] == ["meta.json"]
    assert (elsewhere / "meta.json").read_text() == "theirs"
    assert json.loads((moved / "meta.json").read_text()) == {"state": "ended"}
    assert (moved / "events" / "stream_0").read_bytes() == b"one"


def test_a_link_in_the_capture_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    capture = CaptureWriter(tmp_path / "a.xtrace", {"state": "recording"})
    (capture.directory / "events").symlink_to(elsewhere)
    with pytest.raises(OSError, match="events"):
        capture.stream("events/stream_0")
    (capture.directory / "meta.json.new").unlink()
    (capture.directory / "meta.json.new").symlink_to(elsewhere / "meta.json")
    with pytest.raises(OSError, match=r"meta\.json\.new"):
        capture.write_meta({"state": "ended"})
    capture.close()
    assert list(elsewhere.iterdir()) == []


def test_a_discarded_capture_leaves_nothing_and_removes_nothing_else(tmp_path: Path) -> None:
    capture = CaptureWriter(tmp_path / "a.xtrace")
    capture.stream("a").write(b"x")
    capture.discard()
    assert list(tmp_path.iterdir()) == []
    capture = CaptureWriter(tmp_path / "a.xtrace")
    (tmp_path / "a.xtrace").rename(tmp_path / "moved")
    (tmp_path / "a.xtrace").mkdir()
    capture.discard()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.xtrace", "moved"]


def test_what_others_have_at_the_hidden_name_is_left_alone(tmp_path: Path) -> None:
    theirs = tmp_path / ".a.xtrace.new"
    theirs.mkdir()
    (theirs / "thesis.txt").write_text("five years")
    (tmp_path / ".a.xtrace.new1").symlink_to(theirs)
    # What a recorder left that was killed at its start is removed.
    left = tmp_path / ".a.xtrace.new2"
    left.mkdir(0o700)
    (left / "meta.json.new").write_text("")
    CaptureWriter(tmp_path / "a.xtrace").close()
    assert (theirs / "thesis.txt").read_text() == "five years"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.xtrace.new", ".a.xtrace.new1", "a.xtrace"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_finished_capture_is_given_to_its_user(tmp_path: Path) -> None:
    capture = CaptureWriter(tmp_path / "a.xtrace", {"state": "recording"})
    capture.stream("events/stream_0").write(b"one")
    capture.give_to(65534, 65533)
    capture.close()
    owners = {
        (path.stat().st_uid, path.stat().st_gid)
        for path in [capture.directory, *capture.directory.rglob("*")]
    }
    assert owners == {(65534, 65533)}
    assert sorted(path.name for path in capture.directory.iterdir()) == ["events", "meta.json"]


@pytest.mark.parametrize(
    ("name", "path"), [("a", "a.xtrace"), ("a.xtrace", "a.xtrace"), ("b/a.xtrace/", "b/a.xtrace")]
)
def test_names(name: str, path: str) -> None:
    assert named(name) == Path(path)
