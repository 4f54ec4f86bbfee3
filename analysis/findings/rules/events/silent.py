"""Events that nobody handles, and vCPUs that are woken no more although events are sent to them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from xtrace.analysis.coverage.needs import ENTRIES, RUNSTATES, SWITCHES, Reach
from xtrace.analysis.findings.evidence import Evidence, Span, guests, vcpu_name
from xtrace.analysis.findings.finding import Found, Rule
from xtrace.analysis.measures.slots import Interval, Slots
from xtrace.analysis.measures.table import Quality
from xtrace.analysis.state_machine.kept import Slotted
from xtrace.analysis.state_machine.keys import domain_of, high_of, vcpu_of
from xtrace.analysis.state_machine.metrics import Metric
from xtrace.probes.words import count_of

_NEEDS = (RUNSTATES, SWITCHES, ENTRIES)
#: A vCPU that was woken less often may sleep long by chance.
_FEWEST_WAKES = 20
#: It is silent if it sleeps for so many times the mean time between its wakes, and the longest sleep before.
_TIMES_MEAN, _TIMES_LONGEST = 20, 3
#: Sends without a wake, and how much more often than before, that say that somebody still expects it.
_FEWEST_SENDS, _MORE_OFTEN = 20, 5
#: Nobody handles this many sends, and nobody does anything for so long.
_FEWEST_UNHANDLED = 20
_NOTE_S, _PROBLEM_S = 0.1, 1.0


def find_silent(evidence: Evidence) -> Iterator[Found]:
    """Yield vCPUs that other vCPUs woke, and that slept from a moment on while these went on sending."""
    slots = evidence.slots
    if len(evidence.measures.partial.spans) != 1:
        return
    last = int(slots.partial.spans["last_tsc"][0])
    slept = {row["a"]: row["max_cycles"] for row in evidence.measures.times(Metric.BLOCKED).rows()}
    woken = guests(evidence.measures.times_by_b(Metric.SEND_TO_WAKE))
    for key in np.unique(woken["a"]).tolist():
        begin = _blocked_until(slots.worst(Metric.OPEN, key), last)
        if begin is None or last <= begin:
            continue
        wakes = int(slots.series(Slotted.WAKES, key).counts.sum())
        before, silence = evidence.since_first(begin), last - begin
        if wakes < _FEWEST_WAKES or silence < _TIMES_MEAN * before / wakes:
            continue
        if silence < _TIMES_LONGEST * slept.get(key, 0):
            continue
        senders = woken["b"][woken["a"] == key].tolist()
        sent = sum(_sent_in_vain(evidence, sender, begin) for sender in senders)
        if sent < _FEWEST_SENDS:
            continue
        yield Found(
            is_problem=True,
            sentence=f"{vcpu_name(key)} is silent since {evidence.at(begin)}: {count_of(wakes, 'wake')} "
            f"before that, none in the {evidence.time(silence)} since, although "
            f"{_names(senders)} sent {count_of(sent, 'event')} that woke nobody",
            figures=(
                evidence.figure("silent_cycles", silence, Quality.EXACT, _NEEDS, Reach.VCPU),
                evidence.figure("wake_count", wakes, Quality.EXACT, _NEEDS),
                evidence.figure("unanswered_count", sent, Quality.INFERRED, _NEEDS, Reach.HOST),
            ),
            concerned_count=sent,
            concerned_cycles=silence,
            domain=domain_of(key),
            vcpu=vcpu_of(key),
            span=Span(begin - round(before / wakes), min(begin + round(10 * before / wakes), last)),
        )


def _blocked_until(opened: list[Interval], last: int) -> int | None:
    """Return since when a vCPU has been blocked at the trace's end; None where it is not."""
    for interval in opened:
        if high_of(interval.b) == int(Metric.BLOCKED) and interval.end_tsc == last:
            return interval.begin_tsc
    return None


def _sent_in_vain(evidence: Evidence, sender: int, since: int) -> int:
    """Return the sends that woke nobody since a moment, where these are much more frequent than before."""
    slots = evidence.slots
    counts = slots.series(Slotted.SENDS_UNANSWERED, sender).counts
    place = min(slots.place_after(since), slots.count)
    after = int(counts[place:].sum())
    before = int(counts[:place].sum())
    rate_after = after / max(int(slots.lengths[place:].sum()), 1)
    rate_before = before / max(int(slots.lengths[:place].sum()), 1)
    return after if rate_after >= _MORE_OFTEN * rate_before else 0


