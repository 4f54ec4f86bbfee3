"""Where more fences may be added: in the padding after a function that only fences.

`lfence; ret` becomes `lfence; lfence; ret`, with the return in what was padding.  Each variant has an
instruction at every place where one of another variant has: after the last fence each of these places has
a return.  So it does not matter in which variant a thread was stopped: whatever it executes next is a
fence or a return.

Only padding that nothing refers to is used: no-ops and int3 between the return and the next symbol, within
one page, which no direct branch and no pointer of the image leads to.
"""

from __future__ import annotations

import numpy as np

from xtrace.symbols.flow.code import Code
from xtrace.symbols.image.image import Image
from xtrace.symbols.patching.exchange import Dose, Refusal
from xtrace.symbols.patching.leaf import PURE, RefusedError, leaf_of
from xtrace.symbols.sites.model import How, SiteTable
from xtrace.symbols.x86.decode import Flow

MOST = 3
_RET, _TRAP = b"\xc3", b"\xcc"
_PAGE_BYTES = 4096
_PADDING = frozenset(("nop", "int3"))
#: Sections in which a kernel keeps places of padding that it patches.
_PATCHED_PADDING = ("__patchable_function_entries",)
_POINTER_BYTES = 8


def doses(image: Image, table: SiteTable) -> tuple[tuple[Dose, ...], tuple[Refusal, ...]]:
    """Return the functions with fences that have room for more, and those that have none, and why."""
    code = Code(image, table.facts.hypercall_page)
    targets: dict[int, str] = {}
    for site in table.sites:
        for fence in site.fences:
            insn = None if fence.how is How.INLINE else next(code.run(fence.at), None)
            if insn is not None and insn.flow in (Flow.CALL, Flow.JUMP):
                targets[insn.target] = fence.via or f"{insn.target:#x}"
    found, refused = [], []
    for target in sorted(targets):
        try:
            found.append(_dose(code, target, targets[target]))
        except RefusedError as reason:
            refused.append(Refusal(target, targets[target], "more fences", str(reason)))
    if any(not fence.via for site in table.sites for fence in site.fences):
        refused.append(Refusal(0, "inline fences", "more fences", "there is no room beside an inline fence"))
    # All have as many as the one with the most room, or the doses of a trial would differ between functions.
    most = max((dose.most for dose in found), default=0)
    for dose in found:
        if dose.most < most:
            said = f"room for {dose.most} more, others have room for {most}"
            refused.append(Refusal(dose.address, dose.callee, "more fences", said))
    return tuple(dose for dose in found if dose.most == most), tuple(refused)


def _dose(code: Code, target: int, name: str) -> Dose:
    image = code.image
    if image.bits != 64:
        raise RefusedError("only 64-bit code is exchanged")
    if any(section.name.lstrip(".").startswith(_PATCHED_PADDING) for section in image.sections):
        raise RefusedError("the kernel may change padding at run time")
    leaf = leaf_of(code, target)
    if not leaf.fences:
        raise RefusedError("the function has no fence")
    fence, ret = leaf.fences[-1], leaf.ret
    if fence.mnemonic not in PURE and (fence.memory is None or fence.memory.base < 0):
        raise RefusedError("the fence cannot be repeated elsewhere: its address depends on its place")
    if image.read(ret.address, ret.length) != _RET:
        raise RefusedError("its return has a prefix")
    if code.window(ret.address)[0] != code.window(target)[0]:
        raise RefusedError("it returns in another function")
    one = image.read(fence.address, fence.length)
    room = _padding(code, ret.end)
    most = min(MOST, room // len(one))
    if not most:
        raise RefusedError(f"no room: {room} bytes of padding after it, and a fence takes {len(one)}")
    size = most * len(one) + 1
    _must_be_unreferenced(code, ret.end, ret.address + size)
    return Dose(ret.address, image.read(ret.address, size), variants_of(one, most), name, fence.mnemonic)


def variants_of(one: bytes, most: int) -> tuple[bytes, ...]:
    """Return the bytes from the return on with 0, 1, ... more fences, all of one length."""
    return tuple(_variant(one, count, most) for count in range(most + 1))


def _variant(one: bytes, count: int, most: int) -> bytes:
    """Return ``count`` fences, a return, and a return wherever a variant with more fences has one."""
    rest = (_RET + _TRAP * (len(one) - 1)) * (most - count)
    return one * count + rest + _RET


def _padding(code: Code, start: int) -> int:
    """Return how many bytes of padding there are, up to the next symbol and within the page."""
    end = min(code.window(start - 1)[1], (start // _PAGE_BYTES + 1) * _PAGE_BYTES)
    following = np.searchsorted(code.labels, np.uint64(start), side="left")
    if following < len(code.labels):
        end = min(end, int(code.labels[following]))
    at = start
    for insn in code.run(start):
        if insn.mnemonic not in _PADDING or insn.end > end:
            break
        at = insn.end
    return at - start


def _must_be_unreferenced(code: Code, start: int, end: int) -> None:
    """Raise if a direct branch or a pointer may lead to [start, end): any bytes that could be one count."""
    for section in code.sections:
        data = np.frombuffer(section.data, np.uint8)
        # Relative to the section: a kernel's addresses are in the upper half, beyond 63 bits.
        first, last = start - section.address, end - section.address
        places = np.arange(len(data), dtype=np.int64)
        near = slice(max(first - 130, 0), max(last + 130, 0))
        short = places[near] + 1 + data[near].astype(np.int8)
        opcodes = data[np.maximum(np.arange(len(data))[near] - 1, 0)]
        is_short = (opcodes == 0xEB) | (opcodes & 0xF0 == 0x70) | ((opcodes >= 0xE0) & (opcodes <= 0xE3))
        if np.any(is_short & (short >= first) & (short < last)):
            raise RefusedError("code may jump into the padding after it")
        if len(data) < 5:
            continue
        wide = np.lib.stride_tricks.sliding_window_view(data, 4)
        targets = places[:-3] + 4 + np.ascontiguousarray(wide).view("<i4")[:, 0]
        before = np.concatenate(([0], data[: len(targets) - 1]))
        is_branch = (before == 0xE8) | (before == 0xE9) | (before & 0xF0 == 0x80)
        if np.any(is_branch & (targets >= first) & (targets < last)):
            raise RefusedError("code may jump into the padding after it")
    for section in code.image.sections:
        count = len(section.data) // _POINTER_BYTES
        words = np.frombuffer(section.data, "<u8", count)
        if section.allocated and np.any((words >= np.uint64(start)) & (words < np.uint64(end))):
            raise RefusedError("data of the image points into the padding after it")
