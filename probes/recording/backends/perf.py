"""The backend perf: where the instruction pointer of each CPU is, sampled by a BPF program on a perf event.

Where Xen has a VPMU and gives dom0 the whole machine (pmu_mode "all"), the event is
hardware cycles and samples hypervisor and guests; else it is dom0's own clock, which sees
dom0 alone: a vCPU that does not run is not sampled, and code with interrupts off is sampled when it turns
them on.  The samples are the CTF trace samples/, their symbols
perf/symbols.jsonl.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from xtrace.probes.bpf import ctf_writer, loader, tables
from xtrace.probes.bpf.abi import SAMPLE_BYTES, Counter
from xtrace.probes.bpf.loader import ProbeError, Program
from xtrace.probes.bpf.rings import Rings
from xtrace.probes.bpf.symbols import Names
from xtrace.probes.host import restore
from xtrace.probes.recording.backends.base import (
    Availability,
    CaptureFullError,
    Counts,
    Folder,
    Options,
    Stream,
)

SAMPLES = "samples"
SYMBOLS = "perf/symbols.jsonl"
PMU_MODE = Path("/sys/hypervisor/pmu/pmu_mode")

HARDWARE_BIAS = "hardware cycles by Xen's VPMU: a sample may lie some instructions behind its cause"
SOFTWARE_BIAS = (
    "dom0's software clock: only dom0 is seen, and code that runs with interrupts off is sampled where it "
    "turns them on"
)
#: perf_event_attr: hardware cycles, the software clock of a CPU.
_HARDWARE, _CYCLES = 0, 0
_SOFTWARE, _CPU_CLOCK = 1, 0
_RING_BYTES = 256 << 10
_PERIOD_S = 1.0
#: Addresses whose symbols are looked up, at most.
_MOST_ADDRESSES = 65536
_IP_WORD = 3


class PerfBackend:
    """Samples instruction pointers."""

    name = "perf"

    def __init__(self, pmu_mode: Path = PMU_MODE) -> None:
        self._pmu_mode = pmu_mode
        self._note: restore.Note | None = None
        self._mode_before = ""
        self._program: Program | None = None
        self._rings: Rings | None = None
        self._drain: tables.Drain | None = None
        self._symbols: Stream | None = None
        self._symbol_bytes = 0
        self._names = Names()
        self._fresh: set[int] = set()
        self._facts: dict[str, Any] = {}
        self._counts = Counts()
        self._due = 0.0

    def probe(self) -> Availability:
        """Tell what could be sampled here, without loading anything."""
        reason, remedy = loader.why_not()
        if reason:
            return Availability(False, reason, remedy)
        if not self._pmu_mode.exists():
            return Availability(
                True, "dom0's software clock", "", ("no VPMU: guests and Xen are not sampled",)
            )
        mode = self._mode()
        if mode == "off":
            return Availability(
                True,
                "dom0's software clock",
                "boot Xen with vpmu=on",
                ("Xen's VPMU is off: guests and Xen are not sampled",),
            )
        return Availability(True, f"hardware cycles if the event opens; pmu_mode is {mode}")

    def start(self, folder: Folder, options: Options) -> None:
        """Load, choose the event, begin the files.

        Raises:
            TraceError: bcc or the kernel refuses.
        """
        loader.must_work(self.name)
        try:
            self._start(folder, options)
        except BaseException:
            self._close()
            raise

    def _start(self, folder: Folder, options: Options) -> None:
        cpus = loader.possible_cpus()
        settings = {"OWN_PID": os.getpid(), "TALLIES": 1, "BUCKETS": 1, "CPUS": cpus, "STREAM": 1}
        program = self._program = Program("sample.bpf.c", settings)
        drain = self._drain = tables.Drain(program)
        rings = self._rings = Rings(program, drain, cpus, SAMPLE_BYTES, self._see)
        rings.open(folder, SAMPLES, _RING_BYTES)
        event, refusal = self._begin_sampling(program, options.sample_hz)
        program.switch(on=True)
        bias = HARDWARE_BIAS if event == "hardware cycles" else SOFTWARE_BIAS
        about = f"{event} at {options.sample_hz} Hz; {bias}"
        rings.describe(folder, SAMPLES, ctf_writer.sample_metadata(about))
        self._symbols = folder.stream(SYMBOLS)
        self._write_symbol_line(
            {
                "schema_version": 1,
                "what": "kernel and hypervisor addresses of the samples: address, symbol, offset",
                "event": event,
                "sample_hz": options.sample_hz,
                "bias": bias,
            }
        )
        self._due = time.monotonic() + _PERIOD_S
        self._facts = {
            "event": event,
            "sample_hz": options.sample_hz,
            "bias": bias,
            "bcc": loader.bcc_version(),
            "headers": loader.HEADERS,
            "load_s": round(program.load_s, 3),
            "pmu_mode_before": self._mode_before or None,
            "missing": [refusal] if refusal else [],
            "left_out": "samples of the recorder itself",
        }

    def poll(self) -> Counts:
        """Write what came."""
        if self._program is None:
            return self._counts
        assert self._rings is not None
        self._rings.take()
        if time.monotonic() >= self._due:
            self._due += _PERIOD_S
            self._write_symbols()
            self._flush()
        return self._count()

    def stop(self) -> Counts:
        """Stop sampling, put the pmu mode back, write what is left."""
        program = self._program
        if program is None:
            return self._counts
        try:
            program.detach()
            assert self._rings is not None
            with suppress(CaptureFullError):
                self._rings.finish()
                self._write_symbols()
                self._flush()
            self._count()
            self._facts["symbols_of_the_host"] = self._names.symbol_count
        finally:
            self._close()
        return self._counts

    def facts(self) -> Mapping[str, Any]:
        """Return the event, its bias and what is missing."""
        return self._facts

    def _close(self) -> None:
        self._put_mode_back()
        if self._rings is not None:
            self._rings.close()
        if self._program is not None:
            self._program.close()
            self._program = None

    def _begin_sampling(self, program: Program, hz: int) -> tuple[str, str]:
        """Open the best event; return its name and why it is not the hardware's."""
        refusal = "no /sys/hypervisor/pmu: guests and Xen are not sampled"
        if self._pmu_mode.exists():
            self._mode_before = self._mode()
            refusal = self._set_mode_all()
            if not refusal:
                try:
                    program.sample("sampled", _HARDWARE, _CYCLES, hz)
                except ProbeError as error:
                    refusal = f"{error}: guests and Xen are not sampled"
                    self._put_mode_back()
                else:
                    return "hardware cycles", ""
        program.sample("sampled", _SOFTWARE, _CPU_CLOCK, hz)
        return "software clock", refusal

    def _mode(self) -> str:
        """Return Xen's pmu mode; a Xen that has no VPMU at all refuses to say it."""
        try:
            return self._pmu_mode.read_text().strip()
        except OSError:
            return "off"

    def _set_mode_all(self) -> str:
        """Let dom0 sample the whole machine; return why not."""
        if self._mode_before == "all":
            return ""
        if self._mode_before == "off":
            return "Xen's VPMU is off (boot Xen with vpmu=on): guests and Xen are not sampled"
        data = {"path": str(self._pmu_mode), "content": self._mode_before}
        self._note = restore.note("file", data)
        try:
            self._pmu_mode.write_text("all")
        except OSError as error:
            self._note.drop()
            self._note = None
            return f"pmu_mode cannot be set to all ({error.strerror}): guests and Xen are not sampled"
        return ""

    def _put_mode_back(self) -> None:
        if self._note is not None:
            self._note.undo()
            self._note = None

    def _see(self, span: bytes) -> None:
        if len(self._fresh) < _MOST_ADDRESSES:
            self._fresh.update(memoryview(span).cast("Q")[_IP_WORD :: SAMPLE_BYTES // 8].tolist())

    def _write_symbol_line(self, content: Mapping[str, Any]) -> None:
        assert self._symbols is not None
        line = tables.line_of(content)
        self._symbols.write(line)
        self._symbol_bytes += len(line)

    def _write_symbols(self) -> None:
        rows = list(self._names.new(self._fresh, _MOST_ADDRESSES))
        self._fresh.clear()
        if rows:
            self._write_symbol_line({"symbols": rows})

    def _flush(self) -> None:
        assert self._rings is not None
        assert self._symbols is not None
        self._rings.flush()
        self._symbols.flush()

    def _count(self) -> Counts:
        assert self._rings is not None
        assert self._drain is not None
        lost = self._drain.counters()[Counter.DROPPED] + self._rings.unwritten_count
        self._counts = Counts(self._rings.record_count, lost, self._rings.byte_count + self._symbol_bytes)
        return self._counts
