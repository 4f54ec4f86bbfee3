"""What a trace covers: kinds of records, pCPUs, and stretches of time.

Everything is computed from the mergeable parts of a Partial, so the coverage of many traces is that of their
Partials merged.  A kind of records counts as recorded where the recorder said so, or where one occurs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from xtrace.analysis.columns import Columns
from xtrace.analysis.coverage.needs import Records
from xtrace.analysis.state_machine.keys import are_guests
from xtrace.analysis.state_machine.metrics import Metric
from xtrace.analysis.summary.clock import skewed_pairs
from xtrace.analysis.summary.partial import Partial, group_of

#: More contradictions than this are not left to chance: a pCPU is missing, or the TSCs differ.
_CHANCE = 2
#: A vCPU that ran less often or for less of the span need not have entered Xen.
_BUSY_RUNS, _BUSY_SHARE = 5, 1e-4


class Held(IntEnum):
    """How far a trace has what a figure needs."""

    NOT = 0
    IN_PART = 1
    FULLY = 2


@dataclass(frozen=True, slots=True)
class KindCovered:
    """How far a trace has a kind of records.

    Attributes:
        count: records of the kind.
        reason: why they count as not recorded, or as recorded in part; empty otherwise.
    """

    held: Held
    count: int
    reason: str = ""


class PcpuCovered(NamedTuple):
    """How much of a pCPU's time a trace covers; the parts add up to the span.

    Attributes:
        covered_cycles: it is known what ran.
        lost_cycles: Xen lost records.
        unknown_cycles: neither.
    """

    pcpu: int
    covered_cycles: int
    lost_cycles: int
    unknown_cycles: int
    first_tsc: int
    last_tsc: int


class HoleCovered(NamedTuple):
    """A stretch of a pCPU's time of which windows are missing in the middle of a trace."""

    pcpu: int
    begin_tsc: int
    end_tsc: int


@dataclass(frozen=True, slots=True)
class Coverage:
    """What a trace covers.

    Attributes:
        kinds: of records.
        pcpus: those with records.
        missing_pcpus: those that the recorder or a record names, and of which there is no record.
        contradiction_count: runstate records that contradict what the trace says about the vCPU before.
        unknown_cycles, lost_cycles: time of vCPUs in which their state is not known.
        is_skewed: the TSCs of pCPUs are apart in a trace, aligned or not.
        has_cores: Xen schedules by core in a trace.
        hole_count, hole_cycles: stretches of pCPUs' time of which windows are missing, and their sum.
        holes: the first of each trace.
        silence_cycles: the longest time without a record of any pCPU, where no other one is like it.
        hidden_hole_count: runs in which the vCPU left its pCPU, or the scheduler acted, without a record.
        quiet_end_count: pCPUs that the recorder may not have read in its last round.
        left_out_count: intervals, and look-ups of vCPUs, that did not count because there were too many ids.
        shared_count: traces of which another recorder took some of the records, or changed the mask.
    """

    kinds: Mapping[Records, KindCovered]
    pcpus: Sequence[PcpuCovered]
    missing_pcpus: Sequence[int]
    contradiction_count: int
    unknown_cycles: int
    lost_cycles: int
    is_skewed: bool = False
    has_cores: bool = False
    hole_count: int = 0
    hole_cycles: int = 0
    holes: Sequence[HoleCovered] = ()
    silence_cycles: int = 0
    hidden_hole_count: int = 0
    quiet_end_count: int = 0
    left_out_count: int = 0
    shared_count: int = 0

    @property
    def is_consistent(self) -> bool:
        """Whether no pCPU is missing, and the records do not contradict each other."""
        return not self.missing_pcpus and self.contradiction_count <= _CHANCE

    @property
    def has_all_pcpus(self) -> bool:
        """Whether vCPUs were on pCPUs with records only, as far as the records show.

        Where TSCs are apart, contradictions show no more than that.
        """
        return self.is_consistent or (self.is_skewed and not self.missing_pcpus)

    @property
    def may_have_holes(self) -> bool:
        """Whether windows are or may be missing in the middle: not all pCPUs of a hole need show it."""
        return bool(self.hole_count or self.silence_cycles or self.hidden_hole_count or self.shared_count)

    @property
    def blank_cycles(self) -> int:
        """Length of the longest stretch that is a hole of all pCPUs, of the holes that are listed.

        Where another recording of the same host follows in the file, the TSC goes on, and there is one.
        """
        stretches: list[tuple[int, int]] | None = None
        for pcpu in self.pcpus:
            own = [(hole.begin_tsc, hole.end_tsc) for hole in self.holes if hole.pcpu == pcpu.pcpu]
            if stretches is not None:
                own = [(max(a, c), min(b, d)) for a, b in stretches for c, d in own]
            stretches = [(begin, end) for begin, end in own if begin < end]
        return max((end - begin for begin, end in stretches or ()), default=0)

    @property
    def may_have_gaps(self) -> bool:
        """Whether windows are or may be missing in the middle or at the end, or intervals did not count."""
        return self.may_have_holes or self.quiet_end_count > 0 or self.left_out_count > 0

    @property
    def is_whole(self) -> bool:
        """Whether no pCPU is missing and no window may be, as far as the records show."""
        return self.has_all_pcpus and not self.may_have_gaps

    @property
    def has_loss(self) -> bool:
        """Whether Xen lost records on some pCPU."""
        return any(pcpu.lost_cycles for pcpu in self.pcpus)

    @property
    def knows_all_time(self) -> bool:
        """Whether the state of each vCPU and pCPU is known from the first record to the last."""
        hidden = any(pcpu.lost_cycles or pcpu.unknown_cycles for pcpu in self.pcpus)
        return not (hidden or self.unknown_cycles or self.lost_cycles or self.may_have_gaps)

    def holds(self, needs: Iterable[Records]) -> Held:
        """Return how far the trace has all of these kinds of records."""
        return min((self.kinds[need].held for need in needs), default=Held.FULLY)

    def lacking(self, needs: Iterable[Records]) -> list[Records]:
        """Return the kinds of records that are not recorded at all."""
        return [need for need in needs if self.kinds[need].held is Held.NOT]


