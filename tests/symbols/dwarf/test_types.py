"""Offsets of struct members from DWARF of each version, and what happens where there are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from builders.dwarf import compile_kernel, run
from xtrace.symbols.dwarf.sections import find_all, find_words
from xtrace.symbols.dwarf.source_locations import member_offsets
from xtrace.symbols.image.image import open_image

MEMBERS = {
    ("vcpu_info", "evtchn_upcall_pending"): 0,
    ("vcpu_info", "evtchn_upcall_mask"): 1,
    ("vcpu_info", "evtchn_pending_sel"): 8,
    ("shared_info", "vcpu_info"): 0,
    ("shared_info", "evtchn_pending"): 2048,
    ("cpu_info", "ci_vcpu"): 112,
}
MEMBERS_32 = {
    **MEMBERS,
    ("vcpu_info", "evtchn_pending_sel"): 4,
    ("shared_info", "evtchn_pending"): 1024,
    ("cpu_info", "ci_vcpu"): 56,
}


@pytest.mark.parametrize("options", [(), ("-fno-merge-debug-strings",), ("-gdwarf64",), ("-gz=zlib",)])
@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_members_are_where_the_compiler_put_them(
    version: int, options: tuple[str, ...], tmp_path: Path
) -> None:
    if "-gdwarf64" in options and version < 3:
        pytest.skip("64-bit DWARF came with version 3")
    damage: list[str] = []
    image = open_image(compile_kernel(tmp_path / "k", *options, version=version))
    assert member_offsets(image, set(MEMBERS), damage) == MEMBERS
    assert damage == []


@pytest.mark.parametrize("relocatable", [False, True])
def test_members_of_32_bit_kernels_and_object_files(relocatable: bool, tmp_path: Path) -> None:
    image = open_image(compile_kernel(tmp_path / "k", bits=32, relocatable=relocatable))
    assert member_offsets(image, set(MEMBERS)) == MEMBERS_32


def test_missing_members_are_not_found(tmp_path: Path) -> None:
    image = open_image(compile_kernel(tmp_path / "k"))
    damage: list[str] = []
    asked = {("vcpu_info", "no_such_member"), ("no_such_struct", "x"), ("info", "x"), ("cpu_info", "ci_vcpu")}
    assert member_offsets(image, asked, damage) == {("cpu_info", "ci_vcpu"): 112}
    assert damage == []


def test_image_without_dwarf_has_no_members(tmp_path: Path) -> None:
    path = compile_kernel(tmp_path / "k")
    run(path.parent, "strip", "-g", "kernel")
    assert member_offsets(open_image(path), set(MEMBERS)) == {}


def test_words_are_found_at_any_offset() -> None:
    data = np.random.default_rng(5).integers(0, 4, 1_300_000, dtype=np.uint8).tobytes()
    words = [0x00010203, 0x03020100, 0x02020202]
    expected = sorted(
        place for word in words for place in find_all(memoryview(data), word.to_bytes(4, "little"))
    )
    assert list(find_words(memoryview(data), words)) == expected
    assert any(place % 2 for place in expected)
    assert list(find_words(memoryview(b"abc"), words)) == []
