"""The arrays that a machine returns stay as they are for as many batches as it was asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from builders.scripted import RUNNABLE, Script, Vcpu
from xtrace.analysis.state_machine.machine import Machine
from xtrace.probes import open_trace

_BATCHES = 3


def test_pieces_stay_valid_where_a_batch_gives_several(tmp_path: Path) -> None:
    host = Script(2, 1e6)
    for number in range(2000):  # more than three intervals for each record
        host.run(number % 2, Vcpu(1, 0), number * 500 + 10, (number + 1) * 500, then=RUNNABLE)
    path = tmp_path / "trace"
    path.write_bytes(host.data())
    machine = Machine(keep=_BATCHES)
    kept: list[list[tuple[np.ndarray[tuple[int, ...], np.dtype[np.int64]], bytes]]] = []
    several = 0
    with open_trace(path, chunk_bytes=8 << 10) as trace:
        for batch in trace:
            pieces = machine.feed(batch)
            several += len(pieces) > 1
            kept = [*kept, [(piece, piece.tobytes()) for piece in pieces]][-_BATCHES:]
            assert all(piece.tobytes() == was for each in kept for piece, was in each)
    assert several >= _BATCHES
