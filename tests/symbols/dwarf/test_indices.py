"""DWARF 5 as Clang writes it: names, addresses and range lists by index into separate tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from builders.dwarf import run
from xtrace.symbols.dwarf.source_locations import Frame, SourceLocation, lines_of, member_offsets
from xtrace.symbols.image.image import Image, open_image

NAMES = ("unit.c", "/src", "outer", "inner", "vcpu_info", "evtchn_upcall_pending", "evtchn_upcall_mask")
(UNIT, FOLDER, OUTER, INNER, VCPU_INFO, PENDING, MASK) = range(len(NAMES))

_ABBREVIATIONS = """
    .section .debug_abbrev,"",@progbits
    .uleb128 1, 0x11; .byte 1           # compile_unit
    .uleb128 0x03,0x25, 0x1b,0x25, 0x10,0x17, 0x72,0x17, 0x73,0x17, 0x74,0x17, 0x11,0x1b, 0x55,0x23, 0,0
    .uleb128 2, 0x2e; .byte 1           # subprogram: low_pc addrx, high_pc data4, name strx1
    .uleb128 0x11,0x1b, 0x12,0x06, 0x03,0x25, 0,0
    .uleb128 3, 0x2e; .byte 0           # abstract subprogram
    .uleb128 0x03,0x25, 0x20,0x21; .sleb128 1; .uleb128 0,0
    .uleb128 4, 0x1d; .byte 0           # inlined: origin ref4, ranges rnglistx, call_file, call_line
    .uleb128 0x31,0x13, 0x55,0x23, 0x58,0x0b, 0x59,0x0b, 0,0
    .uleb128 5, 0x13; .byte 1           # struct
    .uleb128 0x03,0x25, 0x0b,0x0b, 0,0
    .uleb128 6, 0x0d; .byte 0           # member
    .uleb128 0x03,0x25, 0x38,0x0b, 0,0
    .byte 0
"""

_INFO = f"""
    .section .debug_info,"",@progbits
unit:
    .long unit_end - unit_version
unit_version:
    .2byte 5; .byte 1, 8
    .long 0
    .uleb128 1
    .byte {UNIT}, {FOLDER}
    .long lines, strings_base, addresses_base, lists_base
    .uleb128 0, 0
inner_die:
    .uleb128 3; .byte {INNER}
    .uleb128 2, 0; .long 8; .byte {OUTER}
inlined_die:
    .uleb128 4; .long inner_die - unit; .uleb128 1; .byte 0, 7
    .byte 0
    .uleb128 5; .byte {VCPU_INFO}, 64
    .uleb128 6; .byte {PENDING}, 0
    .uleb128 6; .byte {MASK}, 1
    .byte 0
    .byte 0
unit_end:
"""

_LISTS = """
    .section .debug_addr,"",@progbits
    .long addresses_end - addresses_version
addresses_version:
    .2byte 5; .byte 8, 0
addresses_base:
    .quad code, code + 2, code + 4
addresses_end:
    .section .debug_rnglists,"",@progbits
    .long lists_end - lists_version
lists_version:
    .2byte 5; .byte 8, 0
    .long 2
lists_base:
    .long list_0 - lists_base, list_1 - lists_base
list_0:
    .byte 3; .uleb128 0, 8              # startx_length
    .byte 0
list_1:
    .byte 2; .uleb128 1, 2              # startx_endx: code + 2 to code + 4
    .byte 1; .uleb128 0                 # base_addressx: code
    .byte 4; .uleb128 5, 6              # offset_pair: code + 5 to code + 6
    .byte 7; .quad code + 6; .uleb128 0 # start_length, empty
    .byte 0
lists_end:
"""

_LINES = """
    .section .debug_line,"",@progbits
lines:
    .long lines_end - lines_version
lines_version:
    .2byte 5; .byte 8, 0
    .long program - lines_header
