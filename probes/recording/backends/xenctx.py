"""The xenctx backend: instruction pointers of PV guests' vCPUs, sampled slowly, one domain at a time.

Without a PMU nothing else shows them.  xenctx pauses the domain for each sample, and mostly finds
a vCPU where it can be paused: in the hypercall that blocks it.  So this is not a profile of the
guest; the file states this bias before the samples.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import IO, Any

from xtrace.probes.capture.layout import XENCTX_SAMPLES
from xtrace.probes.capture.stream import CaptureFullError, Folder, Stream
from xtrace.probes.errors import TraceError
from xtrace.probes.host import dom0, xen_tools
from xtrace.probes.host.xenstore import open_xenstore
from xtrace.probes.recording.backends.base import Availability, Counts, Options

BIAS = (
    "xenctx pauses the domain for each sample and mostly finds a vCPU where it blocks: shares of samples are "
    "not shares of time"
)

#: Largest share of the time in which xenctx may run, and so keep a domain paused.
_MOST_BUSY = 0.2
_LEAST_PERIOD_S = 0.5
_LIMIT_S = 20
_MOST_OUTPUT = 1 << 20
_REFRESH_S = 5.0
#: A kernel start address so high that xenctx leaves out the stack, which it would read page by page.
_NO_STACK = "0xffffffffffffffff"
_VCPU = re.compile(r"^vcpu(\d{1,4}):")
_REGISTER = re.compile(r"^(rip|flags|rsp): ?([0-9a-f]{1,16})", re.IGNORECASE)


def samples_of(text: str) -> list[dict[str, Any]]:
    """Return vcpu, and rip, flags and rsp in hexadecimal, of each vCPU in the output of ``xenctx -C``."""
    found: list[dict[str, Any]] = []
    for line in text.splitlines():
        if match := _VCPU.match(line):
            found.append({"vcpu": int(match[1])})
        elif found and (match := _REGISTER.match(line)) and match[1].lower() not in found[-1]:
            found[-1][match[1].lower()] = f"0x{int(match[2], 16):x}"
    return [sample for sample in found if "rip" in sample]


class XenctxBackend:
    """Samples PV guests with xenctx."""

    name = "xenctx"

    def __init__(self) -> None:
        self._stream: Stream | None = None
        self._options = Options()
        self._tool = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None
        self._domain = -1
        self._began = 0.0
        self._due = 0.0
        self._refresh_at = 0.0
        self._domains: list[int] = []
        self._turn = 0
        self._samples = 0
        self._calls = 0
        self._failures = 0
        self._busy_s = 0.0
        self._byte_count = 0
        self._last_error = ""

    def probe(self) -> Availability:
        """Return whether this is a dom0 with xenctx."""
        if reason := dom0.why_no_dom0():
            return Availability(False, reason)
        if xen_tools.tool("xenctx") is None:
            return Availability(False, "xenctx is missing", "apt-get install xen-utils-common")
        return Availability(True, f"slow; {BIAS}")

    def start(self, folder: Folder, options: Options) -> None:
        """Start the file; the first sample is taken at the first poll.

        Raises:
            TraceError: xenctx is missing, or this is not a dom0.
        """
        found = self.probe()
        if not found.usable:
            raise TraceError(f"xenctx: {found.reason}" + (f"; {found.remedy}" if found.remedy else ""))
        self._tool = xen_tools.tool("xenctx") or "xenctx"
        self._options = options
        self._stream = folder.stream(XENCTX_SAMPLES)
        self._write(
            {
                "schema_version": 1,
                "what": "instruction pointers of PV guests' vCPUs",
                "bias": BIAS,
                "clock": "CLOCK_MONOTONIC, nanoseconds: the sample was taken between t_ns[0] and t_ns[1]",
                "domains": list(options.domains) or "all PV guests",
            }
        )

    def poll(self) -> Counts:
        """Write the samples of a call that has ended; start the next call when it is due."""
        if self._stream is None:
            return self._count()
        now = time.monotonic()
        if self._process is not None:
            if self._process.poll() is not None:
                self._take(now)
            elif now - self._began > _LIMIT_S:
                self._process.kill()
        if self._process is None and now >= self._due:
            self._ask(now)
        return self._count()

    def stop(self) -> Counts:
        """Stop sampling; wait for a call in progress, so that no domain stays paused."""
        if self._stream is None:
            return self._count()
        if self._process is not None:
            try:
                self._process.wait(_LIMIT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            with suppress(CaptureFullError):
                self._take(time.monotonic())
        with suppress(CaptureFullError):
            self._stream.flush()
        self._stream = None
        return self._count()

    def facts(self) -> Mapping[str, Any]:
        """Return the number and duration of xenctx calls, and the bias."""
        return {
            "tool": self._tool,
            "bias": BIAS,
            "calls": self._calls,
            "failed_calls": self._failures,
            "last_error": self._last_error or None,
            "call_s": round(self._busy_s / self._calls, 3) if self._calls else None,
            "paused": "the sampled domain during each call, at most",
        }

    def _ask(self, now: float) -> None:
        if now >= self._refresh_at:
            self._domains = list(self._options.domains) or _pv_domains()
            self._refresh_at = now + _REFRESH_S
        if not self._domains:
            self._due = now + _LEAST_PERIOD_S
            return
        self._turn = (self._turn + 1) % len(self._domains)
        self._domain = self._domains[self._turn]
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 it outlives this call
        self._began = now
        self._process = subprocess.Popen(
            [self._tool, "-C", "-k", _NO_STACK, str(self._domain)],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
        )

    def _take(self, now: float) -> None:
        assert self._process is not None
        assert self._output is not None
        failed = self._process.returncode != 0
        self._output.seek(0)
        text = self._output.read(_MOST_OUTPUT).decode(errors="backslashreplace")
        self._output.close()
        self._process = None
        took = now - self._began
        self._calls += 1
        self._busy_s += took
        self._due = now + max(took / _MOST_BUSY - took, _LEAST_PERIOD_S)
        if failed:
            # The domain may have gone meanwhile, which does not fail the recording.
            self._failures += 1
            self._last_error = (text.strip().splitlines() or [""])[-1][:200]
            return
        times = [round(self._began * 1e9), round(now * 1e9)]
        for sample in samples_of(text):
            self._write({"t_ns": times, "domain": self._domain, **sample})
            self._samples += 1

    def _write(self, content: Mapping[str, Any]) -> None:
        assert self._stream is not None
        line = json.dumps(content, separators=(",", ":")).encode() + b"\n"
        self._stream.write(line)
        self._byte_count += len(line)

    def _count(self) -> Counts:
        return Counts(self._samples, 0, self._byte_count)


def _pv_domains() -> list[int]:
    """Return the ids of the PV guests that exist."""
    try:
        with open_xenstore() as store:
            return [
                domain
                for domain in store.domains()
                if domain != 0 and store.read(f"/libxl/{domain}/type") == "pv"
            ]
    except (OSError, TraceError):
        return []
