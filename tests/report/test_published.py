"""Published figures stand beside the shipped recipes that they belong to, and beside no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from syn2co_ray.report.published import IMAGENET_1K, IMAGENET_1K_IMAGES, PUBLISHED, VOC07, published_for
from syn2co_ray.spec.identity import resolved
from syn2co_ray.spec.load import load_job

RECIPES = Path(__file__).resolve().parents[2] / "jobs/imagenet"
MOCO_V2 = ("method.framework=moco_v2", "method.negatives=null")
SWIN_T = (
    "method.backbone=swin_tiny_patch4_window7_224",
    "method.backbone_options={}",
    "method.positions=learned",
)
COCO = {"COCO box AP": "40.9", "COCO mask AP": "35.5"}
DETECTION_200 = {"VOC box AP50": "82.5", "VOC box AP": "57.2", **COCO}
CASES: list[tuple[str, tuple[str, ...], dict[str, str]]] = [
    ("moby_deit_s", (), {"linear": "72.8", "k-NN": "64.3"}),
    ("moby_swin_t", (), {"linear": "75.0 to 75.3", "k-NN": "67.8"}),
    ("synby_deit_s", (), {"linear": "73.0", "k-NN": "71.0"}),
    ("synby_swin_t", (), {"linear": "75.2", "k-NN": "69.3"}),
    ("synby_vit_s_published_code", (), {"linear": "73.1", "k-NN": "71.0"}),
    ("synby_vit_s_published_code", SWIN_T, {"linear": "75.4", "k-NN": "69.3"}),
    ("moco_v3_deit_s", (), {"linear": "72.5"}),
    ("dino_deit_s", ("augment.local_views=0",), {"linear": "72.5"}),
    ("synco_r50_200", (), {"linear": "67.9 to 68.1", **DETECTION_200}),
    ("synco_r50_800", (), {"linear": "70.7", "fine-tuned, 1 %": "50.8", "fine-tuned, 10 %": "66.6", **COCO}),
    ("synco_r50_200", MOCO_V2, {"linear": "67.5"}),
    ("supervised_deit_s", (), {"linear": "79.8"}),
    ("supervised_deit_s", SWIN_T[:1], {"linear": "81.3"}),
    ("dino_deit_s", (), {}),
    ("synby_deit_s_drop_path_00", (), {}),
    ("synby_deit_s", ("method.negatives.mixup=0",), {}),
    ("synby_deit_s", ("train.epochs=100",), {}),
    ("synby_deit_s", ("augment.image_size=96",), {}),
    ("synco_r50_200", ("train.epochs=400", "method.negatives.active_epochs=[10, 399]"), {}),
    ("syn2co_deit_s_in100", (), {}),
    ("byol_deit_s", (), {}),
]


def figures_for(spec: dict[str, Any], images: int | None) -> dict[str, str]:
    """Protocol -> figure; VOC's and COCO's box AP, which have one column, by the name of the set."""
    return {
        entry.protocol
        if entry.sets is IMAGENET_1K
        else f"{entry.sets.name.split()[0]} {entry.protocol}": entry.figure
        for entry in published_for(spec, images)
    }


@pytest.mark.parametrize(("recipe", "overrides", "figures"), CASES)
def test_a_recipe_has_the_figures_of_its_paper(
    recipe: str, overrides: tuple[str, ...], figures: dict[str, str]
) -> None:
    spec = resolved(load_job(str(RECIPES / f"{recipe}.yaml"), overrides))
    assert figures_for(spec, IMAGENET_1K_IMAGES) == figures
    assert published_for(spec, IMAGENET_1K_IMAGES - 1) == ()
    assert published_for(spec, None) == ()


def test_every_figure_belongs_to_a_recipe_and_names_its_source() -> None:
    told = {figure for _, _, figures in CASES for figure in figures.values()}
    assert {entry.figure for entry in PUBLISHED} == told
    assert all("arXiv" in entry.source or "code" in entry.source for entry in PUBLISHED)


@pytest.mark.parametrize(
    ("images", "is_measured"),
    [
        ((IMAGENET_1K_IMAGES, 50_000), True),
        ((IMAGENET_1K_IMAGES - 1, 1, 50_000), True),
        ((None, 50_000), True),
        ((), True),
        ((IMAGENET_1K_IMAGES, 10_000), False),
        ((12_811, 50_000), False),
    ],
)
def test_a_figure_is_compared_on_the_same_images_alone(
    images: tuple[int | None, ...], is_measured: bool
) -> None:
    assert PUBLISHED[0].is_measured_as(images, {}) == is_measured


def test_detectors_of_unknown_images_are_not_compared() -> None:
    voc = next(entry for entry in PUBLISHED if entry.sets is VOC07)
    job = {"detection": {"neck": "c4", "masks": False}}
    assert voc.is_measured_as((16_551, 4_952), job)
    assert not voc.is_measured_as((None, 4_952), job)
    assert not voc.is_measured_as((16_551, 4_952), {"detection": {"neck": "fpn", "masks": False}})
