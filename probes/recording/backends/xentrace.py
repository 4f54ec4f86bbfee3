"""The xentrace backend, which runs Xen's own ``xentrace``.

xentrace writes its file itself, so nothing is copied, and no delay or death of the recorder
loses data.  The recorder reads the file back from the page cache to count records.  When the
recorder dies, the kernel sends xentrace SIGTERM, on which it empties the buffers, switches
tracing off and ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xtrace.probes.capture.layout import TRACE, TRACE_LOG
from xtrace.probes.capture.stream import CaptureFullError, Folder
from xtrace.probes.errors import TraceError
from xtrace.probes.host import dom0, trace_buffers, xen_tools
from xtrace.probes.host.run_folder import run_folder
from xtrace.probes.recording import restore
from xtrace.probes.recording.backends.base import Availability, Counts, Options
from xtrace.probes.recording.backends.record_counter import RecordCounter
from xtrace.probes.selection.event_masks import event_mask, is_outside
from xtrace.probes.selection.vcpus import Pcpus
from xtrace.probes.words import ranges

_BEGIN_LIMIT_S = 20.0
_END_LIMIT_S = 60.0
#: Most bytes counted in one poll, which takes at worst a third of a second; the rest waits.
_POLL_BYTES = 16 << 20
_PIECE_BYTES = 1 << 20
#: How often to look for another xentrace, which takes some milliseconds.
_LOOK_S = 5.0
_FULL_BYTES = 64 << 10
_SAID_BYTES = 64 << 10
_PR_SET_PDEATHSIG = 1
_INTERRUPTS = Path("/proc/interrupts")
_SIZED = "ring_pages"
#: How its lines begin that say what it has set.
_CHATTER = ("change evtmask", "change cpumask", "change buffer size")
_libc = ctypes.CDLL(None)


class XentraceBackend:
    """Records what Xen traces."""

    name = "xentrace"

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._note: restore.Note | None = None
        self._counter = RecordCounter()
        self._file = -1
        self._log = -1
        self._facts: dict[str, Any] = {}
        self._look_at = 0.0
        self._read_bytes = 0

    def probe(self) -> Availability:
        """Return whether Xen has a trace buffer and xentrace can read it, without changing anything."""
        if reason := dom0.why_no_dom0():
            return Availability(False, reason)
        if xen_tools.tool("xentrace") is None:
            package = "xen-utils-common xen-utils-4.17"
            return Availability(False, "xentrace is missing", f"apt-get install {package}")
        if others := dom0.running("xentrace"):
            return Availability(
                False,
                f"xentrace is already running, process {others[0]}; each of two would get only some records",
                f"kill -INT {others[0]}",
            )
        try:
            trace_buffers.is_sized()
        except TraceError as error:
            remedy = "build Xen with CONFIG_TRACEBUFFER=y" if "no trace buffer" in str(error) else ""
            return Availability(False, str(error), remedy)
        return Availability(True, f"drives {xen_tools.tool('xentrace')}")

    def start(self, folder: Folder, options: Options) -> None:
        """Start xentrace and wait until it traces.

        Raises:
            TraceError: it ends at once, or does not start tracing.
        """
        try:
            mask = event_mask(options.mask)
            if options.pcpus is not None:
                _must_be_there(Pcpus.parse(options.pcpus))
        except ValueError as error:
            raise TraceError(str(error)) from None
        self._log = os.dup(folder.file(TRACE_LOG))
        self._file = os.dup(folder.file(TRACE))
        self._facts["sized_before"] = _sized()
        if options.ring_pages is not None and self._facts["sized_before"] is not None:
            why = "Xen's trace buffers keep the size that was first set after boot"
            self._facts["warnings"] = [f"-S {options.ring_pages} has no effect: {why}"]
        command = self._command(mask, options)
        # Markers are hypercalls of a PV dom0: class 0x200000, sub-class 0x1000.
        traced = bool(mask & 0x20_0000 and mask & 0x1000)
        self._facts |= {"command": [*command, TRACE], "event_mask": f"{mask:#x}", "marks_are_traced": traced}
        self._note = restore.note("xen_tracing", {})
        recorder = os.getpid()

        def end_with_recorder() -> None:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != recorder:
                os._exit(1)

        # In its own session, so that Ctrl-C on the terminal does not end it before the recorder knows.
        self._process = subprocess.Popen(
            [*command, f"/proc/self/fd/{self._file}"],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            pass_fds=(self._file,),
            start_new_session=True,
            preexec_fn=end_with_recorder,  # safe because no thread runs yet
        )
        self._await_begin()
        if options.ring_pages is not None and self._facts["sized_before"] is None:
            with contextlib.suppress(OSError), run_folder() as run:
                run.write(_SIZED, f"{options.ring_pages}\n".encode())

    def poll(self) -> Counts:
        """Count what xentrace has written since the last call.

        Raises:
            TraceError: it has ended by itself.
            CaptureFullError: it has ended because the disk is full.
        """
        self._catch_up(_POLL_BYTES)
        if self._process is not None and self._process.poll() is not None:
            raise self._death()
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + _LOOK_S
            self._look_for_others()
            self._look_at_mask()
        return self._counts()

    def stop(self) -> Counts:
        """End xentrace, which empties Xen's buffers and switches tracing off."""
        process, self._process = self._process, None
        if process is not None:
            self._facts["buffer_interrupts"] = _interrupts_of("xentrace")
            process.terminate()
            try:
                process.wait(_END_LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            self._facts["exit_code"] = process.returncode
        if self._note is not None:
            note, self._note = self._note, None
            # Only an xentrace that ended in an orderly way has switched tracing off.
            if self._facts.get("exit_code") == 0:
                note.drop()
            else:
                note.undo()
        if self._file >= 0:
            self._catch_up(None)
            self._counter.finish()
            self._look_at_mask()
            os.close(self._file)
            self._facts["said"] = self._said()[-5:]
            os.close(self._log)
            self._file = self._log = -1
        return self._counts()

    def facts(self) -> Mapping[str, Any]:
        """Return the command, the mask, the gaps, and how often Xen interrupted for xentrace."""
        if "version" not in self._facts:
            with contextlib.suppress(TraceError):
                self._facts["version"] = xen_tools.run("xentrace", "--version").strip()
        return {
            **self._facts,
            "file": TRACE,
            "windows": self._counter.windows,
            "gaps": self._counter.gaps,
            "fault": self._counter.fault or None,
        }

    @staticmethod
    def _command(mask: int, options: Options) -> list[str]:
        binary = xen_tools.tool("xentrace")
        assert binary is not None
        command = [binary, "-D", "-e", f"{mask:#x}", "-s", str(options.poll_ms)]
        if options.pcpus is not None:
            command += ["-c", options.pcpus]
        if options.ring_pages is not None:
            command += ["-S", str(options.ring_pages)]
        if options.memory_mib is not None:
            command += ["-M", str(options.memory_mib << 20)]
        if options.reserve_mib > 1:
            # The recorder itself keeps the reserve; this is in case it cannot.
            command += ["-r", str(options.reserve_mib // 2)]
        return command

    def _await_begin(self) -> None:
        """Wait until there is data, or until Xen's interrupt for it is bound."""
        assert self._process is not None
        end = time.monotonic() + _BEGIN_LIMIT_S
        while not os.fstat(self._file).st_size and _interrupts_of("xentrace") is None:
            if self._process.poll() is not None:
                raise self._death()
            if time.monotonic() > end:
                raise TraceError(f"xentrace did not start tracing within {_BEGIN_LIMIT_S:.0f} s")
            time.sleep(0.02)

    def _look_for_others(self) -> None:
        """Note another xentrace: each of two readers of Xen's buffers gets only some of the records."""
        assert self._process is not None
        others = [pid for pid in dom0.running("xentrace") if pid != self._process.pid]
        if others and "shared_with" not in self._facts:
            self._facts["shared_with"] = others
            said = (
                f"another xentrace, process {others[0]}, was started meanwhile: each gets only some records, "
                "and nothing shows which are missing"
            )
            self._facts["warnings"] = [*self._facts.get("warnings", ()), said]

    def _look_at_mask(self) -> None:
        """Note records that the mask excludes: an xentrace that starts sets the mask, and only then fails."""
        mask = int(self._facts["event_mask"], 0)
        outside = [group for group in sorted(self._counter.groups) if is_outside(mask, group << 12)]
        if outside and not self._facts.get("outside_mask"):
            self._facts["outside_mask"] = f"{outside[0] << 12:#x}"
            said = (
                f"something else changed Xen's trace mask meanwhile: {outside[0] << 12:#x} is recorded, "
                f"which {mask:#x} excludes; what the trace lacks of other classes is not known"
            )
            self._facts["warnings"] = [*self._facts.get("warnings", ()), said]

    def _catch_up(self, limit: int | None) -> None:
        left = limit
        while left is None or left > 0:
            piece = os.pread(self._file, _PIECE_BYTES, self._read_bytes)
            if not piece:
                break
            self._counter.feed(piece)
            self._read_bytes += len(piece)
            left = left if left is None else left - len(piece)

    def _counts(self) -> Counts:
        size = self._read_bytes if self._file < 0 else os.fstat(self._file).st_size
        is_whole = not self._counter.fault and "shared_with" not in self._facts
        return Counts(self._counter.records, self._counter.lost, size, lost_known=is_whole)

    def _said(self) -> list[str]:
        with contextlib.suppress(OSError):
            begin = max(0, os.fstat(self._log).st_size - _SAID_BYTES)
            lines = os.pread(self._log, _SAID_BYTES, begin).decode(errors="backslashreplace").splitlines()
            return [line.strip() for line in lines if line.strip()]
        return []

    def _death(self) -> TraceError:
        assert self._process is not None
        code = self._process.returncode
        said = self._said()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        reasons = [line for line in said if not line.startswith(_CHATTER)]
        text = f"xentrace ended by itself, {how}{f': {reasons[-1]}' if reasons else ', without a reason'}"
        if any(word in text for word in ("No space left", "Disk space limit", "Disk quota")):
            return CaptureFullError(text)
        if "Bad address" in text:
            # Seen on 9p, which writes directly from Xen's pages instead of copying them.
            return TraceError(
                f"{text}; this file system cannot write from Xen's buffers, record to another one with -o"
            )
        # xentrace gives no reason for a short write.
        disk = os.fstatvfs(self._file)
        if disk.f_bavail * disk.f_frsize < _FULL_BYTES:
            return CaptureFullError(f"{text}; the disk is full")
        return TraceError(text)


def _must_be_there(wanted: Pcpus) -> None:
    """Raise if the user chose pCPUs that the host lacks; xentrace would end, or record the others."""
    if wanted.text == "all":
        return
    there = xen_tools.pcpus()
    if there and not wanted.numbers <= there:
        lacking = ranges(wanted.numbers - there)
        raise TraceError(f"--pcpu {wanted.text}: this host has no pCPU {lacking}, only {ranges(there)}")


def _sized() -> int | str | None:
    """Return the buffer size set since boot in pages per pCPU, "unknown", or None if none was set."""
    with contextlib.suppress(TraceError):
        if not trace_buffers.is_sized():
            return None
    with contextlib.suppress(OSError, TraceError, ValueError), run_folder() as run:
        return int(run.read(_SIZED))
    return "unknown"


def _interrupts_of(process: str) -> int | None:
    """Return how often event channels of ``process`` interrupted this kernel, None if it has none."""
    found = None
    with contextlib.suppress(OSError), open(_INTERRUPTS, encoding="ascii", errors="replace") as file:
        for line in file:
            if line.rstrip().endswith(f"evtchn:{process}"):
                counts = line.split(":", 1)[1].split()
                found = (found or 0) + sum(int(word) for word in counts if word.isdecimal())
    return found
