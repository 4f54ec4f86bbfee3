"""Which functions and tracepoints of the running kernel the programs hang on.

Names differ between kernels, so each role has candidates.  A kernel without kprobes is
watched by tracepoints alone, and what that loses is said.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from xtrace.probes.bpf.loader import Probe

_KPROBES = Path("/sys/bus/event_source/devices/kprobe/type")
_SYMBOLS = Path("/proc/kallsyms")
_GUEST_TYPE = Path("/sys/hypervisor/guest_type")
_TRACEFS = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
MOUNT_TRACEFS = "mount -t tracefs tracefs /sys/kernel/tracing"


@dataclass(frozen=True, slots=True)
class Role:
    """A point in the kernel that is watched.

    Attributes:
        name: of the program: ``NAME_enter`` and ``NAME_return`` where it has a duration, else NAME.
        candidates: functions, the best first; all have the same arguments as far as they are read.
        timed: it has a duration.
        loses: what is not known without it.
        unless_pv: candidates in a kernel that is no PV guest's, where they are others.
    """

    name: str
    candidates: tuple[str, ...]
    timed: bool
    loses: str
    unless_pv: tuple[str, ...] = ()


#: drivers/xen/events/events_base.c, arch/x86/entry/common.c, drivers/xen/evtchn.c, drivers/xen/privcmd.c
#: of Linux 5.10 to 6.12.  xen_pv_evtchn_do_upcall may not be probed.  __xen_pv_evtchn_do_upcall may, yet
#: compilers put its code into its caller for upcalls from user mode, which a probe then does not see: it
#: is the last choice.
ROLES = (
    Role(
        "upcall",
        ("xen_evtchn_do_upcall", "__xen_evtchn_do_upcall", "__xen_pv_evtchn_do_upcall"),
        True,
        "upcall durations",
        # Before Linux 6.7 the two ways meet only in what is static.
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
#: Only where there are no upcalls to time: interrupts of the local APIC.
VECTORS = ("local_timer", "reschedule", "call_function", "call_function_single", "irq_work")


@dataclass(slots=True)
class Choice:
    """What was chosen for a host.

    Attributes:
        has_kprobes: the kernel can probe functions.
        functions: function of each role that the kernel seems to have, the candidates in order.
        has_sched: the formats of the scheduler's tracepoints can be read.
        missing: what will not be known and why, a line each.
        remedies: commands that mend some of it.
    """

    has_kprobes: bool = False
    functions: dict[str, list[str]] = field(default_factory=dict)
    has_sched: bool = False
    missing: list[str] = field(default_factory=list)
    remedies: list[str] = field(default_factory=list)


def choose() -> Choice:
    """Look at the running kernel; nothing is attached."""
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
        choice.missing.append(
            "tracefs is not mounted; not recorded: sched_wakeup to sched_switch of handlers' threads"
        )
        choice.remedies.append(MOUNT_TRACEFS)
    return choice


def probes_of(role: Role, function: str) -> tuple[Probe, ...]:
    """Return what watches ``function`` in a role; the end first, so that no beginning lacks it."""
    if not role.timed:
        return (Probe(role.name, "kprobe", function),)
    return (
        Probe(f"{role.name}_return", "kretprobe", function),
        Probe(f"{role.name}_enter", "kprobe", function),
    )


def vector_probes() -> tuple[Probe, ...]:
    """Return what watches the local APIC's interrupts."""
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
    return any((root / "events" / event / "format").is_file() for root in _TRACEFS)
