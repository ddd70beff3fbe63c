"""Section `method`: the framework, its backbone, and what belongs to that framework alone.

Every framework has a section of its own, so a key that means nothing to it is refused. Fields left out
take the framework's published value.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from .base import Section
from .compat import filled_in
from .negatives import NegativesSpec


class BackboneSpec(Section):
    """What every framework has."""

    backbone: str = Field(min_length=1)
    """Any timm model name with a pooled feature, such as deit_small_patch16_224."""
    patch_size: int | None = Field(default=None, ge=1)
    """Patch size of a ViT, when not the one of its name (small images)."""
    backbone_options: dict[str, int | float | bool | str] = Field(default={})
    """Further keyword arguments of the timm model, such as embed_dim, depth, num_heads."""
    small_image_stem: bool = False
    """ResNets: 3 x 3 convolution of stride 1 and no pooling at the start, for images of 32 to 64 pixels."""
    positions: Literal["learned", "sincos"] = "learned"
    """ViTs: learned positions, or fixed sines and cosines (MoCo v3's ViT, SynBY's published code)."""
    drop_path_online: float = Field(default=0.1, ge=0, lt=1)
    """Stochastic depth of the online encoder."""


class TargetSpec(BackboneSpec):
    """What every framework with a momentum encoder has."""

    drop_path_target: float = Field(default=0.0, ge=0, lt=1)
    """Stochastic depth of the momentum encoder."""
    hidden_features: int = Field(default=4096, ge=1)
    """Width of the hidden layers of projector and predictor."""
    output_features: int = Field(default=256, ge=2)
    """Width C of the projections that are compared."""
    momentum: float = Field(default=0.99, ge=0, le=1)
    """Momentum of the target encoder at step 0; rises to 1 by a cosine over training."""


class MobySpec(TargetSpec):
    """MoBY, and SynBY: the same with synthesized negatives in both directions."""

    framework: Literal["moby", "synby"]
    """moby: two queues, both directions; synby: moby with synthesized negatives."""
    drop_path_online: float = Field(default=0.1, ge=0, lt=1)
    """Stochastic depth of the online encoder; 0.2 for moby when left out."""
    queue_size_features: int = Field(default=4096, ge=1)
    """Length K of each queue of negatives."""
    temperature: float = Field(default=0.2, gt=0)
    """InfoNCE temperature."""
    negatives: NegativesSpec | None = None
    """Synthesized negatives (synby)."""
    compat: Literal["synco_v2"] | None = None
    """Do what the published code of SynCo-v2 does where it differs from its paper."""
    compat_world_size: int = Field(default=1, ge=1)
    """GPUs of the run that `compat` follows: that code counts the epochs of `active_epochs` by the images of
    one GPU, so with W of them epoch e begins in real epoch e W. How many workers we have does not matter."""

    @model_validator(mode="before")
    @classmethod
    def _published_values(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("framework") == "moby":
            return {"drop_path_online": 0.2, **value}
        return filled_in(value) if isinstance(value, dict) else value


class MocoSpec(BackboneSpec):
    """MoCo v2, and SynCo: the same with synthesized negatives."""

    framework: Literal["moco_v2", "synco"]
    """moco_v2: one queue, one direction; synco: moco_v2 with synthesized negatives."""
    drop_path_online: float = Field(default=0.0, ge=0, lt=1)
    """Stochastic depth of the online encoder."""
    drop_path_target: float = Field(default=0.0, ge=0, lt=1)
    """Stochastic depth of the momentum encoder."""
    hidden_features: int | None = Field(default=None, ge=1)
    """Width of the projector's hidden layer; the backbone's own when left out."""
    output_features: int = Field(default=128, ge=2)
    """Width C of the projections that are compared."""
    queue_size_features: int = Field(default=65536, ge=1)
    """Length K of the queue of negatives."""
    temperature: float = Field(default=0.2, gt=0)
    """InfoNCE temperature."""
    momentum: float = Field(default=0.999, ge=0, le=1)
    """Momentum of the target encoder, the same at every step."""
    negatives: NegativesSpec | None = None
    """Synthesized negatives (synco)."""
    compat: Literal["synco_v1"] | None = None
    """Do what the published code of SynCo does where it differs from its paper."""

    @model_validator(mode="before")
    @classmethod
    def _published_values(cls, value: Any) -> Any:
        return filled_in(value) if isinstance(value, dict) else value


class MocoV3Spec(TargetSpec):
    """MoCo v3: no queue, the other images of the global batch are the negatives."""

    framework: Literal["moco_v3"]
    drop_path_online: float = Field(default=0.0, ge=0, lt=1)
    """Stochastic depth of the online encoder."""
    temperature: float = Field(default=0.2, gt=0)
    """InfoNCE temperature."""
    freeze_patch_projection: bool | None = None
    """Keep a ViT's patch projection at its random start (steadier training). Left out: yes, where there is
    one."""


class ByolSpec(TargetSpec):
    """BYOL: no negatives. Published with ResNets; its drop path here, 0.1, is SynBY's."""

    framework: Literal["byol"]


class DinoSpec(BackboneSpec):
    """DINO: the student predicts the teacher's soft assignment to prototypes, over views of several sizes."""

    framework: Literal["dino"]
    drop_path_target: float = Field(default=0.0, ge=0, lt=1)
    """Stochastic depth of the teacher."""
    hidden_features: int = Field(default=2048, ge=1)
    """Width of the head's hidden layers."""
    bottleneck_features: int = Field(default=256, ge=2)
    """Width before the last layer."""
    prototypes: int = Field(default=65536, ge=2)
    """Outputs of the last layer."""
    momentum: float = Field(default=0.996, ge=0, le=1)
    """Momentum of the teacher at step 0; rises to 1 by a cosine over training."""
    student_temperature: float = Field(default=0.1, gt=0)
    """Softmax temperature of the student."""
    teacher_temperature_start: float = Field(default=0.04, gt=0)
    """Softmax temperature of the teacher in epoch 0."""
    teacher_temperature: float = Field(default=0.04, gt=0)
    """Softmax temperature of the teacher after its warm-up."""
    teacher_temperature_warmup_epochs: int = Field(default=0, ge=0)
    """Epochs over which the teacher's temperature goes linearly from start to end."""
    centre_momentum: float = Field(default=0.9, ge=0, le=1)
    """Momentum of the centre that is taken from the teacher's outputs."""
    last_layer_frozen_epochs: int = Field(default=1, ge=0)
    """Epochs at the start in which the last layer stays as it is."""


class ClassifierSpec(BackboneSpec):
    """What every framework that learns labels has."""

    classes: int | Annotated[tuple[str, ...], Field(strict=False)]
    """Number of classes, whose labels are then 0, 1, ...; or their labels in order."""
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Share of the target that is spread over all classes."""

    @property
    def number_of_classes(self) -> int:
        return len(self.class_names)

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(map(str, range(self.classes))) if isinstance(self.classes, int) else self.classes


class SupervisedSpec(ClassifierSpec):
    """The yardstick: cross-entropy on labels."""

    framework: Literal["supervised"]


MethodSpec = Annotated[
    MobySpec | MocoSpec | MocoV3Spec | ByolSpec | DinoSpec | SupervisedSpec, Field(discriminator="framework")
]
"""Section `method`, by its `framework`."""
