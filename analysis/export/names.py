"""What can be exported, by the names that users type; it imports nothing heavy, for help and completion."""

from __future__ import annotations

from enum import StrEnum

#: Formats of tables, and of stacks.
TABLE_FORMATS = ("json", "csv", "parquet", "arrow")
STACK_FORMATS = ("folded", "speedscope")
PERFETTO, CTF = "perfetto", "ctf"
FORMATS = (PERFETTO, CTF, *STACK_FORMATS, *TABLE_FORMATS)


class What(StrEnum):
    """Tables; those after HISTOGRAMS have a row for each single event."""

    RECORDS = "records"
    INTERVALS = "intervals"
    HISTOGRAMS = "histograms"
    RUNS = "runs"
    RUNSTATES = "runstates"
    WAKES = "wakes"
    WAKE_CAUSES = "wake_causes"
    SENDS = "sends"
    UPCALLS = "upcalls"
    FORCED_CALLBACKS = "forced_callbacks"
    HYPERCALLS = "hypercalls"
    EXITS = "exits"
    ACCESSES = "accesses"
    ADDRESS_SPACES = "address_spaces"
    IPIS = "ipis"
    WAKE_TO_HALTS = "wake_to_halts"
    INJECTIONS = "injections"
    MEMORY = "memory"
    IRQS = "irqs"
    LOSSES = "losses"
    DELIVERIES = "deliveries"
    RIPS = "rips"


#: The kinds of single events.
EVENTS = tuple(What)[3:]


class Part(StrEnum):
    """Parts of a trace for Perfetto."""

    SCHED = "sched"
    RUNSTATES = "runstates"
    WAKES = "wakes"
    UPCALLS = "upcalls"
    HYPERCALLS = "hypercalls"
    EXITS = "exits"
    IRQS = "irqs"
    LOSSES = "losses"
    COUNTERS = "counters"
    DOM0 = "dom0"
    FINDINGS = "findings"
