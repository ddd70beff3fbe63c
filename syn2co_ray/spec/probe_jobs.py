"""The training runs that an evaluation's sections `linear_augmented` and `fine_tune` stand for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .augment import AugmentSpec
from .base import Pool
from .data import DataSpec
from .evaluation import EvaluateJobSpec
from .method import BackboneSpec
from .probe import FineTuneMethodSpec, LinearGridMethodSpec, ProbeSpec
from .source import SourceSpec
from .train import CheckpointSpec, OptimizerSpec, TrainSpec
from .training_probes import TrainingProbeSpec

IMAGES_PER_STEP_OF_RATES = 512
"""Global batch that the rates of `linear_augmented` are given for."""
CHECKPOINTS_KEPT = 2


@dataclass(frozen=True)
class Probed:
    """What a probe begins with and learns from.

    Attributes:
        name: short name of the weights.
        architecture, image_size, digest: of the backbone.
        classes: labels in order.
        source: images it learns from.
        images: how many those are.
        storage: where the probe's folder goes.
    """

    name: str
    architecture: BackboneSpec
    image_size: int
    digest: str
    classes: tuple[str, ...]
    source: SourceSpec
    images: int
    storage: str


def linear_job(job: EvaluateJobSpec, probed: Probed) -> ProbeSpec:
    """The run of section `linear_augmented`."""
    spec = job.linear_augmented
    assert spec is not None
    optimizer = OptimizerSpec(
        name="sgd",
        # Each classifier has a factor of its own on this rate.
        learning_rate_base=1.0,
        images_per_step_of_base_rate=IMAGES_PER_STEP_OF_RATES,
        warmup_epochs=spec.warmup_epochs,
        sgd_momentum=spec.momentum,
        weight_decay=spec.weight_decay,
        gradient_clip_norm=None,
    )
    method = LinearGridMethodSpec(
        framework="linear_grid",
        **_architecture(probed, spec.drop_path),
        classes=probed.classes,
        label_smoothing=spec.label_smoothing,
        learning_rates=spec.learning_rates,
        gradient_clip_norm=spec.gradient_clip_norm,
    )
    train = _train(spec, spec.epochs, spec.images_per_step, optimizer)
    return _probe(job, spec, probed, f"linear-{probed.name}", method, train)


def fine_tune_job(job: EvaluateJobSpec, probed: Probed, share: float) -> ProbeSpec:
    """The run of section `fine_tune` for one share of the labels, which `probed.source` holds."""
    spec = job.fine_tune
    assert spec is not None
    optimizer = OptimizerSpec(
        name=spec.optimizer or "adamw",
        learning_rate_base=spec.learning_rate,
        learning_rate_warmup_base=0.0,
        learning_rate_min_base=0.0,
        images_per_step_of_base_rate=spec.images_per_step,
        warmup_epochs=spec.epochs_of_warmup,
        cosine_includes_warmup=False,
        weight_decay=spec.weight_decay,
        gradient_clip_norm=spec.gradient_clip_norm,
    )
    method = FineTuneMethodSpec(
        framework="fine_tune",
        **_architecture(probed, spec.drop_path or 0.0),
        classes=probed.classes,
        label_smoothing=spec.label_smoothing,
        layer_decay=spec.layer_decay,
    )
    train = _train(spec, spec.epochs, spec.images_per_step, optimizer)
    return _probe(job, spec, probed, f"fine-tune-{share:g}-{probed.name}", method, train)


def jobs_for_their_resources(job: EvaluateJobSpec) -> list[ProbeSpec]:
    """A probe of each section, to see what it asks of a cluster; weights, classes and images are made up."""
    probed = Probed(
        "none", BackboneSpec(backbone="none"), 8, "", ("a", "b"), job.labelled.eval_bank, 1, job.storage
    )
    found = [linear_job(job, probed)] if job.linear_augmented else []
    return found + ([fine_tune_job(job, probed, 1.0)] if job.fine_tune else [])


def _architecture(probed: Probed, drop_path: float) -> dict[str, Any]:
    return {**probed.architecture.model_dump(), "drop_path_online": drop_path}


def _train(spec: TrainingProbeSpec, epochs: int, images_per_step: int, optimizer: OptimizerSpec) -> TrainSpec:
    return TrainSpec(
        images_per_step_global=images_per_step,
        epochs=epochs,
        workers=spec.workers,
        precision=spec.precision or "auto",
        optimizer=optimizer,
        checkpoint=CheckpointSpec(every_epochs=spec.checkpoint_every_epochs, keep=CHECKPOINTS_KEPT),
    )


def _probe(
    job: EvaluateJobSpec,
    spec: TrainingProbeSpec,
    probed: Probed,
    name: str,
    method: LinearGridMethodSpec | FineTuneMethodSpec,
    train: TrainSpec,
) -> ProbeSpec:
    steps_per_epoch = math.ceil(probed.images / train.images_per_step_global)
    window: dict[str, Any] = {} if spec.window_images is None else {"window_images": spec.window_images}
    return ProbeSpec(
        kind="probe",
        name=name,
        seed=job.seed,
        storage=probed.storage,
        data=DataSpec(
            train=[probed.source.model_copy(update={"share": None})],
            # Whole steps that meet every image at least once: few labels may be less than a step.
            images_per_epoch=steps_per_epoch * train.images_per_step_global,
            image_pixels_max=job.labelled.image_pixels_max,
            quarantine_share_max=job.labelled.quarantine_share_max,
            reader_cpus_each=spec.reader_cpus_each,
            **window,
        ),
        augment=AugmentSpec(
            recipe="supervised",
            image_size=probed.image_size,
            crop_scale=spec.crop_scale,
            flip_probability=spec.flip_probability,
            placement="trainer" if spec.actors is None else "actors",
            actors=spec.actors or Pool(min=1, max=1),
        ),
        method=method,
        train=train,
        weights_digest=probed.digest,
        object_store=job.object_store,
    )
