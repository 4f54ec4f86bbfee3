"""`xtrace report`: which findings are shown, left out, and make it fail."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from builders.wakes import wakes
from xtrace.cli.main import main


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A trace of a vCPU whose wakes take 2 ms."""
    path: Path = tmp_path_factory.mktemp("findings") / "slow.bin"
    path.write_bytes(wakes(1, wake_cycles=4_000_000))
    return str(path)


def test_only_findings(slow: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--cpu-hz", "2G", "--only-findings", slow]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("! d1v0 wait")
    assert any(line.startswith("* d1v0 wait") for line in lines)
    assert not [line for line in lines if not line.startswith(("*", "!", "  "))]


def test_ignored(slow: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--cpu-hz", "2G", "--json", slow]) == 0
    names = [one["name"] for one in json.loads(capsys.readouterr().out)["findings"]]
    assert "wake-latency" in names
    assert main(["report", "--cpu-hz", "2G", "--json", "--ignore", "wake-latency", slow]) == 0
    left = [one["name"] for one in json.loads(capsys.readouterr().out)["findings"]]
    assert left == [name for name in names if name != "wake-latency"]


@pytest.mark.parametrize(
    ("name", "code"), [("wake-latency", 3), ("problem", 3), ("offline", 0), ("nonsense", 2)]
)
def test_failing(name: str, code: int, slow: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--cpu-hz", "2G", "--fail-on-finding", name, slow]) == code
    shown = capsys.readouterr()
    assert ("The way of an event" in shown.out) == (code != 2)
    assert ("found: " in shown.err) == (code == 3)


def test_an_unknown_name_and_tables_are_wrong_usage(slow: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--ignore", "nonsense", slow]) == 2
    assert "--ignore" in capsys.readouterr().err
    assert main(["report", "--only-findings", "--section", "irqs", slow]) == 2


def test_a_command_names_the_file_as_a_shell_takes_it(slow: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(slow).with_name("it's slow.bin")
    path.write_bytes(Path(slow).read_bytes())
    assert main(["report", "--cpu-hz", "2G", "--only-findings", str(path)]) == 0
    shown = capsys.readouterr().out.replace("\\\n", " ")
    commands = [shlex.split(line) for line in shown.splitlines() if line.startswith("  $ ")]
    assert commands
    assert {words[-1] for words in commands} == {str(path)}
    assert main(["report", "--cpu-hz", "2G", "--only-findings", str(path), slow]) == 0
    assert " FILE\n" in capsys.readouterr().out
