"""The manual page has the options that the commands have, and no others."""

from __future__ import annotations

import re
from pathlib import Path

from builders.commands import commands

PAGE = Path(__file__).parents[2] / "docs" / "man" / "xtrace.1"
#: Of each command, without a line of its own.
EVERYWHERE = {"--help", "-h", "--version"}
#: The page shows how to switch off what is on by default.
ON_BY_DEFAULT = {"--lines", "--keep"}


def of_the_commands() -> set[str]:
    return {
        option
        for command in commands().values()
        for parameter in command.params
        if not getattr(parameter, "hidden", False)
        for option in (*parameter.opts, *parameter.secondary_opts)
        if option.startswith("-")
    }


def of_the_page() -> set[str]:
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith(".It ")]
    return {f"-{name}" for line in lines for name in re.findall(r"\bFl (-?[a-zA-Z][a-z-]*)", line)}


def test_the_page_has_every_option() -> None:
    assert of_the_commands() - of_the_page() - EVERYWHERE - ON_BY_DEFAULT == set()


def test_the_page_has_no_option_that_is_gone() -> None:
    assert of_the_page() - of_the_commands() == set()


def test_the_page_names_every_command() -> None:
    named = set(re.findall(r"^\.It Cm (\w+)$", PAGE.read_text(), re.MULTILINE))
    assert set(commands()) <= named