lines_header:
    .byte 1, 1, 1, -5, 14, 13, 0,1,1,1,1,0,0,0,1,0,0,1
    .byte 1; .uleb128 1, 0x8; .uleb128 1; .asciz "/src"
    .byte 2; .uleb128 1, 0x8, 2, 0xb; .uleb128 1; .asciz "unit.c"; .byte 0
program:
    .byte 0; .uleb128 9; .byte 2; .quad code
    .byte 4; .uleb128 0                 # set_file 0
    .byte 3; .sleb128 9; .byte 1        # line 10
    .byte 2; .uleb128 2; .byte 3; .sleb128 10; .byte 1
    .byte 2; .uleb128 6
    .byte 0, 1, 1
lines_end:
"""


def _strings() -> str:
    texts = "".join(f'string_{index}: .asciz "{name}"\n' for index, name in enumerate(NAMES))
    offsets = ", ".join(f"string_{index}" for index in range(len(NAMES)))
    return f"""
    .section .debug_str,"",@progbits
{texts}
    .section .debug_str_offsets,"",@progbits
    .long offsets_end - offsets_version
offsets_version:
    .2byte 5, 0
strings_base:
    .long {offsets}
offsets_end:
"""


def assemble(folder: Path, info: str) -> Image:
    """Return a kernel with one function of eight bytes, in which another is inlined at 2, 3 and 5."""
    text = "    .text\n    .globl code\ncode:\n    .fill 8, 1, 0x90\n"
    (folder / "k.s").write_text(text + _ABBREVIATIONS + info + _strings() + _LISTS + _LINES)
    run(folder, "as", "k.s", "-o", "k.o")
    run(folder, "ld", "-static", "-e", "code", "-Ttext=0x100000", "k.o", "-o", "k")
    return open_image(folder / "k")


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return assemble(tmp_path, _INFO)


def test_places_and_inlined_functions_by_index(image: Image) -> None:
    damage: list[str] = []
    found = lines_of(image, range(0x0FFFFF, 0x10000A), damage)
    assert damage == []
    whole = {
        0x100000 + offset: SourceLocation("/src/unit.c", 10 if offset < 2 else 20, "outer")
        for offset in range(8)
    }
    for offset in (2, 3, 5):
        chain = Frame("inner", "/src/unit.c", 20), Frame("outer", "/src/unit.c", 7)
        whole[0x100000 + offset] = SourceLocation("/src/unit.c", 20, "inner", chain)
    assert found == whole


def test_members_by_index(image: Image) -> None:
    asked = {("vcpu_info", "evtchn_upcall_mask"), ("vcpu_info", "evtchn_upcall_pending")}
    damage: list[str] = []
    assert member_offsets(image, asked, damage) == {
        ("vcpu_info", "evtchn_upcall_mask"): 1,
        ("vcpu_info", "evtchn_upcall_pending"): 0,
    }
    assert damage == []


def test_self_referencing_origin_keeps_the_line(tmp_path: Path) -> None:
    image = assemble(tmp_path, _INFO.replace(".long inner_die - unit", ".long inlined_die - unit"))
    damage: list[str] = []
    found = lines_of(image, [0x100001, 0x100002], damage)
    assert found[0x100002] == SourceLocation("/src/unit.c", 20)
    assert damage == ["unit at 0x0 in .debug_info: an endless chain of abstract origins"]


def test_unknown_range_list_entry_keeps_the_line(tmp_path: Path) -> None:
    image = assemble(tmp_path, _INFO)
    data = bytearray((tmp_path / "k").read_bytes())
    section = next(section for section in image.sections if section.name == ".debug_rnglists")
    at = data.index(b"\x02\x01\x02", section.offset)
    data[at] = 9
    (tmp_path / "k").write_bytes(data)
    damage: list[str] = []
    found = lines_of(open_image(tmp_path / "k"), [0x100002], damage)
    assert found == {0x100002: SourceLocation("/src/unit.c", 20)}
    assert damage == ["unit at 0x0 in .debug_info: a range list entry of unknown kind 9"]
