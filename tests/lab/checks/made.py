"""Read a scenario's results: its trace counted record by record, and what dom0 and the guests know."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from oracle.reader import Record, read
from xtrace.analysis.state_machine.metrics import WAKE_CYCLES_MOST

RUNSTATE_CHANGE = 0x21001
WAKE = 0x28004
HYPERCALL = 0x20100D
LOST_RECORDS = 0x1F001
EVENT_DELIVERY = 0x804  # the id without its last 12 bits
#: Numbers of hypercalls and of their commands (Xen, public/xen.h, sched.h, vcpu.h).
XEN_VERSION, IRET, VCPU_OP, SCHED_OP, EVENT_CHANNEL_OP = 17, 23, 24, 29, 32
SCHED_YIELD, SCHED_BLOCK, SCHED_POLL = 0, 1, 3
SET_SINGLESHOT_TIMER = 8
IDLE = 0x7FFF

_RUNSTATE_MASK = ~0x330
_COUNTERS = re.compile(r"^xtrace-guest: counters (\{.*\})\r?$", re.MULTILINE)


@dataclass(slots=True)
class Counts:
    """Counts of a trace.

    Attributes:
        records: number of records except fillers; fillers: number of fillers.
        hypercalls: by (domain, number).
        commands: by (domain, number, first argument), if Xen records one.
        ran: how often a vCPU of each domain began to run.
        lost: number of lost records; gaps: number of gaps.
        pcpus: the pCPUs that wrote a record.
        sends_with_wake: event_channel_op hypercalls with a WAKE as the next record of their pCPU, by domain.
        marks: (TSC, second argument) of each vcpu_op, in order.
    """

    records: int = 0
    fillers: int = 0
    hypercalls: Counter[tuple[int, int]] = field(default_factory=Counter)
    commands: Counter[tuple[int, int, int]] = field(default_factory=Counter)
    ran: Counter[int] = field(default_factory=Counter)
    lost: int = 0
    gaps: int = 0
    pcpus: set[int] = field(default_factory=set)
    sends_with_wake: Counter[int] = field(default_factory=Counter)
    marks: list[tuple[int, int]] = field(default_factory=list)


def chosen(*patterns: str) -> list[str]:
    """Return the scenarios to check whose names match one of ``patterns``."""
    names = os.environ.get("XTRACE_LAB_SCENARIOS", "").split()
    return [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]


def traced() -> list[str]:
    """Return the scenarios to check that leave a trace with their name."""
    return [name for name in chosen("*") if trace(name).exists()]


def folder(name: str) -> Path:
    """Return the folder with a scenario's files."""
    return Path(os.environ["XTRACE_LAB_RESULTS"]) / name


def trace(name: str) -> Path:
    """Return the trace of a scenario."""
    return folder(name) / f"{name}.bin"


def known_rows(name: str) -> list[list[str]]:
    """Return dom0's lines, each "NAME VALUE...", as words."""
    path = folder(name) / "known"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def known(name: str) -> dict[str, list[str]]:
    """Return dom0's values by name; of equal names the last one wins."""
    return {row[0]: row[1:] for row in known_rows(name)}


def domain_ids(name: str) -> dict[str, int]:
    """Return the domain id of each guest that was created: its last one, if it is still there at the end.

    A guest that reboots gets a new id; the PVH kernel sometimes resets the emulated processor while it boots.
    """
    created = {row[1]: int(row[2]) for row in known_rows(name) if row[0] == "created"}
    if not trace(name).with_suffix(".bin.json").exists():
        return created
    last = {row["name"]: row["id"] for row in sidecar(name)["domains"]}
    return {guest: last.get(guest, id_) for guest, id_ in created.items()}


def counters(name: str, guest: str) -> dict[str, int]:
    """Return the last counters that one of our own guests printed."""
    log = (folder(name) / f"guest-{guest}.log").read_text(errors="replace")
    found: dict[str, int] = json.loads(_COUNTERS.findall(log)[-1])
    return found


def sidecar(name: str) -> dict[str, Any]:
    """Return the content of the trace's sidecar."""
    content: dict[str, Any] = json.loads(trace(name).with_suffix(".bin.json").read_text())
    return content


def own_guests(name: str) -> list[str]:
    """Return the scenario's guests that are our own and ran to their end."""
    logs = sorted(folder(name).glob("guest-*.log"))
    ended = [log for log in logs if _COUNTERS.search(log.read_text(errors="replace"))]
    return [log.stem.removeprefix("guest-") for log in ended]


@functools.cache
def _reported(name: str) -> dict[str, Any]:
    command = [sys.executable, "-c", "from xtrace.cli.start import main; main()", "report", str(trace(name))]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True, timeout=120)
    content: dict[str, Any] = json.loads(done.stdout)
    return content


def trace_facts(name: str) -> dict[str, Any]:
    """Return the trace object of ``xtrace report --json``."""
    facts: dict[str, Any] = _reported(name)["trace"]
    return facts


def report(name: str) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each table of the report."""
    return {table: content["rows"] for table, content in _reported(name)["tables"].items()}


def total(name: str, table: str, column: str, *keys: str, **wanted: Any) -> Counter[tuple[Any, ...]]:
    """Sum a column of a table by ``keys``, over the rows that have the values ``wanted``."""
    sums: Counter[tuple[Any, ...]] = Counter()
    for row in report(name)[table]:
        if all(row[key] == value for key, value in wanted.items()):
            sums[tuple(row[key] for key in keys)] += row[column]
    return sums


def upcall_bounds(name: str) -> dict[int, tuple[int, int]]:
    """Return the report's lower and upper bound of each domain's upcalls, summed over its vCPUs."""
    least = total(name, "upcalls", "upcall_least_count", "domain")
    most = total(name, "upcalls", "upcall_most_count", "domain")
    return {domain: (least[domain,], most[domain,]) for (domain,) in most}


@functools.cache
def counts(name: str) -> Counts:
    """Count the records of a scenario's trace with the reference reader of tests/oracle."""
    found = Counts()
    current: dict[int, int] = {}
    sent: dict[int, tuple[int, int]] = {}
    content = read(trace(name).read_bytes())
    found.fillers = content.wrap_count
    for record in content.records:
        found.records += 1
        found.pcpus.add(record.pcpu)
        if record.event >> 12 == EVENT_DELIVERY:
            continue
        sender, at = sent.pop(record.pcpu, (IDLE, 0))
        if record.event == WAKE and at and record.tsc - at <= WAKE_CYCLES_MOST:
            found.sends_with_wake[sender] += 1
        if record.event & _RUNSTATE_MASK == RUNSTATE_CHANGE:
            if record.event >> 4 & 3 == 0:
                current[record.pcpu] = record.words[0] >> 16
                found.ran[record.words[0] >> 16] += 1
        elif record.event == HYPERCALL:
            domain = current.get(record.pcpu, IDLE)
            _count_hypercall(found, record, domain)
            if record.words[0] & 0xFFFFF == EVENT_CHANNEL_OP:
                sent[record.pcpu] = domain, record.tsc
        elif record.event == LOST_RECORDS:
            found.lost += record.words[0]
            found.gaps += 1
            current.pop(record.pcpu, None)
    return found


def _count_hypercall(found: Counts, record: Record, domain: int) -> None:
    number = record.words[0] & 0xFFFFF
    found.hypercalls[domain, number] += 1
    if len(record.words) > 1:
        found.commands[domain, number, record.words[1]] += 1
    if number == VCPU_OP and len(record.words) > 2:
        found.marks.append((record.tsc, record.words[2]))