def coverage_of(partial: Partial, hz: float | None) -> Coverage:
    """Return what the traces that ``partial`` was made from cover.

    Args:
        hz: TSC rate, for times in the reasons; None where it is not known.
    """
    mismatches = _sum(partial, Metric.STATE_MISMATCH, "count")
    return Coverage(
        kinds=_kinds(partial, hz),
        pcpus=_pcpus(partial),
        missing_pcpus=sorted(set(partial.named_pcpus["pcpu"].tolist()) - set(partial.pcpus["pcpu"].tolist())),
        contradiction_count=mismatches,
        unknown_cycles=_sum(partial, Metric.STATE_UNKNOWN, "sum_cycles"),
        lost_cycles=_sum(partial, Metric.STATE_LOST, "sum_cycles"),
        is_skewed=len(skewed_pairs(partial)) > 0,
        has_cores=bool(partial.facts["core_files"].sum()),
        hole_count=int(partial.facts["hole_count"].sum()),
        hole_cycles=int(partial.facts["hole_cycles"].sum()),
        silence_cycles=int(partial.facts["silence_cycles"].sum()),
        hidden_hole_count=int(partial.facts["hidden_hole_count"].sum()),
        quiet_end_count=int(partial.facts["quiet_end_count"].sum()),
        left_out_count=int((partial.facts["intervals_left_out"] + partial.facts["vcpus_left_out"]).sum()),
        shared_count=int(partial.facts["shared_files"].sum()),
        holes=[HoleCovered(row["pcpu"], row["begin_tsc"], row["end_tsc"]) for row in partial.holes.rows()],
    )


def _kinds(partial: Partial, hz: float | None) -> dict[Records, KindCovered]:
    files = partial.trace_count
    span = int(partial.facts["span_cycles"].sum())
    group = group_of(partial.records["header"])
    known = recorded_groups(partial)
    kinds = {}
    for records in Records:
        kind = records.value
        count = int(partial.records["count"][np.isin(group, list(kind.groups))].sum())
        recorded = max((known.get(one, 0) for one in kind.groups), default=0)
        if recorded >= files:
            kinds[records] = KindCovered(Held.FULLY, count)
        elif recorded:
            reason = f"{kind.what} are recorded in {recorded} of {files} traces"
            kinds[records] = KindCovered(Held.IN_PART, count, reason)
        else:
            reason = f"no record of {kind.what} in {_span_text(span, hz)}"
            kinds[records] = KindCovered(Held.NOT, count, reason)
    kinds[Records.ENTRIES] = _entries(partial, kinds, span, hz)
    return kinds


def recorded_groups(partial: Partial) -> dict[int, int]:
    """Return, by group of records, how many traces have it recorded."""
    classes = partial.classes.sums(["group"], ["files"])
    return dict(zip(classes["group"].tolist(), classes["files"].tolist(), strict=True))


