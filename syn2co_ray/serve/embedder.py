"""Encoded images to features, exactly as `kind: evaluate` makes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..augment.eval_view import eval_view
from ..data.decode import decode_rgb
from ..evaluate.networks import PackedNetwork, unpacked
from ..spec.errors import CheckpointError


class ImageEmbedder:
    """A backbone on the device that computes."""

    def __init__(self, packed: PackedNetwork, image_pixels_max: int, device: torch.device | None = None):
        """Unpack the network, named by where its weights are from, on `device`: the GPU where there is one,
        when left out."""
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.digest, self.source, self.image_size = packed.digest, packed.name, packed.image_size
        self._embed, self._pixels_max = unpacked(packed, self.device).embed, image_pixels_max

    def view(self, encoded: bytes) -> np.ndarray:
        """Bytes of an image file -> the one view that evaluation uses, (3, S, S) uint8.

        Raises:
            UnreadableImage: no image, a damaged one, or one with too many pixels.
        """
        return eval_view(decode_rgb(encoded, pixels_max=self._pixels_max), self.image_size)

    def features(self, views: Sequence[np.ndarray]) -> np.ndarray:
        """n views (3, S, S) uint8 -> features (n, F) float32, in one forward pass."""
        images = torch.from_numpy(np.stack(views)).to(self.device)
        return self._embed(images).float().cpu().numpy()

    def check(self) -> int:
        """Embed a grey image; returns F, the number of features.

        Raises:
            CheckpointError: features that are not finite.
        """
        grey = np.full((3, self.image_size, self.image_size), 128, np.uint8)
        found = self.features([grey])
        if not np.isfinite(found).all():
            got, step = "features of a grey image are not finite", "it has diverged: take an earlier step"
            raise CheckpointError(self.source, got, "finite numbers", step)
        return found.shape[1]
