"""The one view that evaluation uses: no randomness."""

from __future__ import annotations

import numpy as np

from .opencv_backend import resize_antialiased

RESIZE_RATIO = 256 / 224
"""Shorter side before the centre crop, relative to the view: the usual 256 for 224."""

SMALL_VIEW_PIXELS = 64
"""Views below this size are resized as a whole: small images (CIFAR, digits) have no margin to cut."""

ASPECT_MAX = 4
"""Of longer images only the middle is resized, so that memory does not grow with the aspect ratio."""


def eval_view(image: np.ndarray, image_size: int) -> np.ndarray:
    """Shorter side to round(image_size * 256 / 224), then the central square.

    Below `SMALL_VIEW_PIXELS` the whole image is resized to image_size x image_size instead.

    Args:
        image: (H, W, 3) uint8 RGB.
        image_size: S, height and width of the view in pixels.

    Returns:
        (3, S, S) uint8, C-contiguous.
    """
    if image_size < SMALL_VIEW_PIXELS:
        view = resize_antialiased(image, image_size, image_size)
    else:
        view = _centre_crop(_shorter_side_to(image, round(image_size * RESIZE_RATIO)), image_size, image_size)
    return np.ascontiguousarray(view.transpose(2, 0, 1))


def _shorter_side_to(image: np.ndarray, length: int) -> np.ndarray:
    shorter = min(image.shape[:2])
    image = _centre_crop(image, ASPECT_MAX * shorter, ASPECT_MAX * shorter)
    height, width = image.shape[:2]
    # The longer side is cut, not rounded, as torchvision's Resize does.
    return resize_antialiased(image, length * height // shorter, length * width // shorter)


def _centre_crop(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The middle `height` x `width` of an image, or less along an axis that has less."""
    rows, columns = image.shape[:2]
    top, left = round(max(rows - height, 0) / 2), round(max(columns - width, 0) / 2)
    return image[top : top + height, left : left + width]
