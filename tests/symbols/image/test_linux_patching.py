"""The tables of code that Linux patches, assembled in the layouts of several versions."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from xtrace.symbols.image.image import Image, open_image
from xtrace.symbols.image.linux_patching import Patching, patching

TIMEOUT_S = 60
BASE = {64: 0xFFFF_FFFF_8100_0000, 32: 0xC100_0000}

# Ten places in code, 16 bytes apart, and two replacements.
CODE = """
    .text
    .globl start
start:
{places}
    .section .altinstr_replacement, "ax"
r0: nop; nop; nop
r1: mfence
"""
PLACE = "    .balign 16, 0x90\np{0}: lock addl $0, -4(%esp)\n"

ALT14 = ".long p{0} - .; .long {1} - .; .long 0x10003; .byte {2}, {3}\n"
ALT13 = ".long p{0} - .; .long {1} - .; .word 3; .byte {2}, {3}, 0\n"
ALT12 = ".long p{0} - .; .long {1} - .; .word 3; .byte {2}, {3}\n"
ALT_POINTERS = {
    64: ".quad p{0}, {1}; .word 3; .byte {2}, {3}; .fill 4, 1, 0\n",
    32: ".long p{0}, {1}; .word 3; .byte {2}, {3}\n",
}
ALT_OLDEST = {
    64: ".quad p{0}, {1}; .byte 3, {2}, {3}; .fill 5, 1, 0\n",
    32: ".long p{0}, {1}; .byte 3, {2}, {3}, 0\n",
}


@dataclass(frozen=True, slots=True)
class Builder:
    folder: Path

    def image(self, bits: int, tables: str, *, strip: tuple[str, ...] = ()) -> Image:
        source, made, linked = (self.folder / name for name in ("a.S", "a.o", "image"))
        source.write_text(CODE.format(places="".join(PLACE.format(n) for n in range(10))) + tables)
        _run("gcc", f"-m{bits}", "-c", str(source), "-o", str(made))
        emulation = {64: "elf_x86_64", 32: "elf_i386"}[bits]
        _run("ld", "-m", emulation, f"-Ttext={BASE[bits]:#x}", "-e", "start", str(made), "-o", str(linked))
        if strip:
            _run("objcopy", *strip, str(linked))
        return open_image(linked)


@pytest.fixture
def build(tmp_path: Path) -> Builder:
    return Builder(tmp_path)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=TIMEOUT_S)


def _place(bits: int, number: int) -> int:
    return BASE[bits] + 16 * number


def _only(found: Patching, name: str) -> tuple[int, int]:
    assert found.unknown == ()
    (table,) = found.tables
    assert table.name == name
    return table.count, table.entry_bytes


@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize(
    ("entry", "entry_bytes"),
    [
        ({64: ALT14, 32: ALT14}, {64: 14, 32: 14}),
        ({64: ALT13, 32: ALT13}, {64: 13, 32: 13}),
        ({64: ALT12, 32: ALT12}, {64: 12, 32: 12}),
        (ALT_POINTERS, {64: 24, 32: 12}),
        (ALT_OLDEST, {64: 24, 32: 12}),
    ],
    ids=["6.3", "4.0", "3.x", "pointers", "oldest"],
)
def test_each_layout_of_alternatives(
    build: Builder, bits: int, entry: dict[int, str], entry_bytes: dict[int, int]
) -> None:
    rows = "".join(entry[bits].format(n, f"r{n % 2}", 6, 3) for n in (7, 1, 4, 2, 9, 0, 3))
    found = patching(build.image(bits, f'.section .altinstructions, "a"\n{rows}'))
    assert _only(found, ".altinstructions") == (7, entry_bytes[bits])
    for number in range(10):
        place = _place(bits, number)
        expected = ".altinstructions" if number in (7, 1, 4, 2, 9, 0, 3) else None
        assert found.patched(place, 1) == found.patched(place + 5, 1) == expected
        assert found.patched(place + 6, 1) is None
        assert found.patched(place - 2, 2) is None
        assert found.patched(place - 2, 3) == expected


@pytest.mark.parametrize(
    ("bits", "entry", "entry_bytes"),
    [
        (64, ".balign 8; .quad p{0}; .byte 3, 6\n", 16),
        (64, ".balign 8; .quad p{0}; .byte 3, 6; .short 0x1ff\n", 16),
        (32, ".balign 4; .long p{0}; .byte 3, 6\n", 8),
        (32, ".balign 4; .long p{0}; .byte 3, 6; .short 0x1ff\n", 8),
    ],
)
def test_paravirt_calls(build: Builder, bits: int, entry: str, entry_bytes: int) -> None:
    # There is no padding after the last entry.
    rows = "".join(entry.format(n) for n in (5, 3, 8))
    found = patching(build.image(bits, f'.section .parainstructions, "a"\n{rows}'))
    assert _only(found, ".parainstructions") == (3, entry_bytes)
    hit = [n for n in range(10) if found.patched(_place(bits, n) + 5, 1)]
    assert hit == [3, 5, 8]


@pytest.mark.parametrize("bits", [64, 32])
def test_lock_prefixes_in_a_table_padded_to_a_page(build: Builder, bits: int) -> None:
    rows = "".join(f".long p{n} - .\n" for n in (2, 6))
    found = patching(build.image(bits, f'.section .smp_locks, "a"\n{rows}.balign 4096\n'))
    assert _only(found, ".smp_locks") == (2, 4)
    # On a single CPU only the byte of the lock prefix changes, and with it the fence goes.
    assert found.patched(_place(bits, 6), 1) == ".smp_locks"
    assert found.patched(_place(bits, 6) + 1, 5) is None


def test_first_byte_gives_the_length_of_branches_and_calls(build: Builder) -> None:
    tables = """
    .text
    .balign 16
