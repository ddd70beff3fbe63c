"""The board: a tiny actor between the driver and the workers.

Workers post progress and ask whether to stop; the driver reads progress and asks them to stop. Nothing
here is needed to resume a run.
"""

from __future__ import annotations

import time
from typing import Any

import ray


@ray.remote(num_cpus=0)
class Board:
    """Latest progress, marks of the start-up, the position of the present start, and the stop flag."""

    def __init__(self) -> None:
        self.progress: dict[str, Any] = {}
        self.evaluations: list[dict[str, Any]] = []
        self.warnings: list[str] = []
        self.marks: dict[str, float] = {}
        self.first_step = 0
        self.stop = False

    def post(self, progress: dict[str, Any]) -> None:
        if "evaluation" in progress:
            self.evaluations.append(progress["evaluation"])
        elif "warning" in progress:
            self.warnings.append(progress["warning"])
        else:
            self.progress = progress

    def mark(self, name: str, at_unix_s: float) -> None:
        """When a stage of the start-up ended, the first time it did."""
        self.marks.setdefault(name, at_unix_s)

    def begin(self, first_step: int) -> None:
        """A (re)start of the workers continues from this step."""
        self.first_step = first_step

    def position(self) -> int:
        return self.first_step

    def ask_to_stop(self) -> None:
        self.stop = True

    def stop_asked(self) -> bool:
        return self.stop

    def look(self) -> dict[str, Any]:
        """Everything the driver shows."""
        return {
            "progress": self.progress,
            "evaluations": self.evaluations,
            "warnings": self.warnings,
            "marks": self.marks,
        }


class BoardClient:
    """Rank 0's side of the board: never waits."""

    def __init__(self, board: Any, period_s: float = 0.2) -> None:
        self.board, self.period_s = board, period_s
        self._posted_at = 0.0
        self._asked_at = 0.0
        self._pending: Any = None

    def mark(self, name: str) -> None:
        """Note when a stage of the start-up ended."""
        self.board.mark.remote(name, time.time())

    def show(self, progress: dict[str, Any]) -> None:
        """Post progress; steps are thinned to one a period, all else passes."""
        now = time.monotonic()
        if "step" not in progress or now - self._posted_at >= self.period_s:
            self._posted_at = now
            self.board.post.remote(progress)

    def stop_requested(self) -> bool:
        """Whether a stop was asked for, as of the newest answer that has arrived."""
        if self._pending is None:
            if time.monotonic() - self._asked_at >= self.period_s:
                self._asked_at = time.monotonic()
                self._pending = self.board.stop_asked.remote()
            return False
        ready, _ = ray.wait([self._pending], timeout=0)
        if not ready:
            return False
        answer = ray.get(self._pending)
        self._pending = None
        return bool(answer)
