"""Examine what this host offers a recorder and what it lacks, without tracing or changing anything."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from xtrace.probes.bpf import functions, loader
from xtrace.probes.errors import TraceError
from xtrace.probes.host import dom0, privileges, raw_tsc, run_folder, trace_buffers, xen_tools
from xtrace.probes.recording import clocks, restore
from xtrace.probes.recording.backends import registry
from xtrace.probes.recording.lock import LOCK

State = Literal["ok", "limited", "missing"]

_SYS_HYPERVISOR = Path("/sys/hypervisor")
_BLACKLIST = Path("/sys/kernel/debug/kprobes/blacklist")
_BTF = Path("/sys/kernel/btf/vmlinux")
_PARANOID = Path("/proc/sys/kernel/perf_event_paranoid")
#: Xen's tools, and what is lost without each.
_TOOLS = (
    ("xentrace", "no trace from Xen itself"),
    ("xl", "no facts about the host, no domain names"),
    ("lsevtchn", "no event channels of the domains"),
    ("xenctx", "no guest instruction pointers where there is no PMU"),
    ("xenalyze", "nothing is lost; it is only for comparison"),
)
_XEN_PACKAGES = "apt-get install xen-utils-common xen-utils-{version}"
_BLACKLISTED = "the kernel refuses kprobes on it"
#: A busy host writes 2 to 4 MB of trace per second.
_LEAST_DISK_BYTES = 1 << 30
_STABLE_FLAGS = ("constant_tsc", "nonstop_tsc")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked for.

    Attributes:
        part: of the examination: host, xen, bpf, perf, clock, disk, left over, record by.
        name: of the thing.
        state: ok, limited (it works in part) or missing.
        text: what was found, or what is lost without it.
        how: where it was looked up.
        remedy: the command that fixes it; empty if nothing does or nothing needs fixing.
    """

    part: str
    name: str
    state: State
    text: str
    how: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Examination:
    """What was found.

    Attributes:
        findings: all of them.
        usable: the backends of `xtrace record` that work here.
        default: those that it uses here without --backend; none where it refuses.
    """

    findings: tuple[Finding, ...]
    usable: tuple[str, ...]
    default: tuple[str, ...] = ()


def examine() -> Examination:
    """Examine the host and return all findings."""
    candidates = registry.candidates(registry.NAMES)
    found = [*_host(), *_xen(), *_bpf(), *_perf(), *_clock(), *_disk(), *_left_over(), *_backends(candidates)]
    usable = tuple(each.backend.name for each in candidates if each.availability.usable)
    default = () if dom0.why_no_dom0() else tuple(name for name in usable if name in registry.DEFAULT)
    return Examination(tuple(found), usable, default)


def _state(is_there: bool, otherwise: State = "missing") -> State:
    return "ok" if is_there else otherwise


def _first_line(path: Path) -> str | None:
    """Return the first line of a file in /proc or /sys, None if it cannot be read."""
    with contextlib.suppress(OSError):
        return path.read_bytes()[:4096].decode(errors="backslashreplace").partition("\n")[0].strip()
    return None


# --- host and Xen ------------------------------------------------------------------------------


def _host() -> Iterator[Finding]:
    yield from _privileges()
    yield Finding("host", "kernel", "ok", f"{platform.system()} {platform.release()}", "uname")
    python = f"{platform.python_version()}, {sys.executable}"
    yield Finding("host", "python", "ok", python, "sys.executable")
    if dom0.is_emulated():
        text = "QEMU's software emulation: times show order and proportions, not hardware durations"
        yield Finding("host", "processors", "limited", text, "CPUID 0x40000000")


