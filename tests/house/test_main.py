"""Only main() prints errors and chooses exit codes."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from builders.commands import commands
from xtrace.cli import main as house
from xtrace.cli.streams import STDOUT
from xtrace.probes.errors import TraceError

Raise = Callable[[BaseException], None]


@pytest.fixture
def command_raises(monkeypatch: pytest.MonkeyPatch) -> Raise:
    """Make every command line raise the given exception."""

    def install(error: BaseException) -> None:
        def run(_arguments: list[str]) -> int:
            raise error

        monkeypatch.setattr(house, "_run", run)

    return install


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (TraceError("x.bin: not a trace"), 1, "xtrace: x.bin: not a trace\n"),
        (TraceError("two\nlines\x1b[2J"), 1, "xtrace: two\\nlines\\x1b[2J\n"),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "x"),
            1,
            "xtrace: x: No such file or directory\n",
        ),
        (OSError("odd"), 1, "xtrace: odd\n"),
        # A broken pipe is a success only on standard output: the reader has what it wanted.
        (BrokenPipeError(errno.EPIPE, "Broken pipe", STDOUT), 0, ""),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 1, "xtrace: Broken pipe\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_an_expected_error_is_one_line(
    command_raises: Raise,
    capfd: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    said: str,
) -> None:
    command_raises(error)
    assert house.main(["report"]) == code
    assert capfd.readouterr() == ("", said)


def test_a_bug_keeps_its_traceback(command_raises: Raise) -> None:
    command_raises(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        house.main(["report"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["reprot"], "(see xtrace --help)"),
        (["--wrong"], "(see xtrace --help)"),
        (["dump", "--wrong"], "(see xtrace dump --help)"),
        (["info"], "(see xtrace info --help)"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_prints_one_line_and_exits_2(
    capfd: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert house.main(arguments) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("xtrace: ")
    assert err.endswith(f"{said}\n")
    assert err.count("\n") == 1


def test_no_command_shows_help_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    assert house.main([]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("Usage: xtrace ")


def test_the_list_of_commands_has_the_beginnings_of_their_help() -> None:
    helps = {name: " ".join(command.help.split()) for name, command in commands().items()}
    assert list(helps) == list(house.COMMANDS)
    assert [
        name for name, text in helps.items() if not text.startswith(house.COMMANDS[name].rstrip("."))
    ] == []


def test_commands_report_unreadable_files_themselves() -> None:
    """Typer would report a file that cannot be read as wrong usage, and only if the user is not root."""
    paths = {
        f"{command} {parameter.name}": parameter.type.readable
        for command, made in commands().items()
        for parameter in made.params
        if hasattr(parameter.type, "readable")
    }
    assert "report files" in paths
    assert [name for name, checked in paths.items() if checked] == []
