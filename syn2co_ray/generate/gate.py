"""The quality gate: which images are kept, and why the others are not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ..spec.generate import GateSpec

HASH_SIDE = 8


@dataclass(frozen=True)
class Scores:
    """What the gate saw of an image, and why it refuses it (None: it does not)."""

    contrast: float
    similarity: float | None
    fault: str | None


@dataclass(frozen=True)
class Gate:
    """The gate with what it compares to.

    Attributes:
        spec: section `gate`.
        reference: hashes of real images that none may duplicate.
        similarity: images (H, W, 3) uint8 -> (n,) cosine similarity of each to its nearest real one.
    """

    spec: GateSpec
    reference: ReferenceHashes | None = None
    similarity: Callable[[Sequence[np.ndarray]], np.ndarray] | None = None

    def scores(self, images: np.ndarray, pixels: Sequence[np.ndarray]) -> list[Scores]:
        """Look at images by themselves.

        Args:
            images: (n, H, W, 3) float in [0, 1], as the pipeline gave them.
            pixels: the same as uint8.
        """
        similar = None if self.similarity is None else self.similarity(pixels)
        found = []
        for number, image in enumerate(images):
            finite = bool(np.isfinite(image).all())
            contrast = float(image.mean(axis=2).std()) if finite else 0.0
            similarity = None if similar is None else float(similar[number])
            found.append(Scores(contrast, similarity, self._fault(finite, contrast, similarity)))
        return found

    def _fault(self, finite: bool, contrast: float, similarity: float | None) -> str | None:
        if not finite:
            return "not finite"
        if contrast < self.spec.contrast_min:
            return "no contrast"
        embedding = self.spec.embedding
        if embedding is not None and similarity is not None and similarity < embedding.similarity_min:
            return "unlike any real image"
        return None

    def duplicate(self, found: int, accepted: Iterable[int]) -> str | None:
        """Why a hash is refused beside those of images that were accepted before, or None."""
        bits_max = self.spec.duplicate_bits_max
        if bits_max is None:
            return None
        if any(differing_bits(found, other) <= bits_max for other in accepted):
            return "duplicate"
        return None if self.reference is None else self.reference.duplicate_of(found, bits_max)


@dataclass(frozen=True)
class ReferenceHashes:
    """Hashes (n,) uint64 with the number (n,) of the set each is from, and the sets' URIs."""

    hashes: np.ndarray
    set_of: np.ndarray
    uris: tuple[str, ...]

    def duplicate_of(self, found: int, bits_max: int) -> str | None:
        """Why an image with this hash is refused, or None."""
        bits = np.bitwise_count(self.hashes ^ np.uint64(found))
        near = np.flatnonzero(bits <= bits_max)
        return f"duplicate of {self.uris[int(self.set_of[near[0]])]}" if len(near) else None


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
