"""The types and units of the JSON report: of columns by a rule, of the keys of ``trace`` by a list.

The ending of a column's name is its unit, and mostly gives its type; the exceptions are listed here, and
in the section cost the fields of the rows give it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from xtrace.analysis.cost.rows import (
    BOUND,
    CONTRADICTORY,
    USUAL,
    CheckRow,
    CloseRow,
    DomainRow,
    EstimateRow,
    NeedRow,
    SiteRow,
    UpcallRow,
)
from xtrace.analysis.findings.finding import Severity
from xtrace.analysis.findings.rules.catalogue import RULES
from xtrace.analysis.measures.table import Column, Quality, Table
from xtrace.analysis.state_machine.metrics import AccessKind, DomainState, RipSource
from xtrace.probes.format import TraceClass

JsonName = Literal["integer", "number", "string", "boolean", "array", "object"]


@dataclass(frozen=True, slots=True)
class ValueType:
    """What a value can be.

    Attributes:
        name: of the type in JSON Schema.
        nullable: null is possible, too.
        unit: empty where there is none.
        choices: every value of a string; empty where it is free text.
        pattern: regular expression that a string matches; empty where it is free text.
        items: type of an array's items, or of the values of an object whose keys are domain ids.
        keys: of an object with fixed keys.
    """

    name: JsonName
    nullable: bool = False
    unit: str = ""
    choices: tuple[str, ...] = ()
    pattern: str = ""
    items: ValueType | None = None
    keys: tuple[Key, ...] = ()

    def text(self) -> str:
        """Return the type in words."""
        name = f"{self.name} of {self.items.name}s" if self.items else str(self.name)
        if choices := self.items.choices if self.items else self.choices:
            name += ": " + ", ".join(f"`{choice}`" if choice else "empty" for choice in choices)
        return f"{name} or null" if self.nullable else name

    def schema(self) -> dict[str, Any]:
        """Return the type as JSON Schema."""
        found: dict[str, Any] = {"type": [self.name, "null"] if self.nullable else self.name}
        if self.choices:
            found["enum"] = [*self.choices, None] if self.nullable else list(self.choices)
        if self.pattern:
            found["pattern"] = self.pattern
        if self.unit:
            found["x-unit"] = self.unit
        if self.unit in ("count", "bytes"):
            found["minimum"] = 0
        if self.items and self.name == "array":
            found["items"] = self.items.schema()
        elif self.items:
            found |= {"patternProperties": {"^[0-9]+$": self.items.schema()}, "additionalProperties": False}
        if self.keys:
            keys = {key.name: described(key.type, key.meaning, key.quality) for key in self.keys}
            found = closed(keys) | found
        return found


@dataclass(frozen=True, slots=True)
class Key:
    """A key of an object in ``trace``, and how its value is known."""

    name: str
    type: ValueType
    quality: Quality
    meaning: str


def closed(properties: dict[str, Any], optional: Collection[str] = ()) -> dict[str, Any]:
    """Return the schema of an object that has these keys and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


def described(of: ValueType, meaning: str, quality: Quality) -> dict[str, Any]:
    """Return the schema of a value with what it means and how it is known."""
    known = {} if quality is Quality.KEY else {"x-known": str(quality)}
    return {**of.schema(), "description": meaning, **known}


# --- columns ---

