from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from syn2co_ray.methods import build_backbone, num_features
from syn2co_ray.methods.batch_norm import GlobalBatchNorm
from syn2co_ray.methods.draws import RowDraws
from syn2co_ray.methods.drop_path import RowDropPath, draw_drop_path
from syn2co_ray.spec.backbone_names import is_known_backbone, nearest_backbones
from syn2co_ray.spec.errors import SpecError

TINY = {"embed_dim": 32, "depth": 2, "num_heads": 2}

FAMILIES: list[Any] = [
    pytest.param("deit_tiny_patch16_224", 32, 8, TINY, 32, id="deit"),
    pytest.param("vit_tiny_patch16_224.augreg_in21k", 16, 4, TINY, 32, id="vit_with_tag"),
    pytest.param("swin_tiny_patch4_window7_224", 64, 2, {"embed_dim": 16}, 128, id="swin"),
    pytest.param("resnet18", 32, None, {}, 512, id="resnet"),
    pytest.param("mobilenetv3_small_050", 32, None, {}, 1024, id="wider_head"),
]


@pytest.mark.parametrize(("name", "image_size", "patch_size", "options", "width"), FAMILIES)
def test_family_gives_features_of_the_stated_width(
    name: str, image_size: int, patch_size: int | None, options: dict[str, Any], width: int
) -> None:
    backbone = build_backbone(name, image_size, patch_size, 0.1, options)
    assert backbone.training
    images = torch.randn(3, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    draw_drop_path(backbone, "test", RowDraws(0, 0, 0, 3, torch.device("cpu")))
    assert backbone(images).shape == (3, width)
    assert num_features(backbone) == width
    assert any(isinstance(module, RowDropPath) for module in backbone.modules())


def test_replaced_layers_compute_what_timm_computes() -> None:
    ours = build_backbone("efficientnet_b0", 32)
    theirs = timm.create_model("efficientnet_b0", num_classes=0)
    theirs.load_state_dict(ours.state_dict())
    norms = [module for module in ours.modules() if isinstance(module, _BatchNorm)]
    assert norms
    assert all(isinstance(norm, GlobalBatchNorm) for norm in norms)
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for training in (True, False):
        features = [model.train(training)(images) for model in (ours, theirs)]
        torch.testing.assert_close(*features, rtol=0, atol=1e-6)


def test_family_whose_size_arguments_timm_refuses_in_a_list_is_built_without_them() -> None:
    assert build_backbone("hrnet_w18_small", 32)(torch.randn(2, 3, 32, 32)).shape == (2, 2048)


def test_drop_path_of_zero_overrules_the_family_default() -> None:
    """timm's Swin has 0.1 unless told otherwise."""
    backbone = build_backbone("swin_tiny_patch4_window7_224", 32, options={"embed_dim": 16})
    assert not any(isinstance(module, RowDropPath) for module in backbone.modules())


REFUSED: list[Any] = [
    pytest.param({"name": "deit_tiny"}, "method.backbone", "deit_tiny_patch16_224", id="near_name"),
    pytest.param({"name": "resnet_18"}, "method.backbone", "resnet18", id="misspelt_name"),
    pytest.param({"name": "hf-hub:timm/resnet18"}, "method.backbone", "unknown", id="remote_name"),
    pytest.param({"image_size": 30}, "augment.image_size", "24 or 32", id="grid"),
    pytest.param({"image_size": 5}, "augment.image_size", "8, or any multiple of 8", id="too_small"),
    pytest.param({"name": "resnet18"}, "method.patch_size", "takes no patch_size", id="patch_of_resnet"),
    pytest.param(
        {"name": "vgg11", "patch_size": None, "drop_path": 0.1},
        "method.drop_path_online",
        "takes no drop_path_rate",
        id="drop_path_of_vgg",
    ),
    pytest.param({"options": {"width": 3}}, "method.backbone_options.width", "takes no width", id="option"),
    pytest.param({"options": {**TINY, "global_pool": ""}}, "method.backbone", "pooled", id="unpooled"),
    pytest.param(
        {"options": {**TINY, "proj_drop_rate": 0.1}},
        "method.backbone_options",
        "dropout of 0.1",
        id="dropout",
    ),
    pytest.param(
        {"name": "resnet18", "patch_size": None, "options": {"drop_rate": 0.2}},
        "method.backbone_options",
        "dropout of 0.2",
        id="dropout_function",
    ),
    pytest.param(
        {"options": {"pretrained": True}}, "method.backbone_options.pretrained", "not an option", id="weights"
    ),
    pytest.param(
        {"options": {"img_size": 64}}, "method.backbone_options.img_size", "augment.image_size", id="twice"
    ),
]


@pytest.mark.parametrize(("changes", "where", "says"), REFUSED)
def test_what_cannot_be_built_is_refused_by_key(changes: dict[str, Any], where: str, says: str) -> None:
    arguments: dict[str, Any] = {
        "name": "deit_tiny_patch16_224",
        "image_size": 32,
        "patch_size": 8,
        "options": TINY,
    }
    if "name" in changes:
        arguments["options"] = {}
    with pytest.raises(SpecError) as caught:
        build_backbone(**(arguments | changes))
    assert caught.value.fault.where == where
    assert says in str(caught.value)


def test_names_that_a_spec_takes_are_timms() -> None:
    known = timm.list_models()
    assert len(known) > 1000
    assert [name for name in known if not is_known_backbone(name)] == []
    assert is_known_backbone("deit_small_patch16_224.fb_in1k")
    for name in ("vit_base_patch16_224_dino", "tv_resnext50_32x4d"):  # old names
        assert timm.is_model(name)
        assert name not in known
        assert is_known_backbone(name)
    for name in ("deit_smal_patch16_224", "url", "vit", "checkpoint_filter_fn"):
        assert not timm.is_model(name)
        assert not is_known_backbone(name)
    assert set(nearest_backbones("deit_smal_patch16_224")) <= set(known)
