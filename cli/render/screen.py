"""The screen of `xtrace top`: plain ANSI, restored however the command ends."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator
from typing import TYPE_CHECKING

from xtrace.cli.render.live import KEYS, History, View, row_count, top_block
from xtrace.cli.streams import STDIN
from xtrace.cli.terminal.style import Style, styled
from xtrace.cli.terminal.text import beginning, columns_of

if TYPE_CHECKING:
    from xtrace.cli.live.feed import Watched
    from xtrace.probes.live.periods import Period

_ENTER = "\x1b[?1049h\x1b[?25l"
_LEAVE = "\x1b[?25h\x1b[?1049l"
_HOME, _TO_LINE_END, _TO_END = "\x1b[H", "\x1b[K", "\x1b[J"
#: The terminal shows what is between these at once, if it knows them (synchronised output).
_BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"
_LOOK_S = 0.05
#: What terminals send for keys that are not characters, by the name of the key.
_SEQUENCES = {
    "\x1b[A": "up", "\x1bOA": "up", "\x1b[B": "down", "\x1bOB": "down",
    "\x1b[5~": "page up", "\x1b[6~": "page down",
    "\x1b[H": "home", "\x1b[1~": "home", "\x1bOH": "home",
    "\x1b[F": "end", "\x1b[4~": "end", "\x1bOF": "end",
}  # fmt: skip
#: Any other sequence, which is one key that means nothing.
_UNKNOWN = re.compile(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|O.)?")
_SCROLL = {"up": -1, "k": -1, "down": 1, "j": 1}
_PAGES = {"page up": -1, "page down": 1}
_HELP = (
    "q            quit",
    "space, p     pause, go on",
    "h, ?         this help; any key leaves it",
    "up, down     scroll by a row; also k, j",
    "page up      scroll by a page; also page down",
    "home, end    to the first, the last row; also g, G",
    "d            one row per domain, or per vCPU",
    "",
    "sort by",
    "w wakes      per second",
    "c cpu        share of the period in which it ran",
    "l lag        share of the period in which it waited for a pCPU",
    "r run        p99 from wake to running",
    "u upcalls    per second, at most",
    "t time       p99 of an upcall, at most",
    "f forced     callbacks per second that came while the guest masked them",
    "v vcpu       its number",
)


class Screen:
    """A terminal in use: alternate screen, no echo, keys read one by one."""

    def __init__(self) -> None:
        self._input = sys.stdin.fileno()
        with _told_as_os_error():
            self._mode = termios.tcgetattr(self._input)
        self.resized = False
        self.stop_wanted = False

    def enter(self) -> None:
        """Switch to the alternate screen and read keys unbuffered."""
        with _told_as_os_error():
            tty.setcbreak(self._input)
        self._write(_ENTER)

    def leave(self) -> None:
        """Restore the terminal, if it still exists."""
        with contextlib.suppress(OSError, termios.error):
            self._write(_LEAVE)
            termios.tcsetattr(self._input, termios.TCSADRAIN, self._mode)

    def keys(self, limit_s: float) -> list[str]:
        """Return the keys pressed within ``limit_s``, as soon as there is one; q if the terminal is gone."""
        if self.stop_wanted:
            self._stop()
        if not select.select([self._input], [], [], limit_s)[0]:
            return []
        try:
            return keys_of(os.read(self._input, 64).decode(errors="replace")) or ["q"]
        except OSError:
            return ["q"]

    def draw(self, lines: list[str], headings: range, foot: str) -> None:
        """Draw lines from the top and a footer; cut what does not fit.

        Args:
            headings: the lines in reverse video.
        """
        width, height = shutil.get_terminal_size()
        shown = [beginning(line, width) for line in lines[: height - 1]]
        for place in headings:
            if place < len(shown):
                spaces = " " * (width - columns_of(shown[place]))
                shown[place] = styled(shown[place] + spaces, Style.REVERSE)
        shown += [""] * (height - 1 - len(shown))
        body = "".join(f"{line}{_TO_LINE_END}\r\n" for line in shown)
        self._write(f"{_BEGIN}{_HOME}{body}{beginning(foot, width)}{_TO_END}{_END}")

    def _stop(self) -> None:
        """Give the terminal to the shell until this process is continued."""
        self.stop_wanted = False
        self.leave()
        os.kill(os.getpid(), signal.SIGSTOP)
        self.enter()
        self.resized = True

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


@contextlib.contextmanager
def _told_as_os_error() -> Iterator[None]:
    """Turn termios.error, which is not an OSError, into one, as for any other terminal that is gone."""
    try:
        yield
    except termios.error as error:
        raise OSError(*error.args, STDIN) from None


@contextlib.contextmanager
def taken() -> Iterator[Screen]:
    """Use the screen for the duration of the context; Ctrl-Z gives it to the shell."""
    screen = Screen()

    # Signals may arrive during a write, in which no other write can start: they are only noted.
    def suspend(number: int, frame: object) -> None:
        screen.stop_wanted = True

    def resize(number: int, frame: object) -> None:
        screen.resized = True

    before = [(number, signal.getsignal(number)) for number in (signal.SIGTSTP, signal.SIGWINCH)]
    screen.enter()
    try:
        signal.signal(signal.SIGTSTP, suspend)
        signal.signal(signal.SIGWINCH, resize)
        yield screen
    finally:
        for number, handler in before:
            signal.signal(number, handler)
        screen.leave()


def keys_of(text: str) -> list[str]:
    """Return the keys that a terminal's text stands for."""
    found = []
    while text:
        sequence = next((each for each in _SEQUENCES if text.startswith(each)), "")
        if sequence:
            found.append(_SEQUENCES[sequence])
            text = text[len(sequence) :]
        elif unknown := _UNKNOWN.match(text):
            found.append("")
            text = text[unknown.end() :]
        else:
            found.append(text[0])
            text = text[1:]
    return found


