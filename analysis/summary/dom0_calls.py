"""Bound how often functions of dom0's kernel were called during the trace, from bpf's counts.

The recorder writes one line of counts per second, on CLOCK_MONOTONIC; the clock fit in meta.json maps that
to the trace's TSC.  The calls in lines that are entirely within the trace are the lower bound, the calls in
all lines that overlap it the upper bound.  Rates over all of bpf's time are not used: in a capture of the
lab, ten of eleven true counts were outside what they gave, because that time includes the recorder's start.

The lower bound is certain, because counting can only miss calls.  The upper bound is inferred: a probe is
skipped while another one runs on its CPU (so when an upcall interrupts it), and Linux counts only some of
the skipped ones.  Interrupt handlers, by raw tracepoints that are never skipped, minus ports handled, by a
probe, is how many upcalls were missed, and each function may miss that many calls.  privcmd_ioctl has no
upper bound: the recorder's own calls are not counted, and more threads than return probes may sleep in it.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xtrace.analysis.columns import Columns, of_rows
from xtrace.probes.bpf.abi import Kind
from xtrace.probes.capture.layout import Capture

#: The columns of Partial.dom0_calls and their types.
COLUMNS = {
    "kind": np.int64,
    "function": object,
    "captures": np.int64,
    "bounded": np.int64,
    "count": np.int64,
    "most_count": np.int64,
}
#: The kind that calls of a role's function are counted as (see probes.bpf.functions).
KIND_OF_ROLE = {
    "upcall": Kind.UPCALL,
    "port": Kind.PORT_HANDLER,
    "late_eoi": Kind.LATE_EOI,
    "send": Kind.SEND,
    "send_ipi": Kind.IPI,
    "device_event": Kind.DEVICE_EVENT,
    "privcmd": Kind.PRIVCMD,
}
_NEVER_BOUNDED = frozenset((Kind.PRIVCMD,))
_HANDLERS = "raw irq_handler_exit"
_FUNCTION = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,60}")
_LIMIT = 1 << 47


@dataclass(frozen=True, slots=True)
class Calls:
    """Calls that bpf counted during one capture.

    Attributes:
        functions: names of the watched functions, by the kind that their calls are counted as.
        counts: calls by (time of their line in ns, kind).
        until_ns: bpf counted at least until this time.
        missed: number of calls that each function may miss in total; None where it is not known.
        hz, tsc, ns, error_ns: the line that fits the clocks, and its error bound.
    """

    functions: Mapping[Kind, str]
    counts: Mapping[tuple[int, int], int]
    until_ns: int
    missed: int | None
    hz: float
    tsc: int
    ns: int
    error_ns: float

    def in_trace(self, first_tsc: int, last_tsc: int) -> Columns:
        """Return Partial.dom0_calls for a trace between two TSCs."""
        times = sorted({time for time, _ in self.counts})
        if not times or last_tsc <= first_tsc:
            return columns_of([])
        first, last = (self.ns + (tsc - self.tsc) * 1e9 / self.hz for tsc in (first_tsc, last_tsc))
        covers = times[0] <= first - self.error_ns and last + self.error_ns <= self.until_ns
        # A line's time is taken before its tables are read: it may count calls up to the next line's time.
        begins = dict(zip(times[1:], times, strict=False))
        sure: Counter[int] = Counter()
        may: Counter[int] = Counter()
        for (time, kind), count in self.counts.items():
            begin = begins.get(time, time)
            end = times[min(bisect_right(times, time), len(times) - 1)]
            if begin >= first + self.error_ns and end <= last - self.error_ns:
                sure[kind] += count
            if begin <= last + self.error_ns and end >= first - self.error_ns:
                may[kind] += count
        rows = []
        for kind, function in self.functions.items():
            is_bounded = covers and self.missed is not None and kind not in _NEVER_BOUNDED
            most = may[kind] + (self.missed or 0) if is_bounded else 0
            rows.append((int(kind), function, 1, int(is_bounded), sure[kind], most))
        return columns_of(rows)


def columns_of(rows: Sequence[tuple[int, str, int, int, int, int]]) -> Columns:
    """Return the columns Partial.dom0_calls with these rows."""
    return of_rows(rows, COLUMNS)


def calls_of(
    capture: Capture, counts: Mapping[tuple[int, int], int], counters: Mapping[str, Any]
) -> Calls | None:
    """Return the calls that bpf counted; None where the functions, the clock fit or the counts are missing.

    Args:
        counts: calls by (time of the line, kind), from all lines of the tables.
        counters: the bpf programs' own counters, from the last line.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: meta.json is damaged.
    """
    backends = capture.meta.get("backends") or {}
    facts = (backends.get("bpf") or {}).get("facts") or {}
    line = (capture.meta.get("clocks") or {}).get("fit")
    functions = {
        KIND_OF_ROLE[role]: _name(name)
        for role, name in (facts.get("functions") or {}).items()
        if role in KIND_OF_ROLE
    }
    if not functions or not line or not counts:
        return None
    hz, tsc, ns = float(line["hz"]), int(line["tsc"]), int(line["monotonic_ns"])
    if not 1e6 <= hz <= 1e12:
        raise ValueError(f"{hz} is not a possible TSC rate")
    return Calls(
        functions,
        counts,
        _until_ns(backends),
        _missed(facts, counts, counters),
        hz,
        tsc,
        ns,
        float(line["error_ns"]),
    )


def _until_ns(backends: Mapping[str, Any]) -> int:
    """Return the time until which bpf certainly counted: the last end of a backend that stopped before it.

    Backends stop one after the other, and the lines that bpf writes while it stops are from a time when
    it no longer counts.
    """
    ends = {
        name: int(backend["monotonic_ns"][1])
        for name, backend in backends.items()
        if len(backend.get("monotonic_ns") or ()) > 1
    }
    own = ends.get("bpf", 0)
    return max((end for end in ends.values() if end < own), default=0)


def _missed(
    facts: Mapping[str, Any], counts: Mapping[tuple[int, int], int], counters: Mapping[str, Any]
) -> int | None:
    """Return how many calls each function may miss; None where handlers or ports were not watched."""
    # Only a recording that ended normally has both.
    if "missed_while_busy" not in facts or _HANDLERS not in facts.get("probes", ()):
        return None
    if "port" not in facts.get("functions", ()):
        return None
    totals: Counter[int] = Counter()
    for (_, kind), count in counts.items():
        totals[kind] += count
    unseen = max(totals[Kind.IRQ_HANDLER] - totals[Kind.PORT_HANDLER], 0)
    told = int(facts["missed_while_busy"] or 0)
    missed = unseen + told + int(counters.get("unpaired", 0)) + int(counters.get("no_tally", 0))
    if not 0 <= missed < _LIMIT:
        raise ValueError(f"{missed} is not a possible count")
    return missed


def _name(name: Any) -> str:
    if not isinstance(name, str) or not _FUNCTION.fullmatch(name):
        raise ValueError("not a function name")
    return name
