"""Turn a guest's own fenced sites into loops: each site as compiled, and the same without its fence.

Each site has two bodies.  The core starts where the pointer to vcpu_info is loaded, if that is close to the
site's own instruction, and otherwise at that instruction.  The other one, for the context
"site", also has the instructions before it, and is called as a function if the path through it is a
whole call.  Each is built with the fence, without it, and, if the fence is a call, without what only
that call makes necessary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from xtrace.symbols.flow.code import Code
from xtrace.symbols.image.image import Image
from xtrace.symbols.replay.memory import STACK_POINTER, Cell, Needs, needs
from xtrace.symbols.replay.path import NotReplayableError, Step, Way, WayFinder
from xtrace.symbols.replay.timed_loop import Body
from xtrace.symbols.sites.model import Fence, Kind, Site, SiteTable
from xtrace.symbols.x86.decode import RBP, RSP, Flow, Insn, InsnDecoder
from xtrace.symbols.x86.encode import Assembler, At, Gpr, Label, plain_access

REPLAYED_KINDS = (Kind.MASK, Kind.RESTORE, Kind.UNMASK)
_STORED = (*REPLAYED_KINDS, Kind.PENDING_CLEAR, Kind.PENDING_SET, Kind.SELECTOR_TAKE, Kind.SELECTOR_SET)
_FREE = (15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 2, 1, 0, 3, 5)
_KEPT_BY_CALLEES = frozenset((3, 5, 12, 13, 14, 15))
_LEAST_WIDE = 1 << 31


@dataclass(frozen=True, slots=True)
class Variants:
    """The bodies of one path: with the fence, without it, and also without what only its call needs.

    Attributes:
        lean: None if the fence is not a call, if other calls remain, or if nothing can be dropped.
    """

    fenced: Body
    plain: Body
    lean: Body | None


@dataclass(frozen=True, slots=True)
class Replay:
    """A fence of a site, ready to be replayed.

    Attributes:
        fence_name: the calibration's name for it, "" if it has none.
        core, whole: None if it cannot be replayed; ``reason`` says why.
        steps: the instructions of ``whole``, with those of callees; for inspection.
        called: ``whole`` is called as a function.
    """

    site: Site
    fence: Fence
    fence_name: str
    core: Variants | None
    whole: Variants | None
    reason: str
    steps: tuple[Step, ...] = ()
    called: bool = False


def replays(image: Image, table: SiteTable) -> Iterator[Replay]:
    """Yield the fences of an image's masks, restores and unmasks, ready to be replayed or with why not.

    Args:
        table: from find_sites(image).
    """
    code = Code(image, table.facts.hypercall_page)
    borders = {site.address for site in table.sites if site.kind in _STORED}
    finder = WayFinder(code, borders)
    for site in table.sites:
        if site.kind in REPLAYED_KINDS:
            for fence in site.fences:
                yield _replay(image.bits, finder, site, fence)


def name_of(fence: Fence) -> str:
    """Return the calibration's name for a fence: all locked instructions but xchg cost what lock add does."""
    if fence.mnemonic in ("lfence", "mfence", "sfence", "xchg"):
        return fence.mnemonic
    return "lock add" if fence.mnemonic.startswith("lock ") else ""


def _replay(bits: int, finder: WayFinder, site: Site, fence: Fence) -> Replay:
    name = name_of(fence)
    try:
        if not name:
            raise NotReplayableError(f"{fence.mnemonic} is not a fence that is replayed")
        if bits != 64:
            raise NotReplayableError("it is 32-bit code")
        way = finder.way(site.address, fence.address, fence.position)
        access = fence.position == "access"
        # Code further away that cannot be replayed is left out: the site and its fence remain.
        core, _ = _first_of(_cores(way), access)
        whole, chosen = _first_of(_wholes(way), access)
    except NotReplayableError as error:
        return Replay(site, fence, name, None, None, str(error))
    return Replay(site, fence, name, core, whole, "", chosen.steps, chosen.called)


@dataclass(frozen=True, slots=True)
class _Cut:
    """A part of a path; ``called`` if it is a whole call."""

    steps: tuple[Step, ...]
    called: bool = False


def _cores(way: Way) -> list[_Cut]:
    """Return candidates for the core: from the loads of the site's pointer, or from the site on."""
    starts = dict.fromkeys((way.pointer, way.first))
    return [_Cut(_inline(way.steps[start:end])) for start in starts for end in (None, way.last + 1)]


def _wholes(way: Way) -> list[_Cut]:
    """Return candidates with the instructions before the site, the longest first."""
    whole = [_Cut(way.steps, called=True)] if way.whole else []
    return [*whole, _Cut(_inline(way.steps)), _Cut(_inline(way.steps[: way.last + 1])), *_cores(way)]


