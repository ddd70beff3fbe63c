"""Views in batches on any torch device, each sample with its own parameters.

Cropping, resizing and flipping one image are two matrix products, with the rows of Pillow's antialiased
bilinear filter as matrices; so is a Gaussian blur. A batch of views with different crops and sigmas is
then a batch of matrix products, which is what a GPU does best. (On a CPU core it takes some 20 times longer
than the OpenCV backend.)

A view does not depend on the batch it is made in, bit for bit: pixels are whole numbers after each
operation and filter weights are multiples of 2^-16 (as in Pillow's own fixed-point resize), so every sum
has at most 24 bits and is exact in float32, in any order of addition.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from .parameters import JITTER_OPS, JitterOp, ViewParameters, blur_radius

CROP_PIXELS_MAX = 2**24
"""Most pixels of padded crops resized together; bounds device memory (15 bytes a pixel) for large photos."""

WEIGHT_STEPS = 2**16

Operation = Callable[[Tensor, Sequence[float]], Tensor]


@torch.no_grad()
def apply_views(
    images: Sequence[np.ndarray],
    parameters: Sequence[ViewParameters],
    image_size: int,
    device: str | torch.device,
) -> Tensor:
    """Make one view of each image.

    Args:
        images: N arrays (H, W, 3) uint8 RGB of any sizes.
        parameters: N draws, each made for the size of its image.
        image_size: S, height and width of a view in pixels.
        device: where to compute.

    Returns:
        (N, 3, S, S) uint8 on `device`: crop and resize, flip, jitter, grey, blur, solarise, in this order.
    """
    device = torch.device(device)
    views = torch.empty((len(images), 3, image_size, image_size), device=device)
    with _exact_products(device):
        for rows in _groups_of_like_size(parameters):
            crops = [_crop(images[row], parameters[row]) for row in rows]
            flips = [parameters[row].flip for row in rows]
            views[torch.tensor(rows, device=device)] = resize_crops(crops, flips, image_size, device)
        for place in range(len(JITTER_OPS)):  # the first operation of every view, then the second, ...
            for name in JITTER_OPS:
                _apply(views, [_jitter_amount(view, name, place) for view in parameters], _COLOUR[name])
        _apply(views, [1.0 if view.grey else None for view in parameters], drop_colour)
        _apply(views, [view.blur_sigma for view in parameters], blur)
        _apply(views, [view.solarise_threshold for view in parameters], solarise)
    return views.to(torch.uint8)


@contextmanager
def _exact_products(device: torch.device) -> Iterator[None]:
    """float32 products without the shortened formats (TF32, autocast) that the process may have chosen."""
    matmul = torch.backends.cuda.matmul
    chosen = matmul.fp32_precision
    matmul.fp32_precision = "ieee"
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        matmul.fp32_precision = chosen


def _groups_of_like_size(parameters: Sequence[ViewParameters]) -> Iterator[list[int]]:
    """Row numbers in groups whose crops, padded to the group's largest, stay within CROP_PIXELS_MAX."""
    rows: list[int] = []
    height = width = 0
    for row in sorted(range(len(parameters)), key=lambda row: parameters[row].height * parameters[row].width):
        height, width = max(height, parameters[row].height), max(width, parameters[row].width)
        if rows and (len(rows) + 1) * height * width > CROP_PIXELS_MAX:
            yield rows
            rows, height, width = [], parameters[row].height, parameters[row].width
        rows.append(row)
    if rows:
        yield rows


def _crop(image: np.ndarray, view: ViewParameters) -> np.ndarray:
    return image[view.top : view.top + view.height, view.left : view.left + view.width]


def _jitter_amount(view: ViewParameters, name: JitterOp, place: int) -> float | None:
    """Factor or shift of the view's operation `name`, if that is the one at `place` in its order."""
    jitter = view.jitter
    return getattr(jitter, name) if jitter is not None and jitter.order[place] == name else None


def _apply(views: Tensor, amounts: Sequence[float | None], operation: Operation) -> None:
    """views[rows] = operation(views[rows], amounts[rows]) in place, for the rows that have an amount."""
    chosen = [(row, amount) for row, amount in enumerate(amounts) if amount is not None]
    if chosen:
        rows = torch.tensor([row for row, _ in chosen], device=views.device)
        views[rows] = operation(views[rows], [amount for _, amount in chosen])


