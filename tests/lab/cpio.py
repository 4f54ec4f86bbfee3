"""Write an initramfs: a cpio archive in "newc" layout (Linux, Documentation/driver-api/early-userspace).

Owners (always root) and device nodes are only fields of the archive, so writing one needs no privilege.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_TRAILER = "TRAILER!!!"


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of the archive.

    Attributes:
        path: its path, relative to the root, without a leading slash.
        mode: type and permission bits, as in ``stat.st_mode``.
        content: the bytes of a file, or the target of a link.
        device: (major, minor) of a device node.
    """

    path: str
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(path: str) -> Entry:
    """Return an empty folder."""
    return Entry(path, stat.S_IFDIR | 0o755)


def link(path: str, target: str) -> Entry:
    """Return a symbolic link at ``path`` to ``target``."""
    return Entry(path, stat.S_IFLNK | 0o777, target.encode())


def program(path: str, content: bytes) -> Entry:
    """Return an executable file."""
    return Entry(path, stat.S_IFREG | 0o755, content)


def plain(path: str, content: bytes) -> Entry:
    """Return a file that is not executable."""
    return Entry(path, stat.S_IFREG | 0o644, content)


def console_node() -> Entry:
    """Return /dev/console, which the kernel opens before anything is mounted."""
    return Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))


def write(path: Path, entries: list[Entry]) -> None:
    """Write ``entries`` to ``path`` with all their parent folders; of equal paths the first entry wins."""
    by_path: dict[str, Entry] = {}
    for entry in entries:
        for parent in reversed(PurePosixPath(entry.path).parents[:-1]):
            by_path.setdefault(str(parent), directory(str(parent)))
        by_path.setdefault(entry.path, entry)
    with path.open("wb") as file:
        for number, entry in enumerate([*by_path.values(), Entry(_TRAILER, 0)], 1):
            file.write(_header(number, entry))
            file.write(entry.content + bytes(-len(entry.content) % 4))


def _header(number: int, entry: Entry) -> bytes:
    name = entry.path.encode() + b"\0"
    major, minor = entry.device
    fields = (number, entry.mode, 0, 0, 1, 0, len(entry.content), 0, 0, major, minor, len(name), 0)
    header = b"070701" + b"".join(b"%08x" % field for field in fields) + name
    return header + bytes(-len(header) % 4)
