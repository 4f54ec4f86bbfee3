"""A place where the bytes of a trace are not as Xen and xentrace wrote them."""

from __future__ import annotations

from dataclasses import dataclass

#: Damages that are listed with their offset; all are counted.
MAX_DAMAGES_KEPT = 1000


@dataclass(frozen=True, slots=True)
class Damage:
    """A place where the bytes do not follow the format.

    Attributes:
        offset: byte offset in the (decompressed) file.
        reason: what is wrong there.
        skipped_bytes: bytes that are left out.
    """

    offset: int
    reason: str
    skipped_bytes: int
