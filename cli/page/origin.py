"""How a page was made: the command, the versions, and the files that it was made from, with their hashes."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xtrace import __version__
from xtrace.cli.page.words import name_text
from xtrace.probes.capture import inside
from xtrace.probes.errors import TraceError

#: Files of a capture's folder that are hashed; and how much is read at a time.
_MOST_FILES = 40
_CHUNK = 1 << 20
#: Bytes of a file that are hashed: a second for each gigabyte would be a third of a report's time.
MOST_HASHED = 64 << 20


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file that the page was made from."""

    name: str
    said: str


@dataclass(frozen=True, slots=True)
class Origin:
    """How a page was made."""

    command: str
    made_by: str
    files: Sequence[InputFile]


class Hashing:
    """Hashes files in a thread, while they are also read for the page.

    Args:
        paths: files and folders; ``-`` is standard input, which cannot be read again.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._files: list[InputFile] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def origin(self) -> Origin:
        """Return how the page was made; wait for the hashes."""
        self._thread.join()
        words = ["xtrace", *sys.argv[1:]]
        command = " ".join(shlex.quote(name_text(word, 400)) for word in words)
        made_by = f"xtrace {__version__}, Python {platform.python_version()}"
        return Origin(command, made_by, self._files)

    def _run(self) -> None:
        for path in self._paths:
            if str(path) == "-":
                self._files.append(InputFile("-", "standard input: no hash"))
                continue
            found = _files(path)
            for each in found[:_MOST_FILES]:
                name = str(each.relative_to(path.parent)) if path.is_dir() else short_path(str(each))
                self._files.append(InputFile(name_text(name, 200), _hash(each)))


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    try:
        return sorted(inside.files(path))
    except (OSError, TraceError):
        return []  # the command says so where it reads the capture


def short_path(path: str) -> str:
    """Return a path from the current folder on if it is below that, otherwise as it is."""
    below = Path(path)
    if below.is_absolute() and below.is_relative_to(Path.cwd()):
        return str(below.relative_to(Path.cwd()))
    return path


def _hash(path: Path) -> str:
    """Return size and SHA-256 of a file, or of its first part; why not, where it cannot be read."""
    digest = hashlib.sha256()
    hashed = 0
    try:
        if not path.is_file():
            return "not a file: no hash"
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            while hashed < MOST_HASHED and (chunk := file.read(min(_CHUNK, MOST_HASHED - hashed))):
                digest.update(chunk)
                hashed += len(chunk)
    except OSError as error:
        return f"cannot be read again: {error.strerror}"
    part = f" of the first {MOST_HASHED >> 20} MiB (head -c {MOST_HASHED >> 20}M)" if size > hashed else ""
    return f"{size:,} bytes, SHA-256{part} {digest.hexdigest()}"
