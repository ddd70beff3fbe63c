"""One network's way from a backbone to AP: training, then what it finds on the evaluation images."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ...data.decode import decode_rgb
from ...spec.detection import DetectionSpec
from ...storage import Store, read_bytes
from .annotations import AnnotatedImage, AnnotatedSet
from .average_precision import Found, average_precision, find_objects
from .images import Unreadable
from .masks import coco_library, pixels_of
from .network import build_detector
from .sheet import Drawn, detection_sheet
from .training import Progressed, check_readable, train_detector

SHEET_IMAGES = 8
SHEET_SCORE_MIN = 0.5


@dataclass(frozen=True)
class Measured:
    """Figures of one network, and what it found in the images of the sheet."""

    row: dict[str, Any]
    shown: dict[str, Found]
    """File -> what was found."""


def measure_detector(
    name: str,
    backbone: nn.Module,
    sets: tuple[AnnotatedSet, AnnotatedSet],
    spec: DetectionSpec,
    seed: int,
    device: torch.device,
    place: Store,
    identity: str,
    show: Callable[[Progressed], None],
    should_stop: Callable[[], bool],
) -> Measured:
    """Train a detector on the backbone, find the evaluation set's objects, and say how well.

    Args:
        name: of the network, for its row.
        backbone: made for images of `spec.image_size`; it stays as it is.
        sets: training and evaluation set, categories numbered alike.
        spec: section `detection`.
        seed: decides heads, order, views.
        device: where it learns.
        place: folder for its checkpoint.
        identity: of the job and the network; a checkpoint of another is refused.
        show: called after each step.
        should_stop: asked after each step and batch.

    Raises:
        Stopped: asked to, after a checkpoint.
        Syn2coError: sets or a loss that cannot be used.
    """
    train, held_out = sets
    started = time.perf_counter()
    detector = build_detector(backbone, len(train.categories), spec, seed).to(device)
    done = train_detector(detector, train, spec, seed, device, place, identity, show, should_stop)
    trained_s = time.perf_counter() - started
    truth: list[AnnotatedImage] = []
    found: list[Found] = []
    unreadable: dict[str, str] = {}
    for one in find_objects(detector, held_out, spec, device, should_stop):
        if isinstance(one, Unreadable):
            unreadable[one.file] = one.reason
            check_readable(held_out, unreadable, spec)
            continue
        truth.append(one[0])
        found.append(one[1])
    row: dict[str, Any] = {
        "features": name,
        "neck": detector.neck,
        "box": average_precision(truth, found, held_out.categories, "bbox"),
        "steps": done.step,
        "loss": done.loss,
        "trained_s": trained_s,
        "unreadable": {"train": done.unreadable, "eval": unreadable},
    }
    if spec.masks:
        row["mask"] = average_precision(truth, found, held_out.categories, "segm")
    by_file = {image.file: one for image, one in zip(truth, found, strict=True)}
    shown = {image.file: by_file[image.file] for image in _of_the_sheet(truth)}
    return Measured(row, shown)


def sheet_jpeg(held_out: AnnotatedSet, spec: DetectionSpec, shown: dict[str, dict[str, Found]]) -> bytes:
    """Truth beside what each network found with a score of at least one half.

    Args:
        held_out: the evaluation set.
        spec: size limit of images.
        shown: network -> file -> what it found.
    """
    files = list(next(iter(shown.values())))
    by_file = {image.file: image for image in held_out.images}
    categories = {name: number for number, name in enumerate(held_out.categories, start=1)}
    rows = []
    for file in files:
        image = by_file[file]
        pixels = decode_rgb(read_bytes(held_out.store, file), pixels_max=spec.image_pixels_max)
        truth = Drawn(
            np.array([instance.box for instance in image.instances]).reshape(-1, 4),
            [categories[instance.category] for instance in image.instances],
            None,
            [pixels_of(i.mask, image.width, image.height) for i in image.instances if i.mask is not None],
        )
        rows.append((file, pixels, [truth, *(_drawn(found[file]) for found in shown.values())]))
    return detection_sheet(["truth", *shown], rows, held_out.categories)


def _drawn(found: Found) -> Drawn:
    sure = np.flatnonzero(found.scores >= SHEET_SCORE_MIN)
    masks = [coco_library().mask.decode(found.masks[row]) for row in sure] if found.masks else []
    return Drawn(found.boxes[sure], found.labels[sure].tolist(), found.scores[sure].tolist(), masks)


def _of_the_sheet(truth: list[AnnotatedImage]) -> list[AnnotatedImage]:
    """Images spread evenly over the set."""
    places = np.linspace(0, len(truth) - 1, min(SHEET_IMAGES, len(truth))).round().astype(int)
    return [truth[place] for place in dict.fromkeys(places.tolist())]
