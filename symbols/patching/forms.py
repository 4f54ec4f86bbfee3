"""Bytes that replace an instruction: always one instruction of the same length.

One instruction for one: a thread, a signal frame or a return address that points to an instruction's first
byte points to one in every arm, so bytes may be exchanged wherever threads were stopped.

Source: Intel SDM volume 2, NOP (the recommended multi-byte forms) and 2.1.1 (prefixes); Linux
arch/x86/kernel/alternative.c, where a lock prefix becomes the segment prefix 3e.
"""

from __future__ import annotations

#: The recommended no-ops of 1 to 9 bytes; longer ones repeat the operand-size prefix.
_NOOPS = (
    "90",
    "6690",
    "0f1f00",
    "0f1f4000",
    "0f1f440000",
    "660f1f440000",
    "0f1f8000000000",
    "0f1f840000000000",
    "660f1f840000000000",
)
_MOST_BYTES = 15
_LOCK, _DS, _FS, _GS, _RET, _TRAP = 0xF0, 0x3E, 0x64, 0x65, 0xC3, 0xCC
_PREFIXES = frozenset((_LOCK, 0xF2, 0xF3, 0x66, 0x67, 0x2E, 0x36, _DS, 0x26, _FS, _GS))
_SEGMENTS = frozenset((0x2E, 0x36, _DS, 0x26, _FS, _GS))
#: xchg of a register and memory, and mov from the same register to the same memory: 8 bits, and wider.
_XCHG_TO_MOV = {0x86: 0x88, 0x87: 0x89}


def noop(length: int) -> bytes:
    """Return one instruction of ``length`` bytes that does nothing.

    Raises:
        ValueError: no instruction has that length.
    """
    if not 1 <= length <= _MOST_BYTES:
        raise ValueError(f"no instruction has {length} bytes")
    longest = len(_NOOPS)
    if length <= longest:
        return bytes.fromhex(_NOOPS[length - 1])
    return b"\x66" * (length - longest) + bytes.fromhex(_NOOPS[-1])


def plain_return(length: int) -> bytes:
    """Return a ``ret`` in place of a jump of ``length`` bytes; what follows is never executed."""
    return bytes((_RET,)) + bytes((_TRAP,)) * (length - 1)


def without_lock(data: bytes) -> bytes | None:
    """Return a locked instruction with a prefix without effect for lock, None if it is not locked."""
    at = next((place for place, byte in enumerate(data) if byte == _LOCK or byte not in _PREFIXES), 0)
    if data[at] != _LOCK:
        return None
    head = data[: next(place for place, byte in enumerate(data) if byte not in _PREFIXES)]
    # A second segment prefix of another kind would not be defined; the same one twice is.
    segment = next((byte for byte in head if byte in _SEGMENTS), _DS)
    return data[:at] + bytes((segment,)) + data[at + 1 :]


def store_of_exchange(data: bytes) -> bytes | None:
    """Return the ``mov`` that stores what an ``xchg`` with memory stores, None if it is no such xchg."""
    at = next((place for place, byte in enumerate(data) if byte not in _PREFIXES), len(data))
    if at < len(data) and data[at] & 0xF0 == 0x40:  # REX
        at += 1
    if at + 1 >= len(data) or data[at] not in _XCHG_TO_MOV or data[at + 1] >= 0xC0:
        return None
    return data[:at] + bytes((_XCHG_TO_MOV[data[at]],)) + data[at + 1 :]
