"""The main thread wakes for a child's change, whichever thread the kernel gave the signal to."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from xtrace.probes.trial.child_changes import ChildChanges

_LONG_S = 20.0


@pytest.fixture
def changes() -> Iterator[ChildChanges]:
    found = ChildChanges()
    yield found
    found.close()


def _slept_s(changes: ChildChanges, seconds: float) -> float:
    begin = time.monotonic()
    changes.sleep(seconds)
    return time.monotonic() - begin


def test_a_signal_that_another_thread_takes_is_not_lost(changes: ChildChanges) -> None:
    end = threading.Event()
    other = threading.Thread(target=end.wait)
    other.start()
    # Only the other thread can take it.
    old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    try:
        os.kill(os.getpid(), signal.SIGCHLD)
        assert _slept_s(changes, _LONG_S) < _LONG_S / 2
        assert _slept_s(changes, 0.01) >= 0.01
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
        end.set()
        other.join()


def test_a_signal_before_the_sleep_ends_it_at_once(changes: ChildChanges) -> None:
    os.kill(os.getpid(), signal.SIGCHLD)
    assert _slept_s(changes, _LONG_S) < _LONG_S / 2


def test_signals_are_handled_as_before_afterwards() -> None:
    before = signal.getsignal(signal.SIGCHLD)
    ChildChanges().close()
    assert signal.getsignal(signal.SIGCHLD) is before
    assert signal.set_wakeup_fd(-1) == -1
