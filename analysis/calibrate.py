"""Measure what fences cost on this host: the standard sequences, and an image's own sites.

The question: how many TSC cycles does a fence add to one execution, by what is in flight there?
Output: probes.calibration.Calibration, a row for each sequence and context: median and 95 % interval
in TSC cycles, measured on this host.

Known bias: executions come back to back, so that the unfenced sequence overlaps with the next, and
its predictions are always right; at the end of a run everything in flight is waited for, which in the
contexts that miss weighs 1 part in 64.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np

from xtrace.probes.calibration import CONTEXTS, FENCES, KINDS, Calibration, Row
from xtrace.probes.errors import TraceError
from xtrace.probes.timing import clock, host
from xtrace.probes.timing.native import Native
from xtrace.probes.timing.pairs import Difference, Pair, Pairs, Wanted
from xtrace.probes.timing.program import Loop, Program
from xtrace.probes.timing.session import ChildError, Session
from xtrace.symbols import harness, sequences

QUICK_S, USUAL_S = 3.0, 40.0
#: Where a copy of a loop begins in its 64 bytes.
_PLACES = (0, 16, 32, 48)
_ALIGNMENT = 64
_INT3 = 0xCC
_SITE = "site"
_LINKS = 200
_CHAIN_RUNS, _CHAIN_COUNT = 101, 50
#: Independent multiplications take a third of the time of dependent ones on hardware; interpreted or
#: translated one by one, they take the same.
_LEAST_OVERLAP = 1.3
_MOST_CLOCK_SPREAD = 0.10
_MOST_DROPPED = 0.30
_LEAST_TIGHT = 0.5
#: Contexts in which a quiet machine gives tight intervals for sure.
_STEADY = ("empty", "stores_8", "alu_chain")


@dataclass(frozen=True, slots=True)
class Settings:
    """How to calibrate.

    Attributes:
        seconds: for timing; what is not tight then stays so.
        cpu: the processor to time on; None takes the last one allowed.
        seed: of the order of the runs.
    """

    seconds: float = USUAL_S
    cpu: int | None = None
    seed: int = 0
    wanted: Wanted = field(default_factory=Wanted)


@dataclass(frozen=True, slots=True)
class _Measured:
    """A row to be measured, by its loops."""

    kind: str
    fence: str
    place: str
    context: str
    pair: Pair


class _Builder:
    """Lay loops out behind the driver, each at several places."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._code = bytearray(harness.driver())
        self._known: dict[bytes, tuple[Loop, ...]] = {}

    def add(self, loop: harness.LoopCode, places: Sequence[int] = _PLACES) -> tuple[Loop, ...]:
        """Return where the copies of a loop stand; equal loops are laid out once."""
        found = self._known.get(loop.code)
        if found is None:
            found = tuple(Loop(self._put(loop.code, place), loop.most_count) for place in places)
            self._known[loop.code] = found
        return found

    def _put(self, code: bytes, place: int) -> int:
        self._code.extend([_INT3] * ((place - len(self._code)) % _ALIGNMENT))
        address = harness.CODE_ADDRESS + len(self._code)
        self._code.extend(code)
        return address

    def program(self) -> Program:
        """Return the program so far."""
        if len(self._code) > harness.CODE_BYTES:
            raise TraceError("too many sites for one calibration; give an image with fewer")
        return Program(
            code=bytes(self._code),
            code_address=harness.CODE_ADDRESS,
            data_address=harness.DATA_ADDRESS,
            data_bytes=harness.DATA_BYTES,
            count_offset=harness.COUNT_OFFSET,
            index_offset=harness.INDEX_OFFSET,
            sandbox_offset=harness.SANDBOX_OFFSET,
            filter_offset=harness.FILTER_OFFSET,
            schedule_offset=harness.SCHEDULE_OFFSET,
            schedule_entries=harness.SCHEDULE_ENTRIES,
            samples_offset=harness.SAMPLES_OFFSET,
            sample_count=harness.SAMPLE_COUNT,
            initial=((harness.ORDER_OFFSET, harness.miss_order(self._seed)),),
        )


