"""A training run on a Ray cluster: its workers and their feed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray

from ..data.stream import Stream
from ..spec.identity import run_name
from ..spec.job import TrainingSpec
from .feed import PlanFeed, RemainingWindows
from .room import Room
from .run_folder import RunFolder
from .worker_task import WorkerTask
from .workers_run import Workers, WorkersRun


def pretrain_run(
    job: TrainingSpec,
    run: RunFolder,
    stream: Stream,
    room: Room,
    worker: Callable[[WorkerTask], dict[str, Any]],
    extra: Any = None,
    stop_after_epochs: int | None = None,
) -> WorkersRun:
    """A run that trains on a stream, to be started.

    Args:
        job: the spec.
        run: its folder.
        stream: records in plan order.
        room: which numbers of DDP processes are allowed, and what they need.
        worker: function of a `WorkerTask` that every rank runs (see `train.worker.run_worker`).
        extra: what that function finds in `WorkerTask.extra`.
        stop_after_epochs: where this start ends, if before the end of the run.
    """

    def workers(board: Any) -> Workers:
        stream_ref = ray.put(stream)
        steps = stream.plan.steps_per_epoch
        return Workers(
            worker,
            WorkerTask(job, run, steps, board, [stream_ref], extra, stop_after_epochs),
            room,
            job.train.failures_max,
            job.train.resize_every_s,
            {
                "datasets": {"train": RemainingWindows(job, run, stream.plan, board)},
                "dataset_config": PlanFeed(job, stream_ref, board),
            },
        )

    return WorkersRun(run_name(job), job.method.framework, workers)
