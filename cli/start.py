"""Where the `xtrace` command begins: what it stands on is made safe, and a child gets a head start."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import NoReturn

from xtrace.cli import streams
from xtrace.forked import discard_spares, prepare

_HELP = {"--help", "-h"}
_FAILURE = 1


class _HungUp(BaseException):
    """The terminal has gone, and who read there with it."""


def main() -> NoReturn:
    """Run the command line in ``sys.argv`` and end the process with its exit code."""
    try:
        code = _run(sys.argv[1:])
    except _HungUp:
        code = _FAILURE
    # Taking pandas apart, module by module, would only cost a tenth of a second.
    os._exit(code)


def _run(arguments: list[str]) -> int:
    streams.secure()
    # Under nohup it is ignored, and stays so.
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        signal.signal(signal.SIGHUP, _hang_up)
    if arguments[:1] == ["report"] and not _HELP & set(arguments):
        # The file for a dom0 has no analysis: the command says so.
        with suppress(ModuleNotFoundError):
            from xtrace.analysis.loading.preload import LOOPS

            prepare(LOOPS)
    try:
        from xtrace.cli.main import main as run

        code = run(arguments)
    finally:
        discard_spares()
    # A command that fails may have printed before; where stdout takes no more, main() has said so.
    with suppress(OSError):
        sys.stdout.flush()
    return code


def _hang_up(number: int, frame: object) -> None:
    # Shells and the kernel both send it: the second must not cut short what the first one ends.
    signal.signal(number, signal.SIG_IGN)
    raise _HungUp
