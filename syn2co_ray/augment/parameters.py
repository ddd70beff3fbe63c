"""What happens to one view, drawn as a pure function of its name.

Drawing and applying are apart: the numbers below depend only on (seed, epoch, key, repeat, view) and the
image's size, so it does not matter which actor makes the view, in which batch, or with which backend.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Literal

from ..data.randomness import named_generator
from .recipes import ViewRecipe

JitterOp = Literal["brightness", "contrast", "saturation", "hue"]
JITTER_OPS: tuple[JitterOp, ...] = ("brightness", "contrast", "saturation", "hue")
JITTER_ORDERS = tuple(permutations(JITTER_OPS))

CROP_TRIES = 10
DRAWS = 4 * CROP_TRIES + 11
"""Uniform draws of a view. Each has a fixed place, so that changing one probability of a recipe
leaves all the other draws as they were."""


@dataclass(frozen=True, slots=True)
class Jitter:
    """Colour jitter: factors (1 leaves the image as it is) and hue shift in turns (0 leaves it)."""

    order: tuple[JitterOp, ...]
    brightness: float
    contrast: float
    saturation: float
    hue: float


@dataclass(frozen=True, slots=True)
class ViewParameters:
    """One view, fully determined. The crop is in pixels of the image, `blur_sigma` of the view."""

    top: int
    left: int
    height: int
    width: int
    flip: bool = False
    jitter: Jitter | None = None
    grey: bool = False
    blur_sigma: float | None = None
    solarise_threshold: int | None = None


def draw_view_parameters(
    recipe: ViewRecipe,
    *,
    image_height: int,
    image_width: int,
    seed: int,
    epoch: int,
    key: str,
    repeat: int,
    view: int,
) -> ViewParameters:
    """Draw a view.

    Args:
        recipe: the distributions.
        image_height: height of the decoded image in pixels.
        image_width: width of the decoded image in pixels.
        seed: seed of the run.
        epoch: epoch, counted from 0.
        key: stable id of the record.
        repeat: how many times the key came before within this epoch.
        view: number of the view, from 0.

    Returns:
        The same value for the same arguments, in any process.
    """
    # The key comes last: it alone may hold any character, so two names can never read the same.
    draws: list[float] = named_generator(seed, "view", epoch, repeat, view, key).random(DRAWS).tolist()
    top, left, height, width = _draw_crop(recipe, image_height, image_width, draws)
    flip, jitter, grey, blur, sigma, solarise = draws[-6:]
    low, high = recipe.blur_sigma
    return ViewParameters(
        top=top,
        left=left,
        height=height,
        width=width,
        flip=flip < recipe.flip_probability,
        jitter=_draw_jitter(recipe, draws[-11:-6]) if jitter < recipe.jitter_probability else None,
        grey=grey < recipe.grey_probability,
        blur_sigma=low + sigma * (high - low) if blur < recipe.blur_probability else None,
        solarise_threshold=recipe.solarise_threshold if solarise < recipe.solarise_probability else None,
    )


def _draw_crop(
    recipe: ViewRecipe, height: int, width: int, draws: Sequence[float]
) -> tuple[int, int, int, int]:
    """Top, left, height and width, drawn as torchvision's RandomResizedCrop does."""
    smallest, largest = recipe.crop_scale
    lowest, highest = recipe.crop_ratio
    log_lowest, log_highest = math.log(lowest), math.log(highest)
    for start in range(0, 4 * CROP_TRIES, 4):
        area_draw, ratio_draw, top_draw, left_draw = draws[start : start + 4]
        area = height * width * (smallest + area_draw * (largest - smallest))
        ratio = math.exp(log_lowest + ratio_draw * (log_highest - log_lowest))
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(top_draw * (height - crop_height + 1))
            return top, int(left_draw * (width - crop_width + 1)), crop_height, crop_width
    # No try fitted (a very long or tiny image): the largest centred part with an allowed ratio.
    crop_width, crop_height = width, height
    if width < lowest * height:
        crop_height = round(width / lowest)
    elif width > highest * height:
        crop_width = round(height * highest)
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def _draw_jitter(recipe: ViewRecipe, draws: Sequence[float]) -> Jitter:
    """Factors and order, drawn as torchvision's ColorJitter does."""
    order, brightness, contrast, saturation, hue = draws
    return Jitter(
        order=JITTER_ORDERS[int(order * len(JITTER_ORDERS))],
        brightness=_factor(recipe.brightness, brightness),
        contrast=_factor(recipe.contrast, contrast),
        saturation=_factor(recipe.saturation, saturation),
        hue=(2 * hue - 1) * recipe.hue,
    )


def _factor(spread: float, draw: float) -> float:
    low, high = max(0.0, 1 - spread), 1 + spread
    return low + draw * (high - low)


def blur_radius(sigma: float, image_size: int) -> int:
    """Radius in pixels of the Gaussian kernel, both backends: 2.5 sigma, and less than the view.

    Outside 2.5 sigma lie 1.2 % of the weight; on photos the cut changes a pixel by 0.1 of 255 on average.
    """
    return min(math.ceil(2.5 * sigma), image_size - 1)