_STRING, _HEX = ValueType("string"), ValueType("string", pattern="^0x[0-9a-f]+$")
#: Units by the ending of a column's name; the first that fits.
_UNITS = {
    "_cycles_per_s": "cycles/s",
    "per_s": "1/s",
    "_cycles": "cycles",
    "_tsc": "cycles",
    "_ns": "ns",
    "_ratio": "ratio",
    "count": "count",
    "bytes": "bytes",
}
_INTEGER_KEYS = {
    "cstate", "domain", "irq", "line", "op", "pcpu", "port", "reason", "sender_domain", "sender_vcpu",
    "target", "vcpu", "vector", "words",
}  # fmt: skip
#: Sums of whole cycles or ns, which exist in every row; means and quantiles are neither.
_WHOLE = {
    "first_tsc", "greatest_cycles", "guest_cycles", "idle_cycles", "last_tsc", "least_cycles", "lost_cycles",
    "open_cycles", "open_max_cycles", "running_cycles", "span_ns", "sum_cycles", "total_cycles",
    "unknown_cycles", "xen_cycles",
}  # fmt: skip
#: Tables whose rows each have a time: their mean and maximum exist.
_TIMED = {"idle_states", "irqs"}
_NEVER_NULL = {
    ("cost_domains", "execution_low_count"),
    ("cost_sites", "execution_low_count"),
    ("cost_upcalls", "execution_least_count"),
    ("cost_upcalls", "upcall_least_count"),
    ("cost_upcalls", "upcall_most_count"),
    ("cuts", "cut_ratio"),
    ("dom0_samples", "masked_ratio"),
    ("dom0_samples", "share_ratio"),
    ("injections", "window_wait_ratio"),
    ("kernel_functions", "share_ratio"),
    ("kernel_lines", "share_ratio"),
    ("kernel_sources", "share_ratio"),
    *((table, "mean_cycles") for table in _TIMED),
}
_NULLABLE = {("kernel_lines", "line")}
_COST_ROWS: Mapping[str, type] = {
    "cost_domains": DomainRow,
    "cost_upcalls": UpcallRow,
    "cost_sites": SiteRow,
    "cost_close": CloseRow,
    "cost_estimates": EstimateRow,
    "cost_checks": CheckRow,
    "cost_needs": NeedRow,
}
_OF_FIELD: Mapping[str, JsonName] = {"int": "integer", "float": "number", "str": "string"}

_SOURCES = tuple(source.name.lower() for source in RipSource)
_PARTS = ("removable", "replaceable", "undecided", "keep")
_STATES = (
    "running", "runnable/wake", "runnable/preempt", "runnable/other", "runnable/budget", "blocked", "offline",
    "lost", "unknown",
)  # fmt: skip
_CHOICES: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("wakers", "latency"): ("send", "irq", ""),
    ("vcpu_states", "state"): _STATES,
    ("domain_vcpus", "state"): _STATES,
    ("domain_states", "state"): (*(state.name.lower() for state in DomainState), "unknown"),
    ("hypercalls", "kind"): ("call", "subcall"),
    ("accesses", "kind"): tuple(kind.name.lower() for kind in AccessKind),
    ("rip_samples", "source"): _SOURCES,
    ("kernel_sources", "source"): _SOURCES,
    ("kernel_functions", "source"): _SOURCES,
    ("kernel_lines", "source"): _SOURCES,
    ("kernel_lines", "masked"): ("yes", "no"),
    ("dom0_work", "what"): ("softirq", "privcmd", "local irq"),
    ("dom0_samples", "space"): ("kernel", "user", "xen"),
    ("cost_domains", "part"): _PARTS,
    ("cost_domains", "most_is"): (BOUND, USUAL, CONTRADICTORY),
    ("cost_upcalls", "part"): _PARTS,
    ("cost_sites", "part"): _PARTS,
    ("cost_sites", "kind"): ("mask", "restore", "unmask"),
    ("cost_sites", "executions_quality"): ("exact", "bounded", "inferred"),
    ("cost_sites", "priced_by"): ("site", "standard", ""),
    ("cost_estimates", "of"): ("upcall", "running time"),
    ("cost_estimates", "estimate"): ("model", "two captures", "samples", "samples by clock", "trial"),
    ("cost_estimates", "agrees"): ("overlap", "the model is higher", "the model is lower", "-"),
    ("cost_checks", "agrees"): ("yes", "no"),
    ("volume", "class"): (*(str(bit.name).lower() for bit in TraceClass), "other"),
    ("events", "decoded"): ("exact", "ambiguous", "length", "unknown"),
}  # fmt: skip
_PATTERNS = {
    ("rip_samples", "rip"): _HEX.pattern,
    ("kernel_lines", "rip"): _HEX.pattern,
    ("accesses", "address"): _HEX.pattern,
    ("address_spaces", "page_table"): _HEX.pattern,
    ("kernel_images", "build_id"): "^[0-9a-f]*$",
    ("kernel_images", "load_offset"): "^(-?0x[0-9a-f]+)?$",
    ("cost_sites", "address"): _HEX.pattern,
    ("cost_needs", "about"): "^(d[0-9]+|host)$",
    ("events", "id"): _HEX.pattern,
}


def column_type(table: Table[Any], column: Column) -> ValueType:
    """Return the type of a column's values."""
    place = table.name, column.name
    is_key = column.quality is Quality.KEY
    unit = "" if is_key else next((unit for end, unit in _UNITS.items() if column.name.endswith(end)), "")
    name = _name_of(table, column, unit)
    return ValueType(
        name,
        nullable=place in _NULLABLE or (name == "number" and place not in _NEVER_NULL),
        unit=unit,
        choices=_CHOICES.get(place, ()),
        pattern=_PATTERNS.get(place, ""),
    )


