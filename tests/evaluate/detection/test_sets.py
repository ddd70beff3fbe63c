"""Both sets together: categories that do not match, images that stand in both."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from syn2co_ray.evaluate.detection.images import Sample, batches
from syn2co_ray.evaluate.detection.sets import read_sets
from syn2co_ray.spec.detection import AnnotatedImagesSpec
from syn2co_ray.spec.errors import DataError
from syn2co_ray.spec.source import ObjectStoreSpec
from syn2co_ray.storage import open_store, publish_bytes

from .drawn import small_detection, write_coco, write_voc

STORE = ObjectStoreSpec()


def sets(tmp_path: Path, rename: dict[str, str]) -> tuple[AnnotatedImagesSpec, AnnotatedImagesSpec]:
    train = write_coco(tmp_path / "train", "a", range(4))
    held_out = write_coco(tmp_path / "eval", "b", range(10, 12))
    file = Path(held_out.annotations)
    content = json.loads(file.read_text())
    for category in content["categories"]:
        category["name"] = rename.get(category["name"], category["name"])
    file.write_text(json.dumps(content))
    return train, held_out


def test_categories_are_matched_by_name_and_new_ones_count_as_missed(tmp_path: Path) -> None:
    spec = small_detection(*sets(tmp_path, {"disc": "a cell"}))
    train, held_out, warnings = read_sets(spec, STORE)
    assert train.categories == ("disc", "square")
    assert held_out.categories == ("disc", "square", "a cell")
    assert warnings == [
        "2 of 4 boxes of detection.eval are of categories that detection.train has no box of (a cell): "
        "they count as missed"
    ]


def test_no_category_in_common_is_refused(tmp_path: Path) -> None:
    spec = small_detection(*sets(tmp_path, {"disc": "cat", "square": "dog"}))
    with pytest.raises(DataError, match="its categories are cat, dog, those of detection.train disc, square"):
        read_sets(spec, STORE)


def test_images_in_both_sets_are_counted_by_content(tmp_path: Path) -> None:
    spec = small_detection(*sets(tmp_path, {}))
    assert read_sets(spec, STORE)[2] == []
    shutil.copy(tmp_path / "train/images/2.png", tmp_path / "eval/images/10.png")
    assert read_sets(spec, STORE)[2] == ["1 of 2 images of detection.eval also stand in detection.train"]


def test_images_without_objects_are_kept_and_said(tmp_path: Path) -> None:
    train, held_out = sets(tmp_path, {})
    file = Path(train.annotations)
    content = json.loads(file.read_text())
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] != 3]
    file.write_text(json.dumps(content))
    found, _, warnings = read_sets(small_detection(train, held_out), STORE)
    assert len(found.images) == 4
    assert "1 of 4 images have no object" in warnings[0]


def copied(folder: Path, place: str) -> str:
    """A folder's files in a store, under its own name; returns the URI."""
    store = open_store(f"{place}/{folder.name}", STORE)
    for file in folder.rglob("*"):
        if file.is_file():
            publish_bytes(store, file.relative_to(folder).as_posix(), file.read_bytes())
    return store.uri


def test_sets_of_both_formats_are_read_from_any_store(place: str, tmp_path: Path) -> None:
    write_coco(tmp_path / "coco", "a", range(2))
    write_voc(tmp_path / "voc", range(10, 12))
    coco, voc = copied(tmp_path / "coco", place), copied(tmp_path / "voc", place)
    train = AnnotatedImagesSpec(annotations=f"{coco}/a.json", images=f"{coco}/images")
    held_out = AnnotatedImagesSpec(
        annotations=f"{voc}/Annotations", images=f"{voc}/images", mask_folder=f"{voc}/SegmentationObject"
    )
    spec = small_detection(train, held_out, masks=True)
    found = read_sets(spec, STORE)[:2]
    for images in found:
        (group,) = batches(images, [[(0, None), (1, None)]], spec, 0)
        pixels = [sample.pixels for sample in group if isinstance(sample, Sample)]
        assert [tuple(one.shape) for one in pixels] == [(3, 96, 96)] * 2
        assert [len(image.instances) for image in images.images] == [2, 2]
