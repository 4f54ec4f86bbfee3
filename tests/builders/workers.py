"""The worker of benchmarks/trial: a program with sites like a guest's, compiled and running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_BUILD = ROOT / "benchmarks" / "trial" / "build.sh"


def built(
    folder: Path, fence: str = "lfence", place: str = "outofline", *flags: str, **environment: str
) -> Path:
    """Compile the worker; return the program."""
    subprocess.run(
        ["/bin/sh", str(_BUILD), str(folder), fence, place, *flags],
        check=True,
        env={**os.environ, **environment},
    )
    return folder / f"worker-{fence}-{place}"


class Worker:
    """A running worker."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.pid = process.pid

    def running_ns(self) -> int:
        """Return how long it ran: it works as long as it runs."""
        return time.clock_gettime_ns((~self.pid << 3) | 2)

    def end(self) -> dict[str, Any]:
        """End it as a user would; return what it counted."""
        self.process.send_signal(signal.SIGTERM)
        output, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == 0
        found: dict[str, Any] = json.loads(output.splitlines()[-1])
        return found


@contextmanager
def running(program: Path, *arguments: str) -> Iterator[Worker]:
    """Run a worker: WORK KILOBYTES and options."""
    process = subprocess.Popen([str(program), *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield Worker(process)
    finally:
        process.kill()
        process.communicate()


def must_be_consistent(counts: dict[str, Any]) -> None:
    """Assert that every event sent to a worker was handled once."""
    assert counts["sent"] == counts["merged"] + counts["events"]
    assert not counts["left_pending"]
    assert counts["units"] > 0
