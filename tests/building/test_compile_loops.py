"""The library of compiled loops: how arguments get in and results out, how it indexes, what it depends on."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from xtrace.probes.compiled import library

BUILDING = Path(__file__).parents[2] / "tools" / "building"

#: A loop of every type of parameter: each item is added with another weight, and some are written.
LOOPS = """from __future__ import annotations

from xtrace.probes.compiled.loop import I32, I32_2D, I64, I64_2D, U8, U16, U32, loop, part

@part
def first_and_last(values):
    return values[0] + 10 * values[len(values) - 1]

@loop
def everything(
    flag: bool, number: int, a: U8, b: U16, c: U32, d: I32, e: I64, f: I32_2D, g: I64_2D
) -> tuple[int, int, int]:
    a[0] += 1
    e[1] = -(1 << 62)
    rows, columns = g.shape
    g[rows - 1, 0] = columns
    total = first_and_last(a) + 1000 * first_and_last(b) + first_and_last(c) + 7 * first_and_last(d)
    return number if flag else -1, total, f[1, 2] + 100 * f[0, 1] + 10_000 * g[0, columns - 1]

@loop
def item(values: I64, at: int) -> int:
    return values[at]

@loop
def mark(values: I64) -> None:
    for at in range(0, len(values), 3):
        values[at] = 100
"""

CALLS = """
import ctypes, json, sys
import numpy as np
from xtrace.probes.compiled import library
compiled = ctypes.CDLL(sys.argv[1])
library.loaded.cache_clear()
library.loaded = lambda: compiled
import convention as loops

def arguments():
    return (
        np.array([250, 2, 3], np.uint8), np.array([4, 65535], np.uint16), np.array([1 << 31, 6], np.uint32),
        np.array([-7, 8], np.int32), np.array([9, 0], np.int64), np.arange(6, dtype=np.int32).reshape(2, 3),
        np.arange(8, dtype=np.int64).reshape(2, 4),
    )

given = arguments()
found = [loops.everything(True, -(1 << 63), *given), loops.everything(False, 5, *arguments())]
numbers = np.arange(10)
before, nothing = loops.item(numbers[4:8], -1), loops.mark(numbers)
found += [[array.tolist() for array in given], before, nothing, numbers.tolist()]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the loops above, in a module and compiled."""
    path: Path = tmp_path_factory.mktemp("convention")
    (path / "convention.py").write_text(LOOPS)
    program = (
        "import sys; from pathlib import Path; import compile_loops;"
        "compile_loops.compile_loops(Path(sys.argv[1]), sys.argv[2], ['convention'])"
    )
    subprocess.run(
        [sys.executable, "-c", program, path / "loops.so", platform.machine()],
        env=os.environ | {"PYTHONPATH": f"{path}:{BUILDING}"}, check=True, timeout=200,
    )  # fmt: skip
    return path


@pytest.mark.slow
def test_arguments_results_and_indices(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CALLS, folder / "loops.so"],
        env=os.environ | {"PYTHONPATH": os.fspath(folder), library.VARIABLE: library.COMPILED},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    first, second, given, before, nothing, marked = json.loads(done.stdout)
    # a: 251 + 10 * 3; b: 4 + 655350; c: 2^31 + 60; d: -7 + 80
    total = 281 + 1000 * 655_354 + (1 << 31) + 60 + 7 * 73
    assert first == [-(1 << 63), total, 5 + 100 * 1 + 10_000 * 3]
    assert second == [-1, total, 5 + 100 * 1 + 10_000 * 3]
    assert given[0] == [251, 2, 3]
    assert given[4] == [9, -(1 << 62)]
    assert given[6] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    # A negative index is not wrapped around: it is the item before the array.
    assert (before, nothing, marked) == (3, None, [100, 1, 2, 100, 4, 5, 100, 7, 8, 100])


def test_the_library_needs_no_other_and_exports_only_loops(folder: Path) -> None:
    for path in (folder / "loops.so", library.path_for(platform.machine())):
        with path.open("rb") as file:
            image = ELFFile(file)
            dynamic, table = (image.get_section_by_name(name) for name in (".dynamic", ".dynsym"))
            assert isinstance(dynamic, DynamicSection)
            assert isinstance(table, SymbolTableSection)
            needed = list(dynamic.iter_tags("DT_NEEDED"))
            symbols = list(table.iter_symbols())[1:]
        assert needed == []
        assert [symbol.name for symbol in symbols if symbol["st_shndx"] == "SHN_UNDEF"] == []
        assert all(symbol.name.startswith(("xtrace_", "convention_")) for symbol in symbols)
