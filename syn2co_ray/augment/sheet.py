"""A picture of originals beside their views, to see at a glance what a recipe does."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..data.thumbnail import fitted

TILE_PIXELS_MIN, TILE_PIXELS_MAX = 128, 256
GAP_PIXELS = 12
CAPTION_PIXELS = 18
FONT_PIXELS = 13
INK, FAINT, PAPER = (32, 32, 32), (110, 110, 110), (255, 255, 255)


def views_sheet_png(records: Sequence[tuple[str, np.ndarray, Sequence[np.ndarray]]]) -> bytes:
    """One row a record: the original, then its views, with the key below the original.

    Args:
        records: at least one (key, original (H, W, 3) uint8, V views (3, S, S) uint8), all with the same V.

    Returns:
        A PNG file. Tiles are as wide as the first view, but at least 128 (small views are enlarged without
        smoothing, so that their pixels can be seen) and at most 256.
    """
    if not records:
        raise ValueError("a sheet needs at least one record")
    view_counts = {len(views) for _, _, views in records}
    if len(view_counts) > 1:
        raise ValueError(f"records have different numbers of views: {sorted(view_counts)}")
    tile = min(max(records[0][2][0].shape[-1], TILE_PIXELS_MIN), TILE_PIXELS_MAX)
    step_x, step_y = tile + GAP_PIXELS, tile + CAPTION_PIXELS + GAP_PIXELS
    titles = ["original", *(f"view {number}" for number in range(1, view_counts.pop() + 1))]
    header = CAPTION_PIXELS + GAP_PIXELS
    sheet = Image.new("RGB", (GAP_PIXELS + len(titles) * step_x, header + len(records) * step_y), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_PIXELS)
    for column, title in enumerate(titles):
        draw.text((GAP_PIXELS + column * step_x, GAP_PIXELS // 2), title, INK, font)
    for row, (key, original, views) in enumerate(records):
        top = header + row * step_y
        for column, picture in enumerate([original, *(view.transpose(1, 2, 0) for view in views)]):
            image = fitted(picture, tile)
            left = GAP_PIXELS + column * step_x
            sheet.paste(image, (left + (tile - image.width) // 2, top + (tile - image.height) // 2))
        draw.text((GAP_PIXELS, top + tile + 2), _shortened(key, tile, font), FAINT, font)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _shortened(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The end of the text that fits `width` pixels: keys differ most at their end."""
    text = text.encode("ascii", "backslashreplace").decode()  # the built-in font knows little else
    if font.getlength(text) <= width:
        return text
    while text and font.getlength("..." + text) > width:
        text = text[1:]
    return "..." + text
