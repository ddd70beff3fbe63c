"""From a backbone's maps to those of Faster R-CNN: pyramids of strides 4 to 64, or one map of stride 16."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any, cast

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from ...spec.detection import Neck
from ...spec.errors import Fault, SpecError

LEVEL_STRIDES = (4, 8, 16, 32)
FIRST_STAGE_OF_HEAD = "layer4"
"""ResNet's last stage, which is the head of C4."""
NORM_GROUPS = 32

Maps = OrderedDict[str, Tensor]


class Body(nn.Module):
    """A backbone and its neck: normalised images (n, 3, S, S) -> maps by level, "0" the finest."""

    out_channels: int

    def __init__(
        self, network: nn.Module, layers: int | list[int], neck: nn.Module, out_channels: int
    ) -> None:
        super().__init__()
        self.network, self.neck, self.layers, self.out_channels = network, neck, layers, out_channels

    def forward(self, images: Tensor) -> Maps:
        return cast(Maps, self.neck(maps_of(self.network, images, self.layers)))


class SimplePyramid(nn.Module):
    """ViTDet's pyramid (arXiv 2203.16527, section 3): every level from the last map alone, in parallel.

    Deconvolutions and pooling take the map from the patch's stride to 4, 8, 16 and 32 pixels (its code's
    layers: normalisation and GELU between two deconvolutions, then 1 x 1 and 3 x 3 convolutions, each with
    a normalisation over channels); pooling the coarsest adds stride 64.
    """

    def __init__(self, width: int, stride: int, channels: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(_level(width, stride, level, channels) for level in LEVEL_STRIDES)
        self.coarsest = nn.MaxPool2d(1, stride=2)

    def forward(self, maps: list[Tensor]) -> Maps:
        """One map (n, width, h, w) -> five of `channels`."""
        levels = [level(maps[-1]) for level in self.levels]
        return _named([*levels, self.coarsest(levels[-1])])


class StagePyramid(nn.Module):
    """A feature pyramid network (arXiv 1612.03144) over a backbone's four stages, with group norm.

    Transformers' and ConvNeXt's stages, which end without one, get a normalisation first, as Swin has it.
    """

    def __init__(self, widths: list[int], channels: int, norm_stages: bool) -> None:
        super().__init__()
        self.norms = nn.ModuleList(LayerNorm2d(w) if norm_stages else nn.Identity() for w in widths)
        self.pyramid = FeaturePyramidNetwork(
            widths, channels, LastLevelMaxPool(), lambda width: nn.GroupNorm(NORM_GROUPS, width)
        )

    def forward(self, maps: list[Tensor]) -> Maps:
        """Maps of strides 4 to 32, finest first -> five of `channels`."""
        normed = [norm(one) for norm, one in zip(self.norms, maps, strict=True)]
        return cast(Maps, self.pyramid(_named(normed)))


class OneMap(nn.Module):
    """C4: the third stage as it is."""

    def forward(self, maps: list[Tensor]) -> Maps:
        return _named(maps[-1:])


def build_body(network: nn.Module, neck: Neck | None, channels: int, image_size: int) -> tuple[Body, Neck]:
    """A backbone made by `build_encoder` with the neck asked for, or the one that suits it.

    Returns:
        The body, which owns `network`, and the neck's name.

    Raises:
        SpecError: a neck that the backbone has no maps for.
    """
    strides, widths = _stages(network, image_size)
    staged = tuple(strides[-4:]) == LEVEL_STRIDES
    chosen: Neck = neck or ("fpn" if staged else "simple_pyramid")
    if chosen == "simple_pyramid":
        stride = strides[-1]
        if stride not in (4, 8, 16, 32):
            refuse(f"simple_pyramid on maps of stride {stride}", "patches of 4, 8, 16 or 32 pixels")
        pyramid = SimplePyramid(widths[-1], stride, channels)
        return Body(network, 1, pyramid, channels), chosen
    if not staged:
        refuse(f"{chosen} on maps of strides {sorted(set(strides))}", "a backbone with strides 4, 8, 16, 32")
    if chosen == "fpn":
        has_batch_norm = any(isinstance(module, _BatchNorm) for module in network.modules())
        return Body(network, 4, StagePyramid(widths[-4:], channels, not has_batch_norm), channels), chosen
    if not hasattr(network, FIRST_STAGE_OF_HEAD):
        refuse(f"c4 on {type(network).__name__}", "a ResNet")
    return Body(network, [len(strides) - 2], OneMap(), widths[-2]), chosen


def maps_of(network: nn.Module, images: Tensor, layers: int | list[int] | None) -> list[Tensor]:
    """Maps (n, C, h, w) of the last layers or stages, or of those with these numbers; all for None.

    Without the last norm, as ViTDet and Swin have it: necks normalise for themselves.
    """
    found: list[Tensor] = cast(Any, network).forward_intermediates(
        images, indices=layers, norm=False, stop_early=True, output_fmt="NCHW", intermediates_only=True
    )
    return found


def refuse(got: str, allowed: str) -> None:
    """Raises SpecError at `detection.neck`."""
    raise SpecError([Fault("detection.neck", got, allowed, "change detection.neck or the backbone")])


@torch.no_grad()
def _stages(network: nn.Module, image_size: int) -> tuple[list[int], list[int]]:
    """Strides in pixels and widths of all maps, found by passing one black image."""
    if not hasattr(network, "forward_intermediates"):
        got = f"{type(network).__name__}, which gives no maps"
        refuse(got, "timm models with forward_intermediates, such as ViT, Swin, ResNet")
    was_training = network.training
    maps = maps_of(network.eval(), torch.zeros(1, 3, image_size, image_size), None)
    network.train(was_training)
    return [image_size // one.shape[-1] for one in maps], [one.shape[1] for one in maps]


def _level(width: int, stride: int, wanted: int, channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    doublings = round(math.log2(stride / wanted))
    for number in range(doublings):
        if number:
            layers += [LayerNorm2d(width), nn.GELU()]
        layers.append(nn.ConvTranspose2d(width, width // 2, 2, stride=2))
        width //= 2
    layers += [nn.MaxPool2d(2) for _ in range(-doublings)]
    layers += [nn.Conv2d(width, channels, 1, bias=False), LayerNorm2d(channels)]
    layers += [nn.Conv2d(channels, channels, 3, padding=1, bias=False), LayerNorm2d(channels)]
    return nn.Sequential(*layers)


def _named(maps: list[Tensor]) -> Maps:
    return OrderedDict((str(number), one) for number, one in enumerate(maps))
