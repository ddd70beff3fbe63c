"""The published view recipes, as numbers.

    byol      BYOL, arXiv 2006.07733, appendix B, as used by MoBY (2105.04553) and SynBY
              (2509.02024) with a crop scale of 0.08 to 1: asymmetric, view 1 is always blurred, view 2
              is sometimes solarised.
    moco_v2   MoCo v2, arXiv 2003.04297, as used by SynCo (2410.02401): both views alike.

Evaluation has no random recipe; see `eval_view`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..spec.augment import AugmentSpec


@dataclass(frozen=True, kw_only=True)
class ViewRecipe:
    """How one view is drawn. Its operations run in the order of these fields."""

    crop_scale: tuple[float, float]
    """Smallest and largest area of the crop, as parts of the image."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Smallest and largest width / height of the crop."""
    flip_probability: float = 0.5
    """Chance of a horizontal flip."""
    jitter_probability: float = 0.8
    """Chance of the colour jitter: the next four, in random order."""
    brightness: float = 0.4
    """Brightness factor is U(1 - x, 1 + x)."""
    contrast: float = 0.4
    """Contrast factor is U(1 - x, 1 + x)."""
    saturation: float = 0.4
    """Saturation factor is U(1 - x, 1 + x)."""
    hue: float = 0.1
    """Hue shift is U(-x, x) turns of the colour circle."""
    grey_probability: float = 0.2
    """Chance that colour is dropped."""
    blur_probability: float
    """Chance of a Gaussian blur."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Range of the blur's standard deviation in pixels of the view."""
    solarise_probability: float = 0.0
    """Chance that pixels from `solarise_threshold` up are inverted."""
    solarise_threshold: int = 128
    """Smallest pixel value (0..255) that is inverted."""


_BYOL = ViewRecipe(crop_scale=(0.08, 1.0), saturation=0.2, blur_probability=1.0)
_MOCO_V2 = ViewRecipe(crop_scale=(0.2, 1.0), blur_probability=0.5)

RECIPES: dict[str, tuple[ViewRecipe, ViewRecipe]] = {
    "byol": (_BYOL, replace(_BYOL, blur_probability=0.1, solarise_probability=0.2)),
    "moco_v2": (_MOCO_V2, _MOCO_V2),
}
"""Recipe name -> recipes of view 1 and view 2."""


def resolve_recipe(spec: AugmentSpec) -> tuple[ViewRecipe, ViewRecipe]:
    """Recipes of view 1 and view 2: the published values, except where the job says otherwise."""
    shared = {
        name: getattr(spec, name)
        for name in ("crop_scale", "flip_probability", "jitter_probability", "grey_probability")
        if getattr(spec, name) is not None
    }
    views = []
    for view, recipe in enumerate(RECIPES[spec.recipe]):
        own = {
            name: getattr(spec, name)[view]
            for name in ("blur_probability", "solarise_probability")
            if getattr(spec, name) is not None
        }
        views.append(replace(recipe, **shared, **own))
    return views[0], views[1]
