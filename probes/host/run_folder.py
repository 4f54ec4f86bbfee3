"""The folder of this boot that only its owner can write: notes of changes to the host, and the lock.

It is /run/xtrace for root and $XDG_RUNTIME_DIR/xtrace for others.  What is in it is obeyed by root, so it
is opened once, checked, and used by descriptor: nobody can swap it, or a file in it, for another.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from xtrace.probes.errors import TraceError

#: Overrides the folder, for tests: they must not get into each other's way.
RUN_DIRECTORY_VARIABLE = "XTRACE_RUN_DIR"
_ROOT_DIRECTORY = "/run/xtrace"
#: How the names of folders begin in which bpf programs are compiled.
BPF_SCRATCH = "bpf-"
_OTHERS = 0o077
#: Nothing in the folder is larger.
_MOST_BYTES = 64 << 10
_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def run_path() -> Path:
    """Return the folder, whether or not it exists.

    Raises:
        TraceError: a user without a runtime folder.
    """
    if given := os.environ.get(RUN_DIRECTORY_VARIABLE):
        return Path(given)
    if os.geteuid() == 0:
        return Path(_ROOT_DIRECTORY)
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if not runtime:
        raise TraceError(
            "no folder for the recorder's lock: XDG_RUNTIME_DIR is not set; log in as this user, or use sudo"
        )
    return Path(runtime) / "xtrace"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder, opened and checked.

    Attributes:
        path: for messages.
        fd: its descriptor.
    """

    path: Path
    fd: int

    def names(self, suffix: str) -> list[str]:
        """Return the names of its files that end in ``suffix``, in order."""
        return sorted(name for name in os.listdir(self.fd) if name.endswith(suffix))  # noqa: PTH208

    def read(self, name: str) -> bytes:
        """Return the content of a file.

        Raises:
            FileNotFoundError: there is none.
            OSError: a link.
            TraceError: it belongs to another user, others can read or write it, or it is too long.
        """
        fd = os.open(name, os.O_RDONLY | _FLAGS, dir_fd=self.fd)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise TraceError(f"{self.path / name}: not a file; remove it")
            _must_be_own(found, self.path / name)
            content = os.read(fd, _MOST_BYTES + 1)
        finally:
            os.close(fd)
        if len(content) > _MOST_BYTES:
            raise TraceError(f"{self.path / name}: longer than {_MOST_BYTES >> 10} KiB; remove it")
        return content

    def write(self, name: str, content: bytes) -> None:
        """Create or replace a file, atomically."""
        new = f"{name}.new"
        self.remove(new)
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600, dir_fd=self.fd)
        with open(fd, "wb") as file:
            file.write(content)
        os.replace(new, name, src_dir_fd=self.fd, dst_dir_fd=self.fd)

    def remove(self, name: str) -> None:
        """Remove a file; nothing happens if there is none."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.fd)

    @contextlib.contextmanager
    def scratch(self, prefix: str) -> Iterator[Path]:
        """Make a folder for as long as the context lasts; its name says whose it is, after a kill too."""
        with tempfile.TemporaryDirectory(prefix=f"{prefix}{os.getpid()}-", dir=self.path) as made:
            yield Path(made)

    def clear(self, prefix: str) -> None:
        """Remove folders that processes left which have ended."""
        for name in sorted(os.listdir(self.fd)):  # noqa: PTH208
            owner = name.removeprefix(prefix).partition("-")[0]
            is_named = name.startswith(prefix) and owner.isascii() and owner.isdecimal()
            if is_named and not Path(f"/proc/{owner[:10]}").exists():
                shutil.rmtree(name, dir_fd=self.fd)

    def opened(self, name: str) -> int:
        """Return a descriptor of a file, for reading and writing, created if need be; close it."""
        fd = os.open(name, os.O_RDWR | os.O_CREAT | _FLAGS, 0o600, dir_fd=self.fd)
        try:
            _must_be_own(os.fstat(fd), self.path / name)
        except TraceError:
            os.close(fd)
            raise
        return fd


@contextlib.contextmanager
def run_folder(*, create: bool = True) -> Iterator[RunFolder]:
    """Open the folder; with ``create``, it is made with mode 0700 if there is none.

    Raises:
        FileNotFoundError: there is none.
        TraceError: it belongs to another user, or others can enter it.
    """
    path = run_path()
    if create:
        with contextlib.suppress(FileExistsError):
            path.mkdir(0o700)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _FLAGS)
    except NotADirectoryError:
        raise TraceError(f"{path}: is a link or not a folder; remove it") from None
    try:
        _must_be_own(os.fstat(fd), path)
        yield RunFolder(path, fd)
    finally:
        os.close(fd)


def _must_be_own(found: os.stat_result, path: Path) -> None:
    if found.st_uid != os.geteuid():
        raise TraceError(f"{path}: belongs to user {found.st_uid}, so it is not trusted; remove it")
    if stat.S_IMODE(found.st_mode) & _OTHERS:
        raise TraceError(
            f"{path}: others may use it (mode {stat.S_IMODE(found.st_mode):04o}), so it is not trusted; "
            "remove it"
        )
