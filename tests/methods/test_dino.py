from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from syn2co_ray.methods import StepContext, build_method
from syn2co_ray.methods.dino import DINO, teacher_temperature
from syn2co_ray.spec.method import DinoSpec

MakeStep = Callable[..., StepContext]


def make(**changes: Any) -> DINO:
    fields: dict[str, Any] = {
        "framework": "dino",
        "backbone": "vit_tiny_patch16_224",
        "patch_size": 8,
        "backbone_options": {"embed_dim": 32, "depth": 2, "num_heads": 2, "dynamic_img_size": True},
        "drop_path_online": 0.0,
        "hidden_features": 24,
        "bottleneck_features": 12,
        "prototypes": 30,
    }
    method = build_method(DinoSpec.model_validate(fields | changes), 32, 0)
    assert isinstance(method, DINO)
    return method


@pytest.fixture
def multi_crop(views: list[Tensor]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(8)
    return [*views, *(torch.randn(6, 3, 16, 16, generator=generator) for _ in range(2))]


def logits(method: DINO, view: Tensor) -> Tensor:
    """Published head, with torch's own weight norm of fixed length."""
    head = method.projector
    weight = head.prototypes.weight
    return F.normalize(head.mlp(method.encoder(view)), dim=1) @ (weight / weight.norm(dim=1, keepdim=True)).T


def test_loss_written_out(multi_crop: list[Tensor], step_at: MakeStep) -> None:
    """At the first step the teacher equals the student; a centre that is not zero counts."""
    method = make(teacher_temperature_start=0.05, teacher_temperature_warmup_epochs=3)
    method.centre.copy_(torch.linspace(-0.2, 0.2, 30))
    output = method(multi_crop, step_at())
    with torch.no_grad():
        students = [logits(method, view) for view in multi_crop]
        targets = [F.softmax((students[g] - method.centre) / 0.05, 1) for g in (0, 1)]
        terms = [
            -(targets[g] * F.log_softmax(students[v] / 0.1, 1)).sum(1).mean()
            for g in (0, 1)
            for v in range(4)
            if v != g
        ]
    torch.testing.assert_close(output.loss.detach(), torch.stack(terms).mean())
    assert set(output.parts) == {"view_1", "view_2", "view_3", "view_4"}
    entropy = torch.stack([-(target * target.log()).sum(1).mean() for target in targets]).mean()
    torch.testing.assert_close(output.stats["teacher/entropy"], entropy)


def test_logits_of_the_prototypes_are_float32_under_autocast() -> None:
    head = make().projector
    features = torch.randn(5, 32, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16):
        assigned = head(features, head.directions())
    torch.testing.assert_close(assigned.logits, assigned.bottleneck @ head.directions().T)
    assert assigned.logits.dtype == torch.float32


def test_centre_follows_the_teacher_after_a_good_step_only(
    multi_crop: list[Tensor], step_at: MakeStep
) -> None:
    method = make(centre_momentum=0.8)
    method(multi_crop, step_at())
    assert torch.equal(method.centre, torch.zeros(30))
    with torch.no_grad():
        mean = torch.cat([logits(method, view) for view in multi_crop[:2]]).mean(0)
    method.commit(step_at())
    torch.testing.assert_close(method.centre, 0.2 * mean)
    with pytest.raises(RuntimeError, match="without its forward pass"):
        method.commit(step_at())


def test_last_layer_rests_in_the_first_epochs(multi_crop: list[Tensor], step_at: MakeStep) -> None:
    method = make(last_layer_frozen_epochs=2)
    head = method.projector
    for epoch, rests in ((0, True), (1, True), (2, False)):
        method.zero_grad()
        method(multi_crop, step_at(epoch=epoch)).loss.backward()
        method.before_update(step_at(epoch=epoch))
        assert (head.prototypes.weight.grad is None) == rests
        assert head.mlp[0].weight.grad is not None


def test_temperature_of_the_teacher_rises_linearly() -> None:
    spec = make(
        teacher_temperature_start=0.04, teacher_temperature=0.07, teacher_temperature_warmup_epochs=4
    ).spec
    expected = [0.04, 0.05, 0.06, 0.07, 0.07]
    assert [teacher_temperature(spec, epoch) for epoch in range(5)] == pytest.approx(expected)
    assert teacher_temperature(make().spec, 0) == 0.04


def test_entropy_shows_both_collapses(multi_crop: list[Tensor], step_at: MakeStep) -> None:
    method = make()
    method.centre[7] = -100.0
    assert method(multi_crop, step_at()).stats["teacher/entropy"] < 1e-6
    even = make(teacher_temperature=1e6, teacher_temperature_start=1e6)
    assert even(multi_crop, step_at()).stats["teacher/entropy"].item() == pytest.approx(
        math.log(30), rel=1e-4
    )


def test_a_resnet_takes_views_of_several_sizes(multi_crop: list[Tensor], step_at: MakeStep) -> None:
    method = make(backbone="test_resnet", patch_size=None, backbone_options={})
    output = method(multi_crop, step_at())
    output.loss.backward()
    assert torch.isfinite(output.loss)
