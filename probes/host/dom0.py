"""This machine: whether it is a dom0, its kernel, its processes, and whether software emulates it."""

from __future__ import annotations

import contextlib
import os
import re
import struct
from pathlib import Path
from typing import Any

from xtrace.probes.errors import TraceError
from xtrace.probes.host.raw_tsc import RawTsc
from xtrace.probes.host.texts import bounded, read

_HYPERVISOR = Path("/sys/hypervisor")
_CAPABILITIES = Path("/proc/xen/capabilities")
#: Which instructions Xen's VPMU lets dom0 sample; missing without a VPMU.
PMU_MODE = _HYPERVISOR / "pmu" / "pmu_mode"
#: XENFEAT_dom0 (Xen, public/features.h).
_FEATURE_DOM0 = 1 << 11


def why_no_dom0() -> str:
    """Return why this is not a dom0 that may control its Xen, or "" if it is."""
    kind = read(_HYPERVISOR / "type")
    if kind != "xen":
        return "this machine does not run under Xen"
    if "control_d" in read(_CAPABILITIES):
        return ""
    with contextlib.suppress(ValueError):
        if int(read(_HYPERVISOR / "properties" / "features"), 16) & _FEATURE_DOM0:
            return ""
    return "this is a Xen guest, not dom0"


def is_emulated() -> bool:
    """Return whether QEMU's software emulation (TCG) runs this machine, according to CPUID.

    False if CPUID cannot be read.
    """
    try:
        _eax, *words = RawTsc().cpuid(0x4000_0000)
    except TraceError:
        return False
    return struct.pack("<III", *words) == b"TCGTCGTCGTCG" or "QEMU TCG" in _cpu_model()


def kernel_facts() -> dict[str, Any]:
    """Return facts about this kernel: version, command line, CPUs, clock source, TSC flags."""
    clock = Path("/sys/devices/system/clocksource/clocksource0")
    flags = re.search(r"^flags\s*:(.*)", read(Path("/proc/cpuinfo")), re.MULTILINE)
    name = os.uname()
    return {
        "release": name.release,
        "version": name.version,
        "machine": name.machine,
        "command_line": bounded(read(Path("/proc/cmdline"))),
        "boot_id": read(Path("/proc/sys/kernel/random/boot_id")),
        "cpus": len(os.sched_getaffinity(0)),
        "clocksource": read(clock / "current_clocksource"),
        "clocksources": read(clock / "available_clocksource").split(),
        "tsc_flags": [flag for flag in (flags[1] if flags else "").split() if "tsc" in flag],
        "hypervisor": read(_HYPERVISOR / "type") or None,
        "machine_vendor": bounded(read(Path("/sys/class/dmi/id/sys_vendor"))) or None,
    }


def running(name: str) -> list[int]:
    """Return the ids of processes of that name, without zombies."""
    found = [path.parent for path in Path("/proc").glob("[0-9]*/comm") if read(path) == name]
    ended = re.compile(r"^State:\s*[ZX]", re.MULTILINE)
    return sorted(int(path.name) for path in found if not ended.search(read(path / "status")))


def _cpu_model() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return ""
