"""Open the files that commands write: never through a link or in place of an input, whole or not at all.

``replacing()`` replaces a file with the output's name on purpose, by a rename: a link there is replaced, not
followed, and who reads the old file goes on with it.  ``opened()`` keeps such a file, except with force.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from xtrace.probes.errors import TraceError

STDOUT = "-"
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


@contextmanager
def opened(path: Path, *, force: bool = False, inputs: Sequence[Path] = ()) -> Iterator[BinaryIO]:
    """Open a new file to write to; ``-`` is standard output.

    A file of that name is kept unless ``force``, and one that is read never replaced.  What a failure leaves
    of a new file is removed.

    Raises:
        TraceError: the name is taken, or is that of an input.
        OSError: it cannot be written.
    """
    if str(path) == STDOUT:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    refuse_taken(path, force=force, inputs=inputs)
    if force and path.exists():
        path.unlink()
    with create(path) as file:
        try:
            yield file
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def refuse_taken(path: Path, *, force: bool = False, inputs: Sequence[Path] = ()) -> None:
    """Raise TraceError if nothing can be written under a name.

    Args:
        force: files may be replaced, but nothing else, and no input.
    """
    if not os.path.lexists(path):
        return
    refuse_inputs(path, inputs)
    if path.is_symlink() or not path.is_file():
        raise TraceError(f"{path}: exists and is not a file; choose another name")
    if not force:
        raise TraceError(f"{path}: exists; --force replaces it")
