"""Write the directory of a recording, ``NAME.xtrace/``.

This process buffers nothing: written data is passed to the kernel at once and
survives a kill -9; flushed data survives a power cut.  Files only grow, so a
capture can always be read up to its last complete record or line.
Only ``meta.json`` is replaced, atomically, and the room for its last version is taken at the start.

The folder that the capture is made in may belong to another user, who could swap the capture for a link
while root writes to it.  So both are opened once, and everything is done relative to their descriptors.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from xtrace.probes.capture.layout import META, SUFFIX
from xtrace.probes.capture.stream import CaptureFullError
from xtrace.probes.errors import TraceError

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
#: Least time between two queries of the disk's free space.
_LOOK_S = 0.05
_NEW_META = f"{META}.new"
#: Room for the last version of meta.json, at least: that many bytes, and that many times the first one.
_META_BYTES, _META_TIMES = 48 << 10, 2
#: How many folders of others may be in the way of the one that becomes the capture.
_MOST_OTHERS = 100
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FLAGS = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class SizeReachedError(CaptureFullError):
    """A capture has reached the maximum size that the user set."""


class CaptureStream:
    """An append-only file of a capture; a write is complete or has no effect."""

    def __init__(self, capture: CaptureWriter, fd: int) -> None:
        self.byte_count = 0
        self._capture = capture
        self._is_dirty = False
        self._fd = fd

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
        self._meta_room = 0
        self._looked_at = 0.0
        self._free_bytes = 0
        self._folder = -1
        self._parent = os.open(directory.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._name = f".{directory.name}.new"
        try:
            self._name, self._folder = _new_folder(self._parent, self._name)
            self.write_meta(content or {})
            os.rename(self._name, directory.name, src_dir_fd=self._parent, dst_dir_fd=self._parent)
            self._name = directory.name
            os.fsync(self._parent)
        except BaseException:
            self.discard()
            raise

    def stream(self, name: str) -> CaptureStream:
        """Create the append-only file ``name``, which may be in a subfolder: ``events/stream_0``.

        Raises:
            TraceError: a file of that name is already being written.
        """
        self._streams[name] = made = CaptureStream(self, self._created(name, os.O_WRONLY | os.O_APPEND))
        return made

    def file(self, name: str) -> int:
        """Create ``name`` and return a descriptor, for a tool that writes it itself; its bytes count too.

        The tool opens it as /proc/self/fd/N.  ``close`` closes the descriptor.

        Raises:
            TraceError: a file of that name is already being written.
        """
        self._foreign[name] = fd = self._created(name, os.O_RDWR)
        return fd

    @property
    def byte_count(self) -> int:
        """Return the total size of all files in bytes, without the room for meta.json."""
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
            disk = os.fstatvfs(self._folder)
            self._free_bytes = disk.f_bavail * disk.f_frsize
            self._looked_at = now
        self._free_bytes -= byte_count
        if self._free_bytes < self.reserve_bytes:
            reserve = f"its reserve of {self.reserve_bytes >> 20} MiB"
            raise CaptureFullError(
                f"{self.directory}: the disk has less than {reserve} free; free some space or lower --reserve"
            )

    def write_meta(self, content: Mapping[str, Any]) -> None:
        """Replace meta.json by ``content`` atomically, and take room for its next version.

        Raises:
            CaptureFullError: it does not fit; the old file stays.
        """
        text = json.dumps(content, indent=1, ensure_ascii=True).encode() + b"\n"
        try:
            self._take_room(max(len(text), self._meta_room))
            fd = os.open(_NEW_META, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._folder)
            with open(fd, "wb") as file:
                file.write(text)
                file.flush()
                os.ftruncate(fd, len(text))
                os.fsync(fd)
            os.replace(_NEW_META, META, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            self._meta_room = 0
            self._meta_bytes = len(text)
            os.fsync(self._folder)
        except OSError as error:
            if error.errno in _NO_SPACE:
                raise CaptureFullError(_full_message(self.directory, error)) from None
            raise
        # Where there is no room any more, the next version may still fit into what this one leaves.
        with contextlib.suppress(OSError):
            self._take_room(max(_META_BYTES, _META_TIMES * len(text)))

    def _take_room(self, byte_count: int) -> None:
        """Fill the file that becomes the next meta.json, so that a full disk has room for it."""
        if self._meta_room >= byte_count:
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(_NEW_META, flags, 0o600, dir_fd=self._folder)
        try:
            with open(fd, "wb") as file:
                file.write(bytes(byte_count))
        except OSError:
            if not self._meta_room:
                os.unlink(_NEW_META, dir_fd=self._folder)
            raise
        self._meta_room = byte_count

    def _drop_room(self) -> None:
        if self._meta_room:
            self._meta_room = 0
            with contextlib.suppress(OSError):
                os.unlink(_NEW_META, dir_fd=self._folder)

    def flush(self) -> None:
        """Wait until everything written is on disk, including what tools wrote."""
        # Copies, because a backend may create a stream while a thread of the recorder flushes.
        for stream in list(self._streams.values()):
            stream.flush()
        for fd in list(self._foreign.values()):
            os.fdatasync(fd)

    def close(self) -> None:
        """Flush and close all files; may be called twice."""
        if self._folder < 0:
            self._close_folders()
            return
        try:
            self._drop_room()
            for stream in self._streams.values():
                stream.close()
            for fd in self._foreign.values():
                os.fdatasync(fd)
        finally:
            for fd in self._foreign.values():
                os.close(fd)
            self._foreign.clear()
            self._close_folders()

    def discard(self) -> None:
        """Remove the capture and close it."""
        with contextlib.suppress(OSError):
            there = os.stat(self._name, dir_fd=self._parent, follow_symlinks=False)
            if os.path.samestat(os.fstat(self._folder), there):
                shutil.rmtree(self._name, dir_fd=self._parent)
        self.close()

    def give_to(self, uid: int, gid: int) -> None:
        """Make a user the owner of all files, when nothing is written any more.

        Raises:
            OSError: the file system or the kernel refuses.
        """
        self._drop_room()
        for _, folders, files, fd in os.fwalk(".", dir_fd=self._folder, follow_symlinks=False):
            for name in (*files, *folders):
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                each = os.open(name, flags, dir_fd=fd)
                try:
                    os.fchown(each, uid, gid)
                finally:
                    os.close(each)
        # Last: from here on, the user can change what is in it.
        os.fchown(self._folder, uid, gid)

    def _close_folders(self) -> None:
        for fd in (self._folder, self._parent):
            if fd >= 0:
                os.close(fd)
        self._folder = self._parent = -1

    def _created(self, name: str, flags: int) -> int:
        """Return a descriptor of a new file, private to its owner."""
        parts = PurePosixPath(name).parts
        if not parts or any(part in ("..", "/") for part in parts):
            raise ValueError(f"not a valid file name in a capture: {name!r}")
        if name in self._streams or name in self._foreign:
            raise TraceError(f"{self.directory / name}: is already being written")
        try:
            with self._subfolder(parts[:-1]) as folder:
                return os.open(parts[-1], flags | _NEW_FLAGS, 0o600, dir_fd=folder)
        except OSError as error:
            if error.errno in _NO_SPACE:
                raise CaptureFullError(_full_message(self.directory, error)) from None
            raise

    @contextlib.contextmanager
    def _subfolder(self, parts: tuple[str, ...]) -> Iterator[int]:
        with contextlib.ExitStack() as stack:
            folder = self._folder
            for part in parts:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o700, dir_fd=folder)
                folder = os.open(part, _FOLDER_FLAGS, dir_fd=folder)
                stack.callback(os.close, folder)
            yield folder


def named(name: str) -> Path:
    """Return the directory of the capture ``name``, with ``.xtrace`` added if it is missing."""
    return Path(name if name.rstrip("/").endswith(SUFFIX) else f"{name}{SUFFIX}")


def make_way(path: Path, *, overwrite: bool) -> None:
    """Move a capture that is in the way to ``NAME.xtrace.old``, or remove it.

    Raises:
        TraceError: ``path`` or ``.old`` is not a capture; it is left alone.
    """
    parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not _is_there(path, parent):
            return
        if overwrite:
            shutil.rmtree(path.name, dir_fd=parent)
            return
        old = path.with_name(f"{path.name}.old")
        if _is_there(old, parent):
            shutil.rmtree(old.name, dir_fd=parent)
        os.rename(path.name, old.name, src_dir_fd=parent, dst_dir_fd=parent)
    finally:
        os.close(parent)


def _is_there(path: Path, parent: int) -> bool:
    """Return whether there is a capture of that name in a folder.

    Raises:
        TraceError: it is not a capture.
    """
    try:
        folder = os.open(path.name, _FOLDER_FLAGS, dir_fd=parent)
        try:
            is_capture = stat.S_ISREG(os.stat(META, dir_fd=folder, follow_symlinks=False).st_mode)
        finally:
            os.close(folder)
    except OSError:
        is_capture = False
    if is_capture:
        return True
    try:
        os.stat(path.name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    raise TraceError(f"{path}: exists and is not an xtrace capture; choose another name with -o")


def _new_folder(parent: int, name: str) -> tuple[str, int]:
    """Return the name and a descriptor of a new folder; what others have of that name is left alone."""
    for number in range(_MOST_OTHERS):
        new = f"{name}{number or ''}"
        try:
            os.mkdir(new, 0o700, dir_fd=parent)
        except FileExistsError:
            if not _remove_own(parent, new):
                continue
            os.mkdir(new, 0o700, dir_fd=parent)
        folder = os.open(new, _FOLDER_FLAGS, dir_fd=parent)
        made = os.fstat(folder)
        if made.st_uid == os.geteuid() and not stat.S_IMODE(made.st_mode) & 0o077:
            return new, folder
        os.close(folder)
        raise TraceError(f"{new}: another process replaced it; record to a folder that only you can write")
    raise TraceError(f"{name}: {_MOST_OTHERS} files or folders of that name are in the way; remove them")


def _remove_own(parent: int, new: str) -> bool:
    """Remove what a recorder that was killed at its start left, and return whether it was that."""
    try:
        folder = os.open(new, _FOLDER_FLAGS, dir_fd=parent)
    except OSError:
        return False
    try:
        found = os.fstat(folder)
        is_own = found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) == 0o700
        is_own = is_own and set(os.listdir(folder)) <= {META, _NEW_META}  # noqa: PTH208
    finally:
        os.close(folder)
    if is_own:
        shutil.rmtree(new, dir_fd=parent)
    return is_own


def _full_message(path: Path, error: OSError) -> str:
    return f"{path}: {error.strerror}; what was recorded up to then is kept"
