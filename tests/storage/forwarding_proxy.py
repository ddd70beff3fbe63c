"""A TCP proxy in front of a store, to watch or to disturb what passes."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from urllib.parse import urlsplit

RECEIVE_BYTES = 65536


class ForwardingProxy:
    """Forwards everything; what clients send goes through `_may_pass` first."""

    def __init__(self, endpoint_url: str) -> None:
        parts = urlsplit(endpoint_url)
        self._target = (parts.hostname or "", parts.port or 80)
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint_url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """End all connections and stop listening."""
        self._listener.close()
        with self._lock:
            self._close_connections()

    def _may_pass(self, data: bytes) -> bool:
        """Whether bytes from a client go on to the store; otherwise its connection is left alone."""
        return True

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
            for source, sink, from_client in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._forward, args=(source, sink, from_client), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, from_client: bool) -> None:
        with suppress(OSError):
            while data := source.recv(RECEIVE_BYTES):
                if from_client and not self._may_pass(data):
                    return
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
