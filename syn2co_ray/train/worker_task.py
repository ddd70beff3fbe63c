"""What a worker is told. Imports no torch: it is unpacked in Ray's controller on its way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..spec.job import TrainingSpec
from .run_folder import RunFolder


@dataclass(frozen=True)
class WorkerTask:
    """A start of a run, as every rank gets it."""

    job: TrainingSpec
    run: RunFolder
    steps_per_epoch: int
    board: Any
    boxed: list[Any]
    """A reference to the run's `Stream`, in a box (see `data.stream.fetch_stream`)."""
    extra: Any = None
    """For the caller's worker function (such as the sets to evaluate on)."""
    stop_after_epochs: int | None = None
    """Where this start ends, if before the end of the run."""
