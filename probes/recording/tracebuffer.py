"""Xen's trace buffer, asked through the host's own libxenctrl."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import os
from collections.abc import Iterator

from xtrace.probes.errors import TraceError

# Debian keeps one for each Xen; elsewhere it is the system's.
_LIBRARIES = (
    "/usr/lib/xen-*/lib/*/libxenctrl.so*",
    "/usr/lib/xen-*/lib/libxenctrl.so*",
    "/usr/lib/*/libxenctrl.so*",
    "/usr/lib64/libxenctrl.so*",
    "/usr/lib/libxenctrl.so*",
    "/usr/local/lib/libxenctrl.so*",
)


def switch_off() -> None:
    """Stop Xen writing trace records; the buffers' size stays until the next boot.

    Raises:
        TraceError: libxenctrl is missing or Xen refuses.
    """
    with _xen() as (library, handle):
        if library.xc_tbuf_disable(handle):
            error = ctypes.get_errno()
            raise TraceError(f"Xen did not switch tracing off: {os.strerror(error)}")


def ring_bytes() -> int | None:
    """Return the bytes of all buffers together, None where they have no size yet.

    Raises:
        TraceError: Xen has no trace buffer, or cannot be asked.
    """
    with _xen() as (library, handle):
        size = ctypes.c_ulong()
        if library.xc_tbuf_get_size(handle, ctypes.byref(size)):
            error = ctypes.get_errno()
            # Before the first recorder of a boot libxenctrl maps buffers of no bytes, which mmap refuses.
            if error == errno.EINVAL:
                return None
            raise TraceError(f"Xen has no trace buffer to ask for: {os.strerror(error)}")
        return size.value or None


@contextlib.contextmanager
def _xen() -> Iterator[tuple[ctypes.CDLL, ctypes.c_void_p]]:
    library = _load()
    handle = library.xc_interface_open(None, None, 0)
    if not handle:
        raise TraceError(f"Xen cannot be asked: {os.strerror(ctypes.get_errno())}")
    pointer = ctypes.c_void_p(handle)
    try:
        yield library, pointer
    finally:
        library.xc_interface_close(pointer)


def _load() -> ctypes.CDLL:
    for pattern in _LIBRARIES:
        for path in sorted(glob.glob(pattern), reverse=True):  # noqa: PTH207 - patterns from the root
            with contextlib.suppress(OSError):
                library = ctypes.CDLL(path, use_errno=True)
                library.xc_interface_open.restype = ctypes.c_void_p
                library.xc_interface_open.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint]
                for name in ("xc_interface_close", "xc_tbuf_disable"):
                    getattr(library, name).argtypes = [ctypes.c_void_p]
                library.xc_tbuf_get_size.argtypes = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_ulong)]
                return library
    raise TraceError("libxenctrl.so is missing; apt-get install libxenmisc4.17, or your Xen's tools")
