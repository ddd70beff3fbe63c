"""A picture at the size of a tile, for sheets that people look at."""

from __future__ import annotations

import numpy as np
from PIL import Image


def fitted(picture: np.ndarray, tile: int) -> Image.Image:
    """The whole picture (H, W, 3) uint8, as large as a square of `tile` pixels allows.

    Small ones are enlarged without smoothing, so that their pixels can be seen.
    """
    image = Image.fromarray(np.ascontiguousarray(picture))
    scale = tile / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
