"""The training loop of one rank: records in plan order in, checkpoints and metrics out.

It knows nothing of Ray. Ranks agree before every step (is there a batch, was a stop asked for) and
after it (loss), through a CPU group, so that all of them always leave the loop at the same step.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..data.stream import BlockWork, StepRecords, keys_digest
from ..methods import Method
from ..methods.embedding_stats import SPREAD_MIN
from ..spec.errors import DataError, TrainingError
from ..spec.identity import resolved, spec_hash
from ..spec.job import PretrainSpec, TrainingSpec
from ..storage import exists
from ..storage.run_layout import eval_file, steps_file
from .checkpoint import load_newest, save_checkpoint
from .context import TrainContext
from .epoch_means import EpochMeans
from .quarantined import Quarantined
from .rank_faults import RankFaults
from .run_folder import RunFolder
from .start import start_from
from .stream_clock import StreamClock
from .trainer import StepOutcome, StepTrainer
from .uploads import Uploads
from .wish import Wish

_log = logging.getLogger(__name__)

COLLAPSED_LOOKS_BEFORE_WARNING = 3
"""Looks in a row at the embeddings (each some steps apart) that must agree: one batch can be odd."""

WATCHED_TOTALS = (
    "steps",
    "images",
    "step_seconds",
    "data_wait_seconds",
    "checkpoint_seconds",
    "skipped_steps",
    "quarantined_images",
)
"""Keys of `totals` in what the loop shows."""

Evaluate = Callable[[Method, TrainContext], dict[str, Any] | None]
"""Measures the online encoder on all ranks; the figures come back on rank 0."""


Begin = Callable[[Method], str]
"""Puts weights into a method that has not learned anything yet; returns what was done, for people."""


@dataclass
class LoopOutcome:
    """How the loop ended."""

    status: str
    """finished or interrupted."""
    step: int
    """Steps done, over all starts of the run."""
    images_per_s: float
    """Over all starts, once fed; 0 when no start did two steps."""
    data_wait_share: float
    checkpoint_share: float
    """Part of the time in which training stood still for checkpoints."""
    quarantined_images: int
    images_seen: int
    resumed_from_steps: list[int]
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    stream: dict[str, Any] | None = None
    """Seconds of the stages of the stream in this start (see `StreamClock.over_all`)."""


class TrainLoop:
    """Runs from the newest whole checkpoint to the end, or until asked to stop.

    With `stop_after_epochs` it ends there at the latest, as if asked to stop at that step. `begin` is called
    where there is no checkpoint.
    """

    def __init__(
        self,
        job: TrainingSpec,
        context: TrainContext,
        run: RunFolder,
        steps_per_epoch: int,
        evaluate: Evaluate | None = None,
        stop_after_epochs: int | None = None,
        begin: Begin | None = None,
    ) -> None:
        self.job, self.context, self.run, self.evaluate = job, context, run, evaluate
        self.begin = begin
        self.steps_per_epoch = steps_per_epoch
        self.trainer = StepTrainer(job, context, steps_per_epoch)
        self.end_step = steps_per_epoch * min(job.train.epochs, stop_after_epochs or job.train.epochs)
        self.step = 0
        self.skipped_in_a_row = 0
        self.quarantined = Quarantined(job, run, writes=self.is_first)
        self.resumed_from_steps: list[int] = []
        self.inherited_from: list[dict[str, Any]] = []
        """Runs whose checkpoints were taken over (see `inheritance`), the last one last."""
        self.notes: list[str] = []
        self.metrics: list[dict[str, Any]] = []
        self.epoch_means = EpochMeans()
        self.warnings: list[str] = []
        self._collapsed_looks = 0
        # Over all starts of the run, without the first step of each: it waits for the stream to fill.
        self.clock = {"steps": 0.0, "busy_s": 0.0, "waited_s": 0.0, "checkpoint_s": 0.0}
        # Of this start alone, for those who watch: how much of each there was so far.
        self.totals = dict.fromkeys(WATCHED_TOTALS, 0.0)
        self._newest_stats: dict[str, float] = {}
        self._stream_clock, self._fetched_s = StreamClock(), 0.0
        self._started = False
        self.uploads = Uploads()
        self.faults = RankFaults(context)
        self.keys_digest = 0.0
        self._newest_checkpoint: int | None = None
        self._checkpointed_at = time.monotonic()

    @property
    def is_first(self) -> bool:
        return self.context.rank == 0

    def run_to_end(self) -> LoopOutcome:
        """Train; every return and every error leaves the newest good checkpoint in the run folder."""
        self._resume()
        if self.is_first:
            for note in self.notes:
                _log.info(note)
        try:
            status = self._train()
        finally:
            self._finish_uploads()
        self.faults.raise_together()
        return self._outcome(status)

    def _train(self) -> str:
        records = self.context.records(self.step) if self.step < self.end_step else iter(())
        status = "finished" if self.end_step == self.trainer.total_steps else "interrupted"
        self._make_up_for_an_evaluation()
        while self.step < self.end_step:
            started = time.perf_counter()
            batch, labels, wish, any_bad = self._next_batch(records)
            waited_s = time.perf_counter() - started
            if wish is not Wish.GO_ON:
                self._checkpoint()
            if wish is Wish.STOP:
                status = "interrupted"
                break
            # After the checkpoint, whose state is that of the steps that are done.
            self._count_quarantined(batch, any_bad)
            if wish is Wish.PAUSE:
                self._finish_uploads()
                self.faults.raise_together()
                self.context.pause(self.step)
            outcome = self.trainer.train_step(batch, labels)
            self.step += 1
            self._after_step(outcome, batch.work, time.perf_counter() - started, waited_s)
            if self.step % self.steps_per_epoch == 0:
                self._after_epoch(self.step // self.steps_per_epoch)
            elif (
                self.job.train.checkpoint.every_steps
                and self.step % self.job.train.checkpoint.every_steps == 0
            ):
                self._checkpoint()
        return status

    def _resume(self) -> None:
        checkpoint, rejected = load_newest(self.run.store, spec_hash(self.job))
        self.notes += [f"checkpoint not used: {reason}" for reason in rejected]
        if checkpoint is None:
            if self.job.train.start_from is not None:
                start, store = self.job.train.start_from, self.job.object_store
                self.notes.append(start_from(self.trainer.method, start, store))
            if self.begin is not None:
                self.notes.append(self.begin(self.trainer.method))
            return
        self.trainer.restore(checkpoint)
        self.step = checkpoint.step
        self.quarantined.restore(checkpoint.state)
        # Over what is there: checkpoints of earlier versions lack newer clocks.
        self.clock |= checkpoint.state["clock"]
        self._newest_checkpoint = self.step
        self.resumed_from_steps = [*checkpoint.state["resumed_from_steps"], self.step]
        self.inherited_from = checkpoint.state.get("inherited_from", [])
        self.epoch_means.restore(checkpoint.state.get("epoch_so_far", {}))
        self.notes.append(f"resumed from step {self.step}")

    def _next_batch(self, records: Iterator[StepRecords]) -> tuple[StepRecords, np.ndarray, Wish, bool]:
        """Next records of this rank, their labels, what is wished for, if any rank has unreadable images.

        All ranks agree, or all raise.
        """
        batch, labels = None, None
        started = time.perf_counter()
        with self.faults.kept():
            batch = next(records, None)
            self._fetched_s = time.perf_counter() - started
            if batch is None:
                raise DataError("data stream", f"ended before step {self.step}", "", "resume the run")
            if batch.step != self.step:
                raise DataError(
                    "data stream", f"gave step {batch.step} at step {self.step}", "", "resume the run"
                )
            labels = self.trainer.labels(batch)
        bad, keys = (len(batch.quarantined), keys_digest(batch.keys)) if batch else (0, 0)
        failures, wish, bad_global, self.keys_digest = self.context.summed(
            self.faults.own is not None, self._wish(), bad, keys
        )
        if failures:
            self.faults.raise_first()
        if batch is None or labels is None:
            raise AssertionError("a rank without a batch must have reported a failure")
        if self.context.keys_seen and Wish(int(wish)) is not Wish.STOP:
            self.context.keys_seen(self.step, batch.keys)
        return batch, labels, Wish(int(wish)), bad_global > 0

    def _wish(self) -> Wish:
        """Rank 0's; the others have none of their own."""
        if not self.is_first:
            return Wish.GO_ON
        minutes = self.job.train.checkpoint.every_minutes
        due = minutes is not None and time.monotonic() - self._checkpointed_at >= 60 * minutes
        return max(self.context.wish(), Wish.CHECKPOINT if due else Wish.GO_ON)

    def _count_quarantined(self, batch: StepRecords, any_bad: bool) -> None:
        self.quarantined.images_seen += self.job.train.images_per_step_global
        if any_bad:
            entries = [entry for of_rank in self.context.gathered(batch.quarantined) for entry in of_rank]
            self.totals["quarantined_images"] += len(entries)
            self.quarantined.count(entries, self.step)

    def _after_step(
        self, outcome: StepOutcome, work: BlockWork | None, step_time_s: float, waited_s: float
    ) -> None:
        if not outcome.skipped:
            self.skipped_in_a_row = 0
        else:
            self.skipped_in_a_row += 1
            if self.is_first:
                _log.warning("loss or gradient is not finite: the step changed nothing")
        if self._started:
            self.clock["steps"] += 1
            self.clock["busy_s"] += step_time_s
            self.clock["waited_s"] += waited_s
            self._stream_clock.count(work, step_time_s, waited_s, self._fetched_s)
        self._started = True
        self._warn_of_collapse(outcome)
        if self.is_first:
            row = self._metrics_row(outcome, step_time_s, waited_s)
            self.metrics.append(row)
            self.epoch_means.add(row["loss"], row["stats"])
            self._newest_stats |= row["stats"]
            self._count_totals(outcome, step_time_s, waited_s)
            self.context.show(
                {
                    **row,
                    "newest_stats": dict(self._newest_stats),
                    "totals": self.totals,
                    "total_steps": self.trainer.total_steps,
                    "epochs": self.job.train.epochs,
                }
            )
        if self.skipped_in_a_row > self.job.train.nonfinite_steps_max:
            self._write_metrics(self.metrics)
            raise TrainingError(
                "train",
                f"loss or gradient not finite in {self.skipped_in_a_row} steps in a row, last {self.step}",
                f"at most train.nonfinite_steps_max = {self.job.train.nonfinite_steps_max}",
                "the newest checkpoint in the run folder is good; lower train.optimizer.learning_rate_base "
                "or lengthen the warm-up",
            )

    def _count_totals(self, outcome: StepOutcome, step_time_s: float, waited_s: float) -> None:
        self.totals["steps"] += 1
        self.totals["images"] += self.job.train.images_per_step_global
        self.totals["step_seconds"] += step_time_s
        self.totals["data_wait_seconds"] += waited_s
        self.totals["skipped_steps"] += outcome.skipped

    def _warn_of_collapse(self, outcome: StepOutcome) -> None:
        """Say once, while there is time, that the embeddings of this rank's images have become alike."""
        spread = outcome.stats.get("embedding/spread")
        if spread is None:
            return
        self._collapsed_looks = self._collapsed_looks + 1 if float(spread) < SPREAD_MIN else 0
        if self.is_first and self._collapsed_looks == COLLAPSED_LOOKS_BEFORE_WARNING:
            self.warnings.append(
                f"the encoder has collapsed at step {self.step}: embedding/spread is {float(spread):.3f}, "
                f"expected above {SPREAD_MIN}; next: stop, lower the learning rate or lengthen the warm-up"
            )
            _log.warning(self.warnings[-1])
            self.context.show({"warning": self.warnings[-1]})

    def _metrics_row(self, outcome: StepOutcome, step_time_s: float, waited_s: float) -> dict[str, Any]:
        values = {name: float(value) for name, value in outcome.stats.items()}
        stats = {name: value for name, value in values.items() if math.isfinite(value)}
        return {
            "step": self.step,
            "epoch": (self.step - 1) // self.steps_per_epoch,
            "loss": outcome.loss,
            "learning_rate": outcome.learning_rate,
            "momentum": stats.pop("momentum", None),
            "gradient_norm": outcome.gradient_norm,
            "images_per_s": self.job.train.images_per_step_global / step_time_s,
            "data_wait_share": waited_s / step_time_s,
            "step_time_s": step_time_s,
            "skipped": outcome.skipped,
            "workers": self.context.world_size,
            "keys_digest": int(self.keys_digest),
            "stats": stats,
        }

    def _after_epoch(self, epochs_done: int) -> None:
        if self.is_first:
            self.context.show({"epoch_means": {"epoch": epochs_done, **self.epoch_means.taken()}})
        if self.step == self.end_step or epochs_done % self.job.train.checkpoint.every_epochs == 0:
            self._checkpoint()
        if self._is_evaluated_after(epochs_done):
            self._evaluate(epochs_done)

    def _is_evaluated_after(self, epochs_done: int) -> bool:
        every_epochs = self.job.evaluate.knn.every_epochs if isinstance(self.job, PretrainSpec) else 1
        last = epochs_done == self.job.train.epochs
        return self.evaluate is not None and (last or epochs_done % every_epochs == 0)

    def _evaluate(self, epochs_done: int) -> None:
        assert self.evaluate is not None
        figures = self.evaluate(self.trainer.method, self.context)
        if figures is not None:
            row = {"step": self.step, "epoch": epochs_done, **figures}
            with self.faults.kept():
                self.run.write_json(eval_file(self.step), row)
            _log.info("k-NN top-1 in percent, by k: %s", figures.get("knn"))
            self.context.show({"evaluation": row})

    def _make_up_for_an_evaluation(self) -> None:
        """Its run was stopped between an epoch's checkpoint and its evaluation."""
        epochs_done, rest = divmod(self.step, self.steps_per_epoch)
        if rest or not epochs_done or not self._is_evaluated_after(epochs_done):
            return
        there = False
        with self.faults.kept():
            there = self.is_first and exists(self.run.store, eval_file(self.step))
        if not self.context.summed(there)[0]:
            self._evaluate(epochs_done)

    def _checkpoint(self) -> None:
        """Publish the state after `self.step` steps (rank 0 writes, in the background; the others go on)."""
        if not self.is_first or self.step == self._newest_checkpoint:
            return
        started = time.perf_counter()
        self._finish_uploads()
        if self.faults.own is not None:
            return
        state = {
            "step": self.step,
            "epoch": self.step // self.steps_per_epoch,
            "spec_hash": spec_hash(self.job),
            "spec": resolved(self.job),
            "world_size": self.context.world_size,
            **self.quarantined.state(),
            "clock": dict(self.clock),  # written while steps go on
            "resumed_from_steps": self.resumed_from_steps,
            "inherited_from": self.inherited_from,
            "epoch_so_far": self.epoch_means.state(),
            "torch": torch.__version__,
        }
        checkpoint, metrics, step = self.trainer.state(state), self.metrics, self.step
        self.metrics = []

        def publish() -> None:
            self._write_metrics(metrics)
            self.quarantined.write(state["quarantined"])
            save_checkpoint(self.run.store, checkpoint, self.job.train.checkpoint.keep)
            _log.info("checkpoint of step %d published", step)
            self.context.show({"checkpoint": step})

        self.uploads.start(publish)
        self._newest_checkpoint, self._checkpointed_at = step, time.monotonic()
        stood_still_s = time.perf_counter() - started
        self.clock["checkpoint_s"] += stood_still_s
        self.totals["checkpoint_seconds"] += stood_still_s

    def _finish_uploads(self) -> None:
        with self.faults.kept():
            self.uploads.finish()

    def _write_metrics(self, rows: list[dict[str, Any]]) -> None:
        if self.is_first and rows:
            self.run.write_json_lines(steps_file(rows[0]["step"]), rows)

    def _outcome(self, status: str) -> LoopOutcome:
        images = self.clock["steps"] * self.job.train.images_per_step_global
        busy_s = self.clock["busy_s"]
        return LoopOutcome(
            status,
            self.step,
            images / busy_s if busy_s else 0.0,
            self.clock["waited_s"] / busy_s if busy_s else 0.0,
            self.clock["checkpoint_s"] / (busy_s + self.clock["checkpoint_s"]) if busy_s else 0.0,
            self.quarantined.images,
            self.quarantined.images_seen,
            self.resumed_from_steps,
            self.notes,
            self.warnings,
            self._stream_clock.over_all(self.context),
        )
