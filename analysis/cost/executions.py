"""How often did each site of a guest execute, according to counters, paths and the trace?

Every site has an interval.  It starts as "0 to no upper bound" and is narrowed repeatedly until nothing
changes, by:

- a counter of the guest: of a site, of the calls to a function, or of all sites of a kind together;
- in dom0, bpf's count of the calls to a function: a certain lower and an inferred upper bound
  (summary/dom0_calls);
- the paths through a function: the least and the most executions of its sites in one call;
- the paths through an upcall, times the upcalls that the trace is sure of.

Known bias: sites are assumed to execute as they are in the image file (not as Linux patched it), and every
call that began to have ended.  A fact that contradicts earlier ones is reported and not used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from xtrace.analysis.cost.guest_counters import Rates
from xtrace.analysis.measures.table import Quality
from xtrace.symbols.sites.execution_bounds import SitePaths
from xtrace.symbols.sites.model import Kind, Site

F64 = npt.NDArray[np.float64]

#: A counter with one of these names counts all sites of a kind; the kind "pending test" is pending_test.
KINDS = {str(kind).replace(" ", "_"): kind for kind in Kind if kind is not Kind.DEBUG_READ}
#: Counters that are compared with the trace.
CHECKED = ("upcall", "force_callback", "pending_found", "block", "yield")
#: Events may be counted a little earlier or later than they are traced: that is not a contradiction.
TOLERANCE_RATIO, TOLERANCE_COUNT = 0.02, 2.0
_ROUNDS = 20
#: Standard deviations of a 95 % interval, for a count of random events.
_SIGMAS = 1.96
_SITE = re.compile(r"(.+)\+(0x[0-9a-fA-F]{1,16})", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Group:
    """Sites whose executions are counted only as a sum.

    Attributes:
        members: indices of the sites.
        low, high: bounds of the sum.
    """

    members: tuple[int, ...]
    low: float
    high: float


@dataclass(slots=True)
class Executions:
    """How often sites executed, one entry per site.

    Attributes:
        low, high: bounds over the traced time; inf without an upper bound.
        quality: how well they are known: exact, bounded or inferred.
        rule: where the bounds come from, in words.
        groups: the known sums.
        conflicts: facts that contradict each other, one sentence each.
        unused: counters that name nothing in the image.
    """

    low: F64
    high: F64
    quality: list[Quality]
    rule: list[str]
    groups: tuple[Group, ...]
    conflicts: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)


def executions(
    paths: SitePaths,
    upcalls_least: float,
    rates: Rates | None = None,
    span_s: float | None = None,
    calls: Mapping[str, tuple[float, float]] | None = None,
) -> Executions:
    """Return how often each site of ``paths`` executed.

    Args:
        upcalls_least: upcalls that the trace is sure of.
        rates: the guest's counters.
        span_s: the trace's length; None if the TSC rate is not known.
        calls: calls to functions in the traced time, counted from outside: the least, and the most, which is
            inferred.
    """
    bounds = _Bounds(paths)
    counts = {} if rates is None else _over(rates, span_s)
    groups = _put_counters(bounds, paths, counts)
    functions = _functions(paths)
    for name, (low, high) in (calls or {}).items():
        if name in functions:
            bounds.called(functions[name], low, high, name)
    if paths.upcall is not None:
        least = paths.upcall.least * upcalls_least
        for place in np.flatnonzero(least > 0).tolist():
            bounds.at_least(place, least[place], "the paths through an upcall")
    bounds.settle(groups)
    measured = rates is not None and rates.seconds is not None
    return Executions(
        _unrounded(bounds.low),
        _unrounded(bounds.high),
        [bounds.quality(place, measured) for place in range(len(paths.sites))],
        [bounds.rule(place, paths) for place in range(len(paths.sites))],
        tuple(groups),
        bounds.conflicts,
        [name for name in counts if name not in bounds.used and name not in CHECKED],
    )


def _unrounded(counts: F64) -> F64:
    """Remove rounding errors near whole numbers: an upper bound of 31.999999999999996 would exclude 32."""
    whole = np.rint(counts)
    return np.where(np.isclose(counts, whole, rtol=1e-12, atol=0.0), whole, counts)


def _over(rates: Rates, span_s: float | None) -> dict[str, tuple[float, float]]:
    """Return each counter's interval over the trace's span; empty if the counters cannot be scaled to it."""
    factor = rates.over(span_s)
    if factor is None:
        return {}
    found = {}
    for name, count in rates.counts.items():
        error = 0.0
        if rates.seconds is not None:
            # The counted events are not those of the traced time: both numbers vary.
            seen = count * factor
            error = _SIGMAS * np.sqrt(seen + (factor * seen if rates.counted else 0.0))
        found[name] = (max(count * factor - error, 0.0), count * factor + error)
    return found


@dataclass(slots=True)
class _Calls:
    """Bounds of the calls to a function, the rule for each, and whether it is inferred."""

    low: float = 0.0
    high: float = float("inf")
    low_rule: str = ""
    high_rule: str = ""
    low_inferred: bool = False
    high_inferred: bool = False


class _Bounds:
    """Intervals of the executions of sites and the calls to functions, with the rules they come from."""

    def __init__(self, paths: SitePaths) -> None:
        count = len(paths.sites)
        self.low, self.high = np.zeros(count), np.full(count, np.inf)
        self.conflicts: list[str] = []
        self.used: set[str] = set()
        self._sites = paths.sites
        self._low_rule, self._high_rule = [""] * count, [""] * count
        self._low_inferred, self._high_inferred = [False] * count, [False] * count
        self._call = paths.call
        self._members: dict[int, list[int]] = {}
        for place, start in enumerate(paths.starts):
            self._members.setdefault(start, []).append(place)
        self._calls = {start: _Calls() for start in self._members}
        self._changed = False

    def at_least(self, place: int, low: float, rule: str, inferred: bool = False) -> None:
        """Raise the lower bound of a site."""
        if low <= self.low[place] * (1 + 1e-12):
            return
        if low > _more(self.high[place]):
            self._conflict(place, f"at least {low:,.0f} times according to {rule}")
            return
        self.low[place], self._low_rule[place] = min(low, self.high[place]), rule
        self._low_inferred[place] = inferred
        self._changed = True

    def at_most(self, place: int, high: float, rule: str, inferred: bool = False) -> None:
        """Lower the upper bound of a site."""
        if high >= self.high[place] * (1 - 1e-12):
            return
        if _more(high) < self.low[place]:
            self._conflict(place, f"at most {high:,.0f} times according to {rule}")
            return
        self.high[place], self._high_rule[place] = max(high, self.low[place]), rule
        self._high_inferred[place] = inferred
        self._changed = True

    def call(
        self, start: int, low: float, high: float, rule: str, inferred: tuple[bool, bool] = (False, False)
    ) -> None:
        """Narrow the calls to a function."""
        calls = self._calls[start]
        if calls.low * (1 + 1e-12) < low <= _more(calls.high):
            calls.low, calls.low_rule, calls.low_inferred = min(low, calls.high), rule, inferred[0]
            self._changed = True
        if calls.low <= _more(high) and high < calls.high * (1 - 1e-12):
            calls.high, calls.high_rule, calls.high_inferred = max(high, calls.low), rule, inferred[1]
            self._changed = True

    def called(self, start: int, low: float, high: float, name: str) -> None:
        """Narrow the calls to a function by bpf's count, or record a conflict with what is known."""
        calls = self._calls[start]
        if low > _more(calls.high) or _more(high) < calls.low:
            told = f"at least {low:,.0f}" if low > calls.high else f"at most {high:,.0f}"
            known = f"{calls.low:,.0f} to {calls.high:,.0f} according to {calls.low_rule or calls.high_rule}"
            self.conflicts.append(f"{name} was called {told} times according to bpf's count, but {known}")
            return
        self.call(start, low, high, f"bpf's count of calls to {name}", (False, True))

    def settle(self, groups: Sequence[Group]) -> None:
        """Narrow every interval by the others until nothing changes."""
        for _ in range(_ROUNDS):
            self._changed = False
            for group in groups:
                self._share_out(group)
            for start, members in self._members.items():
                self._by_function(start, members)
            if not self._changed:
                return

    def _share_out(self, group: Group) -> None:
        members = list(group.members)
        low, high = float(self.low[members].sum()), float(self.high[members].sum())
        kind = self._sites[members[0]].kind
        if low > _more(group.high) or _more(high) < group.low:
            told = f"at least {low:,.0f}" if low > group.high else f"at most {high:,.0f}"
            text = (
                f"all {kind} sites: counted {group.low:,.0f} to {group.high:,.0f}, but executed {told} times"
            )
            if text not in self.conflicts:
                self.conflicts.append(text)
            return
        rule = f"the counter {str(kind).replace(' ', '_')}"
        if len(members) > 1:
            rule += " minus the other sites of its kind"
        for place in members:
            others = [item for item in members if item != place]
            inferred = any(self._low_inferred[item] for item in others)
            self.at_most(place, max(group.high - (low - self.low[place]), 0.0), rule, inferred)
            rest = float(self.high[others].sum())
            inferred = any(self._high_inferred[item] for item in others)
            self.at_least(place, group.low - rest, rule, inferred)

    def _by_function(self, start: int, members: Sequence[int]) -> None:
        least, most = self._call.least, self._call.most
        for place in members:
            sure = self._low_rule[place] or self._high_rule[place]
            low = self.low[place] / most[place] if 0 < most[place] < np.inf else 0.0
            high = self.high[place] / least[place] if least[place] > 0 else np.inf
            self.call(start, low, high, sure, (self._low_inferred[place], self._high_inferred[place]))
        calls = self._calls[start]
        for place in members:
            if least[place] > 0:
                self.at_least(place, calls.low * least[place], _through(calls.low_rule), calls.low_inferred)
            if 0 < most[place] < np.inf:
                self.at_most(place, calls.high * most[place], _through(calls.high_rule), calls.high_inferred)
            elif most[place] == 0:
                self.at_most(place, 0.0, "no path through its function executes it")

    def _conflict(self, place: int, text: str) -> None:
        site = self._sites[place]
        by = self._low_rule[place] or self._high_rule[place]
        known = f"{self.low[place]:,.0f} to {self.high[place]:,.0f} according to {by}"
        told = f"{site.kind} at {site.address:#x} executed {text}, but {known}"
        if told not in self.conflicts:
            self.conflicts.append(told)

    def quality(self, place: int, measured: bool) -> Quality:
        """Return the quality of a site's executions."""
        if self._low_inferred[place] or self._high_inferred[place]:
            return Quality.INFERRED
        if self.low[place] != self.high[place]:
            return Quality.INFERRED if measured and np.isfinite(self.high[place]) else Quality.BOUNDED
        return Quality.INFERRED if measured else Quality.EXACT

    def rule(self, place: int, paths: SitePaths) -> str:
        """Return what a site's interval is based on, in words."""
        low, high = self._low_rule[place], self._high_rule[place]
        if np.isinf(self.high[place]):
            at_least = f"lower bound: {low}" if low else "no lower bound"
            return f"{at_least}; no counter gives an upper bound"
        if low == high or not low:
            return high
        return f"{low}; {high}"


