"""Measure what fences cost on this host, in standard sequences and at an image's own sites.

How many TSC cycles does a fence add to one execution, depending on what is in flight there?
Output: probes.timing.calibration.Calibration, with a row for each sequence and context: median and 95 %
interval in TSC cycles, measured on this host.

Known bias: executions come back to back, so an unfenced sequence overlaps with the next one, and branches
are always predicted.  In the contexts that miss, each execution waits for all before it and is followed by
work that does not depend on it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np

from xtrace.analysis.calibrate.plan import (
    PLACES,
    SITE,
    Builder,
    Planned,
    Probes,
    Substituted,
    close_together,
    probes,
    sites,
    standard,
)
from xtrace.probes.errors import TraceError
from xtrace.probes.timing import clock, this_host
from xtrace.probes.timing.calibration import Calibration, Row, Timing
from xtrace.probes.timing.interval import Interval
from xtrace.probes.timing.native import Native
from xtrace.probes.timing.pairs import Difference, Pair, Pairs, Wanted
from xtrace.probes.timing.program import Loop
from xtrace.probes.timing.session import ChildError, Session
from xtrace.symbols.replay import timed_loop
from xtrace.symbols.replay.site_loop import Replay

QUICK_S, USUAL_S = 3.0, 40.0
#: An image's sites are loops as well, and all get as much time as the others alone, up to so many times that.
_MOST_LONGER = 15
_CHAIN_RUNS, _CHAIN_COUNT, _MISS_RUNS = 101, 50, 25
#: On hardware, independent multiplications take a third of the time of dependent ones; interpreted or
#: translated one by one, both take the same time.
_LEAST_OVERLAP = 1.3
#: Least TSC cycles of a load from memory.  QEMU's TCG runs multiplications natively, but does nothing when a
#: line is to be flushed.
_LEAST_MISS_CYCLES = 40.0
_MOST_CLOCK_SPREAD = 0.10
_MOST_DROPPED = 0.30
_LEAST_TIGHT = 0.5
_MOST_WAITING = 0.05
#: Less memory than this is within reach of the TLB or the caches.
_LEAST_COLD_BYTES = 1 << 28
#: Contexts in which a quiet machine reliably gives tight intervals.
_STEADY = ("empty", "stores_8", "alu_chain")
_LEAST_SPAN_NS = 1e8
_UNCONFINED = (
    "this system gives no system-call filter (seccomp), or, to a user who is not root, no user namespace; "
    "an image's code runs only with both, or as root with the first"
)


@dataclass(frozen=True, slots=True)
class Settings:
    """How to calibrate.

    Attributes:
        seconds: time for measuring; rows that are not tight by then stay so.  None for the usual time,
            which grows with the number of an image's sites.
        cpu: the CPU to time on; None for the last one allowed.
        seed: for the order of the runs.
        cold: also measure the contexts that miss the TLB; they take up to 1 GB of memory.
    """

    seconds: float | None = None
    cpu: int | None = None
    seed: int = 0
    cold: bool = True
    wanted: Wanted = field(default_factory=Wanted)

    def usual_s(self, pair_count: int, own_count: int) -> float:
        """Return the time that pairs of loops usually need, of which ``own_count`` are not an image's."""
        longer = min(pair_count / max(own_count, 1), _MOST_LONGER)
        return round((USUAL_S if self.cold else QUICK_S) * longer)


@dataclass(frozen=True, slots=True)
class Guest:
    """An image whose sites are timed too."""

    replays: Sequence[Replay]
    build_id: str


@dataclass(frozen=True, slots=True)
class _Clocks:
    """What the probes measured.

    Attributes:
        overlap: time of dependent multiplications divided by that of independent ones.
        miss_cycles: time that a fence waits for a load of a flushed line.
    """

    quantum_cycles: int
    core_per_tsc: tuple[float, ...]
    overlap: float
    miss_cycles: float


