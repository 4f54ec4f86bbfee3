"""What a recorder writes into: the folder of a capture and its append-only files, as backends see them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

from xtrace.probes.errors import TraceError


class CaptureFullError(TraceError):
    """A capture has as many bytes as it may have, or the disk as few free ones."""


class Stream(Protocol):
    """An append-only file of a capture."""

    def write(self, content: bytes) -> None:
        """Append ``content``: the kernel's at once, so call it with what a poll gathered, not by records.

        Raises:
            CaptureFullError: it would not fit; nothing of it is written.
        """

    def flush(self) -> None:
        """Wait until all that was written is on the disk; the recorder does so once a second by itself."""


class Folder(Protocol):
    """A capture that is being made."""

    def stream(self, name: str) -> Stream:
        """Begin the append-only file ``name``, which may lie in a folder: ``events/stream_0``."""

    def path(self, name: str) -> str:
        """Make ``name``, empty, and return its path, for a tool that writes it by itself."""


class Lines:
    """A stream of JSON objects, one a line.

    Attributes:
        byte_count: written.
    """

    def __init__(self, stream: Stream) -> None:
        self.byte_count = 0
        self._stream = stream

    def write(self, content: Mapping[str, Any]) -> None:
        """Append an object as one line.

        Raises:
            CaptureFullError: it would not fit; nothing of it is written.
        """
        line = json.dumps(content, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"
        self._stream.write(line)
        self.byte_count += len(line)

    def flush(self) -> None:
        """Wait until all that was written is on the disk."""
        self._stream.flush()
