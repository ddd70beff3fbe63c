"""The sheet is a PNG with each picture where its row and column say."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from syn2co_ray.augment.sheet import GAP_PIXELS, views_sheet_png

COLOURS = [(200, 30, 40), (20, 180, 60), (60, 50, 220)]


def flat(colour: tuple[int, int, int], size: int) -> np.ndarray:
    return np.broadcast_to(np.array(colour, np.uint8).reshape(3, 1, 1), (3, size, size))


def opened(png: bytes) -> np.ndarray:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


@pytest.mark.parametrize("size", [16, 150, 224, 512])
def test_sheet_shows_original_and_views_in_their_columns(size: int) -> None:
    original = np.full((60, 90, 3), COLOURS[0], np.uint8)
    views = np.stack([flat(COLOURS[1], size), flat(COLOURS[2], size)])
    sheet = opened(views_sheet_png([("first", original, views), ("second", original, views)]))
    tile = min(max(size, 128), 256)
    step = tile + GAP_PIXELS
    assert sheet.shape[1] == GAP_PIXELS + 3 * step
    for column, colour in enumerate(COLOURS):
        part = sheet[:, GAP_PIXELS + column * step :][:, :tile]
        found = (part == colour).all(axis=-1).sum()
        height = round(tile * 60 / 90) if column == 0 else tile
        assert found == 2 * tile * height  # two rows, nothing cut off, nothing drawn over


def test_sheet_writes_the_key_below_the_original() -> None:
    original, views = np.zeros((50, 50, 3), np.uint8), np.zeros((2, 3, 128, 128), np.uint8)
    sheets = [
        opened(views_sheet_png([(key, original, views)])) for key in ("train/0001.jpg", "train/0002.jpg")
    ]
    changed = np.argwhere((sheets[0] != sheets[1]).any(axis=-1))
    assert len(changed) > 0
    assert changed[:, 0].min() > 128  # below the tile
    assert changed[:, 1].max() < GAP_PIXELS + 128  # under the original


def test_sheet_shortens_long_and_foreign_keys_to_the_tile() -> None:
    original, views = np.zeros((50, 50, 3), np.uint8), np.zeros((1, 3, 128, 128), np.uint8)
    for key in ("x" * 500, "s3://bucket/\u0645\u0631\u062d\u0628\u0627/\U0001f600.jpg", ""):
        sheet = opened(views_sheet_png([(key, original, views)]))
        right_of_original = sheet[:, GAP_PIXELS + 128 : GAP_PIXELS + 128 + GAP_PIXELS]
        assert (right_of_original == 255).all()


def test_sheet_without_records_or_with_uneven_views_is_refused() -> None:
    image = np.zeros((5, 5, 3), np.uint8)
    with pytest.raises(ValueError, match="at least one"):
        views_sheet_png([])
    with pytest.raises(ValueError, match="different numbers"):
        views_sheet_png(
            [("a", image, np.zeros((1, 3, 8, 8), np.uint8)), ("b", image, np.zeros((2, 3, 8, 8), np.uint8))]
        )
