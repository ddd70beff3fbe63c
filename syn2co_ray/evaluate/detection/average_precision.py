"""Average precision as COCO measures it (cocodataset.org, detection-eval), by pycocotools.

AP is the mean over IoU 0.5 to 0.95 in steps of 0.05 and over categories, of at most 100 objects an image.
Small is below 32 x 32 square pixels of the image, large above 96 x 96. Crowds and difficult ones are ignored.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image

from ...spec.detection import DetectionSpec
from ...train.context import TrainContext
from .annotations import AnnotatedImage, AnnotatedSet
from .images import Sample, Unreadable, batches, grouped, to_image
from .masks import coco_library
from .network import Detector
from .ranks import heed, own_part

FIGURES = {"ap": 0, "ap50": 1, "ap75": 2, "ap_small": 3, "ap_medium": 4, "ap_large": 5, "ar100": 8}
"""Places in COCOeval's statistics."""
MASK_THRESHOLD = 0.5


@dataclass(frozen=True)
class Found:
    """What a detector found in one image, in its pixels."""

    boxes: np.ndarray
    """(m, 4) left, upper, right, lower edge."""
    labels: np.ndarray
    """(m,) numbers of categories, from 1."""
    scores: np.ndarray
    """(m,) 0 to 1."""
    masks: list[dict[str, Any]] = field(default_factory=list)
    """Run lengths as pycocotools has them; empty without masks."""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        masks = [{**mask, "counts": mask["counts"].decode("ascii")} for mask in self.masks]
        return {
            "boxes": self.boxes.tolist(),
            "labels": self.labels.tolist(),
            "scores": self.scores.tolist(),
            "masks": masks,
        }

    @staticmethod
    def of_json(values: dict[str, Any]) -> Found:
        """What `as_json` gave."""
        masks = [{**mask, "counts": mask["counts"].encode("ascii")} for mask in values["masks"]]
        boxes = np.array(values["boxes"], np.float32).reshape(-1, 4)
        return Found(boxes, np.array(values["labels"], np.int64), np.array(values["scores"]), masks)


def find_objects(
    detector: Detector, images: AnnotatedSet, spec: DetectionSpec, ranks: TrainContext
) -> Iterator[tuple[AnnotatedImage, Found] | Unreadable]:
    """What is found in each image of this rank's part of the set, in the set's order.

    Raises:
        Stopped: rank 0 was asked to.
    """
    detector.eval()
    count, device = len(images.images), ranks.device
    tasks = [(number, None) for number in own_part(range(count), ranks)]
    groups = list(grouped(tasks, spec.images_per_batch))
    # Each rank looks as often as the others, so that all of them hear of a stop.
    looks = math.ceil(math.ceil(count / ranks.world_size) / spec.images_per_batch)
    groups += [[]] * (looks - len(groups))
    for group in batches(images, groups, spec, 0):
        heed(ranks, 0)
        samples = [sample for sample in group if isinstance(sample, Sample)]
        yield from (bad for bad in group if isinstance(bad, Unreadable))
        if not samples:
            continue
        with torch.inference_mode():
            objects = detector(torch.stack([sample.pixels for sample in samples]).to(device))
        for sample, one in zip(samples, objects, strict=True):
            yield sample.annotated, _found(sample, {name: value.cpu() for name, value in one.items()})


