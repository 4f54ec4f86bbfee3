"""Call a compiled loop without NumPy, on bytearrays and arrays of the standard library."""

from __future__ import annotations

import ctypes
import os
from array import array
from collections.abc import Callable, Sequence
from functools import cache
from typing import TypeAlias

from xtrace.probes.compiled import library

#: What stands for an array of a loop: a buffer, and its length in each dimension.
Sized: TypeAlias = "tuple[bytearray | array[int], Sequence[int]]"


@cache
def compiled(name: str, results: int) -> Callable[..., tuple[int, ...]] | None:
    """Return a function that runs a loop; None where the library has to be made first, or is not wanted.

    The function takes what the loop does, with a Sized for each array.

    Args:
        name: of the loop in the library.
        results: integers that it returns.
    """
    wanted = os.environ.get(library.VARIABLE) or library.COMPILED
    if wanted != library.COMPILED or not library.is_there():
        return None
    loop = getattr(library.loaded(), name)

    def call(*arguments: int | Sized) -> tuple[int, ...]:
        values: list[int] = []
        held = []  # a buffer must stay where it is
        for given in arguments:
            if isinstance(given, int):
                values.append(given)
                continue
            buffer, lengths = given
            place = (ctypes.c_char * (len(buffer) * memoryview(buffer).itemsize)).from_buffer(buffer)
            held.append(place)
            values += (ctypes.addressof(place), *lengths)
        frame = (ctypes.c_int64 * max(len(values), results))(*values)
        if loop(frame):
            raise RuntimeError(f"{name}: the compiled loop failed")
        return tuple(frame[:results])

    return call
