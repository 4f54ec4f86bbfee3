"""Open what an export is written to."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from xtrace.probes.errors import TraceError
from xtrace.probes.outputs import create, refuse_inputs

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
