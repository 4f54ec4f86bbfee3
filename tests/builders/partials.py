"""Make partials and reports from the bytes of a trace."""

from __future__ import annotations

import tempfile
from pathlib import Path

from xtrace.analysis.state_machine.collected import Collected
from xtrace.analysis.state_machine.machine import ALWAYS
from xtrace.analysis.state_machine.one_pass import collect
from xtrace.analysis.summary.partial import Partial, partial_of


def collected(data: bytes, window: tuple[int, int] = ALWAYS) -> Collected:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace"
        path.write_bytes(data)
        return collect(path, window=window)


def partial(data: bytes, window: tuple[int, int] = ALWAYS) -> Partial:
    return partial_of(collected(data, window))
