"""Corruptions of ImageNet-C and CIFAR-10-C written once more, with NumPy, SciPy, matplotlib and Pillow.

Formulas and constants as of the code those data sets were made with (github.com/hendrycks/robustness,
ImageNet-C/create_c), in float64.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from PIL import Image
from scipy.ndimage import gaussian_filter

IMAGENET_C: dict[str, Any] = {
    "gaussian_noise": [0.08, 0.12, 0.18, 0.26, 0.38],
    "shot_noise": [60, 25, 12, 5, 3],
    "impulse_noise": [0.03, 0.06, 0.09, 0.17, 0.27],
    "gaussian_blur": [1, 2, 3, 4, 6],
    "brightness": [0.1, 0.2, 0.3, 0.4, 0.5],
    "contrast": [0.4, 0.3, 0.2, 0.1, 0.05],
    "saturate": [(0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)],
    "pixelate": [0.6, 0.5, 0.4, 0.3, 0.25],
    "jpeg_compression": [25, 18, 15, 10, 7],
}
CIFAR_10_C: dict[str, Any] = {
    "gaussian_noise": [0.04, 0.06, 0.08, 0.09, 0.10],
    "shot_noise": [500, 250, 100, 75, 50],
    "impulse_noise": [0.01, 0.02, 0.03, 0.05, 0.07],
    "gaussian_blur": [0.4, 0.6, 0.7, 0.8, 1],
    "brightness": [0.05, 0.1, 0.15, 0.2, 0.3],
    "contrast": [0.75, 0.5, 0.4, 0.3, 0.15],
    "saturate": [(0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)],
    "pixelate": [0.95, 0.9, 0.85, 0.75, 0.65],
    "jpeg_compression": [80, 65, 58, 50, 40],
}


def plainly_corrupted(
    image: np.ndarray, corruption: str, strength: Any, generator: np.random.Generator
) -> np.ndarray:
    """(S, S, 3) uint8 -> the same."""
    if corruption == "pixelate":
        side = len(image)
        small = Image.fromarray(image).resize((int(side * strength),) * 2, Image.Resampling.BOX)
        return np.asarray(small.resize((side, side), Image.Resampling.BOX))
    if corruption == "jpeg_compression":
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=strength)
        return np.asarray(Image.open(buffer))
    values = _changed(image / 255.0, corruption, strength, generator)
    return np.uint8(np.clip(values, 0, 1) * 255)


def _changed(x: np.ndarray, corruption: str, c: Any, generator: np.random.Generator) -> np.ndarray:
    if corruption == "gaussian_noise":
        return x + c * generator.standard_normal(x.shape)
    if corruption == "shot_noise":
        return generator.poisson(c * x) / c
    if corruption == "impulse_noise":
        chance = generator.random(x.shape)
        return np.where(chance < c / 2, 0.0, np.where(chance < c, 1.0, x))
    if corruption == "gaussian_blur":
        return gaussian_filter(x, (c, c, 0), mode="nearest", truncate=4)
    if corruption == "contrast":
        mean = x.reshape(-1, 3).mean(axis=0)
        return mean + c * (x - mean)
    hue, saturation, value = np.moveaxis(rgb_to_hsv(x), -1, 0)
    if corruption == "brightness":
        value = np.clip(value + c, 0, 1)
    else:
        saturation = np.clip(c[0] * saturation + c[1], 0, 1)
    return hsv_to_rgb(np.stack([hue, saturation, value], axis=-1))
