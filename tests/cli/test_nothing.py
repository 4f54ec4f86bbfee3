"""Where nothing is read or nothing selected, there is one line and nothing that looks like a report."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path

import pytest

from builders.host import Kind, simulate
from xtrace.cli.main import main

DOMAINS: list[tuple[int, int, Kind]] = [(0, 1, "pv"), (1, 2, "pv")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an empty file, a text, windows without records, an empty capture, and a trace."""
    path: Path = tmp_path_factory.mktemp("nothing")
    (path / "empty").touch()
    (path / "text").write_text("This is not a trace, and top says so, whatever the rate of the TSC is.\n" * 3)
    (path / "trace").write_bytes(simulate(5, 2, DOMAINS, 4_000_000).data)
    (path / "link").symlink_to("trace")
    (path / "windows").write_bytes(b"\x03\xf0\x01\x20" + bytes(8))
    capture = path / "capture.xtrace"
    capture.mkdir()
    (capture / "xentrace.bin").touch()
    (capture / "meta.json").write_text(json.dumps({"schema_version": 1}))
    return path


def said(capfd: pytest.CaptureFixture[str], code: int, *arguments: str | Path) -> str:
    """Run a command that must fail with ``code``, and return the last line on standard error."""
    assert main([str(word) for word in arguments]) == code
    out, err = capfd.readouterr()
    assert out == ""
    last = err.splitlines()[-1]
    assert last.startswith("xtrace: ")
    return last


@pytest.mark.parametrize(
    "command",
    ["report", "report --json", "dump", "dump --json", "info", "info --json", "top -n 1 -i", "stat -i"],
)
def test_an_empty_file_is_one_line(command: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    line = said(capfd, 1, *command.split(), folder / "empty")
    assert line == f"xtrace: {folder / 'empty'}: is empty: it has no records"


@pytest.mark.parametrize("name", ["windows", "capture.xtrace"])
@pytest.mark.parametrize("command", ["report", "dump"])
def test_windows_or_a_capture_without_a_record_are_one_line(
    command: str, name: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    line = said(capfd, 1, command, folder / name)
    assert line == f"xtrace: {folder / name}: is empty: it has no records"


def test_an_empty_pipe_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for command in ("report", "dump", "info"):
        with open(os.devnull, "rb") as nothing:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(nothing))
            assert said(capfd, 1, command, "-").endswith("is empty: it has no records")


def test_an_empty_file_among_others_is_a_warning(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(folder / "empty"), str(folder / "trace")]) == 0
    out, err = capfd.readouterr()
    assert "The way of an event" in out
    assert err == f"xtrace: {folder / 'empty'}: is empty: it has no records\n"


@pytest.mark.parametrize("json", [[], ["--json"]], ids=["text", "JSON"])
@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (["--domain", "99"], "has no domain 99; its domains are d0, d1"),
        (["--vcpu", "99"], "has no vCPU 99; its domains are d0, d1"),
        (["--vcpu", "d0v7"], "has no vCPU d0v7; its domains are d0, d1"),
        (["--section", "hvm"], "nothing for --section hvm: it has no records of HVM or PVH guests"),
        (["--section", "kernel"], "nothing for --section kernel: it needs an image (--kernel DOMAIN=IMAGE)"),
        (["--section", "dom0", "--section", "hvm"], "nothing for --section dom0: it needs a capture"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_selection_without_data_is_one_line(
    selection: list[str], expected: str, json: list[str], folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    line = said(capfd, 1, "report", *selection, *json, folder / "trace")
    assert line.startswith(f"xtrace: {folder / 'trace'}: {expected}")


def test_a_section_with_data_beside_one_without_is_reported(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "--section", "hvm", "--section", "runstates", str(folder / "trace")]) == 0
    assert "vCPU runstates" in capfd.readouterr().out


@pytest.mark.parametrize(
    "selection",
    [["--domain", "99"], ["--vcpu", "d1v9"], ["--class", "hvm"], ["--from", "900s", "--cpu-hz", "1G"]],
    ids=" ".join,
)
def test_a_dump_without_a_line_is_one_line(
    selection: list[str], folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert "records is selected" in said(capfd, 1, "dump", *selection, folder / "trace")
    assert main(["dump", "--head", "0", str(folder / "trace")]) == 0


@pytest.mark.parametrize(
    "command", ["top -n 1 -i", "top -n 1 --cpu-hz 1G -i", "stat -i", "stat --cpu-hz 1G -i"]
)
def test_a_text_is_not_replayed(command: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    line = said(capfd, 1, *command.split(), folder / "text")
    assert line.startswith(f"xtrace: {folder / 'text'}: not a xentrace file: word 0x")


@pytest.mark.parametrize("name", ["trace", "link"])
def test_the_same_file_twice_is_wrong_usage(
    name: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    line = said(capfd, 2, "report", folder / "trace", folder / name)
    assert "Invalid value for FILE: " in line
    assert "trace is given twice" in line


@pytest.mark.parametrize("version", ["9.9", "4.23", "4.17-4.23", "3.4"])
def test_an_unknown_version_is_wrong_usage(
    version: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for command in ("report", "dump"):
        assert "--xen" in said(capfd, 2, command, "--xen", version, folder / "trace")


def test_sites_of_a_folder_is_one_line(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    line = said(capfd, 1, "sites", folder)
    assert line == f"xtrace: {folder}: is a folder; give the kernel image in it"
