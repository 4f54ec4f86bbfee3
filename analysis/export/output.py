"""Open what an export is written to."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from xtrace.probes.errors import TraceError

STDOUT = "-"


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
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    if force and path.exists():
        path.unlink()
    with open(os.open(path, flags, 0o666), "wb") as file:
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
    if any(each.exists() and path.exists() and path.samefile(each) for each in inputs):
        raise TraceError(f"{path}: is read by this command; choose another name")
    if path.is_symlink() or not path.is_file():
        raise TraceError(f"{path}: exists and is not a file; choose another name")
    if not force:
        raise TraceError(f"{path}: exists; --force replaces it")
