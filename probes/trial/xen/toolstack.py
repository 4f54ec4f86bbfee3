"""What the toolstack does with a domain, from xenstore and from dom0's processes.

Xen itself has no lock that says so.  libxl saves and migrates a domain by a process of its own, and asks a
guest to suspend, reboot or power off by a key of xenstore; xl gives a domain that migrates another name.

Source: Xen tools/libs/light/libxl_save_callout.c (the helper's arguments), tools/xl/xl_migrate.c (the names);
xen/include/public/io/xenbus.h and docs/misc/xenstore-paths.pandoc (control/shutdown, backend).
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from xtrace.probes.host.texts import bounded
from xtrace.probes.host.xenstore import Xenstore
from xtrace.probes.xen_abi import DOM0

_HELPER = b"libxl-save-helper"
#: Its arguments: the program, what to do, two descriptors, the domain.
_HELPER_DOMAIN_ARGUMENT = 4
_MIGRATING = ("--incoming", "--migratedaway")
#: What control/shutdown may hold; the guest can write it, too.
_REQUESTS = ("poweroff", "reboot", "suspend", "halt", "crash")
_MOST_ARGUMENT_BYTES = 4096


def operation_under_way(store: Xenstore, domain: int) -> str:
    """Return what the toolstack does with a domain now, "" for nothing."""
    name = name_of(store, domain)
    if name.endswith(_MIGRATING):
        return "it migrates"
    asked = store.read(f"/local/domain/{domain}/control/shutdown")
    if asked:
        return f"it was asked to {asked if asked in _REQUESTS else 'shut down'}"
    if helps_save(domain):
        return "it is saved, restored or migrated"
    return ""


def serves_dom0(store: Xenstore, domain: int) -> bool:
    """Return whether dom0 uses a device of a domain: then dom0 may wait for it while it is paused."""
    path = f"/local/domain/{domain}/backend"
    return any(str(DOM0) in store.names(f"{path}/{kind}") for kind in store.names(path))


def name_of(store: Xenstore, domain: int) -> str:
    """Return a domain's name, "" if it has none."""
    return bounded(store.read(f"/local/domain/{domain}/name") or "")


def domain_of(store: Xenstore, text: str) -> int | None:
    """Return the domain with an id or a name, None if there is none."""
    domains = store.domains()
    if text.isascii() and text.isdecimal():
        return int(text) if int(text) in domains else None
    return next((domain for domain in domains if name_of(store, domain) == text), None)


def helps_save(domain: int) -> bool:
    """Return whether a process saves, restores or migrates a domain."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError), open(process / "cmdline", "rb") as file:
            words = file.read(_MOST_ARGUMENT_BYTES).split(b"\0")
            if words[0].endswith(_HELPER) and words[_HELPER_DOMAIN_ARGUMENT:][:1] == [b"%d" % domain]:
                return True
    return False
