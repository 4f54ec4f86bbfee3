"""Record COUNT times, each time in a separate process that is killed at a random moment.

usage: killed.py FOLDER COUNT SEED

Prints the folder of each recording.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

from builders.ticker import LINES, TICKER_HOMES, Ticker
from xtrace.probes.host import dom0, run_folder
from xtrace.probes.recording import flusher, session
from xtrace.probes.recording.backends import registry
from xtrace.probes.recording.backends.base import Options

TOGETHER = 10
#: A third of the processes are killed up to EARLY_S after their start, when most changes; the others up to
#: LATE_S after their first record.
EARLY_S = 0.08
LATE_S = 0.3


def begin(folder: Path) -> int:
    """Fork a recorder that records into ``folder`` until it is killed."""
    pid = os.fork()
    if pid:
        return pid
    os.environ[run_folder.RUN_DIRECTORY_VARIABLE] = str(folder / "run")
    registry._HOMES = TICKER_HOMES
    registry.NAMES = tuple(TICKER_HOMES)
    dom0.why_no_dom0 = lambda: "this is a test"
    Ticker.blocks = 20
    # Make more happen in the same time: the recorder's second takes a twentieth of one.
    session._SECOND_S = flusher._SECOND_S = 0.05
    session._POLL_S = 0.005
    request = session.Request(folder / "a.xtrace", Options(), ("ticker",))
    try:
        session.record(request, say=lambda line: None, watch=lambda *told: None)
    finally:
        os._exit(1)


def main(folder: Path, count: int, seed: int) -> None:
    chance = random.Random(seed)
    for first in range(0, count, TOGETHER):
        running: dict[int, Path] = {}
        ends: dict[int, float] = {}
        for number in range(first, min(first + TOGETHER, count)):
            place = folder / str(number)
            place.mkdir()
            pid = begin(place)
            running[pid] = place
            if number % 3 == 0:
                ends[pid] = time.monotonic() + chance.uniform(0, EARLY_S)
        while running:
            time.sleep(0.001)
            for pid, place in list(running.items()):
                if pid not in ends and (place / "a.xtrace" / LINES).exists():
                    ends[pid] = time.monotonic() + chance.uniform(0, LATE_S)
                if time.monotonic() >= ends.get(pid, float("inf")):
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                    sys.stdout.write(f"{running.pop(pid)}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
