"""The parts of a report beside its tables: time in slots, and distributions; as JSON, and their types."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from xtrace.analysis.coverage.needs import ENTRIES, RUNSTATES, SWITCHES, Reach, Records
from xtrace.analysis.findings.evidence import Evidence
from xtrace.analysis.measures.distributions import Distribution, distributions
from xtrace.analysis.measures.over_time import (
    OverTime,
    PcpuOverTime,
    VcpuOverTime,
    WakesOverTime,
    over_time,
)
from xtrace.analysis.measures.table import Quality
from xtrace.analysis.report.json_text import each, fields, items
from xtrace.analysis.report.json_types import Key, ValueType
from xtrace.analysis.state_machine.keys import domain_of, vcpu_of

#: The sections that these belong to.
OVER_TIME_SECTION, DISTRIBUTIONS_SECTION = "runstates", "delivery"
#: What each part needs: its quality in a whole trace, kinds of records, and how far these reach.
_OVER_TIME_NEEDS: Mapping[str, tuple[Quality, tuple[Records, ...], Reach]] = {
    "pcpus": (Quality.EXACT, (RUNSTATES,), Reach.PCPU),
    "vcpus": (Quality.EXACT, (RUNSTATES,), Reach.VCPU),
    "wake_to_running": (Quality.EXACT, (SWITCHES, RUNSTATES), Reach.VCPU),
}
#: A count of what is in the trace, while a time of a state may be greater than what was recorded.
_WAKES = "wake_to_running"
_FIGURE_NEEDS: Mapping[str, tuple[Quality, tuple[Records, ...], Reach]] = {
    "wake_to_running": (Quality.EXACT, (SWITCHES, RUNSTATES), Reach.VCPU),
    "send_to_wake": (Quality.INFERRED, (SWITCHES, RUNSTATES, ENTRIES), Reach.VCPU),
}


@dataclass(frozen=True, slots=True)
class Series:
    """What a report has besides tables.

    Attributes:
        over_time: None where the times of several traces cannot be compared, or where it was not asked for.
        over_time_quality: how the parts of ``over_time`` are known.
        distributions: of wake to running and of send to wake.
        distribution_quality: how they are known, by figure.
    """

    over_time: OverTime | None = None
    over_time_quality: Mapping[str, Quality] | None = None
    distributions: Sequence[Distribution] = ()
    distribution_quality: Mapping[str, Quality] | None = None


def make_series(
    evidence: Evidence,
    *,
    sections: Collection[str] = (),
    domains: Collection[int] = (),
    vcpus: Collection[tuple[int | None, int]] = (),
) -> Series:
    """Return what the traces have besides tables.

    Args:
        sections, domains, vcpus: only these; empty means all.  A vCPU is a domain, None for any, and a
            number.
    """

    def wanted(key: int) -> bool:
        domain, number = domain_of(key), vcpu_of(key)
        of_vcpus = any(each in ((domain, number), (None, number)) for each in vcpus)
        return (not domains or domain in domains) and (not vcpus or of_vcpus)

    found = Series()
    if not sections or OVER_TIME_SECTION in sections:
        quality = _qualities(evidence, _OVER_TIME_NEEDS, "running_cycles")
        quality |= _qualities(evidence, {_WAKES: _OVER_TIME_NEEDS[_WAKES]}, "wake_to_running_count")
        made = over_time(evidence.measures, evidence.slots, wanted)
        found = replace(found, over_time=_recorded(made, quality), over_time_quality=quality)
    if not sections or DISTRIBUTIONS_SECTION in sections:
        quality = _qualities(evidence, _FIGURE_NEEDS, "p50_cycles")
        kept = [
            one
            for one in distributions(evidence.measures, wanted)
            if quality[one.figure] is not Quality.ABSENT
        ]
        found = replace(found, distributions=kept, distribution_quality=quality)
    return found


def _qualities(
    evidence: Evidence, needs: Mapping[str, tuple[Quality, tuple[Records, ...], Reach]], column: str
) -> dict[str, Quality]:
    """Return how each part is known: as a column of a table with the same needs would be."""
    return {name: evidence.figure(column, 0.0, *of).quality for name, of in needs.items()}


def _recorded(made: OverTime | None, quality: Mapping[str, Quality]) -> OverTime | None:
    """Return only what the trace has the records for."""
    if made is None:
        return None
    absent = {name: () for name, of in quality.items() if of is Quality.ABSENT}
    return replace(made, **absent)  # type: ignore[arg-type]


def over_time_object(series: Series) -> dict[str, Any] | None:
    """Return what the traces have in each slot as the JSON report has it."""
    head = _over_time_head(series)
    if head is None or series.over_time is None:
        return None
    return head | {
        name: [make(each) for each in rows] for name, rows, make in _over_time_lists(series.over_time)
    }


def over_time_text(series: Series) -> Iterator[str]:
    """Yield the text of over_time_object(), in pieces."""
    head = _over_time_head(series)
    if head is None or series.over_time is None:
        yield "null"
        return
    plain = ((name, iter((json.dumps(value),))) for name, value in head.items())
    lists = ((name, items(each(rows, make), 2)) for name, rows, make in _over_time_lists(series.over_time))
    yield from fields(itertools.chain(plain, lists), 1)


def _over_time_head(series: Series) -> dict[str, Any] | None:
    made, quality = series.over_time, series.over_time_quality
    if made is None or quality is None:
        return None
    return {
        "quality": {name: str(of) for name, of in quality.items()},
        "slot_cycles": made.slot_cycles,
        "first_tsc": made.first_tsc,
        "folded_count": made.folded_count,
        "begin_cycles": made.begin_cycles.tolist(),
        "length_cycles": made.length_cycles.tolist(),
    }


def _over_time_lists(
    made: OverTime,
) -> tuple[tuple[str, Sequence[Any], Callable[[Any], dict[str, Any]]], ...]:
    """Return name, rows, and what makes an object of a row, of each list."""
    return (
        ("pcpus", made.pcpus, _pcpu_object),
        ("vcpus", made.vcpus, _vcpu_object),
        ("wake_to_running", made.wake_to_running, _wakes_object),
    )


def _pcpu_object(each: PcpuOverTime) -> dict[str, Any]:
    cycles = {f"{name}_cycles": cycles.tolist() for name, cycles in each.cycles.items()}
    return {"pcpu": each.pcpu, **cycles, "lost_record_counts": each.lost_records.tolist()}


def _vcpu_object(each: VcpuOverTime) -> dict[str, Any]:
    cycles = {f"{name}_cycles": cycles.tolist() for name, cycles in each.cycles.items()}
    return {"domain": each.domain, "vcpu": each.vcpu, **cycles, "wake_counts": each.wakes.tolist()}


def _wakes_object(each: WakesOverTime) -> dict[str, Any]:
    return {"least_cycles": each.least_cycles, "counts": each.counts.tolist()}


def distribution_objects(series: Series) -> list[dict[str, Any]]:
    """Return the distributions as the JSON report has them."""
    return [_distribution_object(each, series.distribution_quality or {}) for each in series.distributions]


def distribution_texts(series: Series) -> Iterator[str]:
    """Yield the text of each of distribution_objects()."""
    return each(
        series.distributions, lambda one: _distribution_object(one, series.distribution_quality or {})
    )


def _distribution_object(each: Distribution, quality: Mapping[str, Quality]) -> dict[str, Any]:
    return {
        "figure": each.figure,
        "quality": str(quality[each.figure]),
        "domain": each.domain,
        "vcpu": each.vcpu,
        "waker_domain": None if each.waker is None else domain_of(each.waker),
        "waker_vcpu": None if each.waker is None else vcpu_of(each.waker),
        "count": each.count,
        "upto_cycles": each.upto_cycles.tolist(),
        "upto_counts": each.upto_counts.tolist(),
    }


# --- types ---

_KEY, _EXACT = Quality.KEY, Quality.EXACT
_NUMBER, _SOME_NUMBER = ValueType("integer"), ValueType("integer", nullable=True)
_CYCLES, _COUNT = ValueType("integer", unit="cycles"), ValueType("integer", unit="count")
_ALL_CYCLES, _ALL_COUNTS = ValueType("array", items=_CYCLES), ValueType("array", items=_COUNT)
_KNOWN = ValueType("string", choices=("exact", "bounded", "inferred", "not recorded"))
_DOMAIN = Key("domain", _NUMBER, _KEY, "domain id")
_VCPU = Key("vcpu", _NUMBER, _KEY, "number of the vCPU in its domain")


def _by_slot(names: Mapping[str, str]) -> tuple[Key, ...]:
    return tuple(
        Key(f"{name}_cycles", _ALL_CYCLES, _EXACT, f"by slot: {meaning}") for name, meaning in names.items()
    )


_PCPU_OVER_TIME = ValueType(
    "object",
    keys=(
        Key("pcpu", _NUMBER, _KEY, "physical CPU"),
        *_by_slot(
            {
                "running": "a guest ran",
                "idle": "the idle domain ran",
                "lost": "Xen lost records",
                "unknown": "the rest of the slot, of which no record shows what it was",
            }
        ),
        Key("lost_record_counts", _ALL_COUNTS, _EXACT, "by slot: records lost in gaps that ended there"),
    ),
)
_VCPU_OVER_TIME = ValueType(
    "object",
    keys=(
        _DOMAIN,
        _VCPU,
        *_by_slot(
            {
                "running": "it ran",
                "waiting": "it could run and did not, or waited for its budget",
                "blocked": "it was blocked",
                "offline": "it was paused, capped or not up",
                "unknown": "the rest of the slot, of which no record shows what it was",
            }
        ),
        Key("wake_counts", _ALL_COUNTS, _EXACT, "by slot: its wakes, of any cause"),
    ),
)
_WAKES_OVER_TIME = ValueType(
    "object",
    keys=(
        Key(
            "least_cycles",
            _CYCLES,
            _KEY,
            "a wake took at least this and less than twice as long; 0 stands for less than 2 cycles",
        ),
        Key("counts", _ALL_COUNTS, _EXACT, "by slot: wakes of all vCPUs that so long after ran there"),
    ),
)
#: What is in ``over_time``.
OVER_TIME = ValueType(
    "object",
    nullable=True,
    keys=(
        Key(
            "quality",
            ValueType("object", keys=tuple(Key(name, _KNOWN, _KEY, name) for name in _OVER_TIME_NEEDS)),
            _KEY,
            "how each of the three lists is known",
        ),
        Key("slot_cycles", _CYCLES, _KEY, "length of a slot; the first and the last are cut to the trace"),
        Key("first_tsc", ValueType("integer"), _EXACT, "TSC of the trace's first record"),
        Key("folded_count", _COUNT, _EXACT, "keys that were too many for rows of their own, and are missing"),
        Key("begin_cycles", _ALL_CYCLES, _KEY, "where each slot begins, from the first record on"),
        Key("length_cycles", _ALL_CYCLES, _KEY, "length of each slot in the trace"),
        Key("pcpus", ValueType("array", items=_PCPU_OVER_TIME), _KEY, "the time of each pCPU"),
        Key("vcpus", ValueType("array", items=_VCPU_OVER_TIME), _KEY, "the time of each guest's vCPU"),
        Key("wake_to_running", ValueType("array", items=_WAKES_OVER_TIME), _KEY, "wakes by their time"),
    ),
)
#: What is in ``distributions``.
DISTRIBUTION = ValueType(
    "object",
    keys=(
        Key(
            "figure",
            ValueType("string", choices=tuple(_FIGURE_NEEDS)),
            _KEY,
            "wake_to_running, by vCPU; send_to_wake, by vCPU and sender; of each, the 512 with most values",
        ),
        Key("quality", _KNOWN, _KEY, "how the values are known"),
        _DOMAIN,
        _VCPU,
        Key("waker_domain", _SOME_NUMBER, _KEY, "the sender's domain; null where all wakers count"),
        Key("waker_vcpu", _SOME_NUMBER, _KEY, "the sender's number in its domain; null likewise"),
        Key("count", _COUNT, _EXACT, "values"),
        Key("upto_cycles", _ALL_CYCLES, _EXACT, "ascending times; the last one is the greatest value"),
        Key("upto_counts", _ALL_COUNTS, _EXACT, "values that are at most so long; the last is count"),
    ),
)
