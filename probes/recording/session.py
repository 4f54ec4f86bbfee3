"""A recording from start to end: `xtrace record` without its command line.

``end_reason`` in meta.json says what ended it.  ``duration``, ``interrupt`` (Ctrl-C), ``signal``,
``command`` (it has ended) and ``max-size`` are successes; ``disk`` (full, or down to its
reserve) and ``backend`` (one died) are failures, and what was recorded until then is kept.
"""

from __future__ import annotations

import contextlib
import json
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from xtrace.probes.capture.layout import CLOCKS, PROGRESS
from xtrace.probes.capture.stream import CaptureFullError
from xtrace.probes.capture.writer import CaptureWriter, SizeReachedError, make_way
from xtrace.probes.errors import TraceError
from xtrace.probes.host import dom0
from xtrace.probes.recording import costs, meta, restore
from xtrace.probes.recording.backends import registry
from xtrace.probes.recording.backends.base import Backend, Counts, Options, Overhead
from xtrace.probes.recording.clocks import Clocks
from xtrace.probes.recording.domains import Domains
from xtrace.probes.recording.flusher import Flusher
from xtrace.probes.recording.lock import only_recorder
from xtrace.probes.recording.process import SIGNALS, signals, usage

_POLL_S = 0.1
_SECOND_S = 1.0
_COMMAND_LIMIT_S = 10.0
#: End reasons that are failures.
FAILED = ("disk", "backend")


@dataclass(frozen=True, slots=True)
class Request:
    """What to record, and for how long.

    Attributes:
        output: the capture's directory.
        backends: names; None means those of registry.DEFAULT that work.
        duration_s: None means until Ctrl-C, or until the command ends.
        command: to run while recording.
        max_bytes: limit of the capture's size.
        overwrite: replace an existing capture instead of keeping it as ``.old``.
        timing: "emulated" or "hardware", where the user knows better; None detects it.
        owner: user and group that the capture belongs to at the end; None leaves it to this process.
    """

    output: Path
    options: Options
    backends: tuple[str, ...] | None = None
    duration_s: float | None = None
    command: tuple[str, ...] = ()
    max_bytes: int | None = None
    overwrite: bool = False
    timing: str | None = None
    owner: tuple[int, int] | None = None


@dataclass(slots=True)
class Summary:
    """The result of a recording.

    Attributes:
        counts: by backend; failures: messages by backend or other part that failed.
        end_reason: see the module; message: for the user, where there is more to say.
        duration_s: from the last backend's start to the end.
        command_code: the command's exit code, negative for a signal, None without one.
    """

    output: Path
    counts: dict[str, Counts] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    end_reason: str = ""
    message: str = ""
    duration_s: float = 0.0
    byte_count: int = 0
    overhead: Overhead = field(default_factory=Overhead)
    command_code: int | None = None


Say = Callable[[str], None]
Watch = Callable[[float, int, Mapping[str, Counts]], None]


def record(request: Request, *, say: Say, watch: Watch) -> Summary:
    """Record and return the summary.

    Args:
        request: what to record.
        say: is called with each line for the user.
        watch: is called once a second with the elapsed seconds, the capture's bytes and the backends' counts.

    Raises:
        TraceError: nothing can be recorded here, or the output would replace something that is not a capture.
    """
    with only_recorder():
        for line in restore.recover():
            say(line)
        if request.backends is None and (reason := dom0.why_no_dom0()):
            raise TraceError(
                f"xtrace record needs a Xen dom0: {reason}; --backend bpf records any Linux kernel"
            )
        found = registry.candidates(request.backends or registry.DEFAULT)
        registry.must_work(found, named=request.backends is not None)
        registry.must_honour(found, request.options)
        if request.command and shutil.which(request.command[0]) is None:
            raise TraceError(f"{request.command[0]}: no such command; nothing was recorded")
        return _Session(request, found, say, watch).run()


