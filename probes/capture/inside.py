"""What may be in the folder of a capture: files and folders, no links and nothing that is not a file.

A capture comes from another machine.  A link in it would have this machine's files read in its place, a pipe
would be waited for, and a device may never end.  A FILE on the command line is the user's own choice.
"""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from xtrace.probes.errors import TraceError

#: A host has up to 16,384 pCPUs, and each of two backends a stream for each.
_MOST_FILES = 65_536
_MOST_DEPTH = 8
#: It lists every domain and event channel; as JSON objects it takes forty times its size.
MAX_META_BYTES = 8 << 20
#: Other files that are not streams of records: one line per second is 30 MB per day.
_MOST_LINES_BYTES = 1 << 30


def files(folder: Path) -> Iterator[Path]:
    """Yield the files in a capture's folder and the folders in it.

    Raises:
        TraceError: a link, or what is neither a file nor a folder, is in it, or there are too many files.
        OSError: a folder cannot be read.
    """
    count = 0
    waiting = [(folder, 0)]
    while waiting:
        inside, depth = waiting.pop()
        with os.scandir(inside) as found:
            entries = list(itertools.islice(found, _MOST_FILES + 1))
        for entry in entries:
            path = Path(entry.path)
            mode = entry.stat(follow_symlinks=False).st_mode
            count += 1
            if count > _MOST_FILES or depth > _MOST_DEPTH:
                raise TraceError(
                    f"{folder}: not a capture: more than {_MOST_FILES} files, or folders {_MOST_DEPTH} deep"
                )
            if stat.S_ISDIR(mode):
                waiting.append((path, depth + 1))
            elif stat.S_ISREG(mode):
                yield path
            else:
                what = "a link" if stat.S_ISLNK(mode) else "neither a file nor a folder"
                raise TraceError(
                    f"{path}: is {what}, which a capture never contains; replace it by the file, or remove it"
                )


def check(folder: Path) -> None:
    """Raise where a capture's folder contains what it never does, or a text that is too long to be read.

    Raises:
        TraceError, OSError: as files() does.
    """
    for path in files(folder):
        if path.suffix in (".jsonl", ".log") and path.stat().st_size > _MOST_LINES_BYTES:
            raise TraceError(f"{path}: is larger than {_MOST_LINES_BYTES >> 30} GiB; cut it")
