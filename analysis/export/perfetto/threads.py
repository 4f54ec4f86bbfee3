"""Domains as processes and vCPUs as threads, so that Perfetto's queries about scheduling work unchanged."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from xtrace.analysis.export.perfetto import wire
from xtrace.analysis.export.source import vcpu_name
from xtrace.analysis.state_machine.keys import domain_of, vcpu_of
from xtrace.probes.reader.batches import I64
from xtrace.probes.words import printable
from xtrace.probes.xen_abi import DEFAULT_DOMAIN, IDLE_DOMAIN

#: A domain is process (domain + 1) * STRIDE, its vCPU n thread process + 1 + n.  Xen allows 8192 vCPUs.
STRIDE = 10_000
#: Stands for what runs on a pCPU where no record shows it.
UNKNOWN = DEFAULT_DOMAIN << 16
_UNKNOWN_NAME = "other or not known"
_NAME_BYTES = 200
_PROCESS_TREE, _PROCESSES, _THREADS = 2, 1, 2


def tid_of(keys: I64) -> I64:
    """Return the thread of each vCPU; 0, as Linux's idle threads, for idle vCPUs."""
    domains = domain_of(keys)
    tids = (domains + 1) * STRIDE + 1 + np.minimum(vcpu_of(keys), STRIDE - 2)
    tids = np.where(domains == DEFAULT_DOMAIN, (DEFAULT_DOMAIN + 1) * STRIDE + 1, tids)
    return np.where(domains == IDLE_DOMAIN, 0, tids)


def pid_of(domain: int) -> int:
    """Return the process of a domain."""
    return (domain + 1) * STRIDE


def thread_name(key: int) -> str:
    """Return the name of a vCPU's thread."""
    return _UNKNOWN_NAME if domain_of(key) == DEFAULT_DOMAIN else vcpu_name(key)


class ProcessTree:
    """The packets that name threads and processes, each once.

    Args:
        names: of domains by id; they may contain anything.
    """

    def __init__(self, names: Mapping[int, str]) -> None:
        self._names = names
        self._known: set[int] = set()
        self._domains: set[int] = set()

    def new(self, keys: I64) -> bytes:
        """Return the content of a packet that names those of some vCPUs that no packet has named yet."""
        parts: list[bytes] = []
        for key in np.unique(keys).tolist():
            domain = domain_of(key)
            if key in self._known or domain == IDLE_DOMAIN:
                continue
            self._known.add(key)
            if domain not in self._domains:
                self._domains.add(domain)
                parts.append(
                    wire.message(
                        _PROCESSES,
                        wire.number(1, pid_of(domain)),
                        wire.number(2, 0),
                        wire.text(3, self.name(domain)),
                    )
                )
            tid = int(tid_of(np.array([key]))[0])
            parts.append(
                wire.message(
                    _THREADS,
                    wire.number(1, tid),
                    wire.text(2, thread_name(key)),
                    wire.number(3, pid_of(domain)),
                )
            )
        return wire.message(_PROCESS_TREE, *parts) if parts else b""

    def name(self, domain: int) -> str:
        """Return the name of a domain, with its id."""
        if domain == DEFAULT_DOMAIN:
            return _UNKNOWN_NAME
        name = printable(self._names.get(domain, ""))[:_NAME_BYTES]
        return f"d{domain} {name}" if name else f"d{domain}"
