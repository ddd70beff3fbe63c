"""A training's metrics to TensorBoard, MLflow and Weights & Biases, without ever holding it up.

The run's folder is the truth. Trackers get the steps that the driver sees, a few each second, and every
evaluation. Each has a bounded queue and a thread: a server that is away is tried again while rows wait, what
does not fit is dropped and counted, and one line says so. What a tracker calls the run is kept in the run's
folder, so that a resumed run goes on in the same one, from the first step that it does not have.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from ..spec.job import TrainingSpec
from ..storage.run_layout import TRACK_FILE
from ..train.run_folder import RunFolder
from .tracker_sinks import Known, Row, Sink, sinks_of

ROWS_MAX = 10_000
"""Rows that wait for one tracker."""
FLUSH_EVERY_S = 2.0
TRY_AGAIN_AFTER_S = (1.0, 30.0)
"""After the first failure in a row, and at most."""
CLOSE_S = 15.0
"""How long the end of a run waits for its trackers."""
STEP_FIELDS = (
    "epoch",
    "loss",
    "learning_rate",
    "momentum",
    "gradient_norm",
    "images_per_s",
    "data_wait_share",
    "step_time_s",
    "workers",
)


class Trackers:
    """All trackers that a job asks for; none costs nothing."""

    def __init__(self, job: TrainingSpec, run: RunFolder, tell: Callable[[str], None]) -> None:
        notes = _Notes(run)
        self._trackers = [_Tracker(sink, notes, tell) for sink in sinks_of(job, run.store)]
        self._step, self._evaluations, self._status = -1, 0, "failed"
        self._evaluated: set[int] = set()

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, *exc: object) -> None:
        for tracker in self._trackers:
            tracker.ask_to_close(self._status)
        until = time.monotonic() + CLOSE_S
        for tracker in self._trackers:
            tracker.wait_closed(until)

    def see(self, seen: dict[str, Any]) -> None:
        """Take what is new of `WorkersRun.look`; returns at once."""
        progress = seen["progress"]
        rows: dict[int, dict[str, float]] = {}
        if progress and progress["step"] > self._step:
            self._step = progress["step"]
            rows[self._step] = step_values(progress)
        for evaluation in seen["evaluations"][self._evaluations :]:
            step = evaluation["step"]
            # Workers that had to start again do some steps and evaluations again, identically.
            if step not in self._evaluated:
                self._evaluated.add(step)
                figures = {f"knn/{k}": float(value) for k, value in evaluation["knn"].items()}
                rows[step] = rows.get(step, {}) | figures
        self._evaluations = len(seen["evaluations"])
        self._put(rows)

    def finished(self, results: dict[str, Any]) -> None:
        """Take how the run ended, and what its features are worth."""
        self._status = results["status"]
        figures: dict[str, float] = {}
        for row in results["rows"]:
            name = row["features"].replace(" ", "_")
            figures |= {f"final/{name}/knn_{k}": value for k, value in row["knn_top1_percent"].items()}
            if row.get("linear_top1_percent") is not None:
                figures[f"final/{name}/linear"] = row["linear_top1_percent"]
        # After the last step's own row: no tracker takes a step twice.
        self._put({results["steps"] + 1: figures} if figures else {})

    def _put(self, rows: dict[int, dict[str, float]]) -> None:
        now = time.time()
        for step in sorted(rows):
            for tracker in self._trackers:
                tracker.put(Row(step, now, rows[step]))


def step_values(progress: dict[str, Any]) -> dict[str, float]:
    """Numbers of a step's row by name, its telemetry among them; what is not finite is left out."""
    named = {name: progress.get(name) for name in STEP_FIELDS} | progress.get("stats", {})
    named["skipped"] = float(progress.get("skipped", False))
    return {name: float(v) for name, v in named.items() if v is not None and math.isfinite(v)}


class _Notes:
    """`track.json`: what each tracker calls the run, and how far it is."""

    def __init__(self, run: RunFolder) -> None:
        self._run, self._lock = run, threading.Lock()

    def load(self, name: str) -> Known | None:
        found = (self._run.read_json(TRACK_FILE) or {}).get(name)
        return Known(**found) if found else None

    def save(self, name: str, known: Known) -> None:
        with self._lock:
            self._run.write_json(TRACK_FILE, (self._run.read_json(TRACK_FILE) or {}) | {name: asdict(known)})


class _Tracker:
    """One sink in a thread of its own."""

    def __init__(self, sink: Sink, notes: _Notes, tell: Callable[[str], None]) -> None:
        self.sink, self.notes, self.tell = sink, notes, tell
        self._queue: queue.Queue[Row] = queue.Queue(ROWS_MAX)
        self._waiting: list[Row] = []
        self._known: Known | None = None
        self._had_before = -1
        self._status: str | None = None
        self._closing = threading.Event()
        self._dropped = self._failures = 0
        self._told = self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"tracker {sink.name}", daemon=True)
        self._thread.start()

    def put(self, row: Row) -> None:
        try:
            self._queue.put_nowait(row)
        except queue.Full:
            self._dropped += 1

    def ask_to_close(self, status: str) -> None:
        self._status = status
        self._closing.set()

    def wait_closed(self, until: float) -> None:
        """Wait for what is left, and say what never came through."""
        self._thread.join(max(0.0, until - time.monotonic()))
        left = len(self._waiting) + self._queue.qsize() + self._dropped
        if left or not self._closed:
            self.tell(f"tracker {self.sink.name}: {left} rows did not reach it; metrics/ has them all")

    def _run(self) -> None:
        while True:
            asked_to_close = self._closing.is_set()
            self._take()
            try:
                self._send()
                if asked_to_close:
                    self.sink.close(self._status or "failed")
                    self._closed = True
                    return
                self._failures = 0
                self._closing.wait(FLUSH_EVERY_S)
            except Exception as error:
                self._failed(error)
                if asked_to_close:
                    return
                first, most = TRY_AGAIN_AFTER_S
                self._closing.wait(min(most, first * 2 ** min(self._failures - 1, 10)))

    def _take(self) -> None:
        while len(self._waiting) < ROWS_MAX and not self._queue.empty():
            self._waiting.append(self._queue.get_nowait())

    def _send(self) -> None:
        if self._known is None:
            self._known = self.sink.open(self.notes.load(self.sink.name))
            self._had_before = self._known.step
            self.notes.save(self.sink.name, self._known)
        new = [row for row in merged(self._waiting) if row.step > self._had_before]
        if new:
            self.sink.send(new)
            self._known = Known(self._known.id, max(self._known.step, new[-1].step))
            self._waiting.clear()
            self.notes.save(self.sink.name, self._known)
        self._waiting.clear()

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        if not self._told:
            self._told = True
            words = (str(error).strip().splitlines() or [""])[0][:200]
            self.tell(
                f"warning: tracker {self.sink.name} does not answer, training goes on: "
                f"{type(error).__name__}: {words}"
            )


def merged(rows: list[Row]) -> list[Row]:
    """One row a step, in rising order: an evaluation comes after its step's row."""
    by_step: dict[int, Row] = {}
    for row in rows:
        before = by_step.get(row.step)
        by_step[row.step] = Row(row.step, row.at_unix_s, (before.values if before else {}) | row.values)
    return [by_step[step] for step in sorted(by_step)]
