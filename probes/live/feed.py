"""Where `xtrace top` and `stat` get a trace's bytes: from a file, or from an xentrace that writes to a pipe.

The pipe gives back-pressure: while it is full xentrace waits, Xen's trace buffers fill up, and Xen
counts each record that it has no room for.  So nothing is skipped here, and losses are known exactly.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Protocol

from xtrace.probes.capture import layout
from xtrace.probes.capture.sidecar import sidecar_of
from xtrace.probes.errors import TraceError, without_records
from xtrace.probes.format import TraceClass
from xtrace.probes.host import dom0, xen_tools
from xtrace.probes.host.raw_tsc import RawTsc
from xtrace.probes.host.xenstore import open_xenstore
from xtrace.probes.intact.compressed import MAGIC_BYTES, compression_in, cut_text
from xtrace.probes.intact.compressed import Damage as CompressedDamage
from xtrace.probes.intact.whole_windows import WholeWindows
from xtrace.probes.live.follow import FollowedFile
from xtrace.probes.live.tsc_rate import RateMeter
from xtrace.probes.reader.ahead import Ahead, Source
from xtrace.probes.reader.sources import STDIN, open_source
from xtrace.probes.recording import restore
from xtrace.probes.recording.lock import only_recorder

_CHUNK_BYTES = 1 << 18
#: At most this much of a file is read ahead to determine the TSC's rate.
_RATE_BYTES = 8 << 20
#: Of a pipe, so many run times are waited for, half a second each.
_ENOUGH_SUMS = 4
_PIPE_BYTES = 1 << 20
_POLL_MS = 100
_BEGIN_LIMIT_S = 20.0
_END_LIMIT_S = 20.0
_NAMES_S = 2.0
_RATE_S = 0.3
_PR_SET_PDEATHSIG = 1
#: Sub-classes of the records that counters.Machine uses: 0x1000 runstates, PV and HVM entries; 0x2000
#: entries of multicalls, interrupts, HVM injections; 0x8000 wakes and blocks.
_SUBCLASSES = 0xB000
_libc = ctypes.CDLL(None)


@dataclass(frozen=True, slots=True)
class TscRate:
    """TSC cycles per second, and where that is known from.

    Where it is not known, times are in 10^9 cycles, as if that were the rate.
    """

    hz: float
    source: str
    is_known: bool = True


UNKNOWN_RATE = TscRate(1e9, "not known", is_known=False)


class Feed(Protocol):
    """A trace as it arrives.

    Attributes:
        name: for people; rate: of its TSC; emulated: the host's processors were emulated in software.
        is_after_hole: windows can be missing before the bytes that read() returned last.
    """

    name: str
    rate: TscRate
    emulated: bool
    is_after_hole: bool

    @property
    def whole(self) -> WholeWindows | None:
        """What is left out of the trace; None for a live host."""

    def read(self, limit_s: float) -> bytes | None:
        """Return the bytes that arrive, empty if none do within ``limit_s``; None at the end.

        Raises:
            TraceError: the source is damaged, or has died.
        """

    def names(self) -> Mapping[int, str]:
        """Return domain names by id; guests chose them, so escape them."""

    def pause(self) -> bytes:
        """Return what has arrived and was held back, because nothing more arrives for now."""


def mask_of(*, irqs: bool = False, hvm: bool = False) -> int:
    """Return the event mask with only the classes that the live figures need."""
    classes = TraceClass.SCHED | TraceClass.PV
    if irqs:
        classes |= TraceClass.HW
    if hvm:
        classes |= TraceClass.HVM
    return classes | _SUBCLASSES


# --- files -------------------------------------------------------------------------------------


class FileFeed:
    """A trace file, plain or compressed, a capture's folder, or standard input.

    Attributes:
        whole: what is left out of it.
    """

    def __init__(
        self,
        source: Source,
        name: str,
        names: Mapping[int, str],
        emulated: bool,
        *,
        strict: bool = False,
        wait: Callable[[float], bool] | None = None,
        is_growing: bool = False,
    ) -> None:
        """Begin with nothing read.

        Args:
            strict: raise TraceError at the first damage.
            wait: of a pipe or a file that grows, waits for more at most so many seconds.
            is_growing: more can follow where the file ends.
        """
        self.name = name
        self.rate = UNKNOWN_RATE
        self.emulated = emulated
        self.whole = WholeWindows(name, strict=strict)
        self.is_after_hole = False
        self._source = source
        self._names = names
        self._wait = wait
        self._is_growing = is_growing
        self._ahead: deque[tuple[bytes, bool]] = deque()
        self._is_over = False
        self._meter: RateMeter | None = None
        self._metered_bytes = 0

    def measure(self) -> None:
        """Determine the TSC's rate from the first part of the file; of a pipe, from what has arrived.

        Of a pipe whose beginning does not show it, read() goes on with it.
        """
        self._meter = RateMeter()
        fed = 0
        while self._meter is not None:
            for content, is_after_hole in islice(self._ahead, fed, None):
                self._measure(content, is_after_hole)
            fed = len(self._ahead)
            if self._wait is not None or self._metered_bytes >= _RATE_BYTES:
                break
            if not self._more():
                self._end_measure()
        if self._wait is None:
            self._know_rate()

    def _measure(self, content: bytes, is_after_hole: bool) -> None:
        if self._meter is None:
            return
        if is_after_hole:
            self._meter.hole()
        self._meter.feed(content)
        self._metered_bytes += len(content)
        if self._wait is not None and (
            self._meter.sum_count >= _ENOUGH_SUMS or self._metered_bytes >= _RATE_BYTES
        ):
            self._know_rate()

    def _end_measure(self) -> None:
        if self._meter is not None:
            self._meter.end()
            self._know_rate()

    def _know_rate(self) -> None:
        """Take the rate that was measured, if there is one."""
        if self._meter is not None and (hz := self._meter.hz) is not None:
            self.rate = TscRate(hz, f"run times in its first {self._metered_bytes / (1 << 20):.1f} MiB")
        self._meter = None

    def begin(self) -> None:
        """Read the first part of the file.

        Raises:
            TraceError: the file is empty, or it is not a trace.
        """
        if not self._more() and self._is_over and not self.whole.taken_bytes:
            raise TraceError(without_records(self.name))

    def read(self, limit_s: float) -> bytes | None:
        """Return the next bytes, none if a pipe has none within ``limit_s``; None at the end."""
        if not self._ahead:
            if self._wait is not None and not self._wait(limit_s):
                return b""
            if not self._more():
                if not self._is_over:
                    return b""
                self._end_measure()
                return None
            if self._meter is not None:
                for content, is_after_hole in self._ahead:
                    self._measure(content, is_after_hole)
        content, self.is_after_hole = self._ahead.popleft()
        return content

    def pause(self) -> bytes:
        """Return the last window that has arrived, although nothing shows yet that it is whole."""
        return self.whole.pause()

    def names(self) -> Mapping[int, str]:
        """Return the domain names in the capture's meta.json."""
        return self._names

    def _more(self) -> bool:
        """Read on until there are whole windows; return False at the end, or where a pipe has no more.

        Raises:
            TraceError: it is not a trace, or ``strict`` is set and it is damaged.
        """
        before = len(self._ahead)
        buffer = bytearray(_CHUNK_BYTES)
        while len(self._ahead) == before and not self._is_over:
            reason = ""
            try:
                count = self._source.readinto(memoryview(buffer)) or 0
            except CompressedDamage as error:
                count, reason = 0, cut_text(error)
            if count:
                self.whole.feed(memoryview(buffer)[:count])
            elif self._is_growing:
                break
            elif self.whole.taken_bytes or reason:
                self.whole.end(reason)
                self._is_over = True
            else:
                self._is_over = True
            self._ahead += self.whole.pieces()
            if self._wait is not None:
                break
        return len(self._ahead) > before


