from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtrace.symbols.errors import ImageError
from xtrace.symbols.image.intervals import Extents
from xtrace.symbols.image.symbol_table import FUNC, GLOBAL, LOCAL, NOTYPE, OBJECT, WEAK, Symbols, entries

TEXT, DATA = (0x1000, 0x3000), (0x8000, 0x9000)
EXTENTS = Extents(
    np.array([TEXT[0], DATA[0]], np.uint64), np.array([TEXT[1], DATA[1]], np.uint64), np.array([True, False])
)
Row = tuple[int, int, int, int, str]  # address, size, type, bind, name


def made(rows: list[Row], extents: Extents | None = EXTENTS) -> Symbols:
    names = b"\0" + b"".join(row[4].encode() + b"\0" for row in rows)
    offsets = np.cumsum([1] + [len(row[4].encode()) + 1 for row in rows])[:-1]
    columns = list(zip(*rows, strict=True))
    return Symbols(
        np.array(columns[0], np.uint64),
        np.array(columns[1], np.uint64),
        np.array(columns[2], np.uint8),
        np.array(columns[3], np.uint8),
        offsets.astype(np.uint32),
        names,
        ".symtab",
        extents=extents,
    )


def owner(symbols: Symbols, address: int) -> str | None:
    index = symbols.index_of(address)
    return None if index is None else symbols.name(index)


def test_label_inside_a_function_belongs_to_it() -> None:
    symbols = made([(0x1100, 0x100, FUNC, GLOBAL, "f"), (0x1150, 0, NOTYPE, LOCAL, "label")])
    assert owner(symbols, 0x1150) == "f"
    assert owner(symbols, 0x11FF) == "f"
    assert owner(symbols, 0x1200) is None
    assert symbols.at(0x1150) == ("label",)
    assert symbols.function_starts().tolist() == [0x1100, 0x1150]


def test_function_of_size_0_extends_to_the_next_exported_symbol() -> None:
    rows = [
        (0x1100, 0, FUNC, GLOBAL, "f"),
        (0x1150, 0, NOTYPE, LOCAL, "label"),
        (0x1180, 0, NOTYPE, GLOBAL, "entry"),
        (0x1190, 0, NOTYPE, LOCAL, "tail"),
        (0x1200, 0, FUNC, LOCAL, "last"),
    ]
    symbols = made(rows)
    addresses = (0x1100, 0x1160, 0x1180, 0x1195, 0x1200, 0x2FFF, 0x3000, 0x10FF)
    assert [owner(symbols, a) for a in addresses] == ["f", "f", "entry", "entry", "last", "last", None, None]


def test_last_of_overlapping_functions_wins() -> None:
    rows = [(0x1000, 0x200, FUNC, GLOBAL, "outer"), (0x1080, 0x40, FUNC, LOCAL, "inner")]
    rows += [(0x1090, 0x300, FUNC, LOCAL, "across")]
    symbols = made(rows)
    found = [owner(symbols, a) for a in (0x107F, 0x1080, 0x1090, 0x10C0, 0x1250, 0x1390)]
    assert found == ["outer", "inner", "across", "across", "across", None]


def test_most_specific_alias_comes_first() -> None:
    rows = [
        (0x1000, 0, NOTYPE, LOCAL, "label"),
        (0x1000, 8, FUNC, LOCAL, "local"),
        (0x1000, 8, FUNC, WEAK, "weak"),
        (0x1000, 8, FUNC, GLOBAL, "global"),
        (0x1000, 0, NOTYPE, GLOBAL, "entry"),
        (0x1000, 8, OBJECT, GLOBAL, "object"),
    ]
    symbols = made(rows)
    assert symbols.at(0x1000) == ("global", "object", "weak", "local", "entry", "label")
    assert owner(symbols, 0x1007) == "global"
    assert symbols.at(0x1001) == symbols.at(-1) == symbols.at(1 << 64) == ()


def test_symbols_end_with_their_section() -> None:
    symbols = made(
        [(0x2FF0, 1 << 63, FUNC, GLOBAL, "f"), (0x8000, 0, OBJECT, GLOBAL, "d"), (0x7000, 0, 0, 1, "gap")]
    )
    assert owner(symbols, 0x2FFF) == "f"
    assert owner(symbols, 0x3000) is None
    assert owner(symbols, 0x8FFF) == "d"
    assert (owner(symbols, 0x7000), owner(symbols, 0x7001)) == ("gap", None)
    assert symbols.function_starts().tolist() == [0x2FF0]


