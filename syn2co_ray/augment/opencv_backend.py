"""Views on one CPU core with OpenCV, uint8 from end to end.

The pictures are those of the published pipeline (Pillow images, torchvision's operations) within the
tolerances stated in tests/augment/test_opencv_backend.py, at more than five times its speed; what was
measured is in tests/benchmarks/bench_augment.py.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from .parameters import Jitter, ViewParameters, blur_radius

# Ray gives an actor one core; OpenCV's own thread pool would take all cores of the node in each actor.
cv2.setNumThreads(0)

GREY_WEIGHTS = np.array([0.299, 0.587, 0.114])
"""ITU-R 601 luma of red, green and blue."""

TRUNCATE = -0.498
"""Added before rounding to nearest, so that values are cut like Pillow's, not rounded; the 0.002 keeps
whole numbers whole in float32."""

HALVE_FROM = 8
"""Means of 2 x 2 pixels leave some aliasing, which the smoothing that follows must remove. With 4 the
resize of a large photo takes 3/4 of the time and is 1.7 times further from Pillow's; with 2, 1/4 and 4."""

HALVE_ONE_FROM = 16
"""The same for one axis alone, so that the smoothing stays short on very long images."""

SMOOTH_FROM = 1.07
"""Shrinking by less leaves no visible aliasing."""


def apply_view(
    image: np.ndarray, parameters: ViewParameters, image_size: int, out: np.ndarray | None = None
) -> np.ndarray:
    """Make one view.

    Args:
        image: (H, W, 3) uint8 RGB.
        parameters: drawn for this image's size.
        image_size: S, height and width of the view in pixels.
        out: (3, S, S) uint8, C-contiguous, to write into.

    Returns:
        (3, S, S) uint8: crop and resize, flip, jitter, grey, blur, solarise, in this order.
    """
    top, left = parameters.top, parameters.left
    crop = image[top : top + parameters.height, left : left + parameters.width]
    view = resize_antialiased(crop, image_size, image_size)
    if parameters.flip:
        view = cv2.flip(view, 1)
    if parameters.jitter is not None:
        view = jitter_colours(view, parameters.jitter)
    if parameters.grey:
        view = cv2.cvtColor(view, cv2.COLOR_RGB2GRAY)
    if parameters.blur_sigma is not None:
        view = blur(view, parameters.blur_sigma)
    if parameters.solarise_threshold is not None:
        view = solarise(view, parameters.solarise_threshold)
    if out is None:
        out = np.empty((3, image_size, image_size), np.uint8)
    if view.ndim == 2:
        out[:] = view
    else:
        cv2.split(view, list(out))
    return out


