"""A proxy in front of a store that fails in the middle of an upload: it cuts once, or falls silent."""

from __future__ import annotations

import threading
from typing import Literal

from .forwarding_proxy import ForwardingProxy


class StallingProxy(ForwardingProxy):
    """Forwards everything, until `forward_bytes` bytes in all have gone from clients to the store.

    Then "cut" ends all open connections and forwards new ones as before; "hold" keeps them open and forwards
    nothing more.
    """

    def __init__(self, endpoint_url: str, forward_bytes: int, then: Literal["cut", "hold"]) -> None:
        self._left, self._then = forward_bytes, then
        self.stalled = threading.Event()
        """Set when the limit is reached."""
        super().__init__(endpoint_url)

    def _may_pass(self, data: bytes) -> bool:
        with self._lock:
            self._left -= len(data)
            if self._left > 0:
                return True
            if self.stalled.is_set():
                return self._then == "cut"
            self.stalled.set()
            if self._then == "cut":
                self._close_connections()
            return False
