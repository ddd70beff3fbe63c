"""Necks give the levels of a pyramid, whatever the backbone; what does not suit it is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from syn2co_ray.evaluate.detection.necks import LEVEL_STRIDES, build_body
from syn2co_ray.methods.backbones import build_backbone
from syn2co_ray.spec.errors import SpecError

SIZE = 128
VIT: dict[str, Any] = {"embed_dim": 32, "depth": 2, "num_heads": 2}
SWIN: dict[str, Any] = {"embed_dim": 24, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)}


def backbone(name: str, options: dict[str, Any], patch: int | None = None) -> nn.Module:
    return build_backbone(name, SIZE, patch, 0.0, options)


@pytest.mark.parametrize(
    ("name", "options", "patch", "neck", "chosen"),
    [
        ("vit_tiny_patch16_224", VIT, 16, None, "simple_pyramid"),
        ("vit_tiny_patch16_224", VIT, 8, None, "simple_pyramid"),
        ("vit_tiny_patch16_224", VIT, 32, None, "simple_pyramid"),
        ("swin_tiny_patch4_window7_224", SWIN, None, None, "fpn"),
        ("swin_tiny_patch4_window7_224", SWIN, None, "simple_pyramid", "simple_pyramid"),
        ("resnet18", {}, None, None, "fpn"),
        ("resnet50", {}, None, None, "fpn"),
    ],
)
def test_pyramid_has_strides_4_to_64(name: str, options: Any, patch: Any, neck: Any, chosen: str) -> None:
    body, used = build_body(backbone(name, options, patch), neck, 32, SIZE)
    assert used == chosen
    with torch.no_grad():
        maps = body.eval()(torch.randn(2, 3, SIZE, SIZE))
    assert maps.popitem()[1].shape == (2, 32, SIZE // 64, SIZE // 64)
    assert list(maps) == ["0", "1", "2", "3"]
    for stride, level in zip(LEVEL_STRIDES, maps.values(), strict=True):
        assert level.shape == (2, 32, SIZE // stride, SIZE // stride)


@pytest.mark.parametrize(("name", "channels"), [("resnet18", 256), ("resnet50", 1024)])
def test_c4_is_the_third_stage_of_a_resnet(name: str, channels: int) -> None:
    network = backbone(name, {})
    body, _ = build_body(network, "c4", 32, SIZE)
    images = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        found = body.eval()(images)["0"]
        stem = network.maxpool(network.act1(network.bn1(network.conv1(images))))
        expected = network.layer3(network.layer2(network.layer1(stem)))
    assert torch.equal(found, expected)
    assert body.out_channels == found.shape[1] == channels


def test_simple_pyramid_looks_at_the_last_block_alone() -> None:
    network = backbone("vit_tiny_patch16_224", VIT, 16)
    body, _ = build_body(network, None, 32, SIZE)
    images = torch.randn(1, 3, SIZE, SIZE)
    with torch.no_grad():
        last = network.eval().forward_intermediates(images, indices=1, norm=False, intermediates_only=True)[0]
        assert torch.equal(body.eval()(images)["2"], body.neck.levels[2](last))


@pytest.mark.parametrize(
    ("name", "options", "patch", "neck", "words"),
    [
        ("vit_tiny_patch16_224", VIT, 16, "fpn", "fpn on maps of strides"),
        ("vit_tiny_patch16_224", VIT, 64, None, "simple_pyramid on maps of stride 64"),
        ("swin_tiny_patch4_window7_224", SWIN, None, "c4", "c4 on SwinTransformer"),
    ],
)
def test_a_neck_that_does_not_suit_is_refused(
    name: str, options: Any, patch: Any, neck: Any, words: str
) -> None:
    with pytest.raises(SpecError, match=words):
        build_body(backbone(name, options, patch), neck, 32, SIZE)
