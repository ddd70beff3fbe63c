"""The board: a tiny actor between driver, controller and workers.

Workers post progress and ask what is wished for; the driver reads progress and asks them to stop; the
controller's policies ask for checkpoints and pauses, and note failures. Nothing here is needed to resume a
run.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from typing import Any

import ray
import ray.util

from ..run_metrics import TrainingMetrics
from .wish import Wish

SILENCE_GRACE_S = 3.0
"""Ranks that wait for the same one give up within such a time of each other."""
TOGETHER_WITHIN_S = 10.0
"""Ranks that agreed on a fault all end within this time; a rank that ends alone keeps the others waiting."""


@dataclass(frozen=True)
class Process:
    """Where a rank runs."""

    node_id: str
    host: str
    pid: int


@ray.remote(num_cpus=0)
class Board:
    """Latest progress, marks of the start-up, the starts of the workers, and what is wished for."""

    def __init__(self, run: str, framework: str) -> None:
        self.metrics = TrainingMetrics(run, framework)
        self.metrics.began(time.time())
        self.progress: dict[str, Any] = {}
        self.progress_at = 0.0
        self.evaluations: list[dict[str, Any]] = []
        self.epoch_means: list[dict[str, Any]] = []
        self.warnings: list[str] = []
        self.marks: dict[str, float] = {}
        self.starts: list[dict[str, Any]] = []
        self.newest_checkpoint = 0
        self.wishes: tuple[int, Wish] = (0, Wish.GO_ON)
        self.paused_step: int | None = None
        self.processes: dict[int, Process] = {}
        self._waiting: set[int] = set()
        self._gave_up: set[int] = set()
        self._reason = self._silence = ""
        self._wishes_before = 0
        self._failed_at: float | None = None

    def post(self, progress: dict[str, Any]) -> None:
        if "evaluation" in progress:
            self.evaluations.append(progress["evaluation"])
            self.metrics.evaluated(progress["evaluation"].get("knn", {}))
        elif "epoch_means" in progress:
            self.epoch_means.append(progress["epoch_means"])
        elif "warning" in progress:
            self.warnings.append(progress["warning"])
        elif "checkpoint" in progress:
            self.newest_checkpoint = progress["checkpoint"]
            self.metrics.checkpointed(time.time())
        else:
            self.progress, self.progress_at = progress, time.time()
            self.metrics.stepped(progress, self.progress_at)
            if self.starts and self.starts[-1]["first_step_at"] is None:
                self.starts[-1] |= {"first_step_at": self.progress_at, "workers": progress["workers"]}

    def end(self) -> None:
        """The run is over."""
        self.metrics.end()

    def mark(self, name: str, at_unix_s: float) -> None:
        """When a stage of the start-up ended, the first time it did."""
        self.marks.setdefault(name, at_unix_s)

    def begin(self, first_step: int) -> None:
        """A (re)start of the workers continues from this step."""
        if self.starts:
            self.metrics.restarted()
        self.starts.append(
            {
                "first_step": first_step,
                "reason": self._reason,
                "last_step_before": self.progress.get("step", first_step),
                "last_step_before_at": self.progress_at or None,
                "failed_at": self._failed_at,
                "first_step_at": None,
                "workers": None,
            }
        )
        self._reason, self._failed_at = "", None
        self.processes, self._waiting, self._gave_up, self._silence = {}, set(), set(), ""
        self.go_on()
        self._wishes_before = self.wishes[0]

    def joined(self, rank: int, process: Process) -> None:
        """Where a rank of the present start runs."""
        self.processes[rank] = process

    def process_of(self, rank: int) -> Process | None:
        """Where a rank runs, None before it joined."""
        return self.processes.get(rank)

    def gave_up(self, rank: int) -> int:
        """A rank ends with an error of ours; how many of the present start do so far."""
        self._gave_up.add(rank)
        return len(self._gave_up)

    def waited_in_vain(self, rank: int) -> None:
        """A rank has given up waiting for others."""
        self._waiting.add(rank)

    def silent(self, timeout_s: float) -> str:
        """Which ranks did not answer while others waited, in words; the restart that follows says so too."""
        silent = [
            f"rank {rank} (process {process.pid} on {process.host})"
            for rank, process in sorted(self.processes.items())
            if rank not in self._waiting
        ]
        # All of them wait when only a message was lost.
        who = ", ".join(silent) or "no rank"
        self._silence = f"{who} answered the others within {timeout_s:g} s"
        if silent:
            self._silence = f"{who} did not answer the others within {timeout_s:g} s"
        return self._silence

    def position(self) -> int:
        return self.starts[-1]["first_step"] if self.starts else 0

    def failed(self, reason: str) -> None:
        """The workers will start again because of this."""
        self._reason, self._failed_at = self._silence or reason, time.time()

    def ask(self, wish: Wish, reason: str = "") -> None:
        """Wish for something; a stop is never taken back by another wish."""
        number, before = self.wishes
        if before is not Wish.STOP:
            self.wishes = (number + 1, wish)
            self._reason = reason or self._reason

    def go_on(self) -> None:
        """Forget a wish for a pause; workers that wait in one continue."""
        self.paused_step = None
        if self.wishes[1] is Wish.PAUSE:
            self.wishes, self._reason = (self.wishes[0] + 1, Wish.GO_ON), ""

    def wished(self) -> tuple[int, Wish]:
        """Number and kind of the newest wish."""
        return self.wishes

    def wishes_before(self) -> int:
        """Number of the newest wish when the workers were (re)started: it concerned those before them."""
        return self._wishes_before

    def pause(self, step: int) -> None:
        """The workers have published their state after this step, and wait."""
        if self.wishes[1] is Wish.PAUSE:
            self.paused_step = step

    def paused_at(self) -> int | None:
        return self.paused_step

    def pause_is_over(self) -> bool:
        return self.wishes[1] is not Wish.PAUSE

    def checkpointed(self) -> int:
        """Step of the newest checkpoint of this driver's time, 0 without one."""
        return self.newest_checkpoint

    def look(self) -> dict[str, Any]:
        """Everything the driver shows."""
        return {
            "progress": self.progress,
            "evaluations": self.evaluations,
            "epoch_means": self.epoch_means,
            "warnings": self.warnings,
            "marks": self.marks,
            "starts": self.starts,
        }