def _names(senders: list[int]) -> str:
    names = [vcpu_name(sender) for sender in senders[:2]]
    more = [f"{len(senders) - 2} more"] if len(senders) > 2 else []
    return " and ".join(names + more)


def find_unanswered(evidence: Evidence) -> Iterator[Found]:
    """Yield vCPUs whose sends woke nobody while no other guest's vCPU ran or was about to run.

    A port that is pending already, or masked, is usual; then those who are to handle it are awake, or will be
    soon.
    """
    slots = evidence.slots
    if not slots.has_one_axis or not evidence.coverage.has_all_pcpus:
        return
    active = slots.series(Slotted.RUNNING).totals + slots.series(Slotted.WAITING).totals
    active += slots.series(Slotted.OFFLINE).totals
    for sender, _ in slots.keys(Slotted.SENDS_UNANSWERED):
        own = slots.series(Slotted.RUNNING, sender).totals + slots.series(Slotted.WAITING, sender).totals
        own += slots.series(Slotted.OFFLINE, sender).totals
        counts = np.where(active == own, slots.series(Slotted.SENDS_UNANSWERED, sender).counts, -1)
        first, last = _longest(slots, counts >= 0)
        count = int(counts[first:last].sum())
        cycles = int(slots.lengths[first:last].sum())
        waking = int(slots.series(Slotted.SENDS_WAKING, sender).counts.sum())
        if count < _FEWEST_UNHANDLED or cycles < evidence.cycles(_NOTE_S) or not waking:
            continue
        others = (Slotted.SENDS_UNANSWERED, Slotted.SENDS_RUNNING)
        sends = waking + sum(int(slots.series(kind, sender).counts.sum()) for kind in others)
        yield Found(
            is_problem=cycles >= evidence.cycles(_PROBLEM_S),
            sentence=f"nobody handled {count:,} of {count_of(sends, 'event')} that {vcpu_name(sender)} sent, "
            f"for {evidence.time(cycles)}: they woke no vCPU, and no other ran or waited to run",
            figures=(
                evidence.figure("unhandled_count", count, Quality.BOUNDED, _NEEDS, Reach.HOST),
                evidence.figure("unhandled_cycles", cycles, Quality.BOUNDED, _NEEDS, Reach.HOST),
                evidence.figure("send_count", sends, Quality.EXACT, _NEEDS),
            ),
            concerned_count=count,
            concerned_cycles=cycles,
            domain=domain_of(sender),
            vcpu=vcpu_of(sender),
            span=Span(slots.begin_tsc(first), slots.end_tsc(first)),
            when="begins",
        )


def _longest(slots: Slots, chosen: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> tuple[int, int]:
    """Return (first, last + 1) of the longest run of chosen slots; (0, 0) where there is none."""
    best = (0, 0)
    begin = 0
    for place, holds in enumerate(chosen.tolist()):
        if not slots.follows(place) or not holds:
            begin = place
        if holds and place + 1 - begin > best[1] - best[0]:
            best = (begin, place + 1)
        if not holds:
            begin = place + 1
    return best


SILENT = Rule(
    "silent-vcpu",
    "vCPUs that are woken no more although events are sent to them",
    "",
    "a vCPU that others woke 20 times or more sleeps until the end of the trace, 20 times as long as between "
    "two wakes and three times as long as its longest sleep before, while those that woke it make 20 or more "
    "sends that wake nobody, five times as often as before",
    "none",
    "guests that handle their events",
    find_silent,
    needs=_NEEDS,
    needs_all_pcpus=True,
)
UNANSWERED = Rule(
    "unhandled-sends",
    "sends that cannot have been handled",
    "20 or more sends of a vCPU, which woke others before, wake nobody, and no other guest's vCPU runs, "
    "waits to run or is offline for 100 ms or more around them",
    "for 1 s or more",
    "up to 29 ms, where a port stays pending",
    "the console of a guest in the bundled sample",
    find_unanswered,
    needs=_NEEDS,
    needs_all_pcpus=True,
)
