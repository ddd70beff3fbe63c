"""Jobs that evaluate measure something, on two sets."""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import Fault
from ..evaluate import LinearSpec
from ..evaluation import (
    EvaluationDataSpec,
    FewShotSpec,
    FineTuneSpec,
    LabelSharesSpec,
    LandmarksSpec,
    NeighboursSpec,
    RobustnessSpec,
    StatisticsSpec,
)
from .registry import rule


@rule
def something_is_measured(
    knn: NeighboursSpec | None,
    linear: LinearSpec | None,
    few_shot: FewShotSpec | None,
    label_shares: LabelSharesSpec | None,
    fine_tune: FineTuneSpec | None,
    retrieval: bool | None,
    landmarks: LandmarksSpec | None,
    robustness: RobustnessSpec | None,
    statistics: StatisticsSpec | None,
) -> Iterator[Fault]:
    more = (few_shot, label_shares, fine_tune, retrieval, landmarks, robustness, statistics)
    if not any((knn, linear, *more)):
        yield Fault("knn", "null, and so is everything else", "at least one protocol", "leave knn out")
    if robustness is not None and knn is None and linear is None:
        yield Fault("robustness", "given without knn and linear", "with one of them", "leave knn out")
    for name, values in (
        ("knn.neighbours", knn.neighbours if knn else ()),
        ("few_shot.shots", few_shot.shots if few_shot else ()),
    ):
        for number, value in enumerate(values):
            if value < 1:
                yield Fault(f"{name}.{number}", f"{value}", "1 or more", "raise it")


@rule
def evaluation_images_are_not_learned_from(data: EvaluationDataSpec) -> Iterator[Fault]:
    if data.eval.uri.rstrip("/") == data.eval_bank.uri.rstrip("/"):
        got = f"{data.eval_bank.uri}, as data.eval"
        yield Fault("data.eval_bank", got, "other images", "name the training split")


@rule
def views_have_a_crop(statistics: StatisticsSpec | None, fine_tune: FineTuneSpec | None) -> Iterator[Fault]:
    for name, section in (("statistics", statistics), ("fine_tune", fine_tune)):
        if section is not None and not 0 < section.crop_scale[0] <= section.crop_scale[1] <= 1:
            got = f"{list(section.crop_scale)}"
            yield Fault(f"{name}.crop_scale", got, "0 < smallest <= largest <= 1", "change it")
