from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from syn2co_ray.generate.contact_sheet import contact_sheet_png


def test_every_image_is_on_the_sheet_under_its_group() -> None:
    red, blue = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 12, 3), np.uint8)
    red[..., 0] = blue[..., 2] = 255
    sheet = np.asarray(Image.open(io.BytesIO(contact_sheet_png({"cat ☃": [red] * 5, "dog": [blue] * 3}, 4))))
    counts = [int((sheet == colour).all(axis=2).sum()) for colour in ((255, 0, 0), (0, 0, 255))]
    assert counts == [5 * 48 * 48, 3 * 48 * 32]
    rows = [
        np.flatnonzero((sheet == colour).all(axis=2).any(axis=1)) for colour in ((255, 0, 0), (0, 0, 255))
    ]
    assert rows[0].max() < rows[1].min()


def test_no_image_is_a_fault() -> None:
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet_png({"cat": []})
