"""Find the Xen versions that can have written a trace, from the shapes of its records.

A trace does not contain the version, but ids and lengths change between versions.  Every shape
(id, extra words, timed or not) is legal in some versions; the result is the versions in which
all of a trace's shapes are legal.  The absence of an event proves nothing: it may have been
filtered out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from xtrace.probes import event_ids as ids
from xtrace.probes.catalog.lookup import by_id, find, readings
from xtrace.probes.catalog.types import NEWEST, OLDEST, Version, VersionRange

#: Event id, number of extra words, timed, number of records.
Shape = tuple[int, int, bool, int]

# A shape this rare among the records of its id is treated as damage if it
# contradicts the rest, and never narrows the range.
_RARE_COUNT = 8
_RARE_SHARE = 1e-4

_ALL = (1 << (NEWEST.minor - OLDEST.minor + 1)) - 1

_INTR = ids.HVM_INTR
_SMI = 0x82011
_SWITCH_INFNEXT = 0x2800F
_SHARED_EXITS = frozenset({ids.HVM_VMX_EXIT, ids.HVM_VMX_EXIT | ids.WIDE})
_PM_IDLE_4_0 = frozenset({(ids.PM_IDLE_ENTRY_4_0, 4), (ids.PM_IDLE_EXIT_4_0, 6)})


@dataclass(frozen=True, slots=True)
class Detection:
    """The versions that can have written a trace.

    Attributes:
        range: the versions in which every shape is legal, or that explain most of the records.
        evidence: why the range is not wider, one line for each shape that narrowed it.
        conflicts: shapes that the range does not explain, including those treated as damage.
        notes: what to know when reading the values of these records.
    """

    range: VersionRange
    evidence: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Clue:
    """An observation, the versions that allow it as bits from 4.0 up, and how often it was seen."""

    text: str
    versions: int
    count: int


def detect(shapes: Iterable[Shape]) -> Detection:
    """Return the versions that can have written records with these ``shapes``."""
    counts: dict[tuple[int, int, bool], int] = defaultdict(int)
    of_id: dict[int, int] = defaultdict(int)
    for event_id, words, timed, count in shapes:
        if count > 0:
            counts[event_id, words, bool(timed)] += count
            of_id[event_id] += count

    clues: list[_Clue] = []
    rare: list[_Clue] = []
    unknown: dict[int, int] = defaultdict(int)
    for (event_id, words, timed), count in sorted(counts.items()):
        if not by_id(event_id):
            unknown[event_id] += count
            continue
        clue = _Clue(_shape_text(event_id, words, timed), _legal(event_id, words, timed), count)
        is_rare = count < _RARE_COUNT and count < _RARE_SHARE * of_id[event_id]
        (rare if is_rare else clues).append(clue)
    clues += _vendor_clues(counts)

    versions, rejected = _agree(clues)
    span = _hull(versions)
    explained = [shape for shape in counts if _legal(*shape) & versions]
    return Detection(
        span,
        _evidence(clues, versions),
        (
            *(_conflict(clue, span) for clue in rejected),
            *(
                f"{clue.text}: {clue.count:,} among many other records of that id, treated as damage"
                for clue in rare
                if not clue.versions & versions
            ),
        ),
        (*_notes(explained, span), *_unknown_note(unknown)),
    )


def _legal(event_id: int, words: int, timed: bool) -> int:
    """Return the versions in which a shape is legal, as bits."""
    bits = 0
    for _, layout in readings(event_id, words, timed):
        last = NEWEST if layout.until is None else layout.until
        bits |= (2 << (last.minor - OLDEST.minor)) - (1 << (layout.since.minor - OLDEST.minor))
    return bits


def _vendor_clues(counts: dict[tuple[int, int, bool], int]) -> list[_Clue]:
    """Return a clue if exits under the VMX ids come from an AMD host: since 4.19 SVM has its own ids.

    Only SVM writes SMI records, and INTR records without a vector.
    """
    amd = sum(n for (event_id, words, _), n in counts.items() if event_id in (_INTR, _SMI) and words == 0)
    intel = sum(n for (event_id, words, _), n in counts.items() if event_id == _INTR and words == 1)
    shared = sum(n for (event_id, _, _), n in counts.items() if event_id in _SHARED_EXITS)
    if not shared or amd < _RARE_COUNT or amd <= intel:
        return []
    before_4_19 = (1 << (19 - OLDEST.minor)) - 1
    return [_Clue("vmexit with an id that both vendors share, on an AMD host", before_4_19, min(amd, shared))]


def _agree(clues: list[_Clue]) -> tuple[int, list[_Clue]]:
    """Return the versions that explain most records, and the clues they do not explain.

    If several explain equally many records, the newest one decides: the result is it and the versions
    that explain the same clues.
    """
    newest = max(
        range(_ALL.bit_length()),
        key=lambda bit: (sum(clue.count for clue in clues if clue.versions >> bit & 1), bit),
    )
    versions = _ALL
    rejected = []
    for clue in clues:
        if clue.versions >> newest & 1:
            versions &= clue.versions
        else:
            rejected.append(clue)
    return versions, rejected


def _evidence(clues: list[_Clue], versions: int) -> tuple[str, ...]:
    """Return the clues that narrow the range, strongest first, without redundant ones."""
    lines = []
    left = _ALL
    used = (clue for clue in clues if clue.versions & versions)
    for clue in sorted(used, key=lambda clue: (clue.versions.bit_count(), -clue.count)):
        if left & ~clue.versions:
            left &= clue.versions
            lines.append(f"{clue.text}: {_bits_text(clue.versions)}")
    return tuple(lines)


def _conflict(clue: _Clue, span: VersionRange) -> str:
    if not clue.versions:
        return f"{clue.text}: {clue.count:,} seen, but no known version writes it"
    return f"{clue.text}: {clue.count:,} seen, only in {_bits_text(clue.versions)}; the rest suggest {span}"


def _notes(shapes: list[tuple[int, int, bool]], span: VersionRange) -> list[str]:
    notes = []
    ids = {event_id for event_id, _, _ in shapes}
    if _SWITCH_INFNEXT in ids and span.overlaps(Version(4, 13), None):
        when = "" if span.low >= (4, 13) else " if this is Xen 4.13 or later"
        notes.append(
            f"switch_infnext: wait_ns counts from the last deschedule and includes blocked time{when}; "
            "use runstate_change for wait times"
        )
    if ids & _SHARED_EXITS and span.low < (4, 19):
        notes.append("vmexit: before Xen 4.19 AMD hosts use the VMX ids; the exit reasons show the vendor")
    if any((event_id, words) in _PM_IDLE_4_0 for event_id, words, _ in shapes):
        notes.append("ids 0x802001 and 0x802002 are pm_idle_entry and pm_idle_exit up to Xen 4.1")
    for event_id, words, timed in sorted(shapes):
        match = find(event_id, words, timed, span)
        if match is not None and match.quality == "ambiguous" and match.layout is not None:
            older = ", ".join(
                f"{_other_name(event.name, match.event.name)}Xen {VersionRange(layout.since, layout.until)}"
                for event, layout in match.alternatives
            )
            notes.append(
                f"{_shape_text(event_id, words, timed)} is decoded as in Xen {match.layout.since} and later; "
                f"its layout differs in {older}: give the version if you know it"
            )
    return notes


def _other_name(name: str, shown: str) -> str:
    return "" if name == shown else f"{name} of "


def _unknown_note(unknown: dict[int, int]) -> list[str]:
    if not unknown:
        return []
    most = sorted(unknown, key=lambda event_id: -unknown[event_id])
    some = ", ".join(f"{event_id:#x}" for event_id in most[:5]) + (", ..." if len(most) > 5 else "")
    return [f"{sum(unknown.values()):,} records with ids that no known version writes: {some}"]


def _shape_text(event_id: int, words: int, timed: bool) -> str:
    fitting = readings(event_id, words, timed)
    name = fitting[-1][0].name if fitting else by_id(event_id)[-1].name
    count = {0: "without words", 1: "with 1 word"}.get(words, f"with {words} words")
    # Mentioned only if the other form exists too, or if no version writes this shape.
    told = not fitting or readings(event_id, words, not timed)
    return f"{name} {count}" + ((", timed" if timed else ", untimed") if told else "")


def _hull(bits: int) -> VersionRange:
    low = Version(4, OLDEST.minor + (bits & -bits).bit_length() - 1)
    high = Version(4, OLDEST.minor + bits.bit_length() - 1)
    return VersionRange(low, None if high == NEWEST else high)


def _bits_text(bits: int) -> str:
    """Return versions given as bits as text, such as "4.8 or 4.11 or later"."""
    runs = []
    while bits:
        start = (bits & -bits).bit_length() - 1
        length = ((bits >> start) + 1 & -((bits >> start) + 1)).bit_length() - 1
        bits &= ~(((1 << length) - 1) << start)
        low, high = Version(4, OLDEST.minor + start), Version(4, OLDEST.minor + start + length - 1)
        if high == NEWEST:
            runs.append(f"{low} or later")
        elif low == OLDEST and high != low:
            runs.append(f"{high} or earlier")
        else:
            runs.append(str(low) if low == high else f"{low} to {high}")
    return " or ".join(runs)