def show(watched: Watched, view: View, count: int | None, pace_s: float | None) -> None:
    """Show each period until q is pressed or ``count`` periods were shown.

    Args:
        watched: the periods to show.
        view: the initial view.
        count: number of refreshes; None is no limit.
        pace_s: seconds that each period of a replay is shown, the last one until q; None for a live trace.
    """
    with taken() as screen:
        display = _Display(screen, watched, view, is_replay=pace_s is not None)
        number = 0
        for period in watched:
            if period is None:
                if not display.wait(0.0):
                    return
                continue
            number += 1
            display.take(period)
            if not display.wait(pace_s or 0.0) or number == count:
                return
        display.end()
        while display.wait(1.0):
            pass


class _Display:
    """What is on the screen, and what keys do to it.

    While it is paused, a replay waits; of a live trace the periods go on and are not drawn.
    """

    def __init__(self, screen: Screen, watched: Watched, view: View, *, is_replay: bool) -> None:
        self._screen = screen
        self._watched = watched
        self._view = view
        self._is_replay = is_replay
        self._period: Period | None = None
        self._latest: Period | None = None
        self._history = History()
        self._first = 0
        self._page = 1
        self._is_paused = self._is_help = self._has_ended = False

    def take(self, period: Period) -> None:
        """Take the next period, and draw it unless the display is paused."""
        self._history.add(period)
        self._latest = period
        if not self._is_paused:
            self._period = period
            self.draw()

    def end(self) -> None:
        """Say that the replay is over; its last period stays."""
        self._has_ended = True
        if self._period is not None:
            self.draw()

    def wait(self, seconds: float) -> bool:
        """Handle keys for a time, and as long as a replay is paused; return whether to go on."""
        until = time.monotonic() + seconds
        while True:
            is_held = self._is_paused and self._is_replay and not self._has_ended
            left = _LOOK_S if is_held else max(until - time.monotonic(), 0.0)
            keys = self._screen.keys(min(_LOOK_S, left))
            if "q" in keys:
                return False
            for key in keys:
                self._press(key)
            if self._period is not None and (keys or self._screen.resized):
                self.draw()
            if not is_held and time.monotonic() >= until:
                return True

    def _press(self, key: str) -> None:
        if self._is_help:
            self._is_help = False
        elif key in ("h", "?"):
            self._is_help = True
        elif key in (" ", "p"):
            self._is_paused = not self._is_paused
            if not self._is_paused:
                self._period = self._latest
        elif key in ("home", "g"):
            self._first = 0
        elif key in ("end", "G"):
            self._first = 1 << 30
        else:
            self._first += _SCROLL.get(key, 0) + _PAGES.get(key, 0) * self._page
            self._view = self._view.pressed(key)

    def draw(self) -> None:
        """Draw the period, with as many rows as fit."""
        period = self._period
        assert period is not None
        self._screen.resized = False
        if self._is_help:
            self._screen.draw(["xtrace top: keys", "", *_HELP], range(1), "any key goes back")
            return
        height = shutil.get_terminal_size().lines
        names = self._watched.feed.names()
        head = top_block(self._watched, period, names, self._view, self._history, 0)
        heading = next(place for place, line in enumerate(head) if line.startswith("vcpu"))
        # Lines below: which rows are shown, what i means, the footer.
        self._page = max(height - heading - 4, 1)
        self._first = max(min(self._first, row_count(period, self._view) - self._page), 0)
        lines = top_block(self._watched, period, names, self._view, self._history, self._page, self._first)
        state = "[paused] " if self._is_paused else "[end of the trace] " if self._has_ended else ""
        self._screen.draw([state + lines[0], *lines[1:]], range(heading - 1, heading + 1), _foot(self._view))


def _foot(view: View) -> str:
    """Return what the keys do, with the current sort key in brackets."""
    sorts = (f"[{name}]" if name == view.sort else name for name in KEYS.values())
    return f"q quit  h help  sort: {' '.join(sorts)}"
