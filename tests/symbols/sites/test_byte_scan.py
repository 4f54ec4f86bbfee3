"""The search of raw bytes, compared with a slow one on random bytes."""

from __future__ import annotations

import random

from xtrace.symbols.image.image import Section
from xtrace.symbols.sites.byte_scan import calls_of, mask_stores, selector_exchanges

BASES = (0xFFFF_FFFF_8100_0000, 0xFFFF_FFFF_8123_4567, 0xC010_0000, 0x1000)


def section(data: bytes, base: int) -> Section:
    return Section(".text", base, len(data), 0, 1, True, True, False, memoryview(data))


def slow_calls(data: bytes, base: int, targets: set[int]) -> list[int]:
    found = []
    for place in range(len(data) - 1):
        far = int.from_bytes(data[place + 1 : place + 5], "little", signed=True)
        near = int.from_bytes(data[place + 1 : place + 2], "little", signed=True)
        reached = (base + place + 5 + far) % 2**32
        is_far = data[place] in (0xE8, 0xE9) and place + 5 <= len(data)
        if (is_far and reached in {target % 2**32 for target in targets}) or (
            data[place] == 0xEB and base + place + 2 + near in targets
        ):
            found.append(place)
    return found


def test_calls_of() -> None:
    rng = random.Random(5)
    found = 0
    for _ in range(60):
        base = rng.choice(BASES)
        data = bytearray(rng.choice((0xE8, 0xE9, 0xEB, 0, rng.randrange(256))) for _ in range(300))
        targets = {base + rng.randrange(-10, 310) for _ in range(3)}
        for target in targets:
            place = rng.randrange(290)
            data[place : place + 5] = b"\xe8" + ((target - base - place - 5) % 2**32).to_bytes(4, "little")
        targets.add(rng.choice((0, 2**64 - 1, base ^ 1 << 63)))  # what a stranger's symbols say
        got = calls_of(section(bytes(data), base), targets).tolist()
        assert got == slow_calls(bytes(data), base, targets)
        found += len(got)
    assert found > 100


def test_stores_and_exchanges_at_fixed_addresses() -> None:
    # On amd64 the displacement is relative to the instruction's end, on i386 it is the address.
    for bits, selector in ((64, 8), (32, 4)):
        for base in BASES:
            for inside in range(128):
                store = b"\x90\xc6\x05" + number(0x5000 + inside, base + 8, bits) + b"\0\x90\x90"
                assert bool(len(mask_stores(section(store, base), bits))) is (inside % 64 == 1)
                swap = (b"\x48" if bits == 64 else b"\x90") + b"\x87\x05"
                swap += number(0x5000 + inside, base + 7, bits) + b"\x90\x90"
                found = len(selector_exchanges(section(swap, base), bits))
                assert bool(found) is (inside % 64 == selector)


def number(address: int, end: int, bits: int) -> bytes:
    return ((address - end if bits == 64 else address) % 2**32).to_bytes(4, "little")
