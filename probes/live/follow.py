"""A trace file that is still written: wait for more of it, also where it is rotated or truncated."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

_POLL_S = 0.05


class FollowedFile:
    """The bytes of a file as it grows.

    Args:
        path: of the file, which another one may take the place of.
        say: is passed a line where the file is rotated or truncated.
    """

    def __init__(self, path: str, say: Callable[[str], None] = lambda line: None) -> None:
        self._path = path
        self._say = say
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._read_bytes = 0

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def readinto(self, buffer: memoryview, /) -> int:
        """Read what is there; 0 if there is nothing new."""
        found = os.read(self._file, len(buffer))
        buffer[: len(found)] = found
        self._read_bytes += len(found)
        return len(found)

    def wait(self, limit_s: float) -> bool:
        """Wait until there is something to read; return False if there is nothing within ``limit_s``."""
        until = time.monotonic() + limit_s
        while not self._has_more():
            if (left := until - time.monotonic()) <= 0:
                return False
            time.sleep(min(left, _POLL_S))
        return True

    def _has_more(self) -> bool:
        """Return whether there is more to read, in this file or in the one that took its place."""
        here = os.fstat(self._file)
        if here.st_size < self._read_bytes:
            self._say(f"{self._path} was truncated: goes on from its beginning")
            os.lseek(self._file, 0, os.SEEK_SET)
            self._read_bytes = 0
        if here.st_size > self._read_bytes:
            return True
        try:
            there = Path(self._path).stat()
        except FileNotFoundError:
            return False  # between two files of a rotation
        if (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino):
            return False
        self._say(f"{self._path} was rotated: goes on with the new file")
        os.close(self._file)
        self._file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        self._read_bytes = 0
        return os.fstat(self._file).st_size > 0
