from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
import time
from pathlib import Path

import pytest

from builders.images import PACKERS, SOURCE, TEXT_ADDRESS, bzimage, compile_object, kallsyms, link_kernel
from xtrace.symbols.errors import ImageError
from xtrace.symbols.image.image import UNDEFINED, open_image

OBJECT = r"""
    .text
    .globl caller
    .type caller, @function
caller:
    call outside
    call second
    REGISTER
    ret
    .size caller, . - caller
    .section .text.second, "ax"
    .globl second
    .type second, @function
second:
    jmp outside
    jmp other
    .size second, . - second
    .section .data..percpu, "aw"
    .skip 24
    .globl vcpu
vcpu:
    .skip 8
    .data
table:
    POINTER caller + 4
    POINTER vcpu
    .bss
    .skip 5000
    .section .note.GNU-stack, "", @progbits
"""


#: Ten times the number of damaged images in test_hostile.py: reading headers and tables is cheap.
MUTANTS = 10 * int(os.environ.get("XTRACE_FUZZ_IMAGES", "300"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("images")


@pytest.fixture(scope="module")
def kernel(folder: Path) -> Path:
    return link_kernel(folder)


@pytest.mark.parametrize("bits", [64, 32])
def test_linked_kernel(folder: Path, bits: int) -> None:
    path = link_kernel(folder, bits=bits, name=f"kernel{bits}")
    image = open_image(path)
    text = TEXT_ADDRESS if bits == 64 else 0xC100_0000
    assert (image.path, image.bits, image.machine) == (str(path), bits, "x86-64" if bits == 64 else "i386")
    assert (image.relocatable, image.entry, image.packed, image.debug_path) == (False, text, "", "")
    assert len(image.build_id) == 40
    assert [s.name for s in image.code] == [".text"]
    assert image.symbols.source == ".symtab"
    assert image.symbols.at(text) == ("start", "start_alias")
    assert image.read(text, 1) == b"\x90"
    assert image.read(text, 10_000) == bytes(image.code[0].data)
    assert image.read(text - 1, 4) == image.read(-5, 4) == image.read(text, -1) == b""
    bss = next(s for s in image.sections if s.name == ".bss")
    assert image.section_at(bss.address + 63) == bss
    assert image.read(bss.address, 4) == b""
    assert image.section_at(0) is None
    section = image.elf.get_section_by_name(".text")
    assert section is not None
    assert section["sh_addr"] == text
    assert image.debug is None
    note = next(s for s in image.sections if s.name == ".note.Xen")
    assert bytes(note.data[:4]) == struct.pack("<I", 4)


def test_symbols_are_those_of_nm(kernel: Path) -> None:
    lines = subprocess.run(["nm", kernel], capture_output=True, text=True, check=True).stdout.splitlines()
    symbols = open_image(kernel).symbols
    expected = sorted((int(line.split()[0], 16), line.split()[2]) for line in lines)
    assert sorted((int(a), symbols.name(i)) for i, a in enumerate(symbols.addresses)) == expected


@pytest.mark.parametrize("how", PACKERS)
def test_packed_kernel_is_the_same(folder: Path, kernel: Path, how: str) -> None:
    path = folder / f"vmlinuz.{how}"
    path.write_bytes(bzimage(kernel.read_bytes(), how))
    packed, plain = open_image(path), open_image(kernel)
    assert packed.packed == how
    assert packed.build_id == plain.build_id
    assert packed.data == plain.data
    assert (packed.symbols.addresses == plain.symbols.addresses).all()
    assert packed.elf.num_sections() == plain.elf.num_sections()


def test_image_without_section_headers(folder: Path, kernel: Path) -> None:
    data = bytearray(kernel.read_bytes())
    struct.pack_into("<Q", data, 40, 0)
    struct.pack_into("<HHH", data, 58, 64, 0, 0)
    path = folder / "segments"
    path.write_bytes(data)
    image = open_image(path)
    assert image.symbols.source == "none"
    assert image.read(TEXT_ADDRESS, 2) == b"\x90\xe8"
    assert [s.executable for s in image.code] == [True]
    assert image.build_id == open_image(kernel).build_id


def test_image_without_loaded_sections(folder: Path, kernel: Path) -> None:
    data = bytearray(kernel.read_bytes())
    (table,) = struct.unpack_from("<Q", data, 40)
    (count,) = struct.unpack_from("<H", data, 60)
    for index in range(count):
        struct.pack_into("<Q", data, table + 64 * index + 8, 0)
    path = folder / "unflagged"
    path.write_bytes(data)
    image = open_image(path)
    assert [s.name.split()[0] for s in image.code] == ["segment"]
    assert image.read(TEXT_ADDRESS, 2) == b"\x90\xe8"
    assert ".text" in [s.name for s in image.sections]
    assert image.symbols.at(TEXT_ADDRESS) == ("start", "start_alias")


@pytest.mark.parametrize("bits", [64, 32])
def test_object_file_is_laid_out(folder: Path, bits: int) -> None:
    register = "mov %gs:vcpu, %rax" if bits == 64 else "mov %fs:vcpu, %eax"
    source = OBJECT.replace("REGISTER", register).replace("POINTER", ".quad" if bits == 64 else ".long")
    image = open_image(compile_object(folder, source, bits=bits, name=f"object{bits}"))
    symbols = image.symbols
    assert image.relocatable
    places = {name: symbols.find(name) for name in ("caller", "second", "outside", "other", "vcpu", "table")}
    caller, second, outside, other, vcpu, table = (place or 0 for place in places.values())
    assert None not in places.values()
    assert all(s.address % 0x1000 == 0 for s in image.code)
    assert len({s.address for s in image.code}) == 2

    def target(address: int) -> int:
        return address + 5 + int.from_bytes(image.read(address + 1, 4), "little", signed=True)

    assert (target(caller), target(caller + 5)) == (outside, second)
    assert (target(second), target(second + 5)) == (outside, other)
    assert {outside & 0xF, other & 0xF} == {0}
    for address in (outside, outside + 15):
        index = symbols.index_of(address)
        assert index is not None
        assert symbols.name(index) == "outside"
    place = image.section_at(outside)
    assert place is not None
    assert (place.name, place.executable) == (UNDEFINED, False)
    move = image.read(caller + 10, 9 if bits == 64 else 6)
    assert int.from_bytes(move[-4:], "little") == vcpu
    word = bits // 8
    assert int.from_bytes(image.read(table, word), "little") == caller + 4
    assert int.from_bytes(image.read(table + word, word), "little") == vcpu
    assert outside not in symbols.function_starts()


def test_debug_file_by_build_id(folder: Path) -> None:
    place = folder / "split"
    place.mkdir()
    full = link_kernel(place, SOURCE, name="full")
    subprocess.run(["objcopy", "--only-keep-debug", full, place / "kernel.debug"], check=True)
    subprocess.run(["objcopy", "--strip-all", full, place / "kernel"], check=True)
    image = open_image(place / "kernel")
    assert image.debug_path == str(place / "kernel.debug")
    assert image.symbols.source == ".symtab"
    assert image.symbols.find("helper") == open_image(full).symbols.find("helper")
    by_id = place / ".build-id" / image.build_id[:2] / f"{image.build_id[2:]}.debug"
    by_id.parent.mkdir(parents=True)
    (place / "kernel.debug").rename(by_id)
    assert open_image(place / "kernel").debug_path == str(by_id)
    moved = place / "elsewhere"
    by_id.rename(moved)
    assert open_image(place / "kernel").debug_path == ""
    assert open_image(place / "kernel", debug_path=moved).debug_path == str(moved)


def test_debug_file_of_another_build(folder: Path, kernel: Path) -> None:
    other = link_kernel(folder, SOURCE.replace("nop", "cli"), name="other")
    with pytest.raises(ImageError, match=f"{other}: has build-id .*give the debug file of the same build"):
        open_image(kernel, debug_path=other)
    shutil.copy(other, folder / "lonely.debug")
    shutil.copy(kernel, folder / "lonely")
    assert open_image(folder / "lonely").debug_path == ""


def test_dwarf_in_the_image_itself(folder: Path) -> None:
    path = folder / "dwarf"
    source = b"int f(void) { return 1; } void start(void) { f(); }"
    command = ["gcc", "-g", "-nostdlib", "-static", "-Wl,-e,start", "-x", "c", "-", "-o", str(path)]
    subprocess.run(command, input=source, check=True)
    debug = open_image(path).debug
    assert debug is not None
    assert debug.has_dwarf_info()


def test_map_beside_the_image(folder: Path, kernel: Path) -> None:
    place = folder / "boot"
    place.mkdir()
    subprocess.run(["strip", kernel, "-o", place / "vmlinux-6.1"], check=True)
    stub = b"ffffffffffffffff B The real System.map is in the linux-image-<version>-dbg package\n"
    beside = place / "System.map-6.1"
    beside.write_bytes(stub)
    assert open_image(place / "vmlinux-6.1").symbols.source == "none"
    with pytest.raises(ImageError, match=r"System.map-6.1: line 1 .*The real System.map is in"):
        open_image(place / "vmlinux-6.1", symbols_path=beside)
    beside.write_bytes(b"%016x T _text\n%016x t next\n" % (TEXT_ADDRESS, TEXT_ADDRESS + 7))
    image = open_image(place / "vmlinux-6.1")
    assert image.symbols.source == "System.map"
    assert image.symbols.find("next") == TEXT_ADDRESS + 7
    beside.write_bytes(b"%016x T _text\n%016x t next\n" % (TEXT_ADDRESS + 4096, TEXT_ADDRESS + 4103))
    assert open_image(place / "vmlinux-6.1").symbols.source == "none"


def test_given_map_replaces_the_symbols(folder: Path, kernel: Path) -> None:
    path = folder / "kallsyms.txt"
    path.write_bytes(b"%016x T given\n" % TEXT_ADDRESS)
    image = open_image(kernel, symbols_path=path)
    assert (image.symbols.source, image.symbols.at(TEXT_ADDRESS)) == ("kallsyms", ("given",))
    path.write_bytes(b"%016x T given\n" % 0x1000)
    with pytest.raises(ImageError, match="none of its 1 symbols is in the image's code"):
        open_image(kernel, symbols_path=path)


def test_kernel_with_embedded_kallsyms(folder: Path) -> None:
    names = [(TEXT_ADDRESS + i, "T", f"xen_function_{i:04}_0123456789") for i in range(1500)]
    tables = folder / "tables"
    tables.write_bytes(kallsyms(names, absolute_percpu=False))
    source = f'.text\n start: .fill 1500, 1, 0x90\n .section .rodata, "a"\n .incbin "{tables}"\n'
    path = link_kernel(folder, source, name="own")
    subprocess.run(["strip", path], check=True)
    image = open_image(path)
    assert image.symbols.source == "embedded kallsyms"
    assert image.symbols.at(TEXT_ADDRESS + 77) == ("xen_function_0077_0123456789",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d[:40], "ELF header is cut short"),
        (lambda d: b"MZ" + d[2:], "not an ELF file"),
        (lambda d: d[:18] + b"\xb7\0" + d[20:], "machine 183"),
        (lambda d: d[:5] + b"\2" + d[6:], "only x86-64 and i386"),
        (lambda d: d[:16] + b"\4\0" + d[18:], "ELF type 4"),
        (lambda d: d[: len(d) // 3], "cut short"),
        (lambda d: d[:58] + b"\x10\0" + d[60:], "section headers of 16 bytes"),
        (lambda d: d[:62] + b"\x50\0", "extend past the end"),
    ],
)
def test_files_that_are_not_kernels(folder: Path, kernel: Path, change: object, message: str) -> None:
    assert callable(change)
    path = folder / "damaged"
    path.write_bytes(change(kernel.read_bytes()))
    with pytest.raises(ImageError, match=f"^{path}: .*{message}"):
        open_image(path)


def test_empty_and_missing_files(folder: Path) -> None:
    empty = folder / "empty"
    empty.touch()
    with pytest.raises(ImageError, match="is empty"):
        open_image(empty)
    with pytest.raises(OSError, match="No such file"):
        open_image(folder / "missing")
    os.mkfifo(folder / "pipe")
    for path in (folder, folder / "pipe", Path("/dev/zero")):
        with pytest.raises((ImageError, OSError)):
            open_image(path)


def touch(path: Path, with_pyelftools: bool) -> None:
    """Open an image and use what it offers: only the two declared errors may be raised."""
    try:
        image = open_image(path)
        for index in range(min(len(image.symbols), 50)):
            image.symbols.name(index)
        image.symbols.index_of(image.entry)
        image.symbols.find("start")
        image.symbols.function_starts()
        for section in image.sections[:50]:
            image.read(section.address + 1, 16)
        if with_pyelftools:
            assert image.elf.num_sections() >= 0
            assert image.debug is None or image.debug["e_machine"]
    except (ImageError, OSError) as error:
        message = str(error)
    else:
        message = ""
    assert "\n" not in message


def test_mutated_images(folder: Path, kernel: Path) -> None:
    source = OBJECT.replace("REGISTER", "mov %gs:vcpu, %rax").replace("POINTER", ".quad")
    stripped = folder / "small"
    subprocess.run(["strip", kernel, "-o", stripped], check=True)
    seeds = [kernel.read_bytes(), compile_object(folder, source, name="seed").read_bytes()]
    seeds += [bzimage(stripped.read_bytes(), how) for how in PACKERS]
    small32 = link_kernel(folder, bits=32, name="seed32").read_bytes()
    rng = random.Random(20)
    path = folder / "mutant"
    interesting = (0, 1, 0x7F, 0x80, 0xFF)
    began = time.process_time()
    for number in range(MUTANTS):
        data = bytearray(rng.choice([*seeds, small32, seeds[0], seeds[1]]))
        tables = int.from_bytes(data[40:48], "little") if data[:4] == b"\x7fELF" else 0
        for _ in range(rng.choice((1, 1, 2, 6))):
            # Mostly in the headers: at the beginning, and in the section headers.
            start = rng.choice((0, 0, min(tables, len(data) - 1)))
            at = min(start + rng.randrange(rng.choice((64, 800, len(data)))), len(data) - 1)
            for place in range(at, min(at + rng.choice((1, 1, 4, 8)), len(data))):
                data[place] = rng.choice((*interesting, rng.randrange(256)))
        if rng.random() < 0.1:
            del data[rng.randrange(len(data)) :]
        path.unlink(missing_ok=True)  # truncating a file that is still mapped is slow
        path.write_bytes(data)
        touch(path, with_pyelftools=not number % 4)
    assert time.process_time() - began < MUTANTS * 0.015
