"""`--help` and `--version` are fast: they import nothing heavy."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

HEAVY = {
    "elftools",
    "iced_x86",
    "llvmlite",
    "lz4",
    "numba",
    "numpy",
    "pandas",
    "pyarrow",
    "rich",
    "zstandard",
}

# Write what main() returns and what it has imported to stderr's last line.
PROGRAM = """
import json, sys
from xtrace.cli.main import main
code = main(sys.argv[1:])
json.dump([code, sorted({name.partition(".")[0] for name in sys.modules})], sys.stderr)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["report", "--help"],
        ["dump", "--help"],
        ["record", "--help"],
        ["doctor", "--help"],
        ["top", "--help"],
        ["stat", "--help"],
        ["calibrate", "--help"],
        ["diff", "--help"],
        ["info", "--help"],
        ["sites", "--help"],
    ],
    ids=" ".join,
)
def test_help_and_version_import_nothing_heavy(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM, *arguments],
        capture_output=True,
        check=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")},
        text=True,
    )
    code, imported = json.loads(done.stderr.splitlines()[-1])
    assert code == 0
    assert done.stdout
    assert HEAVY.intersection(imported) == set()


def test_help_fits_80_columns_and_names_the_commands() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM, "--help"],
        capture_output=True,
        check=True,
        env=os.environ | {"COLUMNS": "80"},
        text=True,
    )
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert all(f"\n  {command} " in done.stdout for command in ("report", "dump", "info", "sites"))
