"""Exported forms compute what the source computes, for readers that know nothing of this package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.data import create_transform, resolve_model_data_config
from timm.models import load_checkpoint

from syn2co_ray.evaluate.export import check_forms, plain_network, verify, write_form
from syn2co_ray.evaluate.weights import LoadedBackbone, load_backbone
from syn2co_ray.methods.batch_norm import GlobalBatchNorm
from syn2co_ray.spec.errors import SpecError, Syn2coError
from syn2co_ray.spec.export import ExportFormat
from syn2co_ray.spec.source import ObjectStoreSpec
from syn2co_ray.spec.weights import WeightsSpec

VIT: dict[str, Any] = {
    "backbone": "vit_tiny_patch16_224",
    "image_size": 16,
    "patch_size": 8,
    "backbone_options": {"embed_dim": 32, "depth": 2, "num_heads": 2},
}


def loaded(**spec: Any) -> LoadedBackbone:
    return load_backbone(WeightsSpec.model_validate({"random_seed": 0, **spec}), ObjectStoreSpec())


@pytest.fixture(scope="module")
def vit() -> LoadedBackbone:
    return loaded(**VIT)


@pytest.fixture(scope="module")
def resnet() -> LoadedBackbone:
    """With running statistics that are not those of a new network."""
    found = loaded(backbone="resnet18", image_size=32)
    found.network.train()(torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2)
    found.network.eval()
    return found


@pytest.mark.parametrize(
    ("network", "form", "difference_max"),
    [
        ("vit", "timm", 0.0),
        ("vit", "torch_export", 1e-5),
        ("vit", "onnx", 1e-5),
        ("resnet", "timm", 0.0),
        ("resnet", "torchvision", 0.0),
        pytest.param("resnet", "torch_export", 1e-5, marks=pytest.mark.slow),
        pytest.param("resnet", "onnx", 1e-5, marks=pytest.mark.slow),
    ],
)
def test_a_form_gives_the_sources_features_at_any_batch_size(
    request: Any, tmp_path: Path, network: str, form: ExportFormat, difference_max: float
) -> None:
    if form == "onnx":
        pytest.importorskip("onnxruntime", reason="needs the extra `export`")
        pytest.importorskip("onnxscript", reason="needs the extra `export`")
    source = request.getfixturevalue(network)
    check_forms((form,), source)
    write_form(form, source, tmp_path / form)
    found = verify(form, source, tmp_path / form, error_max=1e-5)
    assert found.difference_max <= difference_max
    assert found.feature_max > 0.1


def test_an_export_of_other_weights_is_refused(
    vit: LoadedBackbone, resnet: LoadedBackbone, tmp_path: Path
) -> None:
    other = loaded(**VIT)
    with torch.no_grad():
        other.network.norm.bias += 1e-2  # type: ignore[union-attr, operator]
    write_form("timm", other, tmp_path / "timm")
    with pytest.raises(Syn2coError, match=r"export timm: features that differ by up to 0.01, .*error_max"):
        verify("timm", vit, tmp_path / "timm", error_max=1e-4)
    with torch.no_grad():
        other.network.norm.bias.fill_(float("nan"))  # type: ignore[union-attr, operator]
    write_form("timm", other, tmp_path / "nan")
    with pytest.raises(Syn2coError, match="differ by up to nan"):
        verify("timm", vit, tmp_path / "nan", error_max=1e-4)


def test_timms_own_ways_to_load_take_the_file_and_its_configuration(
    vit: LoadedBackbone, resnet: LoadedBackbone, tmp_path: Path
) -> None:
    write_form("timm", vit, tmp_path / "vit")
    images = torch.randn(2, 3, 16, 16)
    network = timm.create_model(f"local-dir:{tmp_path / 'vit'}", pretrained=True, num_classes=5)
    assert network(images).shape == (2, 5)  # for fine-tuning
    config = resolve_model_data_config(network)
    assert (config["input_size"], config["crop_pct"], config["crop_mode"]) == ((3, 16, 16), 1.0, "squash")
    assert list(config["mean"]) == [0.485, 0.456, 0.406]
    assert create_transform(**config) is not None

    write_form("timm", resnet, tmp_path / "resnet")
    weights = str(tmp_path / "resnet/model.safetensors")
    images = torch.randn(2, 3, 32, 32)
    by_overlay = timm.create_model(
        "resnet18", pretrained=True, num_classes=0, pretrained_cfg_overlay={"file": weights}
    ).eval()
    by_function = timm.create_model("resnet18", num_classes=0).eval()
    load_checkpoint(by_function, weights, strict=True)
    with torch.inference_mode():
        expected = resnet.network(images)
        assert torch.equal(by_overlay(images), expected)
        assert torch.equal(by_function(images), expected)
    config = json.loads((tmp_path / "resnet/config.json").read_text())
    assert config["architecture"] == "resnet18"
    assert config["num_features"] == 512
    assert config["model_args"] == {}


def test_what_is_exported_has_none_of_trainings_layers(resnet: LoadedBackbone) -> None:
    assert any(isinstance(module, GlobalBatchNorm) for module in resnet.network.modules())
    plain = plain_network(resnet)
    assert not any(isinstance(module, GlobalBatchNorm) for module in plain.modules())
    assert plain.state_dict().keys() == resnet.network.state_dict().keys()


def test_forms_that_a_backbone_has_no_name_for_are_refused_at_once(vit: LoadedBackbone) -> None:
    stem = loaded(backbone="resnet18", image_size=32, small_image_stem=True)
    with pytest.raises(SpecError) as caught:
        check_forms(("timm", "torchvision", "torch_export"), stem)
    assert [fault.where for fault in caught.value.faults] == ["formats.0", "formats.1"]
    with pytest.raises(SpecError, match="torchvision: it has no vit_tiny_patch16_224"):
        check_forms(("torchvision",), vit)
    deep = loaded(backbone="resnet18", image_size=32, backbone_options={"stem_type": "deep"})
    with pytest.raises(SpecError, match="torchvision: its resnet18 has other tensors, such as"):
        check_forms(("torchvision",), deep)


@pytest.mark.slow
def test_a_small_image_stem_goes_into_a_program(tmp_path: Path) -> None:
    stem = loaded(backbone="resnet18", image_size=32, small_image_stem=True)
    write_form("torch_export", stem, tmp_path / "program")
    assert verify("torch_export", stem, tmp_path / "program", 1e-5).error <= 1e-5


@pytest.mark.parametrize("backbone", ["pvt_v2_b0", "shvit_s1"])
def test_a_network_that_takes_no_image_size_is_read_back_without_one(tmp_path: Path, backbone: str) -> None:
    source = loaded(backbone=backbone, image_size=112)
    write_form("timm", source, tmp_path / "timm")
    assert "img_size" not in json.loads((tmp_path / "timm/config.json").read_text())["model_args"]
    assert verify("timm", source, tmp_path / "timm", error_max=1e-6).difference_max == 0.0