b0: .byte 0xeb, 0x00
    .balign 16
b1: .byte 0xe9, 0, 0, 0, 0
    .balign 16
b2: .byte 0x0f, 0x84, 0, 0, 0, 0
    .section __jump_table, "aw"
    .long b0 - ., 0; .quad 1
    .long b1 - ., 0; .quad 1
    .section .static_call_sites, "a"
    .long b2 - ., 1
    """
    image = build.image(64, tables)
    found = patching(image)
    starts = {name: image.symbols.find(name) or 0 for name in ("b0", "b1", "b2")}
    assert [(table.name, table.count) for table in found.tables] == [
        (".static_call_sites", 1),
        ("__jump_table", 2),
    ]
    lengths = {
        name: sum(found.patched(start + byte, 1) is not None for byte in range(12))
        for name, start in starts.items()
    }
    assert lengths == {"b0": 2, "b1": 5, "b2": 6}


def test_table_without_its_own_section_is_found_by_symbols(build: Builder) -> None:
    tables = """
    .data
    .quad 0
    .globl __start_static_call_sites, __stop_static_call_sites
__start_static_call_sites:
    .long p3 - ., 1
    .long p4 - ., 1
__stop_static_call_sites:
    .quad 0
    """
    found = patching(build.image(64, tables))
    assert _only(found, ".static_call_sites") == (2, 8)
    assert found.patched(_place(64, 4), 1) == ".static_call_sites"


@pytest.mark.parametrize("entry", [ALT14, ALT13, ALT12])
def test_replacements_are_in_code_and_not_longer(build: Builder, entry: str) -> None:
    # There is no code four bytes before the first place.
    right = patching(build.image(64, f'.section .altinstructions, "a"\n{entry.format(3, "p0", 6, 3)}'))
    assert _only(right, ".altinstructions")[0] == 1
    for wrong in (entry.format(3, "r0", 6, 7), entry.format(3, "r0 - 0x100000", 6, 3)):
        found = patching(build.image(64, f'.section .altinstructions, "a"\n{wrong}'))
        assert found.tables == ()
        assert len(found.unknown) == 1


def test_overlapping_entries_reach_as_far_as_the_longest(build: Builder) -> None:
    rows = ALT12.format(1, "r0", 40, 3) + ALT12.format(2, "r0", 6, 3) + ALT12.format(1, "r1", 6, 3)
    found = patching(build.image(64, f'.section .altinstructions, "a"\n{rows}'))
    assert found.patched(_place(64, 1) + 39, 1) == ".altinstructions"
    assert found.patched(_place(64, 1) + 40, 1) is None


def test_table_of_unknown_layout_is_reported(build: Builder) -> None:
    found = patching(build.image(64, '.section .altinstructions, "a"\n.fill 96, 1, 0x41\n'))
    assert found.tables == ()
    assert found.unknown == (".altinstructions: no known layout fits its 96 bytes",)


def test_image_without_section_headers_is_reported(build: Builder, tmp_path: Path) -> None:
    rows = ALT12.format(1, "r0", 6, 3)
    image = build.image(64, f'.section .altinstructions, "a"\n{rows}')
    data = bytearray(image.data)
    data[0x28:0x30] = bytes(8)
    data[0x3A:0x40] = bytes(6)
    bare = tmp_path / "bare"
    bare.write_bytes(data)
    found = patching(open_image(bare))
    assert found.tables == ()
    assert found.unknown == ("the image has no section headers, so tables of patched code may be missed",)


def test_other_kernels_have_no_tables(build: Builder) -> None:
    assert patching(build.image(64, "")) == Patching((), ())
