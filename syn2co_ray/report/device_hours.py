"""What runs cost in hours of the devices that their workers held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from .published import value_at
from .run_files import RunFiles, StepRecord


@dataclass(frozen=True)
class DeviceHours:
    """What a run cost: the times of its recorded steps, times what its workers held.

    Steps that were done twice, start-up and evaluation are not in it.
    """

    hours: float
    unit: str
    """GPU-hours, or CPU-hours of a run whose workers held no GPU."""


def device_hours(run: RunFiles, until_step: int | None = None) -> DeviceHours | None:
    """GPU-hours of a training, or CPU-hours where its workers held no GPU; None where a time is missing.

    Args:
        run: its files.
        until_step: the last step that counts; all of them when left out.
    """
    gpus, cpus = (value_at(run.spec, f"train.workers.{name}") for name in ("gpus_each", "cpus_each"))
    device = value_at(run.results.model_extra, "device") if run.results is not None else None
    on_cpu = not gpus or device == "cpu"
    each = cpus if on_cpu else gpus
    hours = _worker_hours(
        [step for step in run.steps if until_step is None or step.step <= until_step],
        value_at(run.spec, "train.workers.max"),
    )
    if hours is None or not isinstance(each, int | float):
        return None
    return DeviceHours(hours * each, "CPU-hours" if on_cpu else "GPU-hours")


def mean_hours(runs: Sequence[DeviceHours | None]) -> DeviceHours | None:
    """The mean of some runs; None where one is not known, or they held different devices."""
    known = [run for run in runs if run is not None]
    units = {run.unit for run in known}
    if len(known) < len(runs) or len(units) != 1:
        return None
    return DeviceHours(mean(run.hours for run in known), units.pop())


def _worker_hours(steps: Sequence[StepRecord], planned: object) -> float | None:
    seconds = 0.0
    for step in steps:
        workers = (step.model_extra or {}).get("workers", planned)
        if step.step_time_s is None or not isinstance(workers, int):
            return None
        seconds += step.step_time_s * workers
    return seconds / 3600 if steps else None
