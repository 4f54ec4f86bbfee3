"""Find the few functions worth analysing: those whose bytes may refer to vcpu_info.

A search of the raw bytes without decoding.  It has false positives but misses
nothing, and it scans gigabytes per second.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
import numpy.typing as npt

from xtrace.symbols.image.image import Section
from xtrace.symbols.sites.vcpu_info import VCPU_INFO_BYTES, Layout

Offsets = npt.NDArray[np.int64]
_Mask = npt.NDArray[np.bool_]

_CHUNK_BYTES = 1 << 20
#: A displacement is followed by an immediate of at most 4 bytes and preceded by prefixes, opcode,
#: ModRM and SIB.
_TAIL_BYTES = 8
_HEAD_BYTES = 7
_SHARED_BYTES = 32 * VCPU_INFO_BYTES

# Opcodes that read or write a byte through ModRM, with and without the 0f prefix.
_BYTE_OPCODES = (0xC6, 0x88, 0x8A, 0x80, 0xF6, 0x38, 0x3A, 0x84, 0x86)
_BYTE_OPCODES_0F = (0xB6, 0xBE, *range(0x90, 0xA0))


def _table(values: Iterable[int]) -> _Mask:
    table = np.zeros(256, np.bool_)
    table[list(values)] = True
    return table


_IS_BYTE = _table((*_BYTE_OPCODES, *_BYTE_OPCODES_0F))
_MOD1 = _table(number for number in range(0x40, 0x80))
_MOD1_SIB = _table(number for number in range(0x40, 0x80) if number & 7 == 4)
_MOD0 = _table(number for number in range(0x40) if number & 7 not in (4, 5))
#: What follows a segment prefix: a REX prefix or an opcode.
_AFTER_PREFIX = _table((*range(0x48, 0x50), 0x8B, 0xA1, 0x03, 0xC6, 0x80))
_MOD2 = _table(number for number in range(0x80, 0xC0) if number & 7 != 4)
_LOADS = _table((0x8B, 0xFF))
#: call rel32 and jmp rel32 differ in the last bit.
_BRANCH, _BRANCH_BYTES = 0xE8, 5
#: jmp rel8 reaches no further than this, with its own bytes.
_SHORT_JUMP, _NEAR_BYTES = 0xEB, 130
#: i386: mov moffs32,%eax.
_LOAD_ABSOLUTE = 0xA1
_PER_CPU_PREFIX = _table((0x64, 0x65))


def field_accesses(section: Section) -> Offsets:
    """Return offsets of bytes that look like a use of a vcpu_info pointer.

    That is a byte access at displacement 0 or 1 from a register, a locked instruction, or an operand in
    the per-CPU segment (such a function may pass the pointer on).
    """
    code = np.frombuffer(section.data, np.uint8)
    if len(code) < 4:
        return np.empty(0, np.int64)
    opcode, modrm = _IS_BYTE[code[:-3]], code[1:-2]
    one = _MOD1[modrm] & (np.where(_MOD1_SIB[modrm], code[3:], code[2:-1]) == 1)
    locked = code[:-3] == 0xF0
    per_cpu = _PER_CPU_PREFIX[code[:-3]] & _AFTER_PREFIX[modrm]
    return np.flatnonzero((opcode & (one | _MOD0[modrm])) | locked | per_cpu).astype(np.int64)


def mask_stores(section: Section, bits: int) -> Offsets:
    """Return offsets of bytes that look like a byte store of 0 to a mask: displacement 1 modulo 64."""
    code = np.frombuffer(section.data, np.uint8)
    if len(code) < 8:
        return np.empty(0, np.int64)
    store = code[:-4] == 0xC6
    plain = store & _MOD1[code[1:-3]] & ~_MOD1_SIB[code[1:-3]] & (code[2:-2] % 64 == 1) & (code[3:-1] == 0)
    based = store & _MOD1_SIB[code[1:-3]] & (code[3:-1] % 64 == 1) & (code[4:] == 0)
    absolute = np.zeros(len(plain), np.bool_)
    fixed = store[:-3] & (code[1:-6] == 0x04) & (code[2:-5] == 0x25)
    absolute[:-3] = fixed & (code[3:-4] % 64 == 1) & (code[7:] == 0)
    return np.flatnonzero(plain | based | absolute | _fixed_stores(code, section.address, bits)).astype(
        np.int64
    )


def _fixed_stores(code: npt.NDArray[np.uint8], base: int, bits: int) -> _Mask:
    """Return where a byte of 0 is stored to a fixed address, which may be a mask's."""
    found = np.zeros(len(code) - 4, np.bool_)
    places = np.flatnonzero((code[:-7] == 0xC6) & (code[1:-6] == 0x05) & (code[6:-1] == 0))
    # The low byte of the displacement is enough to compute the address modulo 64: relative to rip on amd64.
    low = code[places + 2].astype(np.int64)
    if bits == 64:
        low += places + 7 + base % VCPU_INFO_BYTES
    found[places[low % VCPU_INFO_BYTES == 1]] = True
    return found