def test_find_matches_exactly_and_prefers_exported_symbols() -> None:
    rows = [
        (0x1000, 4, FUNC, LOCAL, "twin"),
        (0x1010, 4, FUNC, GLOBAL, "twin"),
        (0x1020, 4, FUNC, LOCAL, "ünï"),
    ]
    symbols = made([*rows, (0x1030, 0, NOTYPE, GLOBAL, "un")])
    assert symbols.find("twin") == 0x1010
    assert symbols.find("ünï") == 0x1020
    assert symbols.find("win") is None
    assert symbols.find("un") == 0x1030
    assert symbols.find("") is None
    assert symbols.find("twin\0twin") is None


def test_names_are_printable() -> None:
    symbols = made([(0x1000, 4, FUNC, LOCAL, "a\x1b[2J\n"), (0x1008, 4, FUNC, LOCAL, "n" * 5000)])
    assert symbols.name(0) == "a\\x1b[2J\\n"
    assert symbols.name(1) == "n" * 512 + "..."


def test_empty_table() -> None:
    symbols = Symbols.empty()
    assert len(symbols) == 0
    assert symbols.source == "none"
    assert symbols.index_of(5) is symbols.find("x") is None
    assert symbols.at(5) == ()
    assert not len(symbols.function_starts())
    assert symbols.indices_of(np.zeros(60_000, np.uint64)).max() == -1


row_strategy = st.tuples(
    st.integers(TEXT[0], TEXT[0] + 120),
    st.integers(0, 60),
    st.sampled_from([NOTYPE, OBJECT, FUNC]),
    st.sampled_from([LOCAL, GLOBAL, WEAK]),
    st.text("abc", min_size=1, max_size=3),
)


def slow_owners(rows: list[Row]) -> dict[int, int]:
    """Return the symbol's address for each address, by assigning every single one, rank after rank."""

    def rank(row: Row) -> int:
        return 3 if row[2] != NOTYPE else 2 if row[3] != LOCAL else 1

    def order(row: Row) -> tuple[int, bool, bool, int]:
        return {GLOBAL: 0, WEAK: 1, LOCAL: 2}[row[3]], row[2] == OBJECT, row[1] == 0, rows.index(row)

    taken: list[dict[int, int]] = []  # owner by address, for each rank
    for level in (3, 2, 1):
        owners: dict[int, int] = {}
        for start in sorted({row[0] for row in rows if rank(row) == level}):
            # Of aliases, the one that is shown first counts.
            size = min((row for row in rows if row[0] == start and rank(row) == level), key=order)[1]
            stops = [row[0] for row in rows if row[0] > start and rank(row) >= min(level, 2)]
            end = start + size if size else min(stops, default=None)
            if end is None:
                last = max(row[0] for row in rows if rank(row) == level)
                end = last + 1
            for upper in taken:
                if start in upper:
                    at = start
                    while upper.get(at) == upper[start]:
                        at += 1
                    end = min(end, at)
            owners.update(dict.fromkeys(range(start, end), start))
        taken.append(owners)
    return taken[2] | taken[1] | taken[0]


@settings(max_examples=150)
@given(st.lists(row_strategy, min_size=1, max_size=14))
def test_owners_match_the_slow_method(rows: list[Row]) -> None:
    symbols = made(rows, None)
    probes = np.arange(TEXT[0] - 2, TEXT[0] + 200, dtype=np.uint64)
    owners = slow_owners(rows)
    expected = [owners.get(int(a)) for a in probes]
    single = [symbols.index_of(int(a)) for a in probes]
    assert [None if i is None else int(symbols.addresses[i]) for i in single] == expected
    assert symbols.indices_of(probes).tolist() == [-1 if i is None else i for i in single]
    many = np.resize(probes, 60_000)
    assert (symbols.indices_of(many) == np.resize(symbols.indices_of(probes), 60_000)).all()


def big(count: int) -> Symbols:
    rng = np.random.default_rng(3)
    starts = np.sort(rng.choice(np.arange(0, 16 << 20, 4), count, replace=False)).astype(np.uint64)
    starts += np.uint64(0xFFFF_FFFF_8100_0000)
    sizes = rng.integers(0, 90, count).astype(np.uint64)
    sizes[::1000] = 5000
    extents = Extents(starts[:1], starts[-1:] + np.uint64(64), np.array([True]))
    kinds = rng.choice(np.array([NOTYPE, FUNC], np.uint8), count)
    binds = rng.choice(np.array([LOCAL, GLOBAL], np.uint8), count)
    names = b"\0" + b"".join(b"name%06d\0" % i for i in range(count))
    offsets = (1 + 11 * np.arange(count)).astype(np.uint32)
    return Symbols(starts, sizes, kinds, binds, offsets, names, ".symtab", extents=extents)


