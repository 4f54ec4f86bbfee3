"""Write again what is made by a program: the report in README.md and docs/report-schema.md.

python docs/refresh.py
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from xtrace.analysis import schema

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- report:begin -->\n", "<!-- report:end -->"
#: README shows the report up to this table.
NEXT_TABLE = "\n\nRunstates of the vCPUs"


def report_block() -> str:
    """Return the beginning of the report on the bundled sample as README.md shows it."""
    command = "import sys; from xtrace.cli.main import main; sys.exit(main(['report']))"
    done = subprocess.run(
        [sys.executable, "-c", command],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "80"},
    )
    shown = done.stdout.split(NEXT_TABLE)[0]
    lines = (line.rstrip() for line in shown.splitlines())
    text = "\n".join(lines)
    return (
        f"```text\n$ ./run report\n{text}\n[runstates, pCPUs, hypercalls, traps and interrupts follow]\n```\n"
    )


def refreshed(readme: str) -> str:
    """Return README.md with the report of today."""
    head, rest = readme.split(BEGIN)
    return head + BEGIN + report_block() + END + rest.split(END)[1]


if __name__ == "__main__":
    (ROOT / "docs" / "report-schema.md").write_text(schema.markdown())
    page = ROOT / "README.md"
    page.write_text(refreshed(page.read_text()))
