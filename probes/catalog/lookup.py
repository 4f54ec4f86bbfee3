"""Look up a record's shape: its id, number of extra words, and whether it is timed."""

from __future__ import annotations

from xtrace.probes.catalog import (
    credit,
    credit2,
    dom0op,
    gen,
    hvm,
    hvm_emul,
    hw,
    mem,
    null,
    pv,
    rtds,
    sched,
    shadow,
)
from xtrace.probes.catalog.types import NEWEST, Event, Layout, Match, VersionRange
from xtrace.probes.format import GUEST_CLASS_BIT

_MODULES = (gen, sched, credit, credit2, rtds, null, dom0op, hvm, hvm_emul, mem, pv, shadow, hw)

#: All events by id; those that share an id are ordered oldest first.
EVENTS: tuple[Event, ...] = tuple(
    sorted(
        (event for module in _MODULES for event in module.EVENTS),
        key=lambda event: (event.id, event.layouts[0].since if event.layouts else NEWEST),
    )
)

_BY_ID: dict[int, tuple[Event, ...]] = {}
for _event in EVENTS:
    _BY_ID[_event.id] = (*_BY_ID.get(_event.id, ()), _event)


def all_events() -> tuple[Event, ...]:
    """Return all events of the catalogue, ordered by id."""
    return EVENTS


def by_id(event_id: int) -> tuple[Event, ...]:
    """Return the events that have ``event_id`` in some version, oldest first; () for an unknown id."""
    return _BY_ID.get(GUEST_CLASS_BIT if event_id & GUEST_CLASS_BIT else event_id, ())


def readings(event_id: int, words: int, timed: bool) -> list[tuple[Event, Layout]]:
    """Return all (event, layout) that a shape can have in any version, oldest first."""
    found = [
        (event, layout) for event in by_id(event_id) for layout in event.layouts if layout.fits(words, timed)
    ]
    found.sort(key=lambda reading: reading[1].since)
    return found


def find(event_id: int, words: int, timed: bool, versions: VersionRange) -> Match | None:
    """Return how to decode a record of a shape that one of ``versions`` wrote.

    Returns:
        None for an id that no version has.
    """
    events = by_id(event_id)
    if not events:
        return None
    possible = [
        (event, layout)
        for event, layout in readings(event_id, words, timed)
        if versions.overlaps(layout.since, layout.until)
    ]
    if not possible:
        known = [
            event
            for event in events
            if any(versions.overlaps(layout.since, layout.until) for layout in event.layouts)
        ]
        return Match((known or list(events))[-1], None, "length")
    event, layout = possible[-1]
    # Layouts with the same fields are not alternatives.
    others = tuple(
        (other, old) for other, old in possible[:-1] if other is not event or old.text != layout.text
    )
    return Match(event, layout, "ambiguous" if others else "exact", others)
