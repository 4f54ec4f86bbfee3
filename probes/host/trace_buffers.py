"""Query Xen's trace buffers and switch tracing off, through the host's own libxenctrl."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import os
import resource
import signal
from collections.abc import Iterator

from xtrace.probes.errors import TraceError

# Debian has one for each Xen version; other systems have one in the library path.
_LIBRARIES = (
    "/usr/lib/xen-*/lib/*/libxenctrl.so*",
    "/usr/lib/xen-*/lib/libxenctrl.so*",
    "/usr/lib/*/libxenctrl.so*",
    "/usr/lib64/libxenctrl.so*",
    "/usr/lib/libxenctrl.so*",
    "/usr/local/lib/libxenctrl.so*",
)

#: Exit codes of the child that queries the size; any other is an errno.
_NOT_SIZED, _SIZED, _OTHER = 0, 200, 201
_LIMIT_S = 5


def switch_off() -> None:
    """Stop Xen from writing trace records; the buffers keep their size until the next boot.

    Raises:
        TraceError: libxenctrl is missing or Xen refuses.
    """
    with _xen() as (library, handle):
        if library.xc_tbuf_disable(handle):
            error = ctypes.get_errno()
            raise TraceError(f"cannot switch off Xen's tracing: {os.strerror(error)}")


def is_sized() -> bool:
    """Return whether the size of Xen's trace buffers is set, which lasts until the next boot.

    A forked child queries it: in Xen 4.17 xc_tbuf_get_size unmaps 4096 pages instead of 4096 bytes,
    which kills the calling process if there are buffers.  So a killed child means yes.

    Raises:
        TraceError: Xen has no trace buffer, or cannot be queried.
    """
    _load()
    child = os.fork()
    if child == 0:
        code = _OTHER
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            signal.alarm(_LIMIT_S)
            # libxenctrl prints why it cannot open what only root may; the caller says it in one line.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            code = _ask_size()
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code in (_SIZED, _NOT_SIZED):
        return code == _SIZED
    if code < 0:
        return True
    if code == _OTHER:
        raise TraceError("cannot query Xen's trace buffers; run as root in dom0")
    raise TraceError(f"Xen has no trace buffer: {os.strerror(code)}")


def _ask_size() -> int:
    """Return one of the codes above, or the errno if the query fails."""
    try:
        with _xen() as (library, handle):
            size = ctypes.c_ulong()
            if not library.xc_tbuf_get_size(handle, ctypes.byref(size)):
                return _SIZED if size.value else _NOT_SIZED
            error = ctypes.get_errno()
            # Before the first recorder of a boot libxenctrl maps buffers of 0 bytes, which mmap refuses.
            return _NOT_SIZED if error == errno.EINVAL else error
    except TraceError:
        return _OTHER


@contextlib.contextmanager
def _xen() -> Iterator[tuple[ctypes.CDLL, ctypes.c_void_p]]:
    library = _load()
    handle = library.xc_interface_open(None, None, 0)
    if not handle:
        raise TraceError(f"cannot open Xen's control interface: {os.strerror(ctypes.get_errno())}")
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
    raise TraceError("libxenctrl.so is missing; apt-get install libxenmisc4.17, or install your Xen's tools")
