"""Published figures of the papers, for runs of the same recipe on the same data.

A figure stands beside a run only where framework, backbone, epochs, the settings that its paper names and the
number of training images agree; nothing is compared that was trained on other data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

IMAGENET_1K_IMAGES = 1_281_167
"""Images of ImageNet-1k's training set: what tells it from a subset, wherever it is stored."""
IMAGE_SIZE = 224
KINDS_OF_NEGATIVES = ("interpolated", "extrapolated", "mixup", "noise", "perturbed", "adversarial")


@dataclass(frozen=True)
class Published:
    """One row of a paper, top-1 percent of ImageNet-1k's validation set.

    Attributes:
        framework, backbone, epochs: of the run it stands beside.
        linear: linear probe; a range where the paper and its code differ.
        linear_source: where that is from.
        knn: k-NN, whose k the source does not say; empty where there is none.
        knn_source: where that is from.
        settings: dotted key of the resolved spec -> value that belongs to the recipe.
    """

    framework: str
    backbone: str
    epochs: int
    linear: str
    linear_source: str
    knn: str = ""
    knn_source: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sources(self) -> list[str]:
        told = [f"linear {self.linear}: {self.linear_source}"]
        return told + ([f"k-NN {self.knn}: {self.knn_source}"] if self.knn else [])


def _counts(counts: tuple[int, ...]) -> dict[str, int]:
    kinds = zip(KINDS_OF_NEGATIVES, counts, strict=True)
    return {f"method.negatives.{kind}.count": count for kind, count in kinds}


_DEIT_S, _SWIN_T, _R50 = "deit_small_patch16_224", "swin_tiny_patch4_window7_224", "resnet50"
_MOBY = {"method.drop_path_online": 0.2}
_SYNBY = {"method.drop_path_online": 0.1, "method.negatives.hardest": 256, **_counts((128,) * 6)}
_SYNBY_CODE = {"method.compat": "synco_v2", "method.backbone_options.num_heads": 12}
_SYNCO = {"method.negatives.hardest": 1024, **_counts((256, 256, 256, 64, 64, 64))}
_CODE = "a later run of SynCo-v2's code (github.com/giakoumoglou/synco-v2)"
_MOBY_TABLE = "arXiv 2105.04553, its table of other methods"

PUBLISHED = (
    Published("moby", _DEIT_S, 300, "72.8", "arXiv 2105.04553", "64.3", _CODE, _MOBY),
    Published("moby", _SWIN_T, 300, "75.0 to 75.3", "arXiv 2509.02024, 2105.04553", "67.8", _CODE, _MOBY),
    Published("synby", _DEIT_S, 300, "73.0", "arXiv 2509.02024", "71.0", _CODE, _SYNBY),
    Published("synby", _SWIN_T, 300, "75.2", "arXiv 2509.02024", "69.3", _CODE, _SYNBY),
    Published("synby", "vit_small_patch16_224", 300, "73.1", _CODE, "71.0", _CODE, _SYNBY_CODE),
    Published("moco_v3", _DEIT_S, 300, "72.5", _MOBY_TABLE),
    Published("dino", _DEIT_S, 300, "72.5", _MOBY_TABLE, settings={"augment.local_views": 0}),
    Published("synco", _R50, 200, "67.9 to 68.1", "arXiv 2410.02401", settings=_SYNCO),
    Published("synco", _R50, 800, "70.7", "arXiv 2410.02401", settings=_SYNCO),
    Published("moco_v2", _R50, 200, "67.5", "arXiv 2003.04297"),
)


def published_for(spec: Mapping[str, Any], train_images: int | None) -> Published | None:
    """The paper's row for a run, or None.

    Args:
        spec: the run's resolved spec.
        train_images: records of all its training sources, from provenance.json.
    """
    if train_images != IMAGENET_1K_IMAGES or value_at(spec, "augment.image_size") != IMAGE_SIZE:
        return None
    sources = value_at(spec, "data.train")
    if not isinstance(sources, list) or any(value_at(source, "origin") != "real" for source in sources):
        return None
    for entry in PUBLISHED:
        wanted = {
            "method.framework": entry.framework,
            "method.backbone": entry.backbone,
            "method.compat": None,
            "train.epochs": entry.epochs,
            **entry.settings,
        }
        if all(value_at(spec, key) == value for key, value in wanted.items()):
            return entry
    return None


def value_at(spec: Any, key: str) -> Any:
    """The value at a dotted key of plain values; None where there is none."""
    for name in key.split("."):
        spec = spec.get(name) if isinstance(spec, Mapping) else None
    return spec
