"""What a framework, its backbone and its views ask of one another."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..augment import DINO_LOCAL_IMAGE_SIZE, AugmentSpec
from ..backbone_names import is_known_backbone, nearest_backbones
from ..base import Section
from ..errors import Fault
from ..method import BackboneSpec, MethodSpec, MobySpec, MocoSpec, SupervisedSpec
from ..train import TrainSpec
from .registry import rule

WITHOUT_NEGATIVES = {"synby": "moby", "synco": "moco_v2"}
"""Framework with synthesized negatives -> the same without them."""


@rule
def negatives_fit_the_framework(method: MethodSpec) -> Iterator[Fault]:
    if not isinstance(method, MobySpec | MocoSpec):
        return
    negatives = method.negatives
    plain = WITHOUT_NEGATIVES.get(method.framework)
    if plain is None and negatives is not None:
        synthesizing = next(name for name, base in WITHOUT_NEGATIVES.items() if base == method.framework)
        yield Fault(
            "method.negatives",
            f"given with framework {method.framework}",
            f"only with {synthesizing}",
            f"use framework: {synthesizing}",
        )
    if plain is not None and (negatives is None or not negatives.kinds()):
        yield Fault(
            "method.negatives",
            f"{method.framework} without a synthesized negative",
            "at least one kind with a count above 0",
            f"add for example `interpolated: 128`, or use framework: {plain}",
        )
    if negatives is None:
        return
    if negatives.hardest > method.queue_size_features:
        yield Fault(
            "method.negatives.hardest",
            f"{negatives.hardest} of a queue of {method.queue_size_features}",
            "at most method.queue_size_features",
            "lower hardest or lengthen the queue",
        )
    for name, kind in negatives.kinds().items():
        if kind.count > negatives.hardest:
            yield Fault(
                f"method.negatives.{name}",
                f"{kind.count} negatives of a pool of {negatives.hardest}",
                "at most method.negatives.hardest",
                "lower the count or raise hardest",
            )


@rule
def backbone_is_known(method: MethodSpec) -> Iterator[Fault]:
    if isinstance(method, BackboneSpec) and not is_known_backbone(method.backbone):
        allowed = ", ".join(nearest_backbones(method.backbone))
        yield Fault("method.backbone", f"unknown timm model {method.backbone!r}", f"{allowed}, ...")


@rule
def negatives_are_active_in_the_run(method: MethodSpec, train: TrainSpec) -> Iterator[Fault]:
    if not isinstance(method, MobySpec | MocoSpec) or method.negatives is None:
        return
    if method.negatives.active_epochs is None:
        return
    first, last = method.negatives.active_epochs
    if not 0 <= first <= last or first >= train.epochs:
        yield Fault(
            "method.negatives.active_epochs",
            f"[{first}, {last}] with {train.epochs} epochs",
            "0 <= first <= last, first < train.epochs",
            "epochs are counted from 0 and both ends are included",
        )


@rule
def crop_scales_are_ranges(augment: AugmentSpec) -> Iterator[Fault]:
    for name in ("crop_scale", "local_crop_scale"):
        scale = getattr(augment, name)
        if scale is not None and not 0 < scale[0] <= scale[1] <= 1:
            yield Fault(f"augment.{name}", f"{list(scale)}", "0 < smallest <= largest <= 1", "swap them")


@rule
def local_views_belong_to_dino(augment: AugmentSpec) -> Iterator[Fault]:
    for name in ("local_views", "local_image_size", "local_crop_scale"):
        if augment.recipe != "dino" and getattr(augment, name) is not None:
            got = f"given with recipe {augment.recipe}"
            yield Fault(f"augment.{name}", got, "only with recipe dino", "leave it out")


VIEW_RECIPES = {
    "dino": ("dino", "byol", "moco_v2"),
    "supervised": ("supervised", "byol", "moco_v2"),
    "ddpm": ("plain",),
    "lora": ("plain",),
}
"""Framework -> recipes it can take; all others take those of two views."""


@rule
def recipe_makes_the_frameworks_views(augment: AugmentSpec, method: MethodSpec) -> Iterator[Fault]:
    allowed = VIEW_RECIPES.get(method.framework, ("byol", "moco_v2"))
    if augment.recipe not in allowed:
        got = f"{augment.recipe} with framework {method.framework}"
        yield Fault("augment.recipe", got, ", ".join(allowed), f"use {allowed[0]}")


@rule
def supervised_has_classes(method: MethodSpec) -> Iterator[Fault]:
    if isinstance(method, SupervisedSpec) and method.number_of_classes < 2:
        got = f"{method.number_of_classes} classes"
        yield Fault("method.classes", got, "at least 2", "give their number, or their labels in order")


@rule
def local_views_fit_the_backbone(augment: AugmentSpec, method: MethodSpec) -> Iterator[Fault]:
    if not isinstance(method, BackboneSpec) or augment.recipe != "dino" or augment.local_views == 0:
        return
    size = augment.local_image_size or DINO_LOCAL_IMAGE_SIZE
    yield from _size_faults("augment.local_image_size", size, method)
    takes_any_size = method.backbone_options.get("dynamic_img_size")
    if _patch_size(method) and size != augment.image_size and not takes_any_size:
        yield Fault(
            "method.backbone_options.dynamic_img_size",
            f"missing, and local views have {size} pixels where others have {augment.image_size}",
            "true, for ViTs of timm",
            "add backbone_options: {dynamic_img_size: true}",
        )


@rule
def image_fits_patches(augment: AugmentSpec, method: MethodSpec) -> Iterator[Fault]:
    yield from _size_faults("augment.image_size", augment.image_size, method)


def _patch_size(method: Section) -> int | None:
    if not isinstance(method, BackboneSpec):
        return None
    named = re.search(r"patch(\d+)", method.backbone)
    return method.patch_size or (int(named.group(1)) if named else None)


def _size_faults(where: str, size: int, method: Section) -> Iterator[Fault]:
    patch = _patch_size(method)
    if patch and size % patch:
        below, above = size // patch * patch, (size // patch + 1) * patch
        yield Fault(
            where,
            f"{size} is not a multiple of the patch size {patch}",
            f"a multiple of {patch}",
            f"use {below} or {above}, or set method.patch_size"
            if below
            else f"use {above}, or set method.patch_size",
        )
