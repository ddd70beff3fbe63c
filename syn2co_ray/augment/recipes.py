"""The published view recipes, as numbers.

    byol      BYOL, arXiv 2006.07733, appendix B, as used by MoBY (2105.04553) and SynBY
              (2509.02024) with a crop scale of 0.08 to 1: asymmetric, view 1 is always blurred, view 2
              is sometimes solarised.
    moco_v2   MoCo v2, arXiv 2003.04297, as used by SynCo (2410.02401): both views alike.
    dino      DINO, arXiv 2104.14294, section 3 and the defaults of its code: two views as byol's of larger
              crops, then 8 local views of 96 pixels (where the two have 224) of smaller crops.
    supervised  one view, cropped and flipped (He et al., arXiv 1512.03385, with a crop scale of 0.08 to 1).
    plain       one view: the largest centred square, flipped or not; for what learns to make images.

Evaluation has no random recipe; see `eval_view`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..spec.augment import DINO_LOCAL_IMAGE_SIZE, DINO_LOCAL_VIEWS, AugmentSpec


@dataclass(frozen=True, kw_only=True)
class ViewRecipe:
    """How one view is drawn. Its operations run in the order of these fields."""

    image_size: int = 0
    """Height and width of the view in pixels; the job's when 0."""
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

_DINO = replace(_BYOL, crop_scale=(0.4, 1.0))
_DINO_LOCAL = replace(_DINO, crop_scale=(0.05, 0.4), blur_probability=0.5)
_SUPERVISED = ViewRecipe(
    crop_scale=(0.08, 1.0), jitter_probability=0.0, grey_probability=0.0, blur_probability=0.0
)
_PLAIN = replace(_SUPERVISED, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0))

RECIPES: dict[str, tuple[ViewRecipe, ...]] = {
    "byol": (_BYOL, replace(_BYOL, blur_probability=0.1, solarise_probability=0.2)),
    "moco_v2": (_MOCO_V2, _MOCO_V2),
    "dino": (_DINO, replace(_DINO, blur_probability=0.1, solarise_probability=0.2)),
    "supervised": (_SUPERVISED,),
    "plain": (_PLAIN,),
}
"""Recipe name -> recipes of the views of the job's image size."""


def resolve_recipe(spec: AugmentSpec) -> tuple[ViewRecipe, ...]:
    """Recipes of all views, local ones last: the published values, except where the job says otherwise."""
    shared = {
        name: getattr(spec, name)
        for name in ("flip_probability", "jitter_probability", "grey_probability")
        if getattr(spec, name) is not None
    }
    views = []
    for view, recipe in enumerate(RECIPES[spec.recipe]):
        own = {
            name: getattr(spec, name)[view]
            for name in ("blur_probability", "solarise_probability")
            if getattr(spec, name) is not None
        }
        scale = spec.crop_scale or recipe.crop_scale
        views.append(replace(recipe, **shared, **own, image_size=spec.image_size, crop_scale=scale))
    if spec.recipe == "dino":
        size = spec.local_image_size or DINO_LOCAL_IMAGE_SIZE
        scale = spec.local_crop_scale or _DINO_LOCAL.crop_scale
        local = replace(_DINO_LOCAL, **shared, image_size=size, crop_scale=scale)
        views += [local] * (DINO_LOCAL_VIEWS if spec.local_views is None else spec.local_views)
    return tuple(views)


def view_bytes_per_image(spec: AugmentSpec) -> int:
    """Bytes of all views of one record."""
    return sum(3 * recipe.image_size**2 for recipe in resolve_recipe(spec))
