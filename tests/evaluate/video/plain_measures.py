"""F of DAVIS written once more, by distances between pixels instead of morphology."""

from __future__ import annotations

import math

import numpy as np
from scipy.spatial import cKDTree


def plain_boundary(mask: np.ndarray) -> set[tuple[int, int]]:
    """Pixel by pixel: it differs from its right, lower or lower right neighbour, as far as there is one."""
    height, width = mask.shape
    found, value = set(), mask.tolist()
    # Further away than a pixel from the object all pixels are alike.
    ys, xs = np.nonzero(mask)
    for y in range(max(0, ys.min(initial=height) - 1), ys.max(initial=-1) + 1):
        for x in range(max(0, xs.min(initial=width) - 1), xs.max(initial=-1) + 1):
            near = []
            if x + 1 < width:
                near.append(value[y][x + 1])
            if y + 1 < height:
                near.append(value[y + 1][x])
            if x + 1 < width and y + 1 < height:
                near.append(value[y + 1][x + 1])
            if any(other != value[y][x] for other in near):
                found.add((y, x))
    return found


def plain_f(truth: np.ndarray, found: np.ndarray) -> float:
    """By distances between boundary pixels."""
    reach = math.ceil(0.008 * math.sqrt(truth.shape[0] ** 2 + truth.shape[1] ** 2))
    first, second = plain_boundary(truth), plain_boundary(found)

    def matched(these: set[tuple[int, int]], those: set[tuple[int, int]]) -> float:
        if not these or not those:
            return 0.0 if these else 1.0
        away, _ = cKDTree(sorted(those)).query(sorted(these))
        # Squares of distances between pixels are whole numbers: a half cannot be met.
        return float((away**2 < reach**2 + 0.5).mean())

    precision, recall = matched(second, first), matched(first, second)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
