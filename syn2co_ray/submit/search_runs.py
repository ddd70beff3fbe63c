"""A trial as `syn2co run` would train it, in a thread: started, looked at, asked to stop."""

from __future__ import annotations

import io
import threading
import time
from math import isfinite
from statistics import mean
from typing import Any, Literal

from rich.console import Console

from ..report.page import write_report
from ..report.run_files import RunFiles, load_run_files
from ..report.table import TRAINED
from ..search.loop import Ended
from ..spec.errors import RunInterrupted, Syn2coError
from ..spec.job import PretrainSpec
from ..spec.search import SearchSpec
from ..storage import Store
from ..storage.run_layout import RESULTS_FILE
from .prepare import PreparedRun, prepare_run
from .pretraining import train
from .progress import Progress
from .resources import asked_resources
from .shared import shared_by_trials

RANKME = "embedding/rankme"
_ONE_AT_A_TIME = threading.Lock()
"""Data sets are prepared, and pages drawn, by one trial after the other."""


class TrialRun:
    """A `search.loop.Run` on the Ray cluster that this process is connected to.

    With `stop_after_epochs` it pauses there, if it has not ended before.
    """

    def __init__(self, job: PretrainSpec, search: SearchSpec, stop_after_epochs: int | None = None) -> None:
        self.job, self.search, self.stop_after_epochs = job, search, stop_after_epochs
        self._stop = threading.Event()
        self._seen: dict[str, Any] = {}
        self._ended: Ended | None = None
        threading.Thread(target=self._run, name=f"trial {job.name}", daemon=True).start()

    def evaluations(self) -> dict[int, float]:
        """What the search judges by, by epoch, of this start."""
        judged_by = self.search.judged_by
        if judged_by != "knn":
            rows = self._seen.get("epoch_means", ())
            return {row["epoch"]: row[judged_by] for row in rows if judged_by in row}
        k = str(self.job.evaluate.knn.neighbours[0])
        return {row["epoch"]: row["knn"][k] for row in self._seen.get("evaluations", ())}

    def gpus(self) -> float:
        """GPUs held: none before the workers have started."""
        if self._ended or "workers started" not in self._seen.get("marks", {}):
            return 0.0
        workers = self._seen["starts"][-1]["workers"] if self._seen["starts"] else None
        return asked_resources(self.job, workers or self.job.train.workers.max).gpus

    def ask_to_stop(self) -> None:
        """Publish a checkpoint and end."""
        self._stop.set()

    def ended(self) -> Ended | None:
        """None while it runs."""
        return self._ended

    @property
    def progress(self) -> dict[str, Any]:
        """The newest step's row; empty before the first."""
        return self._seen.get("progress", {})

    def _run(self) -> None:
        try:
            ended = self._trained()
        except RunInterrupted:
            ended = Ended("interrupted")
        except Syn2coError as error:
            ended = Ended("failed", error=str(error))
        except BaseException as error:
            # A fault of ours must not keep the search from its other trials.
            ended = Ended("failed", error=f"{type(error).__name__}: {error}")
        self._ended = ended

    def _trained(self) -> Ended:
        now = time.time()
        with _ONE_AT_A_TIME:
            prepared = prepare_run(self.job, lambda text: None, shared_by_trials(self.job))
        results = prepared.run.read_json(RESULTS_FILE)
        if results is None or not self._is_over(prepared, results):
            unseen = Progress(Console(file=io.StringIO()))
            marks = {"command": now, "started": now}
            workers = self.job.train.workers.max
            results = train(
                prepared, workers, unseen, self._stop, marks, self._look_on, self.stop_after_epochs
            )
            with _ONE_AT_A_TIME:
                write_report(prepared.run.store)
        status = results["status"]
        if status == "interrupted" and self._is_over(prepared, results):
            status = "paused"
        k = self.job.evaluate.knn.neighbours[0]
        return ended_run(prepared.run.store, status, self.search, k, prepared.plan.steps_per_epoch)

    def _is_over(self, prepared: PreparedRun, results: dict[str, Any]) -> bool:
        """Whether a run has come to its end, or to where it is to pause."""
        pause = self.stop_after_epochs
        paused = pause is not None and results["steps"] == pause * prepared.plan.steps_per_epoch
        return results["status"] == "finished" or paused

    def _look_on(self, run: Any, seen: dict[str, Any]) -> None:
        self._seen = seen


def ended_run(
    store: Store,
    status: Literal["finished", "interrupted", "paused"],
    search: SearchSpec,
    k: int,
    steps_per_epoch: int,
) -> Ended:
    """How a run ended, from its folder; k as of k-NN."""
    files = load_run_files(store)
    evaluations = measured_by_epoch(files, search.judged_by, k, steps_per_epoch)
    if status != "finished":
        return Ended(status, evaluations)
    values: dict[str, float | None] = {metric: metric_of(files, metric, k) for metric in search.all_metrics}
    return Ended(status, evaluations, values[search.metric], values=values if search.metrics else {})


def measured_by_epoch(files: RunFiles, metric: str, k: int, steps_per_epoch: int) -> dict[int, float]:
    """knn, loss or rankme after so many epochs; epochs that are not whole, or lack it, are left out.

    Loss and rankme are means over the epoch's steps.
    """
    if metric == "knn":
        return {int(row.epoch): row.knn[k] for row in files.evals if row.epoch is not None and k in row.knn}
    found: dict[int, list[float]] = {}
    for step in files.steps:
        value = step.loss if metric == "loss" else step.stats.get(RANKME)
        if value is not None and isfinite(value):
            found.setdefault((step.step - 1) // steps_per_epoch + 1, []).append(value)
    done = {step.step for step in files.steps}
    return {epoch: mean(values) for epoch, values in found.items() if epoch * steps_per_epoch in done}


def metric_of(files: RunFiles, metric: str, k: int) -> float | None:
    """The metric of a finished run; None where it was not measured, or is counted by the search."""
    if metric in ("gpu_hours", "wall_hours"):
        return None
    rows = files.results.rows if files.results else []
    trained = next((row for row in rows if row.features.startswith(TRAINED)), None)
    if metric in ("knn", "knn_per_gpu_hour"):
        return trained.knn_top1_percent.get(k) if trained else None
    if metric == "linear":
        return trained.linear_top1_percent if trained else None
    steps = files.steps
    last = [step for step in steps if step.epoch == steps[-1].epoch]
    if metric == "loss":
        losses = [step.loss for step in last if step.loss is not None and isfinite(step.loss)]
        return mean(losses) if losses else None
    # It is measured every few steps; a short epoch may lack it.
    for part in (last, steps):
        found = [value for step in part if (value := step.stats.get(RANKME)) is not None]
        if found:
            return mean(found) if part is last else found[-1]
    return None
