"""The next start undoes what a killed recorder left, and leaves a living one's changes alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from xtrace.probes.errors import TraceError
from xtrace.probes.host import dom0
from xtrace.probes.host.run_folder import BPF_SCRATCH, RUN_DIRECTORY_VARIABLE, run_folder
from xtrace.probes.recording import restore

LEAVE_AND_DIE = """
import os, sys
from xtrace.probes.recording import restore
restore.note("pmu_mode", {"mode": "off"})
open(sys.argv[1], "w").write("all")
os.kill(os.getpid(), 9)
"""
GONE = 2**22 + 1


@pytest.fixture(autouse=True)
def run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(RUN_DIRECTORY_VARIABLE, str(tmp_path / "run"))
    return tmp_path / "run"


@pytest.fixture(autouse=True)
def mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "pmu_mode"
    path.write_text("off")
    monkeypatch.setattr(dom0, "PMU_MODE", path)
    return path


def left(folder: Path, name: str, content: Any) -> Path:
    """Leave a file as a recorder does."""
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / name
    path.touch(0o600)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def of_the_dead(kind: str = "pmu_mode", **data: Any) -> dict[str, Any]:
    return {"kind": kind, "data": data, "pid": GONE, "started": "1"}


def test_a_killed_recorders_change_is_undone(mode: Path, run_directory: Path) -> None:
    subprocess.run([sys.executable, "-c", LEAVE_AND_DIE, str(mode)], check=False)
    assert mode.read_text() == "all"
    assert restore.recover() == ["undid what a killed recorder left: pmu_mode"]
    assert mode.read_text() == "off"
    assert list(run_directory.iterdir()) == []
    assert restore.recover() == []


def test_a_living_recorders_change_is_left_alone(mode: Path, run_directory: Path) -> None:
    note = restore.note("pmu_mode", {"mode": "off"})
    mode.write_text("all")
    assert restore.recover() == []
    assert mode.read_text() == "all"
    note.undo()
    assert mode.read_text() == "off"
    assert list(run_directory.iterdir()) == []
    note.drop()


def test_a_reused_pid_is_another_process(mode: Path, run_directory: Path) -> None:
    note = restore.note("pmu_mode", {"mode": "self"})
    content = json.loads((run_directory / note.name).read_text())
    assert content["pid"] == os.getpid()
    left(run_directory, note.name, {**content, "started": "1"})
    restore.recover()
    assert mode.read_text() == "self"


def test_a_change_that_cannot_be_undone_is_reported_and_kept(mode: Path, run_directory: Path) -> None:
    mode.unlink()
    mode.mkdir()
    left(run_directory, "1-0.note", of_the_dead(mode="off"))
    for _ in range(2):
        (line,) = restore.recover()
        assert "could not undo" in line


#: Each is reported and blocks neither the start nor the other notes.
NO_NOTES: dict[str, Any] = {
    "damaged": "{",
    "nested": "[" * 30_000,
    "long": json.dumps(of_the_dead(mode="x" * 70_000)),
    "no-object": [1],
    "no-pid": {"kind": "pmu_mode", "data": {"mode": "off"}},
    "another-kind": of_the_dead("rm", path="/"),
    "file": of_the_dead("file", path="/etc/passwd", content="off"),
    "mode": of_the_dead(mode="off\nall"),
    "huge-pid": '{"kind": "pmu_mode", "data": {"mode": "off"}, "pid": ' + "9" * 5000 + ', "started": "1"}',
}


@pytest.mark.parametrize("content", NO_NOTES.values(), ids=NO_NOTES)
def test_what_is_no_note_is_not_obeyed(content: Any, mode: Path, run_directory: Path) -> None:
    mode.write_text("all")
    left(run_directory, "1-0.note", content)
    left(run_directory, "2-0.note", of_the_dead(mode="hv"))
    said = restore.recover()
    assert len(said) == 2
    assert f"could not undo what a recorder left, {run_directory / '1-0.note'}: " in said[0]
    assert len(said[0]) < 400
    assert mode.read_text() == "hv"


def test_notes_that_others_could_have_written_are_not_obeyed(
    mode: Path, run_directory: Path, tmp_path: Path
) -> None:
    mode.write_text("all")
    left(run_directory, "1-0.note", of_the_dead(mode="off")).chmod(0o620)
    elsewhere = left(tmp_path / "elsewhere", "2-0.note", of_the_dead(mode="off"))
    (run_directory / "2-0.note").symlink_to(elsewhere)
    os.mkfifo(run_directory / "3-0.note", 0o600)
    (run_directory / "4-0.note").mkdir(0o700)
    if os.geteuid() == 0:
        os.chown(left(run_directory, "5-0.note", of_the_dead(mode="off")), 65534, 65534)
    said = restore.recover()
    assert len(said) == (5 if os.geteuid() == 0 else 4)
    assert mode.read_text() == "all"


def test_a_folder_that_others_could_have_made_is_not_trusted(
    mode: Path, run_directory: Path, tmp_path: Path
) -> None:
    left(run_directory, "1-0.note", of_the_dead(mode="hv"))
    run_directory.chmod(0o770)
    with pytest.raises(TraceError, match=r"others may use it \(mode 0770\)"):
        restore.recover()
    run_directory.chmod(0o700)
    elsewhere = run_directory.rename(tmp_path / "elsewhere")
    run_directory.symlink_to(elsewhere)
    with pytest.raises(TraceError, match="is a link or not a folder; remove it"):
        restore.recover()
    run_directory.unlink()
    elsewhere.rename(run_directory)
    if os.geteuid() == 0:
        os.chown(run_directory, 65534, 65534)
        with pytest.raises(TraceError, match="belongs to user 65534"):
            restore.recover()
    assert mode.read_text() == "off"


def test_folders_of_processes_that_have_ended_are_removed(run_directory: Path) -> None:
    with run_folder() as folder, folder.scratch(BPF_SCRATCH) as own:
        (own / "whole.bpf.c").write_text("")
        left = run_directory / f"{BPF_SCRATCH}{GONE}-abc"
        left.mkdir()
        (left / "whole.bpf.c").write_text("")
        others = run_directory / f"{BPF_SCRATCH}x-abc"
        others.mkdir()
        restore.recover()
        assert sorted(run_directory.iterdir()) == sorted([own, others])
    assert list(run_directory.iterdir()) == [others]


def test_only_known_changes_can_be_noted() -> None:
    with pytest.raises(ValueError, match="no way to undo"):
        restore.note("rm", {})
    with pytest.raises(TraceError, match="unknown change"):
        restore.Note("rm", {}, "x").undo()
