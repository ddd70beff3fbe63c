from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from syn2co_ray.methods import StepContext, build_method
from syn2co_ray.methods.supervised import Supervised
from syn2co_ray.spec.errors import Syn2coError
from syn2co_ray.spec.method import SupervisedSpec

MakeStep = Callable[..., StepContext]
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def make(**changes: Any) -> Supervised:
    fields: dict[str, Any] = {
        "framework": "supervised",
        "backbone": "vit_tiny_patch16_224",
        "patch_size": 8,
        "backbone_options": {"embed_dim": 32, "depth": 2, "num_heads": 2},
        "drop_path_online": 0.0,
        "classes": 3,
    }
    method = build_method(SupervisedSpec.model_validate(fields | changes), 32, 0)
    assert isinstance(method, Supervised)
    return method


@pytest.mark.parametrize("number_of_views", [1, 2])
def test_loss_is_smoothed_cross_entropy_mean_over_views(
    number_of_views: int, views: list[Tensor], step_at: MakeStep
) -> None:
    method, views = make(label_smoothing=0.2), views[:number_of_views]
    output = method(views, step_at(), LABELS)
    expected = []
    for view in views:
        log_p = F.log_softmax(method.classifier(method.encoder(view)), 1)
        target = 0.8 * F.one_hot(LABELS, 3) + 0.2 / 3
        expected.append(-(target * log_p).sum(1).mean())
    torch.testing.assert_close(output.loss, torch.stack(expected).mean())
    assert len(output.parts) == number_of_views
    output.loss.backward()
    assert all(parameter.grad is not None for parameter in method.parameters())


def test_it_learns_its_batch(views: list[Tensor], step_at: MakeStep) -> None:
    method = make(label_smoothing=0.0)
    optimizer = torch.optim.Adam(method.parameters(), lr=3e-3)
    for number in range(40):
        optimizer.zero_grad()
        output = method(views[:1], step_at(number), LABELS)
        output.loss.backward()
        optimizer.step()
        method.commit(step_at(number))
    assert output.stats["train/accuracy"].item() == 1.0


def test_without_labels_it_refuses(views: list[Tensor], step_at: MakeStep) -> None:
    with pytest.raises(Syn2coError, match="supervised without labels"):
        make()(views, step_at())


def test_classes_by_name_are_as_many(views: list[Tensor], step_at: MakeStep) -> None:
    assert make(classes=["cat", "dog"]).classifier.out_features == 2
