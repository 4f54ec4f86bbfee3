"""Debian's Xen as it would be without its trace buffer (CONFIG_TRACEBUFFER=n).

There ``tb_control``, which every question of the toolstack about the buffer ends in, is a
function that returns -ENOSYS (Xen 4.17, xen/include/xen/trace.h).  So it is made one here: the
running Xen tells where it lies (/proc/xen/xensyms), and six bytes of the file are written.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from lab import machine
from lab.packages import LabError

_SYMBOL = "tb_control"
#: mov eax, -ENOSYS; ret
_CODE = bytes.fromhex("b8 da ff ff ff c3")
#: Where the file's one segment lies in Xen's memory (readelf: physical 2 MiB at offset 0x80).
_SEGMENT_ADDRESS = 0xFFFF_82D0_4020_0000
_SEGMENT_OFFSET = 0x80
_LIMIT_S = 300


def untraced(image: Path) -> Path:
    """Return the image's hypervisor without a trace buffer; made once, which takes a boot.

    Raises:
        LabError: the running Xen does not tell where the function is.
    """
    made = image / "xen-untraced"
    if not made.exists():
        offset = _address(image) - _SEGMENT_ADDRESS + _SEGMENT_OFFSET
        content = bytearray((image / "xen").read_bytes())
        if not 0 < offset < len(content):
            raise LabError(
                f"{_SYMBOL} lies outside Xen's file, at {offset:#x}; untraced.py must learn its layout"
            )
        content[offset : offset + len(_CODE)] = _CODE
        scratch = made.with_suffix(".new")
        scratch.write_bytes(content)
        scratch.replace(made)
    return made


def _address(image: Path) -> int:
    with tempfile.TemporaryDirectory() as folder:
        share = Path(folder)
        (share / "job").write_text(f"grep ' {_SYMBOL}$' /proc/xen/xensyms >/share/symbol\n")
        machine.run(machine.Host(), image, share, _LIMIT_S)
        symbol = share / "symbol"
        found = re.match(r"([0-9a-f]{16}) ", symbol.read_text()) if symbol.exists() else None
    if found is None:
        raise LabError(f"Xen does not tell where {_SYMBOL} is")
    return int(found[1], 16)
