"""What can be exchanged in an image, and what cannot: the rows of a plan and of a trial's result.

Only the standard library is imported, so that a result can be read without a decoder.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Exchange:
    """One instruction that can be exchanged, and the fences that execute there.

    Attributes:
        address: as linked.
        original, removed: its bytes, and those without the fence, equally many.
        text: what is exchanged, such as "call x86_lfence -> nop".
        symbol: the function that it is in, "" without symbols.
        fence: what is removed: "lfence", "lock add"...
        callee: the function that has the fence, "" if it is inline.
        sites: addresses of the sites whose fences these are.
    """

    address: int
    original: bytes
    removed: bytes
    text: str
    symbol: str
    fence: str
    callee: str
    sites: tuple[int, ...]

    def json_object(self) -> dict[str, Any]:
        """Return it as JSON has it, with its bytes in hexadecimal."""
        return {**asdict(self), "original": self.original.hex(), "removed": self.removed.hex()}


@dataclass(frozen=True, slots=True)
class Dose:
    """Room for more fences at the end of a function that only fences, in the padding after it.

    Attributes:
        address: of the function's return, as linked.
        original: the return and the padding that is used.
        variants: the same bytes with 0, 1, ... more fences before the return.  Wherever an instruction of one
            variant begins, one begins in every other, and leads to a return.
        callee: the function.
        fence: the instruction that is repeated, such as "lfence".
    """

    address: int
    original: bytes
    variants: tuple[bytes, ...]
    callee: str
    fence: str

    @property
    def most(self) -> int:
        """Return how many more fences there may be."""
        return len(self.variants) - 1

    def json_object(self) -> dict[str, Any]:
        """Return it as JSON has it, with its bytes in hexadecimal."""
        variants = [variant.hex() for variant in self.variants]
        return {**asdict(self), "original": self.original.hex(), "variants": variants}


@dataclass(frozen=True, slots=True)
class Refusal:
    """A fence that cannot be exchanged, or a function without room for more of them, and why.

    Attributes:
        address: as linked.
    """

    address: int
    place: str
    fence: str
    reason: str
