"""The OpenCV backend against torchvision on Pillow images, operation by operation and as a whole.

Differences are in levels of 255: mean over all pixels, and the 99th percentile or the largest.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torchvision.transforms.functional as F
from PIL import Image

from syn2co_ray.augment import opencv_backend as backend
from syn2co_ray.augment.parameters import Jitter, ViewParameters, draw_view_parameters
from syn2co_ray.augment.recipes import RECIPES

from .published import difference, pillow_resize, published_view


@pytest.fixture(scope="module")
def views(photos: list[np.ndarray]) -> list[np.ndarray]:
    return [pillow_resize(photo, 224, 224) for photo in photos]


def worst(views: list[np.ndarray], ours, theirs) -> tuple[float, float, float]:
    """Mean, 99th percentile and largest difference."""
    levels = np.stack(
        [difference(np.asarray(ours(view)), np.asarray(theirs(Image.fromarray(view)))) for view in views]
    )
    return levels.mean(), np.percentile(levels, 99), levels.max()


@pytest.mark.parametrize("factor", [0.0, 0.6, 0.83, 1.0, 1.2, 1.4])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_affine_jitter_agrees_within_one_level(views: list[np.ndarray], name: str, factor: float) -> None:
    ours, theirs = getattr(backend, f"adjust_{name}"), getattr(F, f"adjust_{name}")
    mean, _, largest = worst(views, lambda v: ours(v, factor), lambda p: theirs(p, factor))
    assert largest <= 1
    assert mean < 0.5  # saturation mixes with an unrounded grey


@pytest.mark.parametrize("shift", [-0.1, -0.04, 0.02, 0.07, 0.1, 0.5, -0.5])
def test_hue_agrees(views: list[np.ndarray], shift: float) -> None:
    ours = lambda v: backend.adjust_hue(v, shift)  # noqa: E731
    mean, high, largest = worst(views, ours, lambda p: F.adjust_hue(p, shift))
    assert mean < 0.6
    assert high <= 5
    assert largest <= 12


@pytest.mark.parametrize("shift", [0.0, 0.003, -0.003])
def test_hue_shift_below_one_step_changes_nothing(views: list[np.ndarray], shift: float) -> None:
    np.testing.assert_array_equal(backend.adjust_hue(views[0], shift), views[0])


@pytest.mark.parametrize("sigma", [0.1, 0.4, 0.7, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("grey", [False, True])
def test_blur_agrees_with_the_wide_kernel(views: list[np.ndarray], sigma: float, grey: bool) -> None:
    chosen = [np.ascontiguousarray(view[..., 1]) for view in views] if grey else views
    theirs = lambda p: F.gaussian_blur(p, [23, 23], [sigma, sigma])  # noqa: E731
    mean, _, largest = worst(chosen, lambda v: backend.blur(v, sigma), theirs)
    assert mean < 0.15
    assert largest <= 2


@pytest.mark.parametrize("threshold", [0, 1, 128, 255, 256])
def test_solarise_is_exact(views: list[np.ndarray], threshold: int) -> None:
    assert worst(views, lambda v: backend.solarise(v, threshold), lambda p: F.solarize(p, threshold))[2] == 0


@pytest.mark.parametrize(
    ("height", "width", "mean_max", "high_max"),
    [
        (40, 60, 0.3, 1),  # enlarged: the same filter
        (224, 224, 0.0, 0),
        (235, 230, 1.0, 8),  # not smoothed yet
        (250, 300, 0.8, 5),
        (300, 290, 0.8, 5),
        (375, 300, 0.8, 5),
        (375, 200, 1.2, 9),  # shrunk along one axis, enlarged along the other
    ],
)
def test_resize_to_224_agrees_with_pillow(
    photos: list[np.ndarray], height: int, width: int, mean_max: float, high_max: float
) -> None:
    crops = [photo[:height, :width] for photo in photos]
    levels = np.stack(
        [difference(backend.resize_antialiased(c, 224, 224), pillow_resize(c, 224, 224)) for c in crops]
    )
    assert levels.mean() <= mean_max
    assert np.percentile(levels, 99) <= high_max


@pytest.mark.parametrize("size", [(160, 160), (96, 96), (64, 96), (32, 32), (8, 8)])
def test_resize_to_small_agrees_with_pillow(photos: list[np.ndarray], size: tuple[int, int]) -> None:
    limit = 1.5 if size != (8, 8) else 4
    for photo in photos:
        levels = difference(backend.resize_antialiased(photo, *size), pillow_resize(photo, *size))
        assert levels.mean() < limit


def test_resize_does_not_alias() -> None:
    """A one-pixel checkerboard shrinks to grey; without antialiasing it would turn into waves."""
    board = np.indices((640, 640)).sum(axis=0) % 2 * 255
    board = np.repeat(board[..., None], 3, axis=2).astype(np.uint8)
    for size in (400, 300, 160, 100, 64):
        small = backend.resize_antialiased(board, size, size)[4:-4, 4:-4]
        by_pillow = pillow_resize(board, size, size)[4:-4, 4:-4]
        assert small.std() <= by_pillow.std() + 25, size
        assert abs(small.mean() - 127.5) < 2


@pytest.mark.parametrize("shape", [(1, 1), (1, 2000), (2000, 1), (2, 3), (5000, 40), (1, 3_000_000)])
@pytest.mark.parametrize("size", [8, 224])
def test_resize_keeps_a_flat_image_flat(shape: tuple[int, int], size: int) -> None:
    flat = np.full((*shape, 3), (10, 200, 77), np.uint8)
    resized = backend.resize_antialiased(flat, size, size)
    assert resized.shape == (size, size, 3)
    assert (resized == (10, 200, 77)).all()


@pytest.mark.parametrize("recipe", sorted(RECIPES))
@pytest.mark.parametrize(
    ("image_size", "mean_max", "worst_view_max", "high_max"),
    [(224, 1.0, 2.5, 7), (96, 1.0, 2.5, 7), (32, 1.5, 3, 10)],
)
def test_whole_views_agree(
    photos: list[np.ndarray],
    recipe: str,
    image_size: int,
    mean_max: float,
    worst_view_max: float,
    high_max: float,
) -> None:
    check_whole_views(photos, recipe, image_size, 6, mean_max, worst_view_max, high_max)


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_whole_views_of_real_photos_agree(caltech_photos: list[np.ndarray], recipe: str) -> None:
    check_whole_views(caltech_photos, recipe, 224, 2, 1.0, 4, 8)


def check_whole_views(
    images: list[np.ndarray],
    recipe: str,
    image_size: int,
    draws: int,
    mean_max: float,
    worst_view_max: float,
    high_max: float,
) -> None:
    levels = []
    for number, image in enumerate(images * draws):
        for view, view_recipe in enumerate(RECIPES[recipe]):
            parameters = draw_view_parameters(
                view_recipe,
                image_height=image.shape[0],
                image_width=image.shape[1],
                seed=0,
                epoch=0,
                key=str(number),
                repeat=0,
                view=view,
            )
            ours = backend.apply_view(image, parameters, image_size)
            levels.append(difference(ours, published_view(image, parameters, image_size)))
    each = np.stack(levels)
    assert each.mean() < mean_max
    assert each.mean(axis=(1, 2, 3)).max() < worst_view_max
    assert np.percentile(each, 99) <= high_max


def test_flip_mirrors_the_view_and_its_place_does_not_matter(photos: list[np.ndarray]) -> None:
    jitter = Jitter(("hue", "contrast", "brightness", "saturation"), 1.3, 0.7, 1.2, 0.06)
    plain = ViewParameters(10, 20, 200, 240, jitter=jitter, blur_sigma=1.2, solarise_threshold=128)
    straight = backend.apply_view(photos[0], plain, 96)
    flipped = backend.apply_view(photos[0], replace(plain, flip=True), 96)
    assert difference(flipped[:, :, ::-1], straight).max() <= 1
    assert difference(flipped, straight).mean() > 5


def test_jitter_order_matters_and_is_respected(views: list[np.ndarray]) -> None:
    forwards = Jitter(("brightness", "contrast", "saturation", "hue"), 1.4, 0.6, 1.3, 0.1)
    backwards = replace(forwards, order=tuple(reversed(forwards.order)))
    by_hand = views[0]
    for name in ("hue", "saturation", "contrast", "brightness"):
        by_hand = getattr(backend, f"adjust_{name}")(by_hand, getattr(forwards, name))
    np.testing.assert_array_equal(backend.jitter_colours(views[0], backwards), by_hand)
    assert difference(backend.jitter_colours(views[0], forwards), by_hand).mean() > 1


def test_apply_view_grey_has_three_equal_channels_and_keeps_the_input(photos: list[np.ndarray]) -> None:
    image = photos[0].copy()
    image.flags.writeable = False  # views of a shared block are read-only
    parameters = ViewParameters(0, 0, 200, 200, flip=True, grey=True, blur_sigma=0.8, solarise_threshold=100)
    view = backend.apply_view(image, parameters, 64)
    assert (view.shape, view.dtype) == ((3, 64, 64), np.uint8)
    assert (view == view[:1]).all()
    np.testing.assert_array_equal(image, photos[0])


def test_apply_view_writes_into_the_array_it_is_given(photos: list[np.ndarray]) -> None:
    block = np.zeros((2, 3, 48, 48), np.uint8)
    parameters = ViewParameters(0, 0, 200, 200)
    backend.apply_view(photos[0], parameters, 48, block[1])
    np.testing.assert_array_equal(block[1], backend.apply_view(photos[0], parameters, 48))
    assert (block[0] == 0).all()
