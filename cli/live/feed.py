"""What `xtrace top` and `xtrace stat` share: periods of an incoming trace, and their figures as JSON."""

from __future__ import annotations

import resource
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from xtrace.probes.errors import TraceError

if TYPE_CHECKING:
    from xtrace.probes.live.counters import Figures
    from xtrace.probes.live.feed import Feed
    from xtrace.probes.live.histogram import Histogram
    from xtrace.probes.live.periods import Period, Periods
    from xtrace.probes.live.ports import PortPeriod, Ports

SCHEMA_VERSION = 1

#: Rows that `stat`, `top -b` and `--json` print of a trace without a COUNT or `-n`.
MAX_ROWS = 120_000
#: A trace is replayed if less than this share of the time passes waiting for its bytes.
_REPLAY_WAITING = 0.1

#: How long to wait for bytes before checking the keyboard.
_WAIT_S = 0.1
#: A pipe that brings nothing for at least so long pauses; a recorder writes several times a second.
_PAUSE_S = 1.0


def opened(
    path: str | None,
    cpu_hz: float | None,
    *,
    irqs: bool = False,
    hvm: bool = False,
    strict: bool = False,
    follow: Callable[[str], None] | None = None,
) -> AbstractContextManager[Feed]:
    """Open a trace to replay, or trace this host if ``path`` is None."""
    from xtrace.probes.live.feed import mask_of, open_file, open_live

    if path is None:
        return open_live(mask_of(irqs=irqs, hvm=hvm), cpu_hz)
    return open_file(path, cpu_hz, strict=strict, follow=follow)


def live_ports() -> AbstractContextManager[Ports]:
    """Count the event channels of this dom0."""
    from xtrace.probes.live.ports import open_live_ports

    return open_live_ports()


def replayed_ports(path: str, hz: float) -> Ports:
    """Return the event channels in a capture, on the clock of its trace.

    Raises:
        TraceError: it is not a capture, or was recorded without bpf.
    """
    from xtrace.probes.capture.layout import is_capture, open_capture
    from xtrace.probes.live.ports import ReplayedPorts

    if not is_capture(path):
        raise TraceError(f"{path}: --ports needs a capture of xtrace record; a trace alone has no ports")
    return ReplayedPorts(open_capture(path), hz)


class Watched:
    """A feed cut into periods.

    Attributes:
        feed, periods: the feed, and what cuts it.
        busy_ratio: share of a CPU that this process took over the last period; None in a replay.
        ports: of dom0 over the last period; None if they are not shown.
        replayed_rows: rows of the periods that were not waited for: none from a live host.
    """

    def __init__(
        self,
        feed: Feed,
        seconds: float,
        *,
        is_live: bool,
        by_vcpu: bool = True,
        ports: Ports | None = None,
    ) -> None:
        """Cut ``feed`` into periods of ``seconds``, with figures of each vCPU or only of all together."""
        from xtrace.probes.live.periods import Periods

        self.feed = feed
        self.periods: Periods = Periods(max(round(seconds * feed.rate.hz), 1), feed.name, by_vcpu=by_vcpu)
        self._seconds = seconds
        self._pause_s = max(seconds, _PAUSE_S)
        self._arrived, self._has_paused = time.monotonic(), is_live
        self._rate = feed.rate
        self.busy_ratio: float | None = None
        self.ports: PortPeriod | None = None
        self._is_live = is_live
        self._ports = ports
        self._used, self._at = _cpu_s(), time.monotonic()
        self._begun, self._waited_s = self._at, 0.0
        self.replayed_rows = 0

    def widen(self) -> None:
        """Make the next periods a thousand times as long: nothing that is shown depends on them."""
        self._seconds *= 1000
        self.periods.resize(round(self._seconds * self._rate.hz))
        self.replayed_rows = 0

    def __iter__(self) -> Iterator[Period | None]:
        """Yield the periods, and None whenever the caller may check the keyboard."""
        while (data := self._read()) is not None:
            if not data and not self._has_paused and time.monotonic() - self._arrived > self._pause_s:
                self._has_paused = True
                yield from self._pause()
            if data:
                self._arrived, self._has_paused = time.monotonic(), self._is_live
            if self.feed.rate is not self._rate:
                self._rate = self.feed.rate
                self.periods.resize(max(round(self._seconds * self._rate.hz), 1))
            if self.feed.is_after_hole:
                self.periods.hole()
            for period in self.periods.feed(data):
                self._note(period)
                yield period
            if self._ports is not None:
                self._ports.poll()
            yield None
        for period in self.periods.end():
            self._note(period)
            yield period

    def _read(self) -> bytes | None:
        begun = time.monotonic()
        data = self.feed.read(_WAIT_S)
        self._waited_s += time.monotonic() - begun
        return data

    def _pause(self) -> Iterator[Period]:
        """Yield what came so far: a pipe pauses, or a file does not grow."""
        for period in self.periods.feed(self.feed.pause()):
            self._note(period)
            yield period
        for period in self.periods.pause():
            self._note(period)
            yield period

    @property
    def damage_count(self) -> int:
        """Damaged places so far."""
        whole = self.feed.whole
        return self.periods.framer.damage_count + (whole.damage_count if whole else 0)

    @property
    def skipped_bytes(self) -> int:
        """Bytes left out because of damage so far."""
        whole = self.feed.whole
        return self.periods.framer.skipped_bytes + (whole.skipped_bytes if whole else 0)

    def _note(self, period: Period) -> None:
        waiting = self._waited_s / max(time.monotonic() - self._begun, 1e-9)
        if not self._is_live and waiting < _REPLAY_WAITING:
            self.replayed_rows += 1 + len(period.vcpus)
        if self._ports is not None:
            self.ports = self._ports.period(period.end_tsc)
        if not self._is_live:
            return
        used, now = _cpu_s(), time.monotonic()
        self.busy_ratio = (used - self._used) / max(now - self._at, 1e-9)
        self._used, self._at = used, now


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def some_periods(watched: Watched, count: int | None) -> Iterator[Period]:
    """Yield the first ``count`` periods, all if it is None."""
    number = 0
    for period in watched:
        if period is not None:
            yield period
            number += 1
            if number == count:
                return


