"""Say which of the classes of records that a script requires are missing."""

from __future__ import annotations

from xtrace.analysis.coverage.coverage import Held, coverage_of, recorded_groups
from xtrace.analysis.coverage.needs import Records
from xtrace.analysis.summary.partial import Partial
from xtrace.probes.selection.event_masks import ALL_SUBCLASSES, NAMES, event_masks, passes


def lacking(partial: Partial, classes: str) -> list[str]:
    """Return the names of the required sub-classes that are not recorded in all traces.

    Args:
        classes: names or masks, as for xentrace -e; a whole class stands for those of its sub-classes that
            figures need.

    Raises:
        ValueError: as event_masks().
    """
    coverage = coverage_of(partial, None)
    lacks: dict[str, None] = {}
    every = [group for group, count in recorded_groups(partial).items() if count >= partial.trace_count]
    for mask in event_masks(classes):
        needed = [kind for kind in Records if _is_asked(kind, mask)]
        for kind in needed:
            if coverage.kinds[kind].held is not Held.FULLY:
                lacks |= dict.fromkeys(kind.value.names)
        if not needed and not any(passes(mask, group << 12) for group in every):
            lacks[f"{mask:#x}"] = None
    return list(lacks)


def _is_asked(kind: Records, mask: int) -> bool:
    """Return whether a mask asks for a kind of records, of a single sub-class."""
    if not kind.value.is_released and mask & ALL_SUBCLASSES == ALL_SUBCLASSES:
        return False  # the whole class of a Xen that does not have them
    return len(kind.value.names) == 1 and all(passes(mask, NAMES[name]) for name in kind.value.names)
