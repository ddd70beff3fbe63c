"""Instance masks: COCO's run lengths and polygons, checked when read, to pixels and back.

Run lengths count pixels down the columns, zeros first. Compressed ones write each count as characters of six
bits, from the third on as the difference to the count two before (cocodataset/cocoapi, common/maskApi.c).
Counts and polygons come from files that others wrote, so they are checked here before any C code sees them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...spec.errors import ResourceError
from .annotations import is_finite

Mask = dict[str, Any] | list[list[float]]


def coco_library() -> Any:
    """pycocotools with `coco`, `cocoeval` and `mask` imported.

    Raises:
        ResourceError: it is not installed.
    """
    try:
        import pycocotools.coco
        import pycocotools.cocoeval
        import pycocotools.mask
    except ImportError:
        got, step = "pycocotools is not installed", "pip install 'syn2co_ray[detect]'"
        raise ResourceError("detection", got, "the extra `detect`", step) from None
    return pycocotools


def usable_mask(mask: Any, width: int, height: int) -> Mask | None:
    """The mask, with plain counts if it is run lengths; None for what is no whole mask of this image."""
    if isinstance(mask, list):
        return mask if mask and all(_is_polygon(part, width, height) for part in mask) else None
    if not isinstance(mask, dict) or mask.get("size") != [height, width]:
        return None
    counts = mask.get("counts")
    if isinstance(counts, str):
        counts = _plain_counts(counts)
    if not isinstance(counts, list) or not all(type(count) is int and count >= 0 for count in counts):
        return None
    if sum(counts) != width * height or not sum(counts[1::2]):
        return None
    return {"size": [height, width], "counts": counts}


def pixels_of(mask: Mask, width: int, height: int) -> np.ndarray:
    """(height, width) uint8 of 0 and 1."""
    if isinstance(mask, list):
        library = coco_library().mask
        whole = library.merge(library.frPyObjects(mask, height, width))
        return np.ascontiguousarray(library.decode(whole))
    counts = mask["counts"]
    values = np.arange(len(counts), dtype=np.uint8) % 2
    return np.ascontiguousarray(np.repeat(values, counts).reshape(width, height).T)


def run_lengths(pixels: np.ndarray) -> dict[str, Any]:
    """Plain run lengths of (height, width) of anything that is zero or not."""
    flat = np.concatenate([[0], (pixels.T.ravel() != 0).astype(np.int8)])
    edges = np.flatnonzero(np.diff(flat))
    counts = np.diff(np.concatenate([[0], edges, [pixels.size]]))
    return {"size": [int(size) for size in pixels.shape], "counts": [int(count) for count in counts]}


def _is_polygon(part: Any, width: int, height: int) -> bool:
    """Whether all of it is within one image's side of the image."""
    if not (isinstance(part, list) and len(part) >= 6 and len(part) % 2 == 0):
        return False
    # pycocotools walks along each edge in steps of a fifth of a pixel, counted in 32 bits: far corners take
    # all memory or end the process.
    sides = (width, height) * (len(part) // 2)
    return all(
        is_finite(value) and -side <= value <= 2 * side for value, side in zip(part, sides, strict=True)
    )


def _plain_counts(text: str) -> list[int] | None:
    counts: list[int] = []
    value = shift = 0
    for character in text.encode("ascii", "replace"):
        bits = character - 48
        if not 0 <= bits < 64 or shift > 30:
            return None
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    return None if shift else counts