def _more(value: float) -> float:
    return value * (1 + TOLERANCE_RATIO) + TOLERANCE_COUNT


def _through(rule: str) -> str:
    return (
        rule
        if not rule or rule.endswith("paths through its function")
        else f"{rule}, paths through its function"
    )


def _put_counters(
    bounds: _Bounds, paths: SitePaths, counts: Mapping[str, tuple[float, float]]
) -> list[Group]:
    """Narrow the intervals by counters of sites and functions; return a group for each counter of a kind."""
    places = {site.address: place for place, site in enumerate(paths.sites)}
    named = {_name(site): place for place, site in enumerate(paths.sites) if site.symbol}
    functions = _functions(paths)
    groups = []
    for name, (low, high) in counts.items():
        place = _place_of(name, places, named)
        start = functions.get(name.removesuffix("()"))
        rule = f"the counter {name}"
        if place is not None:
            bounds.at_least(place, low, rule)
            bounds.at_most(place, high, rule)
        elif name in KINDS:
            members = tuple(place for place, site in enumerate(paths.sites) if site.kind is KINDS[name])
            if not members:
                continue
            groups.append(Group(members, low, high))
        elif start is not None:
            bounds.call(start, low, high, f"calls to {name.removesuffix('()')}")
        else:
            continue
        bounds.used.add(name)
    return groups


def _functions(paths: SitePaths) -> dict[str, int]:
    """Return the start address of each function that has a site, by its name and its aliases."""
    return {
        name: start
        for site, start in zip(paths.sites, paths.starts, strict=True)
        if site.symbol
        for name in (site.symbol, *site.aliases)
    }


def _place_of(name: str, places: Mapping[int, int], named: Mapping[str, int]) -> int | None:
    if re.fullmatch(r"0x[0-9a-fA-F]{1,16}", name):
        return places.get(int(name, 16))
    found = _SITE.fullmatch(name)
    return None if found is None else named.get(f"{found[1]}+{int(found[2], 16):#x}")


def _name(site: Site) -> str:
    return f"{site.symbol}+{site.offset:#x}"
