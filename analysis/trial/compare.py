"""Compare two results of trials, group by group."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from xtrace.analysis.trial.result import Interval, Result


@dataclass(frozen=True, slots=True)
class Change:
    """What a group saves before and after: shares of the running time; the difference is new minus old."""

    name: str
    old: Interval
    new: Interval
    difference: Interval

    @property
    def may_be_chance(self) -> bool:
        """Return whether the difference's interval contains 0."""
        return not self.difference.excludes(0.0)


def json_object(old: Result, new: Result) -> dict[str, Any]:
    """Return the changes as JSON: ends and differences are shares of the running time."""
    rows = [{**asdict(change), "may_be_chance": change.may_be_chance} for change in changes(old, new)]
    both = [{"image": one.image, "build_id": one.build_id, "date": one.date} for one in (old, new)]
    return {"schema_version": 1, "mark": old.mark, "old": both[0], "new": both[1], "changes": rows}


def changes(old: Result, new: Result) -> list[Change]:
    """Return the change of each group that both have, in the order of the new one.

    The trials are independent, so the half-width is the root of the summed squares of both.
    """
    before = {group.name: group.saved for group in old.groups}
    found = []
    for group in new.groups:
        if group.name not in before:
            continue
        was, now = before[group.name], group.saved
        half = math.hypot(was.half, now.half)
        middle = now.value - was.value
        found.append(Change(group.name, was, now, Interval(middle, middle - half, middle + half)))
    return found
