"""Weights of a run, of published layouts, and random ones: the right tensors, or an error that says which."""

from __future__ import annotations

import argparse
import io
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from syn2co_ray.evaluate.layouts import encoder_tensors
from syn2co_ray.evaluate.weights import load_backbone
from syn2co_ray.methods import build_method
from syn2co_ray.spec.errors import CheckpointError
from syn2co_ray.spec.source import ObjectStoreSpec
from syn2co_ray.spec.weights import WeightsSpec
from syn2co_ray.storage import delete, open_store, publish_bytes

from ..train.local_run import local_loop, prepared

OPTIONS = ObjectStoreSpec()
VIT = {"backbone": "vit_tiny_patch16_224", "image_size": 16, "patch_size": 8}
VIT_OPTIONS: dict[str, Any] = {"embed_dim": 32, "depth": 2, "num_heads": 2}


def vit(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return timm.create_model(
        "vit_tiny_patch16_224", num_classes=0, img_size=16, patch_size=8, **VIT_OPTIONS
    ).eval()


def images(size: int) -> torch.Tensor:
    return torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(5))


def saved(folder: Path, content: Any, name: str = "weights.pth") -> str:
    torch.save(content, folder / name)
    return str(folder / name)


def of_vit(file: str, **more: Any) -> WeightsSpec:
    return WeightsSpec.model_validate({**VIT, "backbone_options": VIT_OPTIONS, "file": file, **more})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    loop = local_loop(
        prepared(tmp_path_factory.mktemp("run"), "train.epochs=2", "train.checkpoint.every_epochs=1")
    )
    loop.run_to_end()
    return loop


@pytest.mark.parametrize("encoder", ["online", "target"])
def test_a_run_gives_its_newest_encoder_and_what_it_was(trained: Any, encoder: str) -> None:
    loaded = load_backbone(WeightsSpec(run=trained.run.store.uri, encoder=encoder), OPTIONS)
    method = trained.trainer.method
    network = method.encoder if encoder == "online" else method.target_encoder
    with torch.no_grad():
        assert torch.equal(loaded.network(images(16)), network.eval()(images(16)))
    assert (loaded.step, loaded.image_size, loaded.job.name) == (10, 16, "tiny")
    assert loaded.notes == (f"layout: a checkpoint of this package, {encoder} encoder",)


def test_the_digest_names_the_network_not_the_file(trained: Any, tmp_path: Path) -> None:
    run = trained.run.store.uri
    online, target = (load_backbone(WeightsSpec(run=run, encoder=e), OPTIONS) for e in ("online", "target"))
    earlier = load_backbone(WeightsSpec(run=run, step=5), OPTIONS)
    assert len({online.digest, target.digest, earlier.digest}) == 3
    save_file(dict(online.network.state_dict()), tmp_path / "w.safetensors")
    again = load_backbone(of_vit(str(tmp_path / "w.safetensors")), OPTIONS)
    assert again.digest == online.digest


def test_a_step_that_is_not_there_and_a_damaged_newest_one(trained: Any, tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match="no whole checkpoint of step 7; allowed: one of the steps 5, 10"
    ):
        load_backbone(WeightsSpec(run=trained.run.store.uri, step=7), OPTIONS)
    copy = tmp_path / "copy"
    shutil.copytree(trained.run.store.path, copy)
    newest = copy / "checkpoints/step-000000010/method.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    loaded = load_backbone(WeightsSpec(run=str(copy)), OPTIONS)
    assert loaded.step == 5
    assert "do not match its checksum" in loaded.notes[0]
    delete(open_store(str(copy), OPTIONS), "checkpoints/step-000000005/MANIFEST.json")
    with pytest.raises(CheckpointError, match="no whole checkpoint .*do not match"):
        load_backbone(WeightsSpec(run=str(copy)), OPTIONS)


def test_random_weights_are_those_a_run_of_the_seed_begins_with(trained: Any) -> None:
    spec = {**VIT, "backbone_options": VIT_OPTIONS, "random_seed": 3}
    loaded = load_backbone(WeightsSpec.model_validate(spec), OPTIONS)
    method = build_method(trained.job.method, 16, 3)
    own = loaded.network.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in method.encoder.state_dict().items())
    other = load_backbone(WeightsSpec.model_validate({**spec, "random_seed": 4}), OPTIONS)
    assert other.digest != loaded.digest


