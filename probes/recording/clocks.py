"""Clock pairs, steps and markers of a recording: one line each in ``clocks.jsonl``.

=====  ==========================================================================
kind   keys
=====  ==========================================================================
pair   tsc (two readings), monotonic_ns, realtime_ns, cpu
mark   tsc (two readings), number, cpu: Xen traced vcpu_op(MARK_COMMAND, number)
step   monotonic_ns, step_ns: CLOCK_REALTIME was set, by step_ns
=====  ==========================================================================
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xtrace.probes.capture.clock_line import ClockPair, fit
from xtrace.probes.capture.stream import Stream
from xtrace.probes.errors import TraceError
from xtrace.probes.host.raw_tsc import RawTsc

#: The marker: a vcpu_op that Xen refuses, but traces with its own TSC and both arguments.
MARK_COMMAND = 0x7874
FIRST_MARK = 0x78740000

PRIVCMD = Path("/dev/xen/privcmd")
#: Linux, include/uapi/xen/privcmd.h: _IOC(_IOC_NONE, 'P', 0, sizeof(struct privcmd_hypercall)).
_IOCTL_HYPERCALL = 48 << 16 | ord("P") << 8
_VCPU_OP = 24
_REFUSED = (errno.ENOENT, errno.EINVAL)

#: NTP slews by 500 ppm at most.
_SLEW_RATIO = 1e-3
_STEP_NS = 1_000_000
_TRIES = 5
#: Bounds the memory: beyond this many pairs every other one is dropped; the file keeps all.
_MAX_PAIRS = 4096
_MAX_CPUS = 64


class Clocks:
    """Reads the clocks of one recording; where the TSC cannot be read, ``missing`` says why."""

    def __init__(self) -> None:
        self.missing: list[str] = []
        self.pairs: list[ClockPair] = []
        self.mark_count = 0
        self.step_ns: list[int] = []
        self._stream: Stream | None = None
        self._privcmd = -1
        self._last: tuple[int, int, int] | None = None
        self._tsc: RawTsc | None = None
        try:
            self._tsc = RawTsc()
        except TraceError as error:
            self.missing.append(f"no clock pairs: {error}")

    def start(self, stream: Stream) -> None:
        """Start writing to ``stream``, and take the first reading."""
        self._stream = stream
        if PRIVCMD.exists():
            try:
                self._privcmd = os.open(PRIVCMD, os.O_RDWR | os.O_CLOEXEC)
            except OSError as error:
                self.missing.append(f"no markers in Xen's trace: {PRIVCMD}: {error.strerror}")
        self.tick()

    def every_cpu(self) -> None:
        """Read a pair and send a marker on each CPU that this process may use, to compare their TSCs."""
        allowed = os.sched_getaffinity(0)
        try:
            for cpu in sorted(allowed)[:_MAX_CPUS]:
                with contextlib.suppress(OSError):  # a CPU may have gone
                    os.sched_setaffinity(0, {cpu})
                    self.tick()
        finally:
            with contextlib.suppress(OSError):
                os.sched_setaffinity(0, allowed)

    def tick(self) -> None:
        """Read a pair, check for a step of CLOCK_REALTIME, send a marker."""
        lines: list[dict[str, Any]] = list(self._steps())
        if self._tsc is not None:
            cpu = _current_cpu()
            before, monotonic, after = self._tsc.pair()
            # If the process moved meanwhile, it is unknown which CPU's TSC that was.
            cpu = cpu if cpu == _current_cpu() else None
            self._keep(ClockPair(before, monotonic, after, cpu))
            line = {"kind": "pair", "tsc": [before, after], "monotonic_ns": monotonic, "cpu": cpu}
            lines.append({**line, "realtime_ns": time.time_ns()})
            if self._privcmd >= 0:
                lines.extend(self._mark())
        assert self._stream is not None
        self._stream.write("".join(f"{json.dumps(line)}\n" for line in lines).encode())

    def stop(self) -> None:
        """Close the hypercall device; may be called twice."""
        if self._privcmd >= 0:
            os.close(self._privcmd)
            self._privcmd = -1

    def facts(self) -> dict[str, Any]:
        """Return the clock facts for meta.json: counts, and the line through the pairs with its errors."""
        line = fit(self.pairs)
        found: dict[str, Any] = {
            "pairs": len(self.pairs),
            "marks": self.mark_count,
            "mark_command": MARK_COMMAND,
            "first_mark": FIRST_MARK,
            "realtime_steps_ns": self.step_ns,
            "missing": self.missing,
            "fit": None,
            "cpu_off_ns": {},
        }
        if line is not None:
            found["fit"] = {
                "hz": line.hz,
                "tsc": line.tsc,
                "monotonic_ns": line.ns,
                "pairs": line.pair_count,
                "wide_pairs": line.wide_count,
                "bracket_ns": round(line.bracket_ns, 1),
                "residual_ns": round(line.residual_ns, 1),
                "rms_ns": round(line.rms_ns, 1),
                "error_ns": round(line.error_ns, 1),
                "span_s": line.span_s,
            }
            off: dict[int, list[float]] = {}
            for pair in self.pairs:
                if pair.cpu is not None:
                    off.setdefault(pair.cpu, []).append(pair.monotonic_ns - line.ns_of(pair.middle))
            # Mean distance of a CPU's pairs from the line through all pairs.
            found["cpu_off_ns"] = {str(cpu): round(sum(all_) / len(all_), 1) for cpu, all_ in off.items()}
        return found

    def _keep(self, pair: ClockPair) -> None:
        self.pairs.append(pair)
        if len(self.pairs) > _MAX_PAIRS:
            del self.pairs[1::2]

    def _steps(self) -> Iterator[dict[str, Any]]:
        now = _times()
        if self._last is not None and (step := step_between(self._last, now)):
            self.step_ns.append(step)
            del self.step_ns[_MAX_PAIRS:]
            yield {"kind": "step", "monotonic_ns": now[0], "step_ns": step}
        self._last = now

    def _mark(self) -> Iterator[dict[str, Any]]:
        assert self._tsc is not None
        number = FIRST_MARK + self.mark_count
        call = ctypes.create_string_buffer(struct.pack("<6Q", _VCPU_OP, MARK_COMMAND, number, 0, 0, 0))
        cpu = _current_cpu()
        before, _result, code, after = self._tsc.ioctl(
            self._privcmd, _IOCTL_HYPERCALL, ctypes.addressof(call)
        )
        if code not in _REFUSED:
            reason = os.strerror(code) if code else "Xen accepted a call that it should refuse"
            self.missing.append(f"no markers in Xen's trace: {PRIVCMD}: {reason}")
            self.stop()
            return
        self.mark_count += 1
        yield {"kind": "mark", "tsc": [before, after], "number": number, "cpu": cpu}


def step_between(earlier: tuple[int, int, int], later: tuple[int, int, int]) -> int:
    """Return by how many ns CLOCK_REALTIME was set between two readings, 0 if it was not.

    Args:
        earlier, later: CLOCK_MONOTONIC, CLOCK_REALTIME, and at most how far apart these two were read, in ns.
    """
    passed = later[0] - earlier[0]
    step = later[1] - earlier[1] - passed
    return step if abs(step) > _STEP_NS + passed * _SLEW_RATIO + earlier[2] + later[2] else 0


def _times() -> tuple[int, int, int]:
    """Return CLOCK_MONOTONIC, CLOCK_REALTIME and at most how far apart they were read, from the best try.

    The process may be descheduled between two readings.
    """
    best = (0, 0, 1 << 62)
    for _ in range(_TRIES):
        before, realtime, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        if after - before < best[2]:
            best = (before, realtime, after - before)
    return best


def _current_cpu() -> int | None:
    getcpu = _library.sched_getcpu
    cpu = int(getcpu())
    return cpu if cpu >= 0 else None


_library = ctypes.CDLL(None)
