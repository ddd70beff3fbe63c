"""Section `detection`: faults with their lines, nothing changed for jobs without it."""

from __future__ import annotations

import pytest

from syn2co_ray.spec.errors import SpecError
from syn2co_ray.spec.identity import spec_hash
from syn2co_ray.spec.load import load_text

from .test_evaluation import EVALUATE

DETECTION = """\
kind: evaluate
name: tiny
storage: runs
weights: {run: runs/tiny-1234abcd}
knn: null
linear: null
detection:
  train: {annotations: a/train.json, images: a/images}
  eval: {annotations: a/val.json, images: a/images}
"""


def faults(*overrides: str, text: str = DETECTION) -> dict[str, str]:
    with pytest.raises(SpecError) as caught:
        load_text(text, overrides)
    return {fault.where: fault.render("job.yaml") for fault in caught.value.faults}


def test_detection_needs_no_labelled_images_and_everything_else_does() -> None:
    job = load_text(DETECTION)
    assert job.data is None
    assert job.detection.train.resolved_format == "coco"
    assert job.detection.neck is None
    found = faults("knn={}", "few_shot={}")
    assert set(found) == {"data"}
    assert "needed by knn, few_shot" in found["data"]
    assert set(faults("detection=null")) == {"knn"}


def test_jobs_without_it_keep_their_folders_and_threads_do_not_name_one() -> None:
    assert spec_hash(load_text(EVALUATE)) == spec_hash(load_text(EVALUATE, ["detection=null"]))
    assert spec_hash(load_text(EVALUATE)).startswith("62be2865")
    one, other = (load_text(DETECTION, [f"detection.reader_threads={n}"]) for n in (1, 9))
    assert spec_hash(one) == spec_hash(other)


def test_faults_come_at_once() -> None:
    found = faults(
        "detection.scale=[0.9, 0.5]",
        "detection.train.mask_folder=masks",
        "detection.train.one_based=false",
        "detection.eval.annotations=a/train.json",
    )
    assert set(found) == {
        "detection.scale",
        "detection.train.mask_folder",
        "detection.train.one_based",
        "detection.eval",
    }
    assert "job.yaml:8: detection.train.mask_folder" in found["detection.train.mask_folder"]
    assert "detection.image_size" in faults("detection.image_size=100")
    voc = ["detection.train.annotations=a/Annotations", "detection.masks=true"]
    assert "SegmentationObject" in faults(*voc)["detection.train.mask_folder"]
    lists = ["detection.train={annotations: a, images: b, image_set: t.txt}"]
    lists += ["detection.eval={annotations: a, images: b, image_set: v.txt}"]
    assert load_text(DETECTION, lists).detection.eval.resolved_format == "voc"
