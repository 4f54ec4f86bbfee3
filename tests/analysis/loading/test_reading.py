"""Traces are read in threads: results in order, the first error raised, the rest stopped."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from xtrace.analysis.loading.reading import Started, Update, unseen

CORES = len(os.sched_getaffinity(0))
PATHS = [f"trace-{number}" for number in range(4 * CORES)]


def test_results_are_in_the_order_of_the_paths() -> None:
    last = threading.Event()

    def read(path: str, progress: Callable[[int], None]) -> str:
        if path == PATHS[-1]:
            last.set()
        elif path == PATHS[0] and CORES > 1:
            assert last.wait(60)
        return path.upper()

    assert Started(read, PATHS).result(unseen) == [path.upper() for path in PATHS]
    assert Started(read, []).result(unseen) == []


def test_at_most_one_trace_per_core_is_read_at_a_time() -> None:
    lock = threading.Lock()
    now = most = 0
    all_busy = threading.Barrier(CORES, timeout=60)

    def read(path: str, progress: Callable[[int], None]) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        all_busy.wait()
        with lock:
            now -= 1

    Started(read, PATHS).result(unseen)
    assert most == CORES


def test_an_error_is_raised_where_the_results_are_wanted() -> None:
    def read(path: str, progress: Callable[[int], None]) -> str:
        if path == PATHS[1]:
            raise OSError(f"{path} is gone")
        return path

    with pytest.raises(OSError, match="trace-1 is gone"):
        Started(read, PATHS[:3]).result(unseen)


def test_stopped_reading_ends_at_the_next_progress() -> None:
    begun, ended = threading.Event(), threading.Event()

    def read(path: str, progress: Callable[[int], None]) -> None:
        try:
            for done in range(1 << 40):
                progress(done)
                begun.set()
        finally:
            ended.set()

    started = Started(read, PATHS[:1])
    assert begun.wait(60)
    started.stop()
    assert ended.wait(60)


def test_progress_is_shown_while_the_results_are_waited_for() -> None:
    shown: list[tuple[str, int]] = []
    open_bars: list[Sequence[str]] = []
    may_end = threading.Event()

    @contextmanager
    def bar(paths: Sequence[str]) -> Iterator[Update]:
        open_bars.append(paths)
        may_end.set()
        yield lambda path, done: shown.append((path, done))
        open_bars.clear()

    def read(path: str, progress: Callable[[int], None]) -> None:
        assert may_end.wait(60)
        while not shown:
            progress(7)

    Started(read, ["trace"]).result(bar)
    assert shown[0] == ("trace", 7)
    assert open_bars == []


def test_the_catalogue_is_loaded_before_threads_begin() -> None:
    """Two threads that each import a part of it at once can fail."""
    loaded = "sys.exit('xtrace.probes.catalog.detect' not in sys.modules)"
    check = f"import sys, xtrace.analysis.loading.reading; {loaded}"
    subprocess.run([sys.executable, "-c", check], check=True)