def _first_of(cuts: Sequence[_Cut], access: bool) -> tuple[Variants, _Cut]:
    """Return the variants of the first cut that can be replayed, and the cut.

    Raises:
        NotReplayableError: none can; the reason is that of the last and shortest.
    """
    reason = NotReplayableError("nothing is left to replay")
    for cut in cuts:
        try:
            return _variants(cut.steps, access, called=cut.called), cut
        except NotReplayableError as error:
            reason = error
    raise reason


def _inline(steps: Sequence[Step]) -> tuple[Step, ...]:
    """Return the steps without the return at their end, to run inline."""
    last = steps[-1]
    return tuple(steps[:-1] if last.insn.flow is Flow.RETURN else steps)


def _variants(steps: tuple[Step, ...], access: bool, *, called: bool) -> Variants:
    without = tuple(_without_fence(steps, access, called=called))
    lean = _lean(steps, without, called=called)
    return Variants(
        body_of(steps, called=called),
        body_of(without, called=called),
        None if lean is None else body_of(lean, called=called),
    )


def _without_fence(steps: Sequence[Step], access: bool, *, called: bool) -> Iterator[Step]:
    for step in steps:
        if step.fence and access:
            yield _plainly(step)
        elif step.fence:
            if called and step.insn.flow is Flow.JUMP:
                yield _return_at(step.insn)
        elif step.callee is not None:
            yield replace(step, callee=tuple(_without_fence(step.callee, access, called=True)))
        else:
            yield step


def _return_at(insn: Insn) -> Step:
    return _decoded(b"\xc3", insn.address)


def _plainly(step: Step) -> Step:
    """Return an access that is a fence as one that is not.

    Raises:
        NotReplayableError: there is no such instruction.
    """
    try:
        return _decoded(plain_access(step.data, step.insn.address), step.insn.address)
    except ValueError as error:
        raise NotReplayableError(f"its access cannot be encoded without the fence: {error}") from None


def _decoded(data: bytes, address: int) -> Step:
    return Step(next(InsnDecoder(64).decode(data, address)), data)


# --- what only the call makes necessary ---


def _lean(fenced: Sequence[Step], plain: tuple[Step, ...], *, called: bool) -> tuple[Step, ...] | None:
    """Return the plain steps without what a compiler adds only around a call, None if there is nothing."""
    if not any(step.fence and step.callee is not None for step in fenced):
        return None
    if any(step.callee is not None for step in plain):
        return None
    dropped = _spills(plain)
    rest = [step for place, step in enumerate(plain) if place not in dropped]
    bare = [step for step in rest if not _makes_frame(step.insn) and not _brings_back(step.insn, rest)]
    if called and not any(_uses_stack(step.insn) for step in bare):
        rest = bare
    return tuple(rest) if len(rest) < len(plain) and rest else None


def _spills(steps: Sequence[Step]) -> set[int]:
    """Return the steps that only save a register to a stack slot and reload it."""
    slots: dict[tuple[int, int, int], list[int]] = {}
    for place, step in enumerate(steps):
        memory = step.insn.memory
        if memory is not None and memory.base in (RBP, RSP) and memory.index_register < 0:
            slots.setdefault((memory.base, memory.displacement, memory.size), []).append(place)
    found: set[int] = set()
    for places in slots.values():
        if len(places) != 2 or any(steps[place].insn.mnemonic != "mov" for place in places):
            continue
        stored, loaded = (steps[place].insn.operands for place in places)
        if stored[0].memory and loaded[1].memory and stored[1].register == loaded[0].register >= 0:
            found.update(places)
    return found


def _makes_frame(insn: Insn) -> bool:
    """Return whether an instruction is of a prologue or epilogue: saved registers, frame, stack space."""
    registers = [item.register for item in insn.operands]
    if insn.mnemonic in ("push", "pop"):
        return registers[0] in _KEPT_BY_CALLEES
    if insn.mnemonic == "leave":
        return True
    if insn.mnemonic == "mov":
        return registers in ([RBP, RSP], [RSP, RBP])
    return insn.mnemonic in ("add", "sub", "and") and registers == [RSP, -1] and insn.memory is None


def _brings_back(insn: Insn, steps: Sequence[Step]) -> bool:
    """Return whether an instruction reloads a pushed register from the frame, as is done before leave."""
    memory = insn.memory
    if insn.mnemonic != "mov" or memory is None or memory.base not in (RBP, RSP) or memory.size != 8:
        return False
    register = insn.operands[0].register
    pushed = {item.insn.operands[0].register for item in steps if item.insn.mnemonic == "push"}
    stored = any(item.insn.memory == memory and item.insn.operands[0].memory for item in steps)
    return register in pushed & _KEPT_BY_CALLEES and not stored


