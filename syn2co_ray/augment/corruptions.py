"""Corrupted evaluation views: common corruptions at five severities.

Formulas and constants: Hendrycks and Dietterich, arXiv 1903.12261, and the code its data sets were made with
(github.com/hendrycks/robustness: ImageNet-C for views of 64 pixels and more, CIFAR-10-C below, where the same
strength would leave nothing). x in [0, 1], per pixel and channel unless said; results are cut to [0, 1] and
truncated to uint8, as there.

    gaussian_noise    x + N(0, c^2)
    shot_noise        Poisson(c x) / c
    impulse_noise     0 or 1, evenly, with probability c
    gaussian_blur     Gaussian of standard deviation c pixels, cut at 4 c, edges repeated
    brightness        V + c in HSV
    contrast          c (x - mean) + mean, mean of the channel over the image
    saturate          c_0 S + c_1 in HSV
    pixelate          shrunk to a side of c S and enlarged again, both by Pillow's box filter
    jpeg_compression  encoded by Pillow with quality c and decoded

Not here: those that need ImageMagick or photographs (motion blur, snow, frost), and defocus, glass, zoom,
fog, elastic. So a mean over these is not the published mCE. Draws come from (seed, key, corruption,
severity), so the pixels of noise are not those of the published files.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from PIL import Image

from ..data.randomness import named_generator
from .eval_view import SMALL_VIEW_PIXELS

LARGE: dict[str, tuple[Any, ...]] = {
    "gaussian_noise": (0.08, 0.12, 0.18, 0.26, 0.38),
    "shot_noise": (60, 25, 12, 5, 3),
    "impulse_noise": (0.03, 0.06, 0.09, 0.17, 0.27),
    "gaussian_blur": (1, 2, 3, 4, 6),
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
    "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
    "saturate": ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
    "pixelate": (0.6, 0.5, 0.4, 0.3, 0.25),
    "jpeg_compression": (25, 18, 15, 10, 7),
}
"""c of severities 1 to 5 as of ImageNet-C."""
SMALL: dict[str, tuple[Any, ...]] = {
    "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),
    "shot_noise": (500, 250, 100, 75, 50),
    "impulse_noise": (0.01, 0.02, 0.03, 0.05, 0.07),
    "gaussian_blur": (0.4, 0.6, 0.7, 0.8, 1),
    "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
    "saturate": ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
    "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),
    "jpeg_compression": (80, 65, 58, 50, 40),
}
"""The same as of CIFAR-10-C."""


def corrupt(view: np.ndarray, corruption: str, severity: int, seed: int, key: str) -> np.ndarray:
    """One corrupted view.

    Args:
        view: (3, S, S) uint8.
        corruption: its name.
        severity: 1 to 5.
        seed: of the job.
        key: of the record; with the seed it decides all draws.

    Returns:
        (3, S, S) uint8, C-contiguous.
    """
    image = view.transpose(1, 2, 0)
    strength = (SMALL if len(image) < SMALL_VIEW_PIXELS else LARGE)[corruption][severity - 1]
    if corruption in _OF_PIXELS:
        changed = _OF_PIXELS[corruption](image, strength)
    else:
        generator = named_generator(seed, "corrupt", key, corruption, severity)
        values = _OF_VALUES[corruption](image / 255.0, strength, generator)
        changed = (values.clip(0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(changed.transpose(2, 0, 1))


def _gaussian_noise(x: np.ndarray, c: float, generator: np.random.Generator) -> np.ndarray:
    return x + generator.normal(scale=c, size=x.shape)


def _shot_noise(x: np.ndarray, c: float, generator: np.random.Generator) -> np.ndarray:
    return generator.poisson(x * c) / c


def _impulse_noise(x: np.ndarray, c: float, generator: np.random.Generator) -> np.ndarray:
    hit, salt = generator.random(x.shape) < c, generator.random(x.shape) < 0.5
    return np.where(hit, salt.astype(x.dtype), x)


def _gaussian_blur(x: np.ndarray, c: float, generator: np.random.Generator) -> np.ndarray:
    size = 2 * int(4 * c + 0.5) + 1
    return cv2.GaussianBlur(x, (size, size), sigmaX=c, borderType=cv2.BORDER_REPLICATE)


def _brightness(x: np.ndarray, c: float, generator: np.random.Generator) -> np.ndarray:
    hsv = cv2.cvtColor(x.astype(np.float32), cv2.COLOR_RGB2HSV)
    hsv[..., 2] = (hsv[..., 2] + c).clip(0, 1)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _contrast(x: np.ndarray, c: float, generator: np.random.Generator) -> np.ndarray:
    mean = x.mean(axis=(0, 1), keepdims=True)
    return (x - mean) * c + mean


def _saturate(x: np.ndarray, c: tuple[float, float], generator: np.random.Generator) -> np.ndarray:
    hsv = cv2.cvtColor(x.astype(np.float32), cv2.COLOR_RGB2HSV)
    hsv[..., 1] = (hsv[..., 1] * c[0] + c[1]).clip(0, 1)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _pixelate(image: np.ndarray, c: float) -> np.ndarray:
    side = len(image)
    small = Image.fromarray(image).resize((int(side * c), int(side * c)), Image.Resampling.BOX)
    return np.asarray(small.resize((side, side), Image.Resampling.BOX))


def _jpeg_compression(image: np.ndarray, c: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=c)
    return np.asarray(Image.open(buffer))


_OF_VALUES: dict[str, Callable[[np.ndarray, Any, np.random.Generator], np.ndarray]] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "gaussian_blur": _gaussian_blur,
    "brightness": _brightness,
    "contrast": _contrast,
    "saturate": _saturate,
}
_OF_PIXELS: dict[str, Callable[[np.ndarray, Any], np.ndarray]] = {
    "pixelate": _pixelate,
    "jpeg_compression": _jpeg_compression,
}
