"""Capture the screens in docs/screens.md again, in tmux, as a terminal shows them.

python docs/screens.py            writes docs/screens.md
python docs/screens.py FOLDER     also keeps the escape codes, one file per screen

Each screen has a line ``<!-- screen: WIDTH COMMAND -->`` before it; ``keys:`` after the command are sent.
The screens under "Before" are of the version before this page and stay as they are.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "screens.md"
_BLOCK = re.compile(r"(<!-- screen: (\d+) (.*?)(?: keys: (.*?))? -->\n```text\n).*?(```)", re.DOTALL)
_HEIGHT = 24
_LIMIT_S = 90.0
#: On the screen once the command has ended, and in no command's output.
_DONE = "screen-is-done"


def captured(width: int, command: str, keys: str, term: str, *, codes: bool = False) -> str:
    """Return what a terminal of ``width`` columns and 24 lines shows after ``command``."""
    with tempfile.TemporaryDirectory() as folder:
        server = str(Path(folder) / "tmux")

        def tmux(*words: str) -> str:
            done = subprocess.run(
                ["tmux", "-S", server, "-f", "/dev/null", *words], check=True, capture_output=True, text=True
            )
            return done.stdout

        xtrace = Path(folder) / "xtrace"
        program = "from xtrace.cli.start import main; main()"
        xtrace.write_text(f"#!/bin/sh\nexec '{sys.executable}' -P -c '{program}' \"$@\"\n")
        xtrace.chmod(0o755)
        ends = f"printf %s {_DONE[:6]}; printf %s {_DONE[6:]}; cat"
        shell = f"cd '{ROOT}'; PATH='{folder}':$PATH TERM={term} {command}; {ends}"
        variables = {name: os.environ[name] for name in ("HOME", "PATH") if name in os.environ}
        plain = [f"{name}={value}" for name, value in {**variables, "LANG": "C.UTF-8"}.items()]
        tmux(
            "new-session", "-d", "-x", str(width), "-y", str(_HEIGHT), "env", "-i", *plain, "sh", "-c", shell
        )
        try:
            shown = _settled(lambda: tmux("capture-pane", "-p", "-S", "-"), bool(keys))
            for key in keys.split():
                tmux("send-keys", key)
                time.sleep(1.0)
            if keys:
                shown = tmux("capture-pane", "-p", "-S", "-")
            if codes:
                return tmux("capture-pane", "-p", "-e", "-S", "-")
        finally:
            tmux("kill-server")
    lines = [line.rstrip() for line in shown.replace(_DONE, "").replace(f"{ROOT}/", "").rstrip().splitlines()]
    return "\n".join(lines) + "\n"


def _settled(look: object, stays: bool) -> str:
    """Return the screen once the command has ended or, where it stays, is still for two seconds."""
    assert callable(look)
    until, last, since = time.monotonic() + _LIMIT_S, "", time.monotonic()
    while time.monotonic() < until:
        shown: str = look()
        if _DONE in shown:
            return shown
        if shown != last:
            last, since = shown, time.monotonic()
        if stays and shown.strip() and time.monotonic() - since > 2:
            return shown
        time.sleep(0.2)
    return last


def refreshed(page: str, keep: Path | None = None) -> str:
    """Return the page with today's screens; ``keep``: a folder for those with escape codes."""
    number = 0

    def again(block: re.Match[str]) -> str:
        nonlocal number
        number += 1
        width, command, keys = int(block[2]), block[3], block[4] or ""
        if keep is not None:
            for term in ("xterm", "xterm-256color"):
                shown = captured(width, command, keys, term, codes=True)
                (keep / f"{number:02}-{width}-{term}.txt").write_text(f"$ {command}\n{shown}")
        return f"{block[1]}{captured(width, command, keys, 'xterm-256color')}{block[5]}"

    return _BLOCK.sub(again, page)


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(refreshed(PAGE.read_text(), folder))