def average_precision(
    truth: Sequence[AnnotatedImage],
    found: Sequence[Found],
    categories: Sequence[str],
    kind: Literal["bbox", "segm"],
) -> dict[str, Any]:
    """AP of boxes or masks, in percent; None for what the set has no object of.

    Args:
        truth: images with their objects.
        found: of the same images.
        categories: by number, from 1; also those that were not learned.
        kind: what is compared.

    Raises:
        ResourceError: pycocotools is not installed.
    """
    library = coco_library()
    with contextlib.redirect_stdout(io.StringIO()):
        known = _index(library, _truth_of(truth, categories, kind))
        # Results of COCO's own reader want a file and at least one row; an index does not.
        guesses = _index(library, {**known.dataset, "annotations": _rows_of(found, kind)})
        measured = library.cocoeval.COCOeval(known, guesses, kind)
        measured.evaluate()
        measured.accumulate()
        measured.summarize()
    figures: dict[str, Any] = {name: _percent(measured.stats[place]) for name, place in FIGURES.items()}
    precision = measured.eval["precision"]  # (IoU, recall, category, size, most an image)
    figures["by_category"] = {
        name: {"ap": _mean(precision[:, :, place, 0, -1]), "ap50": _mean(precision[0, :, place, 0, -1])}
        for place, name in enumerate(categories)
    }
    return figures


def _found(sample: Sample, objects: dict[str, Tensor]) -> Found:
    boxes = to_image(objects["boxes"], sample)
    masks = []
    if "masks" in objects:
        size = (sample.annotated.height, sample.annotated.width)
        encode = coco_library().mask.encode
        # One at a time: a hundred whole masks of a large photo take gigabytes.
        for mask, box in zip(objects["masks"], boxes, strict=True):
            whole = paste_masks_in_image(mask[None], box[None], size)[0, 0] > MASK_THRESHOLD
            masks.append(encode(np.asfortranarray(whole.numpy().astype(np.uint8))))
    return Found(boxes.numpy(), objects["labels"].numpy(), objects["scores"].numpy(), masks)


def _index(library: Any, content: dict[str, Any]) -> Any:
    made = library.coco.COCO()
    made.dataset = content
    made.createIndex()
    return made


def _truth_of(truth: Sequence[AnnotatedImage], categories: Sequence[str], kind: str) -> dict[str, Any]:
    numbers = {name: number for number, name in enumerate(categories, start=1)}
    rows: list[dict[str, Any]] = []
    for image_id, image in enumerate(truth, start=1):
        for instance in image.instances:
            row = {
                "id": len(rows) + 1,
                "image_id": image_id,
                "category_id": numbers[instance.category],
                "bbox": _corner_and_sides(instance.box),
                "area": instance.area,
                "iscrowd": int(instance.ignored),
            }
            if kind == "segm":
                row["segmentation"] = (
                    instance.mask if instance.mask is not None else _box_mask(image, instance)
                )
            rows.append(row)
    images = [{"id": n, "height": i.height, "width": i.width} for n, i in enumerate(truth, start=1)]
    named = [{"id": number, "name": name} for name, number in numbers.items()]
    return {"images": images, "annotations": rows, "categories": named}


def _box_mask(image: AnnotatedImage, instance: Any) -> list[list[float]]:
    """The whole box, for an ignored object without a mask."""
    left, upper, right, lower = instance.box
    return [[left, upper, right, upper, right, lower, left, lower]]


def _rows_of(found: Sequence[Found], kind: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for image_id, one in enumerate(found, start=1):
        for place, (box, label, score) in enumerate(zip(one.boxes, one.labels, one.scores, strict=True)):
            bbox = _corner_and_sides(box.tolist())
            row = {
                "id": len(rows) + 1,
                "image_id": image_id,
                "category_id": int(label),
                "score": float(score),
                "bbox": bbox,
                "area": bbox[2] * bbox[3],
                "iscrowd": 0,
            }
            if kind == "segm":
                row["segmentation"] = one.masks[place]
                row["area"] = float(coco_library().mask.area(one.masks[place]))
            rows.append(row)
    return rows


def _corner_and_sides(box: Sequence[float]) -> list[float]:
    left, upper, right, lower = box
    return [left, upper, right - left, lower - upper]


def _percent(value: float) -> float | None:
    return None if value < 0 else 100 * float(value)


def _mean(precision: np.ndarray) -> float | None:
    known = precision[precision > -1]
    return 100 * float(known.mean()) if known.size else None
