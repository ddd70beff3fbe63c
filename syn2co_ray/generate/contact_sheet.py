"""A picture of many small pictures: what a data set, or a model, looks like."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..data.thumbnail import fitted

TILE_PIXELS_MIN, TILE_PIXELS_MAX = 48, 128
GAP_PIXELS = 4
CAPTION_PIXELS = 18
FONT_PIXELS = 13
CAPTION_CHARACTERS_MAX = 80
INK, PAPER = (32, 32, 32), (255, 255, 255)


def contact_sheet_png(groups: Mapping[str, Sequence[np.ndarray]], columns: int = 16) -> bytes:
    """PNG of the groups below one another, each under its name, its images in rows.

    Args:
        groups: name -> images (H, W, 3) uint8, of any sizes; small ones are enlarged without smoothing, so
            that their pixels can be seen.
        columns: images in a row.

    Raises:
        ValueError: no image at all.
    """
    images = [image for group in groups.values() for image in group]
    if not images:
        raise ValueError("a contact sheet needs at least one image")
    tile = min(max(max(images[0].shape[:2]), TILE_PIXELS_MIN), TILE_PIXELS_MAX)
    step = tile + GAP_PIXELS
    columns = min(columns, max(len(group) for group in groups.values()))
    rows = sum(-(-len(group) // columns) for group in groups.values())
    height = GAP_PIXELS + rows * step + len(groups) * CAPTION_PIXELS
    sheet = Image.new("RGB", (max(GAP_PIXELS + columns * step, 320), height), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_PIXELS)
    top = GAP_PIXELS
    for name, group in groups.items():
        text = name.encode("ascii", "backslashreplace").decode()[:CAPTION_CHARACTERS_MAX]
        draw.text((GAP_PIXELS, top), text, INK, font)
        top += CAPTION_PIXELS
        for place, image in enumerate(group):
            row, column = divmod(place, columns)
            sheet.paste(fitted(image, tile), (GAP_PIXELS + column * step, top + row * step))
        top += -(-len(group) // columns) * step
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()
