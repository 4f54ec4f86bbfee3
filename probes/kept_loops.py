"""How the modules named loops compile: one decorator for a loop, two for its parts.

A loop is compiled when its module is imported and kept on disk for the next run.  Numba compiles a kept
loop again when the loop's own file changes and does not look at any other file, so a loop and its parts
stand in one module.

All of them work on arrays that they are given and make none: ``_nrt=False`` compiles without numba's run
time for arrays, because counting references to the arrays takes a third of such a loop's time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numba as nb

#: What numba makes of a function has no types.
_Loop = Callable[..., Any]


def can_keep() -> bool:
    """Tell whether numba finds a folder to keep compiled loops in; it refuses where there is none.

    It takes NUMBA_CACHE_DIR, the loop's own __pycache__ or the user's cache: the first that can be written.
    """
    try:
        nb.njit(cache=True)(can_keep)
    except RuntimeError:
        return False
    return True


#: Without it each process compiles the loops anew, which takes half a minute.
KEEP = can_keep()


@contextmanager
def loading_lightly() -> Iterator[None]:
    """Let numba load kept loops without the parts of it that only a compilation needs.

    Numba's ``Cache.load_overload`` (numba.core.caching) first enters all of Python's and NumPy's types
    and functions into registries, which takes 0.3 s of a short command.  Loading does not need them,
    and a compilation, where nothing is kept yet, enters them itself.  Inside the ``with`` block that
    private method is replaced by the rest of its own body; xtrace replaces nothing else of numba.

    Holds for numba 0.60 to 0.68, in which the method's body is the same.  A numba without these parts
    loads the slow way.
    """
    from numba.core import caching, registry, runtime

    cache: Any = getattr(caching, "Cache", None)
    if cache is None or not hasattr(cache, "_load_overload"):
        yield
        return
    # What the registries would have done on the way.
    runtime.rtsys.initialize(registry.cpu_target.target_context)
    slow = cache.load_overload

    def load_overload(self: Any, sig: Any, target_context: Any) -> Any:
        with self._guard_against_spurious_io_errors():
            return self._load_overload(sig, target_context)

    cache.load_overload = load_overload
    try:
        yield
    finally:
        cache.load_overload = slow


def kept_loop(signature: Any, **options: Any) -> Callable[[_Loop], _Loop]:
    """Compile a loop for one signature, or load it if an earlier run kept it."""

    def decorate(function: _Loop) -> _Loop:
        with loading_lightly():
            loop: _Loop = nb.njit(signature, cache=KEEP, nogil=True, _nrt=False, **options)(function)
        return loop

    return decorate


def part(function: _Loop) -> _Loop:
    """Compile a part of the loops in the same module; whether it is inlined is LLVM's choice."""
    compiled: _Loop = nb.njit(nogil=True, _nrt=False)(function)
    return compiled


def inlined_part(function: _Loop) -> _Loop:
    """Compile a part of the loops in the same module, inlined wherever it is called.

    LLVM does the inlining (``forceinline``).  Numba's own (``inline="always"``) comes before any
    optimisation: it takes longer to compile and leaves slower loops.
    """
    compiled: _Loop = nb.njit(nogil=True, _nrt=False, forceinline=True)(function)
    return compiled
