"""Entry point of the `xtrace` command: secure the standard streams, end at once."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import NoReturn

from xtrace.cli import streams

_FAILURE = 1
_INTERRUPTED = 130


class _HungUp(BaseException):
    """The terminal is gone, and with it the reader."""


def main() -> NoReturn:
    """Run the command line in ``sys.argv`` and end the process with its exit code."""
    try:
        code = _run(sys.argv[1:])
    except _HungUp:
        code = _FAILURE
    except KeyboardInterrupt:
        # While modules are imported; main() handles all later ones.
        code = _INTERRUPTED
    # Tearing down pandas, module by module, would take a tenth of a second.
    os._exit(code)


def _run(arguments: list[str]) -> int:
    streams.secure()
    # NumPy's linear algebra would start a thread per core, which takes 0.05 s; nothing here uses it.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Under nohup it is ignored; keep that.
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        signal.signal(signal.SIGHUP, _hang_up)
    from xtrace.cli.main import main as run

    code = run(arguments)
    # A command may have printed before it failed; if stdout is broken, main() has reported it.
    with suppress(OSError):
        sys.stdout.flush()
    return code


def _hang_up(number: int, frame: object) -> None:
    # Both the shell and the kernel send it: the second must not interrupt the handling of the first.
    signal.signal(number, signal.SIG_IGN)
    raise _HungUp
