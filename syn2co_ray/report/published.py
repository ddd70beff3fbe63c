"""Published figures of the papers, for runs of the same recipe on the same data.

A figure stands beside one of ours only where framework, backbone, epochs, the settings that its paper names
and the number of training images agree, and ours was measured by the same protocol on as many images: nothing
is compared that was trained or measured on other data. MoBY's images/s are left out: they are of one device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .protocols import KNN, LINEAR, fine_tuned

IMAGENET_1K_IMAGES = 1_281_167
"""Images of ImageNet-1k's training set: what tells it from a subset, wherever it is stored."""
IMAGE_SIZE = 224
KINDS_OF_NEGATIVES = ("interpolated", "extrapolated", "mixup", "noise", "perturbed", "adversarial")


@dataclass(frozen=True)
class Sets:
    """Images that a figure is of, told by their numbers.

    Attributes:
        name: for people.
        learned_from: images that a probe or a detector learns from; any of these numbers.
        measured_on: images that are classified or searched.
    """

    name: str
    learned_from: tuple[int, ...]
    measured_on: int


IMAGENET_1K = Sets("ImageNet-1k", (IMAGENET_1K_IMAGES,), 50_000)
VOC07 = Sets("VOC 2007 test, from trainval 2007 + 2012", (16_551,), 4_952)
COCO = Sets("COCO val2017, from train2017", (118_287, 117_266), 5_000)
"""Also without the images that nothing is annotated in."""


@dataclass(frozen=True)
class Published:
    """One figure of a paper, in percent.

    Attributes:
        framework, backbone: of the run it stands beside.
        epochs: of that run; all of these where the source does not say.
        protocol: as `protocols.family` names it.
        figure: a range where the paper and its code differ.
        source: where that is from, and what else is to know of it.
        settings: dotted key of the training's resolved spec -> value that belongs to the recipe.
        sets: images it is of.
        evaluation: dotted key of the evaluation's resolved spec -> value that belongs to the protocol.
    """

    framework: str
    backbone: str
    epochs: tuple[int, ...]
    protocol: str
    figure: str
    source: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    sets: Sets = IMAGENET_1K
    evaluation: Mapping[str, Any] = field(default_factory=dict)

    def is_measured_as(self, images: Sequence[int | None], spec: Mapping[str, Any]) -> bool:
        """Whether a figure of ours is of the same images and by the same settings.

        Args:
            images: numbers of what was learned from, and, last, of what was measured on; None where a
                training has not recorded it, which is believed.
            spec: the resolved spec of the job that measured.
        """
        if any(value_at(spec, key) != value for key, value in self.evaluation.items()):
            return False
        counts = [count for count in images if count is not None]
        if len(counts) < len(images) or len(counts) < 2:
            return self.sets is IMAGENET_1K
        return sum(counts[:-1]) in self.sets.learned_from and counts[-1] == self.sets.measured_on


def _counts(counts: tuple[int, ...]) -> dict[str, int]:
    kinds = zip(KINDS_OF_NEGATIVES, counts, strict=True)
    return {f"method.negatives.{kind}.count": count for kind, count in kinds}


_DEIT_S, _VIT_S = "deit_small_patch16_224", "vit_small_patch16_224"
_SWIN_T, _R50 = "swin_tiny_patch4_window7_224", "resnet50"
_MOBY = {"method.drop_path_online": 0.2}
_SYNBY = {"method.drop_path_online": 0.1, "method.negatives.hardest": 256, **_counts((128,) * 6)}
_V2 = {"method.compat": "synco_v2"}
_VIT_S_CODE = {**_V2, "method.backbone_options.num_heads": 12}
_SYNCO = {"method.negatives.hardest": 1024, **_counts((256, 256, 256, 64, 64, 64))}
_CODE = "a later run of SynCo-v2's code (github.com/giakoumoglou/synco-v2)"
_KNN_CODE = f"{_CODE}, which does not say its k"
_MOBY_PAPER, _SYNCO_PAPER, _SYNBY_PAPER = "arXiv 2105.04553", "arXiv 2410.02401", "arXiv 2509.02024"
_MOBY_TABLE = f"{_MOBY_PAPER}, its table of other methods"
_OWN_CLASSIFIER = "its own classifier, with RandAugment, mixup, CutMix and erasing, which are not here"
_VOC = f"{_SYNCO_PAPER}, VOC 2007 by Faster R-CNN C4; 200 epochs as its code's table says"
_COCO = f"{_SYNCO_PAPER}, COCO 2017 by Mask R-CNN C4; of how many epochs is not said"
_C4 = {"detection.neck": "c4"}
_C4_BOXES, _C4_MASKS = {**_C4, "detection.masks": False}, {**_C4, "detection.masks": True}

