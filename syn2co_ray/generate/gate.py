"""The quality gate: which images are kept, and why the others are not."""

from __future__ import annotations

import cv2
import numpy as np

from ..spec.generate import GateSpec

HASH_SIDE = 8


def fault_of(image: np.ndarray, gate: GateSpec) -> str | None:
    """Why an image by itself is refused, or None.

    Args:
        image: (H, W, 3) float in [0, 1], as the pipeline gave it.
    """
    if not np.isfinite(image).all():
        return "not finite"
    contrast = float(image.mean(axis=2).std())
    return "no contrast" if contrast < gate.contrast_min else None


def perceptual_hash(image: np.ndarray) -> int:
    """64 bits: for each of 8 x 8 places, whether the grey image is brighter there than to its right.

    Small changes of scale, colour or compression change few bits (a difference hash).

    Args:
        image: (H, W, 3) uint8.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (HASH_SIDE + 1, HASH_SIDE), interpolation=cv2.INTER_AREA).astype(np.int16)
    bits = (small[:, :-1] > small[:, 1:]).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def differing_bits(first: int, second: int) -> int:
    """Number of bits in which two hashes differ."""
    return (first ^ second).bit_count()
