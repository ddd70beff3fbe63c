"""Drawn images of bright squares and discs on noise, with exact boxes and masks, in both formats."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import nn

from syn2co_ray.evaluate.detection.masks import run_lengths
from syn2co_ray.methods.backbones import build_backbone
from syn2co_ray.methods.draws import seeded_initialisation
from syn2co_ray.spec.detection import AnnotatedImagesSpec, DetectionSpec

WIDTH, HEIGHT = 96, 64
COLOURS = {"square": (230, 40, 40), "disc": (40, 60, 230)}


def drawn_image(seed: int) -> tuple[np.ndarray, list[tuple[str, tuple[int, int, int, int], np.ndarray]]]:
    """Pixels (64, 96, 3), and name, box, mask of one square and one disc, one in each half."""
    draws = np.random.default_rng(seed)
    pixels = draws.integers(90, 140, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    objects = []
    for place, name in enumerate(sorted(COLOURS)):
        side = int(draws.integers(16, 32))
        left = place * WIDTH // 2 + int(draws.integers(0, WIDTH // 2 - side))
        upper = int(draws.integers(0, HEIGHT - side))
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[upper : upper + side, left : left + side] = 1
        if name == "disc":
            rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
            mask &= (rows - upper - side / 2) ** 2 + (columns - left - side / 2) ** 2 <= (side / 2) ** 2
        pixels[mask == 1] = COLOURS[name]
        objects.append((name, (left, upper, left + side, upper + side), mask))
    return pixels, objects


def png_bytes(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def coco_content(seeds: range) -> dict[str, Any]:
    """COCO's dictionary of these images."""
    names = {name: number for number, name in enumerate(sorted(COLOURS), start=1)}
    images, annotations = [], []
    for seed in seeds:
        images.append({"id": seed, "file_name": f"{seed}.png", "width": WIDTH, "height": HEIGHT})
        for name, (left, upper, right, lower), mask in drawn_image(seed)[1]:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": seed,
                    "category_id": names[name],
                    "bbox": [left, upper, right - left, lower - upper],
                    "area": int(mask.sum()),
                    "iscrowd": 0,
                    "segmentation": run_lengths(mask),
                }
            )
    categories = [{"id": number, "name": name} for name, number in names.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_coco(folder: Path, name: str, seeds: range) -> AnnotatedImagesSpec:
    """Images and JSON on disk."""
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        (images / f"{seed}.png").write_bytes(png_bytes(drawn_image(seed)[0]))
    (folder / f"{name}.json").write_text(json.dumps(coco_content(seeds)))
    return AnnotatedImagesSpec(annotations=f"{folder}/{name}.json", images=str(images))


def write_voc(folder: Path, seeds: range) -> AnnotatedImagesSpec:
    """The same images as VOC has them, with masks."""
    for name in ("Annotations", "SegmentationObject", "images"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        pixels, objects = drawn_image(seed)
        (folder / "images" / f"{seed}.png").write_bytes(png_bytes(pixels))
        numbers = np.zeros((HEIGHT, WIDTH), np.uint8)
        for number, (_, _, mask) in enumerate(objects, start=1):
            numbers[mask == 1] = number
        Image.fromarray(numbers).save(folder / "SegmentationObject" / f"{seed}.png")
        boxes = [(name, (box[0] + 1, box[1] + 1, *box[2:])) for name, box, _ in objects]
        (folder / "Annotations" / f"{seed}.xml").write_text(voc_xml(f"{seed}.png", boxes))
    return AnnotatedImagesSpec(
        annotations=f"{folder}/Annotations",
        images=f"{folder}/images",
        mask_folder=f"{folder}/SegmentationObject",
    )


def voc_xml(file: str, objects: list[tuple[str, tuple[Any, ...]]], difficult: int = 0) -> str:
    """One annotation file; edges as they are to be written."""
    edges = ("xmin", "ymin", "xmax", "ymax")
    entries = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>"
        + "".join(f"<{edge}>{value}</{edge}>" for edge, value in zip(edges, box, strict=True))
        + "</bndbox></object>"
        for name, box in objects
    )
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    return f"<annotation><filename>{file}</filename>{size}{entries}</annotation>"


def tiny_vit() -> nn.Module:
    """A ViT of two blocks for images of 96 pixels."""
    options: dict[str, Any] = {"embed_dim": 32, "depth": 2, "num_heads": 2}
    with seeded_initialisation(0, "tiny"):
        return build_backbone("vit_tiny_patch16_224", 96, 16, 0.0, options)


def small_detection(
    train: AnnotatedImagesSpec, held_out: AnnotatedImagesSpec, **changes: Any
) -> DetectionSpec:
    """A detector that takes a tenth of a second an image on a CPU."""
    values = {
        "channels": 32,
        "image_size": 96,
        "anchor_size_smallest": 8,
        "proposals_per_image": 30,
        "regions_per_image": 16,
        "epochs": 2,
        "images_per_step": 2,
        "learning_rate": 1e-3,
        "reader_threads": 1,
        **changes,
    }
    return DetectionSpec(train=train, eval=held_out, **values)
