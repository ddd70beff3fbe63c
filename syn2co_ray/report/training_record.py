"""What a table has to know of a training, from the training's own files."""

from __future__ import annotations

from .device_hours import device_hours
from .run_files import Provenance, RunFiles, TrainingRecord


def training_record(
    run: RunFiles, uri: str, step: int | None = None, encoder: str = "online"
) -> TrainingRecord:
    """The record of a checkpoint of a training.

    Args:
        run: files of the training.
        uri: its folder.
        step: of the checkpoint; the last one when left out.
        encoder: which of the checkpoint's encoders is meant.
    """
    results, made = run.results, run.provenance or Provenance()
    last = results.steps if results is not None and results.status == "finished" else None
    hours = device_hours(run, step)
    return TrainingRecord(
        uri=uri,
        step=last if step is None else step,
        encoder=encoder,
        finished=step in (None, last),
        spec=run.spec,
        git_commit=made.git_commit,
        data=made.data,
        evaluated_on=made.evaluated_on,
        hours=hours.hours if hours else None,
        hours_of=hours.unit if hours else "",
    )
