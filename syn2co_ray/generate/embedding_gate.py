"""How near an image is to real ones, by an encoder's features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..data.index import build_index
from ..spec.generate import EmbeddingGateSpec
from ..spec.source import ObjectStoreSpec
from .encoder import Encoder, decoded_images


def real_features(spec: EmbeddingGateSpec, options: ObjectStoreSpec, device: str) -> np.ndarray:
    """Unit features (n, C) float32 of the real images."""
    encoder = Encoder(spec.encoder, options, device)
    return encoder.unit(decoded_images(build_index(spec.real, options), options, None)).numpy()


class NearestReal:
    """Images (H, W, 3) uint8 -> (n,) cosine similarity to the nearest real image."""

    def __init__(
        self, spec: EmbeddingGateSpec, real: np.ndarray, options: ObjectStoreSpec, device: str
    ) -> None:
        self.encoder = Encoder(spec.encoder, options, device)
        self.real = torch.from_numpy(real.copy())  # what Ray hands out is read-only

    def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
        return (self.encoder.unit(images) @ self.real.T).max(dim=1).values.numpy()
