"""The folder of a capture and its append-only files, as the recorder's backends see them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

from xtrace.probes.errors import TraceError


class CaptureFullError(TraceError):
    """A capture has reached its maximum size, or the disk its minimum of free space."""


class Stream(Protocol):
    """An append-only file of a capture."""

    def write(self, content: bytes) -> None:
        """Append ``content``, unbuffered, so pass all that a poll gathered rather than single records.

        Raises:
            CaptureFullError: it would not fit; nothing is written.
        """

    def flush(self) -> None:
        """Wait until everything written is on disk; the recorder itself does so once a second."""


class Folder(Protocol):
    """A capture that is being written."""

    def stream(self, name: str) -> Stream:
        """Create the append-only file ``name``, which may be in a subfolder: ``events/stream_0``."""

    def file(self, name: str) -> int:
        """Create the empty file ``name`` and return a descriptor, for a tool that writes it itself."""


class Lines:
    """A stream of JSON objects, one per line.

    Attributes:
        byte_count: bytes written.
    """

    def __init__(self, stream: Stream) -> None:
        self.byte_count = 0
        self._stream = stream

    def write(self, content: Mapping[str, Any]) -> None:
        """Append an object as one line.

        Raises:
            CaptureFullError: it would not fit; nothing is written.
        """
        line = json.dumps(content, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"
        self._stream.write(line)
        self.byte_count += len(line)

    def flush(self) -> None:
        """Wait until everything written is on disk."""
        self._stream.flush()
