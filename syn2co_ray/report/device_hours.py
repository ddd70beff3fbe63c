"""What runs cost in hours of the devices that their workers held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from .published import value_at
from .run_files import RunFiles


@dataclass(frozen=True)
class DeviceHours:
    """What a run cost on average: the times of its recorded steps, times what its workers held.

    Steps that were done twice, start-up and evaluation are not in it.
    """

    hours: float
    unit: str
    """GPU-hours, or CPU-hours of a run whose workers held no GPU."""


def mean_hours(runs: Sequence[RunFiles]) -> DeviceHours | None:
    """GPU-hours a run, or CPU-hours where its workers held no GPU."""
    spec = runs[0].spec
    gpus, cpus = value_at(spec, "train.workers.gpus_each"), value_at(spec, "train.workers.cpus_each")
    devices = {value_at(run.results.model_extra, "device") for run in runs if run.results is not None}
    on_cpu = not gpus or devices == {"cpu"}
    each = cpus if on_cpu else gpus
    hours = [_worker_hours(run) for run in runs]
    known = [value for value in hours if value is not None]
    if not isinstance(each, int | float) or len(known) < len(hours):
        return None
    return DeviceHours(mean(known) * each, "CPU-hours" if on_cpu else "GPU-hours")


def _worker_hours(run: RunFiles) -> float | None:
    planned = value_at(run.spec, "train.workers.max")
    seconds = 0.0
    for step in run.steps:
        workers = (step.model_extra or {}).get("workers", planned)
        if step.step_time_s is None or not isinstance(workers, int):
            return None
        seconds += step.step_time_s * workers
    return seconds / 3600 if run.steps else None
