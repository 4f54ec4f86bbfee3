"""Compare two groups of captures, figure by figure.

Which figures of which domains differ between OLD and NEW by more than chance explains?  Each capture gives
one value per figure and domain.  The values of the two groups are compared by a rank test, and the p values
of all rows are adjusted together by Holm's method, so that the chance of even one false alarm among all rows
is at most 2 %.

Bias: repetitions must be independent and of the same load; ``warnings`` lists what in the captures speaks
against that.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from xtrace.analysis.comparison.distributions import GroupTimes, group_times
from xtrace.analysis.comparison.figures import (
    BY_NAME,
    FIGURES,
    HOST_LABEL,
    LOADS,
    Figure,
    Measured,
    Unit,
    measure,
)
from xtrace.analysis.comparison.rank_test import (
    ALPHA,
    holm,
    least_p,
    neighbours_correlate,
    rank_test,
    runs_needed,
    shift,
)
from xtrace.analysis.coverage.needs import Records
from xtrace.analysis.measures.table import Quality
from xtrace.analysis.summary.summary_file import Summary
from xtrace.probes.capture.layout import WITHOUT_TRACE
from xtrace.probes.errors import TraceError
from xtrace.probes.selection.vcpus import id_of

SCHEMA_VERSION = 2

#: Domain, figure, and its values in the old and the new captures.
_Row = tuple[str, Figure, tuple[tuple[float, ...], tuple[float, ...]]]

#: Differences of loads, lengths of captures, blind time and TSC rates that do not cause a warning.
_LOAD_RATIO = 0.10
_SPAN_RATIO = 2.0
_BLIND_RATIO = 0.01
_HZ_RATIO = 0.01
#: If neighbouring parts of a capture correlate by more than this, they are not independent.
_CORRELATION = 0.3
#: Lower rates are not a load worth comparing.
_LEAST_PER_S = 1.0


@dataclass(frozen=True, slots=True)
class Change:
    """A figure of a domain in both groups.

    Attributes:
        domain: its label.
        figure: what is compared.
        old, new: one value per capture; times in ns, or in cycles if no TSC rate is known.
        is_ratio: the change is a share of the old value; otherwise, if a value is 0, a difference in the
            figure's unit.
        change: the median of all changes from an old to a new capture.
        low, high: its 95 % interval, for this row alone; None if there are too few captures.
        p: p value of the rank test, for this row alone.
        p_together: p adjusted for all rows together.
        quality: how the figure is known in all of the captures.
    """

    domain: str
    figure: Figure
    old: tuple[float, ...]
    new: tuple[float, ...]
    is_ratio: bool
    change: float
    low: float | None
    high: float | None
    p: float
    p_together: float
    quality: Quality

    @property
    def differs(self) -> bool:
        """Whether the change is more than chance explains."""
        return self.p_together < ALPHA

    @property
    def old_median(self) -> float:
        """The median over the old captures."""
        return float(np.median(self.old))

    @property
    def new_median(self) -> float:
        """The median over the new captures."""
        return float(np.median(self.new))

    @property
    def rise_ratio(self) -> float:
        """The change as a share of the old median; infinite if the old median is 0."""
        if self.is_ratio or not self.change:
            return self.change
        return self.change / self.old_median if self.old_median else math.copysign(math.inf, self.change)


@dataclass(frozen=True, slots=True)
class Diff:
    """The result of a comparison.

    Attributes:
        old, new: the captures.
        changes: in the order of domains and figures.
        warnings: what speaks against the comparison, one sentence each.
        in_cycles: no TSC rate is known, so times are in cycles and there are no rates.
        runs_needed: repetitions per group that are needed to show a difference in this many rows.
    """

    old: tuple[Measured, ...]
    new: tuple[Measured, ...]
    changes: tuple[Change, ...]
    warnings: tuple[str, ...]
    in_cycles: bool
    runs_needed: int

    def can_tell(self, row: Change) -> bool:
        """Return whether a row has enough values to distinguish any change from chance."""
        return least_p(len(row.old), len(row.new)) * len(self.changes) < ALPHA


def diff(
    old: Sequence[Summary],
    new: Sequence[Summary],
    *,
    hz: float | None = None,
    figures: Collection[Figure] = FIGURES,
    domains: Collection[str] = (),
    renamed: Mapping[str, str] | None = None,
) -> Diff:
    """Compare two groups of captures, as compare() does, by their summaries.

    Args:
        hz: TSC cycles per second of all captures; None takes the rate that each capture has.

    Raises:
        TraceError: as compare() does, or a capture has no Xen trace.
    """
    for summary in (*old, *new):
        if summary.partial.is_dom0_only:
            raise TraceError(without_figures(summary.origin.name))
    measured = [measure(summary, hz) for summary in (*old, *new)]
    return compare(
        measured[: len(old)], measured[len(old) :], figures=figures, domains=domains, renamed=renamed
    )


def without_figures(name: object) -> str:
    """Return the message about a capture that has no Xen trace."""
    return f"{name}: {WITHOUT_TRACE}, whose figures diff compares; xtrace report reads it"


def compare(
    old: Sequence[Measured],
    new: Sequence[Measured],
    *,
    figures: Collection[Figure] = FIGURES,
    domains: Collection[str] = (),
    renamed: Mapping[str, str] | None = None,
) -> Diff:
    """Compare two groups of captures.

    Args:
        figures: what to compare.
        domains: those to compare, by id ("3", "d3"), name, or "host"; empty for all.
        renamed: what is the same domain, in ``old`` and in ``new``, named likewise.

    Raises:
        TraceError: the TSC rate is known for some captures only, a capture has two domains of the same label
            after renaming, or no capture has one of ``domains``.
        ValueError: a group is empty.
    """
    if not old or not new:
        raise ValueError("both groups need captures")
    _must_share_unit((*old, *new))
    new_labels = {text: _only_label(label, new) for text, label in (renamed or {}).items()}
    old = tuple(
        _renamed(capture, {_only_label(text, [capture]): label for text, label in new_labels.items()})
        for capture in old
    )
    seen = sorted({label for capture in (*old, *new) for label in capture.values}, key=_order)
    wanted: set[str] = set()
    for text in domains:
        found = _labels(text, new) or _labels(text, old)
        if not found:
            raise TraceError(f"no capture has the domain {text!r}; they have {', '.join(seen)}")
        wanted.update(found)
    paired: list[_Row] = [
        (domain, figure, (_values(old, domain, figure), _values(new, domain, figure)))
        for domain in seen
        if not wanted or domain in wanted
        for figure in figures
    ]
    # A row needs a value in every capture: those that have one may have it because of their load.
    rows = [
        row
        for row in paired
        if (len(row[2][0]), len(row[2][1])) == (len(old), len(new)) and any(map(any, row[2]))
    ]
    p_values = [rank_test(*values) for _, _, values in rows]
    changes = tuple(
        _change(domain, figure, *values, p, together, _quality(figure, (*old, *new)))
        for (domain, figure, values), p, together in zip(rows, p_values, holm(p_values), strict=True)
    )
    return Diff(
        old,
        tuple(new),
        changes,
        (
            *_of_number(old, new, len(changes)),
            *_of_not_recorded(old, new, figures),
            *_of_left_out([row for row in paired if _is_recorded((*old, *new), row[1])], len(old), len(new)),
            *_of_parts(old, new, changes),
            *_of_domains(old, new),
            *_of_loads(old, new),
            *_of_hosts(old, new),
        ),
        old[0].hz is None,
        runs_needed(max(len(changes), 1)),
    )


def json_object(diff: Diff) -> dict[str, Any]:
    """Return the comparison as one JSON object."""
    time_unit = "cycles" if diff.in_cycles else "ns"
    units = {Unit.TIME: time_unit, Unit.PER_S: "per_s", Unit.RATIO: "ratio"}
    return {
        "schema_version": SCHEMA_VERSION,
        "old": [capture.name for capture in diff.old],
        "new": [capture.name for capture in diff.new],
        "method": {
            "test": "Mann-Whitney, two-sided",
            "together": "Holm",
            "alpha": ALPHA,
            "tests": len(diff.changes),
            "runs_needed": diff.runs_needed,
        },
        "warnings": list(diff.warnings),
        "rows": [_row_object(row, units[row.figure.unit], diff.can_tell(row)) for row in diff.changes],
        "distributions": [_distribution_object(each, diff, time_unit) for each in _distributions(diff)],
    }


def json_text(diff: Diff) -> str:
    """Return the comparison as JSON text."""
    return json.dumps(json_object(diff), indent=1, allow_nan=False)


def _row_object(row: Change, unit: str, can_tell: bool) -> dict[str, Any]:
    return {
        "domain": row.domain,
        "metric": row.figure.name,
        "quality": str(row.quality),
        "unit": unit,
        "old_median": row.old_median,
        "new_median": row.new_median,
        "old_values": list(row.old),
        "new_values": list(row.new),
        "change_unit": "ratio" if row.is_ratio else unit,
        "change": row.change,
        "change_low": row.low,
        "change_high": row.high,
        "p": row.p,
        "p_together": row.p_together,
        "differs": row.differs,
        "can_tell": can_tell,
    }


def _distributions(diff: Diff) -> list[GroupTimes]:
    """Return the times from wake to running of the domains that are compared, if both groups have them."""
    return [
        group_times(
            domain, name, [capture.wake_times[domain] for capture in group if domain in capture.wake_times]
        )
        for domain in dict.fromkeys(row.domain for row in diff.changes)
        if all(any(domain in capture.wake_times for capture in group) for group in (diff.old, diff.new))
        for name, group in (("old", diff.old), ("new", diff.new))
    ]


def _distribution_object(times: GroupTimes, diff: Diff, unit: str) -> dict[str, Any]:
    figure = BY_NAME["wake_to_running_p50"]
    return {
        "domain": times.domain,
        "group": times.group,
        "figure": "wake_to_running",
        "quality": str(_quality(figure, diff.old if times.group == "old" else diff.new)),
        "unit": unit,
        "count": times.count,
        **times.quantiles,
        "upto": times.upto.tolist(),
        "upto_counts": times.upto_counts.tolist(),
    }


def _values(captures: Sequence[Measured], domain: str, figure: Figure) -> tuple[float, ...]:
    found = (capture.values.get(domain, {}).get(figure.name) for capture in captures)
    return tuple(value for value in found if value is not None)


def _quality(figure: Figure, captures: Sequence[Measured]) -> Quality:
    """Return how a figure is known in all captures: inferred where vCPUs ran on pCPUs without records."""
    is_whole = all(each.coverage is None or each.coverage.has_all_pcpus for each in captures)
    return figure.quality if is_whole or figure.quality is not Quality.EXACT else Quality.INFERRED


def _change(
    domain: str,
    figure: Figure,
    old: tuple[float, ...],
    new: tuple[float, ...],
    p: float,
    together: float,
    quality: Quality,
) -> Change:
    is_ratio = min(*old, *new) > 0
    found = shift(old, new, ratio=is_ratio)
    return Change(
        domain, figure, old, new, is_ratio, found.estimate, found.low, found.high, p, together, quality
    )


def _must_share_unit(captures: Sequence[Measured]) -> None:
    unknown = [capture.name for capture in captures if capture.hz is None]
    if unknown and len(unknown) < len(captures):
        raise TraceError(
            f"{unknown[0]}: its TSC rate is not known, unlike the others'; give --cpu-hz or a longer capture"
        )


def _renamed(capture: Measured, names: Mapping[str, str]) -> Measured:
    if not names:
        return capture
    labels = [names.get(label, label) for label in capture.values]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise TraceError(f"{capture.name}: --map gives two domains the same name: {twice[0]}")
    return replace(
        capture,
        values=dict(zip(labels, capture.values.values(), strict=True)),
        vcpu_counts={names.get(label, label): count for label, count in capture.vcpu_counts.items()},
        wake_times={names.get(label, label): times for label, times in capture.wake_times.items()},
    )


def _labels(text: str, captures: Sequence[Measured]) -> list[str]:
    """Return the labels, in these captures, of the domain that a user names."""
    number = None if text == HOST_LABEL else id_of(text)
    if number is None:
        found = {label for each in captures for label in each.values if label == text}
    else:
        found = {label for each in captures for label, key in each.ids.items() if key == number}
    return sorted(found)


def _only_label(text: str, captures: Sequence[Measured]) -> str:
    found = _labels(text, captures)
    if len(found) > 1:
        raise TraceError(f"--map: {text} is {' and '.join(found)}: give a name")
    return found[0] if found else text


def _order(label: str) -> tuple[bool, bool, int, str]:
    """Return the sort key of a label: domains by id, then domains by name, the host last."""
    number = label[1:]
    is_plain = label.startswith("d") and number.isascii() and number.isdigit()
    return label == HOST_LABEL, not is_plain, int(number) if is_plain else 0, label


# --- what speaks against the comparison --------------------------------------------------------


def _of_number(old: Sequence[Measured], new: Sequence[Measured], tests: int) -> list[str]:
    if not tests:
        return ["nothing to compare: no domain has a figure in both groups"]
    found = []
    if least_p(len(old), len(new)) * tests >= ALPHA:
        many = "one run each" if len(old) == len(new) == 1 else f"{len(old)} runs against {len(new)}"
        text = f"{many} cannot show what is chance: "
        text += f"with {tests} rows, " if tests > 1 else ""
        text += f"it takes {runs_needed(tests)} per side"
        fewest = runs_needed(1)
        if tests > 1 and min(len(old), len(new)) < fewest:
            text += f", {fewest} for a single row (--metric, --domain)"
        elif tests > 1:
            text += ", or fewer rows (--metric, --domain)"
        found.append(text)
    both = {capture.name for capture in old} & {capture.name for capture in new}
    if both:
        found.append(f"{min(both)} is in both groups, so they are not independent")
    return found


def _of_left_out(rows: Sequence[_Row], old_count: int, new_count: int) -> list[str]:
    """Warn of rows that are left out because some captures lack a value that others have."""
    some = [
        (domain, figure, values)
        for domain, figure, values in rows
        if all(map(any, values)) and (len(values[0]), len(values[1])) != (old_count, new_count)
    ]
    if not some:
        return []
    domain, figure, (was, now) = some[0]
    more = f", and {len(some) - 1} more" if len(some) > 1 else ""
    return [
        f"left out because some captures have too few intervals or lack the domain: {domain} {figure.name} "
        f"(in {len(was)} of {old_count} and {len(now)} of {new_count}){more}"
    ]


def _of_parts(old: Sequence[Measured], new: Sequence[Measured], changes: Sequence[Change]) -> list[str]:
    """Warn of windows of a trace used as repetitions, and of the correlation between them if it is high."""
    if not any(capture.is_part for capture in (*old, *new)):
        return []
    text = "parts of a capture are not repetitions: p is about these captures alone, not about the kernels"
    nearest = max(
        (
            (neighbours_correlate(values), row.domain, row.figure.name)
            for row in changes
            for values in (row.old, row.new)
        ),
        default=(0.0, "", ""),
    )
    if nearest[0] > _CORRELATION:
        text += (
            f"; neighbouring parts correlate ({nearest[1]} {nearest[2]}: {nearest[0]:.2f}), so p is too small"
        )
    return [text]


def _of_domains(old: Sequence[Measured], new: Sequence[Measured]) -> list[str]:
    found = []
    groups = {"old": old, "new": new}
    labels = {
        name: {label for capture in captures for label in capture.values} for name, captures in groups.items()
    }
    for here, there in (("old", "new"), ("new", "old")):
        if only := sorted(labels[here] - labels[there], key=_order):
            hint = "; --map OLD=NEW says which are the same" if labels[there] - labels[here] else ""
            found.append(f"only in {here}: {', '.join(only)}{hint}")
    for label in sorted(labels["old"] & labels["new"], key=_order):
        counts = [
            sorted({capture.vcpu_counts[label] for capture in captures if label in capture.vcpu_counts})
            for captures in (old, new)
        ]
        if counts[0] != counts[1]:
            was, now = (" or ".join(map(str, some)) or "none" for some in counts)
            found.append(f"{label} has {was} vCPUs in old, {now} in new")
    return found


def _of_loads(old: Sequence[Measured], new: Sequence[Measured]) -> list[str]:
    found = []
    labels = {label for capture in (*old, *new) for label in capture.values}
    for label in sorted(labels, key=_order):
        moved = []
        for name in LOADS:
            medians = [_median(captures, label, name) for captures in (old, new)]
            if None in medians or (name.endswith("_per_s") and max(m or 0 for m in medians) < _LEAST_PER_S):
                continue
            was, now = (median or 0.0 for median in medians)
            change = now / was - 1 if was else math.inf
            if abs(change) > _LOAD_RATIO and max(was, now) > _LOAD_RATIO * 0.1:
                moved.append((abs(math.log(now / was)) if was and now else math.inf, name, change))
        if moved:
            _, name, change = max(moved)
            percent = f"{change:+.0%}" if math.isfinite(change) else "from 0"
            found.append(f"{label}: the loads differ ({name} {percent}), which alone may change its times")
    return found


def _is_recorded(captures: Sequence[Measured], figure: Figure) -> bool:
    return not any(capture.lacks(figure) for capture in captures)


def _of_not_recorded(
    old: Sequence[Measured], new: Sequence[Measured], figures: Collection[Figure]
) -> list[str]:
    """Return what is not compared because the captures of a side do not have the records."""
    found = []
    for side, captures, others in (("OLD", old, new), ("NEW", new, old)):
        for records in Records:
            if not any(other.coverage and other.coverage.kinds[records].count for other in others):
                continue
            lacking = [capture for capture in captures if any(records in capture.lacks(f) for f in figures)]
            names = [figure.name for figure in figures if records in figure.needs]
            if lacking and names:
                of = f" ({len(lacking)} of {len(captures)} captures)" if len(captures) > 1 else ""
                what = f"not recorded in {side}{of}: {records.value.what}"
                found.append(f"{what}; not compared: {', '.join(names)}")
        apart = [c for c in captures if c.coverage and not c.coverage.has_all_pcpus]
        if apart:
            found.append(
                f"{apart[0].name}: vCPUs ran on pCPUs that {side} lacks: shares of their time are not "
                "compared, and times are those of a part"
            )
    return found


def _of_hosts(old: Sequence[Measured], new: Sequence[Measured]) -> list[str]:
    found = []
    blind = [_median(captures, HOST_LABEL, "pcpu_lost_share") or 0.0 for captures in (old, new)]
    if max(blind) > _BLIND_RATIO:
        found.append(
            f"pCPUs were blind {blind[0]:.1%} of the time in old, {blind[1]:.1%} in new: "
            "rates count only what was recorded, and long intervals are cut most often"
        )
    emulated = [{capture.emulated for capture in captures} for captures in (old, new)]
    if emulated[0] != emulated[1]:
        found.append("some hosts were emulated and some were not: their times cannot be compared")
    spans = [float(np.median([capture.span_s for capture in captures])) for captures in (old, new)]
    if min(spans) > 0 and max(spans) / min(spans) > _SPAN_RATIO:
        found.append(f"old captures last {spans[0]:.3g} s, new ones {spans[1]:.3g} s, so p99 may differ")
    rates = [capture.hz for capture in (*old, *new) if capture.hz]
    if rates and max(rates) / min(rates) - 1 > _HZ_RATIO:
        found.append(
            f"TSCs run at {min(rates) / 1e6:.0f} to {max(rates) / 1e6:.0f} MHz: the hosts differ in kind"
        )
    if not rates:
        found.append("no capture has a known TSC rate: times are in cycles, and there are no rates")
    if apart := next(
        (
            (one.versions, other.versions)
            for one in old
            for other in new
            if not one.versions.overlaps(other.versions.low, other.versions.high)
        ),
        None,
    ):
        found.append(f"old is from Xen {apart[0]}, new from Xen {apart[1]}")
    return found


def _median(captures: Sequence[Measured], label: str, name: str) -> float | None:
    found = (capture.values.get(label, {}).get(name) for capture in captures)
    values = [value for value in found if value is not None]
    return float(np.median(values)) if values else None
