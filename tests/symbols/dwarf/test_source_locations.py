"""Source locations and inline chains match GNU addr2line, on kernels with DWARF of each version."""

from __future__ import annotations

import os
import re
import resource
import time
from pathlib import Path

import pytest

from builders.dwarf import addr2line, compile_kernel, frames, instructions, run
from xtrace.symbols.dwarf.source_locations import Frame, lines_of
from xtrace.symbols.image.image import open_image

#: DWARF version and bits.
VARIANTS = [(5, 64), (4, 64), (3, 64), (2, 64), (5, 32), (4, 32)]
OPTIONS = {
    "O0": ("-O0", "-gdwarf-4"),
    "sections": ("-ffunction-sections", "-O3"),
    "compressed": ("-gz=zlib",),
    "no-aranges": (),
}


def compare(path: Path, addresses: list[int]) -> int:
    """Compare all addresses; return how many are in inlined functions."""
    damage: list[str] = []
    found = lines_of(open_image(path), addresses, damage)
    told = addr2line(path, addresses)
    ours = {address: frames(found.get(address)) for address in addresses}
    assert damage == []
    assert ours == {address: unnamed(told[address], ours[address]) for address in addresses}
    return sum(len(chain) > 1 for chain in ours.values())


def unnamed(told: list[tuple[str, str, int]], ours: list[tuple[str, str, int]]) -> list[tuple[str, str, int]]:
    """Return addr2line's frames without a name that it took from the symbols because DWARF has none."""
    return [("", file, line) for _, file, line in told] if ours and not ours[0][0] else told


@pytest.mark.parametrize(("version", "bits"), VARIANTS)
def test_each_instruction_matches_addr2line(version: int, bits: int, tmp_path: Path) -> None:
    path = compile_kernel(tmp_path / "k", version=version, bits=bits)
    addresses = instructions(path)[".text"]
    assert len(addresses) > 50
    assert compare(path, addresses) > 10


@pytest.mark.parametrize("option", OPTIONS)
def test_compiler_options_change_nothing(option: str, tmp_path: Path) -> None:
    path = compile_kernel(tmp_path / "k", *OPTIONS[option])
    if option == "no-aranges":
        run(path.parent, "objcopy", "--remove-section=.debug_aranges", "kernel")
    addresses = [address for section in instructions(path).values() for address in section]
    assert compare(path, addresses) > 0


def test_a_chain_begins_with_the_innermost_function(tmp_path: Path) -> None:
    path = compile_kernel(tmp_path / "k")
    found = lines_of(open_image(path), instructions(path)[".text"])
    chains = {tuple(frame.function for frame in place.inline) for place in found.values()}
    assert ("set_mask", "restore", "twice") in chains
    deepest = next(place for place in found.values() if len(place.inline) == 3)
    assert deepest.function == "set_mask"
    assert Frame(deepest.function, deepest.file, deepest.line) == deepest.inline[0]
    assert deepest.file.endswith("include/mask.h")


def test_assembly_has_lines_if_assembled_with_them(tmp_path: Path) -> None:
    path = compile_kernel(tmp_path / "k")
    image = open_image(path)
    known, bare = image.symbols.find("known"), image.symbols.find("bare")
    assert known is not None
    assert bare is not None
    found = lines_of(image, [known, known + 1, bare])
    assert [found[known].line, found[known + 1].line] == [5, 6]
    assert found[known].file.endswith("known.S")
    assert found[known].inline == ()
    assert bare not in found


@pytest.mark.parametrize("version", [2, 4, 5])
@pytest.mark.parametrize("bits", [64, 32])
def test_relocatable_objects_are_relocated_to_their_sections(tmp_path: Path, version: int, bits: int) -> None:
    path = compile_kernel(tmp_path / "k", "-ffunction-sections", version=version, bits=bits, relocatable=True)
    image = open_image(path)
    bases = {section.name: section.address for section in image.sections}
    compared = 0
    for section, offsets in instructions(path).items():
        told = addr2line(path, offsets, "-j", section)
        found = lines_of(image, [bases[section] + offset for offset in offsets])
        for offset in offsets:
            ours = frames(found.get(bases[section] + offset))
            assert ours == unnamed(told[offset], ours), (section, hex(offset))
            compared += bool(ours)
    assert compared > 50


