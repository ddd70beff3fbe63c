"""The part of `kind: evaluate` on videos: looked up before anything is computed, measured after."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..spec.evaluation import EvaluateJobSpec
from ..spec.video import VideoSegmentationSpec
from ..storage import exists, publish_bytes, read_bytes
from ..storage.run_layout import VIDEO_SHEET_FILE
from ..train.run_folder import RunFolder

PICTURE_TITLE = "Videos: best, middle and worst sequence"
PICTURE_CAPTION = (
    "Colours are what was found, white outlines what is there. The first frame's mask is given; the rest is "
    "carried from it by the features alone."
)


@dataclass(frozen=True)
class VideoPart:
    """Sequences that are there, and networks that can look at them."""

    spec: VideoSegmentationSpec
    videos: Sequence[Any]
    networks: Sequence[Any]
    keep_first: bool

    @classmethod
    def of(
        cls, job: EvaluateJobSpec, networks: Sequence[Any], image_size: int, device: Any
    ) -> VideoPart | None:
        """None where the job does not ask for it.

        Raises:
            DataError: sequences without frames or first masks.
            SpecError: a backbone without a map of features.
        """
        spec = job.video_segmentation
        if spec is None:
            return None
        from ..evaluate.video.davis import open_videos
        from ..evaluate.video.segment import VideoNetwork
        from ..evaluate.video.tokens import Tokens

        looking = [
            VideoNetwork(n.name, n.digest, Tokens(n.backbone, image_size, spec, device))
            for n in networks
            if n.backbone is not None
        ]
        videos = open_videos(spec, job.object_store, job.labelled.image_pixels_max)
        return cls(spec, videos, looking, job.baselines)

    def check_masks(self, stop_if_asked: Callable[[], None]) -> None:
        """Read the masks of all videos once: a damaged one must not show after hours of segmenting.

        Raises:
            DataError: masks that cannot be used.
            RunInterrupted: a stop was asked for.
        """
        from ..evaluate.video.segment import read_truth

        for video in self.videos:
            stop_if_asked()
            read_truth(video)

    def measured(
        self, run: RunFolder, log: Callable[[str], None], should_stop: Callable[[], bool]
    ) -> tuple[dict[str, Any], tuple[str, ...]] | None:
        """What results.json says of it, and warnings; None when it was told to stop. The picture is kept."""
        from ..evaluate.video.measuring import measure_videos

        found = measure_videos(
            run.store, self.videos, self.networks, self.spec, log, should_stop, self.keep_first
        )
        if found is None:
            return None
        for name, means in found.rows.items():
            j, f = means["j_mean_percent"], means["f_mean_percent"]
            log(f"videos: J&F {means['jf_mean_percent']:.2f} % (J {j:.2f}, F {f:.2f}), {name}")
        publish_bytes(run.store, VIDEO_SHEET_FILE, found.picture)
        return {"rows": found.rows, **found.about}, found.notes


def evaluation_pictures(run: RunFolder) -> list[Any]:
    """`Picture`s for the page of an evaluation, from its folder."""
    if not exists(run.store, VIDEO_SHEET_FILE):
        return []
    # It brings matplotlib, which takes seconds to import.
    from ..report.evaluation_page import Picture

    return [Picture(PICTURE_TITLE, PICTURE_CAPTION, read_bytes(run.store, VIDEO_SHEET_FILE))]