PUBLISHED = (
    Published("supervised", _DEIT_S, (300,), LINEAR, "79.8", f"arXiv 2012.12877, {_OWN_CLASSIFIER}"),
    Published("supervised", _SWIN_T, (300,), LINEAR, "81.3", f"arXiv 2103.14030, {_OWN_CLASSIFIER}"),
    Published("moby", _DEIT_S, (300,), LINEAR, "72.8", _MOBY_PAPER, _MOBY),
    Published("moby", _DEIT_S, (300,), KNN, "64.3", _KNN_CODE, _MOBY),
    Published("moby", _SWIN_T, (300,), LINEAR, "75.0 to 75.3", f"{_SYNBY_PAPER}, 2105.04553", _MOBY),
    Published("moby", _SWIN_T, (300,), KNN, "67.8", _KNN_CODE, _MOBY),
    Published("synby", _DEIT_S, (300,), LINEAR, "73.0", _SYNBY_PAPER, _SYNBY),
    Published("synby", _DEIT_S, (300,), KNN, "71.0", _KNN_CODE, _SYNBY),
    Published("synby", _SWIN_T, (300,), LINEAR, "75.2", _SYNBY_PAPER, _SYNBY),
    Published("synby", _SWIN_T, (300,), KNN, "69.3", _KNN_CODE, _SYNBY),
    Published("synby", _VIT_S, (300,), LINEAR, "73.1", _CODE, _VIT_S_CODE),
    Published("synby", _VIT_S, (300,), KNN, "71.0", _KNN_CODE, _VIT_S_CODE),
    Published("synby", _SWIN_T, (300,), LINEAR, "75.4", _CODE, _V2),
    Published("synby", _SWIN_T, (300,), KNN, "69.3", _KNN_CODE, _V2),
    Published("moco_v3", _DEIT_S, (300,), LINEAR, "72.5", _MOBY_TABLE),
    Published("dino", _DEIT_S, (300,), LINEAR, "72.5", _MOBY_TABLE, {"augment.local_views": 0}),
    Published("synco", _R50, (200,), LINEAR, "67.9 to 68.1", _SYNCO_PAPER, _SYNCO),
    Published("synco", _R50, (800,), LINEAR, "70.7", _SYNCO_PAPER, _SYNCO),
    Published("synco", _R50, (800,), fine_tuned(0.01), "50.8", _SYNCO_PAPER, _SYNCO),
    Published("synco", _R50, (800,), fine_tuned(0.1), "66.6", _SYNCO_PAPER, _SYNCO),
    Published("synco", _R50, (200,), "box AP50", "82.5", _VOC, _SYNCO, VOC07, _C4_BOXES),
    Published("synco", _R50, (200,), "box AP", "57.2", _VOC, _SYNCO, VOC07, _C4_BOXES),
    Published("synco", _R50, (200, 800), "box AP", "40.9", _COCO, _SYNCO, COCO, _C4_MASKS),
    Published("synco", _R50, (200, 800), "mask AP", "35.5", _COCO, _SYNCO, COCO, _C4_MASKS),
    Published("moco_v2", _R50, (200,), LINEAR, "67.5", "arXiv 2003.04297"),
)


def published_for(spec: Mapping[str, Any], train_images: int | None) -> tuple[Published, ...]:
    """The papers' figures of a training's recipe, by whatever protocol.

    Args:
        spec: the training's resolved spec.
        train_images: records of all its training sources, from provenance.json.
    """
    if train_images != IMAGENET_1K_IMAGES or value_at(spec, "augment.image_size") != IMAGE_SIZE:
        return ()
    sources = value_at(spec, "data.train")
    if not isinstance(sources, list) or any(value_at(source, "origin") != "real" for source in sources):
        return ()
    return tuple(entry for entry in PUBLISHED if _is_recipe(entry, spec))


def _is_recipe(entry: Published, spec: Mapping[str, Any]) -> bool:
    wanted = {
        "method.framework": entry.framework,
        "method.backbone": entry.backbone,
        "method.compat": None,
        **entry.settings,
    }
    epochs = value_at(spec, "train.epochs")
    return epochs in entry.epochs and all(value_at(spec, key) == value for key, value in wanted.items())


def value_at(spec: Any, key: str) -> Any:
    """The value at a dotted key of plain values; None where there is none."""
    for name in key.split("."):
        spec = spec.get(name) if isinstance(spec, Mapping) else None
    return spec
