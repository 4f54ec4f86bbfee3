"""Xen's own libraries, as far as a trial needs them: pause a domain, find and map its pages, ask what it ran.

Nothing is compiled: the calls go through ctypes.  libxenctrl has the version of its Xen in its name, because
it is rebuilt with each; what is used here has the same signatures from 4.14 to 4.20.

Source: Xen tools/include/xenctrl.h, xenforeignmemory.h, xentoollog.h; xen/include/public/domctl.h, struct
xen_domctl_getdomaininfo, whose first 92 bytes are the same in those versions.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xtrace.probes.host.dom0 import why_no_dom0
from xtrace.probes.host.texts import read
from xtrace.probes.trial.target import TargetGoneError, TrialError

PAGE_BYTES = 4096
_VERSION = Path("/sys/hypervisor/version")
_FOREIGN_MEMORY, _LOG = "libxenforeignmemory.so.1", "libxentoollog.so.1"
#: Where `make install` of Xen puts libraries, in case ldconfig does not know them.
_FOLDERS = ("", "/usr/local/lib/", "/usr/lib64/")
#: XTL_CRITICAL: what fails is said by this module, not by the libraries.
_LOG_LEVEL = 9
#: domain, padding, flags, six counts of pages, cpu_time, nr_online_vcpus, max_vcpu_id, ssidref, handle.
_INFO = struct.Struct("<HHI6QQIII16s")
#: Larger than the structure in any version.
_INFO_ROOM_BYTES = 1024
_DYING, _HVM, _SHUTDOWN, _PAUSED, _DEBUGGED, _XENSTORE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 6, 1 << 7
_SHUTDOWN_CODE_SHIFT, _SHUTDOWN_CODE_MASK = 16, 0xFF


@dataclass(frozen=True, slots=True)
class DomainInfo:
    """What Xen says about a domain.

    Attributes:
        handle: its UUID, in hexadecimal digits.
        is_hvm: HVM or PVH.
        is_dying, is_paused, is_debugged, is_xenstore: as Xen marks it; paused: by the toolstack.
        shutdown_code: SHUTDOWN_* if the guest has shut down or suspended, None while it runs.
        running_ns: how long its vCPUs have run, in all.
        vcpu_count: those online.
    """

    handle: str
    is_hvm: bool
    is_dying: bool
    is_paused: bool
    is_debugged: bool
    is_xenstore: bool
    shutdown_code: int | None
    running_ns: int
    vcpu_count: int


class Xen:
    """The libraries, opened.

    Raises:
        TrialError: this is not a dom0, a library is missing, or it is not that of the running Xen.
    """

    def __init__(self) -> None:
        if why := why_no_dom0():
            raise TrialError(f"{why}: a domain is tried from its dom0, as root")
        version = ".".join(read(_VERSION / part) for part in ("major", "minor"))
        self._control = _library(f"libxenctrl.so.{version}")
        self._foreign = _library(_FOREIGN_MEMORY)
        log = _library(_LOG)
        self._declare(log)
        error_stream = ctypes.c_void_p.in_dll(ctypes.CDLL(None), "stderr")
        logger = log.xtl_createlogger_stdiostream(error_stream, _LOG_LEVEL, 0)
        self._handle = self._control.xc_interface_open(logger, logger, 0)
        self._memory = self._foreign.xenforeignmemory_open(logger, 0) if self._handle else None
        if not self._handle or not self._memory:
            raise TrialError(
                f"cannot open Xen's control interface: {os.strerror(ctypes.get_errno())}; run as root in dom0"
            )
        self._info = ctypes.create_string_buffer(_INFO_ROOM_BYTES)

    def _declare(self, log: ctypes.CDLL) -> None:
        pointer, word = ctypes.c_void_p, ctypes.c_uint32
        log.xtl_createlogger_stdiostream.argtypes = [pointer, ctypes.c_int, ctypes.c_uint]
        log.xtl_createlogger_stdiostream.restype = pointer
        control, foreign = self._control, self._foreign
        control.xc_interface_open.argtypes = [pointer, pointer, ctypes.c_uint]
        control.xc_interface_open.restype = pointer
        control.xc_interface_close.argtypes = [pointer]
        control.xc_domain_pause.argtypes = control.xc_domain_unpause.argtypes = [pointer, word]
        control.xc_domain_getinfolist.argtypes = [pointer, word, ctypes.c_uint, pointer]
        control.xc_translate_foreign_address.argtypes = [pointer, word, ctypes.c_int, ctypes.c_ulonglong]
        control.xc_translate_foreign_address.restype = ctypes.c_ulong
        foreign.xenforeignmemory_open.argtypes = [pointer, ctypes.c_uint]
        foreign.xenforeignmemory_open.restype = pointer
        foreign.xenforeignmemory_close.argtypes = [pointer]
        foreign.xenforeignmemory_map.argtypes = [
            *(pointer, word, ctypes.c_int, ctypes.c_size_t),
            *(ctypes.POINTER(ctypes.c_uint64), ctypes.POINTER(ctypes.c_int)),
        ]
        foreign.xenforeignmemory_map.restype = pointer
        foreign.xenforeignmemory_unmap.argtypes = [pointer, pointer, ctypes.c_size_t]

    def info(self, domain: int) -> DomainInfo | None:
        """Return what Xen says about a domain, None if it does not exist.

        Raises:
            TrialError: Xen does not answer.
        """
        count = self._control.xc_domain_getinfolist(self._handle, domain, 1, self._info)
        if count < 0:
            code = ctypes.get_errno()
            why = "libxenctrl is of another Xen" if code == errno.EACCES else os.strerror(code)
            raise TrialError(f"cannot ask Xen about domain {domain}: {why}")
        number, _, flags, *_, running_ns, online, _, _, handle = _INFO.unpack_from(self._info)
        if count == 0 or number != domain:
            return None
        code = flags >> _SHUTDOWN_CODE_SHIFT & _SHUTDOWN_CODE_MASK
        return DomainInfo(
            handle.hex(),
            bool(flags & _HVM),
            bool(flags & _DYING),
            bool(flags & _PAUSED),
            bool(flags & _DEBUGGED),
            bool(flags & _XENSTORE),
            code if flags & _SHUTDOWN else None,
            running_ns,
            online,
        )

    def pause(self, domain: int) -> None:
        """Pause a domain; Xen counts pauses, and returns once no vCPU of it runs.

        Raises:
            TargetGoneError: there is no such domain any more.
            TrialError: Xen refuses.
        """
        self._must(self._control.xc_domain_pause(self._handle, domain), domain, "pause")

    def unpause(self, domain: int) -> None:
        """Take one pause back; raises like pause()."""
        self._must(self._control.xc_domain_unpause(self._handle, domain), domain, "unpause")

    @staticmethod
    def _must(result: int, domain: int, what: str) -> None:
        if result:
            code = ctypes.get_errno()
            if code == errno.ESRCH:
                raise TargetGoneError(f"domain {domain} is gone")
            raise TrialError(f"cannot {what} domain {domain}: {os.strerror(code)}")

    def frame(self, domain: int, address: int) -> int | None:
        """Return the frame that has an address of the kernel of a domain, None if none has.

        The page tables are those of its vCPU 0: all of a kernel's have the same for its code and data.
        4 kB, 2 MB and 1 GB pages give the frame of the 4 kB at the address.
        """
        found = self._control.xc_translate_foreign_address(self._handle, domain, 0, address)
        return found or None

    def map(self, domain: int, frames: Sequence[int], *, writable: bool) -> int | None:
        """Return the address at which frames of a domain are mapped in a row, None if one cannot be."""
        count = len(frames)
        errors = (ctypes.c_int * count)()
        rights = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        found = self._foreign.xenforeignmemory_map(
            self._memory, domain, rights, count, (ctypes.c_uint64 * count)(*frames), errors
        )
        if found and any(errors):
            self.unmap(found, count)
            return None
        return found or None

    def unmap(self, address: int, count: int) -> None:
        """Undo map()."""
        self._foreign.xenforeignmemory_unmap(self._memory, address, count)

    def close(self) -> None:
        """Close the libraries' handles."""
        self._foreign.xenforeignmemory_close(self._memory)
        self._control.xc_interface_close(self._handle)


def _library(name: str) -> ctypes.CDLL:
    for folder in _FOLDERS:
        try:
            return ctypes.CDLL(folder + name, use_errno=True)
        except OSError:
            continue
    raise TrialError(f"{name} is missing; install the libraries of the running Xen (Debian: xen-utils)")