def _uses_stack(insn: Insn) -> bool:
    if insn.flow is Flow.RETURN:
        return False
    memory = insn.memory
    named = memory is not None and (memory.base in (RSP, RBP) or memory.index_register == RBP)
    return named or any(item.register in (RSP, RBP) for item in insn.operands) or insn.mnemonic == "push"


# --- machine code ---


def body_of(steps: Sequence[Step], *, called: bool) -> Body:
    """Return the steps as the body of a loop that accesses only private memory.

    Raises:
        NotReplayableError: that is not possible.
    """
    found = needs(steps, whole=called)
    free = [number for number in _FREE if number not in found.used]
    if not free:
        raise NotReplayableError("it uses all registers: none is left for the loop counter")
    emitter = _Emitter(tuple(steps), found, called=called)
    try:
        trial = Assembler()
        emitter.emit(trial)
        emitter.functions(trial)
        trial.op("NOPD")
        trial.code(0x5000_0000)
    except (ValueError, KeyError) as error:
        raise NotReplayableError(f"it cannot be encoded: {error}") from None
    chain = free[1] if len(free) > 1 else -1
    return Body(emitter.emit, emitter.begin, emitter.functions, free[0], chain, found.stack)


class _Emitter:
    """Encode steps.

    Args:
        called: the steps are a function, which the loop calls.
    """

    def __init__(self, steps: tuple[Step, ...], found: Needs, *, called: bool) -> None:
        self._steps = steps
        self._needs = found
        self._called = called
        self._written = {number for step in steps for number in _all_written(step)}
        self._functions: list[tuple[Label, tuple[Step, ...], int]] = []

    def begin(self, asm: Assembler) -> None:
        """Add what is done once: set pointers in memory and registers that no step writes."""
        for cell, value in self._needs.cells:
            _fill(asm, cell, value)
        for number, value in self._needs.registers:
            if number not in self._written:
                _set(asm, number, value)

    def emit(self, asm: Assembler) -> None:
        """Add one execution."""
        self._functions = []
        for number, value in self._needs.registers:
            if number in self._written:
                _set(asm, number, value)
        _set(asm, RSP, STACK_POINTER)
        if self._called:
            label = asm.label()
            asm.op("CALL_REL32_64", label)
            self._functions.append((label, self._steps, 0))
        else:
            self._write(asm, self._steps, 0, called=False)

    def functions(self, asm: Assembler) -> None:
        """Add the functions that are called."""
        while self._functions:
            label, steps, place = self._functions.pop(0)
            for _ in range(16):
                asm.op("NOPD")
            asm.mark(label)
            self._write(asm, steps, place, called=True)

    def _write(self, asm: Assembler, steps: Sequence[Step], place: int, *, called: bool) -> None:
        """Add steps; ``place`` counts them in execution order, as ``needs`` does."""
        for step in steps:
            flow = step.insn.flow
            if step.callee is not None:
                label = asm.label()
                # A tail jump's callee returns for its caller; if the steps run inline, it must be a call.
                jumps = flow is Flow.JUMP and called
                asm.op("JMP_REL32_64" if jumps else "CALL_REL32_64", label)
                self._functions.append((label, step.callee, place + 1))
            elif flow is Flow.RETURN:
                asm.op("RETNQ")
            elif flow in (Flow.CONDITIONAL, Flow.JUMP):
                following = asm.label()
                asm.copy(step.data, step.insn.address, target=following)
                asm.mark(following)
            elif step.insn.mnemonic in ("nop", "endbr64"):
                asm.raw(step.data)
            else:
                asm.copy(step.data, step.insn.address, absolute=self._needs.absolute.get(place))
            place += 1 + sum(_count(inner) for inner in step.callee or ())


def _count(step: Step) -> int:
    return 1 + sum(_count(inner) for inner in step.callee or ())


def _all_written(step: Step) -> Iterator[int]:
    yield from step.insn.written
    for inner in step.callee or ():
        yield from _all_written(inner)


def _set(asm: Assembler, number: int, value: int) -> None:
    if value < _LEAST_WIDE:
        asm.op("MOV_R32_IMM32", Gpr(number, 4), value)
    else:
        asm.op("MOV_R64_IMM64", Gpr(number), value)


def _fill(asm: Assembler, cell: Cell, value: int) -> None:
    if cell.size < 4:
        for place in range(cell.size):
            asm.op("MOV_RM8_IMM8", At(-1, cell.address + place), _signed(value >> (8 * place), 8))
        return
    for place in range(0, cell.size, 4):
        asm.op("MOV_RM32_IMM32", At(-1, cell.address + place), _signed(value >> (8 * place), 32))


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value
