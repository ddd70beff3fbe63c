"""COCO's JSON: what cannot be used is counted by its reason, what is no such file is one error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from syn2co_ray.evaluate.detection.annotations import AnnotatedImage, Findings
from syn2co_ray.evaluate.detection.coco import read_coco
from syn2co_ray.evaluate.detection.sets import read_set
from syn2co_ray.spec.detection import AnnotatedImagesSpec
from syn2co_ray.spec.errors import DataError
from syn2co_ray.spec.source import ObjectStoreSpec
from syn2co_ray.storage import open_store, publish_bytes

from .drawn import coco_content, drawn_image, png_bytes, small_detection

FILES = {f"{seed}.png" for seed in range(4)}


def read(content: Any, masks: bool = False) -> tuple[list[AnnotatedImage], list[str], Findings]:
    findings = Findings()
    images, names = read_coco(json.dumps(content).encode(), "a.json", FILES, masks, findings)
    return images, names, findings


def changed(**annotation: Any) -> dict[str, Any]:
    content = coco_content(range(4))
    content["annotations"][0] |= annotation
    return content


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        ({"bbox": [10, 10, 0, 5]}, "have no area"),
        ({"bbox": [10, 10, 5, -5]}, "have no area"),
        ({"bbox": [96, 10, 5, 5]}, "are outside of their image"),
        ({"bbox": [-9, 0, 9, 9]}, "are outside of their image"),
        ({"bbox": [1, 2, 3]}, "are not four finite numbers"),
        ({"bbox": [1, 2, float("nan"), 4]}, "are not four finite numbers"),
        ({"bbox": None}, "are not four finite numbers"),
        ({"bbox": ["1", 2, 3, 4]}, "are not four finite numbers"),
        ({"bbox": [1, 10**400, 5, 5]}, "are not four finite numbers"),
        ({"category_id": []}, "are of a category that the file does not name"),
        ({"image_id": {}}, "are of an image that the file does not name"),
        ({"category_id": 9}, "are of a category that the file does not name"),
        ({"image_id": 99}, "are of an image that the file does not name"),
    ],
)
def test_a_bad_box_is_left_out_and_counted(annotation: dict[str, Any], reason: str) -> None:
    images, _, findings = read(changed(**annotation))
    assert findings.boxes == {reason: 1}
    assert "annotation 1" in findings.first[reason]
    assert sum(len(image.instances) for image in images) == 7
    (line,) = findings.lines("detection.train", 4, 8)
    assert line.startswith(f"detection.train: 1 of 8 boxes {reason} (first: annotation 1")
    assert line.endswith("left out")


def test_a_box_that_reaches_out_is_clipped_and_counted() -> None:
    images, _, findings = read(changed(bbox=[-5, 60, 20, 30]))
    assert images[0].instances[0].box == (0, 60, 15, 64)
    assert findings.changed == {"reach out of their image and are clipped": 1}


def test_images_without_file_or_size_are_left_out_with_their_boxes() -> None:
    content = coco_content(range(4))
    content["images"][0]["file_name"] = "../../etc/passwd"
    content["images"][1]["width"] = 0
    images, _, findings = read(content)
    assert [image.file for image in images] == ["2.png", "3.png"]
    assert findings.images == {"have no file in the folder": 1, "have no width and height": 1}


def test_masks_that_do_not_fit_make_an_object_ignored() -> None:
    for mask in (
        None,
        [],
        [[1, 2, 3]],
        [[10, 10, 1e9, 10, 40, 30]],
        {"size": [1, 1], "counts": [1]},
        {"size": [64, 96], "counts": [5, 7]},
    ):
        images, _, findings = read(changed(segmentation=mask), masks=True)
        assert images[0].instances[0].ignored
        assert findings.changed == {"have no usable mask and are ignored": 1}
    images, _, findings = read(coco_content(range(4)), masks=True)
    assert not any(i.ignored for image in images for i in image.instances)
    assert not findings.changed


def test_crowds_are_kept_as_such() -> None:
    images, _, _ = read(changed(iscrowd=1))
    assert images[0].instances[0].crowd
    assert images[0].instances[0].ignored


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"{", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"[]", "not the lists images, annotations, categories"),
        (b'{"images": [1], "annotations": [], "categories": []}', "not the lists"),
    ],
)
def test_what_is_no_such_file_is_one_error(data: bytes, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_coco(data, "a.json", FILES, False, Findings())


def test_images_and_categories_must_be_told_apart() -> None:
    content = coco_content(range(4))
    content["images"][1]["id"] = 0
    with pytest.raises(DataError, match="ids of images are used twice, such as 0"):
        read(content)
    content = coco_content(range(4))
    content["categories"][1]["name"] = "disc"
    with pytest.raises(DataError, match="two categories of one id or name"):
        read(content)


def test_a_set_is_read_from_any_store_and_has_a_limit(tmp_path: Path) -> None:
    store = open_store("memory://detection-coco", ObjectStoreSpec())
    for seed in range(4):
        publish_bytes(store.child("images"), f"{seed}.png", png_bytes(drawn_image(seed)[0]))
    publish_bytes(store, "a.json", json.dumps(changed(bbox=[0, 0, 0, 0])).encode())
    images = AnnotatedImagesSpec(annotations=f"{store.uri}/a.json", images=f"{store.uri}/images")
    spec = small_detection(images, images, left_out_share_max=0.13)
    found = read_set("detection.train", images, spec, ObjectStoreSpec())
    assert (len(found.images), found.boxes, found.categories) == (4, 7, ("disc", "square"))
    assert len(found.warnings) == 1
    strict = spec.model_copy(update={"left_out_share_max": 0.1})
    with pytest.raises(DataError, match=r"1 of 8 boxes cannot be used: .*have no area.*left_out_share_max"):
        read_set("detection.train", images, strict, ObjectStoreSpec())
    empty = coco_content(range(4)) | {"annotations": []}
    publish_bytes(store, "a.json", json.dumps(empty).encode())
    with pytest.raises(DataError, match="no box in 4 images"):
        read_set("detection.train", images, spec, ObjectStoreSpec())
