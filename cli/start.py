"""Where the `xtrace` command begins: a child gets a head start before the command line is read."""

from __future__ import annotations

import os
import sys
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
    # All is written: taking pandas apart, module by module, would only cost a tenth of a second.
    sys.stderr.flush()
    os._exit(code)
