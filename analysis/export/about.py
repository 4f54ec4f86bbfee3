"""Which records are about some domains or vCPUs: those that name one, and those of pCPUs that run one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from xtrace.analysis.state_machine.keys import vcpu_key
from xtrace.probes.catalog import Field, Layout, VersionRange, find
from xtrace.probes.format import EVENT_MASK, EXTRA_MASK, EXTRA_SHIFT, LOST_RECORDS, TIMED_BIT
from xtrace.probes.reader.batches import I64, OVERFLOW_SHAPE, RecordBatch

#: Says of vCPU keys which are wanted.
Wanted = Callable[[I64], npt.NDArray[np.bool_]]
_DOMAIN, _NUMBERS = "dom", ("vcpu", "unit")
#: What may stand before the names of fields, of records that name several vCPUs.
_PREFIXES = ("", "prev_", "next_", "sender_")
_LOW_16 = 0xFFFF


class About:
    """Chooses records.

    A record is about a vCPU if its pCPU ran that when the record was written, or if it names it; it is about
    a domain if so of any of its vCPUs.  A record that says that others were lost is about all.

    Args:
        versions: of Xen, by which records are read.
        wanted: says which domains and vCPUs are.
        has_vcpus: only some vCPUs are; what names a domain alone is then not about one of them.
    """

    def __init__(self, versions: VersionRange, wanted: Wanted, *, has_vcpus: bool) -> None:
        self._versions = versions
        self._wanted = wanted
        self._has_vcpus = has_vcpus
        self._named: list[list[tuple[Field, Field | None]]] = []
        self._is_of_all: list[bool] = []

    def are(self, records: RecordBatch, who: I64) -> npt.NDArray[np.bool_]:
        """Return which records are, bool [n].

        Args:
            who: the vCPU that its pCPU ran at each record.
        """
        self._learn(records)
        chosen: npt.NDArray[np.bool_] = self._wanted(who) | np.array(self._is_of_all)[records.shape]
        for shape in np.unique(records.shape).tolist():
            for domain, number in self._named[shape]:
                rows = np.flatnonzero((records.shape == shape) & ~chosen)
                domains = _value(records, rows, domain)
                numbers = np.zeros_like(domains) if number is None else _value(records, rows, number)
                chosen[rows] = self._wanted(vcpu_key(domains, numbers))
        return chosen

    def _learn(self, records: RecordBatch) -> None:
        for header in records.shapes.header[len(self._named) : records.shapes.size].tolist():
            event, words = header & EVENT_MASK, header >> EXTRA_SHIFT & EXTRA_MASK
            match = find(event, words, bool(header & TIMED_BIT), self._versions)
            is_known = match is not None and len(self._named) != OVERFLOW_SHAPE
            layout = match.layout if match is not None and is_known else None
            pairs = [] if layout is None else _pairs(layout, words)
            self._named.append([pair for pair in pairs if pair[1] is not None or not self._has_vcpus])
            self._is_of_all.append(event == LOST_RECORDS)


def _pairs(layout: Layout, words: int) -> list[tuple[Field, Field | None]]:
    """Return the fields that name a domain, each with that of the vCPU if there is one."""
    fields = {field.name: field for field in layout.present(words)}
    found = []
    for prefix in _PREFIXES:
        domain = fields.get(prefix + _DOMAIN)
        if domain is not None:
            numbers = (fields.get(prefix + name) for name in _NUMBERS)
            found.append((domain, next((number for number in numbers if number is not None), None)))
    return found


def _value(records: RecordBatch, rows: npt.NDArray[np.intp], field: Field) -> I64:
    """Return the low 16 bits of a field, as a domain or a vCPU is numbered."""
    words = records.words[records.start[rows].astype(np.int64) + field.word].astype(np.int64)
    return words >> field.shift & (1 << min(field.bits, 32)) - 1 & _LOW_16
