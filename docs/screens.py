"""Capture the screens in docs/screens.md again, in tmux, as a terminal shows them.

python docs/screens.py            all
python docs/screens.py WORD       those of commands with this word

Each screen has a line ``<!-- screen: WIDTH COMMAND -->`` before it; ``keys:`` after the command are sent.
``<!-- colours: WIDTH COMMAND -->`` stands before the lines of a screen that are not plain, with their escape
codes in words; a terminal of 16 colours and one of 256 must show the same.
The screens under "Before" are of the version before this page and stay as they are.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "screens.md"
_BLOCK = re.compile(
    r"(<!-- (screen|colours): (\d+) (.*?)(?: keys: (.*?))? -->\n```text\n).*?(```)", re.DOTALL
)
_HEIGHT = 24
_LIMIT_S = 90.0
#: On the screen once the command has ended, and in no command's output.
_DONE = "screen-is-done"
TERMS = ("xterm", "xterm-256color")
#: The parameters of SGR in words; others stay numbers.
_WORDS = {"1": "bold", "2": "dim", "7": "reverse", "31": "red", "35": "magenta"}
#: Lines of a screen in colours, at most.
_COLOURED = 14


def captured(
    width: int, command: str, keys: str, term: str, *, codes: bool = False, source: Path = ROOT
) -> str:
    """Return what a terminal of ``width`` columns and 24 lines shows after ``command``.

    Args:
        keys: that are pressed, as tmux names them, with spaces between them.
        codes: with the escape codes.
        source: the checkout whose program runs.

    Raises:
        ValueError: the command ended with a traceback.
    """
    with tempfile.TemporaryDirectory() as folder:
        server = str(Path(folder) / "tmux")

        def tmux(*words: str) -> str:
            done = subprocess.run(
                ["tmux", "-S", server, "-f", "/dev/null", *words], check=True, capture_output=True, text=True
            )
            return done.stdout

        def shown(*more: str) -> str:
            return tmux("capture-pane", "-p", *more, "-S", "-")

        xtrace = Path(folder) / "xtrace"
        program = "from xtrace.cli.start import main; main()"
        xtrace.write_text(f"#!/bin/sh\nexec '{sys.executable}' -P -c '{program}' \"$@\"\n")
        xtrace.chmod(0o755)
        ends = f"printf %s {_DONE[:6]}; printf %s {_DONE[6:]}; cat"
        shell = f"cd '{source}'; PATH='{folder}':$PATH TERM={term} {command}; {ends}"
        variables = {name: os.environ[name] for name in ("HOME", "PATH") if name in os.environ}
        variables |= {"LANG": "C.UTF-8", "PYTHONPATH": str(source)}
        plain = [f"{name}={value}" for name, value in variables.items()]
        tmux(
            "new-session", "-d", "-x", str(width), "-y", str(_HEIGHT), "env", "-i", *plain, "sh", "-c", shell
        )
        try:
            _settle(shown, bool(keys))
            for key in keys.split():
                tmux("send-keys", key)
                time.sleep(1.0)
            text = shown("-e") if codes else shown()
        finally:
            tmux("kill-server")
    if "Traceback" in text:
        raise ValueError(f"{command} failed:\n{text}")
    text = text.replace(_DONE, "").replace(f"{source}/", "").rstrip()
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def _settle(look: Callable[[], str], stays: bool) -> None:
    """Wait until the command has ended or, where it stays, its screen is still for two seconds."""
    until, last, since = time.monotonic() + _LIMIT_S, "", time.monotonic()
    while time.monotonic() < until:
        shown = look()
        if _DONE in shown:
            return
        if shown != last:
            last, since = shown, time.monotonic()
        if stays and shown.strip() and time.monotonic() - since > 2:
            return
        time.sleep(0.2)
    raise TimeoutError(f"not still after {_LIMIT_S:g} s:\n{last}")


def coloured(width: int, command: str, keys: str, *, source: Path = ROOT) -> str:
    """Return the lines of a screen that are not plain, with what makes them so in words.

    Raises:
        ValueError: it differs between 16 and 256 colours.
    """
    of_16, of_256 = (
        _styled(captured(width, command, keys, term, codes=True, source=source)) for term in TERMS
    )
    # Figures and so the number of lines may differ from one run to the next.
    if _styles(of_16) != _styles(of_256):
        raise ValueError(f"{command}: the screens in 16 and in 256 colours differ")
    lines = [
        "".join(f"{{{style}}}{text}{{}}" if style else text for style, text in line).rstrip()
        for line in of_16
        if any(style for style, _ in line)
    ]
    if not lines:
        return "every line is plain\n"
    more = [f"[{len(lines) - _COLOURED} more lines]"] if len(lines) > _COLOURED else []
    return "\n".join([*lines[:_COLOURED], *more]) + "\n"


def _styles(lines: list[list[tuple[str, str]]]) -> set[tuple[str, ...]]:
    return {tuple(style for style, _ in line) for line in lines}


def _styled(screen: str) -> list[list[tuple[str, str]]]:
    """Return each line as pieces of (style in words, text); "" is plain."""
    style: list[str] = []
    lines = []
    for line in screen.splitlines():
        pieces: list[tuple[str, str]] = []
        for place, piece in enumerate(re.split(r"\x1b\[([0-9;]*)m", line)):
            if not place % 2:
                text = piece.rstrip() if style != ["reverse"] else piece
                pieces += [(" ".join(style), text)] if text else []
                continue
            for code in piece.split(";"):
                style = _after(style, code)
        lines.append(pieces)
    return lines


def _after(style: list[str], code: str) -> list[str]:
    """Return the style after a parameter of SGR."""
    if code in ("", "0"):
        return []
    if code in ("39", "49"):
        return [word for word in style if word not in ("red", "magenta")]
    return [*style, _WORDS.get(code, code)]


def refreshed(page: str, wanted: str = "") -> str:
    """Return the page with today's screens, of commands with a word."""

    def again(block: re.Match[str]) -> str:
        begin, kind, width, command, keys, end = block.groups()
        if wanted not in command.split() and wanted:
            return block[0]
        if kind == "colours":
            return f"{begin}{coloured(int(width), command, keys or '')}{end}"
        return f"{begin}{captured(int(width), command, keys or '', TERMS[1])}{end}"

    return _BLOCK.sub(again, page)


if __name__ == "__main__":
    PAGE.write_text(refreshed(PAGE.read_text(), *sys.argv[1:2]))
