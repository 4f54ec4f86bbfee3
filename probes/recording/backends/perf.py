"""The perf backend: instruction pointers of each CPU, sampled by a BPF program on a perf event.

If Xen has a VPMU and lets dom0 profile the whole machine (pmu_mode "all"), the event is
hardware cycles and samples the hypervisor and the guests too.  Otherwise it is dom0's software
clock, which samples only dom0: a vCPU that does not run is not sampled, and code with interrupts
off is sampled when it enables them.  The samples are the CTF trace samples/, their symbols are in
perf/symbols.jsonl.
"""

from __future__ import annotations

from typing import Any

from xtrace.probes.bpf import ctf_writer, symbols
from xtrace.probes.bpf.abi import SAMPLE_BYTES
from xtrace.probes.bpf.loader import ProbeError, Program
from xtrace.probes.capture.layout import SAMPLES, SYMBOLS
from xtrace.probes.capture.stream import Folder
from xtrace.probes.host import dom0
from xtrace.probes.host.privileges import FOR_ADDRESSES
from xtrace.probes.recording import restore
from xtrace.probes.recording.backends.base import Availability, Options
from xtrace.probes.recording.backends.program import Loaded, ProgramBackend

HARDWARE_BIAS = (
    "hardware cycles from Xen's VPMU: a sample may be some instructions after the one that caused it"
)
SOFTWARE_BIAS = (
    "dom0's software clock: only dom0 is sampled, and code that runs with interrupts off is sampled where it "
    "enables them"
)
_HIDDEN = f"no names of the kernel's functions: /proc/kallsyms hides addresses without {FOR_ADDRESSES}"
#: type and config of perf_event_attr: hardware cycles, and the software clock of a CPU.
_HARDWARE, _CYCLES = 0, 0
_SOFTWARE, _CPU_CLOCK = 1, 0
_RING_BYTES = 256 << 10
#: Most addresses whose symbols are looked up.
_MOST_ADDRESSES = 65536
_IP_WORD = 3


class PerfBackend(ProgramBackend):
    """Samples instruction pointers."""

    name = "perf"

    def __init__(self) -> None:
        super().__init__()
        self._pmu_mode = dom0.PMU_MODE
        self._note: restore.Note | None = None
        self._mode_before = ""
        self._names = symbols.Names()
        self._fresh: set[int] = set()

    def _offer(self) -> Availability:
        hidden = (_HIDDEN,) if symbols.are_hidden() else ()
        if not self._pmu_mode.exists():
            missing = ("no VPMU: guests and Xen are not sampled", *hidden)
            return Availability(True, "dom0's software clock", "", missing)
        mode = self._mode()
        if mode == "off":
            missing = ("Xen's VPMU is off: guests and Xen are not sampled", *hidden)
            return Availability(True, "dom0's software clock", "boot Xen with vpmu=on", missing)
        return Availability(True, f"hardware cycles if the event opens; pmu_mode is {mode}", "", hidden)

    def _begin(self, folder: Folder, options: Options) -> dict[str, Any]:
        loaded = self._load("sample.bpf.c", {"TALLIES": 1, "BUCKETS": 1, "STREAM": 1})
        rings = loaded.open_rings(folder, SAMPLES, SAMPLE_BYTES, byte_count=_RING_BYTES, on_records=self._see)
        event, refusal = self._begin_sampling(loaded.program, options.sample_hz)
        loaded.program.switch(on=True)
        bias = HARDWARE_BIAS if event == "hardware cycles" else SOFTWARE_BIAS
        about = f"{event} at {options.sample_hz} Hz; {bias}"
        rings.describe(folder, SAMPLES, ctf_writer.sample_metadata(about))
        chosen = {"event": event, "sample_hz": options.sample_hz, "bias": bias}
        what = "kernel and hypervisor addresses of the samples: address, symbol, offset"
        loaded.open_lines(folder, SYMBOLS, {"schema_version": 1, "what": what, **chosen})
        return {
            **chosen,
            **loaded.facts(),
            "pmu_mode_before": self._mode_before or None,
            "missing": [refusal] if refusal else [],
            "left_out": "samples of the recorder itself",
        }

    def _write_gained(self, loaded: Loaded) -> None:
        rows = list(self._names.new(self._fresh, _MOST_ADDRESSES))
        self._fresh.clear()
        if rows:
            loaded.lines.write({"symbols": rows})

    def _accounts(self, loaded: Loaded) -> dict[str, Any]:
        return {"symbols_of_the_host": self._names.symbol_count}

    def _close(self) -> None:
        self._put_mode_back()
        super()._close()

    def _begin_sampling(self, program: Program, hz: int) -> tuple[str, str]:
        """Open the best event; return its name, and why it is not the hardware event ("" if it is)."""
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
        """Return Xen's pmu mode; with the VPMU disabled, Xen refuses to report it."""
        try:
            return self._pmu_mode.read_text().strip()
        except OSError:
            return "off"

    def _set_mode_all(self) -> str:
        """Let dom0 sample the whole machine; return why it cannot, "" if it can."""
        if self._mode_before == "all":
            return ""
        if self._mode_before == "off":
            return "Xen's VPMU is off (boot Xen with vpmu=on): guests and Xen are not sampled"
        self._note = restore.note("pmu_mode", {"mode": self._mode_before})
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
