"""The torch backend against torchvision on Pillow images, and against its own batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as F
from PIL import Image

from syn2co_ray.augment import torch_backend as backend
from syn2co_ray.augment.opencv_backend import apply_view
from syn2co_ray.augment.parameters import ViewParameters, draw_view_parameters
from syn2co_ray.augment.recipes import RECIPES

from .published import difference, pillow_resize, published_view

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pictures(photos: list[np.ndarray]) -> list[np.ndarray]:
    return [pillow_resize(photo, 96, 96) for photo in photos]


def batch_of(pictures: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float()


def as_uint8(batch: torch.Tensor) -> np.ndarray:
    assert torch.equal(batch, batch.round())
    assert 0 <= batch.min()
    assert batch.max() <= 255
    return batch.permute(0, 2, 3, 1).to(torch.uint8).numpy()


def drawn(images: list[np.ndarray], recipe: str, draws: int) -> tuple[list[np.ndarray], list[ViewParameters]]:
    repeated, parameters = [], []
    for number, image in enumerate(images * draws):
        for view, view_recipe in enumerate(RECIPES[recipe]):
            name: dict[str, Any] = {"seed": 1, "epoch": 2, "key": str(number), "repeat": 0, "view": view}
            height, width = image.shape[:2]
            parameters.append(
                draw_view_parameters(view_recipe, image_height=height, image_width=width, **name)
            )
            repeated.append(image)
    return repeated, parameters


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_affine_jitter_equals_pillow_with_a_factor_a_sample(pictures: list[np.ndarray], name: str) -> None:
    factors = [0.0, 0.6, 0.83, 1.0, 1.17, 1.4]
    repeated = [pictures[number % 2] for number in range(len(factors))]
    ours = as_uint8(getattr(backend, f"adjust_{name}")(batch_of(repeated), factors))
    for view, picture, factor in zip(ours, repeated, factors, strict=True):
        theirs = getattr(F, f"adjust_{name}")(Image.fromarray(picture), factor)
        levels = difference(view, np.asarray(theirs))
        assert levels.max() <= 1
        assert levels.mean() < 0.01


def test_hue_agrees_with_torchvision_on_tensors_and_on_pillow(pictures: list[np.ndarray]) -> None:
    shifts = [-0.5, -0.1, -0.03, 0.0, 0.05, 0.1]
    repeated = [pictures[number % 2] for number in range(len(shifts))]
    ours = as_uint8(backend.adjust_hue(batch_of(repeated), shifts))
    for view, picture, shift in zip(ours, repeated, shifts, strict=True):
        on_tensor = (
            F.adjust_hue(torch.from_numpy(picture.copy()).permute(2, 0, 1), shift).permute(1, 2, 0).numpy()
        )
        assert difference(view, on_tensor).max() <= 1
        on_pillow = difference(view, np.asarray(F.adjust_hue(Image.fromarray(picture), shift)))
        assert on_pillow.mean() < 1
        assert on_pillow.max() <= 14  # Pillow keeps hue and saturation in 8 bits


def test_grey_equals_pillow(pictures: list[np.ndarray]) -> None:
    ours = as_uint8(backend.drop_colour(batch_of(pictures), [1.0, 1.0]))
    for view, picture in zip(ours, pictures, strict=True):
        np.testing.assert_array_equal(view, np.asarray(F.to_grayscale(Image.fromarray(picture), 3)))


def test_blur_agrees_with_a_sigma_a_sample(pictures: list[np.ndarray]) -> None:
    sigmas = [0.1, 0.4, 0.9, 1.5, 2.0]
    repeated = [pictures[number % 2] for number in range(len(sigmas))]
    ours = as_uint8(backend.blur(batch_of(repeated), sigmas))
    for view, picture, sigma in zip(ours, repeated, sigmas, strict=True):
        levels = difference(
            view, np.asarray(F.gaussian_blur(Image.fromarray(picture), [23, 23], [sigma] * 2))
        )
        assert levels.mean() < 0.25
        assert levels.max() <= 2


def test_solarise_is_exact(pictures: list[np.ndarray]) -> None:
    thresholds = [0.0, 100.0, 128.0, 256.0]
    repeated = [pictures[number % 2] for number in range(4)]
    ours = as_uint8(backend.solarise(batch_of(repeated), thresholds))
    for view, picture, threshold in zip(ours, repeated, thresholds, strict=True):
        np.testing.assert_array_equal(view, np.asarray(F.solarize(Image.fromarray(picture), int(threshold))))


@pytest.mark.parametrize("size", [8, 96, 224])
def test_resize_is_within_one_level_of_pillow(photos: list[np.ndarray], size: int) -> None:
    shapes = [(375, 300), (224, 224), (100, 120), (1, 1), (1, 7), (300, 2), (250, 299)]
    crops = [photos[number % 2][:height, :width] for number, (height, width) in enumerate(shapes)]
    flips = [number % 3 == 1 for number in range(len(shapes))]
    ours = as_uint8(backend.resize_crops(crops, flips, size, CPU))
    for view, crop, flip in zip(ours, crops, flips, strict=True):
        theirs = pillow_resize(crop, size, size)
        assert difference(view, theirs[:, ::-1] if flip else theirs).max() <= 1


@pytest.mark.parametrize("shape", [(1, 20_000), (20_000, 1), (4000, 3000)])
def test_resize_keeps_a_flat_image_flat(shape: tuple[int, int]) -> None:
    flat = np.full((*shape, 3), (255, 3, 128), np.uint8)
    resized = as_uint8(backend.resize_crops([flat], [False], 8, CPU))
    assert (resized == (255, 3, 128)).all()


def test_filter_weights_sum_to_one_exactly() -> None:
    for length in (1, 7, 223, 224, 225, 1000, 30_001):
        _, weights = backend._triangle_taps(np.array([length]), 224)
        assert (weights.astype(np.float64).sum(-1) == 1).all()
        assert ((weights * 2**16) % 1 == 0).all()


@pytest.mark.parametrize("recipe", sorted(RECIPES))
@pytest.mark.parametrize("image_size", [128, 32])
def test_whole_views_agree_with_torchvision(photos: list[np.ndarray], recipe: str, image_size: int) -> None:
    check_whole_views(*drawn(photos, recipe, 3), image_size)


def test_whole_views_of_real_photos_agree_with_torchvision(caltech_photos: list[np.ndarray]) -> None:
    check_whole_views(*drawn(caltech_photos, "byol", 1), 128)


def check_whole_views(images: list[np.ndarray], parameters: list[ViewParameters], image_size: int) -> None:
    views = backend.apply_views(images, parameters, image_size, CPU)
    assert (views.shape, views.dtype) == ((len(images), 3, image_size, image_size), torch.uint8)
    rows = zip(views.numpy(), images, parameters, strict=True)
    levels = np.stack([difference(view, published_view(image, p, image_size)) for view, image, p in rows])
    assert levels.mean() < 0.8
    assert levels.mean(axis=(1, 2, 3)).max() < 3
    assert np.percentile(levels, 99) <= 7


def test_backends_agree(photos: list[np.ndarray]) -> None:
    images, parameters = drawn(photos, "byol", 6)
    by_torch = backend.apply_views(images, parameters, 160, CPU).numpy()
    by_opencv = np.stack([apply_view(image, p, 160) for image, p in zip(images, parameters, strict=True)])
    levels = difference(by_torch, by_opencv)
    assert levels.mean() < 1.0
    assert levels.mean(axis=(1, 2, 3)).max() < 3
    assert np.percentile(levels, 99) <= 8


def test_views_do_not_depend_on_the_batch_bit_for_bit(
    photos: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, parameters = drawn(photos, "byol", 3)
    together = backend.apply_views(images, parameters, 64, CPU)
    backwards = backend.apply_views(images[::-1], parameters[::-1], 64, CPU)
    assert torch.equal(backwards.flip(0), together)
    alone = [backend.apply_views([image], [p], 64, CPU) for image, p in zip(images, parameters, strict=True)]
    assert torch.equal(torch.cat(alone), together)
    monkeypatch.setattr(backend, "CROP_PIXELS_MAX", 100_000)  # several groups of crops
    assert torch.equal(backend.apply_views(images, parameters, 64, CPU), together)


def test_groups_hold_every_row_once_within_the_limit() -> None:
    random = np.random.default_rng(0)
    sizes = random.integers(1, 4000, (60, 2)).tolist()
    parameters = [ViewParameters(0, 0, height, width) for height, width in sizes]
    groups = list(backend._groups_of_like_size(parameters))
    assert sorted(row for rows in groups for row in rows) == list(range(60))
    assert len(groups) > 5
    for rows in groups:
        height = max(parameters[row].height for row in rows)
        width = max(parameters[row].width for row in rows)
        assert len(rows) == 1 or len(rows) * height * width <= backend.CROP_PIXELS_MAX


def test_apply_views_of_extreme_shapes_and_of_nothing() -> None:
    shapes = [(1, 1), (1, 2000), (2000, 1), (3, 5)]
    images = [np.full((*shape, 3), 90, np.uint8) for shape in shapes]
    repeated, parameters = drawn(images, "moco_v2", 2)
    assert backend.apply_views(repeated, parameters, 8, CPU).shape == (16, 3, 8, 8)
    assert backend.apply_views([], [], 8, CPU).shape == (0, 3, 8, 8)


def test_apply_views_ignores_autocast_and_leaves_precision_settings(photos: list[np.ndarray]) -> None:
    images, parameters = drawn(photos, "byol", 1)
    plain = backend.apply_views(images, parameters, 64, CPU)
    before = torch.backends.cuda.matmul.fp32_precision
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(backend.apply_views(images, parameters, 64, CPU), plain)
    assert torch.backends.cuda.matmul.fp32_precision == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_views_equal_cpu_views(photos: list[np.ndarray]) -> None:
    images, parameters = drawn(photos, "byol", 8)
    on_cpu = backend.apply_views(images, parameters, 224, CPU).numpy()
    on_cuda = backend.apply_views(images, parameters, 224, "cuda").cpu().numpy()
    levels = difference(on_cuda, on_cpu)
    assert levels.max() <= 3  # hue divides, and devices may round a division differently
    assert (levels > 0).mean() < 1e-3