def test_torchvisions_resnet_is_timms(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = torchvision.models.resnet18().train()
    network(images(64))  # running statistics of its own
    file = saved(tmp_path, network.state_dict())
    loaded = load_backbone(WeightsSpec(file=file, backbone="resnet18", image_size=64), OPTIONS)
    network.fc = torch.nn.Identity()
    with torch.no_grad():
        assert torch.equal(loaded.network(images(64)), network.eval()(images(64)))


def prefixed(prefix: str, network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in network.state_dict().items()}


def published(layout: str) -> tuple[Any, bool]:
    """A file as that project writes it, of online vit(1) and target vit(2); whether it has the target."""
    online, target = vit(1), vit(2)
    head = {"weight": torch.zeros(2, 2)}
    if layout == "moco":
        state = prefixed("module.encoder_q.", online) | prefixed("module.encoder_k.", target)
        state |= {"module.encoder_q.head.0.weight": head["weight"], "module.queue": torch.zeros(8, 4)}
        return {"epoch": 200, "arch": "vit", "state_dict": state, "optimizer": {"state": {}}}, True
    if layout == "moco_v3":
        state = prefixed("module.base_encoder.", online) | prefixed("module.momentum_encoder.", target)
        return {"state_dict": state | {"module.predictor.0.weight": head["weight"]}, "epoch": 3}, True
    if layout == "dino":
        student = prefixed("module.backbone.", online) | {"module.head.mlp.0.weight": head["weight"]}
        teacher = prefixed("backbone.", target) | {"head.mlp.0.weight": head["weight"]}
        return {"student": student, "teacher": teacher, "args": argparse.Namespace(arch="vit")}, True
    if layout == "moby":
        state = prefixed("encoder.", online) | prefixed("encoder_k.", target)
        return {
            "model": state | {"projector.linear1.weight": head["weight"], "queue1": torch.zeros(4, 8)}
        }, True
    if layout == "ddp_below_model":
        return {"model": prefixed("module.", online) | {"module.head.weight": head["weight"]}}, False
    assert layout == "backbone"
    return prefixed("backbone.", online) | {"projector.0.weight": head["weight"]}, False


@pytest.mark.parametrize("layout", ["moco", "moco_v3", "dino", "moby", "ddp_below_model", "backbone"])
def test_published_layouts_give_the_encoder_asked_for(layout: str, tmp_path: Path) -> None:
    content, has_target = published(layout)
    file = saved(tmp_path, content)
    for encoder, seed in (("online", 1), ("target", 2)):
        if encoder == "target" and not has_target:
            with pytest.raises(CheckpointError, match="one encoder .* asks for its moving average"):
                load_backbone(of_vit(file, encoder="target"), OPTIONS)
            continue
        loaded = load_backbone(of_vit(file, encoder=encoder), OPTIONS)
        with torch.no_grad():
            assert torch.equal(loaded.network(images(16)), vit(seed)(images(16)))


def test_missing_unexpected_and_misshapen_tensors_are_one_error_with_what_to_do(tmp_path: Path) -> None:
    state = dict(vit(1).state_dict())
    del state["norm.weight"], state["blocks.1.attn.qkv.bias"]
    state |= {"gate.scale": torch.zeros(1), "norm.bias": torch.zeros(7)}
    file = saved(tmp_path, state)
    with pytest.raises(CheckpointError) as caught:
        load_backbone(of_vit(file), OPTIONS)
    told = str(caught.value)
    assert "2 missing: blocks.1.attn.qkv.bias, norm.weight" in told
    assert "1 unexpected: gate.scale" in told
    assert "1 of another shape: norm.bias (7,) for (32,)" in told
    assert "weights.allow_missing: ['blocks.*', ...]" in told
    assert "weights.allow_unexpected: ['gate.*']" in told
    state["norm.bias"] = torch.zeros(32)
    spec = of_vit(saved(tmp_path, state), allow_missing=["blocks.*", "norm.*"], allow_unexpected=["gate.*"])
    loaded = load_backbone(spec, OPTIONS)
    assert loaded.notes[-2:] == (
        "left out: gate.scale",
        "not in the file, random: blocks.1.attn.qkv.bias, norm.weight",
    )


def test_positions_of_another_grid_are_converted_by_timm_and_said_so(tmp_path: Path) -> None:
    file = saved(tmp_path, vit(1).state_dict())
    loaded = load_backbone(of_vit(file, image_size=32), OPTIONS)
    assert any(note.startswith("converted by timm") and "pos_embed" in note for note in loaded.notes)


def test_a_file_of_another_network_and_files_that_are_none(tmp_path: Path) -> None:
    other = saved(tmp_path, {"state_dict": torchvision.models.resnet18().state_dict()})
    with pytest.raises(CheckpointError, match="none of the backbone's names such as cls_token; it holds"):
        load_backbone(of_vit(other), OPTIONS)

    torch.save({"trainer": OPTIONS}, buffer := io.BytesIO())
    broken = {
        "pickled.pth": buffer.getvalue(),
        "cut.pth": Path(other).read_bytes()[:5000],
        "empty.pth": b"",
        "cut.safetensors": b"\x10",
    }
    for name, data in broken.items():
        publish_bytes(open_store(str(tmp_path), OPTIONS), name, data)
        with pytest.raises(CheckpointError, match=name):
            load_backbone(of_vit(str(tmp_path / name)), OPTIONS)


@pytest.mark.parametrize(
    ("published", "backbone"),
    [
        ("vit_b_16", "vit_base_patch16_224"),
        ("swin_t", "swin_tiny_patch4_window7_224"),
        ("convnext_tiny", "convnext_tiny"),
    ],
)
def test_torchvisions_other_networks_are_one_clear_error(published: str, backbone: str) -> None:
    with torch.device("meta"):
        content = torchvision.models.get_model(published).state_dict()
        network = timm.create_model(backbone, num_classes=0)
    spec = WeightsSpec(file="net.pth", backbone=backbone)
    with pytest.raises(CheckpointError, match=r"net.pth: .*torchvision's own names .* not converted"):
        encoder_tensors({"state_dict": content}, network, spec, "net.pth")
    with pytest.raises(CheckpointError, match="take a file of timm's for this backbone"):
        encoder_tensors(content, network, spec, "net.pth")