class BoardClient:
    """A worker's side of the board. `show` and `wish` never wait, and are rank 0's alone."""

    def __init__(self, board: Any, period_s: float = 0.2) -> None:
        self.board, self.period_s = board, period_s
        self._posted_at = 0.0
        self._withheld: dict[str, Any] | None = None
        self._showing = threading.Lock()
        self._asked_at = 0.0
        self._pending: Any = None
        # A wish of the time since, in which torch was imported, is for this worker.
        self._seen = ray.get(self.board.wishes_before.remote())
        self._stop = ray.get(self.board.wished.remote())[1] is Wish.STOP

    def joined(self, rank: int) -> None:
        """Say where this rank runs."""
        node_id, host = ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()
        self.board.joined.remote(rank, Process(node_id, host, os.getpid()))

    def all_gave_up(self, rank: int, world_size: int) -> bool:
        """Say that this rank ends with an error; whether all of them do, after a while at most."""
        until = time.monotonic() + TOGETHER_WITHIN_S
        while ray.get(self.board.gave_up.remote(rank)) < world_size:
            if time.monotonic() > until:
                return False
            time.sleep(self.period_s)
        return True

    def waited_in_vain(self, rank: int, timeout_s: float) -> str:
        """Say that a collective timed out here, and learn in words which ranks did not come to it."""
        ray.get(self.board.waited_in_vain.remote(rank))
        time.sleep(SILENCE_GRACE_S)
        return ray.get(self.board.silent.remote(timeout_s))

    def show(self, progress: dict[str, Any]) -> None:
        """Post progress; steps are thinned to one a period, the last one and all else pass.

        The newest step is never kept for longer than a period: the next one may wait for images that a live
        source only makes once it knows of this one.
        """
        if "step" not in progress:
            self.board.post.remote(progress)
            return
        with self._showing:
            due_in_s = self._posted_at + self.period_s - time.monotonic()
            if due_in_s <= 0 or progress["step"] == progress["total_steps"]:
                self._post_step(progress)
                return
            if self._withheld is None:
                timer = threading.Timer(due_in_s, self._post_withheld)
                timer.daemon = True
                timer.start()
            self._withheld = progress

    def _post_step(self, progress: dict[str, Any]) -> None:
        self._posted_at, self._withheld = time.monotonic(), None
        self.board.post.remote(progress)

    def _post_withheld(self) -> None:
        with self._showing:
            if self._withheld is not None:
                self._post_step(self._withheld)

    def wish(self) -> Wish:
        """What is wished for, as of the newest answer that has arrived; each wish but a stop only once."""
        if self._stop:
            return Wish.STOP
        if self._pending is None:
            if time.monotonic() - self._asked_at >= self.period_s:
                self._asked_at = time.monotonic()
                self._pending = self.board.wished.remote()
            return Wish.GO_ON
        ready, _ = ray.wait([self._pending], timeout=0)
        if not ready:
            return Wish.GO_ON
        number, wish = ray.get(self._pending)
        self._pending = None
        self._stop = wish is Wish.STOP
        new = number != self._seen
        self._seen = number
        return wish if new or self._stop else Wish.GO_ON

    def pause(self, step: int, rank: int) -> None:
        """Say (rank 0) that the state is published, and wait until it is over, or this process is ended."""
        if rank == 0:
            ray.get(self.board.pause.remote(step))
        while not ray.get(self.board.pause_is_over.remote()):
            time.sleep(self.period_s)
