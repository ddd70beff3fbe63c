"""Trackers by their own libraries: each opens a run, takes rows of metrics, and closes it.

All of it happens in a thread of the tracker's own, so a call may block or fail: `trackers` sees to both.
"""

from __future__ import annotations

import os
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..spec.identity import resolved, run_name, spec_hash
from ..spec.job import TrainingSpec
from ..spec.track import MlflowSpec, WandbSpec
from ..storage import Store, publish_bytes
from ..storage.run_layout import TENSORBOARD_FOLDER

PUBLISH_EVERY_S = 60.0
MLFLOW_METRICS_MAX, MLFLOW_PARAMS_MAX, MLFLOW_VALUE_CHARACTERS = 1000, 100, 500
"""What MLflow's API takes in one request."""
_MLFLOW_ENDS = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}


@dataclass(frozen=True)
class Row:
    """Metrics after one step."""

    step: int
    at_unix_s: float
    values: dict[str, float]


@dataclass(frozen=True)
class Known:
    """What a tracker calls the run, and the last step that it has (-1: none)."""

    id: str
    step: int


class Sink(Protocol):
    """One tracker."""

    name: str

    def open(self, known: Known | None) -> Known:
        """Begin a run, or go on with the one that is known from an earlier command."""

    def send(self, rows: Sequence[Row]) -> None:
        """Take rows in rising order of step."""

    def close(self, status: str) -> None:
        """End the run: finished, interrupted or failed."""


def sinks_of(job: TrainingSpec, store: Store) -> list[Sink]:
    """The trackers that a job asks for."""
    track = job.track
    if track is None:
        return []
    found: list[Sink] = []
    if track.tensorboard:
        found.append(TensorBoardSink(store))
    if track.mlflow is not None:
        found.append(MlflowSink(track.mlflow, job, store))
    if track.wandb is not None:
        found.append(WandbSink(track.wandb, job, store))
    return found


class TensorBoardSink:
    """Event files in the run's folder; for an object store they are written here and published as a whole."""

    name = "tensorboard"

    def __init__(self, store: Store) -> None:
        self.store = store.child(TENSORBOARD_FOLDER)
        self._resumed = False
        self._published_at = time.monotonic()

    def open(self, known: Known | None) -> Known:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._local = self.store.scheme == "file"
        self._folder = self.store.path if self._local else tempfile.mkdtemp(prefix="syn2co-tensorboard-")
        Path(self._folder).mkdir(parents=True, exist_ok=True)
        self._writer = EventFileWriter(self._folder, flush_secs=10)
        self._resumed = known is not None
        return known or Known("tensorboard", -1)

    def send(self, rows: Sequence[Row]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary

        if self._resumed and rows:
            # What a killed command wrote of the steps from here on is not to be drawn twice.
            start = SessionLog(status=SessionLog.START)
            first = rows[0]
            self._writer.add_event(Event(wall_time=first.at_unix_s, step=first.step, session_log=start))
            self._resumed = False
        for row in rows:
            values = [Summary.Value(tag=tag, simple_value=value) for tag, value in row.values.items()]
            self._writer.add_event(
                Event(wall_time=row.at_unix_s, step=row.step, summary=Summary(value=values))
            )
        self._writer.flush()
        if time.monotonic() - self._published_at >= PUBLISH_EVERY_S:
            self._publish()

    def close(self, status: str) -> None:
        self._writer.close()
        self._publish()

    def _publish(self) -> None:
        self._published_at = time.monotonic()
        if not self._local:
            for file in Path(self._folder).iterdir():
                publish_bytes(self.store, file.name, file.read_bytes())


class MlflowSink:
    """A run of an MLflow experiment."""

    name = "mlflow"

    def __init__(self, spec: MlflowSpec, job: TrainingSpec, store: Store) -> None:
        self.spec, self.job, self.store = spec, job, store

    def open(self, known: Known | None) -> Known:
        # Its own patience is minutes; ours is to keep the rows and to try again.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        self._client = MlflowClient(self.spec.tracking_uri)
        if known is not None:
            try:
                self._client.update_run(known.id, status="RUNNING")
                history = self._client.get_metric_history(known.id, "loss")
                self._id = known.id
                return Known(known.id, max((metric.step for metric in history), default=-1))
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
        self._id = self._created()
        return Known(self._id, -1)

    def _created(self) -> str:
        from mlflow.entities import Param

        experiment = self._client.get_experiment_by_name(self.spec.experiment)
        found = (
            experiment.experiment_id if experiment else self._client.create_experiment(self.spec.experiment)
        )
        tags = {"syn2co.run_folder": self.store.uri, "syn2co.spec_hash": spec_hash(self.job)}
        run_id = self._client.create_run(found, run_name=run_name(self.job), tags=tags).info.run_id
        params = [
            Param(key, str(value)[:MLFLOW_VALUE_CHARACTERS])
            for key, value in flat(resolved(self.job)).items()
        ]
        for first in range(0, len(params), MLFLOW_PARAMS_MAX):
            self._client.log_batch(run_id, params=params[first : first + MLFLOW_PARAMS_MAX])
        return run_id

    def send(self, rows: Sequence[Row]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(key, value, int(1000 * row.at_unix_s), row.step)
            for row in rows
            for key, value in row.values.items()
        ]
        for first in range(0, len(metrics), MLFLOW_METRICS_MAX):
            self._client.log_batch(self._id, metrics=metrics[first : first + MLFLOW_METRICS_MAX])

    def close(self, status: str) -> None:
        self._client.set_terminated(self._id, _MLFLOW_ENDS[status])


class WandbSink:
    """A run of Weights & Biases."""

    name = "wandb"

    def __init__(self, spec: WandbSpec, job: TrainingSpec, store: Store) -> None:
        self.spec, self.job, self.store = spec, job, store

    def open(self, known: Known | None) -> Known:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        folder = self.store.path if self.store.scheme == "file" else tempfile.mkdtemp(prefix="syn2co-wandb-")
        online = self.spec.mode == "online"
        run_id = known.id if known else uuid.uuid4().hex[:12]
        self._run = wandb.init(
            project=self.spec.project,
            entity=self.spec.entity,
            id=run_id,
            name=run_name(self.job),
            dir=folder,
            config={**resolved(self.job), "run_folder": self.store.uri},
            mode=self.spec.mode,
            resume="allow" if online else None,
            # Trials of a search run side by side in one process.
            reinit="create_new",
            settings=wandb.Settings(console="off", silent=True, init_timeout=30, x_disable_stats=True),
        )
        # The next step of a run that goes on; offline only our own note knows.
        step = self._run.step - 1 if online else known.step if known else -1
        return Known(run_id, step)

    def send(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._run.log({**row.values, "_timestamp": row.at_unix_s}, step=row.step)

    def close(self, status: str) -> None:
        self._run.finish(exit_code=0 if status == "finished" else 1)


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested sections as dotted keys, without nulls; lists of plain values stay as they are."""
    items = values.items() if isinstance(values, dict) else enumerate(values)
    found: dict[str, Any] = {}
    for key, value in items:
        name = f"{prefix}{key}"
        nested = isinstance(value, dict) or (
            isinstance(value, list) and any(isinstance(v, dict) for v in value)
        )
        if nested:
            found |= flat(value, f"{name}.")
        elif value is not None:
            found[name] = value
    return found
