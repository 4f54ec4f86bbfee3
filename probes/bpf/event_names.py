"""Names of the irqs, ports and other ids in a capture of bpf, as dom0's kernel and Xen's tools gave them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from xtrace.probes.bpf.abi import ID_OF, Kind, name_of_id
from xtrace.probes.capture.layout import BPF_TABLES, Capture
from xtrace.probes.errors import TraceError

_MOST_NAME = 60


@dataclass(frozen=True, slots=True)
class EventNames:
    """Names by id.

    Attributes:
        irqs: names by irq.
        ports: irqs by port.
        remote: by port, the domain at its other end.
    """

    irqs: dict[int, str] = field(default_factory=dict)
    ports: dict[int, int] = field(default_factory=dict)
    remote: Mapping[int, int] = field(default_factory=dict)

    def take(self, line: Mapping[str, Any]) -> None:
        """Take the names in a line of the tables; the last name of an id counts."""
        for irq, found in line.get("irqs", {}).items():
            self.irqs[int(irq)] = str(found[1])[:_MOST_NAME]
        for port, irq in line.get("ports", {}).items():
            self.ports[int(port)] = int(irq)

    def of(self, kind: int, ident: int) -> str:
        """Return the name of an id, empty if it has none; a port's ends with the domain at its other end."""
        try:
            known = Kind(kind)
        except ValueError:
            return ""
        if ID_OF.get(known) == "port":
            name = self.irqs.get(self.ports.get(ident, -1), "")
            return f"{name} d{self.remote[ident]}".strip() if ident in self.remote else name
        if ID_OF.get(known) == "irq":
            return self.irqs.get(ident, "")
        return name_of_id(known, ident)


def without_lines(capture: Capture) -> EventNames:
    """Return what meta.json alone gives: the domains at the other ends of ports."""
    return EventNames(remote=_remote_domains(capture))


def names_of_events(capture: Capture) -> EventNames:
    """Return the names in all lines of the tables.

    Raises:
        TraceError: the tables or meta.json are damaged.
    """
    with sound_tables(capture):
        names = without_lines(capture)
        for line in capture.lines(BPF_TABLES):
            names.take(line)
    return names


@contextmanager
def sound_tables(capture: Capture) -> Iterator[None]:
    """Raise TraceError where lines of the tables are not as bpf's recorder writes them."""
    try:
        yield
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        if isinstance(error, TraceError):
            raise
        raise TraceError(f"{capture.path}: damaged bpf tables: {error!s:.100}") from None


def _remote_domains(capture: Capture) -> dict[int, int]:
    """Return the domain at the other end of each of dom0's ports, from lsevtchn's output in meta.json."""
    domains = capture.meta.get("domains")
    rows = [row for row in domains if row.get("id") == 0] if isinstance(domains, list) else []
    ports = rows[0].get("event_channels") or () if rows else ()
    return {int(row["port"]): int(row["domain"]) for row in ports if "domain" in row and "port" in row}
