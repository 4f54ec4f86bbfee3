"""The loops that a calibration times: standard sequences and an image's sites, laid out in one program."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from xtrace.probes.timing.calibration import (
    BOTH,
    CLOSE_CONTEXTS,
    COLD_CONTEXTS,
    CONTEXTS,
    FENCES,
    FIRST_ALONE,
    KINDS,
    SECOND_ALONE,
    VARYING_CONTEXTS,
)
from xtrace.probes.timing.pairs import Pair
from xtrace.probes.timing.program import Loop, Program
from xtrace.symbols.replay import sequences, timed_loop
from xtrace.symbols.replay.site_loop import Replay, Variants
from xtrace.symbols.sites.model import How

SITE, CLOSE = "site", "close"
#: Offsets from a 64-byte boundary at which the copies of a loop begin.
PLACES = (0, 16, 32, 48)
_ALIGNMENT = 64
_INT3 = 0xCC
#: Most bytes that the loops of one site may take.
_SITE_BYTES = 1 << 18
_LINKS = 200


@dataclass(frozen=True, slots=True)
class Planned:
    """A row to measure, with its loops.

    Attributes:
        address, build_id: of a site; None for a standard sequence.
        lean: the same fenced loops, paired with loops that also lack what only the call of the fence needs.
        note: a remark on the figure.
    """

    kind: str
    fence: str
    place: str
    context: str
    pair: Pair
    lean: Pair | None = None
    address: int | None = None
    build_id: str | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Substituted:
    """A row of a site that is not replayed: it gets the figure of the standard sequence."""

    kind: str
    fence: str
    standard_place: str
    context: str
    address: int
    build_id: str | None
    reason: str


class Builder:
    """Lay out loops after the driver, each at several places.

    Args:
        cold_bytes: how much memory the contexts that miss the TLB use, a power of 2; 0 leaves them out.
    """

    def __init__(self, seed: int, cold_bytes: int = 0) -> None:
        self._seed = seed
        self._cold_bytes = cold_bytes
        self._code = bytearray(timed_loop.driver())
        self._known: dict[bytes, tuple[Loop, ...]] = {}

    @property
    def contexts(self) -> tuple[str, ...]:
        """The contexts that loops are laid out in."""
        return tuple(name for name in CONTEXTS if self._cold_bytes or name not in COLD_CONTEXTS)

    @property
    def full(self) -> bool:
        """Whether no more sites fit."""
        return len(self._code) + _SITE_BYTES > timed_loop.CODE_BYTES

    def add(self, loop: timed_loop.LoopCode) -> tuple[Loop, ...]:
        """Return the copies of a loop; loops with equal code are laid out only once."""
        found = self._known.get(loop.code)
        if found is None:
            found = tuple(Loop(self._put(loop.code, place), loop.most_count) for place in PLACES)
            self._known[loop.code] = found
        return found

    def _put(self, code: bytes, place: int) -> int:
        self._code.extend([_INT3] * ((place - len(self._code)) % _ALIGNMENT))
        address = timed_loop.CODE_ADDRESS + len(self._code)
        self._code.extend(code)
        return address

    def program(self) -> Program:
        """Return the program with all loops added so far."""
        return Program(
            code=bytes(self._code),
            code_address=timed_loop.CODE_ADDRESS,
            data_address=timed_loop.DATA_ADDRESS,
            data_bytes=timed_loop.DATA_BYTES,
            count_offset=timed_loop.COUNT_OFFSET,
            index_offset=timed_loop.INDEX_OFFSET,
            sandbox_offset=timed_loop.SANDBOX_OFFSET,
            filter_offset=timed_loop.FILTER_OFFSET,
            schedule_offset=timed_loop.SCHEDULE_OFFSET,
            schedule_entries=timed_loop.SCHEDULE_ENTRIES,
            walls_offset=timed_loop.WALLS_OFFSET,
            pid_offset=timed_loop.PID_OFFSET,
            gaps_offset=timed_loop.GAPS_OFFSET,
            unmapped_offset=timed_loop.UNMAPPED_OFFSET,
            moved_offset=timed_loop.MOVED_OFFSET,
            stack_offset=timed_loop.STACK_OFFSET,
            returns_to=timed_loop.driver_returns_to(),
            guards=timed_loop.GUARDS,
            clock=timed_loop.clock_stub(),
            samples_offset=timed_loop.SAMPLES_OFFSET,
            sample_count=timed_loop.SAMPLE_COUNT,
            far_address=timed_loop.FAR_ADDRESS,
            far_bytes=timed_loop.FAR_BYTES,
            cold_address=timed_loop.COLD_ADDRESS if self._cold_bytes else 0,
            cold_bytes=self._cold_bytes,
            initial=(
                (timed_loop.ORDER_OFFSET, timed_loop.miss_order(self._seed)),
                *(timed_loop.cold_cells(self._cold_bytes) if self._cold_bytes else ()),
            ),
        )


@dataclass(frozen=True, slots=True)
class Probes:
    """Loops that show properties of the processor.

    Attributes:
        chain: ``links`` additions, each of which waits for the one before.
        dependent, independent: as many multiplications, in one chain and in several.
        missed, awaited: a load of a flushed line, without and with a fence that waits for it.
    """

    sampler: Loop
    chain: Loop
    dependent: Loop
    independent: Loop
    missed: Loop
    awaited: Loop
    links: int = _LINKS


def probes(builder: Builder) -> Probes:
    """Lay out the probes."""

    def put(loop: timed_loop.LoopCode) -> Loop:
        return builder.add(loop)[0]

    def chain(mnemonic: str, registers: tuple[int, ...]) -> Loop:
        return put(timed_loop.loop("empty", timed_loop.chain_body(_LINKS, mnemonic, registers)))

    return Probes(
        put(timed_loop.sampler()),
        chain("add", (0,)),
        chain("imul", (0,)),
        chain("imul", (0, 1, 2, 3, 6, 7)),
        put(timed_loop.loop("load_miss_1", sequences.body("mask", "", "inline"))),
        put(timed_loop.loop("load_miss_1", sequences.body("mask", "lfence", "inline"))),
    )


def standard(builder: Builder) -> Iterator[Planned]:
    """Lay out the standard sequences and yield their rows."""
    for kind in KINDS:
        for place in ("inline", "outofline"):
            for context in builder.contexts:
                if context == SITE:
                    continue
                varies = context in VARYING_CONTEXTS
                plain = builder.add(timed_loop.loop(context, sequences.body(kind, "", place)))
                for fence in FENCES:
                    fenced = builder.add(timed_loop.loop(context, sequences.body(kind, fence, place)))
                    yield Planned(kind, fence, place, context, Pair(fenced, plain, varies=varies))


def close_together(builder: Builder) -> Iterator[Planned]:
    """Lay out a mask and a restore right after each other, fenced both and each alone; yield the rows."""
    for context in builder.contexts:
        if context not in CLOSE_CONTEXTS:
            continue
        varies = context in VARYING_CONTEXTS
        plain = builder.add(timed_loop.loop(context, sequences.close_body("", first=False, second=False)))
        for fence in FENCES:
            for kind, first, second in (
                (BOTH, True, True),
                (FIRST_ALONE, True, False),
                (SECOND_ALONE, False, True),
            ):
                body = sequences.close_body(fence, first=first, second=second)
                fenced = builder.add(timed_loop.loop(context, body))
                yield Planned(kind, fence, CLOSE, context, Pair(fenced, plain, varies=varies))


def sites(builder: Builder, found: Iterable[Replay], build_id: str | None) -> Iterator[Planned | Substituted]:
    """Lay out an image's sites and yield their rows."""
    for replay in found:
        if not replay.fence_name:
            continue
        reason = "no room for the loops of more sites" if builder.full else replay.reason
        for context in builder.contexts:
            yield _site_row(builder, replay, context, build_id, reason)


def _site_row(
    builder: Builder, replay: Replay, context: str, build_id: str | None, reason: str
) -> Planned | Substituted:
    site, fence = replay.site, replay.fence
    variants = replay.whole if context == SITE else replay.core
    if variants is not None and not reason:
        try:
            pair, lean = _pairs(builder, context, variants)
        except ValueError as error:
            reason = str(error)
        else:
            note = "" if fence.mnemonic == replay.fence_name else f"the fence is {fence.mnemonic}"
            kind = str(site.kind)
            return Planned(kind, replay.fence_name, SITE, context, pair, lean, site.address, build_id, note)
    place = "inline" if fence.how is How.INLINE else "outofline"
    return Substituted(str(site.kind), replay.fence_name, place, context, site.address, build_id, reason)


def _pairs(builder: Builder, context: str, variants: Variants) -> tuple[Pair, Pair | None]:
    fenced = builder.add(timed_loop.loop(context, variants.fenced))
    plain = builder.add(timed_loop.loop(context, variants.plain))
    lean = None
    varies = context in VARYING_CONTEXTS
    if variants.lean is not None:
        lean = Pair(fenced, builder.add(timed_loop.loop(context, variants.lean)), True, varies)
    return Pair(fenced, plain, True, varies), lean
