"""Backbones from timm, made fit for training on any number of ranks.

Any timm image model with a pooled feature serves: DeiT and ViT, Swin, ResNet, ConvNeXt, ... It is built
without weights and without classifier, its drop path draws by row of the global batch, and its batch norms
(if any) take global statistics. The result is timm's own module with timm's state-dict keys.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NoReturn, cast

import timm
import torch
from torch import nn

from syn2co_ray.spec.backbone_names import nearest_backbones
from syn2co_ray.spec.errors import Fault, SpecError

from .batch_norm import replace_batch_norm
from .drop_path import RowDropPath, replace_drop_path

Option = int | float | bool | str

_KEY_OF_ARGUMENT = {
    "img_size": "augment.image_size",
    "patch_size": "method.patch_size",
    "drop_path_rate": "method.drop_path_online",
}
_FIXED_ARGUMENTS = {
    "cache_dir",
    "checkpoint_path",
    "features_only",
    "in_chans",
    "num_classes",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
}


def build_backbone(
    name: str,
    image_size: int,
    patch_size: int | None = None,
    drop_path: float = 0.0,
    options: Mapping[str, Option] | None = None,
) -> nn.Module:
    """A timm model (n, 3, image_size, image_size) -> (n, num_features), randomly initialised.

    Args:
        name: timm's name; a pretrained tag after a dot is accepted and has no effect.
        image_size: height and width in pixels; tells ViT and Swin their grid.
        patch_size: overrides the patch of the name (small images).
        drop_path: stochastic depth rate of the last block, in [0, 1).
        options: further keyword arguments of the timm model.

    Returns:
        The model; `num_features` is the width of what it returns.

    Raises:
        SpecError: unknown name, option the model does not take, image size it cannot take, or a part
            that would draw from the global random generator (dropout).
    """
    backbone = timm_backbone(name, image_size, patch_size, drop_path, options)
    replace_drop_path(backbone)
    replace_batch_norm(backbone, "method.backbone")
    _check_no_dropout(backbone)
    # timm's own num_features is the width before the head's last layer, which some families keep.
    vars(backbone)["num_features"] = _measured_features(backbone, name, image_size)
    return backbone


def timm_backbone(
    name: str,
    image_size: int,
    patch_size: int | None = None,
    drop_path: float = 0.0,
    options: Mapping[str, Option] | None = None,
) -> nn.Module:
    """The same as timm makes it, with layers of its own only: for use outside of training.

    Its `sized` says whether timm built it for images of this size; others take any.

    Raises:
        SpecError: unknown name, option the model does not take, image size it cannot take.
    """
    if not timm.is_model(name):
        _refuse(
            "method.backbone", f"unknown timm model {name!r}", f"{', '.join(nearest_backbones(name))}, ..."
        )
    _check_options(options or {})
    backbone = _create(name, image_size, patch_size, drop_path, dict(options or {}))
    _check_patch(backbone, image_size)
    return backbone


def num_features(backbone: nn.Module) -> int:
    """Width of the features of a module made by `build_backbone`."""
    return cast(int, backbone.num_features)


def _refuse(where: str, got: str, allowed: str = "", next_step: str = "") -> NoReturn:
    raise SpecError([Fault(where, got, allowed, next_step)])


def _check_options(options: Mapping[str, Option]) -> None:
    for argument in options:
        if key := _KEY_OF_ARGUMENT.get(argument):
            _refuse(f"method.backbone_options.{argument}", "not an option", next_step=f"set {key}")
        if argument in _FIXED_ARGUMENTS:
            _refuse(f"method.backbone_options.{argument}", "not an option: pre-training fixes it")


def _create(
    name: str, image_size: int, patch_size: int | None, drop_path: float, options: dict[str, Option]
) -> nn.Module:
    # A drop path of 0 is passed too: some families (Swin) have another default.
    arguments: dict[str, Any] = {**options, "img_size": image_size, "drop_path_rate": drop_path}
    if patch_size is not None:
        arguments["patch_size"] = patch_size
    dispensable = {"img_size"} if drop_path else {"img_size", "drop_path_rate"}
    while True:
        try:
            network = timm.create_model(name, pretrained=False, num_classes=0, **arguments)
            vars(network)["sized"] = "img_size" in arguments
            return network
        except TypeError as error:
            argument = _refused_argument(error)
            if argument not in arguments:
                raise
            # Convolutional networks take images of any size and have no such argument.
            if argument in dispensable:
                del arguments[argument]
                continue
            where = _KEY_OF_ARGUMENT.get(argument, f"method.backbone_options.{argument}")
            _refuse(
                where, f"{name} takes no {argument}", next_step=f"leave {where} out or change the backbone"
            )
        except (AssertionError, RuntimeError, ValueError) as error:
            _refuse("method.backbone", f"{name} cannot be built with {arguments}: {error}")


def _refused_argument(error: TypeError) -> str:
    match = re.search(r"unexpected keyword argument(?:\(s\): \[| )'(\w+)'", str(error))
    return match.group(1) if match else ""


def _check_patch(backbone: nn.Module, image_size: int) -> None:
    """A grid of whole patches, for the models that cut the image into patches."""
    patch = getattr(getattr(backbone, "patch_embed", None), "patch_size", None)
    if patch is None:
        return
    side = max(patch) if isinstance(patch, tuple) else int(patch)
    if image_size % side:
        below, above = image_size // side * side, (image_size // side + 1) * side
        sizes = f"{below} or {above}" if below else str(above)
        _refuse(
            "augment.image_size",
            f"{image_size} is not a multiple of the backbone's patch of {side} pixels",
            f"{sizes}, or any multiple of {side}",
            "change augment.image_size or method.patch_size",
        )


def _check_no_dropout(backbone: nn.Module) -> None:
    """Dropout draws from the global generator, so its masks would depend on the number of ranks."""
    for path, module in backbone.named_modules():
        if isinstance(module, RowDropPath):
            continue
        is_dropout = "Drop" in type(module).__name__
        # `drop_rate` belongs to whole networks that call the function instead of a module.
        keys = ("p", "prob", "drop_prob", "drop_rate") if is_dropout else ("drop_rate",)
        rate = max(getattr(module, key, None) or 0.0 for key in keys)
        if rate:
            _refuse(
                "method.backbone_options",
                f"the backbone has dropout of {rate} at {path or 'its head'} ({type(module).__name__})",
                "drop path is the only random layer that trains alike on any number of workers",
                "set that rate to 0 in method.backbone_options",
            )


@torch.no_grad()
def _measured_features(backbone: nn.Module, name: str, image_size: int) -> int:
    """Width of the output, found by passing one black image; this also proves that the size fits."""
    was_training = backbone.training
    backbone.eval()
    try:
        features = backbone(torch.zeros(1, 3, image_size, image_size))
    except (AssertionError, RuntimeError, ValueError) as error:
        _refuse("augment.image_size", f"{name} cannot take images of {image_size} pixels: {error}")
    finally:
        backbone.train(was_training)
    if features.ndim != 2:
        _refuse(
            "method.backbone", f"{name} returns shape {tuple(features.shape)}", "models with a pooled feature"
        )
    return int(features.shape[1])
