"""Encoded images and their objects as squares of one size: scaled, flipped, cropped or padded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor

from ...data.decode import UnreadableImage, decode_rgb
from ...data.randomness import named_generator
from ...methods.draws import seed_of
from ...methods.normalise import MEAN
from ...spec.detection import DetectionSpec
from ...storage import read_bytes
from .annotations import AnnotatedImage, AnnotatedSet
from .masks import pixels_of
from .network import Objects

BATCHES_AHEAD = 2
PADDING = tuple(round(255 * mean) for mean in MEAN)
"""Colour that normalisation makes nearly 0."""
SIDE_MIN = 1.0
"""Objects that are narrower than this many pixels after scaling are not learned from."""


@dataclass(frozen=True)
class Placement:
    """How an image is laid into the square: scaled to (height, width), then moved by (-top, -left)."""

    height: int
    width: int
    top: int = 0
    left: int = 0
    flipped: bool = False


@dataclass(frozen=True)
class Sample:
    """An image in its square, and where it came from."""

    annotated: AnnotatedImage
    pixels: Tensor
    """(3, S, S) uint8."""
    placement: Placement
    truth: Objects
    seed: int
    """Decides what is learned from it (see `sampling`)."""


@dataclass(frozen=True)
class Unreadable:
    """An image that cannot be used, and why."""

    file: str
    reason: str


def batches(
    images: AnnotatedSet, groups: Iterable[Sequence[tuple[int, int | None]]], spec: DetectionSpec, seed: int
) -> Iterator[list[Sample | Unreadable]]:
    """Groups of images, read and decoded by threads while the ones before are used.

    Args:
        images: the set.
        groups: of (number of an image, epoch); None as epoch leaves it as it is, for evaluation.
        spec: size, scale, flips, threads.
        seed: with epoch and file decides scale, crop and flip.
    """
    categories = {name: number for number, name in enumerate(images.categories, start=1)}

    def read(task: tuple[int, int | None]) -> Sample | Unreadable:
        annotated, epoch = images.images[task[0]], task[1]
        draws = None if epoch is None else named_generator(seed, "detection", epoch, annotated.file)
        encoded = read_bytes(images.store, annotated.file)
        of_regions = seed_of(seed, "detection", "regions", epoch or 0, annotated.file)
        return make_sample(annotated, encoded, categories, spec, draws, of_regions)

    with ThreadPoolExecutor(spec.reader_threads) as pool:
        waiting: list[list[Future[Sample | Unreadable]]] = []
        try:
            for group in groups:
                waiting.append([pool.submit(read, task) for task in group])
                if len(waiting) > BATCHES_AHEAD:
                    yield [future.result() for future in waiting.pop(0)]
            while waiting:
                yield [future.result() for future in waiting.pop(0)]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def make_sample(
    annotated: AnnotatedImage,
    encoded: bytes,
    categories: dict[str, int],
    spec: DetectionSpec,
    draws: np.random.Generator | None,
    seed: int = 0,
) -> Sample | Unreadable:
    """An image in its square with the objects to learn from.

    Args:
        annotated: what is known of it.
        encoded: bytes of the file.
        categories: name -> label, from 1.
        spec: size, scale, flips.
        draws: decides scale, crop and flip; None for none of them.
        seed: of the sample.
    """
    try:
        pixels = decode_rgb(encoded, pixels_max=spec.image_pixels_max)
    except UnreadableImage as error:
        return Unreadable(annotated.file, str(error))
    if pixels.shape[:2] != (annotated.height, annotated.width):
        found = f"{pixels.shape[1]}x{pixels.shape[0]} pixels"
        return Unreadable(annotated.file, f"{found}, annotated as {annotated.width}x{annotated.height}")
    placement = _placement(annotated, spec, draws)
    whole = _laid(pixels, placement, spec.image_size, PADDING)
    tensor = torch.from_numpy(np.ascontiguousarray(whole.transpose(2, 0, 1)))
    return Sample(annotated, tensor, placement, _truth(annotated, placement, categories, spec), seed)


def empty_square(spec: DetectionSpec) -> Sample:
    """What stands for a rank's images where it has none."""
    size = spec.image_size
    nothing = AnnotatedImage("", size, size, ())
    pixels = torch.tensor(PADDING, dtype=torch.uint8)[:, None, None].repeat(1, size, size)
    placement = Placement(size, size)
    return Sample(nothing, pixels, placement, _truth(nothing, placement, {}, spec), 0)