def test_separate_debug_file_gives_the_same(tmp_path: Path) -> None:
    path = compile_kernel(tmp_path / "k")
    addresses = instructions(path)[".text"]
    whole = lines_of(open_image(path), addresses)
    run(path.parent, "objcopy", "--only-keep-debug", "kernel", "kernel.debug")
    run(path.parent, "objcopy", "--strip-debug", "kernel", "stripped")
    image = open_image(path.parent / "stripped", debug_path=path.parent / "kernel.debug")
    assert lines_of(image, addresses) == whole
    assert len(whole) > 50


def test_invalid_addresses_have_no_location(tmp_path: Path) -> None:
    image = open_image(compile_kernel(tmp_path / "k"))
    damage: list[str] = []
    assert lines_of(image, [0, 1, -1, 1 << 64, (1 << 64) - 1], damage) == {}
    assert lines_of(image, [], damage) == {}
    assert damage == []


def test_image_without_dwarf_has_no_locations(tmp_path: Path) -> None:
    path = compile_kernel(tmp_path / "k")
    run(path.parent, "strip", "-g", "kernel")
    assert lines_of(open_image(path), instructions(path)[".text"]) == {}


def test_64_bit_dwarf_gives_the_same(tmp_path: Path) -> None:
    # addr2line does not find its line programs.
    plain, wide = compile_kernel(tmp_path / "a"), compile_kernel(tmp_path / "b", "-gdwarf64")
    addresses = instructions(plain)[".text"]
    assert shape(wide, addresses) == shape(plain, addresses)


def test_mapped_directory_is_in_file_names_once(tmp_path: Path) -> None:
    # addr2line repeats such a directory: it takes directory 0 of DWARF 5 for one below the compiler's.
    path = compile_kernel(tmp_path / "k", f"-ffile-prefix-map={tmp_path}=build")
    image = open_image(path)
    start = image.symbols.find("start")
    assert start is not None
    assert lines_of(image, [start])[start].file == "build/k/first.c"


def test_first_rows_of_a_program_are_of_file_1(tmp_path: Path) -> None:
    # addr2line 2.40 wrongly takes file 0; readelf is right.
    path = compile_kernel(tmp_path / "k", "-O0")
    table = run(path.parent, "readelf", "--debug-dump=decodedline", path.name)
    rows = [line.split() for line in table.splitlines() if re.match(r"\S+ +\d+ +0x", line)]
    told = {int(address, 16): (name, int(line)) for name, line, address, *_ in rows}
    found = lines_of(open_image(path), list(told))
    assert len(found) > 50
    assert {a: (place.file.rsplit("/", 1)[1], place.line) for a, place in found.items()} == {
        address: told[address] for address in found
    }


def shape(path: Path, addresses: list[int]) -> dict[int, list[tuple[str, str, int]]]:
    """Return the frames of addresses, with the files' base names."""
    found = lines_of(open_image(path), addresses)
    assert len(found) > 50
    return {
        address: [(function, file.rsplit("/", 1)[1], line) for function, file, line in frames(place)]
        for address, place in found.items()
    }


@pytest.mark.slow
@pytest.mark.skipif(
    "XTRACE_VMLINUX" not in os.environ, reason="XTRACE_VMLINUX does not name a vmlinux with DWARF"
)
def test_distribution_kernel_is_read_in_time() -> None:
    path = Path(os.environ["XTRACE_VMLINUX"])
    image = open_image(path)
    starts = image.symbols.function_starts()
    # A few addresses in each of some sixty functions, most of which are in different units.
    chosen = starts[:: len(starts) // 60].tolist()
    addresses = [start + distance for start in chosen for distance in (0, 9, 31)]
    begin = time.process_time()
    found = lines_of(image, addresses)
    assert time.process_time() - begin < 15
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 600 << 10
    told = addr2line(path, addresses)
    assert len(found) > 100
    for address in addresses:
        ours = frames(found.get(address))
        theirs = unnamed(told[address], ours)
        # Not the files: addr2line 2.40 takes file 0 for file 1 in a program's first rows.
        assert [(name, line) for name, _, line in ours] == [(name, line) for name, _, line in theirs]