def selector_exchanges(section: Section, bits: int) -> Offsets:
    """Return offsets of bytes that look like an xchg with a selector."""
    code = np.frombuffer(section.data, np.uint8)
    if len(code) < 5:
        return np.empty(0, np.int64)
    prefix, opcode, modrm, behind, last = code[:-4], code[1:-3], code[2:-2], code[3:-1], code[4:]
    word = ((prefix & 0xF0) == 0x40) | (prefix == 0xF0) | (bits == 32)
    displacement = np.where(_MOD1_SIB[modrm], last, behind)
    memory = _MOD0[modrm] | (_MOD1[modrm] & (displacement == bits // 8))
    # At a fixed address, the low byte of the displacement is enough to compute the offset in vcpu_info.
    places = np.flatnonzero((opcode == 0x87) & (modrm & 0xC7 == 0x05))
    low = behind[places].astype(np.int64)
    if bits == 64:
        low += places + 7 + section.address % VCPU_INFO_BYTES
    memory[places] = low % VCPU_INFO_BYTES == bits // 8
    return np.flatnonzero(word & (opcode == 0x87) & memory).astype(np.int64)


def field_loads(section: Section, fields: Iterable[int]) -> Offsets:
    """Return offsets of bytes that look like a load at one of the displacements ``fields``."""
    code = np.frombuffer(section.data, np.uint8)
    found = []
    for number in fields:
        if len(code) < 8:
            continue
        if -128 <= number < 128:
            hits = np.flatnonzero(_LOADS[code[:-2]] & _MOD1[code[1:-1]] & (code[2:] == (number & 0xFF)))
            found.append(hits)
        for phase in range(4):
            words = np.frombuffer(section.data, "<i4", (len(code) - phase) // 4, phase)
            hits = np.flatnonzero(words == number) * 4 + phase
            # Opcode and ModRM precede the displacement, perhaps with a SIB byte in between.
            plain = _LOADS[code[np.maximum(hits - 2, 0)]] & _MOD2[code[np.maximum(hits - 1, 0)]]
            based = _LOADS[code[np.maximum(hits - 3, 0)]]
            found.append(np.where(plain, hits - 2, hits - 3)[plain | based])
            found.append(hits[code[np.maximum(hits - 1, 0)] == _LOAD_ABSOLUTE] - 1)
    return np.unique(np.concatenate(found)).astype(np.int64) if found else np.empty(0, np.int64)


def references(section: Section, layout: Layout) -> Offsets:
    """Return offsets of 32-bit numbers that refer, absolutely or rip-relative, to addresses of the layout."""
    word = layout.word_bytes
    places = [(start, word, True) for start in layout.pointers]
    places += [(start, VCPU_INFO_BYTES, True) for start in layout.areas]
    places += [(start, word, False) for start in layout.shared_pointers]
    places += [(start, _SHARED_BYTES, False) for start in layout.shared_pages]
    code = np.frombuffer(section.data, np.uint8)
    found = [_references(code, section.address, start, size, per_cpu) for start, size, per_cpu in places]
    return np.unique(np.concatenate(found)) if found else np.empty(0, np.int64)


def _references(code: npt.NDArray[np.uint8], base: int, start: int, size: int, per_cpu: bool) -> Offsets:
    found = []
    for chunk in range(0, max(len(code) - 3, 0), _CHUNK_BYTES):
        part = code[chunk : chunk + _CHUNK_BYTES + 3]
        for phase in range(4):
            count = (len(part) - phase) // 4
            if count <= 0:
                continue
            words = np.frombuffer(part.data, "<u4", count, phase)
            places = np.arange(count, dtype=np.uint32) * np.uint32(4) + np.uint32(
                (base + chunk + phase) & 0xFFFFFFFF
            )
            absolute = words - np.uint32(start & 0xFFFFFFFF) < np.uint32(size)
            # The displacement is relative to the instruction's end, up to 8 bytes past its own first byte.
            relative = words + places - np.uint32((start - _TAIL_BYTES) & 0xFFFFFFFF) < np.uint32(size + 4)
            hits = np.flatnonzero(absolute | relative) * 4 + phase + chunk
            found.append(hits)
    hits = np.concatenate(found) if found else np.empty(0, np.int64)
    if per_cpu and start < 1 << 20 and len(hits):
        # Small numbers are common: below 0x1000, count one only after a segment prefix.  Larger ones may
        # be link addresses to which a per-CPU offset is added.
        near = np.zeros(len(hits), np.bool_)
        for back in range(3, _HEAD_BYTES + 1):
            near |= _PER_CPU_PREFIX[code[np.maximum(hits - back, 0)]]
        hits = hits[near | (start >= 1 << 12)]
    return hits


def functions_of(section: Section, starts: npt.NDArray[np.uint64], offsets: Offsets) -> set[int]:
    """Return the starts of the functions that contain the given offsets of a section."""
    places = offsets.astype(np.uint64) + np.uint64(section.address)
    index = np.searchsorted(starts, places, "right") - 1
    return set(starts[np.unique(index[index >= 0])].tolist())


def calls_of(section: Section, targets: Collection[int]) -> Offsets:
    """Return offsets of bytes that look like a direct call or jump to one of some addresses."""
    code = np.frombuffer(section.data, np.uint8)
    if len(code) < _BRANCH_BYTES:
        return np.empty(0, np.int64)
    places = np.flatnonzero(code[: -_BRANCH_BYTES + 1] & 0xFE == _BRANCH)
    # The low byte of what a branch reaches decides about most of them.
    behind = places.astype(np.uint32) + np.uint32((section.address + _BRANCH_BYTES) % 2**32)
    likely = _table(target & 0xFF for target in targets)[code[places + 1] + behind.astype(np.uint8)]
    places, reached = places[likely], behind[likely]
    for byte in range(4):
        reached += code[places + 1 + byte].astype(np.uint32) << np.uint32(8 * byte)
    # Modulo 2**32, as kernels of both sizes fit within 2 GiB.
    hits = [places[np.isin(reached, np.array([target % 2**32 for target in targets], np.uint32))]]
    for target in targets:
        first, last = target - section.address - _NEAR_BYTES, target - section.address + _NEAR_BYTES
        if first >= len(code) or last <= 0:
            continue  # addresses of an image are of 64 bits, and offsets in code of 63
        near = code[max(first, 0) : last]
        short = np.flatnonzero(near[:-1] == _SHORT_JUMP)
        ends = short + 2 + near[short + 1].astype(np.int8) + max(first, 0)
        hits.append(short[ends == target - section.address] + max(first, 0))
    return np.unique(np.concatenate(hits)).astype(np.int64)
