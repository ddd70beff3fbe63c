"""Videos in the layout of DAVIS, drawn here: squares that move."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from syn2co_ray.evaluate.video.davis import Video, open_videos
from syn2co_ray.evaluate.video.segment import palette
from syn2co_ray.spec.source import ObjectStoreSpec
from syn2co_ray.spec.video import VideoSegmentationSpec

PIXELS_MAX = 1_000_000
HEIGHT, WIDTH, SIDE = 64, 96, 20
COLOURS = {1: (230, 30, 30), 2: (30, 30, 230)}


def truth(number: int) -> np.ndarray:
    """(64, 96) uint8: object 1 moves right by 4 pixels a frame, object 2 stays."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[38 : 38 + SIDE, 70 : 70 + SIDE] = 2
    mask[10 : 10 + SIDE, 6 + 4 * number : 6 + 4 * number + SIDE] = 1
    return mask


def write_mask(path: Path, mask: np.ndarray, mode: str = "P") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask)
    if mode == "P":
        image.putpalette(palette().tobytes())
    image.convert(mode).save(path)


def write_clip(root: Path, name: str = "squares", frames: int = 6, resolution: str = "480p") -> None:
    """Frames with a quiet, patterned background, and a mask of each."""
    ground = np.random.default_rng(0).integers(90, 130, (HEIGHT, WIDTH, 3), np.uint8)
    folder = root / "JPEGImages" / resolution / name
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(frames):
        mask, frame = truth(number), ground.copy()
        for value, colour in COLOURS.items():
            frame[mask == value] = colour
        Image.fromarray(frame).save(folder / f"{number:05d}.jpg", quality=95)
        write_mask(root / "Annotations" / resolution / name / f"{number:05d}.png", mask)


def opened(root: Path, **given: object) -> list[Video]:
    spec = VideoSegmentationSpec.model_validate({"uri": str(root), **given})
    return open_videos(spec, ObjectStoreSpec(), PIXELS_MAX)
