"""Section `weights`: which trained backbone a job measures or exports."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .base import Section

Patterns = Annotated[tuple[str, ...], Field(strict=False)]


class WeightsSpec(Section):
    """A backbone with its weights: of a run, from a file, or random. One of `run`, `file`, `random_seed`."""

    run: str | None = None
    """URI of a run's folder; backbone and image size are then the run's."""
    step: int | None = Field(default=None, ge=1)
    """Step of that run's checkpoint; the newest whole one when left out."""
    file: str | None = None
    """URI of a .safetensors file, or of a torch file that holds tensors and plain values only."""
    random_seed: int | None = Field(default=None, ge=0)
    """A random backbone: the one that a run of this seed begins with."""
    encoder: Literal["online", "target"] = "online"
    """Of a run, or a file that holds both: the trained encoder, which the figures in a run's own report
    belong to and MoCo, MoBY and BYOL are published with; or its moving average, as DINO is published."""
    backbone: str | None = Field(default=None, min_length=1)
    """Any timm model name with a pooled feature; for `file` and `random_seed`."""
    image_size: int | None = Field(default=None, ge=8)
    """Height and width in pixels of what it sees; a run's own, else 224, when left out."""
    patch_size: int | None = Field(default=None, ge=1)
    """Patch size of a ViT, when not the one of its name."""
    backbone_options: dict[str, int | float | bool | str] = Field(default={})
    """Further keyword arguments of the timm model."""
    small_image_stem: bool = False
    """ResNets: 3 x 3 convolution of stride 1 and no pooling at the start."""
    allow_missing: Patterns = ()
    """Names of tensors (with * and ?) that the file may lack; they stay random."""
    allow_unexpected: Patterns = ()
    """Names of tensors (with * and ?) that the backbone has no place for; they are left out."""
