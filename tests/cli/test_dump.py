"""`xtrace dump` as a user sees it, and record by record against ``xenalyze --dump-all``."""

from __future__ import annotations

import gzip
import json
import os
import re
import struct
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from peer.conftest import UNPACK, sample_files
from peer.xenalyze import DumpLine, RawRecords, decode, dump_all, needs_xenalyze, raw_records, require, svm_args
from peer.xenalyze_dump import LOST_RECORDS_END
from xtrace.cli.main import main

PROGRAM = "import sys; from xtrace.cli.main import main; sys.exit(main(sys.argv[1:]))"
WRAP_BUFFER = 0x1F002
LOST_RECORDS = 0x1F001
Json = dict[str, Any]


def run(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-c", PROGRAM, *map(str, arguments)]
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.run(command, **(streams | options), check=False)


def dumped(capfd: pytest.CaptureFixture[str], *arguments: str | Path) -> list[str]:
    assert main(["dump", *map(str, arguments)]) == 0
    return capfd.readouterr().out.splitlines()


@pytest.fixture(scope="module")
def pv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(next(path for path in sample_files() if "pv-all" in path.name), tmp_path_factory)


def unpack(packed: Path, factory: pytest.TempPathFactory) -> Path:
    plain = factory.mktemp("sample") / f"{packed.name.split('.')[0]}.bin"
    plain.write_bytes(UNPACK[packed.suffix](packed.read_bytes()))
    return plain


def window(*words: int) -> bytes:
    return struct.pack(f"<{3 + len(words)}I", 0x2001F003, 0, 4 * len(words), *words)


WAKE = (0xA002_8004, 10, 0, 3, 0)

# --- golden -------------------------------------------------------------------------------------

GOLDEN = """\
   141262640 p1  d4v0  switch_infprev dom=4 unit=0 runtime_ns=25296215
   141265144 p1  d4v0  switch_infnext dom=3 unit=0 wait_ns=25153512 slice_ns=4002534
"""


def test_golden_text(pv: Path) -> None:
    done = run("dump", pv, "--from", "207803000", "--to", "207970000", "--pcpu", "1", "--head", "12")
    assert done.stdout == """\
   207805604 p1  d4v0  switch_infnext dom=3 unit=0 wait_ns=25153512 slice_ns=4002534
"""
