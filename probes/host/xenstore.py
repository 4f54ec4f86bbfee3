"""Read xenstore through /dev/xen/xenbus, without a process for each key.

Wire format: {type, request, transaction, length} in 32-bit words, then the payload
(xen/include/public/io/xs_wire.h).
"""

from __future__ import annotations

import os
import select
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xtrace.probes.errors import TraceError

DEVICE = Path("/dev/xen/xenbus")

_DIRECTORY, _READ, _ERROR = 1, 2, 16
_HEADER = struct.Struct("<4I")
_MAX_BYTES = 4096
_LIMIT_S = 5.0


class Xenstore:
    """An open connection to xenstored."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._requests = 0

    def read(self, path: str) -> str | None:
        """Return a key's value, or None if there is no such key; do not trust it, guests write some keys."""
        found = self._ask(_READ, path)
        return None if found is None else found.decode("utf-8", "backslashreplace")

    def names(self, path: str) -> list[str]:
        """Return the names below a key; none if there is no such key."""
        found = self._ask(_DIRECTORY, path) or b""
        return [name.decode("utf-8", "backslashreplace") for name in found.split(b"\0") if name]

    def domains(self) -> list[int]:
        """Return the ids of the domains in xenstore."""
        return sorted(int(name) for name in self.names("/local/domain") if name.isdecimal())

    def _ask(self, kind: int, path: str) -> bytes | None:
        self._requests += 1
        payload = path.encode() + b"\0"
        os.write(self._fd, _HEADER.pack(kind, self._requests, 0, len(payload)) + payload)
        while True:
            answer, request, _transaction, size = _HEADER.unpack(self._take(_HEADER.size))
            if size > _MAX_BYTES:
                raise TraceError(f"{DEVICE}: a reply of {size} bytes is longer than the protocol allows")
            content = self._take(size)
            if request == self._requests:
                return None if answer == _ERROR else content

    def _take(self, size: int) -> bytes:
        content = b""
        while len(content) < size:
            if not select.select([self._fd], [], [], _LIMIT_S)[0]:
                raise TraceError(f"{DEVICE}: xenstored does not reply; is it running?")
            piece = os.read(self._fd, size - len(content))
            if not piece:
                raise TraceError(f"{DEVICE}: xenstored closed the connection")
            content += piece
        return content


@contextmanager
def open_xenstore() -> Iterator[Xenstore]:
    """Connect to xenstored.

    Raises:
        OSError: the device cannot be opened.
    """
    fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield Xenstore(fd)
    finally:
        os.close(fd)
