"""Patch Debian's Xen to behave as if built without a trace buffer (CONFIG_TRACEBUFFER=n).

In such a build ``tb_control``, which handles all trace buffer operations of the toolstack, returns -ENOSYS
(Xen 4.17, xen/include/xen/trace.h).  Here the same is done by overwriting six bytes of the hypervisor's file;
the function's address comes from the running Xen (/proc/xen/xensyms).
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
#: Address of the file's single segment in Xen's memory (readelf: physical 2 MiB at offset 0x80).
_SEGMENT_ADDRESS = 0xFFFF_82D0_4020_0000
_SEGMENT_OFFSET = 0x80
_LIMIT_S = 300


def untraced(image: Path) -> Path:
    """Return the image's hypervisor without a trace buffer; the first call makes it, which takes a boot.

    Raises:
        LabError: the running Xen does not report the function's address.
    """
    made = image / "xen-untraced"
    if not made.exists():
        offset = _address(image) - _SEGMENT_ADDRESS + _SEGMENT_OFFSET
        content = bytearray((image / "xen").read_bytes())
        if not 0 < offset < len(content):
            raise LabError(
                f"{_SYMBOL} is outside Xen's file, at offset {offset:#x}; update the layout in untraced.py"
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
        raise LabError(f"{_SYMBOL} is not in Xen's /proc/xen/xensyms")
    return int(found[1], 16)