def _privileges() -> Iterator[Finding]:
    """Yield the user and what it lacks: recording by bpf and perf needs no more than these capabilities."""
    user = os.geteuid()
    remedy = "" if user == 0 else "sudo xtrace doctor"
    yield Finding("host", "root", _state(user == 0, "limited"), f"effective user {user}", "geteuid", remedy)
    uses: tuple[tuple[str, tuple[str, ...], State, str], ...] = (
        ("programs", privileges.FOR_BPF, "missing", "neither bpf nor perf"),
        ("tracefs", (privileges.FOR_TRACEFS,), "limited", "no tracepoints of the scheduler"),
        ("addresses", (privileges.FOR_ADDRESSES,), "limited", "perhaps no names of kernel functions"),
    )
    for name, wanted, otherwise, lost in uses:
        if lacking := privileges.lacking(wanted):
            text = f"without {' and '.join(lacking)}: {lost}"
            yield Finding("host", name, otherwise, text, "CapEff in /proc/self/status", remedy)
        elif user:
            text = f"{' and '.join(wanted)} held"
            yield Finding("host", name, "ok", text, "CapEff in /proc/self/status")


def _xen() -> Iterator[Finding]:
    reason = dom0.why_no_dom0()
    how = "/sys/hypervisor, /proc/xen/capabilities"
    if reason:
        text = f"{reason}: only Linux itself can be recorded, by bpf and perf"
        yield Finding("xen", "dom0", "missing", text, how)
        return
    yield Finding("xen", "dom0", "ok", "control domain of this Xen", how)
    version = _xen_version()
    text = version or "unknown"
    how = "/sys/hypervisor/version"
    with contextlib.suppress(TraceError):
        info = xen_tools.info_of(xen_tools.run("xl", "info"))
        version = info.get("xen_version", version)
        text = f"{version}, scheduler {info.get('xen_scheduler', '?')}"
        text += f", {info.get('nr_cpus', '?')} pCPUs"
        how = "xl info"
    yield Finding("xen", "version", _state(bool(version), "limited"), text, how)
    package = _XEN_PACKAGES.format(version=".".join(version.split(".")[:2]) or "4.17")
    for name, lost in _TOOLS:
        path = xen_tools.tool(name)
        state = _state(path is not None, "limited" if name == "xenalyze" else "missing")
        if path:
            yield Finding("xen", name, state, "installed", path)
        else:
            yield Finding("xen", name, state, f"without it: {lost}", "/usr/lib/xen-*/bin, PATH", package)
    yield _trace_buffer()
    yield _privcmd()


def _xen_version() -> str:
    parts = [_first_line(_SYS_HYPERVISOR / "version" / name) for name in ("major", "minor", "extra")]
    return f"{parts[0]}.{parts[1]}{parts[2] or ''}" if parts[0] and parts[1] else ""


def _trace_buffer() -> Finding:
    how = "xc_tbuf_get_size"
    if others := dom0.running("xentrace"):
        text = f"xentrace is already running, process {others[0]}; each of two would get only some records"
        return Finding("xen", "trace buffer", "limited", text, "/proc/*/comm", f"kill -INT {others[0]}")
    try:
        is_sized = trace_buffers.is_sized()
    except TraceError as error:
        remedy = "build Xen with CONFIG_TRACEBUFFER=y" if "no trace buffer" in str(error) else ""
        return Finding("xen", "trace buffer", "missing", str(error), how, remedy)
    if not is_sized:
        return Finding("xen", "trace buffer", "ok", "present, no size yet: the first recorder sets it", how)
    text = "present; its size is fixed until the next boot, --ring-pages has no effect"
    return Finding("xen", "trace buffer", "ok", text, how)


def _privcmd() -> Finding:
    path = clocks.PRIVCMD
    if not path.exists():
        text = "without it: no markers to align dom0's clock with Xen's"
        return Finding("xen", "privcmd", "missing", text, str(path), "modprobe xen-privcmd")
    if not os.access(path, os.R_OK | os.W_OK, effective_ids=True):
        return Finding("xen", "privcmd", "limited", "not accessible", str(path), "sudo xtrace doctor")
    return Finding("xen", "privcmd", "ok", "readable and writable", str(path))


# --- bpf ---------------------------------------------------------------------------------------


