"""Probes that train: their batches, workers and schedules."""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import Fault
from ..training_probes import FineTuneSpec, LinearAugmentedSpec, TrainingProbeSpec
from .evaluation import crop_faults
from .registry import rule
from .training import batch_faults, gpu_faults_of_workers, gpus_of_pool, pool_faults


@rule
def linear_classifiers_can_be_trained(linear_augmented: LinearAugmentedSpec | None) -> Iterator[Fault]:
    if linear_augmented is None:
        return
    where, spec = "linear_augmented", linear_augmented
    yield from _training_faults(where, spec, spec.images_per_step)
    yield from _warmup_faults(where, spec.warmup_epochs, spec.epochs)
    for rate in sorted({rate for rate in spec.learning_rates if spec.learning_rates.count(rate) > 1}):
        yield Fault(f"{where}.learning_rates", f"{rate:g} twice", "each once", "leave one out")


@rule
def fine_tuning_can_be_done(fine_tune: FineTuneSpec | None) -> Iterator[Fault]:
    if fine_tune is None:
        return
    where, spec = "fine_tune", fine_tune
    yield from _training_faults(where, spec, spec.images_per_step)
    if spec.warmup_epochs is not None:
        yield from _warmup_faults(where, spec.warmup_epochs, spec.epochs)
    for share in sorted({share for share in spec.shares if spec.shares.count(share) > 1}):
        yield Fault(f"{where}.shares", f"{share:g} twice", "each once", "leave one out")


def _training_faults(where: str, spec: TrainingProbeSpec, images_per_step: int) -> Iterator[Fault]:
    yield from crop_faults(where, spec.crop_scale)
    yield from pool_faults(f"{where}.workers", spec.workers)
    yield from gpu_faults_of_workers(f"{where}.workers", spec.workers)
    yield from batch_faults(where, "images_per_step", images_per_step, spec.workers)
    if spec.actors is not None:
        yield from pool_faults(f"{where}.actors", spec.actors)
        yield from gpus_of_pool(f"{where}.actors", spec.actors)


def _warmup_faults(where: str, warmup_epochs: float, epochs: int) -> Iterator[Fault]:
    if warmup_epochs >= epochs:
        got, step = f"{warmup_epochs:g} of {epochs} epochs", "shorten the warm-up or train longer"
        yield Fault(f"{where}.warmup_epochs", got, f"less than {where}.epochs", step)
