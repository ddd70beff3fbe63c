"""From masks to the figures of DAVIS: per object, per sequence, and over all objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...spec.errors import DataError
from .davis import Video
from .measures import Statistics, boundary_accuracy, region_similarity, statistics
from .segment import Truth


@dataclass(frozen=True)
class ObjectScore:
    """How well one object was followed."""

    region: Statistics
    """J."""
    boundary: Statistics
    """F."""


def measured_frames(video: Video, truth: Truth) -> list[int]:
    """Frames that are scored: those with a mask, but for the first, which is given, and the last (as DAVIS).

    Raises:
        DataError: there is none.
    """
    numbers = [number for number in truth.masks if 0 < number < len(video.frame_files) - 1]
    if not numbers:
        raise DataError(
            video.masks.uri,
            "no mask between the first and the last frame",
            "at least one: the first is given, and the last is left out, as DAVIS does",
            "add masks, or leave the sequence out of the image set",
        )
    return numbers


def object_scores(found: np.ndarray, truth: Truth, frames: Sequence[int]) -> list[ObjectScore]:
    """Scores of each object.

    Args:
        found: (T, H, W) uint8, masks of all frames.
        truth: what they should be.
        frames: which ones are scored.
    """
    scores = []
    for number in truth.objects:
        pairs = [(truth.masks[frame] == number, found[frame] == number) for frame in frames]
        region = statistics([region_similarity(*pair) for pair in pairs])
        scores.append(ObjectScore(region, statistics([boundary_accuracy(*pair) for pair in pairs])))
    return scores


def figures(scores: Sequence[ObjectScore]) -> dict[str, float]:
    """Means over objects in percent; `jf_mean_percent` is the mean of J and F, the headline of DAVIS."""
    found = {}
    for letter, each in (("j", [s.region for s in scores]), ("f", [s.boundary for s in scores])):
        for name in ("mean", "recall", "decay"):
            found[f"{letter}_{name}_percent"] = 100 * float(np.mean([getattr(one, name) for one in each]))
    headline = (found["j_mean_percent"] + found["f_mean_percent"]) / 2
    return {"jf_mean_percent": headline, **found}
