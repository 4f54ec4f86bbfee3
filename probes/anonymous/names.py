"""Replace texts in JSON: every text is taken for a name unless it is known to be none.

The same text becomes the same token everywhere in a copy: ``domain1``, ``symbol12``.  Numbers stay, also as
texts.  The keys of objects are xtrace's own, and stay.
"""

from __future__ import annotations

import re
from typing import Any

from xtrace.probes.selection.event_masks import NAMES

#: Keys of texts that xtrace, Xen or Linux chose among few; capture.py replaces the addresses and symbols.
_KEPT = frozenset(
    """
    kind xtrace_version state tsc_hz_source xen_version timing mask pcpus machine clocksource clocksources
    tsc_flags hypervisor scheduler xen_scheduler xen_caps virt_caps type event event_mask bias what clock
    unit end_reason file how seen hard_affinity soft_affinity scenario emulator headers bcc functions probes
    notes symbols rip rsp flags
    """.split()  # noqa: SIM905 forty quoted words would be harder to read
)
#: dom0's own name, which every host has.
_EVERYWHERE = frozenset(("Domain-0", "all", ""))
_NUMBER = re.compile(r"-?\d{1,20}(\.\d{1,9})?")
#: Kinds of interrupts, and actions whose names are the kernel's own, with a number.
_INTERRUPT = re.compile(
    r"xen-(dyn|percpu|pirq)[a-z-]*|(IO-APIC|IR-|PCI-|DMAR|XT-PIC)[A-Za-z0-9-]*"
    r"|(timer|resched|callfunc|callfuncsingle|irqwork|debug|spinlock|xenbus|hvc_console|xenpmu|mce|pcpu)\d*"
)
#: Words of xentrace's command line other than files and classes of events: options, numbers.
_OPTION = re.compile(r"xentrace|-\w|--[a-z-]+|0x[0-9a-f]+|[0-9]+[KMG]?", re.ASCII)
#: What texts are, by key; others are "text".
_KINDS = {"name": "domain", "came": "domain", "kernel": "file", "ramdisk": "file", "irqs": "interrupt"}


def _is_option(word: str) -> bool:
    return all(one in NAMES or _OPTION.fullmatch(one) for one in re.split("[+,]", word))


class Names:
    """The tokens of a copy."""

    def __init__(self) -> None:
        self._tokens: dict[str, str] = {}
        self._counts: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._tokens)

    def token(self, text: str, kind: str) -> str:
        """Return what stands for a text."""
        if text not in self._tokens:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            self._tokens[text] = f"{kind}{self._counts[kind]}"
        return self._tokens[text]

    def without(self, value: Any, key: str = "") -> Any:
        """Return a JSON value without names; ``key`` is the nearest key that it is under."""
        if isinstance(value, dict):
            # Numbers of interrupts and domains are keys, too: what they stand for is said one level up.
            return {
                name: self.without(inside, key if _NUMBER.fullmatch(name) else name)
                for name, inside in value.items()
            }
        if isinstance(value, list):
            return [self.without(inside, key) for inside in value]
        if not isinstance(value, str) or self._is_harmless(value, key):
            return value
        if key == "command" and value.startswith("xentrace "):
            # What was traced is read from it.
            return " ".join(one if _is_option(one) else self.token(one, "file") for one in value.split())
        return self.token(value, _KINDS.get(key, "text"))

    def _is_harmless(self, text: str, key: str) -> bool:
        if key in _KEPT or text in _EVERYWHERE or _NUMBER.fullmatch(text):
            return True
        return key == "irqs" and _INTERRUPT.fullmatch(text) is not None
