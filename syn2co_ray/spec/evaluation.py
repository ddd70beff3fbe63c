"""A job that measures a backbone on labelled images: `kind: evaluate`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .base import EXECUTION_ONLY, PoolOrCount, Section
from .data import PrepareStep
from .detection import DetectionSpec
from .evaluate import LinearSpec
from .source import ObjectStoreSpec, SourceSpec
from .training_probes import FineTuneSpec, LinearAugmentedSpec
from .video import VideoSegmentationSpec
from .weights import WeightsSpec

Corruption = Literal[
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "gaussian_blur",
    "brightness",
    "contrast",
    "saturate",
    "pixelate",
    "jpeg_compression",
]
CORRUPTIONS: tuple[Corruption, ...] = Corruption.__args__  # type: ignore[attr-defined]


class EvaluationDataSpec(Section):
    """What is measured on, and what may be learned from."""

    eval: SourceSpec
    """Labelled images that are classified and searched for."""
    eval_bank: SourceSpec
    """Labelled images that k-NN, the linear probes and fine-tuning learn from."""
    trained_on: list[SourceSpec] = Field(default=[])
    """Sources the weights were trained on, labels or not: evaluation images that are in there too, byte for
    byte, are counted. Those of a run's own job are known, and need naming above 100,000 images only."""
    prepare: list[PrepareStep] = Field(default=[], json_schema_extra=EXECUTION_ONLY)
    """Data sets to write before; a step whose output is whole is skipped."""
    image_pixels_max: int = Field(default=100_000_000, ge=1)
    """Images whose header claims more pixels are refused before decoding."""
    quarantine_share_max: float = Field(default=0.01, ge=0, le=1, json_schema_extra=EXECUTION_ONLY)
    """Largest part of the images of a source that may be unreadable."""


class NeighboursSpec(Section):
    """Weighted k-nearest neighbours (DINO protocol, arXiv 2104.14294)."""

    neighbours: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(strict=False, min_length=1)] = (
        10,
        20,
        100,
        200,
    )
    """Values of k."""
    temperature: float = Field(default=0.07, gt=0)
    """A neighbour votes with weight exp(similarity / temperature)."""


class FewShotSpec(Section):
    """Many small problems: the nearest class mean of a few images a class (arXiv 1703.05175)."""

    ways: int = Field(default=5, ge=2)
    """Classes of an episode."""
    shots: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(strict=False, min_length=1)] = (1, 5)
    """Images of each class that are learned from."""
    queries: int = Field(default=15, ge=1)
    """Further images of each class that are classified."""
    episodes: int = Field(default=600, ge=2)
    """Problems drawn, all from `data.eval`."""


class LabelSharesSpec(Section):
    """Semi-supervised: the linear probe from a part of the labels, the same share of every class.

    It takes as many steps as from all labels, or 1,000 if that is less, where `linear.epochs` makes fewer.
    """

    shares: Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], Field(strict=False, min_length=1)] = (
        0.01,
        0.1,
    )
    """Parts of `data.eval_bank`; at least one image of every class is kept."""


class RobustnessSpec(Section):
    """Accuracy on corrupted evaluation images (ImageNet-C, arXiv 1903.12261), learned from clean ones."""

    corruptions: Annotated[tuple[Corruption, ...], Field(strict=False, min_length=1)] = CORRUPTIONS
    """Which ones; see `augment/corruptions.py` for their formulas."""
    severities: Annotated[
        tuple[Annotated[int, Field(ge=1, le=5)], ...], Field(strict=False, min_length=1)
    ] = (1, 2, 3, 4, 5)
    """How strong, 1 to 5."""


class LandmarksSpec(Section):
    """Retrieval by the protocol of ROxford5k and RParis6k: easy, medium, hard (arXiv 1803.11285)."""

    images: SourceSpec
    """Database and query images; labels are not needed."""
    ground_truth: str = Field(min_length=1)
    """URI of a JSON file with the published dictionary: imlist, qimlist, gnd (bbx, easy, hard, junk). The
    published pickle is not read: a pickle can run any code. `jobs/evaluate/deit_s_landmarks.yaml` says how
    to write it as JSON where you trust it."""


class StatisticsSpec(Section):
    """What the features look like without labels: RankMe, LiDAR, alignment, uniformity."""

    images: int = Field(default=1000, ge=2)
    """Evaluation images that are looked at, at most."""
    views: int = Field(default=10, ge=2)
    """Random views of each image, for LiDAR and alignment."""
    crop_scale: Annotated[tuple[float, float], Field(strict=False)] = (0.08, 1.0)
    """Smallest and largest area of a view's crop; the other operations are MoCo v2's."""
    flip_probability: float = Field(default=0.5, ge=0, le=1)
    """Chance of a horizontal flip."""


class EvaluateJobSpec(Section):
    """A backbone and what it is worth, in a folder of its own; features are kept there and found again."""

    kind: Literal["evaluate"]
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    """Lower-case name; the folder is this name and a short hash of the spec."""
    seed: int = Field(default=0, ge=0)
    """Decides held-out rows, episodes, shares of labels, noise and views."""
    storage: str = Field(min_length=1, json_schema_extra=EXECUTION_ONLY)
    """Where the folder goes: a local path or an object store."""
    weights: WeightsSpec
    data: EvaluationDataSpec | None = None
    """Labelled images; needed by everything but `detection`, which has sets of its own."""
    knn: NeighboursSpec | None = NeighboursSpec()
    linear: LinearSpec | None = LinearSpec()
    linear_augmented: LinearAugmentedSpec | None = None
    few_shot: FewShotSpec | None = None
    label_shares: LabelSharesSpec | None = None
    fine_tune: FineTuneSpec | None = None
    retrieval: bool | None = None
    """Mean average precision of each evaluation image among the others, same label = relevant."""
    landmarks: LandmarksSpec | None = None
    robustness: RobustnessSpec | None = None
    statistics: StatisticsSpec | None = None
    video_segmentation: VideoSegmentationSpec | None = None
    detection: DetectionSpec | None = None
    baselines: bool = True
    """Measure the same backbone at random and raw pixels as well (the random one also where it learns
    on, raw pixels where features are compared)."""
    images_per_batch: int = Field(default=256, ge=1, json_schema_extra=EXECUTION_ONLY)
    """Images per forward pass."""
    actors: PoolOrCount | None = Field(default=None, json_schema_extra=EXECUTION_ONLY)
    """Processes of a Ray cluster that make the features; the process of the command when left out."""
    object_store: ObjectStoreSpec = Field(default=ObjectStoreSpec(), json_schema_extra=EXECUTION_ONLY)

    @property
    def labelled(self) -> EvaluationDataSpec:
        """`data`, for what cannot do without it; `rules.evaluation` has seen to it."""
        assert self.data is not None
        return self.data
