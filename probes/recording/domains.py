"""The domains of a recording: those at its start, those that come and go, those at its end."""

from __future__ import annotations

import contextlib
from typing import Any

from xtrace.probes.errors import TraceError
from xtrace.probes.host import xen_tools
from xtrace.probes.host.xenstore import Xenstore, open_xenstore


class Domains:
    """Keeps track of the domains that exist during a recording.

    Attributes:
        rows: by id, each with "seen": {"from", "to"} in CLOCK_MONOTONIC ns; None is the recording's start or
            end.
        missing: what could not be queried.
    """

    def __init__(self) -> None:
        self.rows: dict[int, dict[str, Any]] = {}
        self.missing: list[str] = []
        self._stack = contextlib.ExitStack()
        self._store: Xenstore | None = None

    def start(self) -> None:
        """Read the domains that exist at the start, and open xenstore."""
        self._take(xen_tools.domain_facts(), "start")
        with self._tolerant():
            self._store = self._stack.enter_context(open_xenstore())

    def tick(self, monotonic_ns: int) -> list[dict[str, Any]]:
        """Return the domains that came or went since the last call, as lines of progress.jsonl."""
        if self._store is None:
            return []
        lines = []
        with self._tolerant():
            present = set(self._store.domains())
            for domain in sorted(present - set(self.rows)):
                row = xen_tools.store_facts(self._store, domain)
                self.rows[domain] = {**row, "seen": {"from": monotonic_ns, "to": None}}
                lines.append({"kind": "domain", "monotonic_ns": monotonic_ns, "came": domain, **row})
            for domain, row in self.rows.items():
                if domain in present and row.get("name") is None:
                    # It appeared in xenstore before its name did.
                    row.update(xen_tools.store_facts(self._store, domain))
                if domain not in present and row["seen"]["to"] is None:
                    row["seen"]["to"] = monotonic_ns
                    lines.append({"kind": "domain", "monotonic_ns": monotonic_ns, "went": domain})
        return lines

    def stop(self) -> None:
        """Read the domains that exist at the end; may be called twice."""
        if self._store is not None:
            self._take(xen_tools.domain_facts(), "end")
        self.close()

    def close(self) -> None:
        """Close xenstore."""
        self._store = None
        self._stack.close()

    def _take(self, facts: dict[str, Any], when: str) -> None:
        self.missing += [f"{when}: {line}" for line in facts["missing"]]
        for found in facts["domains"]:
            row = self.rows.setdefault(found["id"], {"seen": {"from": None, "to": None}})
            ports = found.pop("event_channels", [])
            # Keep what was known of an ending domain even if it is unknown now.
            row.update({key: value for key, value in found.items() if value is not None})
            row["event_channels"] = _merged(row.get("event_channels", []), ports, when)

    @contextlib.contextmanager
    def _tolerant(self) -> Any:
        try:
            yield
        except (OSError, TraceError) as error:
            self.missing.append(str(error))
            self.close()


def _merged(known: list[dict[str, Any]], found: list[dict[str, Any]], when: str) -> list[dict[str, Any]]:
    """Return the event channels of both lists, each with "seen": "start", "end" or "both"."""
    rows = {
        tuple(sorted((key, value) for key, value in port.items() if key != "seen")): port for port in known
    }
    for port in found:
        key = tuple(sorted(port.items()))
        if key in rows:
            rows[key]["seen"] = "both"
        else:
            rows[key] = {**port, "seen": when}
    return sorted(rows.values(), key=lambda port: int(port["port"]))