def test_200_000_symbols_are_ready_in_a_second() -> None:
    symbols = big(200_000)
    began = time.process_time()
    assert symbols.find("name123456") == int(symbols.addresses[123456])
    assert symbols.index_of(int(symbols.addresses[5])) is not None
    assert time.process_time() - began < 1  # some 0.1 s on an idle machine


def test_millions_of_samples() -> None:
    symbols = big(100_000)
    rng = np.random.default_rng(4)
    low, high = int(symbols.addresses[0]) - 4000, int(symbols.addresses[-1]) + 4000
    samples = rng.integers(low, high, 2_000_000, dtype=np.uint64)
    symbols.indices_of(samples[:60_000])
    began = time.process_time()
    found = symbols.indices_of(samples)
    assert time.process_time() - began < 1  # 10 M/s would be 0.2 s
    for place in range(0, len(samples), 40_000):
        single = symbols.index_of(int(samples[place]))
        assert found[place] == (-1 if single is None else single)


MAP = b"""0000000000000000 A fixed_percpu_data
ffffffff81000000 T _text
ffffffff81000000 T _stext
ffffffff81000100 t local
ffffffff81000180 W weak
ffffffff81800000 D data
ffffffff81900000 b bss
"""


def test_system_map() -> None:
    symbols = Symbols.from_map_text(MAP, "System.map")
    assert symbols.source == "System.map"
    assert symbols.at(0xFFFF_FFFF_8100_0000) == ("_text", "_stext")
    assert owner(symbols, 0xFFFF_FFFF_8100_0110) == "local"
    assert symbols.find("bss") == 0xFFFF_FFFF_8190_0000
    assert symbols.function_starts().tolist() == [0xFFFF_FFFF_8100_0000 + at for at in (0, 0x100, 0x180)]
    assert symbols.index_of(0) is None  # a number, not a place


def test_map_with_modules_and_other_line_ends() -> None:
    text = MAP.replace(b"\n", b"\r\n") + b"\nffffffffc0000000 t module_function\t[xen_blkfront]"
    symbols = Symbols.from_map_text(text, "kallsyms")
    assert len(symbols) == 7
    assert symbols.find("module_function") is None
    assert symbols.find("_text") == 0xFFFF_FFFF_8100_0000


def test_32_bit_map() -> None:
    symbols = Symbols.from_map_text(b"c1000000 T _text\nC10000f0 t next", "System.map")
    assert symbols.addresses.tolist() == [0xC100_0000, 0xC100_00F0]


def test_running_kernel_with_kaslr() -> None:
    moved = MAP.replace(b"ffffffff8", b"ffffffffa")
    symbols = Symbols.from_map_text(moved, "kallsyms", text_address=0xFFFF_FFFF_8100_0000)
    assert symbols.find("data") == 0xFFFF_FFFF_8180_0000
    assert symbols.find("fixed_percpu_data") == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            b"ffffffffffffffff B The real System.map is in the linux-image-<version>-dbg package\n",
            "line 1 .*real",
        ),
        (MAP + b"ffffffff81000000 T\n", "line 8 "),
        (MAP + b"fffffffz81000000 T name\n", "line 8 "),
        (
            MAP.replace(b"81", b"00")
            .replace(b"ffffffff", b"00000000")
            .replace(b"8", b"0")
            .replace(b"9", b"0")
            .replace(b"1", b"0"),
            "as root",
        ),
        (b"", "is not a System.map"),
        (b"\x7fELF\x02\x01\x01\0\0\0\0", "is not a System.map"),
        (b"a\n", "is not a System.map"),
        (b" T x\n", "is not a System.map"),
    ],
)
def test_files_that_are_not_maps(text: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=f"^some.map: .*{message}"):
        Symbols.from_map_text(text, "System.map", path="some.map")


def test_name_outside_the_string_table() -> None:
    table = entries(memoryview(bytes(24) + b"\x40\0\0\0\x12\0\x01\0" + bytes(16)), 64, "image")
    with pytest.raises(ImageError, match=r"image: .*offset 0x40 in 0x3 bytes"):
        Symbols.from_elf(table, memoryview(b"\0a\0"), EXTENTS, ".symtab", "image")


def test_deeply_nested_symbols_are_fast() -> None:
    count = 100_000
    starts = np.arange(count, dtype=np.uint64) + np.uint64(0x1000)
    sizes = (np.uint64(3 * count) - np.uint64(2) * np.arange(count, dtype=np.uint64)).astype(np.uint64)
    kinds = np.full(count, FUNC, np.uint8)
    symbols = Symbols(starts, sizes, kinds, kinds, np.ones(count, np.uint32), b"\0a\0", ".symtab")
    began = time.process_time()
    assert symbols.index_of(0x1000 + 3 * count - 1) == 0
    assert time.process_time() - began < 5
