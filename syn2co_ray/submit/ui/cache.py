"""Answers that are kept for a while, so that a page that refreshes itself does not ask a store each time."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

Value = TypeVar("Value")


class Cache:
    """Values by key, the oldest go first; a value that several ask for at once is made once."""

    def __init__(self, entries_max: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._entries_max, self._clock = entries_max, clock
        self._values: OrderedDict[Hashable, tuple[float, Any]] = OrderedDict()
        self._making: dict[Hashable, threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, seconds: float, make: Callable[[], Value]) -> Value:
        """The value of `key`, made by `make` unless there is one younger than `seconds`.

        An error of `make` is not kept.
        """
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        with making:
            with self._lock:
                kept = self._values.get(key)
            if kept is not None and self._clock() - kept[0] < seconds:
                return kept[1]
            try:
                value = make()
            finally:
                with self._lock:
                    self._making.pop(key, None)
            with self._lock:
                self._values[key] = (self._clock(), value)
                self._values.move_to_end(key)
                while len(self._values) > self._entries_max:
                    self._values.popitem(last=False)
            return value
