"""Detectors: losses and objects of every neck, rates by layer, every tensor once in a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from syn2co_ray.evaluate.detection.network import build_detector, parameter_groups
from syn2co_ray.methods.backbones import build_backbone
from syn2co_ray.methods.draws import seeded_initialisation

from .drawn import small_detection, tiny_vit, write_coco


def spec_of(tmp_path: Path, **changes: Any) -> Any:
    images = write_coco(tmp_path, "all", range(1))
    return small_detection(images, images, **changes)


@pytest.mark.parametrize(
    ("neck", "resnet"),
    [
        ("simple_pyramid", None),
        ("fpn", "resnet18"),
        ("c4", "resnet18"),
        # The bottlenecks that MoCo's detectors are measured with.
        ("fpn", "resnet50"),
        ("c4", "resnet50"),
    ],
)
def test_losses_in_training_and_objects_with_masks_after_it(
    tmp_path: Path, neck: str, resnet: str | None
) -> None:
    size = 64 if resnet else 96
    spec = spec_of(
        tmp_path, neck=neck, masks=True, image_size=size, regions_per_image=8, proposals_per_image=8
    )
    network = build_backbone(resnet, size) if resnet else tiny_vit()
    detector = build_detector(network, 2, spec, 0)
    images = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    masks = torch.zeros(1, size, size, dtype=torch.uint8)
    masks[0, 10:40, 10:40] = 1
    thing = {"boxes": torch.tensor([[10.0, 10, 40, 40]]), "labels": torch.tensor([2]), "masks": masks}
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "masks": masks[:0]}
    losses = detector.train()(images, [thing, nothing], [0, 1])
    assert set(losses) == {
        *("loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg")
    }
    total = torch.stack(list(losses.values())).sum()
    assert torch.isfinite(total)
    total.backward()
    used = {n for n, p in detector.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert any(name.startswith("body.network.") for name in used)
    assert any("mask_predictor" in name for name in used)
    # Scores of a random network are all alike: let every region through.
    detector.heads.score_thresh, detector.heads.detections_per_img = 0.0, 5
    with torch.no_grad():
        found = detector.eval()(images)
    assert len(found) == 2
    assert found[0]["masks"].shape[0] == len(found[0]["boxes"]) > 0
    assert found[0]["boxes"].min() >= 0
    assert found[0]["boxes"].max() <= size
    assert set(found[0]["labels"].tolist()) <= {1, 2}
    # safetensors refuses one tensor under two names.
    assert save({name: tensor.contiguous() for name, tensor in detector.state_dict().items()})


def test_bf16_in_the_body_leaves_heads_and_anchors_in_float32(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    detector = build_detector(tiny_vit(), 2, spec, 0).train()
    images = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    thing = {"boxes": torch.tensor([[10.0, 10, 40, 40]]), "labels": torch.tensor([2])}
    exact = detector(images, [thing, thing], [0, 1])
    detector.body_dtype = torch.bfloat16
    rounded = detector(images, [thing, thing], [0, 1])
    assert {loss.dtype for loss in rounded.values()} == {torch.float32}
    assert any(not torch.equal(rounded[name], exact[name]) for name in exact)
    for name in ("loss_objectness", "loss_classifier"):
        assert rounded[name].item() == pytest.approx(exact[name].item(), rel=0.05)


def test_heads_come_from_the_seed_and_the_backbone_stays_as_it_is(tmp_path: Path) -> None:
    spec, network = spec_of(tmp_path), tiny_vit()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with seeded_initialisation(1, "other"):
        other = build_backbone(
            "vit_tiny_patch16_224", 96, 16, 0.0, {"embed_dim": 32, "depth": 2, "num_heads": 2}
        )
    one, two, three = (
        build_detector(backbone, 2, spec, seed).state_dict()
        for backbone, seed in ((network, 0), (other, 0), (network, 1))
    )
    heads = [name for name in one if not name.startswith("body.network.") and one[name].std() > 0]
    assert len(heads) > 10
    assert all(torch.equal(one[name], two[name]) for name in heads)
    assert not any(torch.equal(one[name], three[name]) for name in heads if name.endswith("weight"))
    assert not torch.equal(one["body.network.pos_embed"], two["body.network.pos_embed"])
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_every_parameter_learns_once_and_lower_layers_slower(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, layer_decay=0.5, weight_decay=0.1)
    detector = build_detector(tiny_vit(), 2, spec, 0)
    groups = parameter_groups(detector, spec)
    grouped = [parameter for group in groups for parameter in group["params"]]
    assert len(grouped) == len(set(grouped)) == len(list(detector.parameters()))
    rate = {parameter: group["lr_scale"] for group in groups for parameter in group["params"]}
    decay = {parameter: group["weight_decay"] for group in groups for parameter in group["params"]}
    network = detector.body.network
    scales = [
        rate[parameter]
        for parameter in (
            network.patch_embed.proj.weight,
            network.blocks[0].mlp.fc1.weight,
            network.blocks[1].mlp.fc1.weight,
            network.norm.weight,
            detector.heads.box_predictor.cls_score.weight,
        )
    ]
    assert scales == [0.25, 0.5, 1.0, 1.0, 1.0]
    assert decay[detector.heads.box_predictor.cls_score.weight] == 0.1
    assert decay[detector.heads.box_predictor.cls_score.bias] == 0.0
    assert decay[network.pos_embed] == 0.0
