"""Compile loops in this process, with numba: for other processors, and for the build.

numba keeps what it compiled on disk for the next run, in the first writable one of NUMBA_CACHE_DIR, the
loop's own __pycache__ and the user's cache.  Without one, each process compiles again, which takes 15 s.
It compiles a loop again when the loop's own file changes; it looks at no other file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

#: Without numba's array runtime: loops allocate nothing, and counting references takes a third of their time.
_OPTIONS = {"nogil": True, "_nrt": False}


def compiled(function: Callable[..., Any], signature: str | None, **options: Any) -> Callable[..., Any]:
    """Return a function compiled for a signature, or for each use where there is none."""
    options |= _OPTIONS
    if signature is None:
        lazily: Callable[..., Any] = numba.njit(**options)(function)
        return lazily
    try:
        kept: Callable[..., Any] = numba.njit(signature, cache=True, **options)(function)
    except RuntimeError:  # no folder to keep it in
        kept = numba.njit(signature, **options)(function)
    return kept
