"""The sheet: truth and finds where they are, in their categories' colours."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from syn2co_ray.evaluate.detection.sheet import (
    CAPTION_PIXELS,
    COLOURS,
    GAP_PIXELS,
    TILE_PIXELS,
    Drawn,
    detection_sheet,
)


def test_boxes_and_masks_are_drawn_in_their_columns() -> None:
    image = np.full((80, 160, 3), 128, np.uint8)
    mask = np.zeros((80, 160), np.uint8)
    mask[20:60, 40:80] = 1
    truth = Drawn(np.array([[40, 20, 80, 60]]), [1], None, [mask])
    found = Drawn(np.array([[100, 10, 150, 70]]), [2], [0.87])
    nothing = Drawn(np.zeros((0, 4)), [], [])
    data = detection_sheet(
        ["truth", "one", "two"],
        [("a.png", image, [truth, found, nothing]), ("\u00e9.png", image, [nothing] * 3)],
        ["cat", "dog"],
    )
    sheet = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert sheet.shape[1] == GAP_PIXELS + 3 * (TILE_PIXELS + GAP_PIXELS)
    top, scale = 2 * (CAPTION_PIXELS + GAP_PIXELS), TILE_PIXELS / 160

    def pixel(column: int, x: float, y: float) -> np.ndarray:
        left = GAP_PIXELS + column * (TILE_PIXELS + GAP_PIXELS)
        return sheet[top + round(scale * y), left + round(scale * x)]

    inside, grey = pixel(0, 60, 40), np.array([128, 128, 128])
    assert inside[0] > 150 > 110 > inside[1]
    assert np.abs(pixel(1, 60, 40) - grey).max() < 8
    assert np.abs(pixel(2, 125, 40) - grey).max() < 8
    edge = pixel(1, 125, 69.7)
    assert np.argmax(edge) == np.argmax(COLOURS[1])
    assert edge[2] - edge[0] > 60
