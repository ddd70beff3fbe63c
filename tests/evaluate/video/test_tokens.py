"""Tokens of wide frames: which map, which grid, and that a square image gives what the backbone itself gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from syn2co_ray.evaluate.video.tokens import Tokens
from syn2co_ray.evaluate.weights import LoadedBackbone, load_backbone
from syn2co_ray.methods.normalise import normalise
from syn2co_ray.spec.errors import SpecError
from syn2co_ray.spec.source import ObjectStoreSpec
from syn2co_ray.spec.video import VideoSegmentationSpec
from syn2co_ray.spec.weights import WeightsSpec

TINY_VIT: dict[str, Any] = {
    "backbone": "vit_tiny_patch16_224",
    "image_size": 64,
    "patch_size": 8,
    "backbone_options": {"embed_dim": 32, "depth": 2, "num_heads": 2},
}
FRAME = np.random.default_rng(0).integers(0, 255, (72, 130, 3), np.uint8)


def backbone(**weights: Any) -> LoadedBackbone:
    return load_backbone(WeightsSpec.model_validate({"random_seed": 0, **weights}), ObjectStoreSpec())


def tokens(loaded: LoadedBackbone, **spec: Any) -> Tokens:
    given = VideoSegmentationSpec.model_validate({"uri": "x", "shorter_side_pixels": 64, **spec})
    return Tokens(loaded.network, loaded.image_size, given, torch.device("cpu"))


@torch.no_grad()
def test_a_vit_gives_the_normalised_patch_tokens_of_its_last_block():
    loaded = backbone(**TINY_VIT)
    square = FRAME[:64, :64]
    found = tokens(loaded)(square)
    network: Any = loaded.network
    image = torch.from_numpy(np.ascontiguousarray(square.transpose(2, 0, 1)))[None]
    expected = network.forward_features(normalise(image))[0, 1:].view(8, 8, 32)
    assert torch.allclose(found, torch.nn.functional.normalize(expected, dim=-1), atol=1e-5)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    seeing = tokens(loaded)
    wide = seeing(seeing.shown(FRAME))
    assert wide.shape == (8, 8, 32)  # 64 x 115 pixels, the longer side down to 64
    assert torch.allclose(wide.norm(dim=-1), torch.ones(8, 8), atol=1e-5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_the_frame_has_whole_tokens_and_dinos_size_for_davis():
    seeing = tokens(backbone(**TINY_VIT | {"patch_size": 16}), shorter_side_pixels=480)
    assert seeing.frame_size(480, 854) == (480, 832)
    assert seeing.frame_size(1080, 1920) == (480, 832)
    assert seeing.frame_size(854, 480) == (832, 480)
    assert tokens(backbone(**TINY_VIT), shorter_side_pixels=100).frame_size(50, 100) == (96, 192)


def test_a_resnet_gives_its_third_stage_unless_another_is_asked_for():
    loaded = backbone(backbone="resnet18", image_size=64)
    assert str(tokens(loaded)) == "map 2 from the end, 16 pixels a token, 256 features"
    assert tokens(loaded)(FRAME[:64, :128]).shape == (4, 8, 256)
    assert str(tokens(loaded, token_pixels=8)) == "map 3 from the end, 8 pixels a token, 128 features"
    small = backbone(backbone="resnet18", image_size=32, small_image_stem=True)
    assert str(tokens(small)) == "last map, 8 pixels a token, 512 features"


def test_a_swin_gives_its_third_stage_and_keeps_its_windows():
    seeing = tokens(backbone(backbone="swin_tiny_patch4_window7_224", backbone_options={"embed_dim": 24}))
    assert str(seeing) == "map 2 from the end, 16 pixels a token, 96 features"
    assert seeing(FRAME[:64, :128]).shape == (4, 8, 96)
    assert seeing._fitted is not None
    fitted: Any = seeing._fitted[1]
    assert fitted.layers[0].blocks[0].window_size == (7, 7)


@pytest.mark.parametrize(
    ("weights", "spec", "words"),
    [
        (TINY_VIT, {"token_pixels": 16}, "16 pixels a token; allowed: one of [8]"),
        ({"backbone": "resnet18", "image_size": 64}, {"token_pixels": 1}, "one of [2, 4, 8, 16, 32]"),
        ({"backbone": "mixer_s32_224"}, {}, "MlpMixer gives no map of features of a wide frame"),
    ],
)
def test_a_map_that_is_not_there_is_refused_at_once(weights, spec, words):
    with pytest.raises(SpecError) as caught:
        tokens(backbone(**weights), **spec)
    assert words in str(caught.value)
