"""Checkpoints that are published while training goes on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Uploads:
    """One publication at a time, in a thread of its own; the next one waits for it.

    An error comes out where the next publication starts, or at `finish`.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._running: Future[None] | None = None

    def start(self, publish: Callable[[], None]) -> None:
        """Publish in the background.

        Raises:
            Syn2coError: the publication before this one failed.
        """
        self.finish()
        self._running = self._thread.submit(publish)

    def finish(self) -> None:
        """Wait for what is being published.

        Raises:
            Syn2coError: it failed.
        """
        running, self._running = self._running, None
        if running is not None:
            running.result()
