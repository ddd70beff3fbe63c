"""The published pipeline as an oracle: torchvision's own operations on Pillow images."""

from __future__ import annotations

import numpy as np
import torchvision.transforms.functional as F
from PIL import Image

from syn2co_ray.augment.parameters import ViewParameters

COLOUR = {
    "brightness": F.adjust_brightness,
    "contrast": F.adjust_contrast,
    "saturation": F.adjust_saturation,
    "hue": F.adjust_hue,
}


def published_view(image: np.ndarray, view: ViewParameters, image_size: int) -> np.ndarray:
    """(H, W, 3) uint8 to (3, S, S) uint8."""
    size = [image_size, image_size]
    picture = F.resized_crop(Image.fromarray(image), view.top, view.left, view.height, view.width, size)
    if view.flip:
        picture = F.hflip(picture)
    if view.jitter is not None:
        for name in view.jitter.order:
            picture = COLOUR[name](picture, getattr(view.jitter, name))
    if view.grey:
        picture = F.to_grayscale(picture, 3)
    if view.blur_sigma is not None:
        width = min(23, 2 * image_size - 1)  # BYOL's kernel for 224 pixels
        picture = F.gaussian_blur(picture, [width, width], [view.blur_sigma] * 2)
    if view.solarise_threshold is not None:
        picture = F.solarize(picture, view.solarise_threshold)
    return np.asarray(picture).transpose(2, 0, 1)


def pillow_resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Absolute difference in levels of 255."""
    assert one.shape == other.shape
    assert one.dtype == other.dtype == np.uint8
    return np.abs(one.astype(int) - other.astype(int))