def to_image(boxes: Tensor, sample: Sample) -> Tensor:
    """Boxes (m, 4) of an unflipped square in pixels of the image itself, clipped to it."""
    placement, annotated = sample.placement, sample.annotated
    sides = boxes.new_tensor([annotated.width, annotated.height, annotated.width, annotated.height])
    scaled = boxes.new_tensor([placement.width, placement.height, placement.width, placement.height])
    return torch.minimum((boxes * sides / scaled).clamp(min=0), sides)


Group = TypeVar("Group")


def grouped(items: Sequence[Group], size: int) -> Iterator[Sequence[Group]]:
    """Parts of `size`, the last one smaller."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _placement(
    annotated: AnnotatedImage, spec: DetectionSpec, draws: np.random.Generator | None
) -> Placement:
    size = spec.image_size
    factor = size / max(annotated.height, annotated.width)
    if draws is not None:
        factor *= draws.uniform(*spec.scale)
    height, width = (max(1, round(factor * side)) for side in (annotated.height, annotated.width))
    if draws is None:
        return Placement(height, width)
    top, left = (int(draws.integers(max(side - size, 0) + 1)) for side in (height, width))
    return Placement(height, width, top, left, bool(draws.random() < spec.flip_probability))


def _laid(pixels: np.ndarray, at: Placement, size: int, padding: tuple[int, ...]) -> np.ndarray:
    """(H, W, 3) or (H, W) in a square of `size`."""
    smaller = at.height < pixels.shape[0]
    how = cv2.INTER_NEAREST if pixels.ndim == 2 else (cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    scaled = cv2.resize(pixels, (at.width, at.height), interpolation=how)
    scaled = scaled[:, ::-1] if at.flipped else scaled
    part = scaled[at.top : at.top + size, at.left : at.left + size]
    whole = np.empty((size, size, *pixels.shape[2:]), np.uint8)
    whole[:] = padding if pixels.ndim == 3 else 0
    whole[: part.shape[0], : part.shape[1]] = part
    return whole


def _truth(
    annotated: AnnotatedImage, at: Placement, categories: dict[str, int], spec: DetectionSpec
) -> Objects:
    known = [i for i in annotated.instances if not i.crowd and i.category in categories]
    boxes = np.array([instance.box for instance in known], np.float64).reshape(-1, 4)
    boxes *= np.array([at.width / annotated.width, at.height / annotated.height] * 2)
    if at.flipped:
        boxes[:, [0, 2]] = at.width - boxes[:, [2, 0]]
    boxes -= [at.left, at.top, at.left, at.top]
    boxes = boxes.clip(0, spec.image_size)
    kept = np.flatnonzero(((boxes[:, 2:] - boxes[:, :2]) >= SIDE_MIN).all(axis=1))
    truth = {
        "boxes": torch.from_numpy(boxes[kept].astype(np.float32)),
        "labels": torch.tensor([categories[known[row].category] for row in kept], dtype=torch.int64),
    }
    if spec.masks:
        masks = np.zeros((len(kept), spec.image_size, spec.image_size), np.uint8)
        for place, row in enumerate(kept):
            mask = known[row].mask
            assert mask is not None  # one without is ignored as a crowd
            masks[place] = _laid(pixels_of(mask, annotated.width, annotated.height), at, spec.image_size, ())
        truth["masks"] = torch.from_numpy(masks)
    return truth
