"""AP against cases worked by hand, and against two other implementations on real boxes and masks."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from syn2co_ray.evaluate.detection.annotations import AnnotatedImage, Instance
from syn2co_ray.evaluate.detection.average_precision import Found, average_precision
from syn2co_ray.evaluate.detection.masks import pixels_of, run_lengths
from syn2co_ray.evaluate.detection.sets import read_set
from syn2co_ray.spec.detection import AnnotatedImagesSpec
from syn2co_ray.spec.source import ObjectStoreSpec

from .drawn import drawn_image, small_detection

mask_api = pytest.importorskip("pycocotools.mask", reason="needs the extra `detect`")


def truth(*boxes: Any, ignored: bool = False) -> AnnotatedImage:
    instances = tuple(
        Instance("a", box, (box[2] - box[0]) * (box[3] - box[1]), ignored=ignored) for box in boxes
    )
    return AnnotatedImage("a.png", 400, 400, instances)


def found(*rows: tuple[Any, float]) -> Found:
    boxes = np.array([box for box, _ in rows], np.float32).reshape(-1, 4)
    return Found(boxes, np.ones(len(rows), np.int64), np.array([score for _, score in rows]))


A, B, C = (0, 0, 100, 100), (200, 200, 300, 300), (0, 200, 20, 220)


def test_everything_found_exactly_is_100_and_nothing_is_0() -> None:
    figures = average_precision([truth(A, B)], [found((A, 0.9), (B, 0.8))], ["a", "b"], "bbox")
    assert figures["ap"] == figures["ap50"] == figures["ap75"] == figures["ap_large"] == pytest.approx(100)
    assert figures["ap_small"] is None
    assert figures["by_category"] == {
        "a": {"ap": pytest.approx(100), "ap50": pytest.approx(100)},
        "b": {"ap": None, "ap50": None},
    }
    figures = average_precision([truth(A, B)], [found()], ["a"], "bbox")
    assert (figures["ap"], figures["ar100"]) == (0, 0)


def test_a_false_box_before_the_true_ones_halves_the_first_recalls() -> None:
    """Ranked: false, true, true of 2: precision 1/2 then 2/3, and 2/3 at every recall once interpolated."""
    rows = found(((300, 0, 390, 90), 0.9), (A, 0.8), (B, 0.7))
    assert average_precision([truth(A, B)], [rows], ["a"], "bbox")["ap"] == pytest.approx(200 / 3)


def test_one_of_two_found_counts_at_51_of_101_recalls() -> None:
    figures = average_precision([truth(A, B)], [found((A, 0.9))], ["a"], "bbox")
    assert figures["ap"] == pytest.approx(100 * 51 / 101)
    assert figures["ar100"] == pytest.approx(50)


def test_a_box_of_iou_0_72_counts_at_5_of_10_thresholds() -> None:
    """72 of 100 columns: IoU 0.72, enough for 0.5, 0.55, 0.6, 0.65 and 0.7."""
    figures = average_precision([truth(A)], [found(((0, 0, 72, 100), 0.9))], ["a"], "bbox")
    assert figures["ap"] == pytest.approx(50)
    assert (figures["ap50"], figures["ap75"]) == (pytest.approx(100), 0)


def test_sizes_are_told_by_area_and_ignored_objects_neither_help_nor_harm() -> None:
    figures = average_precision([truth(A, C)], [found((C, 0.9))], ["a"], "bbox")
    assert (figures["ap_small"], figures["ap_large"]) == (pytest.approx(100), 0)
    crowd = truth(B, ignored=True).instances
    image = AnnotatedImage("a.png", 400, 400, (*truth(A).instances, *crowd))
    for rows in (found((A, 0.8)), found((A, 0.8), (B, 0.9))):
        assert average_precision([image], [rows], ["a"], "bbox")["ap"] == pytest.approx(100)


def test_half_of_a_mask_is_iou_one_half_while_its_box_is_exact() -> None:
    pixels = np.zeros((400, 400), np.uint8)
    pixels[:100, :100] = 1
    halved = pixels.copy()
    halved[::2, 10:90] = 0
    image = AnnotatedImage("a", 400, 400, (Instance("a", A, 1e4, mask=run_lengths(pixels)),))
    rows = found((A, 0.9))
    rows.masks.append(mask_api.encode(np.asfortranarray(halved)))
    assert average_precision([image], [rows], ["a"], "bbox")["ap"] == pytest.approx(100)
    # IoU 0.6: right at 0.5, 0.55 and 0.6.
    assert average_precision([image], [rows], ["a"], "segm")["ap"] == pytest.approx(30)


def guesses(images: tuple[AnnotatedImage, ...], categories: tuple[str, ...], masks: bool) -> list[Found]:
    """What a middling detector might say: boxes moved, some missed, mistaken or made up."""
    draws, result = np.random.default_rng(0), []
    for image in images:
        kept = [instance for instance in image.instances if draws.random() < 0.8]
        boxes = np.array([instance.box for instance in kept]).reshape(-1, 4)
        boxes = boxes + draws.normal(0, 0.06, boxes.shape) * (boxes[:, 2:] - boxes[:, :2]).repeat(2, 1)
        labels = np.array([categories.index(instance.category) + 1 for instance in kept], np.int64)
        wrong = draws.random(len(labels)) < 0.1
        labels[wrong] = draws.integers(1, len(categories) + 1, wrong.sum())
        encoded = []
        for instance in kept if masks else ():
            assert instance.mask is not None
            pixels = pixels_of(instance.mask, image.width, image.height)
            shifted = np.roll(pixels, draws.integers(-4, 5, 2), (0, 1))
            encoded.append(mask_api.encode(np.asfortranarray(shifted)))
        result.append(Found(boxes.astype(np.float32), labels, draws.random(len(labels)), encoded))
    return result


@pytest.fixture(scope="module")
def real(shared_dir: Path) -> Any:
    """The evaluation split of real blood cells: images, categories, guesses."""
    place = shared_dir / "data/det_bccd"
    images = AnnotatedImagesSpec(annotations=f"{place}/instances_test.json", images=f"{place}/JPEGImages")
    read = read_set("detection.eval", images, small_detection(images, images), ObjectStoreSpec())
    return read.images, read.categories, guesses(read.images, read.categories, False)


@pytest.fixture(scope="module")
def people(shared_dir: Path) -> Any:
    """40 of Penn-Fudan's street photos with the masks of their pedestrians, likewise."""
    place = shared_dir / "data/det_pennfudan"
    listed = json.loads((place / "instances.json").read_text())
    images = []
    for image in listed["images"][::4][:40]:
        file = place / "masks" / image["file_name"].replace(".jpg", "_mask.png")
        numbers = np.array(Image.open(file))
        instances = []
        for one in (a for a in listed["annotations"] if a["image_id"] == image["id"]):
            left, upper, width, height = one["bbox"]
            mask = run_lengths(numbers == one["mask_value"])
            box = (left, upper, left + width, upper + height)
            instances.append(Instance("pedestrian", box, one["area"], mask=mask))
        images.append(AnnotatedImage(image["file_name"], image["width"], image["height"], tuple(instances)))
    return tuple(images), ("pedestrian",), guesses(tuple(images), ("pedestrian",), True)