def _column(amounts: Sequence[float], like: Tensor) -> Tensor:
    """(n, 1, 1, 1) float32 on the device of `like`, to go with (n, 3, S, S)."""
    return torch.tensor(amounts, dtype=torch.float32, device=like.device).view(-1, 1, 1, 1)


def resize_crops(
    crops: Sequence[np.ndarray], flips: Sequence[bool], image_size: int, device: torch.device
) -> Tensor:
    """Antialiased bilinear resize of crops of different sizes, mirrored where `flips` says so.

    Args:
        crops: n arrays (h, w, 3) uint8.
        flips: n flags.
        image_size: S.
        device: where to compute.

    Returns:
        (n, 3, S, S) float32 of whole numbers, within 1 of Pillow's BILINEAR.
    """
    heights = np.array([crop.shape[0] for crop in crops])
    widths = np.array([crop.shape[1] for crop in crops])
    height, width, n = int(heights.max()), int(widths.max()), len(crops)
    padded = np.zeros((n, height, width, 3), np.uint8)
    for place, crop in zip(padded, crops, strict=True):
        place[: crop.shape[0], : crop.shape[1]] = crop
    pixels = torch.from_numpy(padded).to(device).float()
    rows = _filter_matrix(*_triangle_taps(heights, image_size), height, device)
    columns_first, columns_taps = _triangle_taps(widths, image_size)
    mirrored = np.asarray(flips, bool)
    columns_first[mirrored], columns_taps[mirrored] = (
        columns_first[mirrored, ::-1],
        columns_taps[mirrored, ::-1],
    )
    columns = _filter_matrix(columns_first, columns_taps, width, device)
    shrunk = _rounded(rows @ pixels.view(n, height, width * 3))  # (n, S, w * 3)
    planes = shrunk.view(n, image_size, width, 3).permute(0, 3, 1, 2).reshape(n, 3 * image_size, width)
    return _rounded(planes @ columns.transpose(1, 2)).view(n, 3, image_size, image_size)


