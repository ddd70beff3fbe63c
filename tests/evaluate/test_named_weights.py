"""A place says by itself whether it is a run, an exported network or a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from syn2co_ray.evaluate.export import write_form
from syn2co_ray.evaluate.named_weights import weights_at
from syn2co_ray.evaluate.weights import load_backbone
from syn2co_ray.spec.errors import CheckpointError, SpecError
from syn2co_ray.spec.source import ObjectStoreSpec
from syn2co_ray.spec.weights import WeightsSpec

OPTIONS = ObjectStoreSpec()
VIT = WeightsSpec(
    random_seed=3,
    backbone="vit_tiny_patch16_224",
    image_size=16,
    patch_size=8,
    backbone_options={"embed_dim": 32, "depth": 2, "num_heads": 2},
)


@pytest.mark.parametrize("place", ["timm", "."])
def test_an_exported_network_is_the_one_that_was_exported(tmp_path: Path, place: str) -> None:
    source = load_backbone(VIT, OPTIONS)
    write_form("timm", source, tmp_path / "timm")
    found = load_backbone(weights_at(str(tmp_path / place), OPTIONS), OPTIONS)
    images = torch.randn(3, 3, 16, 16)
    assert found.image_size == 16
    assert torch.equal(found.network(images), source.network(images))


def test_a_file_needs_its_backbone(tmp_path: Path) -> None:
    source = load_backbone(WeightsSpec(random_seed=3, backbone="resnet18", image_size=32), OPTIONS)
    save_file(source.network.state_dict(), tmp_path / "net.safetensors")
    uri = str(tmp_path / "net.safetensors")
    found = load_backbone(weights_at(uri, OPTIONS, backbone="resnet18", image_size=32), OPTIONS)
    assert found.digest == source.digest
    with pytest.raises(SpecError, match="--backbone: missing"):
        weights_at(uri, OPTIONS)
    with pytest.raises(SpecError, match="--step: given"):
        weights_at(uri, OPTIONS, backbone="resnet18", step=3)


def test_a_run_is_known_by_its_spec_and_says_its_backbone_itself(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text("kind: pretrain\n")
    found = weights_at(str(tmp_path), OPTIONS, step=7, encoder="target")
    assert found == WeightsSpec(run=str(tmp_path), step=7, encoder="target")
    with pytest.raises(SpecError, match="--backbone: given"):
        weights_at(str(tmp_path), OPTIONS, backbone="resnet18")


def test_what_cannot_be_followed_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="neither spec.yaml of a run nor config.json"):
        weights_at(str(tmp_path), OPTIONS)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="no config of timm's"):
        weights_at(str(tmp_path), OPTIONS)
    config = {"architecture": "resnet18", "pretrained_cfg": {"mean": [0.5, 0.5, 0.5]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"pretrained_cfg.mean \[0.5"):
        weights_at(str(tmp_path), OPTIONS)
    with pytest.raises(SpecError, match="--encoder: given"):
        weights_at(str(tmp_path), OPTIONS, encoder="target")


@pytest.mark.parametrize(
    ("config", "image_size"),
    [
        ({"pretrained_cfg": None}, None),
        ({"model_args": {"img_size": [256, 256]}}, 256),
        ({"input_size": [3, 64, 64], "mean": [0.485, 0.456, 0.406]}, 64),
    ],
)
def test_configs_of_timms_other_forms_are_followed(
    tmp_path: Path, config: dict[str, Any], image_size: int | None
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet18", **config}))
    assert weights_at(str(tmp_path), OPTIONS).image_size == image_size


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_args": {"depths": [2, 2]}}, r"backbone_options\.depths"),
        ({"model_args": {"img_size": [256, 128]}}, "image_size: Input should be a valid integer"),
        ({"mean": [0.5, 0.5, 0.5]}, r"config.json: mean \[0.5"),
        ({"std": [0.229]}, "ValueError"),
        ({"pretrained_cfg": "in1k"}, "AttributeError"),
    ],
)
def test_configs_that_cannot_be_followed_are_one_fault(
    tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet18", **config}))
    with pytest.raises(CheckpointError, match=message):
        weights_at(str(tmp_path), OPTIONS)
