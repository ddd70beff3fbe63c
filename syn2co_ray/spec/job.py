"""A whole job: one YAML file."""

from __future__ import annotations

from typing import Any, Literal, cast

from pydantic import Field

from .augment import AugmentSpec
from .base import EXECUTION_ONLY, Section
from .data import DataSpec
from .embed import EmbedSpec
from .errors import Fault, SpecError
from .evaluate import EvaluateSpec
from .evaluation import EvaluateJobSpec
from .export import ExportSpec
from .generate import GenerateSpec
from .generator_method import GeneratorMethodSpec
from .method import MethodSpec
from .pipeline import PipelineJobSpec
from .search import SearchSpec
from .source import ObjectStoreSpec
from .track import TrackSpec
from .train import TrainSpec


class TrainingSpec(Section):
    """What every training on images in a store has, whatever is trained."""

    kind: str
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    """Lower-case name of the run; its folder is this name and a short hash of the spec."""
    seed: int = Field(ge=0)
    """Everything random derives from it, with epoch and sample key."""
    storage: str = Field(min_length=1, json_schema_extra=EXECUTION_ONLY)
    """Where run folders go: a local path or an object store."""
    data: DataSpec
    augment: AugmentSpec
    method: Any
    train: TrainSpec
    object_store: ObjectStoreSpec = Field(default=ObjectStoreSpec(), json_schema_extra=EXECUTION_ONLY)
    track: TrackSpec | None = Field(default=None, json_schema_extra=EXECUTION_ONLY)


class PretrainSpec(TrainingSpec):
    """Self-supervised pre-training from images in a store to an evaluated encoder."""

    kind: Literal["pretrain"]
    method: MethodSpec
    evaluate: EvaluateSpec = EvaluateSpec()


class TrainGeneratorSpec(TrainingSpec):
    """Training of a diffusion model on the user's own images, to a pipeline that `kind: generate` takes."""

    kind: Literal["train_generator"]
    method: GeneratorMethodSpec
    into: str = Field(min_length=1, json_schema_extra=EXECUTION_ONLY)
    """Prefix that gets the finished pipeline, or the finished LoRA weights."""


SingleJobSpec = PretrainSpec | TrainGeneratorSpec | GenerateSpec | ExportSpec | EvaluateJobSpec | EmbedSpec
FolderJobSpec = TrainingSpec | ExportSpec | EvaluateJobSpec | EmbedSpec
"""Jobs with a folder of their own below `storage`."""
JobSpec = SingleJobSpec | PipelineJobSpec | SearchSpec
"""Any job, by its `kind`."""


def steps_of(job: JobSpec) -> tuple[SingleJobSpec, ...]:
    """The jobs of a pipeline; any other job itself.

    Raises:
        SpecError: a search, whose trainings are no steps.
    """
    if isinstance(job, SearchSpec):
        raise SpecError([Fault("kind", "search", "a job that is no search", "give its `base`")])
    return cast(tuple[SingleJobSpec, ...], job.steps) if isinstance(job, PipelineJobSpec) else (job,)


JOB_KINDS: dict[str, type[JobSpec]] = {
    "pretrain": PretrainSpec,
    "generate": GenerateSpec,
    "train_generator": TrainGeneratorSpec,
    "export": ExportSpec,
    "evaluate": EvaluateJobSpec,
    "embed": EmbedSpec,
    "pipeline": PipelineJobSpec,
    "search": SearchSpec,
}