def _bpf() -> Iterator[Finding]:
    how = f"import bcc by {sys.executable}"
    try:
        yield Finding("bpf", "bcc", "ok", loader.bcc_version(), how)
    except TraceError as error:
        text = str(error).partition(";")[0]
        yield Finding("bpf", "bcc", "missing", text, how, loader.bcc_remedy())
    headers = Path(f"/lib/modules/{platform.release()}/build")
    text = "present, but not needed" if headers.exists() else "absent, and not needed"
    yield Finding("bpf", "headers", "ok", f"{text}: the programs read no kernel struct", str(headers))
    text = "present, but not needed" if _BTF.exists() else "absent, and not needed"
    yield Finding("bpf", "BTF", "ok", text, str(_BTF))
    choice = functions.choose()
    how = "/sys/bus/event_source/devices/kprobe"
    if choice.has_kprobes:
        yield Finding("bpf", "kprobes", "ok", "functions can be probed", how)
    else:
        text = f"only tracepoints; not recorded: {', '.join(role.loses for role in functions.ROLES)}"
        yield Finding("bpf", "kprobes", "limited", text, how, "boot a kernel with CONFIG_KPROBES=y")
    yield from _functions(choice)
    yield from _tracepoints(choice)


def _functions(choice: functions.Choice) -> Iterator[Finding]:
    if not choice.has_kprobes:
        return
    refused = _blacklisted()
    for role in functions.ROLES:
        there = choice.functions.get(role.name, [])
        usable = [name for name in there if name not in refused]
        if usable:
            yield Finding("bpf", role.name, "ok", usable[0], "/proc/kallsyms")
        else:
            why = (
                _BLACKLISTED
                if there
                else f"this kernel has none of {', '.join(role.candidates)} (not a Xen dom0?)"
            )
            text = f"{why}; not recorded: {role.loses}"
            yield Finding("bpf", role.name, "missing", text, "/proc/kallsyms, kprobes blacklist")


def _blacklisted() -> set[str]:
    with contextlib.suppress(OSError), _BLACKLIST.open() as file:
        return {line.split("\t")[-1].strip() for line in file}
    return set()


def _tracepoints(choice: functions.Choice) -> Iterator[Finding]:
    wanted = ("irq", "sched", "xen")
    there = [name for name in wanted if functions.tracepoints(name)]
    how = str(functions.TRACEFS[0])
    if not there:
        reason, remedy = functions.why_no_tracefs()
        text = f"{reason}; not recorded: wake-up to switch of handlers' threads"
        yield Finding("bpf", "tracepoints", "limited", text, how, remedy)
        return
    lacking = [name for name in ("irq", "sched") if name not in there]
    text = f"{', '.join(there)} of {', '.join(wanted)}"
    yield Finding("bpf", "tracepoints", _state(choice.has_sched and not lacking, "limited"), text, how)


# --- perf, clocks, disk ------------------------------------------------------------------------


def _perf() -> Iterator[Finding]:
    paranoid = _first_line(_PARANOID)
    if paranoid is None:
        yield Finding("perf", "events", "missing", "this kernel has no perf events", str(_PARANOID))
    else:
        is_open = "CAP_PERFMON" in privileges.held() or int(paranoid) < 0
        text = f"software clock of each CPU; perf_event_paranoid {paranoid}"
        yield Finding("perf", "events", _state(is_open, "limited"), text, str(_PARANOID))
    # With Xen's VPMU off, the file exists but cannot be read.
    mode = (_first_line(dom0.PMU_MODE) or "off") if dom0.PMU_MODE.exists() else None
    lost = "only dom0 is sampled, not guests or Xen"
    if mode is None:
        yield Finding("perf", "VPMU", "limited", f"Xen provides no PMU: {lost}", str(dom0.PMU_MODE))
    elif mode == "off":
        text = f"Xen's VPMU is off: {lost}"
        yield Finding("perf", "VPMU", "limited", text, str(dom0.PMU_MODE), "boot Xen with vpmu=on")
    else:
        yield Finding("perf", "VPMU", "ok", f"pmu_mode {mode}", str(dom0.PMU_MODE))


