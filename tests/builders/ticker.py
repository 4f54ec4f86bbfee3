"""A backend that needs nothing from its host: at each poll it records that it was polled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from xtrace.probes.capture.stream import Folder, Stream
from xtrace.probes.errors import TraceError
from xtrace.probes.host import dom0
from xtrace.probes.recording.backends import registry
from xtrace.probes.recording.backends.base import Availability, Counts, Options

LINES = "ticks.jsonl"
BLOCKS = "blocks/stream_0"
BLOCK_BYTES = 16 << 10


class Ticker:
    """A backend that writes lines of text and blocks of bytes."""

    name = "ticker"
    #: Number of polls until it fails; None for never.
    lives: int | None = None
    blocks = 4

    def __init__(self) -> None:
        self.polls = 0
        self.byte_count = 0
        self.stops = 0
        self._lines: Stream | None = None
        self._blocks: Stream | None = None

    def probe(self) -> Availability:
        return Availability(True, "it ticks")

    def start(self, folder: Folder, options: Options) -> None:
        self._lines = folder.stream(LINES)
        self._blocks = folder.stream(BLOCKS)

    def poll(self) -> Counts:
        if self.lives is not None and self.polls >= self.lives:
            raise TraceError("it fell silent")
        assert self._lines is not None
        assert self._blocks is not None
        line = json.dumps({"tick": self.polls}).encode() + b"\n"
        self._lines.write(line)
        self.polls += 1
        self.byte_count += len(line)
        for _ in range(self.blocks):
            self._blocks.write(self.polls.to_bytes(4, "little") * (BLOCK_BYTES // 4))
            self.byte_count += BLOCK_BYTES
        return self._counts()

    def stop(self) -> Counts:
        self.stops += 1
        return self._counts()

    def facts(self) -> Mapping[str, Any]:
        return {"polls": self.polls}

    def _counts(self) -> Counts:
        return Counts(self.polls, 0, self.byte_count)


class Absent(Ticker):
    """A backend that is never available."""

    name = "absent"

    def probe(self) -> Availability:
        return Availability(False, "it is not here", "fetch it")


TICKER_HOMES = {"absent": ("builders.ticker", "Absent"), "ticker": ("builders.ticker", "Ticker")}


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make these the only backends, and make the host pass for a dom0."""
    monkeypatch.setattr(registry, "_HOMES", TICKER_HOMES)
    monkeypatch.setattr(registry, "NAMES", tuple(TICKER_HOMES))
    monkeypatch.setattr(registry, "DEFAULT", tuple(TICKER_HOMES))
    monkeypatch.setattr(dom0, "why_no_dom0", lambda: "this is a test")
