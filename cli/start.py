"""Where the `xtrace` command begins: a child gets a head start before the command line is read."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import NoReturn

from xtrace.cli.background import discard_spares, prepare

_HELP = {"--help", "-h"}


def main() -> NoReturn:
    """Run the command line in ``sys.argv`` and end the process with its exit code."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["report"] and not _HELP & set(arguments):
        prepare()
    try:
        from xtrace.cli.main import main as run

        code = run(arguments)
    finally:
        discard_spares()
    # A command that fails may have printed before; where stdout takes no more, main() has said so.
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            if stream is not None:
                stream.flush()
    # Taking pandas apart, module by module, would only cost a tenth of a second.
    os._exit(code)
