"""`xtrace doctor`: its findings agree with this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from xtrace.cli.commands import doctor as command
from xtrace.cli.main import main
from xtrace.probes.recording import doctor, restore
from xtrace.probes.recording.doctor import Examination, Finding

PROGRAM = "from xtrace.cli.start import main; main()"


def told(capfd: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any], dict[tuple[str, str], Any]]:
    code = main(["doctor", "--json"])
    content = json.loads(capfd.readouterr().out)
    return code, content, {(row["part"], row["name"]): row for row in content["findings"]}


def test_json_agrees_with_the_machine(capfd: pytest.CaptureFixture[str]) -> None:
    code, content, rows = told(capfd)
    assert content["schema_version"] == 1
    assert code == (0 if content["usable"] else 1)
    assert (rows["host", "root"]["state"] == "ok") is (os.geteuid() == 0)
    assert rows["host", "kernel"]["text"] == f"Linux {os.uname().release}"
    has_kprobes = Path("/sys/bus/event_source/devices/kprobe/type").exists()
    assert (rows["bpf", "kprobes"]["state"] == "ok") is has_kprobes
    assert (rows["xen", "dom0"]["state"] == "ok") is Path("/proc/xen/capabilities").exists()
    free = os.statvfs(".").f_bavail * os.statvfs(".").f_frsize
    shown = int(rows["disk", "free"]["text"].split()[0].replace(",", ""))
    assert shown == pytest.approx(free >> 20, rel=0.2)
    assert {row["state"] for row in content["findings"]} <= {"ok", "limited", "missing"}
    assert {name for part, name in rows if part == "record by"} == {"bpf", "perf", "xentrace", "xenctx"}
    for name in content["usable"]:
        assert rows["record by", name]["state"] != "missing"


def test_missing_bcc_has_a_remedy(capfd: pytest.CaptureFixture[str]) -> None:
    _, _, rows = told(capfd)
    is_there = subprocess.run(
        [sys.executable, "-c", "from bcc import BPF"], capture_output=True, check=False
    ).returncode
    assert (rows["bpf", "bcc"]["state"] == "ok") is (is_there == 0)
    if is_there:
        remedy = rows["bpf", "bcc"]["remedy"]
        system = subprocess.run(["/usr/bin/python3", "-c", "from bcc import BPF"], check=False)
        has_one = system.returncode == 0
        assert remedy.startswith("run xtrace.pyz with /usr/bin/python3" if has_one else "apt-get install")


def test_doctor_creates_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XTRACE_RUN_DIR", str(tmp_path / "run"))
    doctor.examine()
    assert not (tmp_path / "run").exists()


def test_leftovers_of_a_killed_recorder_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XTRACE_RUN_DIR", str(tmp_path))
    gone = subprocess.Popen(["true"])
    gone.wait()
    note = {"kind": "xen_tracing", "data": {}, "started": "1"}
    for name in ("1-0.note", "2-0.note", "3-0.note"):
        (tmp_path / name).touch(0o600)
    (tmp_path / "1-0.note").write_text(json.dumps(note | {"pid": gone.pid}))
    # The note of a live process, and one whose PID was reused.
    restore.note("xen_tracing", {})
    (tmp_path / "2-0.note").write_text(json.dumps(note | {"pid": os.getpid()}))
    (tmp_path / "3-0.note").write_text("damaged")
    texts = [each.text for each in doctor.examine().findings if each.part == "left over"]
    facts = (f"xen_tracing by process {gone.pid}", f"xen_tracing by process {os.getpid()}", "3-0.note")
    assert [fact in text for fact, text in zip(facts, texts, strict=True)] == [True] * len(facts)
    assert len(list(tmp_path.iterdir())) == 4


def test_a_running_recorder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from xtrace.probes.recording.lock import only_recorder

    monkeypatch.setenv("XTRACE_RUN_DIR", str(tmp_path))
    with only_recorder():
        found = [each for each in doctor.examine().findings if each.name == "recorder"]
    assert [f"process {os.getpid()}" in each.text for each in found] == [True]
    assert not [each for each in doctor.examine().findings if each.name == "recorder"]


def test_text_fits_80_columns_and_has_no_colour_without_a_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    main(["doctor"])
    lines = capfd.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert not any("\x1b" in line for line in lines)
    assert lines[-1].startswith("xtrace record ")


def test_remedies_control_characters_and_colours() -> None:
    finding = Finding("xen", "version", "limited", "4.17\x1b[2J " + "word " * 30, "xl info", "apt-get " * 20)
    lines = list(command.lines_of(Examination((finding,), ("bpf",)), in_colour=False))
    assert max(map(len, lines)) <= 80
    assert not any("\x1b" in line for line in lines)
    assert sum("-> apt-get" in line for line in lines) == 1
    assert lines[-1] == "xtrace record needs --backend here: bpf"
    in_dom0 = Examination((finding,), ("bpf", "perf", "xentrace"), ("bpf", "xentrace"))
    *_, last = command.lines_of(in_dom0, in_colour=False)
    assert last == "xtrace record uses bpf and xentrace here; with --backend also perf"
    coloured = list(command.lines_of(Examination((finding,), ()), in_colour=True))
    assert any("\x1b[33m" in line for line in coloured)
    assert coloured[-1] == "xtrace record can record nothing here"
