"""Find the words that `words.toml` lists: in docs, the man page, strings, comments and test names."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_LIST = Path(__file__).with_suffix(".toml")
#: Files that quote the words themselves.
_QUOTES = {"tools/words.toml", "tests/house/test_words.py"}
_TEXT = {".md", ".1", ".sh", ".c", ".h", ".S", ".toml"}
_NAMELESS = {"run", "Makefile", ".ci/run"}
#: Recorded files, and the licence.
_LEFT_OUT = ("samples/", "LICENSE")
_F_STRING = re.compile(r"[rb]?f[rb]?[\"']", re.IGNORECASE)
#: Pages whose code spans are lines of the source.
_QUOTE_CODE = {"mutants.md"}
_CODE_SPAN = re.compile(r"`[^`\n]*`")
_FIELD = re.compile(r"\{[^{}\n]*\}")


@dataclass(frozen=True, slots=True)
class Word:
    """A word to do without, and what to write."""

    avoid: re.Pattern[str]
    instead: str
    such_as: str


def words() -> list[Word]:
    """Return the list."""
    rows = tomllib.loads(_LIST.read_text())["word"]
    return [Word(re.compile(row["avoid"], re.IGNORECASE), row["instead"], row["such_as"]) for row in rows]


def files() -> Iterator[Path]:
    """Yield the files of the checkout that people read."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in listed.stdout.split("\0"):
        path = ROOT / name
        readable = path.suffix == ".py" or path.suffix in _TEXT or name in _NAMELESS
        if readable and name not in _QUOTES and not name.startswith(_LEFT_OUT) and path.is_file():
            yield path


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield each line's number and text: of Python its strings, its comments and the names of tests."""
    text = path.read_text()
    if path.suffix != ".py":
        text = _CODE_SPAN.sub("", text) if path.name in _QUOTE_CODE else text
        yield from enumerate(text.splitlines(), 1)
        return
    strings = {tokenize.STRING, tokenize.COMMENT}
    if sys.version_info >= (3, 12):
        strings.add(tokenize.FSTRING_MIDDLE)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in strings:
            # Until Python 3.12 an f-string is one token, with the names in its braces.
            text = _FIELD.sub("", token.string) if _F_STRING.match(token.string) else token.string
            yield from enumerate(text.splitlines(), token.start[0])
        elif token.type == tokenize.NAME and token.string.startswith(("test_", "Test")):
            yield token.start[0], token.string.replace("_", " ")


def main(names: list[str]) -> int:
    """Print each finding in the files named, or in all; return 1 where there is one."""
    listed = words()
    found = 0
    for path in [Path(name).resolve() for name in names] or files():
        for number, text in lines(path):
            for word in listed:
                for hit in word.avoid.finditer(text):
                    found += 1
                    print(f"{path.relative_to(ROOT)}:{number}: {hit[0]!r}: {word.instead}")  # noqa: T201
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
