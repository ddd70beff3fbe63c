"""One video through one network: the masks of all its frames, kept as they are made.

What is kept is a zip of palette PNGs a video, whole or absent, in the job's folder; unpacked, it is what
DAVIS's own evaluation reads.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import zipfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...data.decode import UnreadableImage
from ...spec.errors import DataError, StorageError
from ...spec.video import VideoSegmentationSpec
from ...storage import Store, exists, publish_bytes, read_bytes
from .davis import Video, decode_mask, resize_mask
from .propagation import propagated_through, segmentation
from .tokens import Tokens

FORMAT_VERSION = 1
FOLDER = "video_segmentation"
READERS = 2
FRAMES_AHEAD = READERS + 2
"""Decoded frames that wait, whatever the length of the video."""


@dataclass(frozen=True)
class VideoNetwork:
    """A network that looks at videos."""

    name: str
    digest: str
    tokens: Tokens


@dataclass(frozen=True)
class Truth:
    """What is known of a video."""

    objects: tuple[int, ...]
    """Those of the first mask, in the order of their numbers."""
    masks: dict[int, np.ndarray]
    """Frame -> (H, W) uint8, where there is a mask."""
    notes: tuple[str, ...]

    @property
    def first(self) -> np.ndarray:
        return self.masks[0]


def read_truth(video: Video) -> Truth:
    """All masks of a video.

    Raises:
        DataError: a mask that is none, of another size than the frames, or a first one without an object.
    """
    height, width = video.frame(0).shape[:2]
    found = {number: video.mask(number, height, width) for number in range(len(video.frame_files))}
    masks = {n: resize_mask(mask, height, width) for n, mask in found.items() if mask is not None}
    objects = _objects(masks[0])
    if not objects:
        raise DataError(
            video.masks.child(video.mask_files[video.frame_files[0].rpartition(".")[0]]).uri,
            "the first mask marks no object",
            "at least one: the first mask is what is carried through the video",
            "begin the frames where the object begins, or leave the sequence out of the image set",
        )
    notes = []
    if resized := sum(mask is not None and mask.shape != (height, width) for mask in found.values()):
        notes.append(f"{video.name}: {resized} masks are a pixel larger or smaller than the frames: resized")
    if later := sorted({o for mask in masks.values() for o in _objects(mask)} - set(objects)):
        some = ", ".join(map(str, later))
        notes.append(f"{video.name}: objects {some} are not in the first mask, and not measured")
    if missing := len(video.frame_files) - len(masks):
        notes.append(f"{video.name}: {missing} of {len(video.frame_files)} frames have no mask: not measured")
    return Truth(objects, masks, tuple(notes))


def masks_of(
    store: Store,
    video: Video,
    truth: Truth,
    network: VideoNetwork,
    spec: VideoSegmentationSpec,
    should_stop: Callable[[], bool],
) -> np.ndarray | None:
    """The object of each pixel of each frame, (T, H, W) uint8: from the store, or made and kept there.

    Returns:
        None when it was told to stop; asked before each frame.

    Raises:
        DataError: a frame that cannot be decoded or has another size than the first.
    """
    folder = store.child(FOLDER, network.name.replace(" ", "-"))
    file = f"{video.name}-{_identity(video, network, spec)}.zip"
    names = [f"{name.rpartition('.')[0]}.png" for name in video.frame_files]
    found = _kept(folder, file, names, video.pixels_max)
    if found is None:
        found = _made(video, truth, network.tokens, spec, should_stop)
        if found is not None:
            publish_bytes(folder, file, _zipped(names, found))
    return found


def objects_without_token(truth: Truth, tokens: Tokens) -> tuple[int, ...]:
    """Objects so small that no token of the first frame has them: they cannot be followed."""
    height, width = tokens.frame_size(*truth.first.shape)
    grid = resize_mask(truth.first, height // tokens.token_pixels, width // tokens.token_pixels)
    return tuple(sorted(set(truth.objects) - set(_objects(grid))))


def palette() -> np.ndarray:
    """(256, 3) uint8, the colours of PASCAL VOC and DAVIS: the bits of a number, spread over the channels."""
    numbers = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((numbers >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    return colours


def _objects(mask: np.ndarray) -> tuple[int, ...]:
    return tuple(int(number) for number in np.unique(mask) if number)


def _made(
    video: Video,
    truth: Truth,
    tokens: Tokens,
    spec: VideoSegmentationSpec,
    should_stop: Callable[[], bool],
) -> np.ndarray | None:
    height, width = truth.first.shape
    numbers = np.array([0, *truth.objects], np.uint8)
    masks = [truth.first]
    with ThreadPoolExecutor(READERS) as readers:
        seen = _seen(video, tokens, height, width, readers)
        start = next(seen)
        shown_size = tokens.frame_size(height, width)
        labels = _one_hot(resize_mask(truth.first, *start.shape[:2]), numbers).to(start.device)
        for found in propagated_through(itertools.chain([start], seen), labels, spec):
            if should_stop():
                readers.shutdown(cancel_futures=True)
                return None
            strongest = segmentation(found, *shown_size).cpu().numpy()
            masks.append(resize_mask(numbers[strongest], height, width))
    return np.stack(masks)


def _seen(
    video: Video, tokens: Tokens, height: int, width: int, readers: ThreadPoolExecutor
) -> Iterator[Tensor]:
    """Tokens of all frames, in order; the next ones are read meanwhile, already at the size that is seen."""

    def shown(number: int) -> np.ndarray:
        frame = video.frame(number)
        if frame.shape[:2] != (height, width):
            got = f"{frame.shape[1]} x {frame.shape[0]} pixels, and the first frame has {width} x {height}"
            uri = video.frames.child(video.frame_files[number]).uri
            raise DataError(uri, got, "frames of one size", "mend it, or leave the sequence out")
        return tokens.shown(frame)

    numbers = iter(range(len(video.frame_files)))
    coming = deque(readers.submit(shown, number) for number in itertools.islice(numbers, FRAMES_AHEAD))
    try:
        while coming:
            frame = coming.popleft().result()
            coming.extend(readers.submit(shown, number) for number in itertools.islice(numbers, 1))
            yield tokens(frame)
    finally:
        for each in coming:
            each.cancel()


def _one_hot(grid: np.ndarray, numbers: np.ndarray) -> Tensor:
    return torch.from_numpy((grid[..., None] == numbers).astype(np.float32))


def _identity(video: Video, network: VideoNetwork, spec: VideoSegmentationSpec) -> str:
    described = {
        "version": FORMAT_VERSION,
        "network": network.digest,
        "video": video.fingerprint,
        "protocol": spec.model_dump(mode="json"),
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:8]


def _zipped(names: list[str], masks: np.ndarray) -> bytes:
    buffer, colours = io.BytesIO(), palette().tobytes()
    with zipfile.ZipFile(buffer, "w") as whole:
        for name, mask in zip(names, masks, strict=True):
            image, encoded = Image.fromarray(mask), io.BytesIO()
            image.putpalette(colours)
            image.save(encoded, "PNG")
            whole.writestr(zipfile.ZipInfo(name), encoded.getvalue())
    return buffer.getvalue()


def _kept(folder: Store, file: str, names: list[str], pixels_max: int) -> np.ndarray | None:
    """The masks of an earlier start; None where there are none, or they are damaged."""
    if not exists(folder, file):
        return None
    try:
        with zipfile.ZipFile(io.BytesIO(read_bytes(folder, file))) as whole:
            return np.stack([decode_mask(whole.read(name), pixels_max) for name in names])
    except (zipfile.BadZipFile, KeyError, ValueError, UnreadableImage, StorageError):
        return None
