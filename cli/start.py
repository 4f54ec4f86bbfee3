"""Where the `xtrace` command begins: a child gets a head start before the command line is read."""

from __future__ import annotations

import sys

from xtrace.cli.background import discard_spares, prepare

_HELP = {"--help", "-h"}


def main() -> int:
    """Run the command line in ``sys.argv`` and return its exit code."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["report"] and not _HELP & set(arguments):
        prepare()
    try:
        from xtrace.cli.main import main as run

        return run(arguments)
    finally:
        discard_spares()
