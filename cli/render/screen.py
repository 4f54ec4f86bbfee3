"""The screen of `xtrace top`: plain ANSI, restored however the command ends."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator
from typing import TYPE_CHECKING

from xtrace.cli.render.live import KEYS, View, top_block
from xtrace.cli.streams import STDIN

if TYPE_CHECKING:
    from xtrace.cli.live.feed import Watched
    from xtrace.probes.live.periods import Period

_ENTER = "\x1b[?1049h\x1b[?25l"
_LEAVE = "\x1b[?25h\x1b[?1049l"
_HOME, _TO_LINE_END, _TO_END = "\x1b[H", "\x1b[K", "\x1b[J"
_REVERSE, _PLAIN = "\x1b[7m", "\x1b[0m"
_LOOK_S = 0.05


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

    def keys(self, limit_s: float) -> str:
        """Return the keys pressed within ``limit_s``, as soon as there is one; q if the terminal is gone."""
        if self.stop_wanted:
            self._stop()
        if not select.select([self._input], [], [], limit_s)[0]:
            return ""
        try:
            return os.read(self._input, 64).decode(errors="replace") or "q"
        except OSError:
            return "q"

    def draw(self, lines: list[str], heading: int, foot: str) -> None:
        """Draw lines from the top, line ``heading`` in reverse video, and a footer; cut what does not fit."""
        width, height = shutil.get_terminal_size()
        shown = [line[:width] for line in lines[: height - 1]]
        if 0 <= heading < len(shown):
            style = ("", "") if os.environ.get("NO_COLOR") else (_REVERSE, _PLAIN)
            shown[heading] = f"{style[0]}{shown[heading].ljust(width)[:width]}{style[1]}"
        shown += [""] * (height - 1 - len(shown))
        body = "".join(f"{line}{_TO_LINE_END}\r\n" for line in shown)
        self._write(f"{_HOME}{body}{foot[:width]}{_TO_END}")

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


def show(watched: Watched, view: View, count: int | None, pace_s: float | None) -> None:
    """Show each period until q is pressed or ``count`` periods were shown.

    Args:
        watched: the periods to show.
        view: the initial view.
        count: number of refreshes; None is no limit.
        pace_s: seconds that each period of a replay is shown, the last one until q; None for a live trace.
    """
    with taken() as screen:
        display = _Display(screen, watched, view)
        number = 0
        for period in watched:
            if period is None:
                if not display.wait(0.0):
                    return
                continue
            number += 1
            display.draw(period)
            if not display.wait(pace_s or 0.0) or number == count:
                return
        while display.wait(1.0):
            pass


class _Display:
    def __init__(self, screen: Screen, watched: Watched, view: View) -> None:
        self._screen = screen
        self._watched = watched
        self._view = view
        self._period: Period | None = None

    def wait(self, seconds: float) -> bool:
        """Handle keys for a time; return whether to go on."""
        until = time.monotonic() + seconds
        while True:
            keys = self._screen.keys(min(_LOOK_S, max(until - time.monotonic(), 0.0)))
            before = self._view
            for key in keys:
                self._view = self._view.pressed(key)
            if "q" in keys:
                return False
            if self._period is not None and (self._view is not before or self._screen.resized):
                self.draw(self._period)
            if time.monotonic() >= until:
                return True

    def draw(self, period: Period) -> None:
        """Draw a period, with as many rows as fit."""
        self._period, self._screen.resized = period, False
        height = shutil.get_terminal_size().lines
        names = self._watched.feed.names()
        lines = top_block(self._watched, period, names, self._view, height)
        heading = next(place for place, line in enumerate(lines) if line.startswith("vcpu "))
        # Lines below: how many more rows there are, what i means, the footer.
        lines = top_block(self._watched, period, names, self._view, max(height - heading - 4, 0))
        self._screen.draw(lines, heading, _foot(self._view))


def _foot(view: View) -> str:
    """Return what the keys do, with the current sort key in brackets."""
    sorts = (f"[{key} {name}]" if name == view.sort else f"{key} {name}" for key, name in KEYS.items())
    return f"q quit  d domains  sort: {'  '.join(sorts)}"
