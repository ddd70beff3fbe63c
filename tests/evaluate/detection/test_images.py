"""Squares: boxes and masks stay on their objects through scaling, flips and crops, and come back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from syn2co_ray.data.randomness import named_generator
from syn2co_ray.evaluate.detection.images import Sample, Unreadable, batches, make_sample, to_image
from syn2co_ray.evaluate.detection.sets import read_set
from syn2co_ray.spec.source import ObjectStoreSpec

from .drawn import COLOURS, HEIGHT, WIDTH, small_detection, write_coco

CATEGORIES = {"disc": 1, "square": 2}


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.5, 2.0)])
def test_boxes_and_masks_stay_on_their_objects(tmp_path: Path, seed: int, scale: tuple[float, float]) -> None:
    images = write_coco(tmp_path, "all", range(1))
    spec = small_detection(images, images, masks=True, image_size=192, scale=scale)
    (annotated,) = read_set("detection.train", images, spec, ObjectStoreSpec()).images
    encoded = (tmp_path / "images/0.png").read_bytes()
    sample = make_sample(annotated, encoded, CATEGORIES, spec, named_generator(seed))
    assert isinstance(sample, Sample)
    assert sample.pixels.shape == (3, 192, 192)
    again = make_sample(annotated, encoded, CATEGORIES, spec, named_generator(seed))
    assert isinstance(again, Sample)
    assert torch.equal(sample.pixels, again.pixels)
    names = {number: name for name, number in CATEGORIES.items()}
    for box, label, mask in zip(*(sample.truth[k] for k in ("boxes", "labels", "masks")), strict=True):
        left, upper, right, lower = box.round().int().tolist()
        inside = sample.pixels[:, mask == 1].float()
        expected = torch.tensor(COLOURS[names[int(label)]]).float()
        assert (inside.median(dim=1).values - expected).abs().max() < 12
        rows, columns = np.nonzero(mask.numpy())
        edges = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert np.abs(edges - [left, upper, right, lower]).max() <= 2


def test_boxes_come_back_to_the_image(tmp_path: Path) -> None:
    images = write_coco(tmp_path, "all", range(1))
    spec = small_detection(images, images, image_size=160)
    (annotated,) = read_set("detection.eval", images, spec, ObjectStoreSpec()).images
    sample = make_sample(annotated, (tmp_path / "images/0.png").read_bytes(), CATEGORIES, spec, None)
    assert isinstance(sample, Sample)
    truth = torch.tensor([instance.box for instance in annotated.instances])
    assert torch.allclose(to_image(sample.truth["boxes"], sample), truth, atol=0.5)
    whole = to_image(torch.tensor([[-9.0, 0, 999, 999]]), sample)
    assert whole.tolist() == [[0, 0, WIDTH, HEIGHT]]


def test_an_image_that_is_not_as_annotated_or_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    images = write_coco(tmp_path, "all", range(3))
    spec = small_detection(images, images)
    found = read_set("detection.eval", images, spec, ObjectStoreSpec())
    (tmp_path / "images/1.png").write_bytes(b"\x89PNG\r\n\x1a\nx")
    (tmp_path / "images/2.png").write_bytes((tmp_path / "images/0.png").read_bytes()[:200])
    (group,) = batches(found, [[(0, None), (1, None), (2, None)]], spec, 0)
    assert [type(one) for one in group] == [Sample, Unreadable, Unreadable]
    turned = found.images[0].__class__("0.png", HEIGHT, WIDTH, ())
    wrong = make_sample(turned, (tmp_path / "images/0.png").read_bytes(), CATEGORIES, spec, None)
    assert wrong == Unreadable("0.png", "96x64 pixels, annotated as 64x96")