@contextlib.contextmanager
def open_file(
    path: str,
    cpu_hz: float | None,
    *,
    strict: bool = False,
    follow: Callable[[str], None] | None = None,
) -> Iterator[FileFeed]:
    """Open a trace to replay.

    Args:
        path: a file, a capture's folder, ``-`` for standard input.
        cpu_hz: TSC cycles per second; None takes it from meta.json or the sidecar, otherwise from the trace.
        strict: raise TraceError at the first damage.
        follow: wait for more at the end of the file; is passed a line where it is rotated or truncated.

    Raises:
        TraceError: it cannot be opened as a trace.
    """
    names: Mapping[int, str] = {}
    hz, source, emulated = cpu_hz, "--cpu-hz", False
    name = "standard input" if path == STDIN else path
    if layout.is_capture(path) and (Path(path) / layout.META).is_file():
        made = layout.open_capture(path)
        names, emulated = made.domain_names, made.meta.get("timing") == "emulated"
        told = made.meta.get("tsc_hz")
        if hz is None and isinstance(told, int | float) and told > 0:
            hz, source = float(told), f"from {layout.META}"
    trace = layout.trace_in(path)
    if path != STDIN and (beside := sidecar_of(trace)) is not None:
        emulated = emulated or beside.emulated
        if hz is None and beside.tsc_hz is not None:
            hz, source = beside.tsc_hz, f"from {beside.path.name}"
    with contextlib.ExitStack() as stack:
        wait: Callable[[float], bool] | None = None
        if follow is not None:
            opened: Source = stack.enter_context(contextlib.closing(_followed(path, trace, follow)))
            wait = opened.wait if isinstance(opened, FollowedFile) else None
        else:
            opened = stack.enter_context(open_source(trace))
            if path == STDIN and not isinstance(opened, Ahead):
                wait = _wait_for_stdin
        feed = FileFeed(
            opened, name, names, emulated, strict=strict, wait=wait, is_growing=follow is not None
        )
        feed.begin()
        if hz is None:
            feed.measure()
        else:
            feed.rate = TscRate(hz, source)
        yield feed


