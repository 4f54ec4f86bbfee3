"""The kernel in a unified kernel image, and what is said of other EFI programs."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from builders.images import bzimage, link_kernel
from xtrace.symbols.errors import ImageError
from xtrace.symbols.image.image import open_image
from xtrace.symbols.image.unified import kernel_of

_ALIGNMENT = 0x200


def unified(sections: dict[bytes, bytes], *, in_memory: int | None = None) -> bytes:
    """Return an EFI program with some sections; ``in_memory``: their size there, if it is another."""
    start, optional = 0x80, 0xF0
    head = bytearray(b"MZ" + bytes(start - 2))
    struct.pack_into("<I", head, 0x3C, start)
    head += struct.pack("<4sHHIIIHH", b"PE\0\0", 0x8664, len(sections), 0, 0, 0, optional, 0x22E)
    head += bytes(optional)
    bodies = b""
    room = _ALIGNMENT * 2
    for number, (name, body) in enumerate(sections.items()):
        padded = body + bytes(-len(body) % _ALIGNMENT)
        size = len(body) if in_memory is None else in_memory
        head += struct.pack(
            "<8sIIIIIIHHI", name, size, 0x1000 * (number + 1), len(padded), room + len(bodies), 0, 0, 0, 0, 0
        )
        bodies += padded
    return bytes(head) + bytes(room - len(head)) + bodies


OTHERS = {b".osrel": b"ID=test", b".cmdline": b"console=hvc0"}


@pytest.mark.parametrize("packed", [True, False], ids=["vmlinuz", "vmlinux"])
def test_the_kernel_is_read(tmp_path: Path, packed: bool) -> None:
    kernel = link_kernel(tmp_path)
    plain = kernel.read_bytes()
    image = tmp_path / "linux.efi"
    inside = bzimage(plain, "gzip") if packed else plain
    image.write_bytes(unified({**OTHERS, b".linux": inside, b".initrd": b"x" * 900}))
    found, own = open_image(image), open_image(kernel)
    assert bytes(found.data) == plain
    assert found.build_id == own.build_id
    assert [section.name for section in found.sections] == [section.name for section in own.sections]


def test_padding_is_not_part_of_the_kernel() -> None:
    data = memoryview(unified({b".linux": b"\x7fELF" + bytes(700)}))
    assert bytes(kernel_of(data, "x")) == b"\x7fELF" + bytes(700)
    # Without a size in memory, or with a larger one, all that is stored counts.
    for size in (0, 0x10000):
        whole = memoryview(unified({b".linux": b"\x7fELF" + bytes(700)}, in_memory=size))
        assert len(kernel_of(whole, "x")) == 2 * _ALIGNMENT


def test_program_without_a_kernel() -> None:
    with pytest.raises(ImageError, match=r"x: is an EFI program with no section \.linux; give"):
        kernel_of(memoryview(unified(OTHERS)), "x")


def test_program_that_is_cut_short() -> None:
    whole = unified({b".linux": b"\x7fELF" + bytes(700)})
    with pytest.raises(ImageError, match=r"x: section \.linux \(704 bytes at offset 0x400\) extends past"):
        kernel_of(memoryview(whole[: 0x400 + 600]), "x")


@pytest.mark.parametrize(
    "data",
    [b"", b"MZ", b"MZ" + bytes(62), b"MZ" + bytes(58) + b"\xff" * 4, b"MZ" + b"\xff" * 200, b"\x7fELF"],
    ids=["empty", "magic", "head", "no header there", "no PE", "ELF"],
)
def test_other_files_are_left_alone(data: bytes) -> None:
    assert bytes(kernel_of(memoryview(data), "x")) == data


def test_boot_sector_is_no_unified_image() -> None:
    """A vmlinuz is an EFI program, too."""
    sector = bytearray(unified(OTHERS) + bytes(0x400))
    sector[0x202:0x206] = b"HdrS"
    assert bytes(kernel_of(memoryview(bytes(sector)), "x")) == bytes(sector)
