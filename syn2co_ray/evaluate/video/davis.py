"""Videos in the layout of DAVIS, from any store: which sequences there are, their frames and their masks."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from PIL import Image

from ...data.decode import UnreadableImage, check_pixels, decode_rgb, pillow_strict
from ...spec.errors import DataError
from ...spec.source import ObjectStoreSpec
from ...spec.video import VideoSegmentationSpec
from ...storage import FileInfo, Store, list_files, list_level, open_store, read_bytes

FRAME_ENDINGS = (".jpg", ".jpeg", ".png")
VOID = 255
"""Marks pixels that belong to no object for certain; background, as in the semi-supervised evaluation."""
SIZE_SLACK_PIXELS = 1
"""A mask may be so much larger or smaller than its frame, as rounding of two resizers leaves it."""
NAMES_SHOWN = 4
INDEXED = "indexed (palette) PNGs, pixel = number of the object; or black and white ones, for one object"


@dataclass(frozen=True)
class Video:
    """One sequence: its frames in order, and the masks that there are."""

    name: str
    frames: Store
    masks: Store
    frame_files: tuple[str, ...]
    mask_files: dict[str, str]
    """Stem of a frame's name -> name of its mask."""
    fingerprint: str
    """16 hex digits for names, sizes and times of the files that a segmentation is made of."""
    pixels_max: int

    def frame(self, number: int) -> np.ndarray:
        """(H, W, 3) uint8.

        Raises:
            DataError: it cannot be decoded.
        """
        file = self.frame_files[number]
        try:
            return decode_rgb(read_bytes(self.frames, file), pixels_max=self.pixels_max)
        except UnreadableImage as error:
            raise self._fault(self.frames, file, f"cannot be decoded ({error})", "a whole image") from None

    def mask(self, number: int, height: int, width: int) -> np.ndarray | None:
        """(H, W) uint8, the object of each pixel, 0 for background; None where there is no mask.

        Args:
            number: of the frame.
            height: of the frame in pixels; that of the mask may differ by one.
            width: the same.

        Raises:
            DataError: no mask of objects, or one of another size.
        """
        file = self.mask_files.get(_stem(self.frame_files[number]))
        if file is None:
            return None
        try:
            mask = decode_mask(read_bytes(self.masks, file), self.pixels_max)
        except UnreadableImage as error:
            raise self._fault(self.masks, file, str(error), INDEXED) from None
        if max(abs(mask.shape[0] - height), abs(mask.shape[1] - width)) > SIZE_SLACK_PIXELS:
            got = f"{mask.shape[1]} x {mask.shape[0]} pixels, and its frame has {width} x {height}"
            allowed = f"the frame's size, or {SIZE_SLACK_PIXELS} pixel more or less"
            raise self._fault(self.masks, file, got, allowed)
        return mask

    def is_annotated(self, number: int) -> bool:
        return _stem(self.frame_files[number]) in self.mask_files

    def _fault(self, store: Store, file: str, got: str, allowed: str) -> DataError:
        return DataError(store.child(file).uri, got, allowed, "mend the file, or leave the sequence out")


def open_videos(spec: VideoSegmentationSpec, options: ObjectStoreSpec, pixels_max: int) -> list[Video]:
    """The sequences asked for, by name; no image is read yet.

    Args:
        spec: where they are.
        options: how to reach that store.
        pixels_max: of a frame or mask whose header claims more, nothing is decoded.

    Raises:
        DataError: no such sequence, no frames, or no mask for a first frame.
        StorageError: the place cannot be read.
    """
    root = open_store(spec.uri, options)
    between = [spec.resolution] if spec.resolution else []
    frames, masks = root.child("JPEGImages", *between), root.child("Annotations", *between)
    names = _listed(root, spec.image_set) if spec.image_set else list_level(masks)[1]
    if not names:
        raise DataError(
            masks.uri,
            "no folder of a sequence",
            "JPEGImages/<resolution>/<sequence>/*.jpg and Annotations/<resolution>/<sequence>/*.png",
            "check video_segmentation.uri and resolution (null where there is no such folder)",
        )
    return [_video(name, frames.child(name), masks.child(name), pixels_max) for name in names]


def decode_mask(encoded: bytes, pixels_max: int) -> np.ndarray:
    """(H, W) uint8, number of the object of each pixel; black and white becomes 0 and 1, void 0.

    Raises:
        UnreadableImage: no PNG, too large, damaged, or colours and greys that are no numbers of objects.
    """
    try:
        with pillow_strict, Image.open(io.BytesIO(encoded), formats=["PNG"]) as image:
            check_pixels(*image.size, pixels_max)
            image.load()
            mode, values = image.mode, np.array(image)
    except (UnreadableImage, MemoryError):
        raise
    except Exception as error:  # Pillow's readers raise some ten types on bad bytes
        raise UnreadableImage(f"no whole PNG ({type(error).__name__})") from error
    if mode == "P":
        return np.where(values == VOID, 0, values).astype(np.uint8)
    if mode in ("1", "L") and set(np.unique(values).tolist()) <= ({0, 255} if mode == "L" else {False, True}):
        return (values > 0).astype(np.uint8)
    what = "greys between black and white" if mode == "L" else "no numbers of objects"
    raise UnreadableImage(f"a PNG of mode {mode}: {what}")


def resize_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W) of any type -> (height, width): each pixel takes the value at its centre."""
    rows = ((np.arange(height) + 0.5) * mask.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * mask.shape[1] / width).astype(int)
    return mask[rows[:, None], columns]


def _listed(root: Store, name: str) -> list[str]:
    lines = read_bytes(root, name).decode("utf-8", "replace").splitlines()
    names = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if wrong := [line for line in names if len(PurePosixPath(line).parts) != 1 or " " in line]:
        raise DataError(
            root.child(name).uri,
            f"{wrong[0]!r} is no name of a sequence",
            "one name a line, as in ImageSets/2017 of DAVIS",
            "give video_segmentation.image_set such a list",
        )
    return names


def _video(name: str, frames: Store, masks: Store, pixels_max: int) -> Video:
    found = [f for f in _files(frames) if f.path.lower().endswith(FRAME_ENDINGS)]
    marked = {_stem(f.path): f for f in _files(masks) if f.path.lower().endswith(".png")}
    if not found:
        raise DataError(
            frames.uri, "no frames", "*.jpg or *.png", "check the sequence, or leave it out of the image set"
        )
    first = _stem(found[0].path)
    if first not in marked:
        some = ", ".join(sorted(marked)[:NAMES_SHOWN]) or "none"
        raise DataError(
            masks.uri,
            f"no mask of the first frame, {first} (masks: {some})",
            f"{first}.png: that is what is carried through the video",
            "add it, begin the frames where the masks begin, or leave the sequence out of the image set",
        )
    described = [(f.path, f.size_bytes, f.modified_ns) for f in (*found, marked[first])]
    return Video(
        name,
        frames,
        masks,
        tuple(file.path for file in found),
        {stem: file.path for stem, file in marked.items()},
        hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16],
        pixels_max,
    )


def _files(store: Store) -> Sequence[FileInfo]:
    return list_files(store, recursive=False, missing_ok=True)


def _stem(file: str) -> str:
    return file.rpartition(".")[0]
