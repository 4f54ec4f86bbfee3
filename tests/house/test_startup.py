"""`--help` and `--version` import nothing heavy, other commands only what they need."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from xtrace import samples

HEAVY = {
    "elftools",
    "iced_x86",
    "jinja2",
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

TRACE = str(samples.path())
IMAGE = str(samples.path().with_name("own-lfence.elf"))
#: What the compiled loops work on.
LOOPS = {"numpy"}
#: The heavy modules that a command may import.  None needs pandas: tables are NumPy columns.
MAY_IMPORT: list[tuple[list[str], set[str]]] = [
    (["info", TRACE], set()),
    (["info", "--json", TRACE], set()),
    (["top", "-n", "1", "-i", TRACE], set()),
    (["top", "--json", "-n", "1", "-i", TRACE], set()),
    (["stat", "-i", TRACE, "1", "1"], set()),
    (["dump", "--head", "5", TRACE], LOOPS),
    (["dump", "--json", "--head", "5", TRACE], LOOPS),
    (["report"], LOOPS),
    (["report", TRACE], LOOPS),
    (["report", "--json", TRACE], LOOPS),
    (["report", "--section", "rips", "--rows", "0", TRACE], LOOPS),
    (["report", "--from", "1s", "--domain", "1", TRACE], LOOPS),
    (["report", "--kernel", f"1={IMAGE}", TRACE], LOOPS | {"elftools", "iced_x86"}),
    (["report", "--section", "cost", "--kernel", f"1={IMAGE}", TRACE], LOOPS | {"elftools", "iced_x86"}),
    (["report", "--html", "-", TRACE], LOOPS | {"jinja2"}),
    (["diff", "--no-keep", TRACE, TRACE], LOOPS),
    (["export", TRACE, "-f", "csv", "--what", "irqs", "-o", "-"], LOOPS),
    (["export", TRACE, "-f", "folded", "-o", "-"], LOOPS),
    (["stat", "--openmetrics", "-i", TRACE, "10"], set()),
    (["report", "--mail", TRACE], LOOPS),
    (["sites", IMAGE], {"elftools", "iced_x86", "numpy"}),
]


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
        ["export", "--help"],
        ["info", "--help"],
        ["sites", "--help"],
    ],
    ids=" ".join,
)
def test_help_and_version_import_nothing_heavy(arguments: list[str]) -> None:
    assert _imported(arguments) == set()


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    MAY_IMPORT,
    ids=[" ".join(each.rpartition("/")[2] for each in arguments) for arguments, _ in MAY_IMPORT],
)
def test_a_command_imports_only_what_it_needs(arguments: list[str], allowed: set[str]) -> None:
    assert _imported(arguments) <= allowed


def _imported(arguments: list[str]) -> set[str]:
    """Return the heavy modules that a successful command imports."""
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
    return HEAVY.intersection(imported)


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
