"""eval_view against torchvision's Resize and CenterCrop."""

from __future__ import annotations

import numpy as np
import pytest
import torchvision.transforms.functional as F
from PIL import Image

from syn2co_ray.augment.eval_view import eval_view

from .published import difference, pillow_resize


def published(image: np.ndarray, image_size: int) -> np.ndarray:
    resized = F.resize(Image.fromarray(image), round(image_size * 256 / 224))
    return np.asarray(F.center_crop(resized, [image_size, image_size])).transpose(2, 0, 1)


@pytest.mark.parametrize("image_size", [224, 160, 96, 64])
def test_eval_view_agrees_with_torchvision(photos: list[np.ndarray], image_size: int) -> None:
    odd = [photo[:-1, :-2] for photo in photos]
    enlarged = [photo[100:180, 100:221] for photo in photos]
    levels = np.stack(
        [
            difference(eval_view(image, image_size), published(image, image_size))
            for image in photos + odd + enlarged
        ]
    )
    assert levels.mean() < 1.0
    assert levels.mean(axis=(1, 2, 3)).max() < 2.5


def test_eval_view_of_real_photos_agrees_with_torchvision(caltech_photos: list[np.ndarray]) -> None:
    levels = np.stack([difference(eval_view(image, 224), published(image, 224)) for image in caltech_photos])
    assert levels.mean() < 1.0
    assert levels.mean(axis=(1, 2, 3)).max() < 3


@pytest.mark.parametrize("image_size", [8, 32, 63])
def test_small_eval_view_is_the_whole_image(photos: list[np.ndarray], image_size: int) -> None:
    for image in photos:
        view = eval_view(image, image_size)
        levels = difference(view, pillow_resize(image, image_size, image_size).transpose(2, 0, 1))
        assert levels.mean() < 4


def test_eval_view_of_a_small_image_of_that_size_is_the_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    np.testing.assert_array_equal(eval_view(image, 32), image.transpose(2, 0, 1))


def test_eval_view_takes_the_centre() -> None:
    image = np.zeros((300, 700, 3), np.uint8)
    image[:, 200:500] = 255  # the middle 300 x 300
    view = eval_view(image, 224)
    assert (view == 255).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 2000), (2000, 1), (1, 1_000_000), (30_000, 3)])
@pytest.mark.parametrize("image_size", [8, 64, 224])
def test_eval_view_of_extreme_shapes(shape: tuple[int, int], image_size: int) -> None:
    view = eval_view(np.full((*shape, 3), (1, 2, 250), np.uint8), image_size)
    assert (view.shape, view.dtype) == ((3, image_size, image_size), np.uint8)
    assert view.flags.c_contiguous
    assert (view == np.array([1, 2, 250], np.uint8).reshape(3, 1, 1)).all()
