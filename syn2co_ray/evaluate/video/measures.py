"""J and F of video object segmentation, as DAVIS defines them (arXiv 1704.00675).

The definitions are of Perazzi et al., CVPR 2016; masks with several objects are scored object by object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

TOLERANCE = 0.008
"""How far a boundary may be off, as part of the image's diagonal; rounded up to whole pixels."""
HIT = 0.5
"""A frame above this counts for recall."""
QUARTERS = 4


@dataclass(frozen=True)
class Statistics:
    """Over the frames of one object, each 0 to 1 (decay -1 to 1)."""

    mean: float
    recall: float
    """Part of the frames above 0.5."""
    decay: float
    """Mean of the first quarter of the frames less that of the last."""


def region_similarity(truth: np.ndarray, found: np.ndarray) -> float:
    """J: intersection over union of two masks (H, W) bool; 1 where both are empty."""
    union = np.count_nonzero(truth | found)
    return np.count_nonzero(truth & found) / union if union else 1.0


def boundary_accuracy(truth: np.ndarray, found: np.ndarray) -> float:
    """F: harmonic mean of precision and recall of the boundary pixels of two masks (H, W) bool.

    A boundary pixel is right if the other boundary has a pixel at most 0.8 % of the diagonal away. A mask
    without boundary has precision 1, or recall 1, and both are 1 where neither has one.
    """
    radius = int(np.ceil(TOLERANCE * np.hypot(*truth.shape)))
    true_edge, found_edge = boundary(truth), boundary(found)
    precision = _matched(found_edge, true_edge, radius)
    recall = _matched(true_edge, found_edge, radius)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def boundary(mask: np.ndarray) -> np.ndarray:
    """Pixels that differ from the one to the right, below, or both: one pixel wide, (H, W) bool.

    In the last column only the one below is looked at, in the last row only the one to the right.
    """
    # Beyond the image the mask goes on as it ends: the border itself is no boundary.
    grown = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    right, below, across = grown[:-1, 1:], grown[1:, :-1], grown[1:, 1:]
    return (mask ^ right) | (mask ^ below) | (mask ^ across)


def statistics(values: Sequence[float]) -> Statistics:
    """Mean, recall and decay of the values of an object's frames, in their order; at least one.

    The quarters are those of DAVIS: neighbours share the frame between them.
    """
    found = np.asarray(values, dtype=np.float64)
    ends = np.rint(np.linspace(1, len(found), QUARTERS + 1) + 1e-10).astype(int) - 1
    first, last = found[ends[0] : ends[1] + 1], found[ends[-2] : ends[-1] + 1]
    return Statistics(float(found.mean()), float((found > HIT).mean()), float(first.mean() - last.mean()))


def _matched(edge: np.ndarray, other: np.ndarray, radius: int) -> float:
    """Part of `edge` within `radius` pixels of `other`; 1 for no edge at all."""
    count = np.count_nonzero(edge)
    if not count:
        return 1.0
    offsets = np.arange(-radius, radius + 1)
    disk = (offsets[:, None] ** 2 + offsets**2 <= radius**2).astype(np.uint8)
    near = cv2.dilate(other.astype(np.uint8), disk).astype(bool)
    return np.count_nonzero(edge & near) / count
