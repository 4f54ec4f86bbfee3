"""Run loops as they are, in Python: to debug them, to see which lines run, and to check their indices.

Compiled loops neither check indices nor wrap negative ones around; here both are errors.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np


class _Checked(np.ndarray[Any, np.dtype[Any]]):
    """An array without negative indices."""

    def __getitem__(self, index: Any) -> Any:
        _check(index)
        return super().__getitem__(index)

    def __setitem__(self, index: Any, value: Any) -> None:
        _check(index)
        super().__setitem__(index, value)


def _check(index: Any) -> None:
    for at in index if isinstance(index, tuple) else (index,):
        if at < 0:
            raise IndexError(f"negative index {index}")


def plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that runs a loop as Python, on integers of 64 bits, which wrap around."""

    @wraps(function)
    def run(*arguments: Any) -> Any:
        with np.errstate(over="ignore"):
            found = function(
                *(one.view(_Checked) if isinstance(one, np.ndarray) else np.int64(one) for one in arguments)
            )
        return tuple(map(int, found)) if isinstance(found, tuple) else found if found is None else int(found)

    return run