def _clock() -> Iterator[Finding]:
    kernel = dom0.kernel_facts()
    flags = kernel["tsc_flags"]
    lacking = [flag for flag in _STABLE_FLAGS if flag not in flags]
    text = f"no {', '.join(lacking)}: pCPUs' TSCs may differ" if lacking else ", ".join(flags)
    yield Finding("clock", "TSC", _state(not lacking, "limited"), text, "flags in /proc/cpuinfo")
    source = kernel["clocksource"] or "unknown"
    yield Finding("clock", "source", "ok", f"{source} of {', '.join(kernel['clocksources'])}", "clocksource0")
    try:
        before, _, after = raw_tsc.RawTsc().pair()
        text = f"read together with CLOCK_MONOTONIC within {after - before:,} cycles"
        yield Finding("clock", "pairs", "ok", text, "rdtsc")
    except TraceError as error:
        yield Finding("clock", "pairs", "missing", str(error), "rdtsc")
    if not dom0.why_no_dom0():
        with contextlib.suppress(TraceError):
            lines = [line for line in xen_tools.run("xl", "dmesg").splitlines() if "TSC" in line]
            unstable = [line for line in lines if "unreliable" in line or "unstable" in line]
            for line in (unstable or lines)[-1:]:
                yield Finding(
                    "clock",
                    "Xen's TSC",
                    _state(not unstable, "limited"),
                    line.removeprefix("(XEN) ").strip(),
                    "xl dmesg",
                )


def _disk() -> Iterator[Finding]:
    disk = os.statvfs(".")
    free = disk.f_bavail * disk.f_frsize
    text = f"{free >> 20:,} MiB free here; a busy host writes 2 to 4 MB of trace per second"
    remedy = "" if free >= _LEAST_DISK_BYTES else "xtrace record -o /another/disk/NAME"
    yield Finding("disk", "free", _state(not remedy, "limited"), text, "statvfs of this folder", remedy)


def _left_over() -> Iterator[Finding]:
    dead: list[str] = []
    path = Path()
    try:
        path = run_folder.run_path()
        with run_folder.run_folder(create=False) as folder:
            if owner := _recorder(folder):
                text = f"a recorder is running, process {owner}; another one must wait"
                how = f"kill -INT {owner}"
                yield Finding("left over", "recorder", "limited", text, str(path / LOCK), how)
            notes = (_note_of_the_dead(folder, name) for name in folder.names(restore.NOTE_SUFFIX))
            dead = [text for text in notes if text]
    except FileNotFoundError:
        pass  # nothing has recorded since the boot
    except TraceError as error:
        yield Finding("left over", "changes", "limited", f"not known: {error}", "XDG_RUNTIME_DIR, /run")
        return
    for text in dead:
        remedy = "xtrace record -d 1: each start undoes what a killed recorder left"
        yield Finding("left over", "change", "limited", text, str(path), remedy)
    if not dead:
        yield Finding("left over", "changes", "ok", "none left by a killed recorder", str(path))


def _recorder(folder: run_folder.RunFolder) -> str:
    """Return the PID of the process that holds the recorder lock, "" if none does."""
    if LOCK not in folder.names(LOCK):
        return ""
    lock = folder.opened(LOCK)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"
    finally:
        os.close(lock)
    return ""


def _note_of_the_dead(folder: run_folder.RunFolder, name: str) -> str:
    try:
        left = restore.parsed(folder.read(name))
    except (OSError, TraceError) as error:
        return f"{name}: {error}"
    return "" if left.writer_lives else f"{left.kind} by process {left.pid}, which is gone"


def _backends(candidates: list[registry.Candidate]) -> Iterator[Finding]:
    for each in candidates:
        found = each.availability
        state: State = "missing" if not found.usable else "limited" if found.missing else "ok"
        text = "; ".join((found.reason, *found.missing))
        yield Finding("record by", each.backend.name, state, text, "its own probe", found.remedy)
