"""Allow one recorder at a time on a host: two would split Xen's records and count each other's upcalls."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from xtrace.probes.errors import TraceError
from xtrace.probes.host.run_folder import run_folder

LOCK = "lock"


@contextmanager
def only_recorder() -> Iterator[None]:
    """Hold the host's recorder lock; the kernel releases it however the process ends.

    Raises:
        TraceError: another recorder holds it.
    """
    with run_folder() as folder:
        # Closed on exec: a child process must not hold the lock after the recorder has ended.
        fd = folder.opened(LOCK)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(fd, 32, 0).decode(errors="replace").strip()
            who = f"process {int(owner)}" if owner.isascii() and owner.isdecimal() else "process unknown"
            raise TraceError(
                f"another recorder is running on this host, {who}; wait until it ends, or stop it with Ctrl-C"
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
        os.ftruncate(fd, 0)
    finally:
        os.close(fd)
