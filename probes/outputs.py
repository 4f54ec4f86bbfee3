"""Open the files that commands write: never through a link or in place of an input, whole or not at all.

A file with the output's name is replaced on purpose, by a rename: a link there is replaced, not followed, and
who reads the old file goes on with it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from xtrace.probes.errors import TraceError

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)


def create(path: Path) -> BinaryIO:
    """Create a file that must not exist, and return it.

    Raises:
        OSError: it exists, be it as a link to nothing, or cannot be created.
    """
    return open(os.open(path, _NEW, 0o666), "wb")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a new file beside ``path``, which takes its place at the end, except at an error.

    Raises:
        OSError: it cannot be created or renamed.
    """
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    create(new).close()
    try:
        yield new
        new.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink()
        raise


def replace_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path``, in place of what is there.

    Raises:
        OSError: it cannot be written.
    """
    with replacing(path) as new:
        new.write_text(text, encoding="utf-8", errors="backslashreplace")


def refuse_inputs(output: Path, inputs: Iterable[Path]) -> None:
    """Raise where an output is one of the files that are read, under whatever name.

    Raises:
        TraceError: it is.
    """
    for path in inputs:
        with contextlib.suppress(OSError):
            if output.samefile(path):
                raise TraceError(f"{output}: is also read; choose another name for the output")
