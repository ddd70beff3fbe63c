"""A picture of what is there beside what was found, image by image."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw, ImageFont

TILE_PIXELS, GAP_PIXELS, CAPTION_PIXELS, FONT_PIXELS, LINE_PIXELS = 320, 10, 18, 13, 2
INK, FAINT, PAPER = (32, 32, 32), (110, 110, 110), (255, 255, 255)
COLOURS = ((230, 60, 50), (30, 110, 220), (20, 150, 80), (200, 120, 0), (140, 70, 200), (0, 150, 160))
MASK_OPACITY = 0.45
JPEG_QUALITY = 88


@dataclass(frozen=True)
class Drawn:
    """Objects on one picture."""

    boxes: np.ndarray
    """(m, 4) edges in pixels of the image."""
    labels: Sequence[int]
    """Numbers of categories, from 1: say the colour."""
    scores: Sequence[float] | None = None
    """Written beside the boxes; None for truth."""
    masks: Sequence[np.ndarray] = field(default=())
    """(H, W) each; may be empty."""


def detection_sheet(
    columns: Sequence[str],
    rows: Sequence[tuple[str, np.ndarray, Sequence[Drawn]]],
    categories: Sequence[str],
) -> bytes:
    """One row an image, one column each for truth and networks, and the colours of the categories.

    Args:
        columns: titles.
        rows: at least one (file, image (H, W, 3) uint8, what each column shows).
        categories: names by number, from 1; colours repeat after six.

    Returns:
        A JPEG file.
    """
    scales = [TILE_PIXELS / max(image.shape[:2]) for _, image, _ in rows]
    heights = [
        max(1, round(scale * image.shape[0])) for scale, (_, image, _) in zip(scales, rows, strict=True)
    ]
    header = 2 * (CAPTION_PIXELS + GAP_PIXELS)
    step = TILE_PIXELS + GAP_PIXELS
    size = (
        GAP_PIXELS + len(columns) * step,
        header + sum(h + CAPTION_PIXELS + GAP_PIXELS for h in heights),
    )
    sheet = Image.new("RGB", size, PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_PIXELS)
    left = float(GAP_PIXELS)
    for number, name in enumerate(categories, start=1):
        draw.text((left, GAP_PIXELS // 2), _ascii(name), _colour(number), font)
        left += draw.textlength(_ascii(name), font) + 2 * GAP_PIXELS
    for column, title in enumerate(columns):
        draw.text((GAP_PIXELS + column * step, CAPTION_PIXELS + GAP_PIXELS), title, INK, font)
    top = header
    for (file, image, shown), scale, height in zip(rows, scales, heights, strict=True):
        for column, drawn in enumerate(shown):
            tile = _tile(image, drawn, scale, height, font)
            sheet.paste(tile, (GAP_PIXELS + column * step, top))
        draw.text((GAP_PIXELS, top + height + 1), _ascii(file), FAINT, font)
        top += height + CAPTION_PIXELS + GAP_PIXELS
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _tile(
    image: np.ndarray,
    drawn: Drawn,
    scale: float,
    height: int,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> Image.Image:
    pixels = image.astype(np.float32)
    for mask, label in zip(drawn.masks, drawn.labels, strict=False):
        inside = mask.astype(bool)
        pixels[inside] = (1 - MASK_OPACITY) * pixels[inside] + MASK_OPACITY * np.array(_colour(label))
    width = max(1, round(scale * image.shape[1]))
    tile = Image.fromarray(pixels.astype(np.uint8)).resize((width, height), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(tile)
    for place, (box, label) in enumerate(zip(drawn.boxes, drawn.labels, strict=True)):
        edges = [float(scale * edge) for edge in box]
        draw.rectangle(edges, outline=_colour(label), width=LINE_PIXELS)
        if drawn.scores is not None:
            at, text = (edges[0] + 3, edges[1] + 1), f"{drawn.scores[place]:.2f}"
            draw.text(at, text, _colour(label), font, stroke_width=2, stroke_fill=PAPER)
    return tile


def _colour(label: int) -> tuple[int, int, int]:
    return COLOURS[(label - 1) % len(COLOURS)]


def _ascii(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode()  # the built-in font knows little else
