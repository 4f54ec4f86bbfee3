"""Find the Linux kernel in a unified kernel image: an EFI program with the kernel in its section .linux.

Source: UAPI group, Unified Kernel Image; Microsoft, PE Format (COFF header, section table).
"""

from __future__ import annotations

import struct

from xtrace.symbols.errors import ImageError

_DOS_MAGIC, _PE_MAGIC = b"MZ", b"PE\0\0"
#: Where the DOS header says where the PE header is; the boot sector of a vmlinuz has its own magic.
_PE_OFFSET, _BOOT_MAGIC_OFFSET, _BOOT_MAGIC = 0x3C, 0x202, b"HdrS"
_COFF_BYTES, _SECTION_BYTES = 24, 40
_MOST_SECTIONS = 96
_KERNEL = b".linux\0\0"


def kernel_of(data: memoryview, path: str) -> memoryview:
    """Return the kernel inside a unified kernel image; any other file as it is.

    Raises:
        ImageError: it is an EFI program without a kernel, or it is cut short.
    """
    if data[:2] != _DOS_MAGIC or bytes(data[_BOOT_MAGIC_OFFSET : _BOOT_MAGIC_OFFSET + 4]) == _BOOT_MAGIC:
        return data
    try:
        (start,) = struct.unpack_from("<I", data, _PE_OFFSET)
        if bytes(data[start : start + 4]) != _PE_MAGIC:
            return data
        count, optional_bytes = struct.unpack_from("<H12xH", data, start + 6)
        table = start + _COFF_BYTES + optional_bytes
        for number in range(min(count, _MOST_SECTIONS)):
            name, in_memory, _, stored, offset = struct.unpack_from(
                "<8sIIII", data, table + number * _SECTION_BYTES
            )
            if name == _KERNEL:
                # The file has it padded to a multiple of its alignment.
                size = min(in_memory or stored, stored)
                if offset + size > len(data):
                    raise ImageError(
                        f"{path}: section .linux ({size:,} bytes at offset {offset:#x}) extends past the end "
                        f"({len(data):#x}); the file is cut short: copy it again"
                    )
                return data[offset : offset + size]
    except struct.error:
        return data
    raise ImageError(
        f"{path}: is an EFI program with no section .linux; give a unified kernel image or the kernel itself"
    )
