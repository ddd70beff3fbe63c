"""Ctrl-C and SIGTERM as a wish that a run looks at when it suits it."""

from __future__ import annotations

import signal
import threading
from typing import Any


class StopSignals:
    """SIGINT and SIGTERM set `asked`; a second one stops at once, as it would without us."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        self.listen()
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def listen(self) -> None:
        """Take the signals, again after `ray.init`: it puts a handler for SIGTERM that ends the process."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            before = signal.signal(number, self._handle)
            self._before.setdefault(number, before)

    def _handle(self, number: int, frame: Any) -> None:
        if self.asked.is_set():
            raise KeyboardInterrupt
        self.asked.set()