def _triangle_taps(lengths: np.ndarray, image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pillow's BILINEAR filter from `lengths` (n,) pixels to `image_size`.

    Output i lies at c = (i + 1/2) s with s = length / image_size, and weighs the pixel centred at x by
    1 - |x - c| / max(s, 1), as far as that is positive; the weights are scaled to sum 1.

    Returns:
        First source pixel (n, S), which may be negative, and weights (n, S, taps).
    """
    scale = (lengths / image_size)[:, None]
    reach = np.maximum(scale, 1.0)
    centre = (np.arange(image_size) + 0.5) * scale
    first = np.floor(centre - reach).astype(np.int64)
    pixel = first[..., None] + np.arange(math.ceil(2 * reach.max()) + 2)
    weights = np.maximum(1 - np.abs(pixel + 0.5 - centre[..., None]) / reach[..., None], 0)
    weights[(pixel < 0) | (pixel >= lengths[:, None, None])] = 0
    return first, _fixed_point(weights)


def _fixed_point(weights: np.ndarray) -> np.ndarray:
    """Weights (..., taps) as float32 multiples of 2^-16 that sum to exactly 1."""
    cumulative = np.cumsum(weights, axis=-1)
    steps = np.rint(cumulative / cumulative[..., -1:] * WEIGHT_STEPS)
    return (np.diff(steps, axis=-1, prepend=0) / WEIGHT_STEPS).astype(np.float32)


def _filter_matrix(first: np.ndarray, weights: np.ndarray, length: int, device: torch.device) -> Tensor:
    """(n, S, length): row i holds `weights[:, i]` from column `first[:, i]` on; zero weights go anywhere."""
    columns = np.clip(first[..., None] + np.arange(weights.shape[-1]), 0, length - 1)
    matrix = torch.zeros((*first.shape, length), device=device)
    return matrix.scatter_add_(2, torch.from_numpy(columns).to(device), torch.from_numpy(weights).to(device))


def _rounded(x: Tensor) -> Tensor:
    """To the nearest whole number, halves up."""
    return x.add_(0.5).floor_()


def _cut(x: Tensor) -> Tensor:
    """Clipped to 0..255 and cut to whole numbers, as Pillow's and torchvision's colour operations do."""
    return x.clamp_(0, 255).floor_()


def grey_of(x: Tensor) -> Tensor:
    """ITU-R 601 luma in Pillow's fixed point. (n, 3, S, S) to (n, 1, S, S), whole numbers."""
    red, green, blue = x.split(1, dim=1)
    return _rounded((19595 * red + 38470 * green + 7471 * blue) / 65536)


# Operations below: x (n, 3, S, S) float32, whole numbers in 0..255, as returned; one amount a sample.


def adjust_brightness(x: Tensor, factors: Sequence[float]) -> Tensor:
    """factor * x."""
    return _cut(_column(factors, x) * x)


def adjust_contrast(x: Tensor, factors: Sequence[float]) -> Tensor:
    """m + factor * (x - m), m the rounded mean grey value of the sample."""
    grey = grey_of(x)
    total = grey.to(torch.int64).sum(dim=(1, 2, 3), keepdim=True)  # whole numbers: exact in any order
    mean = _rounded(total.float() / grey[0].numel())
    return _cut(mean + _column(factors, x) * (x - mean))


def adjust_saturation(x: Tensor, factors: Sequence[float]) -> Tensor:
    """g + factor * (x - g), g the grey value of the pixel."""
    grey = grey_of(x)
    return _cut(grey + _column(factors, x) * (x - grey))


def adjust_hue(x: Tensor, shifts: Sequence[float]) -> Tensor:
    """Hue turned by `shift` (1 is the whole circle) at the same value and saturation in HSV.

    With V the largest channel, C = V minus the smallest, and hue h in 0..6, a channel is
    V - C clamp(min(k, 4 - k), 0, 1), k = (n + h) mod 6 and n = 5, 3, 1 for red, green, blue.
    """
    red, green, blue = x.split(1, dim=1)
    value = x.amax(1, keepdim=True)
    chroma = value - x.amin(1, keepdim=True)
    safe = chroma.clamp_min(1)  # chroma 0 is grey: its hue does not matter
    hue = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    channels = torch.tensor([5.0, 3.0, 1.0], device=x.device).view(1, 3, 1, 1)
    place = (channels + hue + 6 * _column(shifts, x)).remainder(6)
    return _rounded(value - chroma * torch.minimum(place, 4 - place).clamp_(0, 1))


def drop_colour(x: Tensor, _: Sequence[float]) -> Tensor:
    """Three equal channels."""
    return grey_of(x).expand_as(x)


def blur(x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Gaussian blur with reflected borders; sigmas in pixels."""
    n, channels, size, _ = x.shape
    radii = [blur_radius(sigma, size) for sigma in sigmas]
    offsets = np.arange(-max(radii), max(radii) + 1)
    taps = np.exp(-0.5 * (offsets / np.array(sigmas)[:, None]) ** 2)
    taps[np.abs(offsets) > np.array(radii)[:, None]] = 0
    source = np.abs(np.arange(size)[:, None] + offsets)  # reflect without repeating the border pixel
    source = np.minimum(source, 2 * (size - 1) - source)
    index = torch.from_numpy(source).to(x.device).expand(n, *source.shape)
    weights = torch.from_numpy(_fixed_point(taps)).to(x.device)[:, None].expand_as(index)
    matrix = torch.zeros((n, size, size), device=x.device).scatter_add_(2, index, weights)
    vertical = _rounded(matrix[:, None] @ x)
    return _rounded(vertical.view(n, channels * size, size) @ matrix.transpose(1, 2)).view_as(x)


def solarise(x: Tensor, thresholds: Sequence[float]) -> Tensor:
    """255 - x where x >= threshold."""
    return torch.where(x >= _column(thresholds, x), 255 - x, x)


_COLOUR: dict[JitterOp, Operation] = {
    "brightness": adjust_brightness,
    "contrast": adjust_contrast,
    "saturation": adjust_saturation,
    "hue": adjust_hue,
}
