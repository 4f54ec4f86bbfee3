"""Which fences of an image can be turned into no-ops while it runs, and with which bytes.

Each exchange replaces one instruction by one of the same length, at the place that only this site executes:
the fence itself if it is inline, the call or tail jump if the fence is in a function.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from xtrace.symbols.flow.code import Code, fence_of
from xtrace.symbols.image.image import Image
from xtrace.symbols.patching.doses import doses
from xtrace.symbols.patching.exchange import Dose, Exchange, Refusal
from xtrace.symbols.patching.forms import noop, plain_return, store_of_exchange, without_lock
from xtrace.symbols.patching.leaf import PURE, RefusedError, leaf_of, must_be_idle
from xtrace.symbols.patching.liveness import flags_unused, register_unused
from xtrace.symbols.sites.model import Fence, How, Site, SiteTable, Verdict, where
from xtrace.symbols.x86.decode import Flow, Insn

#: Writes are whole within a page: whatever kills the writer, an instruction is never left half written.
_PAGE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Plan:
    """What can be exchanged in an image.

    Attributes:
        kept_count: fences whose verdict forbids it.
        verdicts: those of the fences that it allows.
        doses: functions with room for more fences.  dose_refusals: those without, and why.
    """

    exchanges: tuple[Exchange, ...]
    refusals: tuple[Refusal, ...]
    kept_count: int
    verdicts: frozenset[Verdict]
    doses: tuple[Dose, ...]
    dose_refusals: tuple[Refusal, ...]


def plan(image: Image, table: SiteTable, allowed: Collection[Verdict]) -> Plan:
    """Return what can be exchanged.

    Args:
        table: find_sites(image).
        allowed: verdicts of fences that may be removed.  An instruction is exchanged only if all fences
            that execute there are allowed.
    """
    code = Code(image, table.facts.hypercall_page)
    at: dict[int, list[tuple[Site, Fence]]] = {}
    for site in table.sites:
        for fence in site.fences:
            at.setdefault(fence.at, []).append((site, fence))
    exchanges: list[Exchange] = []
    refusals: list[Refusal] = []
    kept = 0
    verdicts: set[Verdict] = set()
    for address in sorted(at):
        pairs = at[address]
        wanted = [pair for pair in pairs if pair[1].verdict in allowed]
        if not wanted:
            kept += len(pairs)
            continue
        site, fence = wanted[0]
        verdicts |= {pair[1].verdict for pair in wanted}
        try:
            if len(wanted) < len(pairs):
                other = next(pair[1] for pair in pairs if pair[1].verdict not in allowed)
                raise RefusedError(f"another fence that executes there is {other.verdict}: {other.reason}")
            if image.bits != 64:
                raise RefusedError("only 64-bit code is exchanged")
            if site.patched:
                raise RefusedError(f"the kernel may change these bytes at run time ({site.patched})")
            exchanges.append(_exchange(code, address, wanted))
        except RefusedError as reason:
            refusals.append(Refusal(address, where(site), fence.mnemonic, str(reason)))
    return Plan(tuple(exchanges), tuple(refusals), kept, frozenset(verdicts), *doses(image, table))


def _exchange(code: Code, address: int, pairs: list[tuple[Site, Fence]]) -> Exchange:
    site, fence = pairs[0]
    insn = next(code.run(address), None)
    if insn is None:
        raise RefusedError("there is no code")
    original = code.image.read(address, insn.length)
    if address // _PAGE_BYTES != (insn.end - 1) // _PAGE_BYTES:
        raise RefusedError("the instruction crosses a page: it cannot be written in one piece")
    _, successors = code.graph(code.window(address)[0])
    if any(address < item < insn.end for place in successors for item in (place, *successors[place])):
        raise RefusedError("code jumps into the middle of the instruction")
    if fence.how is How.INLINE:
        removed, text = _inline(code, insn, original, fence)
    else:
        removed, text = _out_of_line(code, insn, fence)
    assert len(removed) == len(original)
    decoded = next(code.decoder.decode(removed, address), None)
    if decoded is None or (decoded.length != len(original) and decoded.flow is not Flow.RETURN):
        raise RefusedError(f"{removed.hex()} is not one instruction")
    return Exchange(
        address,
        original,
        removed,
        text,
        site.symbol,
        fence.mnemonic,
        fence.via,
        tuple(sorted({pair[0].address for pair in pairs})),
    )


def _inline(code: Code, insn: Insn, original: bytes, fence: Fence) -> tuple[bytes, str]:
    name = fence_of(insn)
    if insn.address != fence.address or not name:
        raise RefusedError("there is another instruction than the fence")
    if name in PURE:
        return noop(insn.length), f"{name} -> nop"
    if name == "xchg":
        store = store_of_exchange(original)
        register = next(item.register for item in insn.operands if not item.memory)
        if store is None:
            raise RefusedError("this form of xchg has no mov of the same length")
        if not register_unused(code, insn.end, register):
            raise RefusedError("what the xchg loads may be used")
        return store, "xchg -> mov"
    if fence.position == "access":
        plain = without_lock(original)
        if plain is None:
            raise RefusedError(f"{name} has no plain form of the same length")
        return plain, f"{name} -> {insn.mnemonic}"
    must_be_idle(insn)
    if not flags_unused(code, insn.end):
        raise RefusedError(f"the flags that {name} sets may be used")
    return noop(insn.length), f"{name} -> nop"


def _out_of_line(code: Code, insn: Insn, fence: Fence) -> tuple[bytes, str]:
    if insn.flow not in (Flow.CALL, Flow.JUMP):
        raise RefusedError(f"{insn.mnemonic} is neither a call nor a jump")
    changes_flags = leaf_of(code, insn.target).changes_flags
    if insn.flow is Flow.JUMP:
        # Where the callee would return, nothing uses flags.
        return plain_return(insn.length), f"jmp {fence.via} -> ret"
    if changes_flags and not flags_unused(code, insn.end):
        raise RefusedError(f"the flags that {fence.via or 'the callee'} sets may be used")
    return noop(insn.length), f"call {fence.via} -> nop"