def torchmetrics_figures(images: Any, categories: Any, rows: list[Found], kind: str) -> dict[str, Any]:
    from torchmetrics.detection import MeanAveragePrecision

    metric = MeanAveragePrecision(iou_type=kind, backend="faster_coco_eval", class_metrics=True)
    for image, row in zip(images, rows, strict=True):
        known: dict[str, Any] = {
            "boxes": torch.tensor([instance.box for instance in image.instances]),
            "labels": torch.tensor([categories.index(i.category) + 1 for i in image.instances]),
            "area": torch.tensor([instance.area for instance in image.instances]),
        }
        said: dict[str, Any] = {
            "boxes": torch.from_numpy(row.boxes),
            "labels": torch.from_numpy(row.labels),
            "scores": torch.from_numpy(row.scores),
        }
        if kind == "segm":
            masks = [pixels_of(i.mask, image.width, image.height) for i in image.instances]
            known["masks"] = torch.from_numpy(np.stack(masks)).bool()
            said["masks"] = torch.from_numpy(np.stack([mask_api.decode(m) for m in row.masks])).bool()
        metric.update([said], [known])
    with contextlib.redirect_stdout(io.StringIO()):
        return dict(metric.compute())


NAMES = {"ap": "map", "ap50": "map_50", "ap75": "map_75", "ap_small": "map_small", "ap_medium": "map_medium"}
NAMES |= {"ap_large": "map_large", "ar100": "mar_100"}


def check_same(figures: dict[str, Any], categories: tuple[str, ...], other: dict[str, Any]) -> None:
    """To 0.001 points: the other one keeps float32."""
    for name, theirs in NAMES.items():
        value = 100 * float(other[theirs])
        assert (figures[name] if figures[name] is not None else -100) == pytest.approx(value, abs=1e-3), name
    by_category = [100 * float(value) for value in other["map_per_class"].flatten()]
    assert [figures["by_category"][name]["ap"] for name in categories] == pytest.approx(by_category, abs=1e-3)


