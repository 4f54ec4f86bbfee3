"""The bpf backend: dom0's side of event delivery, counted and timed in its kernel with bcc.

By default the kernel adds up, and the differences are written once a second as lines of
bpf/tables.jsonl; with ``events`` each event is also streamed, into the CTF trace events/.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from xtrace.probes.bpf import ctf_writer, functions, interrupts, loader, tables
from xtrace.probes.bpf.abi import EVENT_BYTES, Kind
from xtrace.probes.bpf.interrupts import Interrupt
from xtrace.probes.bpf.loader import Probe, ProbeError, Program
from xtrace.probes.capture.layout import BPF_EVENTS, BPF_TABLES
from xtrace.probes.capture.stream import Folder
from xtrace.probes.errors import TraceError
from xtrace.probes.recording.backends.base import Availability, Options
from xtrace.probes.recording.backends.program import Loaded, ProgramBackend

#: Room for this many (kind, id) and for their buckets; it bounds the memory.
TALLY_ROOM = 4096
BUCKET_ROOM = 32768
_LINE_ROWS = 8192


class BpfBackend(ProgramBackend):
    """Counts and times event delivery in dom0's kernel."""

    name = "bpf"

    def __init__(self) -> None:
        super().__init__()
        self._before: Mapping[int, Interrupt] = {}
        self._after: Mapping[int, Interrupt] = {}

    def _offer(self) -> Availability:
        choice = functions.choose()
        what = f"bcc {loader.bcc_version()}, kprobes" if choice.has_kprobes else "bcc, tracepoints"
        return Availability(True, what, "; ".join(choice.remedies), tuple(choice.missing))

    def _begin(self, folder: Folder, options: Options) -> dict[str, Any]:
        choice = functions.choose()
        settings = {"TALLIES": TALLY_ROOM, "BUCKETS": BUCKET_ROOM}
        settings |= {"SCHED": 1} if choice.has_sched else {}
        settings |= {"STREAM": 1} if options.events else {}
        loaded = self._load("dom0.bpf.c", settings)
        loaded.open_lines(folder, BPF_TABLES, tables.heading())
        if options.events:
            rings = loaded.open_rings(folder, BPF_EVENTS, EVENT_BYTES)
            rings.describe(folder, BPF_EVENTS, ctf_writer.event_metadata())
        _learn_late_eois(loaded.program)
        begin = time.monotonic()
        attached, missing = _attach(loaded.program, choice)
        loaded.program.switch(on=True)
        self._before = interrupts.read()
        loaded.lines.write(_interrupts_line("interrupts_begin", self._before))
        return {
            **loaded.facts(),
            "attach_s": round(time.monotonic() - begin, 3),
            "functions": attached,
            "probes": [str(probe) for probe in loaded.program.attached],
            "missing": [*choice.missing, *missing],
            "streams_events": options.events,
        }

    def _write_gained(self, loaded: Loaded) -> None:
        now = time.monotonic_ns()
        found = loaded.drain.difference()
        # Readers limit a line's length, so a line has at most _LINE_ROWS rows.
        for name, rows in found.items():
            for at in range(0, len(rows), _LINE_ROWS):
                loaded.lines.write({"t_ns": now, name: rows[at : at + _LINE_ROWS]})
        names = loaded.drain.names(interrupts.read())
        loaded.lines.write({"t_ns": now, **names, "counters": _counters(loaded)})

    def _detach(self, loaded: Loaded) -> None:
        # Read between the two: detaching takes a while, and nothing is counted during it.
        loaded.program.switch(on=False)
        self._after = interrupts.read()
        loaded.program.detach()

    def _last_lines(self) -> Iterable[Mapping[str, Any]]:
        return [_interrupts_line("interrupts_end", self._after)]

    def _accounts(self, loaded: Loaded) -> dict[str, Any]:
        """Return how complete the counts are."""
        totals: dict[Kind, int] = {}
        for (kind, _), count in loaded.drain.totals.items():
            totals[Kind(kind)] = totals.get(Kind(kind), 0) + count
        return {
            "event_interrupts": _event_count(self._after) - _event_count(self._before),
            "counted": {kind.name.lower(): count for kind, count in sorted(totals.items())},
            "counters": _counters(loaded),
            "programs": _costs(loaded.program),
            "missed_while_busy": loaded.program.misses(),
            "missed_is": "runs of a program skipped because one was already running on that CPU; Linux "
            "before 6.7 does not count them for kprobes: irq_handler, which is never skipped, minus "
            "port_handler is the number",
            "unwritten_events": 0 if loaded.rings is None else loaded.rings.unwritten_count,
        }


def _attach(program: Program, choice: functions.Choice) -> tuple[dict[str, str], list[str]]:
    """Attach everything that is available; return the functions chosen and what is missing."""
    attached, missing = {}, []
    if choice.has_kprobes:
        for role in functions.ROLES:
            taken, refusals = _first_taken(program, role, choice.functions[role.name])
            if taken:
                attached[role.name] = taken
            missing += [] if taken else [f"{refusal}; not recorded: {role.loses}" for refusal in refusals]
    for probe in _tracepoints(choice):
        try:
            program.attach(probe)
        except ProbeError as error:
            missing.append(str(error))
    if not program.attached:
        raise TraceError(f"bpf: nothing can be attached here: {missing[0] if missing else 'no probes'}")
    return attached, missing


def _learn_late_eois(program: Program) -> None:
    for irq, found in interrupts.read().items():
        if found.is_late_eoi:
            program.put("eoi_begins", irq.to_bytes(4, "little"), bytes(8))


def _interrupts_line(name: str, found: Mapping[int, Interrupt]) -> dict[str, Any]:
    return {"t_ns": time.monotonic_ns(), name: {irq: one.counts for irq, one in found.items()}}


def _counters(loaded: Loaded) -> dict[str, int]:
    return {counter.name.lower(): count for counter, count in loaded.drain.counters().items()}


def _event_count(found: Mapping[int, Interrupt]) -> int:
    """Return how many interrupts came through event channels."""
    return sum(sum(one.counts) for one in found.values() if one.is_event)


def _costs(program: Program) -> dict[str, Any]:
    """Return the number of runs and the ns per run of each program, if the kernel counts them."""
    return {
        name: {"runs": runs, "ns_per_run": round(ns / runs, 1)}
        for name, (runs, ns) in program.run_times().items()
        if runs
    }


def _first_taken(
    program: Program, role: functions.Role, candidates: list[str]
) -> tuple[str | None, list[str]]:
    """Attach a role to its first function that can be probed; return it, or None and why each was refused."""
    refusals = []
    for function in candidates:
        try:
            program.attach_all(functions.probes_of(role, function))
        except ProbeError as error:
            refusals.append(str(error))
        else:
            return function, []
    return None, refusals


def _tracepoints(choice: functions.Choice) -> Iterator[Probe]:
    yield from functions.RAW_TRACEPOINTS
    if choice.has_sched:
        yield from functions.SCHED_TRACEPOINTS
    if not choice.has_kprobes:
        yield from functions.vector_probes()
