"""Identify the host: processor, microcode, hypervisors, kernel, and whether it is emulated in software."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from xtrace.probes.timing.native import Native, cpuid

_HYPERVISOR_BIT = 1 << 31
_FIRST_LEAF, _LEAF_STEP, _MOST_LEAVES = 0x4000_0000, 0x100, 16
_NAMES = {
    "TCGTCGTCGTCG": "QEMU TCG",
    "KVMKVMKVM": "KVM",
    "XenVMMXenVMM": "Xen",
    "Microsoft Hv": "Hyper-V",
    "VMwareVMware": "VMware",
    "bhyve bhyve ": "bhyve",
}
EMULATOR = "TCGTCGTCGTCG"
_EMULATED_MODELS = ("QEMU TCG", "QEMU Virtual CPU")
_CPUINFO_KEYS = {"model name": "cpu_model", "microcode": "microcode"}
_UNKNOWN = "unknown"


def signatures(function: Native) -> tuple[str, ...]:
    """Return the hypervisors' signatures in cpuid, in order of their leaves.

    Source: the leaves from 0x40000000 on; a hypervisor that also presents another's interface moves one
    by 0x100 (xen/arch/x86/cpuid.c).
    """
    if not cpuid(function, 1)[2] & _HYPERVISOR_BIT:
        return ()
    found = []
    for number in range(_MOST_LEAVES):
        _, ebx, ecx, edx = cpuid(function, _FIRST_LEAF + number * _LEAF_STEP)
        text = struct.pack("<3I", ebx, ecx, edx).rstrip(b"\0").decode("ascii", errors="replace")
        if len(text) >= 8 and text.isprintable() and text not in found:
            found.append(text)
        elif number:
            break
    return tuple(found)


def facts(seen: tuple[str, ...]) -> dict[str, str]:
    """Return cpu_model, microcode, hypervisor and kernel as text.

    Args:
        seen: the result of signatures().
    """
    found = dict.fromkeys(("cpu_model", "microcode", "hypervisor", "kernel"), _UNKNOWN)
    found["kernel"] = " ".join((os.uname().sysname, os.uname().release))
    numbers = {}
    for line in _text("/proc/cpuinfo").split("\n\n", 1)[0].splitlines():
        key, _, value = (part.strip() for part in line.partition(":"))
        if key in _CPUINFO_KEYS:
            found[_CPUINFO_KEYS[key]] = value
        numbers[key] = value
    family = [numbers.get(key, "?") for key in ("cpu family", "model", "stepping")]
    found["cpu_model"] += f" (family {family[0]}, model {family[1]}, stepping {family[2]})"
    names = [_NAMES.get(text, text) for text in seen]
    if _text("/sys/hypervisor/type").strip() == "xen":
        version = "".join(
            _text(f"/sys/hypervisor/version/{part}").strip() + end
            for part, end in (("major", "."), ("minor", ""), ("extra", ""))
        )
        role = "dom0" if "control_d" in _text("/proc/xen/capabilities") else "guest"
        kind = _text("/sys/hypervisor/guest_type").strip() or "PV"
        names = [f"Xen {version} {kind} {role}", *(name for name in names if name != "Xen")]
    found["hypervisor"] = ", ".join(names) or "none seen"
    return found


def free_bytes() -> int | None:
    """Return how much memory can be had without taking it from others; None if that is not known."""
    for line in _text("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def emulation(host: dict[str, str], seen: tuple[str, ...]) -> str:
    """Return what shows that the host's processors are emulated in software, "" if nothing does."""
    if EMULATOR in seen:
        return f"cpuid names the hypervisor {EMULATOR}"
    if any(name in host["cpu_model"] for name in _EMULATED_MODELS):
        return f"the processor is {host['cpu_model']}"
    return ""


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
