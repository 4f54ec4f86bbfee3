"""Read /proc/interrupts: counts per CPU, chips and names of interrupts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_PATH = Path("/proc/interrupts")


@dataclass(frozen=True, slots=True)
class Interrupt:
    """A line of /proc/interrupts.

    Attributes:
        irq: number.
        counts: on each online CPU.
        chip: such as xen-dyn-lateeoi, xen-percpu or xen-pirq, with the flow appended: -event, -ipi, -virq.
        name: of the actions, as the drivers named them.
    """

    irq: int
    counts: tuple[int, ...]
    chip: str
    name: str

    @property
    def is_event(self) -> bool:
        """Return whether it comes through an event channel."""
        return self.chip.startswith("xen-")

    @property
    def is_late_eoi(self) -> bool:
        """Return whether its handler ends it later, with xen_irq_lateeoi."""
        return "lateeoi" in self.chip


def read() -> dict[int, Interrupt]:
    """Return the numbered interrupts of this host."""
    return parse(_PATH.read_text())


def parse(text: str) -> dict[int, Interrupt]:
    """Return the numbered interrupts in the text of /proc/interrupts."""
    lines = text.splitlines()
    cpus = len(lines[0].split()) if lines else 0
    found = {}
    for line in lines[1:]:
        label, _, rest = line.partition(":")
        if not label.strip().isdecimal():
            continue
        words = rest.split()
        counts = tuple(int(word) for word in words[:cpus])
        chip = words[cpus] if len(words) > cpus else ""
        # "xen-dyn    -event     xenbus", "IO-APIC   1-edge      i8042"
        flow = words[cpus + 1] if len(words) > cpus + 1 else ""
        name = " ".join(words[cpus + 2 :])
        irq = int(label)
        found[irq] = Interrupt(irq, counts, f"{chip}{flow}" if flow.startswith("-") else chip, name)
    return found
