"""Published figures stand beside the shipped recipes that they belong to, and beside no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from syn2co_ray.report.published import IMAGENET_1K_IMAGES, PUBLISHED, published_for
from syn2co_ray.spec.identity import resolved
from syn2co_ray.spec.load import load_job

RECIPES = Path(__file__).resolve().parents[2] / "jobs/imagenet"
MOCO_V2 = ("method.framework=moco_v2", "method.negatives=null")
CASES: list[tuple[str, tuple[str, ...], str | None]] = [
    ("moby_deit_s", (), "72.8"),
    ("moby_swin_t", (), "75.0 to 75.3"),
    ("synby_deit_s", (), "73.0"),
    ("synby_swin_t", (), "75.2"),
    ("synby_vit_s_published_code", (), "73.1"),
    ("moco_v3_deit_s", (), "72.5"),
    ("dino_deit_s", ("augment.local_views=0",), "72.5"),
    ("synco_r50_200", (), "67.9 to 68.1"),
    ("synco_r50_800", (), "70.7"),
    ("synco_r50_200", MOCO_V2, "67.5"),
    ("dino_deit_s", (), None),
    ("synby_deit_s_drop_path_00", (), None),
    ("synby_deit_s", ("method.negatives.mixup=0",), None),
    ("synby_deit_s", ("train.epochs=100",), None),
    ("synby_deit_s", ("augment.image_size=96",), None),
    ("syn2co_deit_s_in100", (), None),
    ("byol_deit_s", (), None),
    ("supervised_deit_s", (), None),
]


@pytest.mark.parametrize(("recipe", "overrides", "linear"), CASES)
def test_a_recipe_has_the_figure_of_its_paper(
    recipe: str, overrides: tuple[str, ...], linear: str | None
) -> None:
    spec = resolved(load_job(str(RECIPES / f"{recipe}.yaml"), overrides))
    published = published_for(spec, IMAGENET_1K_IMAGES)
    assert (published.linear if published else None) == linear
    assert published_for(spec, IMAGENET_1K_IMAGES - 1) is None
    assert published_for(spec, None) is None


def test_every_figure_belongs_to_a_recipe_and_names_its_source() -> None:
    told = {linear for _, _, linear in CASES if linear}
    assert {entry.linear for entry in PUBLISHED} == told
    for entry in PUBLISHED:
        assert "arXiv" in entry.linear_source or "code" in entry.linear_source
        assert bool(entry.knn) == bool(entry.knn_source)
