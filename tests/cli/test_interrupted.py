"""Ctrl-C on a terminal: a command that reads or measures ends at once, with 130 and no traceback."""

from __future__ import annotations

import lzma
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fcntl import ioctl
from typing import NamedTuple

import pytest

from builders.reported import SAMPLES

PROGRAM = "from xtrace.cli.start import main; main()"
(PV,) = (path for path in SAMPLES if "pv-all" in path.name)
#: It takes some 20 ms; the machine may be busy.
AT_ONCE_S = 2.0
#: A pipe is read on for so long, because Ctrl-C reaches the program that writes to it as well.
DRAIN_S = 0.5
LIMIT_S = 60.0
_SHOW_CURSOR, _HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"


class Ended(NamedTuple):
    """How a command ended.

    Attributes:
        after_s: seconds from Ctrl-C to its end.
        shown: what it wrote on the terminal.
    """

    code: int
    after_s: float
    shown: str


@contextmanager
def endless() -> Iterator[int]:
    """Yield the end of a pipe from which a trace comes that never ends, as fast as it is read."""
    out, into = os.pipe()
    data = lzma.decompress(PV.read_bytes())

    def feed() -> None:
        with suppress(BrokenPipeError), open(into, "wb") as file:
            while True:
                file.write(data)

    feeding = threading.Thread(target=feed)
    feeding.start()
    try:
        yield out
    finally:
        os.close(out)
        feeding.join()


def interrupted(arguments: list[str], stdin: int, *, until: str = "", after_s: float = 0.0) -> Ended:
    """Run a command on a terminal and press Ctrl-C there.

    Args:
        until: when this was shown.
        after_s: or when so many seconds have passed.
    """
    parent, child = pty.openpty()
    ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))

    def take_terminal() -> None:
        os.setsid()
        ioctl(1, termios.TIOCSCTTY, 0)

    running = subprocess.Popen(
        [sys.executable, "-P", "-c", PROGRAM, *arguments],
        stdin=stdin or child, stdout=child, stderr=child, preexec_fn=take_terminal,
        env={**os.environ, "TERM": "xterm-256color"},
    )  # fmt: skip
    os.close(child)
    shown, began, pressed = b"", time.monotonic(), 0.0
    try:
        while time.monotonic() - began < LIMIT_S:
            is_due = until.encode() in shown if until else time.monotonic() - began >= after_s
            if is_due and not pressed:
                os.write(parent, b"\x03")
                pressed = time.monotonic()
            if select.select([parent], [], [], 0.01)[0]:
                shown += os.read(parent, 1 << 16)
    except OSError:  # EIO: it has ended
        pass
    finally:
        os.close(parent)
        running.kill()  # does nothing to one that has ended
    code = running.wait(LIMIT_S)
    return Ended(code, time.monotonic() - pressed, shown.decode(errors="replace"))


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("report --no-pager -", "vCPUs"),
        ("report --json -", '"schema_version"'),
        ("report --html - -", "</html>"),
    ],
)
def test_a_long_read_ends_with_the_report_of_what_came(words: str, shown: str) -> None:
    with endless() as trace:
        ended = interrupted(words.split(), trace, until="MB so far")  # the progress, after a second
    assert (ended.code, "Traceback" in ended.shown) == (130, False)
    assert "interrupted: the report is of what came until then" in ended.shown
    assert shown in ended.shown
    assert ended.after_s < AT_ONCE_S + DRAIN_S
    # Of the terminal's own 16 colours only, and afterwards it is as it was.
    assert not re.search(r"\x1b\[[0-9;]*[34]8;", ended.shown)
    assert ended.shown.count(_HIDE_CURSOR) == ended.shown.count(_SHOW_CURSOR)


def test_a_dump_ends_at_once() -> None:
    with endless() as trace:
        ended = interrupted(["dump", "-"], trace, until="pv_hypercall")
    assert (ended.code, "Traceback" in ended.shown) == (130, False)
    assert ended.after_s < AT_ONCE_S


def test_a_measurement_ends_at_once() -> None:
    ended = interrupted(["calibrate"], 0, until="measuring")
    assert (ended.code, "Traceback" in ended.shown) == (130, False)
    assert ended.after_s < AT_ONCE_S
    assert ended.shown.count(_HIDE_CURSOR) == ended.shown.count(_SHOW_CURSOR)


@pytest.mark.parametrize("after_s", [0.08, 0.12, 0.16, 0.2, 0.25])
def test_also_while_modules_are_imported(after_s: float) -> None:
    with endless() as trace:
        ended = interrupted(["report", "--no-pager", "-"], trace, after_s=after_s)
    # Before xtrace's first line runs, Python itself ends as it does.
    if ended.code != -2:
        assert (ended.code, "Traceback" in ended.shown) == (130, False)
    assert ended.after_s < AT_ONCE_S
