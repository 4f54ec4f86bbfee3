"""Run xenalyze, with clear errors if it is missing or aborts.

Facts about how it reports (tools/xentrace/xenalyze.c, Xen 4.17):

* Progress notes and warnings go to stderr, but to stdout in ``--dump-all`` mode.
* A trace error above the tolerance ends it with status 1, in the middle of the output; a failed
  assertion with SIGABRT.  Status 0 does not mean that every byte was read: a window that extends beyond
  the end of the file makes it drop everything since the last full round ("early_eof").
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

REQUIRE_VARIABLE = "XTRACE_REQUIRE_PEERS"
INSTALL_HINT = "xenalyze is not installed: apt-get install xen-utils-common"
TIMEOUT_S = 300

#: A test with this mark is skipped, or fails, if xenalyze is missing.
needs_xenalyze = pytest.mark.usefixtures("xenalyze")


class XenalyzeError(RuntimeError):
    """xenalyze ended before the end of the trace, or its output is unknown to the parser.

    Attributes:
        stdout: its output up to then.
    """

    def __init__(self, message: str, stdout: bytes = b"") -> None:
        super().__init__(message)
        self.stdout = stdout


@dataclass(frozen=True, slots=True)
class Printed:
    """The output of one run."""

    stdout: bytes
    stderr: str

    @property
    def warnings(self) -> list[str]:
        """Lines of stderr except the usual notes on CPUs, domains and the end of the file."""
        return [line for line in self.stderr.splitlines() if line and not is_note(line)]


NOTES = (
    "Using VMX hardware-assisted",
    "Using SVM hardware-assisted",
    "scan_for_new_pcpu: Activating pcpu ",
    "process_cpu_change: Activating pcpu ",
    "init_pcpus: through first trace write",
    "Creating vcpu ",
    "Creating domain ",
    "First schedule for ",
    "Using first_tsc for ",
    "read_record: read returned zero, deactivating pcpu ",
    "deactivate_pcpu: ",
)


def is_note(line: str) -> bool:
    """Return whether a line is one of the notes that every run prints."""
    return line.startswith(NOTES)


def available() -> bool:
    """Return whether xenalyze is on the PATH."""
    return shutil.which("xenalyze") is not None


def require() -> None:
    """Skip the running test if xenalyze is missing; fail it under XTRACE_REQUIRE_PEERS=1."""
    if available():
        return
    if os.environ.get(REQUIRE_VARIABLE) == "1":
        pytest.fail(f"{INSTALL_HINT} ({REQUIRE_VARIABLE}=1 forbids skipping)", pytrace=False)
    pytest.skip(INSTALL_HINT)


def run(path: Path, options: Sequence[str]) -> Printed:
    """Run xenalyze over ``path``.

    Raises:
        XenalyzeError: it ended with another status than 0.
    """
    command = ["xenalyze", *options, str(path)]
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(command, capture_output=True, env=environment, timeout=TIMEOUT_S, check=False)
    stderr = done.stderr.decode("ascii", "replace")
    if done.returncode != 0:
        how = f"status {done.returncode}" if done.returncode > 0 else f"signal {-done.returncode}"
        said = [line for line in stderr.splitlines() if not is_note(line)]
        said += done.stdout[-400:].decode("ascii", "replace").splitlines()[-2:]
        raise XenalyzeError(f"{' '.join(command)}: {how}: {' / '.join(said[-4:])}", done.stdout)
    return Printed(done.stdout, stderr)


def effective_hz(cpu_hz: int) -> int:
    """Return the frequency that xenalyze uses for ``--cpu-hz cpu_hz``: it parses a 32-bit float."""
    return int(np.float32(cpu_hz))


def quantised_hz(cpu_hz: int) -> int:
    """Return the frequency in 1024ths of a GHz, rounded down: the divisor of every dumped time."""
    return (effective_hz(cpu_hz) << 10) // 1_000_000_000


def dumped_ns(cycles: int, cpu_hz: int) -> int:
    """Return the nanoseconds that it prints for ``cycles`` after the first TSC.

    Too large by up to 1/quantised_hz: +244 ppm at 2.4 GHz, +150 at 2.6, +70 at 2.8, 0 at 3.0.
    At 1 GHz the divisor is 1024, so the printed nanoseconds are the cycles themselves.
    """
    return (cycles << 10) // quantised_hz(cpu_hz)
