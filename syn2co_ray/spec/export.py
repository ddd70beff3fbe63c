"""A job that writes a trained backbone in the forms that others load: `kind: export`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .base import EXECUTION_ONLY, Section
from .source import ObjectStoreSpec
from .weights import WeightsSpec

ExportFormat = Literal["timm", "torchvision", "onnx", "torch_export"]


class ExportSpec(Section):
    """A backbone in a folder of its own, each form verified against it by a forward pass."""

    kind: Literal["export"]
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    """Lower-case name; the folder is this name and a short hash of the spec."""
    storage: str = Field(min_length=1, json_schema_extra=EXECUTION_ONLY)
    """Where the folder goes: a local path or an object store."""
    weights: WeightsSpec
    formats: Annotated[tuple[ExportFormat, ...], Field(strict=False, min_length=1)] = ("timm", "torch_export")
    """timm: config.json, model.safetensors and README.md, a folder that timm loads, in the form of a
    Hugging Face repository. torchvision: a state dict, where timm's names and shapes are torchvision's
    (ResNets). onnx: any batch size (extra `export`). torch_export: a .pt2 program, any batch size."""
    licence: str | None = None
    """Licence of the weights, for the model card (a hub identifier such as apache-2.0)."""
    error_max: float = Field(default=1e-4, gt=0, json_schema_extra=EXECUTION_ONLY)
    """Largest difference of a feature from the source's that is let through, as part of the largest one."""
    object_store: ObjectStoreSpec = Field(default=ObjectStoreSpec(), json_schema_extra=EXECUTION_ONLY)
