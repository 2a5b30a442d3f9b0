"""The bound on the end of a run by a signal, which holds also while the main thread runs no Python code."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from typing import NoReturn

from sb3_nigt.errors import EXIT_CODE

TOGETHER_SECONDS = 1.0  # launchers pass signals on that their processes get as well: those within this time are one request


class Watchdog:
    """
    A thread that ends the process: at the second signal at once, and some seconds after the first one in any case.

    It reads the numbers of signals from Python's wakeup descriptor, and passes them on to the one who had that before.

    :param signals: the signals that count
    :param grace: seconds from the first signal to the end
    """

    def __init__(self, signals: set[signal.Signals], grace: float) -> None:
        self._signals, self._grace = signals, grace
        self._read, self._write = socket.socketpair()
        self._write.setblocking(False)
        self._others = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, name="sb3_nigt-watchdog", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        first = None
        while numbers := self._wait(first):
            if self._others != -1:
                os.write(self._others, numbers)
            now = time.monotonic()
            if first is not None and now - first > TOGETHER_SECONDS and self._signals & set(numbers):
                _end("second signal received")
            if first is None and self._signals & set(numbers):
                first = now

    def _wait(self, first: float | None) -> bytes:
        """Wait for signals; empty when it is over."""
        self._read.settimeout(None if first is None else max(1e-3, first + self._grace - time.monotonic()))
        try:
            return self._read.recv(64)
        except TimeoutError:
            _end(f"the run has not ended within {self._grace:g} s after a signal")

    def close(self) -> None:
        """Give the descriptor back, and end the thread."""
        signal.set_wakeup_fd(self._others)
        self._write.close()
        self._thread.join()
        self._read.close()


def _end(reason: str) -> NoReturn:
    os.write(2, f"sb3_nigt: {reason}; exiting immediately.\n".encode())
    os._exit(EXIT_CODE)