def ns_of(name: str) -> str | None:
    """Return the name of the column that holds the same time in ns; None where it is not a time in cycles."""
    return f"{name.removesuffix('_cycles')}_ns" if name.endswith("_cycles") else None


def ns_type(of_cycles: ValueType) -> ValueType:
    """Return the type of a time in ns from that of the same time in cycles."""
    return replace(of_cycles, name="number", unit="ns")


def _name_of(table: Table[Any], column: Column, unit: str) -> JsonName:
    if row := _COST_ROWS.get(table.name):
        return _OF_FIELD[next(str(field.type) for field in fields(row) if field.name == column.name)]
    if not unit:
        return "integer" if column.name in _INTEGER_KEYS else "string"
    is_whole = column.name in _WHOLE or column.name.endswith("sum_ns")
    is_whole |= column.name == "max_cycles" and table.name in _TIMED
    return "integer" if is_whole or unit in ("count", "bytes") else "number"


# --- the keys of trace ---

_COUNT, _BYTES = ValueType("integer", unit="count"), ValueType("integer", unit="bytes")
_SOME = replace(_COUNT, nullable=True)
_SENTENCES = ValueType("array", items=_STRING)
_NS = ValueType("integer", nullable=True, unit="ns")
_BACKEND = ValueType("string", choices=("bpf", "perf", "xenctx"))
_HZ = ValueType("number", nullable=True, unit="Hz")
_NUMBER = ValueType("integer")
_CYCLES = ValueType("integer", unit="cycles")
_SOME_CYCLES = replace(_CYCLES, nullable=True)
_KEY, _EXACT, _BOUNDED, _INFERRED = Quality.KEY, Quality.EXACT, Quality.BOUNDED, Quality.INFERRED
_SKEWED_PAIR = ValueType(
    "object",
    keys=(
        Key("pcpu", _NUMBER, _KEY, "one pCPU"),
        Key("other_pcpu", _NUMBER, _KEY, "the other pCPU"),
        Key(
            "low_cycles",
            _SOME_CYCLES,
            _BOUNDED,
            "TSC of other_pcpu minus that of pcpu, lower bound; null where open",
        ),
        Key("high_cycles", _SOME_CYCLES, _BOUNDED, "upper bound; null where open"),
        Key("least_cycles", _CYCLES, _BOUNDED, "the TSCs differ by at least this; 0 where nothing proves it"),
        Key("evidence", _STRING, _KEY, "what shows that they differ, in words"),
        Key("unaligned", _STRING, _KEY, "why they are not aligned, in words; empty where they are"),
    ),
)
_ALIGNED_PCPU = ValueType(
    "object",
    keys=(
        Key("pcpu", _NUMBER, _KEY, "physical CPU"),
        Key("offset_cycles", _CYCLES, _INFERRED, "what was added to its TSCs"),
        Key("uncertain_cycles", _CYCLES, _BOUNDED, "how far they may still be from those of the others"),
    ),
)
_DAMAGE = ValueType(
    "object",
    keys=(
        Key("offset", _BYTES, _EXACT, "where it begins in the decompressed trace"),
        Key("reason", _STRING, _KEY, "what is wrong there, in words"),
        Key("skipped_bytes", _BYTES, _EXACT, "bytes passed over"),
    ),
)
_RESTART = ValueType(
    "object",
    keys=(
        Key(
            "offset",
            _BYTES,
            _EXACT,
            "of the first window, or record in it, after it in the decompressed trace",
        ),
        Key("after_cycles", _CYCLES, _EXACT, "time of the trace before it, without gaps at earlier restarts"),
        Key("back_cycles", _CYCLES, _EXACT, "greatest TSC before it minus the least after it"),
    ),
)

