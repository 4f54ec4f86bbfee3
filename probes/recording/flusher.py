"""Flush a capture to disk while it is being recorded."""

from __future__ import annotations

import threading

from xtrace.probes.capture.stream import CaptureFullError
from xtrace.probes.capture.writer import CaptureWriter

_SECOND_S = 1.0


class Flusher:
    """Flushes the capture once a second in a thread, so that writers do not wait for the disk."""

    def __init__(self, capture: CaptureWriter) -> None:
        self._capture = capture
        self._ending = threading.Event()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="flush", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise the error of the thread's flush, if it had one.

        Raises:
            CaptureFullError: the disk had no room for data that it had accepted.
        """
        if self._error is not None:
            raise CaptureFullError(f"{self._capture.directory}: {self._error.strerror}")

    def stop(self) -> None:
        """End the thread; what was written since its last flush is not flushed."""
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ending.wait(_SECOND_S):
            try:
                self._capture.flush()
            except OSError as error:
                self._error = error
                return