@dataclass(frozen=True, slots=True)
class _Probes:
    """Loops that say what the processor is like."""

    sampler: Loop
    chain: Loop
    dependent: Loop
    independent: Loop


@dataclass(frozen=True, slots=True)
class _Clocks:
    """What the probes said."""

    quantum_cycles: int
    core_per_tsc: tuple[float, ...]
    overlap: float


def calibrate(
    settings: Settings, progress: Callable[[str, float], None] = lambda _name, _share: None
) -> Calibration:
    """Measure this host.

    Args:
        progress: is told what is done, and how much of it.

    Raises:
        TraceError: timed code cannot run here.
    """
    if os.uname().machine != "x86_64":
        raise TraceError(f"calibrate times x86-64 code, and this machine is {os.uname().machine}")
    seen = host.signatures(Native(harness.cpuid_stub()))
    facts = host.facts(seen)
    read_clock = Native(harness.clock_stub())
    begin = clock.reading(read_clock)
    cpu = _cpu(settings.cpu)
    builder = _Builder(settings.seed)
    probes = _probes(builder)
    plan = list(_standard(builder))
    program = builder.program()
    with Session(program, cpu) as session:
        first = _clocks(session, probes)
    emulated = host.emulation(facts, seen) or _implausible(first)
    if emulated:
        return _calibration(settings, cpu, facts, begin, read_clock, first, (), "emulated", (emulated,))
    pairs = Pairs(lambda: Session(program, cpu), [item.pair for item in plan], settings.wanted, settings.seed)
    try:
        pairs.measure(time.monotonic() + settings.seconds, lambda share: progress("standard", share))
        found = pairs.differences()
    finally:
        pairs.close()
    with Session(program, cpu) as session:
        last = _clocks(session, probes)
    both = _Clocks(first.quantum_cycles, (*first.core_per_tsc, *last.core_per_tsc), first.overlap)
    rows = tuple(
        _row(item, difference, settings.wanted) for item, difference in zip(plan, found, strict=True)
    )
    noisy = _noise(rows, found, both)
    if noisy:
        return _calibration(settings, cpu, facts, begin, read_clock, both, (), "noisy", noisy)
    return _calibration(settings, cpu, facts, begin, read_clock, both, rows, "hardware", ())


def _cpu(wanted: int | None) -> int:
    allowed = os.sched_getaffinity(0)
    if wanted is None:
        # Interrupts tend to go to the first.
        return max(allowed)
    if wanted not in allowed:
        raise TraceError(f"processor {wanted} is none of those allowed here: {sorted(allowed)}")
    return wanted


def _probes(builder: _Builder) -> _Probes:
    def put(loop: harness.LoopCode) -> Loop:
        return builder.add(loop, _PLACES[:1])[0]

    def chain(mnemonic: str, registers: tuple[int, ...]) -> Loop:
        return put(harness.loop("empty", harness.chain_body(_LINKS, mnemonic, registers)))

    return _Probes(
        put(harness.sampler()), chain("add", (0,)), chain("imul", (0,)), chain("imul", (0, 1, 2, 3, 6, 7))
    )


def _standard(builder: _Builder) -> Iterable[_Measured]:
    for kind in KINDS:
        for place in ("inline", "outofline"):
            for context in CONTEXTS:
                if context == _SITE:
                    continue
                plain = builder.add(harness.loop(context, sequences.body(kind, "", place)))
                for fence in FENCES:
                    fenced = builder.add(harness.loop(context, sequences.body(kind, fence, place)))
                    yield _Measured(kind, fence, place, context, Pair(fenced, plain))


def _clocks(session: Session, probes: _Probes) -> _Clocks:
    """Measure the TSC's step, the core's clock against it, and whether instructions overlap."""

    def median(loop: Loop) -> float:
        entries = np.tile([loop.address, 5, _CHAIN_COUNT], (_CHAIN_RUNS, 1))
        return float(np.median(session.run(entries, 20.0)[0])) / (_CHAIN_COUNT * _LINKS)

    try:
        session.run(np.array([[probes.sampler.address, 1, 1]]), 20.0)
        cycles = [median(probes.chain) for _ in range(3)]
        overlap = median(probes.dependent) / median(probes.independent)
    except ChildError as error:
        raise TraceError(f"timed code cannot run here: {error.reason}") from None
    quantum = clock.quantum_cycles(session.samples)
    return _Clocks(quantum, tuple(1 / item for item in cycles), overlap)