_KIND_COVERED = ValueType(
    "object",
    keys=(
        Key("kind", _STRING, _KEY, "the kind of records"),
        Key("what", _STRING, _KEY, "the same in words"),
        Key("classes", _SENTENCES, _KEY, "sub-classes that contain them, for xtrace record --class"),
        Key("masks", _STRING, _KEY, "the same for xentrace -e"),
        Key(
            "recorded",
            ValueType("string", choices=("yes", "in part", "no")),
            _KEY,
            "whether they are recorded",
        ),
        Key("count", _COUNT, _EXACT, "records of the kind"),
        Key("reason", _STRING, _KEY, "why they count as not recorded; empty otherwise"),
    ),
)
_PCPU_COVERED = ValueType(
    "object",
    keys=(
        Key("pcpu", _NUMBER, _KEY, "physical CPU"),
        Key("covered_cycles", _CYCLES, _EXACT, "time in which it is known what ran"),
        Key("lost_cycles", _CYCLES, _EXACT, "time in which Xen lost records"),
        Key("unknown_cycles", _CYCLES, _EXACT, "the rest of the span"),
        Key(
            "first_tsc",
            _CYCLES,
            _EXACT,
            "TSC of its first record; of one of lost records, when the loss began",
        ),
        Key("last_tsc", _CYCLES, _EXACT, "TSC of its last record"),
    ),
)
_HOLE = ValueType(
    "object",
    keys=(
        Key("pcpu", _NUMBER, _KEY, "physical CPU"),
        Key("begin_tsc", _CYCLES, _EXACT, "TSC of its last record before"),
        Key("end_tsc", _CYCLES, _EXACT, "TSC of its first record after"),
    ),
)
_COVERAGE = ValueType(
    "object",
    keys=(
        Key(
            "records", ValueType("array", items=_KIND_COVERED), _KEY, "the kinds of records that figures need"
        ),
        Key("pcpus", ValueType("array", items=_PCPU_COVERED), _KEY, "the pCPUs with records"),
        Key(
            "missing_pcpus",
            ValueType("array", items=_NUMBER),
            _KEY,
            "pCPUs that are named and have no record",
        ),
        Key("contradiction_count", _COUNT, _EXACT, "runstate records that contradict earlier ones"),
        Key("has_all_pcpus", ValueType("boolean"), _KEY, "false where vCPUs ran on pCPUs without records"),
        Key(
            "unknown_cycles",
            _CYCLES,
            _EXACT,
            "time of vCPUs before their first record, in contradiction, or where windows are missing",
        ),
        Key("lost_cycles", _CYCLES, _EXACT, "time of vCPUs after lost records"),
        Key(
            "core_scheduling",
            ValueType("boolean"),
            _KEY,
            "whether Xen schedules by core, and vCPUs are placed by pairs of records of a sibling",
        ),
        Key(
            "hole_count",
            _COUNT,
            _EXACT,
            "stretches of pCPUs' time whose windows are missing in the middle, as far as a switch shows it",
        ),
        Key("hole_cycles", _CYCLES, _EXACT, "their sum"),
        Key("holes", ValueType("array", items=_HOLE), _EXACT, "the first hundred of each file"),
        Key(
            "silence_cycles",
            _CYCLES,
            _EXACT,
            "the longest time without a record of any pCPU, where it is at least four times as long as any "
            "other, summed over the files; otherwise 0",
        ),
        Key(
            "hidden_hole_count",
            _COUNT,
            _EXACT,
            "runs that lasted longer, by 60 ms at least, than the scheduler's own records allow, as if "
            "windows were missing in the middle of them",
        ),
        Key(
            "quiet_end_count",
            _COUNT,
            _EXACT,
            "pCPUs of which it is not known whether the recorder read them in its last round, as they had "
            "nothing in the round before",
        ),
        Key(
            "shared_count",
            _COUNT,
            _EXACT,
            "files of which another xentrace took some of the records, as the recorder noticed, or changed "
            "the mask, as records outside of it show",
        ),
    ),
)

