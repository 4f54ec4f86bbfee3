"""Choose the functions and tracepoints of the running kernel that the programs are attached to.

Names differ between kernels, so each role has candidates.  On a kernel without kprobes only
tracepoints are used, and what that loses is reported.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from xtrace.probes.bpf.loader import Probe
from xtrace.probes.host.privileges import FOR_TRACEFS

_KPROBES = Path("/sys/bus/event_source/devices/kprobe/type")
_SYMBOLS = Path("/proc/kallsyms")
_GUEST_TYPE = Path("/sys/hypervisor/guest_type")
TRACEFS = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
MOUNT_TRACEFS = "mount -t tracefs tracefs /sys/kernel/tracing"


@dataclass(frozen=True, slots=True)
class Role:
    """A point in the kernel to probe.

    Attributes:
        name: of the program: ``NAME_enter`` and ``NAME_return`` if it is timed, otherwise NAME.
        candidates: functions, the best first; the arguments that are read are the same in all.
        timed: it has a duration.
        loses: what is not recorded without it.
        unless_pv: candidates in a kernel that is not a PV guest's, if they differ.
    """

    name: str
    candidates: tuple[str, ...]
    timed: bool
    loses: str
    unless_pv: tuple[str, ...] = ()


#: drivers/xen/events/events_base.c, arch/x86/entry/common.c, drivers/xen/evtchn.c, drivers/xen/privcmd.c
#: of Linux 5.10 to 6.12.  xen_pv_evtchn_do_upcall cannot be probed.  __xen_pv_evtchn_do_upcall can, but
#: compilers inline it into its caller for upcalls from user mode, where a probe misses it, so it is the
#: last choice.
ROLES = (
    Role(
        "upcall",
        ("xen_evtchn_do_upcall", "__xen_evtchn_do_upcall", "__xen_pv_evtchn_do_upcall"),
        True,
        "upcall durations",
        # Before Linux 6.7 the two paths share only a static function.
        ("xen_hvm_evtchn_do_upcall", "__xen_evtchn_do_upcall", "xen_evtchn_do_upcall"),
    ),
    Role("port", ("handle_irq_for_port",), True, "times by port, and from upcall to handler"),
    Role("late_eoi", ("xen_irq_lateeoi",), False, "late EOIs"),
    Role("send", ("notify_remote_via_irq",), False, "events that drivers send"),
    Role("send_ipi", ("xen_send_IPI_one",), False, "IPIs"),
    Role("device_event", ("evtchn_interrupt",), False, "wake-ups through /dev/xen/evtchn"),
    Role("privcmd", ("privcmd_ioctl",), True, "hypercalls through /dev/xen/privcmd"),
)

RAW_TRACEPOINTS = (
    Probe("irq_exit", "raw", "irq_handler_exit"),
    Probe("irq_enter", "raw", "irq_handler_entry"),
    Probe("softirq_exit", "raw", "softirq_exit"),
    Probe("softirq_enter", "raw", "softirq_entry"),
)
SCHED_TRACEPOINTS = (
    Probe("switched", "tracepoint", "sched:sched_switch"),
    Probe("wakeup", "tracepoint", "sched:sched_wakeup"),
    Probe("waking", "tracepoint", "sched:sched_waking"),
)
#: Local APIC interrupts, timed only where upcalls cannot be.
VECTORS = ("local_timer", "reschedule", "call_function", "call_function_single", "irq_work")


@dataclass(slots=True)
class Choice:
    """What was chosen for a host.

    Attributes:
        has_kprobes: the kernel can probe functions.
        functions: for each role, the candidates that the kernel seems to have, in order.
        has_sched: the formats of the scheduler's tracepoints can be read.
        missing: what will not be recorded and why, one line each.
        remedies: commands that fix some of it.
    """

    has_kprobes: bool = False
    functions: dict[str, list[str]] = field(default_factory=dict)
    has_sched: bool = False
    missing: list[str] = field(default_factory=list)
    remedies: list[str] = field(default_factory=list)


def choose() -> Choice:
    """Return the choice for the running kernel, without attaching anything."""
    choice = Choice(has_kprobes=_KPROBES.exists(), has_sched=_has_format("sched/sched_switch"))
    if not choice.has_kprobes:
        lost = ", ".join(role.loses for role in ROLES)
        choice.missing.append(f"this kernel has no kprobes, only tracepoints; not recorded: {lost}")
    else:
        wanted = {role.name: _candidates(role) for role in ROLES}
        known = _known(name for names in wanted.values() for name in names)
        for role in ROLES:
            choice.functions[role.name] = [name for name in wanted[role.name] if name in known]
            if not choice.functions[role.name]:
                choice.missing.append(
                    f"this kernel has no {' or '.join(wanted[role.name])}; not recorded: {role.loses}"
                )
    if not choice.has_sched:
        reason, remedy = why_no_tracefs()
        choice.missing.append(f"{reason}; not recorded: sched_wakeup to sched_switch of handlers' threads")
        choice.remedies.append(remedy)
    return choice


def why_no_tracefs() -> tuple[str, str]:
    """Return why the tracepoints' formats cannot be read, and what helps."""
    if TRACEFS[0].exists() and not _may(TRACEFS[0], os.R_OK | os.X_OK):
        return f"tracefs needs {FOR_TRACEFS} without root", "run it with sudo"
    return "tracefs is not mounted", MOUNT_TRACEFS


def tracepoints(group: str) -> bool:
    """Return whether the tracepoints of a group can be read in tracefs."""
    return any(_may(root / "events" / group, os.R_OK | os.X_OK) for root in TRACEFS)


def _may(path: Path, mode: int) -> bool:
    """Return what the kernel would let this process do, with its capabilities."""
    return os.access(path, mode, effective_ids=True)


def probes_of(role: Role, function: str) -> tuple[Probe, ...]:
    """Return the probes of ``function`` in a role, the return first so that no entry is left without one."""
    if not role.timed:
        return (Probe(role.name, "kprobe", function),)
    return (
        Probe(f"{role.name}_return", "kretprobe", function),
        Probe(f"{role.name}_enter", "kprobe", function),
    )


def vector_probes() -> tuple[Probe, ...]:
    """Return the probes of the local APIC's interrupts."""
    return tuple(
        Probe(f"vector_{end}", "raw", f"{name}_{'exit' if end == 'exit' else 'entry'}")
        for name in VECTORS
        for end in ("exit", "enter")
    )


def _candidates(role: Role) -> tuple[str, ...]:
    try:
        is_pv = _GUEST_TYPE.read_text().strip() == "PV"
    except OSError:
        is_pv = True
    return role.candidates if is_pv else role.unless_pv or role.candidates


def _known(names: Iterable[str]) -> set[str]:
    wanted = set(names)
    with _SYMBOLS.open() as file:
        return {name for line in file if (name := line.split(None, 3)[2]) in wanted}


def _has_format(event: str) -> bool:
    return any(_may(root / "events" / event / "format", os.R_OK) for root in TRACEFS)