def printed(watched: Watched, count: int | None, option: str) -> Iterator[Period]:
    """Yield the periods to print: ``count`` of them, or as many as a trace may have.

    A trace that spans years in little space would be printed for hours.

    Args:
        watched: gives the periods.
        count: as the user gave it.
        option: the option for the length of a period, in the message.

    Raises:
        TraceError: the trace has more rows than MAX_ROWS, and no ``count`` was given.
    """
    for number, period in enumerate(some_periods(watched, count)):
        if watched.replayed_rows > MAX_ROWS and count is None:
            raise TraceError(
                f"{watched.feed.name}: more than {MAX_ROWS:,} rows so far, from {number:,} intervals; give a "
                f"longer {option}, or how many to print"
            )
        yield period


def as_json(watched: Watched, period: Period, names: Mapping[int, str], *, vcpus: bool) -> dict[str, Any]:
    """Return a period as `--json` prints it; names and marks as in the report's JSON."""
    periods, rate = watched.periods, watched.feed.rate
    host = period.host
    content: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "begin_tsc": period.begin_tsc,
        "end_tsc": period.end_tsc,
        "span_s": period.span_cycles / rate.hz if rate.is_known else None,
        "span_cycles": period.span_cycles,
        "tsc_hz": rate.hz if rate.is_known else None,
        "tsc_hz_source": rate.source,
        "emulated": watched.feed.emulated,
        "pause_s": period.pause_cycles / rate.hz if rate.is_known else None,
        "record_count": host.records,
        "irq_count": host.irqs,
        "lost_record_count": host.lost,
        "loss_count": host.gaps,
        "lost_pcpus": sorted(host.lost_pcpus),
        "late_records": periods.framer.late_count,
        "tsc_restart_count": periods.framer.restart_count,
        "damage_count": watched.damage_count,
        "skipped_bytes": watched.skipped_bytes,
        "cpu_ratio": watched.busy_ratio,
        "total": _row(period.total),
    }
    if vcpus:
        content["vcpus"] = [
            {"domain": key >> 16, "vcpu": key & 0xFFFF, "name": names.get(key >> 16), **_row(figures)}
            for key, figures in sorted(period.vcpus.items())
        ]
    if watched.ports is not None:
        content["ports"] = _ports_row(watched.ports)
    return content


def _ports_row(ports: PortPeriod) -> dict[str, Any]:
    return {
        "span_s": ports.seconds,
        "upcall_count": ports.upcalls,
        **_times("upcall", ports.upcall, "ns"),
        "rows": [
            {
                "port": row.port,
                "irq": row.irq,
                "name": row.name,
                "handled_count": row.handled,
                "zero_count": row.zero_count,
                **_times("handler", row.handler, "ns"),
                **_times("dispatch", row.dispatch, "ns"),
            }
            for row in ports.ports
        ],
    }


def _row(figures: Figures) -> dict[str, Any]:
    return {
        "wake_count": figures.wakes,
        "run_count": figures.runs,
        "send_count": figures.sends,
        "hypercall_count": figures.hypercalls,
        "xen_version_count": figures.forced,
        "upcall_least_count": figures.upcalls_least,
        "upcall_most_count": figures.upcalls_most,
        "injection_count": figures.injections,
        "cut_count": figures.cuts,
        "running_cycles": figures.running_cycles,
        "waiting_cycles": figures.waiting_cycles,
        **_times("wake_to_running", figures.wake_to_running),
        **_times("upcall_most", figures.upcall_most),
        **_times("upcall_least", figures.upcall_least),
        **_times("upcall", figures.hvm_upcall),
    }


def _times(name: str, histogram: Histogram, unit: str = "cycles") -> dict[str, float | int | None]:
    def at(q: float) -> float | None:
        return histogram.quantile(q) if histogram.buckets else None

    return {
        f"{name}_measured_count": histogram.count,
        f"{name}_p50_{unit}": at(0.5),
        f"{name}_p99_{unit}": at(0.99),
        f"{name}_max_{unit}": histogram.greatest if histogram.count else None,
    }


@contextmanager
def until_interrupted() -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and SIGQUIT end the command normally: it is the usual way, so a success."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = [(number, signal.signal(number, interrupt)) for number in (signal.SIGTERM, signal.SIGQUIT)]
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        for number, handler in before:
            signal.signal(number, handler)
