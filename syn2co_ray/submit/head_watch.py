"""Say why before Ray ends this process: a driver does not outlive its cluster's head."""

from __future__ import annotations

import os
import socket
import threading
import time

from rich.console import Console

from ..spec.errors import TrainingError

CONNECT_TIMEOUT_S, LOOK_EVERY_S = 2.0, 1.0
RAY_PATIENCE_S = 60.0
"""Ray's default of RAY_gcs_rpc_server_reconnect_timeout_s; then it ends every process without a word."""
BEFORE_RAY_S = 5.0


class HeadWatch:
    """While it is entered, looks whether the head answers; where it has been away for too long, the process
    ends with one error, just before Ray would end it.
    """

    def __init__(self, head: str) -> None:
        self.head = head
        self._left = threading.Event()

    def __enter__(self) -> HeadWatch:
        threading.Thread(target=self._watch, name="head watch", daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._left.set()

    def answers(self) -> bool:
        """Whether somebody accepts connections where the head was."""
        host, _, port = self.head.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
        except OSError:
            return False
        return True

    def lost(self, why: str) -> TrainingError:
        """The error of a head that is gone."""
        return TrainingError(
            f"Ray's head at {self.head}",
            f"does not answer any more ({why})",
            "",
            "see why it or its machine died, start the cluster again, then the same command: it resumes",
        )

    def _watch(self) -> None:
        ray_patience_s = float(os.environ.get("RAY_gcs_rpc_server_reconnect_timeout_s", RAY_PATIENCE_S))
        answered_at = time.monotonic()
        while not self._left.wait(LOOK_EVERY_S):
            if self.answers():
                answered_at = time.monotonic()
            elif time.monotonic() - answered_at > ray_patience_s - BEFORE_RAY_S:
                error = self.lost(f"for {ray_patience_s - BEFORE_RAY_S:.0f} s")
                console = Console(stderr=True)
                console.show_cursor()
                console.print(f"error: {error}", highlight=False, markup=False, soft_wrap=True, style="red")
                os._exit(error.exit_code)
