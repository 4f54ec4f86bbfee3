"""The help of each command: one screen, three examples that parse, exit codes; the nearest is suggested."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from builders.commands import commands
from xtrace.cli.help import HELPS
from xtrace.cli.main import COMMANDS, main

LINES, COLUMNS = 23, 80
NAMES = ["", *COMMANDS]


def shown(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 0
    out, err = capfd.readouterr()
    assert err == ""
    return out


@pytest.mark.parametrize("name", NAMES)
def test_it_fits_one_screen(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    lines = shown(capfd, *([name] if name else []), "--help").splitlines()
    assert len(lines) <= LINES
    assert max(map(len, lines)) <= COLUMNS
    assert not any(line.endswith(" ") for line in lines)
    text = " ".join("\n".join(lines).split())
    assert "Exit status: 0 success, 1 failure, 2 wrong usage" in text
    for example in HELPS[name].examples:
        assert example.command in text


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_commands_that_parse(name: str) -> None:
    known: dict[str, Any] = commands()
    for example in HELPS[name].examples:
        words = shlex.split(example.command)
        words = words[words.index("xtrace") + 1 if "xtrace" in words else 2 :]
        assert name in ("", words[0])
        command = known[words[0]]
        rest = words[1:]
        context = command.make_context(words[0], rest)
        assert context.params


@pytest.mark.parametrize("name", [name for name, mine in HELPS.items() if mine.options])
def test_all_options_are_a_step_away(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    briefly, whole = shown(capfd, name, "--help"), shown(capfd, name, "--help-all")
    assert "--help-all" in briefly
    for parameter in commands()[name].params:
        longest = max(parameter.opts, key=len)
        if longest.startswith("--") and not parameter.hidden:
            assert longest in whole
            assert (longest in briefly.split()) == (
                parameter.name in HELPS[name].options
                or any(longest in each.command.split() for each in HELPS[name].examples)
                or longest in HELPS[name].exits.split()
            )


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        (["report", "--sectoin", "way"], "do you mean --section?"),
        (["report", "--section", "hypercals"], "do you mean hypercalls?"),
        (["report", "--fail-on-finding", "wake-latncy"], "do you mean wake-latency?"),
        (["reprt"], "Did you mean 'report'"),
        (["top", "--sort", "wake", "-i", "x"], "do you mean wakes?"),
        (["diff", "a", "b", "--metric", "running-share"], "do you mean running_share"),
    ],
)
def test_the_nearest_is_suggested(
    arguments: list[str], nearest: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert nearest in err


def test_nothing_is_suggested_where_nothing_is_near(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--zebra"]) == 2
    assert "mean" not in capfd.readouterr().err
