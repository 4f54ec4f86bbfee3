"""Write again what a program makes: the report in README.md, docs/sites.md, the files of the report's schema.

python docs/refresh.py
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from xtrace.analysis.findings import page
from xtrace.analysis.report import json_schema, schema

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- report:begin -->\n", "<!-- report:end -->"
COMMAND = "import sys; from xtrace.cli.main import main; sys.exit(main())"


def report_block() -> str:
    """Return the first screen of the report on the bundled sample, as README.md shows it."""
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "report"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "80"},
    )
    return f"```text\n$ ./run report\n{done.stdout}```\n"


def refreshed(readme: str) -> str:
    """Return README.md with the report of today."""
    head, rest = readme.split(BEGIN)
    return head + BEGIN + report_block() + END + rest.split(END)[1]


def sites_refreshed(page: str) -> str:
    """Return docs/sites.md with what its commands print today, run one after the other beside its guest.s."""
    source = re.search(r"```asm\n(.*?)```", page, re.DOTALL)
    assert source is not None
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "guest.s").write_text(source[1])
        xtrace = Path(folder, "xtrace")
        xtrace.write_text(f"#!/bin/sh\nexec '{sys.executable}' -c '{COMMAND}' \"$@\"\n")
        xtrace.chmod(0o755)
        environment = {**os.environ, "COLUMNS": "80", "PATH": f"{folder}:{os.environ['PATH']}"}

        def run(block: re.Match[str]) -> str:
            lines = []
            for command in re.findall(r"^\$ (.*)$", block[1], re.MULTILINE):
                done = subprocess.run(
                    command,
                    shell=True,
                    cwd=folder,
                    env=environment,
                    check=True,
                    text=True,
                    stdout=subprocess.PIPE,
                )
                lines += [f"$ {command}\n", done.stdout]
            return f"```console\n{''.join(lines)}```"

        return re.sub(r"```console\n(.*?)```", run, page, flags=re.DOTALL)


if __name__ == "__main__":
    (ROOT / "docs" / "report-schema.md").write_text(schema.markdown())
    (ROOT / "docs" / "findings.md").write_text(page.markdown())
    (ROOT / "docs" / "report.schema.json").write_text(json_schema.text())
    for name, made in (("README.md", refreshed), ("docs/sites.md", sites_refreshed)):
        path = ROOT / name
        path.write_text(made(path.read_text()))