_ANY_NUMBER = ValueType("number", nullable=True)
_SOME_NUMBER = replace(_NUMBER, nullable=True)
_FIGURE = ValueType(
    "object",
    keys=(
        Key("name", _STRING, _KEY, "what it is; the ending is the unit"),
        Key("value", _ANY_NUMBER, _KEY, "in that unit"),
        Key("value_ns", replace(_ANY_NUMBER, unit="ns"), _KEY, "in ns, where it is a time; null otherwise"),
        Key(
            "quality",
            ValueType("string", choices=("exact", "bounded", "inferred", "modelled")),
            _KEY,
            "how it is known",
        ),
    ),
)
#: What is in ``findings``.
FINDING = ValueType(
    "object",
    keys=(
        Key("name", ValueType("string", choices=tuple(rule.name for rule in RULES)), _KEY, "of the rule"),
        Key(
            "severity",
            ValueType("string", choices=tuple(str(severity) for severity in Severity)),
            _KEY,
            "whether it is only worth knowing, or something does not work as it should",
        ),
        Key("sentence", _STRING, _KEY, "the subject and what was found"),
        Key("figures", ValueType("array", items=_FIGURE), _KEY, "the figures of the sentence"),
        Key("usual", _STRING, _KEY, "what is usual"),
        Key("source", _STRING, _KEY, "where that is from"),
        Key("concerned_cycles", _CYCLES, _KEY, "how much time it concerns; 0 where it is about events"),
        Key("concerned_count", _COUNT, _KEY, "how many events it concerns"),
        Key("domain", _SOME_NUMBER, _KEY, "the subject's domain; null where it has none"),
        Key("vcpu", _SOME_NUMBER, _KEY, "the subject's vCPU; null where it is none"),
        Key("pcpu", _SOME_NUMBER, _KEY, "the subject's pCPU; null where it is none"),
        Key("others", _COUNT, _KEY, "how many more subjects the rule would name"),
        Key("moment_cycles", _SOME_CYCLES, _KEY, "when it was worst, since the trace's first record"),
        Key("moment_ns", replace(_ANY_NUMBER, unit="ns"), _KEY, "the same in ns"),
        Key(
            "command",
            _STRING,
            _KEY,
            "a command that shows more, with FILE for the trace; empty where there is none",
        ),
    ),
)

#: Type of each key of ``trace``, and how its figure is known.
TRACE_TYPES: Mapping[str, tuple[ValueType, Quality]] = {
    "records": (_COUNT, _EXACT),
    "filler_records": (_COUNT, _EXACT),
    "lost_records": (_SOME, _EXACT),
    "loss_count": (_SOME, _EXACT),
    "pcpus": (_SOME, _EXACT),
    "tsc_hz": (_HZ, _INFERRED),
    "tsc_hz_low": (_HZ, _INFERRED),
    "tsc_hz_high": (_HZ, _INFERRED),
    "tsc_hz_source": (ValueType("string", nullable=True), _KEY),
    "tsc_hz_pairs": (_COUNT, _EXACT),
    "tsc_resolution_ns": (ValueType("number", nullable=True, unit="ns"), _INFERRED),
    "span_cycles": (_SOME_CYCLES, _EXACT),
    "span_ns": (_NS, _EXACT),
    "lost_ratio": (ValueType("number", nullable=True, unit="ratio"), _EXACT),
    "xen_versions": (replace(_STRING, nullable=True), _INFERRED),
    "xen_versions_source": (ValueType("string", nullable=True, choices=("detected", "given")), _KEY),
    "xen_versions_evidence": (_SENTENCES, _KEY),
    "xen_versions_conflicts": (_SENTENCES, _KEY),
    "notes": (_SENTENCES, _KEY),
    "skewed_pcpu_pairs": (ValueType("array", items=_SKEWED_PAIR), _BOUNDED),
    "tsc_alignment": (ValueType("array", items=_ALIGNED_PCPU), _INFERRED),
    "emulated": (ValueType("boolean"), _KEY),
    "coverage": (_COVERAGE, _KEY),
    "domains": (ValueType("object", items=_STRING), _KEY),
    "recorder_virq_most_count": (_SOME, _BOUNDED),
    "dom0_wakes_other_count": (_SOME, _INFERRED),
    "files": (_COUNT, _EXACT),
    "bytes_read": (_BYTES, _EXACT),
    "windows": (_COUNT, _EXACT),
    "skipped_bytes": (_BYTES, _EXACT),
    "missing_bytes": (_BYTES, _EXACT),
    "tail_bytes": (_BYTES, _EXACT),
    "damage_count": (_COUNT, _EXACT),
    "late_records": (_COUNT, _EXACT),
    "backward_tsc_count": (_COUNT, _EXACT),
    "tsc_restart_count": (_COUNT, _EXACT),
    "ring_known_files": (_COUNT, _EXACT),
    "intervals_left_out": (_COUNT, _EXACT),
    "slot_keys_folded": (_COUNT, _EXACT),
    "exemplar_keys_left_out": (_COUNT, _EXACT),
    "vcpus_left_out": (_COUNT, _EXACT),
    "damages": (ValueType("array", items=_DAMAGE), _EXACT),
    "dom0_only_files": (_COUNT, _EXACT),
    "dom0_backends": (ValueType("array", items=_BACKEND), _KEY),
    "dom0_span_ns": (_NS, _EXACT),
    "dom0_lost_count": (_COUNT, _EXACT),
    "tsc_restarts": (ValueType("array", items=_RESTART), _EXACT),
}
