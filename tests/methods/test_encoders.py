from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from syn2co_ray.methods.encoders import build_encoder
from syn2co_ray.spec.errors import SpecError
from syn2co_ray.spec.method import BackboneSpec

VIT: dict[str, Any] = {
    "backbone": "vit_tiny_patch16_224",
    "patch_size": 8,
    "backbone_options": {"embed_dim": 16, "depth": 1, "num_heads": 2},
}


def test_small_image_stem_keeps_the_resolution_of_small_images() -> None:
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    sizes = {}
    for small in (False, True):
        encoder = build_encoder(BackboneSpec(backbone="resnet18", small_image_stem=small), 32, 0.0)
        encoder.layer1.register_forward_hook(lambda _, x, y, small=small: sizes.update({small: y.shape[-1]}))
        assert encoder(images).shape == (2, 512)
    assert sizes == {False: 8, True: 32}


def test_fixed_positions_are_sines_and_cosines_of_row_and_column_without_gradient() -> None:
    encoder = build_encoder(BackboneSpec(**VIT, positions="sincos"), 32, 0.0)
    positions = encoder.pos_embed
    assert positions.shape == (1, 17, 16)
    assert not positions.requires_grad
    assert torch.equal(positions[0, 0], torch.zeros(16))
    found = positions[0, 1:].reshape(4, 4, 16)
    waves = [10_000 ** (-band / 4) for band in range(4)]
    for row, column in ((0, 0), (1, 3), (3, 2)):
        expected = sorted(
            function(place * wave)
            for place in (row, column)
            for function in (math.sin, math.cos)
            for wave in waves
        )
        assert sorted(found[row, column].tolist()) == pytest.approx(expected, abs=1e-6)
    # Rows and columns have features of their own.
    assert ((found[1, 0] - found[0, 0]).abs() > 1e-9).sum() == 8
    assert (found[1, 0] != found[0, 1]).any()
    assert build_encoder(BackboneSpec(**VIT), 32, 0.0).pos_embed.requires_grad


@pytest.mark.parametrize(
    ("fields", "where", "got"),
    [
        ({**VIT, "small_image_stem": True}, "method.small_image_stem", "has no ResNet stem"),
        (
            {"backbone": "resnet18", "positions": "sincos"},
            "method.positions",
            "no learned table of positions",
        ),
    ],
)
def test_changes_without_a_place_are_refused(fields: dict[str, Any], where: str, got: str) -> None:
    with pytest.raises(SpecError, match=got) as caught:
        build_encoder(BackboneSpec(**fields), 32, 0.0)
    assert caught.value.fault.where == where
