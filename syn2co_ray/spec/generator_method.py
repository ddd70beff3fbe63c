"""Section `method` of `kind: train_generator`: the diffusion model and how it is trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .base import Section


class DdpmSpec(Section):
    """A small unconditional denoising diffusion model on pixels, trained from nothing."""

    framework: Literal["ddpm"]
    block_channels: Annotated[tuple[int, ...], Field(strict=False)] = (64, 128, 128)
    """Channels of the network's levels, finest first; each level halves the image."""
    layers_per_block: int = Field(default=2, ge=1)
    """Residual layers of a level."""
    attention_levels: Annotated[tuple[int, ...], Field(strict=False)] = ()
    """Levels, from 0, with self-attention."""
    timesteps: int = Field(default=1000, ge=2)
    """Steps of the noise schedule."""
    noise_schedule: Literal["linear", "squaredcos_cap_v2"] = "linear"
    """How the noise grows over the timesteps: DDPM's, or the cosine of Improved DDPM."""
    momentum: float = Field(default=0.999, ge=0, lt=1)
    """Momentum of the averaged weights, which are those that are published."""
    weights_dtype: Literal["float32", "float16"] = "float32"
    """Precision of the published weights."""


class LoraSpec(Section):
    """Low-rank changes to a text-to-image model of Stable Diffusion's kind."""

    framework: Literal["lora"]
    source: str = Field(min_length=1)
    """Folder of the pipeline, the same path on every node."""
    prompt: str = Field(min_length=1)
    """Text that belongs to an image; {name} stands for its class."""
    classes: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Labels of the images, where the prompt has {name}."""
    prompt_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of images learned without text, for guidance."""
    rank: int = Field(default=8, ge=1)
    """Rank of the changes."""
    weights_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the networks that stay as they are; the LoRA weights are float32."""


GeneratorMethodSpec = Annotated[DdpmSpec | LoraSpec, Field(discriminator="framework")]
"""Section `method`, by its `framework`."""
