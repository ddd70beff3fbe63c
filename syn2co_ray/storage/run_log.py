"""The log of a run: what its driver and each rank say, as JSON lines in the run's folder.

    logs/<driver or rank-00003>-<start, UTC>-<part>.jsonl
    {"time": ..., "level": ..., "run": ..., "process": "driver", "step": 120, "logger": ..., "message": ...}

Only records of this package are kept, without credentials (see `redaction`). Objects cannot be appended to,
so a part is published again as a whole while it grows, every ten seconds and soon after a warning; a process
that is killed loses no more. Publishing has a thread of its own, and a store that fails never stops a run.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from ..spec.errors import Syn2coError
from .filesystem import Store
from .publish import delete, publish_bytes
from .redaction import redacted
from .run_layout import LOGS_FOLDER

PACKAGE = __package__.partition(".")[0]
PUBLISH_EVERY_S, AFTER_A_WARNING_S = 10.0, 1.0
PART_BYTES = 1 << 20
PARTS_KEPT = 10
"""Of one process; older ones are deleted."""


class RunLog(logging.Handler):
    """Keeps records until it knows the run's folder (`publish_into`), and publishes them from then on."""

    def __init__(self, process: str, run: str, *, part_bytes: int = PART_BYTES) -> None:
        super().__init__(logging.INFO)
        self.process, self.run, self.part_bytes = process, run, part_bytes
        self.step: Callable[[], int | None] = lambda: None
        """Steps done so far; None before the first."""
        self._begun = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}"[:-3]
        self._store: Store | None = None
        self._mutex = threading.Lock()
        self._parts: dict[int, list[str]] = {0: []}
        self._bytes = 0
        self._unpublished: set[int] = set()
        self._warned, self._closing = threading.Event(), threading.Event()
        self._failed = False
        self._thread = threading.Thread(target=self._publish_now_and_then, name="run log", daemon=True)

    def publish_into(self, run: Store) -> None:
        """The run's folder is known."""
        self._store = run.child(LOGS_FOLDER)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self._line(record)
        except Exception:
            self.handleError(record)
            return
        with self._mutex:
            number = max(self._parts)
            if self._bytes and self._bytes + len(line) > self.part_bytes:
                number, self._bytes = number + 1, 0
                self._parts[number] = []
                # As many wait in memory as there may be in the folder.
                for old in [part for part in self._parts if part <= number - PARTS_KEPT]:
                    self._parts.pop(old)
                    self._unpublished.discard(old)
            self._parts[number].append(line)
            self._bytes += len(line)
            self._unpublished.add(number)
        if record.levelno >= logging.WARNING:
            self._warned.set()

    def close(self) -> None:
        """Publish what is left."""
        self._closing.set()
        self._warned.set()
        if self._thread.is_alive():
            self._thread.join()
        if not self._failed:
            self._publish()
        super().close()

    def _line(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "run": self.run,
            "process": self.process,
            "step": self.step(),
            "logger": record.name,
            "message": redacted(record.getMessage()),
        }
        if record.exc_info:
            entry["traceback"] = redacted(logging.Formatter().formatException(record.exc_info))
        return json.dumps(entry, ensure_ascii=False) + "\n"

    def _publish_now_and_then(self) -> None:
        while not self._closing.is_set():
            self._warned.wait(PUBLISH_EVERY_S)
            self._closing.wait(AFTER_A_WARNING_S)  # more may follow
            self._warned.clear()
            self._publish()

    def _publish(self) -> None:
        """Everything that is new. What cannot be published now is kept for the next time."""
        with self._mutex:
            waiting = {number: list(self._parts[number]) for number in sorted(self._unpublished)}
        if self._store is None:
            return
        for number, lines in waiting.items():
            try:
                publish_bytes(self._store, self._file(number), "".join(lines).encode())
                if number >= PARTS_KEPT:
                    delete(self._store, self._file(number - PARTS_KEPT))
            except (Syn2coError, OSError):
                # Said by the storage room's own records; training meets the store's fault by itself.
                self._failed = True
                return
            self._failed = False
            with self._mutex:
                if len(self._parts.get(number, ())) == len(lines):
                    self._unpublished.discard(number)
                    if number < max(self._parts):
                        self._parts.pop(number, None)

    def _file(self, number: int) -> str:
        return f"{self.process}-{self._begun}-{number:03d}.jsonl"


@contextlib.contextmanager
def run_log(process: str, run: str, folder: Store | None = None) -> Iterator[RunLog]:
    """Keep this package's records of the block, from INFO on.

    Args:
        process: driver or rank-<number>.
        run: the run's name.
        folder: the run's folder, if it is known already.
    """
    log, logger = RunLog(process, run), logging.getLogger(PACKAGE)
    level = logger.level
    # Python shows warnings where nobody handles them; they are to stay visible.
    shown = None if logger.hasHandlers() else logging.lastResort
    if folder is not None:
        log.publish_into(folder)
    for handler in (log, shown):
        if handler is not None:
            logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield log
    finally:
        logger.setLevel(level)
        for handler in (log, shown):
            if handler is not None:
                logger.removeHandler(handler)
        log.close()
