"""Members from .dwp packages, as dwp of binutils and of LLVM make them, and from damaged ones."""

from __future__ import annotations

import os
import random
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from builders.dwarf import compile_kernel, run
from peer.xenalyze_run import REQUIRE_VARIABLE
from xtrace.symbols.dwarf.package import Package
from xtrace.symbols.dwarf.sections import DebugSections, DwarfError
from xtrace.symbols.dwarf.shapes import Budget
from xtrace.symbols.dwarf.source_locations import member_offsets
from xtrace.symbols.image.image import open_image

MEMBERS = {("cpu_info", "ci_vcpu"): 112, ("vcpu_info", "evtchn_upcall_mask"): 1}
#: Compiler, DWARF version and tool that make a package together.
#: The tool of binutils does not know DWARF 5, and that of LLVM 14 never ends on gcc's.
MADE = (("gcc", 4, "dwp"), ("gcc", 4, "llvm-dwp"), ("clang", 4, "dwp"), ("clang", 5, "llvm-dwp"))
EMPTY = memoryview(b"")
NOTHING = DebugSections(
    EMPTY, EMPTY, EMPTY, EMPTY, EMPTY, EMPTY, EMPTY, EMPTY, EMPTY, EMPTY, EMPTY, EMPTY, EMPTY, 64
)


def needed(*tools: str) -> None:
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing and os.environ.get(REQUIRE_VARIABLE) == "1":
        pytest.fail(f"{missing[0]} is missing ({REQUIRE_VARIABLE}=1 forbids skipping)", pytrace=False)
    if missing:
        pytest.skip(f"no {missing[0]} here")


def packed(folder: Path, *options: str, tool: str = "dwp", compiler: str = "gcc", version: int = 4) -> Path:
    """Build a kernel with its package; remove the .dwo files."""
    needed(tool, compiler)
    kernel = compile_kernel(folder, "-gsplit-dwarf", *options, version=version, compiler=compiler)
    run(folder, tool, "-e", kernel.name, "-o", f"{kernel.name}.dwp")
    for file in folder.glob("*.dwo"):
        file.unlink()
    return kernel


def members(kernel: Path) -> tuple[dict[tuple[str, str], int], list[str]]:
    damage: list[str] = []
    return member_offsets(open_image(kernel), set(MEMBERS), damage), damage


@pytest.mark.parametrize("types", ["", "-fdebug-types-section"])
@pytest.mark.parametrize(("compiler", "version", "tool"), MADE)
def test_package(tmp_path: Path, compiler: str, version: int, tool: str, types: str) -> None:
    options = [types] if types else []
    kernel = packed(tmp_path / "k", *options, tool=tool, compiler=compiler, version=version)
    assert members(kernel) == (MEMBERS, [])


def test_package_of_32_bits(tmp_path: Path) -> None:
    kernel = compile_kernel(tmp_path / "k", "-gsplit-dwarf", version=4, bits=32)
    run(kernel.parent, "dwp", "-e", kernel.name)
    for file in kernel.parent.glob("*.dwo"):
        file.unlink()
    assert members(kernel)[0][("cpu_info", "ci_vcpu")] == 56


def test_compressed_package(tmp_path: Path) -> None:
    kernel = packed(tmp_path / "k")
    run(kernel.parent, "objcopy", "--compress-debug-sections=zlib", "kernel.dwp", "small.dwp")
    (kernel.parent / "small.dwp").rename(kernel.parent / "kernel.dwp")
    assert members(kernel) == (MEMBERS, [])


def test_package_of_the_debug_file(tmp_path: Path) -> None:
    kernel = packed(tmp_path / "k")
    folder = kernel.parent
    run(folder, "objcopy", "--only-keep-debug", "kernel", "kernel.debug")
    run(folder, "objcopy", "--strip-debug", "--add-gnu-debuglink=kernel.debug", "kernel", "bare")
    (folder / "kernel.dwp").rename(folder / "kernel.debug.dwp")
    assert members(folder / "bare") == (MEMBERS, [])


def test_package_of_another_build(tmp_path: Path) -> None:
    kernel = packed(tmp_path / "k")
    other = packed(tmp_path / "other", "-O0")
    shutil.copy(f"{other}.dwp", f"{kernel}.dwp")
    found, damage = members(kernel)
    assert found == {}
    (note,) = damage
    assert "kernel.dwp has 0 of the image's 2 units" in note
    assert "2 of 2 .dwo files are missing" in note


def test_what_a_package_lacks_comes_from_the_files(tmp_path: Path) -> None:
    needed("dwp")
    kernel = compile_kernel(tmp_path / "k", "-gsplit-dwarf", version=4)
    folder = kernel.parent
    header = folder / "include" / "mask.h"
    # Only the second unit has this struct.
    (folder / "second.c").write_text(
        (folder / "second.c").read_text() + "\nstruct late { long a, b; } late;\n"
    )
    assert header.is_file()
    run(
        folder, "gcc", "-c", "-gdwarf-4", "-O2", "-mcmodel=kernel", "-ffreestanding", "-fno-pic", "-Iinclude",
        "-gsplit-dwarf", "second.c", "-o", "second.o",
    )  # fmt: skip
    run(
        folder, "ld", "-static", "-e", "start", "-Ttext=0xffffffff81000000", "first.o", "second.o", "known.o",
        "-o", "kernel",
    )  # fmt: skip
    run(folder, "dwp", "first.dwo", "-o", "kernel.dwp")
    (folder / "first.dwo").unlink()
    damage: list[str] = []
    wanted = {("late", "b"), ("cpu_info", "ci_vcpu")}
    assert member_offsets(open_image(kernel), wanted, damage) == {
        ("late", "b"): 8,
        ("cpu_info", "ci_vcpu"): 112,
    }
    assert damage == []
    (folder / "second.dwo").unlink()
    assert member_offsets(open_image(kernel), wanted, damage) == {("cpu_info", "ci_vcpu"): 112}
    assert "1 of 2 .dwo files are missing" in damage[0]
    assert "kernel.dwp has 1 of the image's 2 units" in damage[0]


