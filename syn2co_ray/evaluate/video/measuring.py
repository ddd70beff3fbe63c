"""All videos through all networks: figures, what is odd about the data, and a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...spec.video import VideoSegmentationSpec
from ...storage import Store
from .davis import Video
from .scores import ObjectScore, figures, measured_frames, object_scores
from .segment import Truth, VideoNetwork, masks_of, objects_without_token, read_truth
from .sheet import Strip, extremes, sheet_jpeg, shown_frames

FIRST_MASK = "first mask, kept"
"""The row of no network at all: every frame has the first one's mask."""


@dataclass(frozen=True)
class VideoFigures:
    """What came out."""

    rows: dict[str, dict[str, float]]
    """Network -> means over all objects."""
    about: dict[str, Any]
    """`sequences`: network -> sequence -> figures; counts, and which tokens were taken."""
    notes: tuple[str, ...]
    picture: bytes
    """JPEG: best, middle and worst sequence of the first network."""


def measure_videos(
    store: Store,
    videos: Sequence[Video],
    networks: Sequence[VideoNetwork],
    spec: VideoSegmentationSpec,
    log: Callable[[str], None],
    should_stop: Callable[[], bool],
    keep_first: bool,
) -> VideoFigures | None:
    """Segment and score; what was segmented by an earlier start is taken from the store.

    Args:
        store: the job's folder.
        videos: from `open_videos`.
        networks: the first is the one the picture is chosen by.
        spec: the protocol.
        log: gets a line for each video and network.
        should_stop: asked before each frame.
        keep_first: also score the first mask, left as it is.

    Returns:
        None when it was told to stop.

    Raises:
        DataError: frames or masks that cannot be used.
    """
    names = [*(network.name for network in networks), *([FIRST_MASK] if keep_first else [])]
    scores: dict[str, dict[str, list[ObjectScore]]] = {name: {} for name in names}
    notes: list[str] = []
    frames = 0
    for place, video in enumerate(videos, 1):
        truth = read_truth(video)
        measured = measured_frames(video, truth)
        frames += len(measured)
        notes += truth.notes
        if lost := objects_without_token(truth, networks[0].tokens):
            some = ", ".join(map(str, lost))
            notes.append(f"{video.name}: objects {some} are smaller than a token: they cannot be followed")
        for network in networks:
            found = masks_of(store, video, truth, network, spec, should_stop)
            if found is None:
                return None
            scores[network.name][video.name] = object_scores(found, truth, measured)
            percent = figures(scores[network.name][video.name])["jf_mean_percent"]
            log(f"video {place} of {len(videos)}, {video.name}: J&F {percent:.1f} %, {network.name}")
        if keep_first:
            still = np.broadcast_to(truth.first, (len(video.frame_files), *truth.first.shape))
            scores[FIRST_MASK][video.name] = object_scores(still, truth, measured)
    by_sequence = {
        name: {video: {**figures(each), "objects": len(each)} for video, each in found.items()}
        for name, found in scores.items()
    }
    objects = sum(len(each) for each in scores[names[0]].values())
    about = {
        "sequences": by_sequence,
        "tokens": str(networks[0].tokens),
        "frames_measured": frames,
        "objects": objects,
    }
    rows = {name: figures([s for each in found.values() for s in each]) for name, found in scores.items()}
    picture = _picture(store, videos, networks, spec, by_sequence)
    return VideoFigures(rows, about, tuple(notes), picture)


def _picture(
    store: Store,
    videos: Sequence[Video],
    networks: Sequence[VideoNetwork],
    spec: VideoSegmentationSpec,
    by_sequence: dict[str, dict[str, dict[str, float]]],
) -> bytes:
    headline = {name: found["jf_mean_percent"] for name, found in by_sequence[networks[0].name].items()}
    by_name = {video.name: video for video in videos}
    strips = []
    for video in (by_name[name] for name in extremes(headline)):
        truth = read_truth(video)
        numbers = shown_frames(len(video.frame_files))
        frames = [video.frame(number) for number in numbers]
        for network in networks:
            masks = masks_of(store, video, truth, network, spec, lambda: False)
            assert masks is not None
            percent = by_sequence[network.name][video.name]["jf_mean_percent"]
            caption = f"{video.name}, {network.name}: J&F {percent:.1f} %; frames {_listed(numbers)}"
            strips.append(Strip(caption, frames, list(masks[numbers]), [_known(truth, n) for n in numbers]))
    return sheet_jpeg(strips)


def _known(truth: Truth, number: int) -> np.ndarray | None:
    mask = truth.masks.get(number)
    return None if mask is None else np.where(np.isin(mask, truth.objects), mask, 0)


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