def _entries(
    partial: Partial, kinds: Mapping[Records, KindCovered], span: int, hz: float | None
) -> KindCovered:
    """Return whether the hypercalls of all busy guests are recorded; PV and HVM guests have their own."""
    found = kinds[Records.ENTRIES]
    if kinds[Records.PV].held is Held.FULLY and kinds[Records.HANDLERS].held is Held.FULLY:
        return found
    busy = _busy(partial, span)
    silent = busy.where(busy["type"] == 0)
    if not len(silent):
        return found
    what = f"{len(silent)} busy vCPU{'s' if len(silent) > 1 else ''}"
    reason = f"no record of guests' hypercalls in {_span_text(span, hz)} of {what}"
    return KindCovered(Held.IN_PART if found.count else Held.NOT, found.count, reason)


def _busy(partial: Partial, span: int) -> Columns:
    """Return the guests' vCPUs that ran so much that they must have entered Xen, with their type."""
    tallies = partial.tallies
    runs = tallies.where(tallies["metric"] == int(Metric.RUNNING)).sums(["a"], ["count", "sum_cycles"])
    ran = runs.where((runs["count"] >= _BUSY_RUNS) & (runs["sum_cycles"] >= span * _BUSY_SHARE))
    busy = partial.vcpus.where(np.isin(partial.vcpus["vcpu"], ran["a"]))
    return busy.where(are_guests(busy["vcpu"]))


def _pcpus(partial: Partial) -> list[PcpuCovered]:
    cycles = {
        metric: _by_pcpu(partial, metric)
        for metric in (Metric.PCPU_RUNNING, Metric.PCPU_IDLE, Metric.PCPU_LOST, Metric.PCPU_UNKNOWN)
    }
    groups = partial.pcpus.grouped(["pcpu"])
    firsts, lasts = groups.min("first_tsc").tolist(), groups.max("last_tsc").tolist()
    return [
        PcpuCovered(
            pcpu=pcpu,
            covered_cycles=cycles[Metric.PCPU_RUNNING].get(pcpu, 0) + cycles[Metric.PCPU_IDLE].get(pcpu, 0),
            lost_cycles=cycles[Metric.PCPU_LOST].get(pcpu, 0),
            unknown_cycles=cycles[Metric.PCPU_UNKNOWN].get(pcpu, 0),
            first_tsc=first,
            last_tsc=last,
        )
        for pcpu, first, last in zip(groups.keys["pcpu"].tolist(), firsts, lasts, strict=True)
    ]


def _by_pcpu(partial: Partial, metric: Metric) -> dict[int, int]:
    rows = partial.tallies.where(partial.tallies["metric"] == int(metric)).sums(["a"], ["sum_cycles"])
    return dict(zip(rows["a"].tolist(), rows["sum_cycles"].tolist(), strict=True))


def _sum(partial: Partial, metric: Metric, column: str) -> int:
    tallies = partial.tallies
    return int(tallies[column][tallies["metric"] == int(metric)].sum())


def _span_text(span: int, hz: float | None) -> str:
    return f"{span / hz:.3g} s" if hz else f"{span:,} cycles"


def coverage_object(coverage: Coverage) -> dict[str, object]:
    """Return the coverage as the JSON report has it."""
    return {
        "records": [
            {
                "kind": records.name.lower(),
                "what": records.value.what,
                "classes": list(records.value.names),
                "masks": records.value.masks,
                "recorded": _HELD_NAMES[kind.held],
                "count": kind.count,
                "reason": kind.reason,
            }
            for records, kind in coverage.kinds.items()
        ],
        "pcpus": [pcpu._asdict() for pcpu in coverage.pcpus],
        "missing_pcpus": list(coverage.missing_pcpus),
        "contradiction_count": coverage.contradiction_count,
        "has_all_pcpus": coverage.has_all_pcpus,
        "unknown_cycles": coverage.unknown_cycles,
        "lost_cycles": coverage.lost_cycles,
        "core_scheduling": coverage.has_cores,
        "hole_count": coverage.hole_count,
        "hole_cycles": coverage.hole_cycles,
        "silence_cycles": coverage.silence_cycles,
        "hidden_hole_count": coverage.hidden_hole_count,
        "quiet_end_count": coverage.quiet_end_count,
        "shared_count": coverage.shared_count,
        "holes": [hole._asdict() for hole in coverage.holes],
    }


_HELD_NAMES = {Held.NOT: "no", Held.IN_PART: "in part", Held.FULLY: "yes"}
