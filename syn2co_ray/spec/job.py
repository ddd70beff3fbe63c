"""A whole job: one YAML file."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .augment import AugmentSpec
from .base import EXECUTION_ONLY, Section
from .data import DataSpec, ObjectStoreSpec
from .evaluate import EvaluateSpec
from .generate import GenerateSpec
from .method import MethodSpec
from .train import TrainSpec


class PretrainSpec(Section):
    """Self-supervised pre-training from images in a store to an evaluated encoder."""

    kind: Literal["pretrain"]
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    """Lower-case name of the run; its folder is this name and a short hash of the spec."""
    seed: int = Field(ge=0)
    """Everything random derives from it, with epoch and sample key."""
    storage: str = Field(min_length=1, json_schema_extra=EXECUTION_ONLY)
    """Where run folders go: a local path or an object store."""
    data: DataSpec
    augment: AugmentSpec
    method: MethodSpec
    train: TrainSpec
    evaluate: EvaluateSpec = EvaluateSpec()
    object_store: ObjectStoreSpec = Field(default=ObjectStoreSpec(), json_schema_extra=EXECUTION_ONLY)


JobSpec = PretrainSpec | GenerateSpec
"""Any job, by its `kind`."""
