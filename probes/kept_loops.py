"""Decorators that compile the modules named loops: one for a loop, two for its parts.

A loop is compiled when its module is imported and cached on disk for the next run.  Numba recompiles a
cached loop when the loop's own file changes but does not look at any other file, so a loop and its parts
must be in one module.

The loops only use arrays passed to them and allocate none: ``_nrt=False`` compiles without numba's array
runtime, because reference counting of the arrays takes a third of such a loop's time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numba as nb

#: Numba's compiled functions are untyped.
_Loop = Callable[..., Any]


def can_keep() -> bool:
    """Return whether numba finds a folder to cache compiled loops in; without one, ``cache=True`` raises.

    It uses the first writable one of NUMBA_CACHE_DIR, the loop's own __pycache__ and the user's cache.
    """
    try:
        nb.njit(cache=True)(can_keep)
    except RuntimeError:
        return False
    return True


#: If False, each process compiles the loops again, which takes half a minute.
KEEP = can_keep()


@contextmanager
def loading_lightly() -> Iterator[None]:
    """Let numba load cached loops without the set-up that only a compilation needs.

    Numba's ``Cache.load_overload`` (numba.core.caching) first enters all of Python's and NumPy's types
    and functions into registries, which adds 0.3 s to a short command.  Loading does not need them,
    and a compilation, if nothing is cached yet, enters them itself.  Inside the ``with`` block that
    private method is replaced by the rest of its own body; xtrace patches nothing else in numba.

    Applies to numba 0.60 to 0.68, in which the method's body is the same.  A numba without these
    internals loads the slow way.
    """
    from numba.core import caching, registry, runtime

    cache: Any = getattr(caching, "Cache", None)
    if cache is None or not hasattr(cache, "_load_overload"):
        yield
        return
    # The skipped registry set-up would also have done this.
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
    """Compile a loop for one signature, or load it if an earlier run cached it."""

    def decorate(function: _Loop) -> _Loop:
        with loading_lightly():
            loop: _Loop = nb.njit(signature, cache=KEEP, nogil=True, _nrt=False, **options)(function)
        return loop

    return decorate


def part(function: _Loop) -> _Loop:
    """Compile a part of the loops in the same module; LLVM decides whether to inline it."""
    compiled: _Loop = nb.njit(nogil=True, _nrt=False)(function)
    return compiled


def inlined_part(function: _Loop) -> _Loop:
    """Compile a part of the loops in the same module and inline it wherever it is called.

    LLVM does the inlining (``forceinline``).  Numba's own inlining (``inline="always"``) happens before
    any optimisation: compilation takes longer and the loops are slower.
    """
    compiled: _Loop = nb.njit(nogil=True, _nrt=False, forceinline=True)(function)
    return compiled
