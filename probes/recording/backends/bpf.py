"""The backend bpf: dom0's side of event delivery, counted and timed in its kernel by bcc.

By default the kernel adds up and a second's difference is written as a line of
bpf/tables.jsonl; with ``events`` each event is streamed too, into the CTF trace events/.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from xtrace.probes.bpf import ctf_writer, functions, interrupts, loader, tables
from xtrace.probes.bpf.abi import EVENT_BYTES, Counter, Kind
from xtrace.probes.bpf.interrupts import Interrupt
from xtrace.probes.bpf.loader import Probe, ProbeError, Program
from xtrace.probes.bpf.rings import Rings
from xtrace.probes.errors import TraceError
from xtrace.probes.recording.backends.base import (
    Availability,
    CaptureFullError,
    Counts,
    Folder,
    Options,
    Stream,
)

TABLES = "bpf/tables.jsonl"
EVENTS = "events"

#: Room for so many (kind, id) and for their buckets: the memory is this, whatever happens.
TALLY_ROOM = 4096
BUCKET_ROOM = 32768
_PERIOD_S = 1.0
_LINE_ROWS = 8192


class BpfBackend:
    """Counts and times event delivery in dom0's kernel."""

    name = "bpf"

    def __init__(self) -> None:
        self._program: Program | None = None
        self._drain: tables.Drain | None = None
        self._rings: Rings | None = None
        self._stream: Stream | None = None
        self._facts: dict[str, Any] = {}
        self._counts = Counts()
        self._line_bytes = 0
        self._due = 0.0
        self._before: Mapping[int, Interrupt] = {}

    def probe(self) -> Availability:
        """Tell whether bcc can load here, without loading anything."""
        reason, remedy = loader.why_not()
        if reason:
            return Availability(False, reason, remedy)
        choice = functions.choose()
        what = f"bcc {loader.bcc_version()}, kprobes" if choice.has_kprobes else "bcc, tracepoints"
        return Availability(True, what, "; ".join(choice.remedies), tuple(choice.missing))

    def start(self, folder: Folder, options: Options) -> None:
        """Load, attach, begin the files.

        Raises:
            TraceError: bcc or the kernel refuses.
        """
        loader.must_work(self.name)
        try:
            self._start(folder, options)
        except BaseException:
            self._close()
            raise

    def _start(self, folder: Folder, options: Options) -> None:
        choice = functions.choose()
        cpus = loader.possible_cpus()
        settings = {"OWN_PID": os.getpid(), "TALLIES": TALLY_ROOM, "BUCKETS": BUCKET_ROOM, "CPUS": cpus}
        settings |= {"SCHED": 1} if choice.has_sched else {}
        settings |= {"STREAM": 1} if options.events else {}
        program = self._program = Program("dom0.bpf.c", settings)
        drain = self._drain = tables.Drain(program)
        self._stream = folder.stream(TABLES)
        self._write(tables.heading())
        if options.events:
            self._rings = Rings(program, drain, cpus, EVENT_BYTES)
            self._rings.open(folder, EVENTS)
            self._rings.describe(folder, EVENTS, ctf_writer.event_metadata())
        self._learn_late_eois(program)
        begin = time.monotonic()
        attached, missing = self._attach(program, choice)
        program.switch(on=True)
        self._before = interrupts.read()
        self._write_interrupts("interrupts_begin", self._before)
        self._due = time.monotonic() + _PERIOD_S
        self._facts = {
            "bcc": loader.bcc_version(),
            "headers": loader.HEADERS,
            "load_s": round(program.load_s, 3),
            "attach_s": round(time.monotonic() - begin, 3),
            "functions": attached,
            "probes": [str(probe) for probe in program.attached],
            "missing": [*choice.missing, *missing],
            "streams_events": options.events,
        }

    def poll(self) -> Counts:
        """Drain the rings; once a second, write what the tables gained."""
        if self._program is None:
            return self._counts
        if self._rings is not None:
            self._rings.take()
        if time.monotonic() >= self._due:
            self._due += _PERIOD_S
            self._write_tables()
            self._flush()
        return self._count()

    def stop(self) -> Counts:
        """Detach, write what is left, close."""
        program = self._program
        if program is None:
            return self._counts
        try:
            program.switch(on=False)
            ended = interrupts.read()
            program.detach()
            # What a full capture has no room for is counted as lost.
            with suppress(CaptureFullError):
                if self._rings is not None:
                    self._rings.finish()
                self._write_tables()
                self._write_interrupts("interrupts_end", ended)
                self._flush()
            self._count()
            self._facts |= self._accounts(program, ended)
        finally:
            self._close()
        return self._counts

    def facts(self) -> Mapping[str, Any]:
        """Return what was chosen, what is missing, what was lost."""
        return self._facts

    def _close(self) -> None:
        if self._rings is not None:
            self._rings.close()
        if self._program is not None:
            self._program.close()
            self._program = None

    def _attach(self, program: Program, choice: functions.Choice) -> tuple[dict[str, str], list[str]]:
        """Attach all there is; return the functions chosen and what is missing."""
        attached, missing = {}, []
        if choice.has_kprobes:
            for role in functions.ROLES:
                taken, refusals = _first_taken(program, role, choice.functions[role.name])
                if taken:
                    attached[role.name] = taken
                missing += [] if taken else [f"{refusal}: {role.loses}" for refusal in refusals]
        for probe in _tracepoints(choice):
            try:
                program.attach(probe)
            except ProbeError as error:
                missing.append(str(error))
        if not program.attached:
            raise TraceError(f"bpf: nothing can be attached here: {missing[0] if missing else 'no probes'}")
        return attached, missing

    def _learn_late_eois(self, program: Program) -> None:
        for irq, found in interrupts.read().items():
            if found.is_late_eoi:
                program.put("eoi_begins", irq.to_bytes(4, "little"), bytes(8))

    def _write(self, content: Mapping[str, Any]) -> None:
        assert self._stream is not None
        line = tables.line_of(content)
        self._stream.write(line)
        self._line_bytes += len(line)

    def _write_tables(self) -> None:
        assert self._drain is not None
        now = time.monotonic_ns()
        found = self._drain.difference()
        # Readers bound a line; these have one for so many rows.
        for name, rows in found.items():
            for at in range(0, len(rows), _LINE_ROWS):
                self._write({"t_ns": now, name: rows[at : at + _LINE_ROWS]})
        counters = {counter.name.lower(): count for counter, count in self._drain.counters().items()}
        self._write({"t_ns": now, **self._drain.names(interrupts.read()), "counters": counters})

    def _write_interrupts(self, name: str, found: Mapping[int, Interrupt]) -> None:
        self._write({"t_ns": time.monotonic_ns(), name: {irq: one.counts for irq, one in found.items()}})

    def _flush(self) -> None:
        assert self._stream is not None
        self._stream.flush()
        if self._rings is not None:
            self._rings.flush()

    def _count(self) -> Counts:
        assert self._drain is not None
        counters = self._drain.counters()
        lost = counters[Counter.DROPPED] + counters[Counter.NO_TALLY]
        records, byte_count = sum(self._drain.totals.values()), self._line_bytes
        if self._rings is not None:
            records = self._rings.record_count
            lost += self._rings.unwritten_count
            byte_count += self._rings.byte_count
        self._counts = Counts(records, lost, byte_count)
        return self._counts

    def _accounts(self, program: Program, ended: Mapping[int, Interrupt]) -> dict[str, Any]:
        """Return how complete the counts are."""
        assert self._drain is not None
        counters = self._drain.counters()
        totals: dict[Kind, int] = {}
        for (kind, _), count in self._drain.totals.items():
            totals[Kind(kind)] = totals.get(Kind(kind), 0) + count
        interrupts_of = [_event_count(found) for found in (self._before, ended)]
        return {
            "event_interrupts": interrupts_of[1] - interrupts_of[0],
            "counted": {kind.name.lower(): count for kind, count in sorted(totals.items())},
            "counters": {counter.name.lower(): count for counter, count in counters.items()},
            "programs": _costs(program),
            "missed_while_busy": program.misses(),
            "missed_is": "runs of a program skipped for one ran on that CPU; Linux before 6.7 does not count "
            "those of kprobes: irq_handler, which nothing skips, less port_handler tells how many",
            "unwritten_events": 0 if self._rings is None else self._rings.unwritten_count,
        }


def _event_count(found: Mapping[int, Interrupt]) -> int:
    """Return how many interrupts came by event channels."""
    return sum(sum(one.counts) for one in found.values() if one.is_event)


def _costs(program: Program) -> dict[str, Any]:
    """Return runs and nanoseconds a run of each program, where the kernel counts them."""
    return {
        name: {"runs": runs, "ns_per_run": round(ns / runs, 1)}
        for name, (runs, ns) in program.run_times().items()
        if runs
    }


def _first_taken(
    program: Program, role: functions.Role, candidates: list[str]
) -> tuple[str | None, list[str]]:
    """Attach a role to the first function that lets itself be probed."""
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
