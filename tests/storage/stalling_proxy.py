"""A TCP proxy in front of a store that fails in the middle of an upload: it cuts once, or falls silent."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Literal
from urllib.parse import urlsplit


class StallingProxy:
    """Forwards everything, until `forward_bytes` bytes in all have gone from clients to the store.

    Then "cut" ends all open connections and forwards new ones as before; "hold" keeps them open and forwards
    nothing more.
    """

    def __init__(self, endpoint_url: str, forward_bytes: int, then: Literal["cut", "hold"]) -> None:
        parts = urlsplit(endpoint_url)
        self._target = (parts.hostname or "", parts.port or 80)
        self._left, self._then = forward_bytes, then
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self.stalled = threading.Event()
        """Set when the limit is reached."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint_url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """End all connections and stop listening."""
        self._listener.close()
        with self._lock:
            self._close_connections()

    def _close_connections(self) -> None:
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._sockets.clear()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            with self._lock:
                self._sockets += [client, server]
            for source, sink, counted in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._forward, args=(source, sink, counted), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if counted and not self._may_pass(len(data)):
                    return
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def _may_pass(self, count: int) -> bool:
        with self._lock:
            self._left -= count
            if self._left > 0:
                return True
            if self.stalled.is_set():
                return self._then == "cut"
            self.stalled.set()
            if self._then == "cut":
                self._close_connections()
            return False
