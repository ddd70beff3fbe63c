"""Jobs that evaluate measure something, on two sets."""

from __future__ import annotations

from collections.abc import Iterator

from ..detection import DetectionSpec
from ..errors import Fault
from ..evaluate import LinearSpec
from ..evaluation import (
    EvaluationDataSpec,
    FewShotSpec,
    LabelSharesSpec,
    LandmarksSpec,
    NeighboursSpec,
    RobustnessSpec,
    StatisticsSpec,
)
from ..source import SourceSpec
from ..training_probes import FineTuneSpec, LinearAugmentedSpec
from ..video import VideoSegmentationSpec
from .registry import rule


@rule
def something_is_measured(
    data: EvaluationDataSpec | None,
    knn: NeighboursSpec | None,
    linear: LinearSpec | None,
    linear_augmented: LinearAugmentedSpec | None,
    few_shot: FewShotSpec | None,
    label_shares: LabelSharesSpec | None,
    fine_tune: FineTuneSpec | None,
    retrieval: bool | None,
    landmarks: LandmarksSpec | None,
    robustness: RobustnessSpec | None,
    statistics: StatisticsSpec | None,
    video_segmentation: VideoSegmentationSpec | None,
    detection: DetectionSpec | None,
) -> Iterator[Fault]:
    on_features = {
        "knn": knn,
        "linear": linear,
        "linear_augmented": linear_augmented,
        "few_shot": few_shot,
        "label_shares": label_shares,
        "fine_tune": fine_tune,
        "retrieval": retrieval,
        "landmarks": landmarks,
        "robustness": robustness,
        "statistics": statistics,
        "video_segmentation": video_segmentation,
    }
    asked = [name for name, section in on_features.items() if section]
    if not asked and detection is None:
        yield Fault("knn", "null, and so is everything else", "at least one protocol", "leave knn out")
    if asked and data is None:
        step = "add data.eval and data.eval_bank, or set these to null"
        yield Fault("data", f"missing, and needed by {', '.join(asked)}", "labelled images", step)
    if robustness is not None and knn is None and linear is None:
        yield Fault("robustness", "given without knn and linear", "with one of them", "leave knn out")


@rule
def evaluation_images_are_not_learned_from(data: EvaluationDataSpec) -> Iterator[Fault]:
    if data.eval.uri.rstrip("/") == data.eval_bank.uri.rstrip("/"):
        got = f"{data.eval_bank.uri}, as data.eval"
        yield Fault("data.eval_bank", got, "other images", "name the training split")


@rule
def embedded_sources_are_listed_once(sources: list[SourceSpec]) -> Iterator[Fault]:
    uris = [source.uri.rstrip("/") for source in sources]
    for number, uri in enumerate(uris):
        if uri in uris[:number]:
            yield Fault(
                f"sources.{number}.uri", f"{uri}, as sources.{uris.index(uri)}", "each once", "drop it"
            )


@rule
def views_have_a_crop(statistics: StatisticsSpec | None) -> Iterator[Fault]:
    if statistics is not None:
        yield from crop_faults("statistics", statistics.crop_scale)


def crop_faults(section: str, scale: tuple[float, float]) -> Iterator[Fault]:
    """Faults of a section's `crop_scale`."""
    if not 0 < scale[0] <= scale[1] <= 1:
        yield Fault(f"{section}.crop_scale", f"{list(scale)}", "0 < smallest <= largest <= 1", "change it")