class _Session:
    def __init__(self, request: Request, found: Sequence[registry.Candidate], say: Say, watch: Watch) -> None:
        self._request = request
        self._found = {each.backend.name: each for each in found}
        self._say = say
        self._watch = watch
        self._running: list[Backend] = []
        self._summary = Summary(request.output)
        self._stop_reason = ""
        self._clocks = Clocks()
        self._domains = Domains()
        self._is_xen = not dom0.why_no_dom0()
        self._child: subprocess.Popen[bytes] | None = None
        self._child_s = 0.0
        self._spans: dict[str, list[int]] = {}
        self._warned: dict[str, int] = {}
        self._costs = costs.Measured()

    def run(self) -> Summary:
        """Record, and leave the host as it was whatever happens."""
        try:
            with signals(self._on_signal):
                content = self._look_around()
                capture = self._begin(content)
                try:
                    self._loop(capture)
                    self._end(capture, content)
                finally:
                    with contextlib.suppress(OSError):
                        capture.close()
        finally:
            self._drop_backends()
            self._clocks.stop()
            self._domains.close()
        return self._summary

    def _look_around(self) -> dict[str, Any]:
        timing = self._request.timing or ("emulated" if dom0.is_emulated() else None)
        content = meta.beginning(
            self._request.options, self._request.command, timing=timing, with_xen=self._is_xen
        )
        if self._is_xen:
            self._domains.start()
        return content

    def _begin(self, content: dict[str, Any]) -> CaptureWriter:
        request = self._request
        self._fill(content)
        make_way(request.output, overwrite=request.overwrite)
        capture = CaptureWriter(
            request.output,
            content,
            max_bytes=request.max_bytes,
            reserve_bytes=request.options.reserve_mib << 20,
        )
        try:
            self._progress = capture.stream(PROGRESS)
            self._clocks.start(capture.stream(CLOCKS))
            self._start_backends(capture)
        except BaseException:
            # Nothing was recorded, so nothing is kept.
            self._drop_backends()
            capture.discard()
            raise
        with self._told("clocks"):
            self._clocks.every_cpu()
        self._write_meta(capture, content)
        return capture

    def _warn(self, backend: Backend) -> None:
        """Show the user the warnings that are new."""
        lines = backend.facts().get("warnings", ())
        for line in lines[self._warned.get(backend.name, 0) :]:
            self._say(f"{backend.name}: {line}")
        self._warned[backend.name] = len(lines)

    def _wanted(self) -> set[str]:
        """Return the backends that must start: those named, or else Xen's and those of options."""
        if self._request.backends is not None:
            return set(self._request.backends)
        asked = self._request.options.asked().values()
        return {registry.XEN, *(name for backends in asked for name in backends)}

    def _drop_backends(self) -> None:
        while self._running:
            with contextlib.suppress(Exception):
                self._running.pop().stop()

    def _start_backends(self, capture: CaptureWriter) -> None:
        for name, candidate in self._found.items():
            if not candidate.availability.usable:
                self._say(f"not using {name}: {_reason(candidate.availability)}")
                continue
            for line in candidate.availability.missing:
                self._say(f"{name}: {line}")
            try:
                if cost := costs.estimated(name, self._request.options):
                    self._say(f"{name} will cost about (modelled): {cost}")
                candidate.backend.start(capture, self._request.options)
            except (TraceError, OSError) as error:
                with contextlib.suppress(Exception):
                    candidate.backend.stop()
                if name in self._wanted() or isinstance(error, CaptureFullError):
                    raise
                self._summary.failures[name] = str(error)
                self._say(f"not using {name}: {error}")
                continue
            self._running.append(candidate.backend)
            self._warn(candidate.backend)
            self._spans[name] = [time.monotonic_ns()]
        if not self._running:
            raise TraceError(f"no backend could start: {'; '.join(self._summary.failures.values())}")
        self._say(f"recording by {', '.join(backend.name for backend in self._running)}")

    def _loop(self, capture: CaptureWriter) -> None:
        self._begun = time.monotonic()
        self._usage = usage()
        until = None if self._request.duration_s is None else self._begun + self._request.duration_s
        flusher = Flusher(capture)
        try:
            if self._request.command:
                self._child = subprocess.Popen(self._request.command)
            second = self._begun + _SECOND_S
            while not self._stop_reason:
                now = time.monotonic()
                if until is not None and now >= until:
                    self._stop_reason = "duration"
                    break
                if self._child is not None and self._child_ended():
                    self._stop_reason = "command"
                    break
                time.sleep(min(_POLL_S, max(0.0, (until or now + _POLL_S) - now)))
                self._poll(capture, flusher)
                if time.monotonic() >= second:
                    second += _SECOND_S
                    self._tick(capture)
        except SizeReachedError as error:
            self._finish_by("max-size", str(error))
        except CaptureFullError as error:
            self._finish_by("disk", str(error))
        except _DeathError as error:
            self._finish_by("backend", str(error))
        finally:
            flusher.stop()

    def _poll(self, capture: CaptureWriter, flusher: Flusher) -> None:
        for backend in self._running:
            try:
                with self._costs.of(backend.name):
                    self._summary.counts[backend.name] = backend.poll()
            except CaptureFullError:
                raise
            except (TraceError, OSError) as error:
                self._summary.failures[backend.name] = str(error)
                raise _DeathError(f"{backend.name}: {error}; what was recorded until then is kept") from None
        capture.make_room()
        flusher.check()

    def _tick(self, capture: CaptureWriter) -> None:
        self._clocks.tick()
        for backend in self._running:
            self._warn(backend)
        now_ns = time.monotonic_ns()
        lines = self._domains.tick(now_ns)
        elapsed_s = time.monotonic() - self._begun
        lines.append(
            {
                "kind": "progress",
                "monotonic_ns": now_ns,
                "elapsed_s": round(elapsed_s, 3),
                "bytes": capture.byte_count,
                "backends": {name: asdict(counts) for name, counts in self._summary.counts.items()},
                "cpu_s": round(usage().cpu_s - self._usage.cpu_s, 3),
            }
        )
        self._progress.write("".join(f"{json.dumps(line)}\n" for line in lines).encode())
        self._watch(elapsed_s, capture.byte_count, self._summary.counts)

    def _end(self, capture: CaptureWriter, content: dict[str, Any]) -> None:
        """Stop the backends, the last one first, and write the final facts; note what fails."""
        self._summary.duration_s = time.monotonic() - self._begun
        self._summary.end_reason = self._stop_reason
        with self._told("clocks"):
            self._clocks.every_cpu()
        interrupts = 0
        while self._running:
            backend = self._running.pop()
            with self._told(backend.name), self._costs.of(backend.name):
                self._summary.counts[backend.name] = backend.stop()
                interrupts += backend.facts().get("buffer_interrupts") or 0
            self._spans[backend.name].append(time.monotonic_ns())
        self._end_command()
        self._summary.overhead = self._overhead(interrupts)
        if self._is_xen:
            self._domains.stop()
        content["ended"] = meta.now()
        content["state"] = "ended"
        with self._told("clocks"):
            self._tick(capture)
        self._write_meta(capture, content)
        self._summary.byte_count = capture.byte_count
        if self._request.owner is not None:
            try:
                capture.give_to(*self._request.owner)
            except OSError as error:
                self._say(f"{self._request.output}: still belongs to root: {error.strerror}")
        with self._told("disk"):
            capture.close()

    def _write_meta(self, capture: CaptureWriter, content: dict[str, Any]) -> None:
        self._fill(content)
        with self._told("meta.json"):
            capture.write_meta(content)

    def _fill(self, content: dict[str, Any]) -> None:
        """Fill in what is known so far."""
        summary = self._summary
        content["backends"] = meta.backend_rows(
            {name: each.availability for name, each in self._found.items()},
            {name: self._found[name].backend.facts() for name in self._spans},
            summary.counts,
            summary.failures,
        )
        for name, span in self._spans.items():
            content["backends"][name]["monotonic_ns"] = span
        content["domains"] = [self._domains.rows[domain] for domain in sorted(self._domains.rows)]
        content["domains_missing"] = self._domains.missing
        content["lost"] = {name: counts.lost for name, counts in summary.counts.items()}
        content["end_reason"] = summary.end_reason or None
        content["message"] = summary.message or None
        content["duration_s"] = summary.duration_s or None
        content["overhead"] = meta.overhead_row(summary.overhead) if summary.end_reason else None
        meta.with_clocks(content, self._clocks)

    def _overhead(self, interrupts: int) -> Overhead:
        used = usage()
        overhead = Overhead(cpu_s=max(0.0, used.cpu_s - self._usage.cpu_s - self._child_s))
        overhead.notes.append("cpu_s: exact, the recorder and the processes it started, without the command")
        overhead.cpu_s_by_backend = {name: round(used_s, 4) for name, used_s in self._costs.cpu_s.items()}
        overhead.notes.append(
            "cpu_s_by_backend: exact, of the recorder's thread while it served the backend, and of the "
            "processes of the backend; without its programs in the kernel"
        )
        if self._is_xen:
            waits = used.wait_count - self._usage.wait_count
            overhead.own_upcalls = interrupts + 2 * waits
            overhead.notes.append(
                f"own_upcalls: upper bound: {interrupts} interrupts for xentrace's buffers (exact), and two "
                f"(timer or disk, IPI) for each of {waits} waits of the recorder and the processes it started"
            )
        return overhead

    def _child_ended(self) -> bool:
        assert self._child is not None
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        code = self._child.poll()
        if code is None:
            return False
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        self._child_s += after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        self._summary.command_code = code
        return True

    def _end_command(self) -> None:
        """Wait for a command that still runs; terminate it only if a signal ended the recording."""
        if self._child is None or self._summary.command_code is not None:
            return
        if self._stop_reason in SIGNALS.values():
            self._child.terminate()
            patience = time.monotonic() + _COMMAND_LIMIT_S
        else:
            patience = float("inf")
        while not self._child_ended():
            if time.monotonic() >= patience:
                self._child.kill()
            time.sleep(_POLL_S)

    def _finish_by(self, reason: str, message: str) -> None:
        self._stop_reason = reason
        self._summary.message = message

    def _on_signal(self, number: int) -> None:
        if not self._stop_reason:
            self._stop_reason = SIGNALS[signal.Signals(number)]

    @contextlib.contextmanager
    def _told(self, part: str) -> Iterator[None]:
        """Note a failure while ending one part, so that the other parts still end."""
        try:
            yield
        except (TraceError, OSError) as error:
            full = isinstance(error, CaptureFullError)
            # The capture's own limit, or a full disk, is already the end reason.
            if not (full and self._stop_reason in ("max-size", "disk")):
                self._summary.failures.setdefault(part, str(error))
                if self._stop_reason not in FAILED and self._stop_reason:
                    self._stop_reason = "disk" if full else "backend"
                    self._summary.end_reason = self._stop_reason
                    self._summary.message = f"{part}: {error}"


class _DeathError(TraceError):
    """A backend has ended by itself."""


def _reason(found: Any) -> str:
    return f"{found.reason} ({found.remedy})" if found.remedy else str(found.reason)
