"""The next start undoes what a killed recorder left, and leaves a living one's changes alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from xtrace.probes.errors import TraceError
from xtrace.probes.recording import restore

LEAVE_AND_DIE = """
import os, sys
from xtrace.probes.recording import restore
restore.note("file", {"path": sys.argv[1], "content": "off"})
open(sys.argv[1], "w").write("all")
os.kill(os.getpid(), 9)
"""


@pytest.fixture(autouse=True)
def run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(restore.RUN_DIRECTORY_VARIABLE, str(tmp_path / "run"))
    return tmp_path / "run"


def test_a_killed_recorders_change_is_undone(tmp_path: Path, run_directory: Path) -> None:
    mode = tmp_path / "pmu_mode"
    mode.write_text("off")
    subprocess.run([sys.executable, "-c", LEAVE_AND_DIE, str(mode)], check=False)
    assert mode.read_text() == "all"
    (line,) = restore.recover()
    assert "undid" in line
    assert str(mode) in line
    assert mode.read_text() == "off"
    assert list(run_directory.iterdir()) == []
    assert restore.recover() == []


def test_a_living_recorders_change_is_left_alone(tmp_path: Path, run_directory: Path) -> None:
    mode = tmp_path / "pmu_mode"
    note = restore.note("file", {"path": str(mode), "content": "off"})
    mode.write_text("all")
    assert restore.recover() == []
    assert mode.read_text() == "all"
    note.undo()
    assert mode.read_text() == "off"
    assert list(run_directory.iterdir()) == []
    note.drop()


def test_a_reused_pid_is_another_process(tmp_path: Path) -> None:
    mode = tmp_path / "pmu_mode"
    note = restore.note("file", {"path": str(mode), "content": "off"})
    content = json.loads(note.path.read_text())
    assert content["pid"] == os.getpid()
    note.path.write_text(json.dumps({**content, "started": "1"}))
    restore.recover()
    assert mode.read_text() == "off"


def test_a_change_that_cannot_be_undone_is_reported_and_kept(tmp_path: Path, run_directory: Path) -> None:
    note = restore.note("file", {"path": str(tmp_path / "no" / "such"), "content": "off"})
    content = json.loads(note.path.read_text())
    note.path.write_text(json.dumps({**content, "pid": 2**22 + 1}))
    for _ in range(2):
        (line,) = restore.recover()
        assert "could not undo" in line
    (run_directory / "9-9.note").write_text("{")
    (run_directory / "9-8.note").write_text(json.dumps({**content, "pid": 2**22 + 1, "kind": "rm"}))
    assert len(restore.recover()) == 3


def test_only_known_changes_can_be_noted() -> None:
    with pytest.raises(ValueError, match="no way to undo"):
        restore.note("rm", {})
    with pytest.raises(TraceError, match="unknown change"):
        restore.Note("rm", {}, Path("x")).undo()
