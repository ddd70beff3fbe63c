"""Published recipes, and what a job may change in them."""

from __future__ import annotations

import dataclasses

import pytest

from syn2co_ray.augment.recipes import RECIPES, resolve_recipe
from syn2co_ray.spec.augment import AugmentSpec


def test_resolve_byol_gives_the_published_asymmetric_views() -> None:
    first, second = resolve_recipe(AugmentSpec(recipe="byol", image_size=224))
    for view in (first, second):
        assert view.crop_scale == (0.08, 1.0)
        assert view.crop_ratio == (3 / 4, 4 / 3)
        assert (view.flip_probability, view.jitter_probability, view.grey_probability) == (0.5, 0.8, 0.2)
        assert (view.brightness, view.contrast, view.saturation, view.hue) == (0.4, 0.4, 0.2, 0.1)
        assert (view.blur_sigma, view.solarise_threshold) == ((0.1, 2.0), 128)
    assert (first.blur_probability, first.solarise_probability) == (1.0, 0.0)
    assert (second.blur_probability, second.solarise_probability) == (0.1, 0.2)


def test_resolve_moco_v2_gives_the_published_symmetric_views() -> None:
    first, second = resolve_recipe(AugmentSpec(recipe="moco_v2", image_size=224))
    assert first == second
    assert first.crop_scale == (0.2, 1.0)
    assert (first.brightness, first.contrast, first.saturation, first.hue) == (0.4, 0.4, 0.4, 0.1)
    assert (first.blur_probability, first.solarise_probability) == (0.5, 0.0)


def test_resolve_takes_every_field_the_job_gives_and_no_other() -> None:
    spec = AugmentSpec(
        image_size=32,
        crop_scale=(0.5, 0.9),
        flip_probability=0.0,
        jitter_probability=0.1,
        grey_probability=0.3,
        blur_probability=(0.0, 0.7),
        solarise_probability=(0.6, 0.0),
    )
    given = {"crop_scale", "flip_probability", "jitter_probability", "grey_probability"}
    per_view = {"blur_probability", "solarise_probability"}
    for view, (recipe, published) in enumerate(zip(resolve_recipe(spec), RECIPES["byol"], strict=True)):
        for field in dataclasses.fields(recipe):
            value = getattr(recipe, field.name)
            if field.name == "image_size":
                assert value == 32
            elif field.name in given:
                assert value == getattr(spec, field.name)
            elif field.name in per_view:
                assert value == getattr(spec, field.name)[view]
            else:
                assert value == getattr(published, field.name)


def test_zero_is_a_value_and_not_left_out() -> None:
    spec = AugmentSpec(image_size=32, recipe="moco_v2", grey_probability=0.0, blur_probability=(0.0, 0.0))
    assert [view.grey_probability for view in resolve_recipe(spec)] == [0.0, 0.0]
    assert [view.blur_probability for view in resolve_recipe(spec)] == [0.0, 0.0]


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_every_recipe_is_offered_by_the_spec(recipe: str) -> None:
    spec = AugmentSpec.model_validate({"recipe": recipe, "image_size": 224})
    published = [dataclasses.replace(view, image_size=224) for view in RECIPES[recipe]]
    assert list(resolve_recipe(spec))[: len(published)] == published


def test_resolve_dino_gives_two_views_as_byols_and_eight_small_local_ones() -> None:
    first, second, *local = resolve_recipe(AugmentSpec(recipe="dino", image_size=224))
    assert (first.crop_scale, first.blur_probability, first.solarise_probability) == ((0.4, 1.0), 1.0, 0.0)
    assert (second.blur_probability, second.solarise_probability) == (0.1, 0.2)
    assert len(local) == 8
    assert {(view.crop_scale, view.image_size, view.blur_probability) for view in local} == {
        ((0.05, 0.4), 96, 0.5)
    }


def test_resolve_supervised_crops_and_flips_only() -> None:
    (view,) = resolve_recipe(AugmentSpec(recipe="supervised", image_size=224))
    assert (view.crop_scale, view.flip_probability) == ((0.08, 1.0), 0.5)
    others = (
        view.jitter_probability,
        view.grey_probability,
        view.blur_probability,
        view.solarise_probability,
    )
    assert others == (0, 0, 0, 0)