def _implausible(clocks: _Clocks) -> str:
    if clocks.overlap >= _LEAST_OVERLAP:
        return ""
    return (
        f"independent multiplications take 1/{clocks.overlap:.2f} of the time of dependent ones: "
        "no x86-64 hardware is like that"
    )


def _noise(rows: Sequence[Row], found: Sequence[Difference], clocks: _Clocks) -> tuple[str, ...]:
    """Return why the figures deserve no trust, nothing where they do."""
    reasons = []
    ratios = clocks.core_per_tsc
    spread = (max(ratios) - min(ratios)) / min(ratios)
    if spread > _MOST_CLOCK_SPREAD:
        reasons.append(f"the core's clock changed by {spread:.0%} against the TSC")
    timed = sum(item.interval.count + item.dropped_count for item in found)
    dropped = sum(item.dropped_count for item in found) / max(timed, 1)
    if dropped > _MOST_DROPPED:
        reasons.append(f"{dropped:.0%} of the runs were interrupted")
    steady = [row for row in rows if row.context in _STEADY]
    tight = sum(row.tight for row in steady) / max(len(steady), 1)
    if tight < _LEAST_TIGHT:
        reasons.append(
            f"only {tight:.0%} of what is steady on a quiet machine became tight in the time given"
        )
    return tuple(reasons)


def _row(item: _Measured, found: Difference, wanted: Wanted) -> Row:
    interval = found.interval
    known = not np.isnan(interval.median)
    tight = known and wanted.tight(interval)
    note = found.failure
    if not note and not known:
        note = "the time given did not suffice for it"
    elif not note and not tight:
        note = "not tight in the time given, or places of the code differ"
    return Row(
        kind=item.kind,
        fence=item.fence,
        place=item.place,
        context=item.context,
        median_cycles=round(interval.median, 3) if known else None,
        low_cycles=round(interval.low, 3) if known else None,
        high_cycles=round(interval.high, 3) if known else None,
        pair_count=interval.count,
        tight=tight,
        note=note,
        fenced_cycles=round(found.fenced_cycles, 3) if known else None,
        plain_cycles=round(found.plain_cycles, 3) if known else None,
        dropped_count=found.dropped_count,
    )


def _with_times(row: Row, hz: float) -> Row:
    def ns(cycles: float | None) -> float | None:
        return None if cycles is None else round(cycles / hz * 1e9, 3)

    return replace(
        row, median_ns=ns(row.median_cycles), low_ns=ns(row.low_cycles), high_ns=ns(row.high_cycles)
    )


def _calibration(
    settings: Settings,
    cpu: int,
    facts: dict[str, str],
    begin: clock.Reading,
    read_clock: Native,
    clocks: _Clocks,
    rows: tuple[Row, ...],
    timing: str,
    notes: tuple[str, ...],
) -> Calibration:
    while (end := clock.reading(read_clock)).ns - begin.ns < 1e8:
        time.sleep(0.05)
    hz, error_hz = clock.rate_hz(begin, end)
    rows = tuple(_with_times(row, hz) for row in rows)
    return Calibration(
        host=facts,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        tsc_hz=round(hz, 1),
        tsc_quantum_cycles=clocks.quantum_cycles,
        core_per_tsc_ratio=round(float(np.median(clocks.core_per_tsc)), 4) if timing != "emulated" else None,
        timing="hardware" if timing == "hardware" else "emulated" if timing == "emulated" else "noisy",
        settings={
            "seconds": settings.seconds,
            "cpu": cpu,
            "seed": settings.seed,
            "width_cycles": settings.wanted.width_cycles,
            "width_ratio": settings.wanted.width_ratio,
            "run_cycles": settings.wanted.run_cycles,
            "place_count": len(_PLACES),
            "miss_passes": harness.MISS_PASSES,
            "tsc_hz_error": round(error_hz, 1),
        },
        rows=rows,
        notes=notes,
    )
