from __future__ import annotations

import random
import time

import numpy as np
import pytest

from builders.images import TEXT_ADDRESS, kallsyms
from xtrace.symbols.image import kallsyms as module
from xtrace.symbols.image.intervals import Extents
from xtrace.symbols.image.symbol_table import FUNC, GLOBAL, LOCAL, OBJECT

PERCPU = [(0, "A", "fixed_percpu_data"), (0x1000, "D", "xen_vcpu_info"), (0x1040, "d", "xen_irq_count")]


def made(count: int, base: int = TEXT_ADDRESS, percpu: bool = True) -> list[tuple[int, str, str]]:
    names = ("xen_irq_enable_direct", "do_abba", "__x64_sys_read", "copy_0123456789", "q" * 200)
    symbols = [(base + 16 * i, "Tt"[i % 2], f"{names[i % 5]}{i}") for i in range(count)]
    return (PERCPU if percpu else []) + symbols


def extents(base: int = TEXT_ADDRESS, size: int = 1 << 20) -> Extents:
    return Extents(
        np.array([0, base], np.uint64), np.array([0x2000, base + size], np.uint64), np.array([False, True])
    )


@pytest.mark.parametrize("layout", ["4.20", "6.1", "6.2", "6.4"])
@pytest.mark.parametrize("absolute_percpu", [True, False])
@pytest.mark.parametrize("count", [1021, 1300, 5000])
def test_every_name_and_address_is_found(layout: str, absolute_percpu: bool, count: int) -> None:
    symbols = made(count, percpu=absolute_percpu)
    tables = kallsyms(symbols, layout=layout, absolute_percpu=absolute_percpu)
    noise = random.Random(count).randbytes(4096)
    found = module.embedded([memoryview(b"other"), memoryview(noise + tables + noise)], 64, extents())
    assert found is not None
    assert found.source == "embedded kallsyms"
    assert [(int(a), found.name(i)) for i, a in enumerate(found.addresses)] == [(a, n) for a, _, n in symbols]
    place = found.index_of(TEXT_ADDRESS)
    assert place is not None
    assert (found.kinds[place], found.binds[place]) == (FUNC, GLOBAL)
    assert found.find("do_abba1") == TEXT_ADDRESS + 16
    if absolute_percpu:
        assert (found.kinds[2], found.binds[2]) == (OBJECT, LOCAL)


def test_addresses_instead_of_offsets() -> None:
    symbols = made(2000)
    found = module.embedded([memoryview(kallsyms(symbols, layout="4.4"))], 64, extents())
    assert found is not None
    assert found.addresses.tolist() == [address for address, _, _ in symbols]


@pytest.mark.parametrize("layout", ["4.4", "4.20", "6.1", "6.4"])
def test_32_bits(layout: str) -> None:
    base = 0xC100_0000
    symbols = made(1500, base, percpu=False)
    tables = kallsyms(symbols, layout=layout, base=base, word_bytes=4, absolute_percpu=False)
    found = module.embedded([memoryview(bytes(64) + tables)], 32, extents(base))
    assert found is not None
    assert found.addresses.tolist() == [address for address, _, _ in symbols]
    assert found.at(base + 32) == ("__x64_sys_read2",)


def test_image_without_tables_has_no_symbols() -> None:
    assert module.embedded([memoryview(bytes(100_000))], 64, extents()) is None
    assert (
        module.embedded([memoryview(b"".join(b"%d\0" % (i % 10) for i in range(9000)))], 64, extents())
        is None
    )
    assert module.embedded([], 64, extents()) is None


def test_addresses_outside_the_image_are_rejected() -> None:
    tables = memoryview(kallsyms(made(2000)))
    assert module.embedded([tables], 64, extents(base=0x7000_0000)) is None


def test_damaged_tables_give_nothing_wrong_and_do_not_hang() -> None:
    symbols = made(1100)
    whole = kallsyms(symbols)
    rng = random.Random(7)
    began = time.process_time()
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(rng.choice((1, 8, 64))):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        found = module.embedded(
            [memoryview(bytes(damaged[: rng.randrange(len(damaged) // 2, len(damaged))]))], 64, extents()
        )
        assert found is None or len(found) <= len(symbols) + 256
    assert time.process_time() - began < 20