def resize_antialiased(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear resize without aliasing, close to Pillow's BILINEAR.

    Pillow weighs source pixels with a triangle of half-width s = max(1, source / target), of variance
    s^2/6. Without shrinking that is OpenCV's bilinear resize. When shrinking, the image is first smoothed
    with a short kernel of that variance and then read by OpenCV's bicubic resize, which adds next to none
    of its own. On photos this is twice as close to Pillow as OpenCV's INTER_AREA, and 2 to 4 times faster.

    Args:
        image: (H, W, 3) uint8; may be a crop of a larger array.
        height: rows wanted.
        width: columns wanted.

    Returns:
        (height, width, 3) uint8.
    """
    rows, columns = image.shape[:2]
    if max(rows / height, columns / width) < SMOOTH_FROM:
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    image = _halved(image, height, width)
    taps_y = _smoothing_taps(rows, image.shape[0], height)
    taps_x = _smoothing_taps(columns, image.shape[1], width)
    image = cv2.sepFilter2D(image, -1, taps_x, taps_y)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)


def _halved(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The image halved along axes that are `HALVE_FROM` times too long (one alone: `HALVE_ONE_FROM`)."""
    while True:
        rows, columns = image.shape[:2]
        both = rows >= HALVE_FROM * height and columns >= HALVE_FROM * width
        by_y = 2 if both or rows >= HALVE_ONE_FROM * height else 1
        by_x = 2 if both or columns >= HALVE_ONE_FROM * width else 1
        if by_y == by_x == 1:
            return image
        # An odd last row or column is left out: only whole factors take OpenCV's fast path.
        rows, columns = rows // by_y, columns // by_x
        image = cv2.resize(
            image[: by_y * rows, : by_x * columns], (columns, rows), interpolation=cv2.INTER_AREA
        )


def _smoothing_taps(source: int, halved: int, target: int) -> np.ndarray:
    """Kernel along one axis whose variance, with that of the means taken so far, is Pillow's."""
    means = (1 - (halved / source) ** 2) / 12
    variance = max(halved / target, halved / source) ** 2 / 6 - means  # in pixels^2 after halving
    if variance <= 0.5:
        return np.array([variance / 2, 1 - variance, variance / 2], np.float32)
    sigma = math.sqrt(variance)
    return cv2.getGaussianKernel(2 * math.ceil(2 * sigma) + 1, sigma, cv2.CV_32F)


def jitter_colours(view: np.ndarray, jitter: Jitter) -> np.ndarray:
    """Brightness, contrast, saturation and hue in the order drawn. (S, S, 3) uint8 in and out."""
    for operation in jitter.order:
        view = _JITTER[operation](view, getattr(jitter, operation))
    return view


def adjust_brightness(view: np.ndarray, factor: float) -> np.ndarray:
    """factor * x, clipped and cut to uint8."""
    return _affine(view, factor * np.eye(3), 0.0)


def adjust_contrast(view: np.ndarray, factor: float) -> np.ndarray:
    """factor * x + (1 - factor) * m, m the rounded mean grey value of the view."""
    mean = np.floor(GREY_WEIGHTS @ cv2.mean(view)[:3] + 0.5)
    return _affine(view, factor * np.eye(3), (1 - factor) * mean)


def adjust_saturation(view: np.ndarray, factor: float) -> np.ndarray:
    """factor * x + (1 - factor) * grey(x)."""
    return _affine(view, factor * np.eye(3) + (1 - factor) * GREY_WEIGHTS, 0.0)


def adjust_hue(view: np.ndarray, shift: float) -> np.ndarray:
    """Hue turned by `shift` (1 is the whole circle), in HSV of 8 bits each, as Pillow has it."""
    steps = int(shift * 255)  # Pillow's image modes hold hue in 0..255
    if steps == 0:
        return view
    hsv = cv2.cvtColor(view, cv2.COLOR_RGB2HSV_FULL)
    height, width = hsv.shape[:2]
    # Whole rows, with zeros for the other two channels: 3 times faster than every third byte. Hue wraps.
    rows = hsv.reshape(height, 3 * width)
    rows += np.tile(np.array([steps % 256, 0, 0], np.uint8), width)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def _affine(view: np.ndarray, matrix: np.ndarray, offset: float) -> np.ndarray:
    """matrix @ colour + offset, clipped to 0..255 and cut to uint8."""
    rows = np.empty((3, 4), np.float32)
    rows[:, :3] = matrix
    rows[:, 3] = offset + TRUNCATE
    return cv2.transform(view, rows)


def blur(view: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur with reflected borders. (S, S, 3) or (S, S) uint8 in and out."""
    size = 2 * blur_radius(sigma, view.shape[0]) + 1
    # With float taps this is twice as fast as cv2.GaussianBlur, and rounds only once.
    taps = cv2.getGaussianKernel(size, sigma, cv2.CV_32F)
    return cv2.sepFilter2D(view, -1, taps, taps, borderType=cv2.BORDER_REFLECT_101)


def solarise(view: np.ndarray, threshold: int) -> np.ndarray:
    """255 - x where x >= threshold."""
    table = np.arange(256, dtype=np.uint8)
    table[threshold:] = 255 - table[threshold:]
    return cv2.LUT(view, table)


_JITTER = {
    "brightness": adjust_brightness,
    "contrast": adjust_contrast,
    "saturation": adjust_saturation,
    "hue": adjust_hue,
}
