from __future__ import annotations

import gzip
import lzma
import shutil
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import lz4.frame
import pytest

from builders.images import PACKERS, bzimage
from xtrace.symbols.errors import ImageError
from xtrace.symbols.image.vmlinuz import unpack

ELF = b"\x7fELF\x02\x01\x01" + bytes(range(256)) * 400


@pytest.mark.parametrize("how", PACKERS)
def test_bzimage(how: str) -> None:
    found = unpack(memoryview(bzimage(ELF, how)), "vmlinuz")
    assert found is not None
    assert (bytes(found[0]), found[1]) == (ELF, how)


@pytest.mark.parametrize("how", PACKERS)
def test_compressed_elf_file(how: str) -> None:
    found = unpack(memoryview(PACKERS[how](ELF)), "netbsd.gz")
    assert found is not None
    assert (bytes(found[0]), found[1]) == (ELF, how)


@pytest.mark.parametrize(
    "tool", ["gzip -9", "xz", "xz --format=lzma", "bzip2", "lz4 -l", "lz4", "zstd -q -19"]
)
def test_files_written_by_each_tool(tool: str) -> None:
    command = tool.split()
    if shutil.which(command[0]) is None:
        pytest.skip(f"no {command[0]}")
    packed = subprocess.run([*command, "-c"], input=ELF, stdout=subprocess.PIPE, check=True).stdout
    found = unpack(memoryview(packed), "kernel")
    assert found is not None
    assert bytes(found[0]) == ELF


def test_concatenated_streams() -> None:
    for pack in (gzip.compress, lzma.compress):
        found = unpack(memoryview(pack(ELF[:5000]) + pack(ELF[5000:])), "kernel")
        assert found is not None
        assert bytes(found[0]) == ELF


def test_uncompressed_files_are_left_alone() -> None:
    assert unpack(memoryview(ELF), "vmlinux") is None
    assert unpack(memoryview(b"x"), "x") is None


@pytest.mark.parametrize("how", PACKERS)
def test_cut_short(how: str) -> None:
    packed = PACKERS[how](ELF)
    with pytest.raises(ImageError, match=r"kernel: .*damaged or cut short"):
        unpack(memoryview(packed[: len(packed) * 2 // 3]), "kernel")


@pytest.mark.parametrize("how", PACKERS)
def test_bomb_stops_at_the_limit(how: str) -> None:
    bomb = bzimage(ELF + bytes(64 << 20), how)
    assert len(bomb) < 1 << 20
    tracemalloc.start()
    with pytest.raises(ImageError, match=r"to more than 4,194,304 bytes"):
        unpack(memoryview(bomb), "bomb", limit_bytes=4 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 48 << 20


def test_data_that_is_not_a_kernel_is_rejected_at_once() -> None:
    with pytest.raises(ImageError, match="not an ELF file"):
        unpack(memoryview(gzip.compress(bytes(64 << 20))), "zeros.gz")
    with pytest.raises(ImageError, match="not an ELF file"):
        unpack(memoryview(gzip.compress(b"")), "empty.gz")


def test_xz_dictionary_is_bounded() -> None:
    filters = [{"id": lzma.FILTER_LZMA1, "dict_size": 4096}]
    packed = bytearray(lzma.compress(ELF, lzma.FORMAT_ALONE, filters=filters))
    packed[1:5] = struct.pack("<I", 3 << 29)
    with pytest.raises(ImageError, match="damaged"):
        unpack(memoryview(b"\x5d\0\0" + bytes(packed[3:])), "kernel")


def test_too_many_streams() -> None:
    with pytest.raises(ImageError, match="concatenated streams"):
        unpack(memoryview(gzip.compress(ELF[:300]) + gzip.compress(b"") * 5000), "kernel")


def test_boot_header() -> None:
    image = bytearray(bzimage(ELF, "gzip"))
    struct.pack_into("<H", image, 0x206, 0x205)
    with pytest.raises(ImageError, match=r"boot protocol 2\.05"):
        unpack(memoryview(bytes(image)), "old")
    struct.pack_into("<H", image, 0x206, 0x20F)
    struct.pack_into("<I", image, 0x24C, len(image))
    with pytest.raises(ImageError, match="extends past the end"):
        unpack(memoryview(bytes(image)), "cut")
    with pytest.raises(ImageError, match="boot header is cut short"):
        unpack(memoryview(bytes(image[:0x210])), "cut")
    image = bytearray(bzimage(ELF, "gzip"))
    at = 5 * 512 + 0x3C4
    image[at : at + 9] = b"\x89LZO\0\r\n\x1a\n"
    with pytest.raises(ImageError, match="lzop"):
        unpack(memoryview(bytes(image)), "lzo")


def test_kernel_stored_uncompressed() -> None:
    setup = bytearray(bzimage(ELF, "gzip")[: 5 * 512])
    struct.pack_into("<II", setup, 0x248, 0, len(ELF))
    found = unpack(memoryview(bytes(setup) + ELF), "vmlinuz")
    assert found is not None
    assert (bytes(found[0]), found[1]) == (ELF, "none")


@pytest.mark.parametrize(("library", "how"), [("zstandard", "zstd"), ("lz4.block", "lz4")])
def test_missing_library(monkeypatch: pytest.MonkeyPatch, library: str, how: str) -> None:
    packed = bzimage(ELF, how)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImageError, match=rf"pip install 'xtrace\[{how}\]'"):
        unpack(memoryview(packed), "vmlinuz")


def test_lz4_frame_is_lz4(tmp_path: Path) -> None:
    found = unpack(memoryview(lz4.frame.compress(ELF)), "kernel")
    assert found is not None
    assert found[1] == "lz4"
