"""One network's way from a backbone to AP: training, then what it finds on the evaluation images."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ...data.decode import decode_rgb
from ...spec.detection import DetectionSpec
from ...storage import Store, read_bytes
from ...train.context import TrainContext
from .annotations import AnnotatedImage, AnnotatedSet
from .average_precision import Found, average_precision, find_objects
from .images import Unreadable
from .masks import coco_library, pixels_of
from .network import build_detector
from .sheet import Drawn, detection_sheet
from .training import DetectorTraining, check_readable

SHEET_IMAGES = 8
SHEET_SCORE_MIN = 0.5


@dataclass(frozen=True)
class Measured:
    """Figures of one network, and what it found in the images of the sheet."""

    row: dict[str, Any]
    shown: dict[str, Found]
    """File -> what was found."""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"row": self.row, "shown": {file: found.as_json() for file, found in self.shown.items()}}

    @staticmethod
    def of_json(values: dict[str, Any]) -> Measured:
        """What `as_json` gave."""
        shown = {file: Found.of_json(found) for file, found in values["shown"].items()}
        return Measured(values["row"], shown)


def measure_detector(
    name: str,
    backbone: nn.Module,
    sets: tuple[AnnotatedSet, AnnotatedSet],
    spec: DetectionSpec,
    seed: int,
    ranks: TrainContext,
    place: Store,
    identity: str,
) -> Measured | None:
    """Train a detector on the backbone, find the evaluation set's objects, and say how well.

    Args:
        name: of the network, for its row.
        backbone: made for images of `spec.image_size`; it stays as it is.
        sets: training and evaluation set, categories numbered alike.
        spec: section `detection`.
        seed: decides heads, order, views.
        ranks: all that work on it.
        place: folder for its checkpoint.
        identity: of the job and the network; a checkpoint of another is refused.

    Returns:
        Figures on rank 0, None elsewhere.

    Raises:
        Stopped: asked to, after a checkpoint.
        Syn2coError: sets or a loss that cannot be used.
    """
    train, held_out = sets
    started = time.perf_counter()
    detector = build_detector(backbone, len(train.categories), spec, seed).to(ranks.device)
    if spec.precision == "bf16" or (spec.precision == "auto" and ranks.device.type == "cuda"):
        detector.body_dtype = torch.bfloat16
    done = DetectorTraining(detector, train, spec, seed, ranks, place, identity).run()
    trained_s = time.perf_counter() - started
    parts = ranks.collected(list(find_objects(detector, held_out, spec, ranks)))
    if parts is None:
        return None
    truth, found, unreadable = _sorted_out([one for part in parts for one in part])
    check_readable(held_out, unreadable, spec)
    row: dict[str, Any] = {
        "features": name,
        "neck": detector.neck,
        "box": average_precision(truth, found, held_out.categories, "bbox"),
        "steps": done.step,
        "loss": done.loss,
        "trained_s": trained_s,
        "workers": ranks.world_size,
        "unreadable": {"train": done.unreadable, "eval": unreadable},
    }
    if spec.masks:
        row["mask"] = average_precision(truth, found, held_out.categories, "segm")
    by_file = {image.file: one for image, one in zip(truth, found, strict=True)}
    return Measured(row, {image.file: by_file[image.file] for image in _of_the_sheet(truth)})


def _sorted_out(
    looked_at: list[tuple[AnnotatedImage, Found] | Unreadable],
) -> tuple[list[AnnotatedImage], list[Found], dict[str, str]]:
    """Images, what was found in each, and why others cannot be used."""
    usable = [one for one in looked_at if not isinstance(one, Unreadable)]
    unreadable = {one.file: one.reason for one in looked_at if isinstance(one, Unreadable)}
    return [image for image, _ in usable], [found for _, found in usable], unreadable


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
