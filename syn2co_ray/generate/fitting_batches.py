"""Batches that fit into memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .shards import MakeImages
from .slots import Slot


class FittingBatches:
    """Makes images with as many at once as memory takes: halves the batch when it runs out.

    The smaller size stays: what did not fit once will not fit the next time. Noise belongs to images, not to
    batches, so that halving changes no image (but for rounding, see `pipeline.ImageMaker`).
    """

    def __init__(self, maker: MakeImages, images_per_batch: int) -> None:
        self.maker, self.images_per_batch = maker, images_per_batch

    def __call__(
        self, slots: Sequence[Slot], seeds: Sequence[int], originals: Sequence[np.ndarray] | None
    ) -> np.ndarray:
        """See `pipeline.ImageMaker.__call__`.

        Raises:
            torch.OutOfMemoryError: one image alone does not fit.
        """
        import torch

        made: list[np.ndarray] = []
        first = 0
        while first < len(slots):
            part = slice(first, first + self.images_per_batch)
            try:
                made.append(
                    self.maker(slots[part], seeds[part], None if originals is None else originals[part])
                )
            except torch.OutOfMemoryError:
                if self.images_per_batch == 1:
                    raise
                self.images_per_batch = (self.images_per_batch + 1) // 2
                torch.cuda.empty_cache()
                continue
            first += self.images_per_batch
        return np.concatenate(made)