def _followed(path: str, trace: str, tell: Callable[[str], None]) -> FollowedFile:
    if path == STDIN or not Path(trace).is_file():
        raise TraceError(f"{path}: only a file can be followed (-F)")
    with open(trace, "rb") as file:
        if compression_in(file.read(MAGIC_BYTES)) is not None:
            raise TraceError(f"{path}: is compressed, and cannot be followed (-F) while it grows")
    return FollowedFile(trace, tell)


def _wait_for_stdin(limit_s: float) -> bool:
    return bool(select.select([sys.stdin.fileno()], [], [], limit_s)[0])


# --- the live host -----------------------------------------------------------------------------


class LiveFeed:
    """An xentrace process that this one started."""

    whole = None

    def __init__(self, process: subprocess.Popen[bytes], log: IO[bytes], rate: TscRate, begun: float) -> None:
        self.name = "live"
        self.is_after_hole = False
        self.rate = rate
        self.emulated = dom0.is_emulated()
        self._process = process
        self._log = log
        self._begun = begun
        self._names: dict[int, str] = {}
        self._asked_at = -_NAMES_S
        assert process.stdout is not None
        self._pipe = process.stdout.fileno()
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def read(self, limit_s: float) -> bytes | None:
        """Return what xentrace has written since the last call.

        Raises:
            TraceError: it has ended by itself, or never wrote anything.
        """
        if not select.select([self._pipe], [], [], limit_s)[0]:
            if self._begun and time.monotonic() - self._begun > _BEGIN_LIMIT_S:
                raise TraceError(f"xentrace wrote no record within {_BEGIN_LIMIT_S:.0f} s; see xtrace doctor")
            return b""
        self._begun = 0.0
        if found := os.read(self._pipe, _CHUNK_BYTES):
            return found
        self._process.wait()
        raise TraceError(
            f"xentrace ended by itself, {_how(self._process.returncode)}{self._said()}; see xtrace doctor"
        )

    def pause(self) -> bytes:
        """Return nothing: nothing is held back."""
        return b""

    def names(self) -> Mapping[int, str]:
        """Return the names in xenstore, which is read at most every two seconds."""
        if time.monotonic() - self._asked_at >= _NAMES_S:
            self._asked_at = time.monotonic()
            with contextlib.suppress(OSError, TraceError), open_xenstore() as store:
                rows = [xen_tools.store_facts(store, domain) for domain in store.domains()]
                self._names = xen_tools.names_of(rows)
        return self._names

    def end(self) -> bool:
        """End xentrace, which switches tracing off; return whether it ended in an orderly way."""
        self._process.terminate()
        limit = time.monotonic() + _END_LIMIT_S
        # It empties Xen's buffers first; keep reading, because a full pipe would block it forever.
        while self._process.poll() is None and time.monotonic() < limit:
            if select.select([self._pipe], [], [], 0.1)[0] and not os.read(self._pipe, _CHUNK_BYTES):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(max(0.0, limit - time.monotonic()))
                break
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        return self._process.returncode == 0

    def _said(self) -> str:
        self._log.seek(0)
        lines = self._log.read(1 << 16).decode(errors="backslashreplace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return f": {said[-1]}" if said else ""


@contextlib.contextmanager
def open_live(mask: int, cpu_hz: float | None) -> Iterator[LiveFeed]:
    """Trace this host for as long as the context lasts.

    Raises:
        TraceError: not root, not a Xen dom0, no xentrace, or another recorder; it says how to fix that.
    """
    from xtrace.probes.recording.backends.xentrace import XentraceBackend

    if reason := dom0.why_no_dom0():
        raise TraceError(f"{reason}; -i FILE replays a trace of another host")
    if os.geteuid() != 0:
        raise TraceError("tracing needs root; run it with sudo")
    with only_recorder(), tempfile.TemporaryFile() as log:
        restore.recover()
        found = XentraceBackend().probe()
        if not found.usable:
            raise TraceError(f"{found.reason}; {found.remedy}" if found.remedy else found.reason)
        rate = TscRate(cpu_hz, "--cpu-hz") if cpu_hz else _rate()
        note = restore.note("xen_tracing", {})
        try:
            feed = LiveFeed(_start(mask, log), log, rate, time.monotonic())
        except BaseException:
            note.drop()
            raise
        try:
            yield feed
        finally:
            # Only an xentrace that ended in an orderly way has switched tracing off.
            if feed.end():
                note.drop()
            else:
                note.undo()


def _start(mask: int, log: IO[bytes]) -> subprocess.Popen[bytes]:
    binary = xen_tools.tool("xentrace")
    assert binary is not None
    parent = os.getpid()

    def end_with_parent() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return subprocess.Popen(
        # It needs a file name: without one it prints its usage and ends.
        [binary, "-D", "-e", f"{mask:#x}", "-s", str(_POLL_MS), "/proc/self/fd/1"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        # In its own session, so that Ctrl-C on the terminal does not end it before we know.
        start_new_session=True,
        preexec_fn=end_with_parent,  # safe because no thread runs
    )


def _rate() -> TscRate:
    """Return the TSC's rate as Xen calibrated it, or as measured against this kernel's clock."""
    with contextlib.suppress(TraceError, ValueError, KeyError):
        return TscRate(float(xen_tools.info_of(xen_tools.run("xl", "info"))["cpu_mhz"]) * 1e6, "xl info")
    tsc = RawTsc()
    first = tsc.pair()
    time.sleep(_RATE_S)
    second = tsc.pair()
    hz = (sum(second[::2]) - sum(first[::2])) / 2 / (second[1] - first[1]) * 1e9
    return TscRate(hz, f"{_RATE_S} s of CLOCK_MONOTONIC")


def _how(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
