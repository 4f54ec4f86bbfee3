"""What people read does without the words of tools/words.toml."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from builders.commands import commands

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))
words: Any = importlib.import_module("words")


def test_no_text_has_them(capsys: pytest.CaptureFixture[str]) -> None:
    found = words.main([])
    assert found == 0, capsys.readouterr().out


def test_help_that_is_split_over_lines_has_none_of_them() -> None:
    for name, command in commands().items():
        for text in (command.help, *(getattr(parameter, "help", None) for parameter in command.params)):
            hits = [
                hit[0]
                for word in words.words()
                for hit in word.avoid.finditer(" ".join((text or "").split()))
            ]
            assert hits == [], name


@pytest.mark.parametrize("word", words.words(), ids=lambda word: word.such_as)
def test_each_word_finds_its_example(word: Any) -> None:
    assert word.avoid.search(word.such_as)
    assert word.instead


def test_python_is_searched_where_people_read_it(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        '"""Docstring."""\n'
        "mended = 1  # comment\n"
        'text = f"message {mended}"\n'
        "def test_a_name() -> None: ...\n"
        "def helper() -> None: ...\n"
    )
    assert list(words.lines(path)) == [
        (1, '"""Docstring."""'),
        (2, "# comment"),
        (3, 'f"message "'),
        (4, "test a name"),
    ]


def test_the_list_covers_docs_help_messages_and_the_man_page() -> None:
    names = {path.relative_to(ROOT).as_posix() for path in words.files()}
    expected = {
        "README.md",
        "docs/cost.md",
        "docs/man/xtrace.1",
        "cli/options.py",
        "analysis/tables/cost.py",
        "run",
    }
    assert expected <= names
