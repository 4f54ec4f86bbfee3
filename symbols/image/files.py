"""Map the files of an image."""

from __future__ import annotations

import mmap
import os
import stat

from xtrace.symbols.errors import ImageError


def map_file(path: str) -> memoryview:
    """Map a file for reading.

    Raises:
        OSError: it cannot be opened.
        ImageError: it is empty, or not a regular file.
    """
    # Without O_NONBLOCK, opening a pipe would wait for its writer.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(handle)
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(f"{path}: is a folder; give the kernel image in it")
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"{path}: is not a regular file; give the file itself, or copy it to one first")
        if not status.st_size:
            raise ImageError(f"{path}: is empty; copy it again")
        return memoryview(mmap.mmap(handle, 0, access=mmap.ACCESS_READ))
    finally:
        os.close(handle)