def test_damaged_packages_are_noted_and_nothing_else(tmp_path: Path) -> None:
    kernel = packed(tmp_path / "k", "-fdebug-types-section")
    package = Path(f"{kernel}.dwp")
    whole = package.read_bytes()
    rng = random.Random(3)
    wrong = noted = 0
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 3, 12))):
            data[rng.randrange(len(data))] = rng.choice((0, 1, 0x7F, 0xFF, rng.randrange(256)))
        package.write_bytes(bytes(data[: rng.randrange(len(data))] if rng.random() < 0.2 else data))
        found, damage = members(kernel)
        assert all(len(note) < 1000 and "\n" not in note for note in damage)
        noted += bool(damage)
        wrong += found != MEMBERS and not damage
    assert noted
    # A changed byte in a member's own offset cannot be seen.
    assert wrong < 6


def index(
    version: int = 2,
    columns: tuple[int, ...] = (1, 3, 6),
    units: int = 1,
    rows: tuple[int, ...] = (0, 1),
    parts: tuple[int, ...] = (0, 4, 0, 8, 4, 4),
) -> bytes:
    keys = [number + 70 for number in range(len(rows))]
    return struct.pack(
        f"<4I{len(rows)}Q{len(rows) + len(columns) + len(parts)}I",
        version, len(columns), units, len(rows), *keys, *rows, *columns, *parts,
    )  # fmt: skip


def sections(table: bytes, **others: bytes) -> DebugSections:
    found = {"info": b"abcdefgh", "abbrev": b"0123", "str_offsets": bytes(4), "str": b"xx\0name\0"} | others
    return replace(
        NOTHING,
        cu_index=memoryview(table),
        **{name: memoryview(data) for name, data in found.items()},  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("version", [2, 5])
def test_parts_of_a_unit(version: int) -> None:
    table = index(version, parts=(2, 1, 0, 5, 3, 4))
    package = Package(sections(table, info=b"..name\0.", str_offsets=struct.pack("<I", 3)))
    assert package.signatures == {71}
    ((part, offsets),) = package.naming({b"name\0"}, {71}, Budget(1000))
    assert (bytes(part.info), bytes(part.abbrev), bytes(part.str_offsets)) == (b"name\0", b"123", b"\3\0\0\0")
    assert (bytes(part.str), bytes(part.types)) == (b"xx\0name\0", b"")
    assert offsets == [3]
    assert not list(package.naming({b"name\0"}, {70}, Budget(1000)))
    assert not list(package.naming({b"other\0"}, {71}, Budget(1000)))


def test_only_units_with_the_name_are_read() -> None:
    table = index(units=2, rows=(2, 1), parts=(0, 0, 0, 4, 0, 4, 4, 4, 4, 4, 4, 4))
    words = struct.pack("<2I", 0, 3)
    package = Package(sections(table, abbrev=bytes(8), str_offsets=words))
    found = list(package.naming({b"name\0"}, {70, 71}, Budget(1000)))
    assert [bytes(part.info) for part, _ in found] == [b"efgh"]


def test_a_search_spends_the_budget() -> None:
    package = Package(sections(index(), str=bytes(1 << 20)))
    with pytest.raises(DwarfError, match="takes too long"):
        list(package.naming({b"name\0"}, {71}, Budget(100)))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (b"", "has no .debug_cu_index"),
        (b"\2\0\0", "outside its section"),
        (index(3), "unsupported version 0x3"),
        (index(2 | 1 << 16), "unsupported version 0x10002"),
        (index(columns=()), "1 units with 0 sections in 2 slots"),
        (index(columns=tuple(range(1, 18))), "1 units with 17 sections"),
        (index(units=200_001), "200,001 units"),
        (struct.pack("<4I", 2, 3, 1, 800_001), "800,001 slots"),
        (index(units=2), "ends early"),
        (index()[:-1], "ends early"),
        (index(rows=(0, 2)), "a slot for a unit that it does not have"),
    ],
)
def test_damaged_index(table: bytes, message: str) -> None:
    with pytest.raises(DwarfError, match=message):
        Package(sections(table))


def test_index_without_units() -> None:
    assert not Package(sections(struct.pack("<4I", 2, 0, 0, 0))).signatures


def test_part_past_the_end_of_its_section() -> None:
    package = Package(sections(index(parts=(0, 0, 0, 9, 4, 4)), info=b"name\0..."))
    with pytest.raises(DwarfError, match=r"past the end of \.debug_info\.dwo"):
        list(package.naming({b"name\0"}, {71}, Budget(1000)))
