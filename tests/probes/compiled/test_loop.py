"""A loop gives the same compiled, in Python and by numba, and refuses arrays of another type."""

from __future__ import annotations

import json
import lzma
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xtrace import samples
from xtrace.probes.compiled import library
from xtrace.probes.compiled.loop import LOOPS, signature_of
from xtrace.probes.compiled.plain import plain
from xtrace.probes.reader import loops

#: Enough of the sample for every kind of loop; in Python a record takes 70 us.
SAMPLE_BYTES = 400_000


def run(how: str, *arguments: str | Path) -> str:
    """Run xtrace with its loops run as ``how``."""
    program = "import sys; from xtrace.cli.main import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, *arguments],
        env=os.environ | {library.VARIABLE: how}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("trace") / "trace.bin"
    return beginning_of(samples.path(), SAMPLE_BYTES, path)


def beginning_of(sample: Path, size: int, path: Path) -> Path:
    """Write the first bytes of a sample to ``path``, and return it."""
    with lzma.open(sample) as whole:
        path.write_bytes(whole.read(size))
    return path


@pytest.mark.slow
def test_every_loop_runs_in_python_with_the_same_results(trace: Path) -> None:
    for command in ("report", "dump"):
        assert run(library.PYTHON, command, "--json", trace) == run(
            library.COMPILED, command, "--json", trace
        )


@pytest.mark.nightly
def test_numba_compiles_the_loops_on_first_use_with_the_same_results(trace: Path) -> None:
    assert run(library.NUMBA, "report", "--json", trace) == run(library.COMPILED, "report", "--json", trace)


def test_in_python_a_negative_index_is_an_error() -> None:
    def last(values: Any) -> int:
        return int(values[len(values) - 5])

    assert plain(last)(np.arange(5)) == 0
    with pytest.raises(IndexError, match="negative index -1"):
        plain(last)(np.arange(4))


@pytest.mark.nightly
@pytest.mark.parametrize("name", sorted(path.name for path in samples.path().parent.glob("*.bin.xz")))
def test_no_sample_makes_a_loop_use_a_negative_index(name: str, tmp_path: Path) -> None:
    path = beginning_of(samples.path().with_name(name), 3 * SAMPLE_BYTES, tmp_path / "trace.bin")
    for command in ("report", "dump"):
        assert run(library.PYTHON, command, "--json", path) == run(library.COMPILED, command, "--json", path)


def frame(words: Any, segments: Any) -> Any:
    return loops.frame(
        words, 0, len(words), True, False, segments, np.zeros(2, np.int64), np.zeros(2, np.int64)
    )


WORDS = np.array([0x1F001, 0, 4, 0x00028001], np.uint32)


def test_a_loop_returns_python_integers() -> None:
    found = frame(WORDS, np.zeros(2, np.int32))
    assert json.dumps(found) == json.dumps(plain(loops.frame.__wrapped__)(  # type: ignore[attr-defined]
        WORDS, 0, len(WORDS), True, False, np.zeros(2, np.int32), np.zeros(2, np.int64), np.zeros(2, np.int64)
    ))  # fmt: skip


@pytest.mark.parametrize(
    "words",
    [
        WORDS.astype(np.int32),
        WORDS.reshape(2, 2),
        np.repeat(WORDS, 2)[::2],
        np.frombuffer(bytes(16), np.uint32),
    ],
    ids=["another type", "two dimensions", "not contiguous", "read-only"],
)
def test_another_array_is_refused(words: Any) -> None:
    with pytest.raises(TypeError, match=r"frame: an argument is not a writeable uint32\[::1\]"):
        frame(words, np.zeros(2, np.int32))


def test_a_wrong_number_of_arguments_is_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        loops.times(WORDS, WORDS, 0, 4)  # type: ignore[call-arg]


def test_annotations_declare_the_signature() -> None:
    found = signature_of(loops.frame)
    assert found.numba == (
        "UniTuple(int64, 3)(uint32[::1], int64, int64, boolean, boolean, int32[::1], int64[::1], int64[::1])"
    )


def test_every_loop_has_its_name_in_the_library() -> None:
    assert LOOPS
    for name in LOOPS:
        assert getattr(library.loaded(), name)
