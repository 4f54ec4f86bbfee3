"""The table of docs/export.md: it names the options of the tools that it replaces, and its commands run."""

from __future__ import annotations

import csv
import io
import re
import shlex
from pathlib import Path

import pytest

from builders import emulated, export_page
from xtrace import samples
from xtrace.cli.main import main

ROWS = export_page.rows()
EXPORTS = sorted({shown for _, right in ROWS for shown in re.findall(r"`(--what [^`]+)`", right)})
#: Of tools/xentrace/xentrace.c and xenctx.c of Xen 4.17: they print no help without a Xen host.
OTHERS = {
    "xentrace": (
        "log-thresh", "poll-sleep", "cpu-mask", "evt-mask", "trace-buf-size", "reserve-disk-space",
        "time-interval", "memory-buffer", "discard-buffers", "dont-disable-tracing", "start-disabled",
    ),
    "xenctx": (
        "stack-trace", "frame-pointers", "kernel-start", "display-stack-pages", "decode-as-ascii",
        "tag-stack-dump", "memory", "dump-as-stack", "bytes-per-line", "lines", "all", "all-vcpus",
    ),
}  # fmt: skip


@pytest.mark.parametrize("tool", OTHERS)
def test_all_options_of_the_others_are_named(tool: str) -> None:
    assert set(OTHERS[tool]) == export_page.options_of(tool) - {"backend", "domain", "symbol-table"}


@pytest.mark.parametrize("options", EXPORTS)
def test_each_export_runs(options: str, tmp_path: Path) -> None:
    path, out = tmp_path / "t.bin", tmp_path / "o.csv"
    path.write_bytes(emulated.trace())
    arguments = ["export", "-f", "csv", "-o", str(out), str(path), "--cpu-hz", "1G", *shlex.split(options)]
    assert main(arguments) == 0
    head, *rows = csv.reader(io.StringIO(out.read_text()))
    assert len(set(head)) == len(head)
    assert all(len(row) == len(head) for row in rows)
    if "slot" not in options and not re.search(r"name=|memory|irqs|rips", options):
        assert rows


def test_other_commands_run(capsys: pytest.CaptureFixture[str]) -> None:
    """All of them that read a trace."""
    folder = samples.path().parent
    shown = {each for _, right in ROWS for each in re.findall(r"`(xtrace [^`]+ t\.bin)`", right)}
    assert len(shown) >= 4
    for command in shown:
        words = shlex.split(command.replace("1=IMAGE", f"1={folder / 'own-lfence.elf'}"))[1:-1]
        assert main([*words, str(folder / "xen417-own-lfence.bin.xz")]) == 0, command
        assert capsys.readouterr().out
