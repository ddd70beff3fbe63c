"""Run lengths and polygons against pycocotools; what is no whole mask is refused before any C code."""

from __future__ import annotations

import numpy as np
import pytest

from syn2co_ray.evaluate.detection.masks import pixels_of, run_lengths, usable_mask

from .drawn import HEIGHT, WIDTH, drawn_image

mask_api = pytest.importorskip("pycocotools.mask", reason="needs the extra `detect`")


@pytest.mark.parametrize("seed", range(5))
def test_run_lengths_are_those_of_the_reference(seed: int) -> None:
    for _, _, pixels in drawn_image(seed)[1]:
        plain = run_lengths(pixels)
        assert usable_mask(plain, WIDTH, HEIGHT) == plain
        assert np.array_equal(pixels_of(plain, WIDTH, HEIGHT), pixels)
        compressed = mask_api.encode(np.asfortranarray(pixels))
        text = {"size": compressed["size"], "counts": compressed["counts"].decode()}
        assert usable_mask(text, WIDTH, HEIGHT) == plain
        assert np.array_equal(mask_api.decode(mask_api.frPyObjects(plain, HEIGHT, WIDTH)), pixels)


def test_noise_survives_too_from_its_first_pixel_on() -> None:
    for first in (0, 1):
        pixels = np.random.default_rng(first).integers(0, 2, (37, 53), dtype=np.uint8)
        pixels[0, 0] = first
        text = mask_api.encode(np.asfortranarray(pixels))
        found = usable_mask({"size": [37, 53], "counts": text["counts"].decode()}, 53, 37)
        assert found == run_lengths(pixels)
        assert np.array_equal(pixels_of(found, 53, 37), pixels)


def test_polygons_are_filled_as_the_reference_does() -> None:
    parts = [[10, 10, 40, 10, 40, 30, 10, 30], [50.5, 5, 80, 5, 60, 60]]
    found = usable_mask(parts, WIDTH, HEIGHT)
    assert found == parts
    pixels = pixels_of(parts, WIDTH, HEIGHT)
    assert pixels[10:30, 10:40].all()
    far = [[-WIDTH, -HEIGHT, 2 * WIDTH, -HEIGHT, 2 * WIDTH, 2 * HEIGHT, -WIDTH, 2 * HEIGHT]]
    assert usable_mask(far, WIDTH, HEIGHT) == far
    assert pixels_of(far, WIDTH, HEIGHT).all()
    assert pixels.sum() == 20 * 30 + mask_api.area(mask_api.frPyObjects(parts[1:], HEIGHT, WIDTH))[0]


@pytest.mark.parametrize(
    "mask",
    [
        None,
        "x",
        [],
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5, 6, 7]],
        [[1, 2, 3, 4, 5, float("inf")]],
        [[1, 2, 3, 4, 5, 1e9]],
        [[-1e9, 2, 3, 4, 5, 6]],
        [[1, 2, 3, 4, 5, 10**400]],
        [[10, 10, 40, 10, 40, 30], [1, 2, 2 * WIDTH + 1, 4, 5, 6]],
        [[1, -HEIGHT - 1, 3, 4, 5, 6]],
        [[1, 2 * HEIGHT + 1, 3, 4, 5, 6]],
        {"size": [HEIGHT, WIDTH]},
        {"size": [WIDTH, HEIGHT], "counts": [0, WIDTH * HEIGHT]},
        {"size": [HEIGHT, WIDTH], "counts": [0, WIDTH * HEIGHT + 1]},
        {"size": [HEIGHT, WIDTH], "counts": [WIDTH * HEIGHT]},
        {"size": [HEIGHT, WIDTH], "counts": [-1, WIDTH * HEIGHT + 1]},
        {"size": [HEIGHT, WIDTH], "counts": "zzzz"},
        {"size": [HEIGHT, WIDTH], "counts": "o" * 50},
        {"size": [HEIGHT, WIDTH], "counts": "\u00e9\n"},
    ],
)
def test_what_is_no_whole_mask_is_refused(mask: object) -> None:
    assert usable_mask(mask, WIDTH, HEIGHT) is None
