"""Detection learns from other images than it is measured on, in a format that has what is asked for."""

from __future__ import annotations

from collections.abc import Iterator

from ..detection import AnnotatedImagesSpec, DetectionSpec
from ..errors import Fault
from .registry import rule
from .training import gpu_faults_of_workers, pool_faults


@rule
def detection_sets_fit(detection: DetectionSpec | None) -> Iterator[Fault]:
    if not isinstance(detection, DetectionSpec):
        return
    for name in ("train", "eval"):
        yield from _set_faults(f"detection.{name}", getattr(detection, name), detection.masks)
    train, held_out = detection.train, detection.eval
    same_list = (train.annotations, train.image_set) == (held_out.annotations, held_out.image_set)
    if same_list:
        got = f"{held_out.image_set or held_out.annotations}, as detection.train"
        yield Fault("detection.eval", got, "images that are not learned from", "name the held-out split")
    yield from pool_faults("detection.workers", detection.workers)
    yield from gpu_faults_of_workers("detection.workers", detection.workers)
    if detection.workers.min > detection.images_per_step:
        got = f"{detection.workers.min} workers for {detection.images_per_step} images a step"
        yield Fault("detection.workers", got, "at least one image each", "lower it")
    smallest, largest = detection.scale
    if not 0 < smallest <= largest <= 4:
        yield Fault("detection.scale", f"{[smallest, largest]}", "0 < smallest <= largest <= 4", "change it")


def _set_faults(where: str, images: AnnotatedImagesSpec, masks: bool) -> Iterator[Fault]:
    if images.resolved_format == "voc":
        if masks and images.mask_folder is None:
            got = "missing, and detection.masks is true"
            yield Fault(f"{where}.mask_folder", got, "the folder SegmentationObject", "add it")
        return
    for name in ("image_set", "mask_folder", "one_based"):
        if getattr(images, name) != AnnotatedImagesSpec.model_fields[name].get_default():
            got = "given for COCO's JSON, which says so itself"
            yield Fault(f"{where}.{name}", got, "only with VOC's XML files", "leave it out")
