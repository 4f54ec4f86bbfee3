"""Members and lines from DWARF in its other forms: split, type units, compressed in each way."""

from __future__ import annotations

import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import pytest
import zstandard

from builders.dwarf import compile_kernel
from xtrace.symbols.dwarf.compressed import decompressed, plain_size
from xtrace.symbols.dwarf.source_locations import lines_of, member_offsets
from xtrace.symbols.image.image import Image, open_image

MEMBERS = {("cpu_info", "ci_vcpu"): 112, ("vcpu_info", "evtchn_upcall_mask"): 1}


def members(image: Image) -> tuple[dict[tuple[str, str], int], list[str]]:
    damage: list[str] = []
    return member_offsets(image, set(MEMBERS), damage), damage


@pytest.mark.parametrize("version", [4, 5])
def test_type_units(tmp_path: Path, version: int) -> None:
    image = open_image(compile_kernel(tmp_path / "k", "-fdebug-types-section", version=version))
    assert members(image) == (MEMBERS, [])


def test_type_units_of_an_object_file(tmp_path: Path) -> None:
    image = open_image(compile_kernel(tmp_path / "k", "-fdebug-types-section", version=4, relocatable=True))
    assert members(image) == (MEMBERS, [])


@pytest.mark.parametrize("how", ["zlib-gnu", "zlib", "zstd"])
def test_compressed_sections(tmp_path: Path, how: str) -> None:
    kernel = compile_kernel(tmp_path / "k")
    done = subprocess.run(
        ["objcopy", f"--compress-debug-sections={how}", kernel, tmp_path / "packed"], check=False
    )
    if done.returncode:
        pytest.skip(f"objcopy cannot compress with {how}")
    packed, plain = open_image(tmp_path / "packed"), open_image(kernel)
    assert members(packed) == (MEMBERS, [])
    text = next(section for section in plain.sections if section.name == ".text")
    addresses = list(range(text.address, text.address + text.size, 3))
    assert lines_of(packed, addresses) == lines_of(plain, addresses) != {}


@pytest.mark.parametrize("version", [4, 5])
def test_split_dwarf(tmp_path: Path, version: int) -> None:
    made = tmp_path / "made"
    kernel = compile_kernel(made, "-gsplit-dwarf", version=version)
    files = sorted(made.glob("*.dwo"))
    assert {file.name for file in files} >= {"first.dwo", "second.dwo"}
    assert members(open_image(kernel)) == (MEMBERS, [])
    # Beside the image it is found as well.
    moved = tmp_path / "moved"
    moved.mkdir()
    shutil.copy(kernel, moved / "k")
    for file in files:
        file.rename(moved / file.name)
    assert members(open_image(moved / "k")) == (MEMBERS, [])
    for file in files:
        (moved / file.name).unlink()
    found, damage = members(open_image(moved / "k"))
    assert found == {}
    assert len(damage) == 1
    assert "2 of 2 .dwo files are missing" in damage[0]
    assert "-gsplit-dwarf" in damage[0]
    (moved / "k.dwp").write_bytes(b"x")
    assert "k.dwp: pyelftools cannot read" in members(open_image(moved / "k"))[1][0]


def test_damaged_dwo_file(tmp_path: Path) -> None:
    kernel = compile_kernel(tmp_path / "k", "-gsplit-dwarf")
    files = list(kernel.parent.glob("*.dwo"))
    for content in (b"", b"\x7fELF", files[0].read_bytes()[:200]):
        for file in files:
            file.write_bytes(content)
        found, damage = members(open_image(kernel))
        assert found == {}
        assert len(damage) == 1


def test_lines_of_split_dwarf(tmp_path: Path) -> None:
    image = open_image(compile_kernel(tmp_path / "k", "-gsplit-dwarf"))
    text = next(section for section in image.sections if section.name == ".text")
    assert lines_of(image, [text.address])[text.address].line > 0


PLAIN = bytes(range(256)) * 9


def packed(kind: int, body: bytes, size: int = len(PLAIN), *, bits: int = 64) -> memoryview:
    head = struct.pack("<IIQQ", kind, 0, size, 1) if bits == 64 else struct.pack("<III", kind, size, 1)
    return memoryview(head + body)


@pytest.mark.parametrize("bits", [32, 64])
def test_each_compression(bits: int) -> None:
    for data, gnu in (
        (packed(1, zlib.compress(PLAIN), bits=bits), False),
        (packed(2, zstandard.compress(PLAIN), bits=bits), False),
        (memoryview(b"ZLIB" + struct.pack(">Q", len(PLAIN)) + zlib.compress(PLAIN)), True),
    ):
        assert bytes(decompressed(data, bits=bits, gnu=gnu)) == PLAIN
        assert plain_size(data, bits=bits, gnu=gnu) == len(PLAIN)


@pytest.mark.parametrize(
    ("data", "gnu", "message"),
    [
        (packed(3, b""), False, "unknown compression 3"),
        (packed(1, b"no zlib"), False, "is damaged"),
        (packed(2, b"no zstd"), False, "is damaged"),
        (packed(1, zlib.compress(PLAIN), 100), False, "says 100"),
        (packed(1, zlib.compress(PLAIN), 10_000), False, "says 10,000"),
        (packed(2, zstandard.compress(PLAIN), 100), False, "says 100"),
        (memoryview(b"\1\0"), False, "cut short"),
        (memoryview(b"ZLIB"), True, "cut short"),
        (memoryview(b"zlib" + bytes(20)), True, "does not begin with ZLIB"),
    ],
)
def test_damaged_compression(data: memoryview, gnu: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decompressed(data, bits=64, gnu=gnu)
