"""Decorators of the modules named loops: one for a loop, two for its parts.

A loop is a function of integers and arrays, as its annotations say, that allocates nothing and calls only
parts in the same module.  The package's build compiles loops with numba into a library
(tools/building/compile_loops.py), where they need neither numba nor Python; the decorator calls them there.
XTRACE_LOOPS=numba compiles them on first use instead, XTRACE_LOOPS=python runs them as they are.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from xtrace.probes.compiled import library

#: The array types of parameters.  All are C-contiguous and writeable.
U8: TypeAlias = npt.NDArray[np.uint8]
U16: TypeAlias = npt.NDArray[np.uint16]
U32: TypeAlias = npt.NDArray[np.uint32]
I32: TypeAlias = npt.NDArray[np.int32]
I64: TypeAlias = npt.NDArray[np.int64]
I32_2D: TypeAlias = np.ndarray[tuple[int, int], np.dtype[np.int32]]
I64_2D: TypeAlias = np.ndarray[tuple[int, int], np.dtype[np.int64]]

Function = TypeVar("Function", bound=Callable[..., Any])


class Parameter(NamedTuple):
    """A parameter of a loop: numba's name of its type and, for an array, its NumPy type and dimensions."""

    numba: str
    dtype: np.dtype[Any] | None = None
    dimensions: int = 0


_PARAMETERS = {
    "int": Parameter("int64"),
    "bool": Parameter("boolean"),
    "U8": Parameter("uint8[::1]", np.dtype(np.uint8), 1),
    "U16": Parameter("uint16[::1]", np.dtype(np.uint16), 1),
    "U32": Parameter("uint32[::1]", np.dtype(np.uint32), 1),
    "I32": Parameter("int32[::1]", np.dtype(np.int32), 1),
    "I64": Parameter("int64[::1]", np.dtype(np.int64), 1),
    "I32_2D": Parameter("int32[:, ::1]", np.dtype(np.int32), 2),
    "I64_2D": Parameter("int64[:, ::1]", np.dtype(np.int64), 2),
}


class Signature(NamedTuple):
    """A loop's parameters, and how many integers it returns."""

    parameters: tuple[Parameter, ...]
    results: int

    @property
    def numba(self) -> str:
        """The signature in numba's notation."""
        returned = {0: "void", 1: "int64"}.get(self.results, f"UniTuple(int64, {self.results})")
        return f"{returned}({', '.join(parameter.numba for parameter in self.parameters)})"


def signature_of(function: Callable[..., Any]) -> Signature:
    """Return the signature that a loop's annotations, which are text, declare."""
    *names, returned = function.__annotations__.values()
    results = 0 if returned == "None" else returned.count("int")
    return Signature(tuple(_PARAMETERS[name] for name in names), results)


#: Every loop that has been imported, by its name in the library.
LOOPS: dict[str, Callable[..., Any]] = {}


def loop(function: Function) -> Function:
    """Run a loop compiled.

    Raises:
        TraceError: it cannot run here: the message says what to install.
    """
    run = _runner(function)
    LOOPS[library.name_of(function)] = run
    return run  # type: ignore[return-value]


def part(function: Function) -> Function:
    """Mark a part of the loops in the same module; LLVM decides whether to inline it."""
    return _part(function)


def inlined_part(function: Function) -> Function:
    """Mark a part that is inlined wherever it is called.

    LLVM does the inlining (``forceinline``).  Numba's own inlining (``inline="always"``) happens before
    any optimisation: compilation takes longer and the loops are slower.
    """
    return _part(function, forceinline=True)


def _runner(function: Callable[..., Any]) -> Callable[..., Any]:
    signature = signature_of(function)
    if library.how() == library.COMPILED:
        return _caller(getattr(library.loaded(), library.name_of(function)), function, signature)
    if library.how() == library.NUMBA:
        from xtrace.probes.compiled.jit import compiled

        return compiled(function, signature.numba)
    from xtrace.probes.compiled.plain import plain

    return plain(function)


def _part(function: Function, **options: Any) -> Function:
    if library.how() == library.NUMBA:
        from xtrace.probes.compiled.jit import compiled

        return compiled(function, None, **options)  # type: ignore[return-value]
    return function


def _caller(
    compiled: Callable[[Any], int], function: Callable[..., Any], signature: Signature
) -> Callable[..., Any]:
    """Return a function that calls a loop in the library.

    The loop takes one argument, an array of int64: for each parameter its value or, for an array, its address
    and its length in each dimension.  It leaves its results at the beginning.
    """
    parameters, results = signature
    words = sum(1 + parameter.dimensions for parameter in parameters)
    frame = ctypes.c_int64 * max(words, results)

    @wraps(function)
    def call(*arguments: Any) -> Any:
        values: list[Any] = []
        for parameter, given in zip(parameters, arguments, strict=True):
            if parameter.dtype is None:
                values.append(given)
                continue
            if given.dtype != parameter.dtype or given.ndim != parameter.dimensions or not given.flags.carray:
                raise TypeError(f"{function.__name__}: an argument is not a writeable {parameter.numba}")
            values.append(given.ctypes.data)
            values += given.shape
        words = frame(*values)
        if compiled(words):
            raise RuntimeError(f"{function.__name__}: the compiled loop failed")
        return words[0] if results == 1 else tuple(words[:results]) if results else None

    return call
