"""A picture of videos with masks over them: what was found, and the outline of what is there."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .measures import boundary
from .segment import palette

TILE_PIXELS = 240
GAP_PIXELS = 6
CAPTION_PIXELS = 20
FONT_PIXELS = 13
QUALITY = 85
COVER = 0.55
"""How much of a pixel is its object's colour."""
INK, PAPER, OUTLINE = (32, 32, 32), (255, 255, 255), (255, 255, 255)


@dataclass(frozen=True)
class Strip:
    """Some frames of a video, and what a network found on them."""

    caption: str
    frames: Sequence[np.ndarray]
    """(H, W, 3) uint8."""
    masks: Sequence[np.ndarray]
    """(H, W) uint8, the object of each pixel."""
    truths: Sequence[np.ndarray | None]
    """(H, W) uint8, or None where nothing is known."""


def sheet_jpeg(strips: Sequence[Strip]) -> bytes:
    """JPEG of the strips below one another, each under its caption.

    Raises:
        ValueError: no strip, or one without frames.
    """
    if not strips or not all(strip.frames for strip in strips):
        raise ValueError("a sheet needs at least one frame of each video")
    tiles = [[_tile(*shown) for shown in zip(s.frames, s.masks, s.truths, strict=True)] for s in strips]
    heights = [max(tile.height for tile in row) for row in tiles]
    width = GAP_PIXELS + max(len(row) for row in tiles) * (TILE_PIXELS + GAP_PIXELS)
    height = GAP_PIXELS + sum(h + CAPTION_PIXELS + GAP_PIXELS for h in heights)
    sheet = Image.new("RGB", (width, height), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_PIXELS)
    top = GAP_PIXELS
    for strip, row, tall in zip(strips, tiles, heights, strict=True):
        draw.text((GAP_PIXELS, top), strip.caption.encode("ascii", "backslashreplace").decode(), INK, font)
        for place, tile in enumerate(row):
            sheet.paste(tile, (GAP_PIXELS + place * (TILE_PIXELS + GAP_PIXELS), top + CAPTION_PIXELS))
        top += tall + CAPTION_PIXELS + GAP_PIXELS
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def shown_frames(count: int, columns: int = 5) -> list[int]:
    """Frames of a video that are shown: the first, the last, and some evenly between."""
    return np.unique(np.linspace(0, count - 1, min(columns, count)).round().astype(int)).tolist()


def extremes(scores: Mapping[str, float], count: int = 3) -> list[str]:
    """Names of the best, the middle and the worst, in that order: a page should not show the best alone."""
    ranked = sorted(scores, key=lambda name: (-scores[name], name))
    places = np.unique(np.linspace(0, len(ranked) - 1, min(count, len(ranked))).round().astype(int))
    return [ranked[place] for place in places]


def _tile(frame: np.ndarray, mask: np.ndarray, truth: np.ndarray | None) -> Image.Image:
    colours = palette()[mask]
    covered = np.where(mask[..., None] > 0, (1 - COVER) * frame + COVER * colours, frame).astype(np.uint8)
    if truth is not None:
        for number in np.unique(truth[truth > 0]):
            covered[boundary(truth == number)] = OUTLINE
    tall = max(1, round(TILE_PIXELS * frame.shape[0] / frame.shape[1]))
    return Image.fromarray(covered).resize((TILE_PIXELS, tall), Image.Resampling.LANCZOS)