def library_figures(images: Any, categories: Any, rows: list[Found], kind: str) -> dict[str, Any]:
    """Boxes or masks by faster-coco-eval, from files written as its users write them."""
    library = pytest.importorskip("faster_coco_eval")
    annotations, results = [], []
    for image_id, (image, row) in enumerate(zip(images, rows, strict=True), start=1):
        for i in image.instances:
            corner = [i.box[0], i.box[1], i.box[2] - i.box[0], i.box[3] - i.box[1]]
            number = categories.index(i.category) + 1
            known = {"id": len(annotations) + 1, "image_id": image_id, "category_id": number, "bbox": corner}
            mask = {"segmentation": i.mask} if kind == "segm" else {}
            annotations.append({**known, **mask, "area": i.area, "iscrowd": 0})
        for place, (box, label, score) in enumerate(
            zip(row.boxes.tolist(), row.labels, row.scores, strict=True)
        ):
            # Its reader takes results with a box for boxes.
            corner = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            what = {"segmentation": row.masks[place]} if kind == "segm" else {"bbox": corner}
            results.append({"image_id": image_id, "category_id": int(label), **what, "score": float(score)})
    listed = [{"id": n, "width": i.width, "height": i.height} for n, i in enumerate(images, start=1)]
    named = [{"id": number, "name": name} for number, name in enumerate(categories, start=1)]
    truth = library.COCO({"images": listed, "annotations": annotations, "categories": named})
    measured = library.COCOeval_faster(truth, truth.loadRes(results), kind)
    with contextlib.redirect_stdout(io.StringIO()):
        measured.evaluate()
        measured.accumulate()
        measured.summarize()
    stats = np.asarray(measured.stats)
    places = {
        "map": 0,
        "map_50": 1,
        "map_75": 2,
        "map_small": 3,
        "map_medium": 4,
        "map_large": 5,
        "mar_100": 8,
    }
    precision = measured.eval["precision"][:, :, :, 0, -1]
    by_category = np.array([precision[:, :, place].mean() for place in range(len(categories))])
    return {name: stats[place] for name, place in places.items()} | {"map_per_class": by_category}


def test_boxes_of_real_images_as_the_other_library_measures_them(real: Any) -> None:
    images, categories, rows = real
    figures = average_precision(images, rows, categories, "bbox")
    assert 5 < figures["ap"] < 80
    check_same(figures, categories, library_figures(images, categories, rows, "bbox"))


def test_masks_of_real_images_as_the_other_library_measures_them(people: Any) -> None:
    images, categories, rows = people
    figures = average_precision(images, rows, categories, "segm")
    assert 5 < figures["ap"] < 80
    check_same(figures, categories, library_figures(images, categories, rows, "segm"))


@pytest.mark.slow
def test_boxes_of_real_images_as_torchmetrics_measures_them(real: Any) -> None:
    pytest.importorskip("faster_coco_eval")
    images, categories, rows = real
    figures = average_precision(images, rows, categories, "bbox")
    check_same(figures, categories, torchmetrics_figures(images, categories, rows, "bbox"))


@pytest.mark.slow
def test_masks_of_drawn_images_as_torchmetrics_measures_them() -> None:
    pytest.importorskip("faster_coco_eval")
    images = tuple(
        AnnotatedImage(
            f"{seed}.png",
            *(96, 64),
            tuple(Instance(n, box, int(m.sum()), mask=run_lengths(m)) for n, box, m in drawn_image(seed)[1]),
        )
        for seed in range(20)
    )
    rows = guesses(images, ("disc", "square"), True)
    full = [(image, row) for image, row in zip(images, rows, strict=True) if row.masks]
    images, rows = tuple(image for image, _ in full), [row for _, row in full]
    figures = average_precision(images, rows, ["disc", "square"], "segm")
    assert 5 < figures["ap"] < 95
    check_same(figures, ("disc", "square"), torchmetrics_figures(images, ("disc", "square"), rows, "segm"))


def test_ap50_of_real_boxes_by_a_second_hand(real: Any) -> None:
    """The definition written down once more: greedy matching by score, 101 recalls, mean over categories."""
    images, categories, rows = real
    expected = [_plain_ap(images, rows, name, number, 0.5) for number, name in enumerate(categories, start=1)]
    figures = average_precision(images, rows, categories, "bbox")
    assert figures["ap50"] == pytest.approx(100 * np.mean(expected), abs=1e-9)


def _plain_ap(images: Any, rows: list[Found], name: str, number: int, threshold: float) -> float:
    hits, total = [], 0
    for image, row in zip(images, rows, strict=True):
        boxes = [instance.box for instance in image.instances if instance.category == name]
        total += len(boxes)
        free = set(range(len(boxes)))
        mine = [place for place in np.argsort(-row.scores, kind="stable") if row.labels[place] == number]
        for place in mine[:100]:
            scored = [(_iou(row.boxes[place].astype(float), boxes[other]), other) for other in sorted(free)]
            best = max(scored, default=(0.0, -1))
            if best[0] >= threshold:
                free.remove(best[1])
            hits.append((row.scores[place], best[0] >= threshold))
    right = np.array([hit for _, hit in sorted(hits, key=lambda pair: -pair[0])])
    recall = right.cumsum() / total
    precision = right.cumsum() / np.arange(1, len(right) + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, np.linspace(0, 1, 101))
    return float(np.mean([best_from_here[place] if place < len(right) else 0.0 for place in places]))


def _iou(one: Any, two: Any) -> float:
    width = min(one[2], two[2]) - max(one[0], two[0])
    height = min(one[3], two[3]) - max(one[1], two[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, two)]
    return float(width * height / (sum(areas) - width * height))
