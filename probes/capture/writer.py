"""Write the directory of a recording, ``NAME.xtrace/``.

This process buffers nothing: written data is passed to the kernel at once and
survives a kill -9; flushed data survives a power cut.  Files only grow, so a
capture can always be read up to its last complete record or line.
Only ``meta.json`` is replaced, atomically.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from xtrace.probes.capture.layout import META, SUFFIX
from xtrace.probes.capture.stream import CaptureFullError
from xtrace.probes.errors import TraceError

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
#: Least time between two queries of the disk's free space.
_LOOK_S = 0.05


class SizeReachedError(CaptureFullError):
    """A capture has reached the maximum size that the user set."""


class CaptureStream:
    """An append-only file of a capture; a write is complete or has no effect."""

    def __init__(self, capture: CaptureWriter, path: Path) -> None:
        self.path = path
        self.byte_count = 0
        self._capture = capture
        self._is_dirty = False
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(path, flags, 0o600)

    def write(self, content: bytes) -> None:
        """Append ``content``; the kernel has it when this returns, the disk after the next flush.

        Raises:
            CaptureFullError: it would not fit; nothing is written.
        """
        if not content:
            return
        self._capture.make_room(len(content))
        rest = memoryview(content)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError as error:
            os.ftruncate(self._fd, self.byte_count)
            if error.errno in _NO_SPACE:
                raise CaptureFullError(_full_message(self._capture.directory, error)) from None
            raise
        self.byte_count += len(content)
        self._is_dirty = True

    def flush(self) -> None:
        """Wait until everything written is on disk.  The recorder does this once a second."""
        if self._is_dirty:
            os.fdatasync(self._fd)
            self._is_dirty = False

    def close(self) -> None:
        """Flush and close; may be called twice."""
        if self._fd >= 0:
            self.flush()
            os.close(self._fd)
            self._fd = -1


class CaptureWriter:
    """A capture that is being written."""

    def __init__(
        self,
        directory: Path,
        content: Mapping[str, Any] | None = None,
        *,
        max_bytes: int | None = None,
        reserve_bytes: int = 0,
    ) -> None:
        """Create the directory; it does not appear before its meta.json is in it.

        Args:
            directory: it must not exist.
            content: the first content of meta.json.
            max_bytes: the maximum size of the capture; None means no limit.
            reserve_bytes: disk space to leave free.
        """
        self.directory = directory
        self.max_bytes = max_bytes
        self.reserve_bytes = reserve_bytes
        self._streams: dict[str, CaptureStream] = {}
        self._foreign: dict[str, int] = {}
        self._meta_bytes = 0
        self._looked_at = 0.0
        self._free_bytes = 0
        new = directory.with_name(f".{directory.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        self._write_meta(new, content or {})
        new.rename(directory)
        _sync_folder(directory.parent)

    def stream(self, name: str) -> CaptureStream:
        """Create the append-only file ``name``, which may be in a subfolder: ``events/stream_0``.

        Raises:
            TraceError: a file of that name is already being written.
        """
        path = self._place(name)
        try:
            made = CaptureStream(self, path)
        except OSError as error:
            if error.errno in _NO_SPACE:
                raise CaptureFullError(_full_message(self.directory, error)) from None
            raise
        self._streams[name] = made
        return made

    def path(self, name: str) -> str:
        """Create ``name`` and return its path, for a tool that writes it itself; its bytes count too."""
        path = self._place(name)
        # Created here to control its mode and place, whatever the tool does.
        fd = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self._foreign[name] = fd
        return str(path)

    @property
    def byte_count(self) -> int:
        """Return the total size of all files in bytes."""
        return (
            self._meta_bytes
            + sum(stream.byte_count for stream in self._streams.values())
            + sum(os.fstat(fd).st_size for fd in self._foreign.values())
        )

    def make_room(self, byte_count: int = 0) -> None:
        """Raise if ``byte_count`` more bytes would not fit.

        Raises:
            SizeReachedError: the capture would be larger than allowed.
            CaptureFullError: the disk would have less free space than the reserve.
        """
        if self.max_bytes is not None and self.byte_count + byte_count > self.max_bytes:
            raise SizeReachedError(f"{self.directory}: reached its --max-size of {self.max_bytes:,} bytes")
        if not self.reserve_bytes:
            return
        now = time.monotonic()
        if now - self._looked_at >= _LOOK_S:
            disk = os.statvfs(self.directory)
            self._free_bytes = disk.f_bavail * disk.f_frsize
            self._looked_at = now
        self._free_bytes -= byte_count
        if self._free_bytes < self.reserve_bytes:
            reserve = f"its reserve of {self.reserve_bytes >> 20} MiB"
            raise CaptureFullError(
                f"{self.directory}: the disk has less than {reserve} free; free some space or lower --reserve"
            )

    def write_meta(self, content: Mapping[str, Any]) -> None:
        """Replace meta.json by ``content`` atomically.

        Raises:
            CaptureFullError: it does not fit; the old file stays.
        """
        self._write_meta(self.directory, content)

    def _write_meta(self, folder: Path, content: Mapping[str, Any]) -> None:
        text = json.dumps(content, indent=1, ensure_ascii=True).encode() + b"\n"
        new = folder / f"{META}.new"
        try:
            with contextlib.suppress(FileNotFoundError):
                new.unlink()
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with open(fd, "wb") as file:
                file.write(text)
                file.flush()
                os.fsync(fd)
        except OSError as error:
            with contextlib.suppress(OSError):
                new.unlink()
            if error.errno in _NO_SPACE:
                raise CaptureFullError(_full_message(self.directory, error)) from None
            raise
        new.replace(folder / META)
        _sync_folder(folder)
        self._meta_bytes = len(text)

    def flush(self) -> None:
        """Wait until everything written is on disk, including what tools wrote."""
        # Copies, because a backend may create a stream while a thread of the recorder flushes.
        for stream in list(self._streams.values()):
            stream.flush()
        for fd in list(self._foreign.values()):
            os.fdatasync(fd)

    def close(self) -> None:
        """Flush and close all files; may be called twice."""
        try:
            for stream in self._streams.values():
                stream.close()
            for fd in self._foreign.values():
                os.fdatasync(fd)
        finally:
            for fd in self._foreign.values():
                os.close(fd)
            self._foreign.clear()

    def _place(self, name: str) -> Path:
        parts = PurePosixPath(name).parts
        if not parts or any(part in ("..", "/") for part in parts):
            raise ValueError(f"not a valid file name in a capture: {name!r}")
        folder = self.directory
        for part in parts[:-1]:
            folder = folder / part
            folder.mkdir(mode=0o700, exist_ok=True)
        path = folder / parts[-1]
        if name in self._streams or name in self._foreign:
            raise TraceError(f"{path}: is already being written")
        return path


def named(name: str) -> Path:
    """Return the directory of the capture ``name``, with ``.xtrace`` added if it is missing."""
    return Path(name if name.rstrip("/").endswith(SUFFIX) else f"{name}{SUFFIX}")


def make_way(path: Path, *, overwrite: bool) -> None:
    """Move a capture that is in the way to ``NAME.xtrace.old``, or remove it.

    Raises:
        TraceError: ``path`` or ``.old`` is not a capture; it is left alone.
    """
    if not os.path.lexists(path):
        return
    _must_be_capture(path)
    if overwrite:
        shutil.rmtree(path)
        return
    old = path.with_name(f"{path.name}.old")
    if os.path.lexists(old):
        _must_be_capture(old)
        shutil.rmtree(old)
    path.rename(old)


def _must_be_capture(path: Path) -> None:
    if path.is_symlink() or not path.is_dir() or not (path / META).is_file():
        raise TraceError(f"{path}: exists and is not an xtrace capture; choose another name with -o")


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _full_message(path: Path, error: OSError) -> str:
    return f"{path}: {error.strerror}; what was recorded up to then is kept"