def calibrate(
    settings: Settings,
    guest: Guest | None = None,
    progress: Callable[[float], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> Calibration:
    """Measure this host.

    Args:
        progress: called with the share of loop pairs that need no more timing.
        say: called with what the user should know before it begins.

    Raises:
        TraceError: timed code cannot run here.
    """
    if os.uname().machine != "x86_64":
        raise TraceError(f"calibrate times x86-64 code, but this machine is {os.uname().machine}")
    seen = this_host.signatures(Native(timed_loop.cpuid_stub()))
    facts = this_host.facts(seen)
    read_clock = Native(timed_loop.clock_stub())
    begin = clock.reading(read_clock)
    cpu = _cpu(settings.cpu)
    cold_bytes, memory_note = cold_memory(this_host.free_bytes()) if settings.cold else (0, "")
    looking = Builder(settings.seed)
    looks = probes(looking)
    first, confined, missing = _looked(looking, looks, cpu)
    emulated = this_host.emulation(facts, seen) or _implausible(first)
    rows: tuple[Row, ...] = ()
    timing: Timing = "emulated"
    notes: tuple[str, ...] = (emulated,)
    clocks = first
    waiting = 0.0
    if not emulated:
        builder = Builder(settings.seed, cold_bytes)
        plan: list[Planned | Substituted] = [*standard(builder), *close_together(builder)]
        if guest is not None:
            found = guest.replays if confined else _refused(guest.replays)
            plan += sites(builder, found, guest.build_id or None)
        wanted_pairs = _pairs(plan)
        own_count = sum(not pair.guest for pair in wanted_pairs)
        usual_s = settings.usual_s(len(wanted_pairs), own_count)
        seconds = usual_s if settings.seconds is None else settings.seconds
        guest_count = len(wanted_pairs) - own_count
        if settings.seconds is None and guest_count:
            say(f"{guest_count:,} pairs of loops are the image's: measuring takes {usual_s:.0f} s")
        settings = replace(settings, seconds=seconds)
        rows, differences, waiting, thrown = _measured(plan, wanted_pairs, builder, cpu, settings, progress)
        last, *_ = _looked(looking, looks, cpu)
        clocks = replace(first, core_per_tsc=(*first.core_per_tsc, *last.core_per_tsc))
        notes = _noise(rows, differences, waiting)
        if notes and seconds < usual_s:
            notes += (f"{len(wanted_pairs):,} pairs of loops usually take {usual_s:.0f} s",)
        timing = "noisy" if notes else "hardware"
        drift = _drift(clocks)
        if notes:
            rows = ()
        else:
            notes = tuple(_drift_note(drift)) + ((memory_note,) if memory_note else ())
            rows = tuple(_widened(row, drift, settings.wanted) for row in rows)
            if guest is not None:
                notes += (*_walls(missing), *thrown, *_unknown_fences(guest.replays))
    hz, hz_error = _rate(read_clock, begin)
    return Calibration(
        host=facts,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        tsc_hz=round(hz, 1),
        tsc_quantum_cycles=clocks.quantum_cycles,
        core_per_tsc_ratio=None if emulated else round(float(np.median(clocks.core_per_tsc)), 4),
        timing=timing,
        settings=_described(settings, cpu, hz_error, waiting, cold_bytes),
        rows=tuple(_with_times(row, hz) for row in rows),
        notes=notes,
    )


def _cpu(wanted: int | None) -> int:
    allowed = os.sched_getaffinity(0)
    if wanted is None:
        # Interrupts tend to go to the first CPU.
        return max(allowed)
    if wanted not in allowed:
        raise TraceError(f"CPU {wanted} is not one of those allowed here: {sorted(allowed)}")
    return wanted


def _refused(replays: Iterable[Replay]) -> list[Replay]:
    """Return the replays without their code: an image's code runs only in a confined child."""
    return [replace(item, core=None, whole=None, reason=item.reason or _UNCONFINED) for item in replays]


def _walls(missing: Sequence[str]) -> Iterable[str]:
    if missing:
        yield f"the image's code ran without: {'; '.join(missing)}"


def _unknown_fences(replays: Iterable[Replay]) -> Iterable[str]:
    for item in replays:
        if not item.fence_name:
            yield f"{item.site.address:#x}: {item.reason}"


# --- properties of the processor ---


def _looked(builder: Builder, looks: Probes, cpu: int) -> tuple[_Clocks, bool, tuple[str, ...]]:
    """Return what the probes measured, whether their child is confined, and which walls it lacks."""
    with Session(builder.program(), cpu) as session:
        try:
            return _clocks(session, looks), session.confined, session.missing
        except ChildError as error:
            raise TraceError(f"timed code cannot run here: {error.reason}") from None


def _clocks(session: Session, looks: Probes) -> _Clocks:
    def median(loop: Loop, runs: int = _CHAIN_RUNS, count: int = _CHAIN_COUNT) -> float:
        entries = np.tile([loop.address, 5, count], (runs, 1))
        return float(np.median(session.run(entries, 20.0)[0])) / count

    session.run(np.array([[looks.sampler.address, 1, 1]]), 20.0)
    cycles = [median(looks.chain) for _ in range(3)]
    return _Clocks(
        clock.quantum_cycles(session.samples),
        tuple(looks.links / item for item in cycles),
        median(looks.dependent) / median(looks.independent),
        median(looks.awaited, _MISS_RUNS, timed_loop.MISS_PASSES)
        - median(looks.missed, _MISS_RUNS, timed_loop.MISS_PASSES),
    )


def _implausible(clocks: _Clocks) -> str:
    """Return why these times are not those of x86-64 hardware, "" if they may be."""
    if clocks.overlap < _LEAST_OVERLAP:
        return f"dependent multiplications take only {clocks.overlap:.2f} times as long as independent ones"
    if clocks.miss_cycles < _LEAST_MISS_CYCLES:
        return f"a load of a flushed line takes {clocks.miss_cycles:.0f} TSC cycles: nothing was flushed"
    return ""


def _drift(clocks: _Clocks) -> float:
    """Return by which share the core's clock changed relative to the TSC; 0 if that is within its noise."""
    ratios = clocks.core_per_tsc
    spread = (max(ratios) - min(ratios)) / min(ratios)
    return spread if spread > _MOST_CLOCK_SPREAD else 0.0


def _drift_note(drift: float) -> Iterable[str]:
    if drift:
        yield (
            f"the core's clock changed by {drift:.0%} relative to the TSC: pairs of loops cancel that, but "
            f"a fence's TSC cycles follow the clock, so that intervals are {drift:.0%} wider on each side"
        )


def _widened(row: Row, drift: float, wanted: Wanted) -> Row:
    """Return a row with the intervals that a drift of the clock leaves: its figures scale with the clock."""
    if not drift:
        return row

    def around(median: float | None, low: float | None, high: float | None) -> tuple[float, float] | None:
        if median is None or low is None or high is None:
            return None
        return _wider(low, -drift), _wider(high, drift)

    plain = around(row.median_cycles, row.low_cycles, row.high_cycles)
    if plain is None or row.median_cycles is None:
        return row
    interval = Interval(row.median_cycles, *plain, row.pair_count)
    row = replace(row, low_cycles=plain[0], high_cycles=plain[1], tight=row.tight and wanted.tight(interval))
    lean = around(row.lean_median_cycles, row.lean_low_cycles, row.lean_high_cycles)
    return row if lean is None else replace(row, lean_low_cycles=lean[0], lean_high_cycles=lean[1])


def _wider(end: float, share: float) -> float:
    return round(end + share * abs(end), 3)


def cold_memory(free_bytes: int | None) -> tuple[int, str]:
    """Return how much memory the contexts that miss the TLB get, a power of 2, and a note if it is little.

    Args:
        free_bytes: memory that can be had; None if that is not known.
    """
    quarter = timed_loop.COLD_BYTES if free_bytes is None else free_bytes // 4
    if quarter >= timed_loop.COLD_BYTES:
        return timed_loop.COLD_BYTES, ""
    size = 1 << max(quarter.bit_length() - 1, 0)
    if size < _LEAST_COLD_BYTES:
        return 0, (
            f"{quarter >> 18:,} MB of memory are free: too few for misses that the TLB does not hold either"
        )
    return size, (
        f"misses that the TLB does not hold either are measured over {size >> 20} MB, not "
        f"{timed_loop.COLD_BYTES >> 20} MB: at most a quarter of the free memory"
    )


def _noise(rows: Sequence[Row], found: Sequence[Difference], waiting: float) -> tuple[str, ...]:
    """Return why the figures are not reliable; empty if they are."""
    reasons = []
    timed = sum(item.interval.count + item.dropped_count for item in found)
    dropped = sum(item.dropped_count for item in found) / max(timed, 1)
    if dropped > _MOST_DROPPED:
        reasons.append(f"{dropped:.0%} of the runs were interrupted")
    steady = [row for row in rows if row.context in _STEADY and row.place != SITE]
    tight = sum(row.tight for row in steady) / max(len(steady), 1)
    if tight < _LEAST_TIGHT:
        reasons.append(f"only {tight:.0%} of the rows that a quiet machine makes tight became tight in time")
    if reasons and waiting > _MOST_WAITING:
        reasons.append(f"other processes used the CPU for {waiting:.0%} of the time")
    return tuple(reasons)


def _rate(read_clock: Native, begin: clock.Reading) -> tuple[float, float]:
    while (end := clock.reading(read_clock)).ns - begin.ns < _LEAST_SPAN_NS:
        time.sleep(_LEAST_SPAN_NS / 2e9)
    return clock.rate_hz(begin, end)


# --- rows ---


def _pairs(plan: Sequence[Planned | Substituted]) -> list[Pair]:
    """Return the pairs of loops to time; identical sites share theirs."""
    planned = [item for item in plan if isinstance(item, Planned)]
    return list(dict.fromkeys(pair for item in planned for pair in (item.pair, item.lean) if pair))


def _measured(
    plan: Sequence[Planned | Substituted],
    wanted_pairs: Sequence[Pair],
    builder: Builder,
    cpu: int,
    settings: Settings,
    progress: Callable[[float], None],
) -> tuple[tuple[Row, ...], list[Difference], float, tuple[str, ...]]:
    """Return the rows, the differences of standard sequences, the share of waiting, what was thrown away."""
    program = builder.program()
    assert settings.seconds is not None
    pairs = Pairs(lambda: Session(program, cpu), wanted_pairs, settings.wanted, settings.seed)
    try:
        pairs.measure(time.monotonic() + settings.seconds, progress)
        differences = pairs.differences()
    finally:
        pairs.close()
    known = dict(zip(wanted_pairs, differences, strict=True))
    rows = tuple(_rows(plan, known, settings.wanted))
    # Whether the machine is quiet does not depend on what an image's code does.
    own = [found for pair, found in known.items() if not pair.guest]
    return rows, own, pairs.waiting_ratio, pairs.thrown_away


def _rows(
    plan: Sequence[Planned | Substituted], known: dict[Pair, Difference], wanted: Wanted
) -> Iterable[Row]:
    standards: dict[tuple[str, str, str, str], Row] = {}
    for item in plan:
        if isinstance(item, Substituted):
            yield _substitute(item, standards)
            continue
        row = _row(item, known, wanted)
        failure = known[item.pair].failure
        if item.place != SITE:
            standards[item.kind, item.fence, item.place, item.context] = row
        elif failure and item.address is not None:
            instead = Substituted(
                item.kind, item.fence, "inline", item.context, item.address, item.build_id, failure
            )
            row = _substitute(instead, standards)
        yield row


def _substitute(item: Substituted, standards: dict[tuple[str, str, str, str], Row]) -> Row:
    """Return the standard sequence's row for a site; for the context "site" that of the context "empty"."""
    context = "empty" if item.context == SITE else item.context
    row = standards[item.kind, item.fence, item.standard_place, context]
    return replace(
        row,
        place=SITE,
        context=item.context,
        address=item.address,
        build_id=item.build_id,
        stands_in=True,
        note=f"not replayed: {item.reason}; figure of the {item.standard_place} standard sequence",
    )


def _row(item: Planned, known: dict[Pair, Difference], wanted: Wanted) -> Row:
    found = known[item.pair]
    interval = found.interval
    measured = not np.isnan(interval.median)
    tight = measured and wanted.tight(interval)
    lean_failure = known[item.lean].failure if item.lean is not None else ""
    notes = [text for text in (item.note, found.failure, lean_failure and f"lean: {lean_failure}") if text]
    if not measured and not found.failure:
        notes.append("not measured in the time given")
    elif measured and not tight:
        notes.append("not tight in the time given, or copies at different addresses differ")
    row = Row(
        kind=item.kind,
        fence=item.fence,
        place=item.place,
        context=item.context,
        median_cycles=_rounded(interval.median),
        low_cycles=_rounded(interval.low),
        high_cycles=_rounded(interval.high),
        pair_count=interval.count,
        tight=tight,
        address=item.address,
        build_id=item.build_id,
        note="; ".join(notes),
        fenced_cycles=_rounded(found.fenced_cycles),
        plain_cycles=_rounded(found.plain_cycles),
        dropped_count=found.dropped_count,
    )
    if item.lean is None:
        return row
    lean = known[item.lean].interval
    return replace(
        row,
        lean_median_cycles=_rounded(lean.median),
        lean_low_cycles=_rounded(lean.low),
        lean_high_cycles=_rounded(lean.high),
    )


def _rounded(cycles: float) -> float | None:
    return None if np.isnan(cycles) else round(cycles, 3)


def _with_times(row: Row, hz: float) -> Row:
    def ns(cycles: float | None) -> float | None:
        return None if cycles is None else round(cycles / hz * 1e9, 3)

    return replace(
        row, median_ns=ns(row.median_cycles), low_ns=ns(row.low_cycles), high_ns=ns(row.high_cycles)
    )


def _described(
    settings: Settings, cpu: int, hz_error: float, waiting: float, cold_bytes: int
) -> dict[str, object]:
    return {
        "seconds": settings.seconds,
        "cpu": cpu,
        "seed": settings.seed,
        "width_cycles": settings.wanted.width_cycles,
        "width_ratio": settings.wanted.width_ratio,
        "run_cycles": settings.wanted.run_cycles,
        "place_count": len(PLACES),
        "miss_passes": timed_loop.MISS_PASSES,
        "tsc_hz_error": round(hz_error, 1),
        "waiting_ratio": round(waiting, 4),
        "cold_bytes": cold_bytes,
    }
