"""Section `augment`: the recipe that turns a record into views."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .base import EXECUTION_ONLY, Pool, PoolOrCount, Section

Probability = Annotated[float, Field(ge=0, le=1)]


DINO_LOCAL_VIEWS, DINO_LOCAL_IMAGE_SIZE = 8, 96
"""Published number and size of local views."""


class AugmentSpec(Section):
    """Views of a record. Fields left out take the recipe's published value."""

    recipe: Literal["byol", "moco_v2", "dino", "supervised", "plain"] = "byol"
    """byol: asymmetric views (blur 1.0 / 0.1, solarise 0 / 0.2); moco_v2: symmetric; dino: two views as
    byol's and small local ones; supervised: one view, cropped and flipped; plain: one view,
    flipped only (generators)."""
    image_size: int = Field(ge=8)
    """Height and width of a view in pixels."""
    local_views: int | None = Field(default=None, ge=0)
    """Number of local views of a record (dino)."""
    local_image_size: int | None = Field(default=None, ge=8)
    """Height and width of a local view in pixels (dino)."""
    local_crop_scale: tuple[float, float] | None = Field(default=None, strict=False)
    """Smallest and largest area of a local view's crop, as parts of the image (dino)."""
    crop_scale: tuple[float, float] | None = Field(default=None, strict=False)
    """Smallest and largest area of the random crop, as parts of the image."""
    flip_probability: Probability | None = None
    """Chance of a horizontal flip; 0 for images with a left and a right, such as digits."""
    jitter_probability: Probability | None = None
    """Chance that brightness, contrast, saturation and hue change."""
    grey_probability: Probability | None = None
    """Chance that colour is dropped."""
    blur_probability: tuple[Probability, Probability] | None = Field(default=None, strict=False)
    """Chance of a Gaussian blur in view 1 and in view 2; local views have the recipe's."""
    solarise_probability: tuple[Probability, Probability] | None = Field(default=None, strict=False)
    """Chance that bright pixels are inverted, in view 1 and in view 2."""
    backend: Literal["auto", "opencv", "torch"] = "auto"
    """opencv: uint8 on CPU; torch: batches on a device; auto: torch where views are made with a GPU."""
    placement: Literal["actors", "trainer"] = Field(default="actors", json_schema_extra=EXECUTION_ONLY)
    """Who decodes and makes views: actors, on any CPUs or GPUs of the cluster; or each training worker for
    itself, beside its step, on its device and all its CPUs (`train.workers.cpus_each`) but one. Same draws,
    and with the same backend the same pixels."""
    actors: PoolOrCount = Field(default=Pool(min=1, max=1), json_schema_extra=EXECUTION_ONLY)
    """Augmentation actors: decode and make views. None are started with `placement: trainer`."""
